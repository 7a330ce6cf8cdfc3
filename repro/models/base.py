"""What every denoiser of the study promises, stated once."""

from collections.abc import Iterable

import torch.nn.functional as F
from torch import Tensor, nn


class Denoiser(nn.Module):
    """A network ``net(noisy) -> clean``.

    Images are float tensors [B, C, H, W] in [0, 1], RGB or gray, of any H and W from 1 pixel up. Where a
    network works on multiples of some side it pads inside, once, and undoes it once: the result has the
    input's shape. The result is not clipped. A network that must be told the noise level says ``needs_sigma
    = True`` and takes the keyword ``sigma``: the standard deviation in units of the [0, 1] range, a number
    or a tensor [B].

    A subclass sets ``name`` (the one :func:`repro.build` knows it by) and ``Sizes`` (a frozen dataclass),
    keeps its own sizes in ``self.sizes``, and does no input or output, no download and no choice of device.
    ``Sizes.channels`` is the number of image channels, 1 or 3. A class whose authors published checkpoints
    also has ``upstream_sizes(arrays)``, the sizes that a state dict under the authors' names shows, and
    ``upstream_name(name)``, the authors' name of a parameter here (see
    :func:`repro.weights.from_upstream`); where several codes name them differently, ``upstream_naming(arrays)``
    gives the function from our names to those of the code that wrote ``arrays``; where it registers a layer
    twice, ``upstream_aliases()`` of a network gives {second name: first name}.
    """

    name: str
    Sizes: type
    needs_sigma = False
    weightless = False  # a filter: nothing to train or load, and images of 1 or 3 channels alike
    # Pixels around a tile that its result depends on by more than 1/255, a multiple of `alignment`; None where
    # every pixel depends on the whole image, so that a tile by itself gives something else.
    halo: int | None = 64
    alignment = 8  # tiles begin at multiples of it: the product of all strides divides it

    def require_image(self, noisy: Tensor) -> None:
        """Raise ValueError unless ``noisy`` is [B, C, H, W] with this network's number of channels."""
        channels = self.sizes.channels
        if noisy.dim() != 4 or noisy.shape[1] != channels or 0 in noisy.shape[2:]:
            raise ValueError(f"{self.name} takes images [B, {channels}, H, W] with H, W >= 1, not {list(noisy.shape)}.")

    def look_over(self, tiles: Iterable[tuple[Tensor, tuple]]) -> dict[str, Tensor]:
        """Keyword arguments, for every tile, that follow from the whole image: nothing for most networks.

        Whoever estimates something from the image as a whole does it here. ``tiles`` cover it: each is a window
        [B, C, h, w] with surroundings, and the index of the tile itself in it.
        """
        return {}


def pad_to_multiple(image: Tensor, multiple: int) -> Tensor:
    """Grow [B, C, H, W] at the bottom and the right to sides that ``multiple`` divides.

    By reflection, which invents no edge; by replication along an axis too short to reflect.
    """
    height, width = image.shape[-2:]
    bottom, right = -height % multiple, -width % multiple
    if bottom:
        image = F.pad(image, (0, 0, 0, bottom), mode="reflect" if bottom < height else "replicate")
    if right:
        image = F.pad(image, (0, right, 0, 0), mode="reflect" if right < width else "replicate")
    return image


def count_parameters(net: nn.Module) -> int:
    """Trainable numbers of a network, a shared one counted once."""
    return sum(parameter.numel() for parameter in net.parameters() if parameter.requires_grad)
