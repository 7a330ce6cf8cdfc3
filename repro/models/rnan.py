"""RNAN, the residual non-local attention network.

Y. Zhang, K. Li, K. Li, B. Zhong, Y. Fu: Residual Non-local Attention Networks for Image Restoration. ICLR 2019.

The idea: ten groups, each with a trunk that computes features and a mask that weighs every one of them. The
mask goes down to half the size and comes back, so it sees further than the trunk. In the first and the last
group it begins with a non-local block, where every position is compared with every other of the picture.

Differences between paper and code
----------------------------------
Followed here is the authors' code.

- Weights of the non-local block. Paper, Eq. 6: a softmax for each position over the positions it looks at. Code:
  over dimension 1 of [B, queries, keys], which is that of the *queries*: what sums to one is what all positions
  take from one, not what one takes from all.
- Cost. SADNet's Table 7 has 1163.5 G operations, which is met by convolutions alone. The products of the two
  non-local blocks at 480x320 would add 3,020 G. The authors' code cuts large images and never forms them; here
  they are formed exactly, some keys at a time.
- Values go from 0 to 255 inside, from 0 to 1 outside. One network per noise level (10, 30, 50, 70).
- Sides. Authors: even. Here: any, by reflection inside.
"""

import re
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from repro.models.base import Denoiser, pad_to_multiple

# Pairs of positions that the non-local block compares at once: 64 MiB. A processor takes three times as long for
# 512 MiB, which leave its caches between product, softmax and product; on a GPU much less would be many small calls.
PAIRS_AT_ONCE = 1 << 24


@dataclass(frozen=True)
class RNANSizes:
    """What may vary. The defaults are the published colour network: 8,959,555 parameters."""

    channels: int = 3  # 3 colour, 1 gray
    width: int = 64  # features
    groups: int = 10  # the first and the last of them non-local
    value_range: float = 255.0  # white, for the layers

    def __post_init__(self):
        if self.channels < 1 or min(self.width, self.groups) < 2:
            raise ValueError("channels is at least 1, width and groups at least 2.")


