"""RIDNet, real image denoising with feature attention.

S. Anwar, N. Barnes: Real Image Denoising with Feature Attention. ICCV 2019.

The idea: four modules in a row, each of which widens its view with dilated convolutions in two branches
(merge and run), refines the features in two residual blocks, and weighs the channels by what is in the whole
picture (feature attention). It works at full size throughout.

Differences between paper and code
----------------------------------
Followed here is the authors' test code; their training code is not published.

- Short skip connections. Paper, Figure 2: one around each module, and one around all. Code: none but the
  addition of the input at the very end.
- Mean. The code subtracts the mean colour of a training set before the first layer and *adds* it after the last,
  where the input is added too: the layers in between have to learn the noise and minus the mean.
- The 24 values of these two shifts are meant to be frozen but are not: the code sets the flag on the module,
  where it has no effect. So they count among the 1,499,371 parameters (SADNet's Table 7: 1,499k).
- Values go from 0 to 255 inside, from 0 to 1 outside.
"""

import re
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from repro.models.base import Denoiser

MEAN = (0.4488, 0.4371, 0.4040)  # red, green, blue, of a training set, in [0, 1]
REDUCTION = 16  # of the channels inside the feature attention


@dataclass(frozen=True)
class RIDNetSizes:
    """What may vary. The defaults are the published network: 1,499,371 parameters."""

    channels: int = 3  # colour alone: the mean is that of colour images
    width: int = 64  # features
    value_range: float = 255.0  # white, for the layers

    def __post_init__(self):
        if self.channels != 3:
            raise ValueError("a RIDNet takes colour images: channels = 3.")
        if self.width < REDUCTION:
            raise ValueError(f"width is at least {REDUCTION}.")


def conv3x3(channels_in: int, channels_out: int, dilation: int = 1) -> nn.Conv2d:
    return nn.Conv2d(channels_in, channels_out, 3, padding=dilation, dilation=dilation)


class MergeRun(nn.Module):
    """Two branches of dilated convolutions, merged."""

    def __init__(self, width: int):
        super().__init__()
        self.near = nn.Sequential(conv3x3(width, width, 1), nn.ReLU(), conv3x3(width, width, 2), nn.ReLU())
        self.far = nn.Sequential(conv3x3(width, width, 3), nn.ReLU(), conv3x3(width, width, 4), nn.ReLU())
        self.merge = conv3x3(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.merge(torch.cat([self.near(x), self.far(x)], 1)).relu() + x


class Attention(nn.Module):
    """Each channel weighed by a number in (0, 1) that follows from the means of all channels."""

    def __init__(self, width: int):
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.squeeze = nn.Conv2d(width, width // REDUCTION, 1)
        self.excite = nn.Conv2d(width // REDUCTION, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.excite(self.squeeze(self.pool(x)).relu()).sigmoid()


class AttentionModule(nn.Module):
    """An enhancement attention module (EAM)."""

    def __init__(self, width: int):
        super().__init__()
        self.merge_run = MergeRun(width)
        self.residual = nn.Sequential(conv3x3(width, width), nn.ReLU(), conv3x3(width, width))
        self.enhanced = nn.Sequential(
            conv3x3(width, width), nn.ReLU(), conv3x3(width, width), nn.ReLU(), nn.Conv2d(width, width, 1)
        )
        self.attention = Attention(width)

    def forward(self, x: Tensor) -> Tensor:
        x = self.merge_run(x)
        x = (self.residual(x) + x).relu()
        x = (self.enhanced(x) + x).relu()
        return self.attention(x)


class RIDNet(Denoiser):
    """``net(noisy) -> clean``, as :class:`~repro.models.base.Denoiser` promises; blind.

    The attention looks at the mean of the whole image, so a result in tiles is another one than at once.
    """

    name = "ridnet"
    Sizes = RIDNetSizes
    halo = None  # the attention takes means over the whole image
    alignment = 1

    def __init__(self, sizes: RIDNetSizes = RIDNetSizes()):
        super().__init__()
        self.sizes = sizes
        self.subtract_mean = shift(-sizes.value_range)
        self.head = conv3x3(3, sizes.width)
        self.chain = nn.Sequential(*(AttentionModule(sizes.width) for _ in range(4)))
        self.tail = conv3x3(sizes.width, 3)
        self.add_mean = shift(sizes.value_range)

    def forward(self, noisy: Tensor) -> Tensor:
        """Denoise [B, 3, H, W] in [0, 1]; the result has the same shape."""
        self.require_image(noisy)
        image = noisy * self.sizes.value_range
        features = self.chain(self.head(self.subtract_mean(image)).relu())  # [B, width, H, W]
        return (self.add_mean(self.tail(features)) + image) / self.sizes.value_range

    @classmethod
    def upstream_sizes(cls, arrays: dict[str, Tensor]) -> dict:
        """The sizes that a state dict of the authors' code shows; its mean tells the range of values."""
        sizes = {}
        if "head.body.0.weight" in arrays:
            sizes["width"], sizes["channels"] = arrays["head.body.0.weight"].shape[:2]
        mean = arrays.get("add_mean.bias")
        if mean is not None and torch.allclose(mean.float(), torch.tensor(MEAN), atol=1e-3):
            sizes["value_range"] = 1.0
        return sizes

    @classmethod
    def upstream_name(cls, name: str) -> str:
        """What the authors' code calls a parameter of this network."""
        for ours, theirs in UPSTREAM_NAMES:
            name = re.sub(ours, theirs, name)
        return name


def shift(by: float) -> nn.Conv2d:
    """Add ``by`` times the mean colour: a 1x1 convolution, as in the authors' code."""
    conv = nn.Conv2d(3, 3, 1)
    with torch.no_grad():
        conv.weight.copy_(torch.eye(3)[..., None, None])
        conv.bias.copy_(by * torch.tensor(MEAN))
    return conv


UPSTREAM_NAMES = (
    (r"^subtract_mean\.", r"sub_mean."),
    (r"^head\.", r"head.body.0."),
    (r"^chain\.(\d)\.", lambda found: f"b{int(found[1]) + 1}."),
    (r"\.merge_run\.near\.", r".r1.body1."),
    (r"\.merge_run\.far\.", r".r1.body2."),
    (r"\.merge_run\.merge\.", r".r1.body3.0."),
    (r"\.residual\.", r".r2.body."),
    (r"\.enhanced\.", r".r3.body."),
    (r"\.attention\.squeeze\.", r".ca.c1.body.0."),
    (r"\.attention\.excite\.", r".ca.c2.body.0."),
)
