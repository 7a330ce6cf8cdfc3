"""MemNet, the very deep persistent memory network.

Y. Tai, J. Yang, X. Liu, C. Xu: MemNet: A Persistent Memory Network for Image Restoration. ICCV 2017.

The idea: a deep chain of layers forgets what its first ones saw. Six memory blocks each run six residual units
and keep all their states (short-term memory); a gate, one 1x1 convolution, chooses from these and from the
outputs of all earlier blocks (long-term memory) what is to be remembered.

Differences between paper and code
----------------------------------
This is the network of the PyTorch ports, whose 2,907,782 parameters and 449.2 G operations are what SADNet's
Table 7 prints. The authors' Caffe network is another one in three ways:

- There the six units of a block share their two kernels, only the normalisations are separate: about 677k
  parameters according to their paper.
- There all six block outputs are reconstructed, each with a loss of its own, and the image is their learned
  weighted sum. Here, and in the ports, only the last block is.
- There the convolutions have biases, and the gate's inputs come in another order.

The published network is gray; how SADNet's tables came by colour numbers is not said, and they are close to
those in gray.
"""

import re
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from repro.models.base import Denoiser


@dataclass(frozen=True)
class MemNetSizes:
    """What may vary. The defaults are M6R6 in colour: 2,907,782 parameters."""

    channels: int = 3  # 3 colour, 1 gray
    width: int = 64  # features
    blocks: int = 6  # memory blocks (M)
    units: int = 6  # residual units of a block (R)

    def __post_init__(self):
        if min(self.channels, self.width, self.blocks, self.units) < 1:
            raise ValueError("every size is at least 1.")


class Layer(nn.Sequential):
    """Normalisation and activation before the convolution, which has no bias."""

    def __init__(self, channels_in: int, channels_out: int, kernel: int = 3):
        super().__init__()
        self.norm = nn.BatchNorm2d(channels_in)
        self.activation = nn.ReLU()
        self.conv = nn.Conv2d(channels_in, channels_out, kernel, padding=kernel // 2, bias=False)


class Unit(nn.Module):
    """A residual unit, Eq. 4."""

    def __init__(self, width: int):
        super().__init__()
        self.layer1 = Layer(width, width)
        self.layer2 = Layer(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer2(self.layer1(x)) + x


class MemoryBlock(nn.Module):
    """A recursive unit and its gate, Eqs. 4 to 8. ``earlier`` outputs are remembered in front of this block."""

    def __init__(self, width: int, units: int, earlier: int):
        super().__init__()
        self.units = nn.ModuleList(Unit(width) for _ in range(units))
        self.gate = Layer((units + earlier) * width, width, kernel=1)

    def forward(self, long_term: list[Tensor]) -> Tensor:
        x = long_term[-1]
        short_term = []
        for unit in self.units:
            x = unit(x)
            short_term.append(x)
        return self.gate(torch.cat(short_term + long_term, 1))  # [B, (units + earlier) width, H, W] -> [B, width, ...]


class MemNet(Denoiser):
    """``net(noisy) -> clean``, as :class:`~repro.models.base.Denoiser` promises; blind."""

    name = "memnet"
    Sizes = MemNetSizes
    alignment = 1

    def __init__(self, sizes: MemNetSizes = MemNetSizes()):
        super().__init__()
        self.sizes = sizes
        self.halo = 2 + 2 * sizes.blocks * sizes.units  # a pixel per 3x3: tiles give exactly what the whole does
        self.extract = Layer(sizes.channels, sizes.width)
        self.blocks = nn.ModuleList(MemoryBlock(sizes.width, sizes.units, 1 + n) for n in range(sizes.blocks))
        self.reconstruct = Layer(sizes.width, sizes.channels)

    def forward(self, noisy: Tensor) -> Tensor:
        """Denoise [B, C, H, W] in [0, 1]; the result has the same shape."""
        self.require_image(noisy)
        long_term = [self.extract(noisy)]
        for block in self.blocks:
            long_term.append(block(long_term))
        return self.reconstruct(long_term[-1]) + noisy  # Eq. 3

    @classmethod
    def upstream_sizes(cls, arrays: dict[str, Tensor]) -> dict:
        """The sizes that a state dict of the PyTorch ports shows."""
        places = [re.match(r"dense_memory\.(\d+)\.(?:recursive_unit\.(\d+))?", name) for name in arrays]
        found = [match for match in places if match]
        sizes = {
            "blocks": max((int(match[1]) for match in found), default=0) + 1,
            "units": max((int(match[2] or 0) for match in found), default=0) + 1,
        }
        if "feature_extractor.conv.weight" in arrays:
            sizes["width"], sizes["channels"] = arrays["feature_extractor.conv.weight"].shape[:2]
        return sizes

    @classmethod
    def upstream_name(cls, name: str) -> str:
        """What the PyTorch ports call a parameter of this network."""
        for ours, theirs in UPSTREAM_NAMES:
            name = re.sub(ours, theirs, name)
        return name


UPSTREAM_NAMES = (
    (r"^extract\.", r"feature_extractor."),
    (r"^reconstruct\.", r"reconstructor."),
    (r"^blocks\.(\d+)\.units\.(\d+)\.layer", r"dense_memory.\1.recursive_unit.\2.relu_conv"),
    (r"^blocks\.(\d+)\.gate\.", r"dense_memory.\1.gate_unit."),
    (r"\.norm\.", r".bn."),
)