def conv3x3(channels_in: int, channels_out: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(channels_in, channels_out, 3, padding=1, stride=stride)


class ResBlock(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.conv1 = conv3x3(width, width)
        self.conv2 = conv3x3(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv2(self.conv1(x).relu()) + x


class NonLocal(nn.Module):
    """Every position takes from every other, by likeness (Eqs. 5 and 6). At first it adds nothing."""

    pairs_at_once: int | None = None  # instead of PAIRS_AT_ONCE; where nothing is computed, portions cost time only

    def __init__(self, width: int):
        super().__init__()
        self.theta = nn.Conv2d(width, width // 2, 1)
        self.phi = nn.Conv2d(width, width // 2, 1)
        self.g = nn.Conv2d(width, width // 2, 1)
        self.back = nn.Conv2d(width // 2, width, 1)
        nn.init.zeros_(self.back.weight)
        nn.init.zeros_(self.back.bias)

    def forward(self, x: Tensor) -> Tensor:
        queries, values = self.theta(x).flatten(2), self.g(x).flatten(2)  # [B, width / 2, N], N = H W
        keys = self.phi(x).flatten(2).transpose(1, 2)
        # The softmax is over queries, so keys are independent of each other and can come a few at a time.
        step = max(1, (self.pairs_at_once or PAIRS_AT_ONCE) // (len(x) * queries.shape[2]))
        taken = torch.zeros_like(values)
        for some, worth in zip(keys.split(step, 1), values.split(step, 2), strict=True):
            shares = (some @ queries).softmax(2)  # [B, step, N]
            taken = torch.baddbmm(taken, worth, shares)
        return self.back(taken.view(len(x), -1, *x.shape[-2:])) + x


class Mask(nn.Module):
    """The mask branch: a weight in (0, 1) for every feature."""

    def __init__(self, width: int, non_local: bool):
        super().__init__()
        self.entry = nn.Sequential(*[NonLocal(width)] * non_local, ResBlock(width))
        self.down = conv3x3(width, width, stride=2)
        self.coarse = nn.Sequential(ResBlock(width), ResBlock(width))
        self.up = nn.ConvTranspose2d(width, width, 6, stride=2, padding=2)
        self.fine = ResBlock(width)
        self.project = nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.entry(x)
        coarse = self.coarse(self.down(x))  # [B, width, H/2, W/2]
        return self.project(self.fine(self.up(coarse) + x)).sigmoid()


class Attention(nn.Module):
    """A residual (non-local) attention module (Figure 2, Eq. 4)."""

    def __init__(self, width: int, non_local: bool):
        super().__init__()
        self.first = ResBlock(width)
        self.trunk = nn.Sequential(ResBlock(width), ResBlock(width))
        self.mask = Mask(width, non_local)
        self.last = nn.Sequential(ResBlock(width), ResBlock(width))

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        return self.last(self.trunk(x) * self.mask(x) + x)


class Group(nn.Module):
    """An attention module and a convolution: what the network is a row of (Figure 1)."""

    def __init__(self, width: int, non_local: bool = False):
        super().__init__()
        self.attention = Attention(width, non_local)
        self.conv = conv3x3(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """[B, width, H, W] -> the same shape."""
        return self.conv(self.attention(x))


class RNAN(Denoiser):
    """``net(noisy) -> clean``, as :class:`~repro.models.base.Denoiser` promises; for one noise level.

    The non-local blocks look at the whole image, so a result in tiles is another one than at once. Their
    time grows with the square of the number of pixels.
    """

    name = "rnan"
    Sizes = RNANSizes
    halo = None  # every position is compared with every other
    alignment = 2

    def __init__(self, sizes: RNANSizes = RNANSizes()):
        super().__init__()
        self.sizes = sizes
        self.head = conv3x3(sizes.channels, sizes.width)
        self.low = Group(sizes.width, non_local=True)
        middle = [Group(sizes.width) for _ in range(sizes.groups - 2)]
        self.body = nn.Sequential(*middle, conv3x3(sizes.width, sizes.width))
        self.high = Group(sizes.width, non_local=True)
        self.tail = conv3x3(sizes.width, sizes.channels)

    def forward(self, noisy: Tensor) -> Tensor:
        """Denoise [B, C, H, W] in [0, 1]; the result has the same shape."""
        self.require_image(noisy)
        height, width = noisy.shape[-2:]
        image = pad_to_multiple(noisy, 2) * self.sizes.value_range
        features = self.high(self.body(self.low(self.head(image))))  # [B, width, H, W]
        clean = (self.tail(features) + image) / self.sizes.value_range  # Eq. 1: the noise is what is learned
        return clean[..., :height, :width]

    @classmethod
    def upstream_sizes(cls, arrays: dict[str, Tensor]) -> dict:
        """The sizes that a state dict of the authors' code shows."""
        places = [int(found[1]) for name in arrays if (found := re.match(r"body\.(\d+)\.", name))]
        sizes = {"groups": max(places, default=0) + 2}  # the last place is a convolution's
        if "head.0.weight" in arrays:
            sizes["width"], sizes["channels"] = arrays["head.0.weight"].shape[:2]
        return sizes

    @classmethod
    def upstream_name(cls, name: str) -> str:
        """What the authors' code calls a parameter of this network."""
        for ours, theirs in UPSTREAM_NAMES:
            name = re.sub(ours, theirs, name)
        return name


UPSTREAM_NAMES = (
    (r"\.conv([12])\.", lambda found: f".body.{2 * int(found[1]) - 2}."),
    (r"\.conv\.", r".body.1."),
    (r"\.attention\.", r".body.0."),
    (r"\.first\.", r".RA_RB1.0."),
    (r"\.trunk\.", r".RA_TB.0.body."),
    (r"\.last\.", r".RA_tail."),
    (r"\.mask\.", r".RA_MB.0."),
    (r"\.entry\.", r".MB_RB1."),
    (r"\.back\.", r".W."),
    (r"\.down\.", r".MB_Down.0."),
    (r"\.coarse\.", r".MB_RB2."),
    (r"\.up\.", r".MB_Up.0."),
    (r"\.fine\.", r".MB_RB3.0."),
    (r"\.project\.", r".MB_1x1conv.0."),
    (r"^(head|tail)\.", r"\1.0."),
    (r"^(low|high)\.", r"body_nl_\1.0."),
)
