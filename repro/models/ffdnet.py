"""FFDNet, a fast and flexible denoising network.

K. Zhang, W. Zuo, L. Zhang: FFDNet: Toward a Fast and Flexible Solution for CNN-Based Image Denoising. IEEE
Transactions on Image Processing 27(9), 2018.

The idea: tell the network the noise level, as one more input channel, and it need not find it out: one network
serves all levels. Work on the four half-size images that every second row and column make, and each
convolution costs a quarter and sees twice as far.

Differences between paper and code
----------------------------------
- Normalisation. Paper: batch normalisation in the middle layers. The published weights have it merged into
  the convolutions, so there is none here.
- Order of the four half-size images. The authors' MATLAB code goes down the columns; KAIR's PyTorch code goes
  along the rows, as here. :mod:`repro.published` reorders the channels of the authors' weights.
- Odd sides are grown by repeating the last row and column, in both.
- The output is the image, not the noise: nothing is subtracted.

For photographs, whose level nobody tells, ``level="estimated"`` takes scikit-image's estimate of each image. That is
this study's addition.
"""

import re
from dataclasses import dataclass
from math import ceil

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from repro.errors import ReproError
from repro.models.base import Denoiser
from repro.models.classical import estimate_noise

FACTOR = 2  # of the reduction: FACTOR ** 2 images of 1 / FACTOR of the side
PUBLISHED = {1: (15, 64), 3: (12, 96)}  # channels -> depth and width


@dataclass(frozen=True)
class FFDNetSizes:
    """What may vary. The defaults are the published networks: colour 852,108 parameters, gray 485,316."""

    channels: int = 3  # 3 colour, 1 gray
    depth: int | None = None  # convolutions: 12 in colour, 15 in gray
    width: int | None = None  # features: 96 in colour, 64 in gray
    level: str = "told"  # by the keyword sigma; or "estimated" from each image

    def __post_init__(self):
        depth, width = PUBLISHED.get(self.channels, PUBLISHED[3])
        object.__setattr__(self, "depth", depth if self.depth is None else self.depth)
        object.__setattr__(self, "width", width if self.width is None else self.width)
        if min(self.channels, self.width) < 1 or self.depth < 2:
            raise ValueError("channels and width are at least 1, depth at least 2.")
        if self.level not in ("told", "estimated"):
            raise ValueError(f"level is 'told' or 'estimated', not {self.level!r}.")


class FFDNet(Denoiser):
    """``net(noisy, sigma=...) -> clean``, as :class:`~repro.models.base.Denoiser` promises; told the level.

    With ``level="estimated"`` it is blind.
    """

    name = "ffdnet"
    Sizes = FFDNetSizes
    alignment = FACTOR

    def __init__(self, sizes: FFDNetSizes = FFDNetSizes()):
        super().__init__()
        self.sizes = sizes
        self.needs_sigma = sizes.level == "told"
        # Tiles give exactly what the whole does, unless each has a level of its own.
        self.halo = 8 * ceil(FACTOR * sizes.depth / 8) if self.needs_sigma else None
        images = sizes.channels * FACTOR**2
        widths = [images + 1, *[sizes.width] * (sizes.depth - 1), images]  # one channel more: the noise level
        layers = []
        for index in range(sizes.depth):
            layers += [nn.Conv2d(widths[index], widths[index + 1], 3, padding=1), nn.ReLU()]
        self.layers = nn.Sequential(*layers[:-1])  # no activation after the last

    def forward(self, noisy: Tensor, sigma: float | Tensor | None = None) -> Tensor:
        """Denoise [B, C, H, W] in [0, 1]; ``sigma``, in the same units, is a number or B of them.

        Where the level is estimated, ``sigma`` is left out.
        """
        self.require_image(noisy)
        if not self.needs_sigma:
            arrays = noisy.detach().double().cpu().permute(0, 2, 3, 1).numpy()
            sigma = torch.tensor([estimate_noise(array) for array in arrays])
        elif sigma is None:
            raise ReproError("ffdnet must be told the noise level: give sigma.")
        height, width = noisy.shape[-2:]
        padded = F.pad(noisy, (0, width % FACTOR, 0, height % FACTOR), mode="replicate")
        reduced = F.pixel_unshuffle(padded, FACTOR)  # [B, C, H, W] -> [B, 4 C, H/2, W/2]
        level = torch.as_tensor(sigma, dtype=noisy.dtype, device=noisy.device).reshape(-1, 1, 1, 1)
        level = level.expand(len(reduced), 1, *reduced.shape[-2:])  # the noise level map, uniform
        clean = F.pixel_shuffle(self.layers(torch.cat([reduced, level], 1)), FACTOR)
        return clean[..., :height, :width]

    @classmethod
    def upstream_sizes(cls, arrays: dict[str, Tensor]) -> dict:
        """The sizes that a state dict in KAIR's naming shows."""
        numbers = [int(found[1]) for name in arrays if (found := re.match(r"model\.(\d+)\.", name))]
        sizes = {"depth": ceil(max(numbers, default=0) / 2) + 1}
        if "model.0.weight" in arrays:
            sizes["width"], images = arrays["model.0.weight"].shape[:2]
            sizes["channels"] = (images - 1) // FACTOR**2
        return sizes

    @classmethod
    def upstream_name(cls, name: str) -> str:
        """What KAIR calls a parameter of this network."""
        return re.sub(r"^layers\.", "model.", name)
