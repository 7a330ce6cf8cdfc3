"""PD, a denoiser for Gaussian noise made fit for photographs by pixel-shuffle down-sampling.

Y. Zhou, J. Jiao, H. Huang, Y. Wang, J. Wang, H. Shi, T. Huang: When AWGN-based Denoiser Meets Real Noises. AAAI
2020.

The idea: the noise of a finished photograph is alike in neighbouring pixels, which networks trained on
independent noise do not recognise. In the images that every second row and column make, neighbours are further
apart, and the noise is what the network knows. So denoise those, put them together again, and remove the traces
of the grid by denoising once more, with the noisy pixels of one of them put back, for each in turn.

Two networks: a small one finds the level of Gaussian and of impulse noise at every pixel and in every channel; a
DnCNN of 20 layers takes image and levels and gives the noise.

Differences between paper and code
----------------------------------
- The authors lay the small images side by side in one picture, across whose seams the network sees; here each is
  an image of its own.
- Their code offers to smooth or to raise the levels found and to blend in a result with raised ones (k), by hand,
  for looks. Here, the levels are taken as they are (k = 0).
- They choose the stride for each photograph by how the level found falls with it. Here it is a size of the
  network: 1 for Gaussian noise, 2 for photographs.
"""

import re
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from repro.models.base import Denoiser
from repro.models.dncnn import DnCNNSizes, stack


@dataclass(frozen=True)
class PDSizes:
    """What may vary. The defaults are the published colour network for Gaussian noise."""

    channels: int = 3  # 3 colour, 1 gray
    depth: int = 20  # convolutions of the denoiser
    estimator_depth: int = 3  # of the estimator
    width: int = 64  # features of both
    stride: int = 1  # 2 for the noise of photographs

    def __post_init__(self):
        if min(self.channels, self.width, self.stride) < 1 or min(self.depth, self.estimator_depth) < 2:
            raise ValueError("channels, width and stride are at least 1, depths at least 2.")


class PD(Denoiser):
    """``net(noisy) -> clean``, as :class:`~repro.models.base.Denoiser` promises; blind."""

    name = "pd"
    Sizes = PDSizes

    def __init__(self, sizes: PDSizes = PDSizes()):
        super().__init__()
        self.sizes = sizes
        # Exact: twice through both networks, the first time at the stride's scale.
        reach = sizes.depth + sizes.estimator_depth
        self.alignment = sizes.stride
        self.halo = reach if sizes.stride == 1 else (1 + sizes.stride) * reach + -reach % sizes.stride
        levels = 2 * sizes.channels  # Gaussian noise of each channel, then impulse noise
        plain = {"width": sizes.width, "bias": "none", "epsilon": 1e-5}
        self.estimator = stack(sizes.channels, levels, DnCNNSizes(depth=sizes.estimator_depth, **plain))
        self.denoiser = stack(sizes.channels + levels, sizes.channels, DnCNNSizes(depth=sizes.depth, **plain))

    def forward(self, noisy: Tensor) -> Tensor:
        """Denoise [B, C, H, W] in [0, 1], clipped to that first; the result has the same shape."""
        self.require_image(noisy)
        noisy, stride = noisy.clamp(0, 1), self.sizes.stride
        if stride == 1:
            return self.denoise_once(noisy)
        height, width = noisy.shape[-2:]
        padded = F.pad(noisy, (0, -width % stride, 0, -height % stride), mode="replicate")
        small = to_small_images(padded, stride)
        cleaned = self.denoise_once(small)
        total = torch.zeros_like(padded)
        for place in range(stride**2):
            mixed = cleaned.clone()
            mixed[:, place] = small[:, place]
            total += self.denoise_once(from_small_images(mixed, stride))
        return (total / stride**2)[..., :height, :width]

    def denoise_once(self, noisy: Tensor) -> Tensor:
        """Estimate the levels and take the noise away: [..., C, H, W] in [0, 1] to the same."""
        images = noisy.flatten(0, -4)
        # The level's standard deviation / (75 / 255) in the first half, the impulses' share / (80 / 255) in the second.
        levels = self.estimator(images).clamp(0, 1)
        return (images - self.denoiser(torch.cat([images, levels], 1))).clamp(0, 1).view(noisy.shape)

    @classmethod
    def upstream_sizes(cls, arrays: dict[str, Tensor]) -> dict:
        """The sizes that the state dicts of both networks show, named as by :func:`repro.published.convert`."""
        sizes = {}
        for part, field in (("denoiser", "depth"), ("estimator", "estimator_depth")):
            sizes[field] = sum(name.startswith(f"{part}.") and array.dim() == 4 for name, array in arrays.items())
        if "estimator.dncnn.0.weight" in arrays:
            sizes["width"], sizes["channels"] = arrays["estimator.dncnn.0.weight"].shape[:2]
        return sizes

    @classmethod
    def upstream_name(cls, name: str) -> str:
        """What the authors call a parameter, after the name of its network."""
        return re.sub(r"^(estimator|denoiser)\.", r"\1.dncnn.", name)


def to_small_images(image: Tensor, stride: int) -> Tensor:
    """[B, C, H, W] -> [B, stride ** 2, C, H / stride, W / stride]: every stride-th row and column, by rows."""
    batch, channels, height, width = image.shape
    grid = image.view(batch, channels, height // stride, stride, width // stride, stride)
    return grid.permute(0, 3, 5, 1, 2, 4).flatten(1, 2)


def from_small_images(small: Tensor, stride: int) -> Tensor:
    """The inverse of :func:`to_small_images`."""
    batch, _, channels, height, width = small.shape
    grid = small.view(batch, stride, stride, channels, height, width).permute(0, 3, 4, 1, 5, 2)
    return grid.reshape(batch, channels, height * stride, width * stride)
