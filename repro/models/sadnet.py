"""SADNet, the spatial-adaptive denoising network.

M. Chang, Q. Li, H. Feng, Z. Xu: Spatial-Adaptive Network for Single Image Denoising. ECCV 2020.
Replication: S. Mentesh, F. Kinli, B. Özcan, F. Kıraç: [Re] Spatial-Adaptive Network for Single Image
Denoising.

The idea: a convolution averages over a fixed square, and so blurs whatever edge crosses it. SADNet lets
every position move the nine points of its kernel (offsets) and weigh them (modulation), so that a kernel
can stay on one side of an edge. An encoder of ordinary residual blocks halves the picture three times; a
context block of dilated convolutions looks far around at 1/8 of the size; a decoder of residual
spatial-adaptive blocks (RSAB) comes back up, each scale's sampling estimated from its own features and from
those of the coarser scale, enlarged. The network predicts what must be added to the noisy image. It is
blind: nobody tells it the noise level.

Differences between paper, earlier reproduction and authors' code
-----------------------------------------------------------------
``reading="authors"`` follows the authors' code wherever the paper is silent or says otherwise;
``reading="replication"`` follows the replication's text and its Table 1, but for the offset block, which it reports
using as the authors have it. The two things in which that differs can
be had alone, ``"replication-activations"`` and ``"replication-tail"``; ``"paper-tail"`` is the last layer of the
paper's text, and ``"paper-transfer"`` its offset transfer, on an otherwise unchanged network.

- First layer. Paper: one convolution, 1x1. Authors: a 1x1 without activation inside the first ResBlock,
  whose output is also that block's skip. Replication: a 1x1 with leaky ReLU before the first ResBlock.
- Last layer. Paper: 1x1. Authors: 3x3 from 32 channels, network input added. Replication: the input is
  concatenated (35 channels), 3x3, nothing added: it learns the image, not the noise.
- Activation after a block. Paper: not said. Authors: after the three strided convolutions only.
  Replication: leaky ReLU after every ResBlock, RSAB, context block, transposed and 1x1 convolution. (Its
  report holds that the authors apply these at model level. Their code does not.)
- Offset transfer. Paper, Eq. 5: the offsets of the coarser scale are enlarged in size and in value, its
  modulation in size; both, after the sigmoid here, go into the convolution that merges them with the scale's own
  features. Authors: what is enlarged and doubled is a 32-channel feature from which offsets *and* modulation logits
  are still to be computed, so what becomes the modulation is doubled, too.
- Width of the offset features. Paper: not said. Replication's table: that of the block (256, 128, 64, 32);
  but it reports using the authors' block unchanged. Authors, and here: 32 at every scale.
- Deformable groups. Paper and replication: not said. Authors: 8.
- Dilations. Paper: 1, 2, 3, 4, and a variant 1, 2, 4, 8. The authors' first public code had 1, 2, 4, 8
  switched on.
- Initialisation. Paper: not said. Authors, ``initialisation="xavier"``: Xavier uniform, zero biases, for
  every convolution, the one that predicts offsets included: kernels are deformed from the first step on,
  although the layer's own constructor zeroes it. Only the deformable kernel, no ``Conv2d`` to their code,
  keeps its uniform(-s, s), s = 1 / sqrt(9 c). Replication, ``initialisation="default"``: PyTorch's.
  ``initialisation="zero-offsets"`` is the authors' but for the convolution that predicts offsets and modulation,
  which starts from zeros, as in the paper on modulated deformable convolution (Zhu et al., Deformable ConvNets v2,
  CVPR 2019): every kernel starts on the regular grid with a modulation of 1/2. That paper also gives this layer a
  tenth of the learning rate; here it learns at the rate of all others.
- Training crops. Paper: random rotation and flips. Authors: from squares of 300 pixels at a stride of 150, two flips
  and a quarter turn, each with probability 1/2. Here: from whole photographs, in one of the eight symmetries, all
  equally likely.
- Parameters. Paper: 4,321k. This network, as the authors' present code: 4,234,723 (gray 4,234,081). Their
  first public code created 1x1 layers that it never used; those of encoder blocks 2 to 4 make up the
  difference exactly.
- Sides. Authors: multiples of 8 only. Here: any, by reflection inside.
"""

import re
from dataclasses import dataclass
from math import sqrt

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from repro.models.base import Denoiser, pad_to_multiple
from repro.ops import DeformConv2d

SLOPE = 0.2  # of the leaky ReLU, everywhere
KERNEL_POINTS = 9  # of a 3x3 kernel
READINGS = ("authors", "replication", "replication-activations", "replication-tail", "paper-tail", "paper-transfer")


@dataclass(frozen=True)
class SADNetSizes:
    """What may vary. The defaults are the authors' colour network."""

    channels: int = 3  # 3 colour, 1 gray
    width: int = 32  # features at full size; doubled at each halving (32, 64, 128, 256)
    offset_width: int = 32  # features the offsets are computed from, the same at every scale
    deform_groups: int = 8  # each group of feature channels has offsets of its own
    dilations: tuple[int, ...] = (1, 2, 3, 4)  # of the context block; (1, 2, 4, 8) in SADNet(1248)
    # The paper's Table 1 switches these off. Without RSAB a decoder block is a ResBlock of the same width;
    # without transfer each scale finds its offsets from its own features alone.
    rsab: bool = True
    transfer: bool = True
    context: bool = True
    reading: str = "authors"  # or another of READINGS
    initialisation: str = "xavier"  # or "default", "zero-offsets"

    def __post_init__(self):
        object.__setattr__(self, "dilations", tuple(self.dilations))  # a list where read from JSON
        object.__setattr__(self, "transfer", self.rsab and self.transfer)  # no offsets, nothing to transfer
        if min(self.channels, self.width, self.offset_width, self.deform_groups, *self.dilations) < 1:
            raise ValueError("every size is at least 1.")
        if self.width % self.deform_groups:
            raise ValueError(f"deform_groups = {self.deform_groups} does not divide width = {self.width}.")
        known = {
            "reading": READINGS,
            "initialisation": ("xavier", "default", "zero-offsets"),
        }
        for name, words in known.items():
            if getattr(self, name) not in words:
                raise ValueError(f"{name} is {' or '.join(map(repr, words))}, not {getattr(self, name)!r}.")
        if self.hands_on_offsets and not self.transfer:
            raise ValueError("reading = 'paper-transfer' is a way to transfer offsets: it needs rsab and transfer.")

    @property
    def activates_everywhere(self) -> bool:
        """Whether a leaky ReLU follows every block, every transposed and every 1x1 convolution."""
        return self.reading in ("replication", "replication-activations")

    @property
    def concatenates_input(self) -> bool:
        """Whether the last layer sees the noisy image beside the features, which is then not added."""
        return self.reading in ("replication", "replication-tail")

    @property
    def hands_on_offsets(self) -> bool:
        """Whether a scale hands its offset and modulation to the next, not the features they are computed from."""
        return self.reading == "paper-transfer"


def conv3x3(channels_in: int, channels_out: int, dilation: int = 1) -> nn.Conv2d:
    return nn.Conv2d(channels_in, channels_out, 3, padding=dilation, dilation=dilation)


def activate(x: Tensor) -> Tensor:
    return F.leaky_relu(x, SLOPE)


def enlarge(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)


class ResBlock(nn.Module):
    """A residual block without normalisation, and without activation after the sum (section 3)."""

    def __init__(self, width: int):
        super().__init__()
        self.conv1 = conv3x3(width, width)
        self.conv2 = conv3x3(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv2(activate(self.conv1(x))) + x


class ContextBlock(nn.Module):
    """Parallel dilated convolutions over compressed features (section 3.2, Figure 3)."""

    def __init__(self, width: int, dilations: tuple[int, ...]):
        super().__init__()
        compressed = width // 4
        self.compress = nn.Conv2d(width, compressed, 1)
        self.dilated = nn.ModuleList(conv3x3(compressed, compressed, dilation) for dilation in dilations)
        self.fuse = nn.Conv2d(compressed * len(dilations), width, 1)

    def forward(self, x: Tensor) -> Tensor:
        compressed = self.compress(x)  # [B, 256, h, w] -> [B, 64, h, w]
        views = [activate(conv(compressed)) for conv in self.dilated]
        return self.fuse(torch.cat(views, 1)) + x


class OffsetBlock(nn.Module):
    """The features from which a scale's offsets and modulation are computed: F_offset and F_up of Eq. 5."""

    def __init__(self, width: int, sizes: SADNetSizes, transfer: bool):
        super().__init__()
        own = sizes.offset_width
        transferred = 3 * KERNEL_POINTS * sizes.deform_groups if sizes.hands_on_offsets else own
        self.hands_on_offsets = sizes.hands_on_offsets
        self.extract = conv3x3(width, own)
        self.merge = conv3x3(own + transferred, own) if transfer else None
        self.refine = conv3x3(own, own)

    def forward(self, x: Tensor, coarser: Tensor | tuple[Tensor, Tensor] | None = None) -> Tensor:
        features = activate(self.extract(x))
        if self.merge is not None:
            # A shift by one position of the coarser scale is one by two positions here: hence the factor 2.
            # Before the enlargement it touches a quarter of the values, and gives the same bits.
            if self.hands_on_offsets:  # the paper
                offset, modulation = coarser
                transferred = torch.cat([2 * offset, modulation], 1)
            else:  # the authors' code
                transferred = 2 * coarser
            features = activate(self.merge(torch.cat([features, enlarge(transferred)], 1)))
        return activate(self.refine(features))  # [B, 32, h, w]


class RSAB(nn.Module):
    """Residual spatial-adaptive block (section 3.1, Eq. 3 and 4, Figure 2)."""

    def __init__(self, width: int, offset_width: int, deform_groups: int):
        super().__init__()
        self.offset_channels = 2 * KERNEL_POINTS * deform_groups
        self.locate = conv3x3(offset_width, 3 * KERNEL_POINTS * deform_groups)
        self.deform = DeformConv2d(width, width, 3, padding=1)
        self.conv = conv3x3(width, width)

    def split(self, located: Tensor) -> tuple[Tensor, Tensor]:
        """Offset [B, 18 G, h, w] (group, kernel point, then y, x), modulation [B, 9 G, h, w] in (0, 1)."""
        # One split rather than two slices: its gradient is a single concatenation.
        offset, logits = located.split([self.offset_channels, self.offset_channels // 2], 1)
        return offset, logits.sigmoid()

    def forward(self, x: Tensor, offset: Tensor, modulation: Tensor) -> Tensor:
        return self.conv(activate(self.deform(x, offset, modulation))) + x  # Eq. 4


class DecoderScale(nn.Module):
    """One scale of the decoder: enlarge, fuse with the encoder's features, find offsets, RSAB.

    The coarsest, scale 4, has nothing to enlarge: it starts from the encoder's last features.
    ``after`` is the activation that the replication alone puts after a block.
    """

    def __init__(self, width: int, sizes: SADNetSizes, coarsest: bool, after: nn.Module):
        super().__init__()
        if not coarsest:
            self.up = nn.ConvTranspose2d(2 * width, width, 2, stride=2)
            self.fuse = nn.Conv2d(2 * width, width, 1)
        if sizes.rsab:
            self.offset = OffsetBlock(width, sizes, sizes.transfer and not coarsest)
            self.block = RSAB(width, sizes.offset_width, sizes.deform_groups)
        else:
            self.offset = None
            self.block = ResBlock(width)
        self.after = after

    def forward(
        self, x: Tensor, skip: Tensor | None = None, coarser: Tensor | tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, Tensor | tuple[Tensor, Tensor] | None]:
        """The scale's features [B, width, h, w], and what the next scale finds its offsets with.

        These are the features [B, 32, h, w] from which this scale's offsets come; or, as Eq. 5 has it, its offset
        [B, 18 G, h, w] and modulation [B, 9 G, h, w].
        """
        if skip is not None:
            x = self.after(self.up(x))  # [B, 2 width, h/2, w/2] -> [B, width, h, w]
            x = self.after(self.fuse(torch.cat([x, skip], 1)))
        if self.offset is None:
            return self.after(self.block(x)), None
        features = self.offset(x, coarser)
        offset, modulation = self.block.split(self.block.locate(features))
        handed_on = (offset, modulation) if self.offset.hands_on_offsets else features
        return self.after(self.block(x, offset, modulation)), handed_on


class SADNet(Denoiser):
    """The network of Figure 1: ``net(noisy) -> clean``, as :class:`~repro.models.base.Denoiser` promises."""

    name = "sadnet"
    Sizes = SADNetSizes
    halo = 128  # measured: what lies further away changed nothing by more than 1e-5

    def __init__(self, sizes: SADNetSizes = SADNetSizes()):
        super().__init__()
        self.sizes = sizes
        width1, width2, width3, width4 = (sizes.width * 2**halvings for halvings in range(4))
        self.after = nn.LeakyReLU(SLOPE) if sizes.activates_everywhere else nn.Identity()

        self.first = nn.Conv2d(sizes.channels, width1, 1)
        self.encode1 = ResBlock(width1)
        self.down1 = nn.Conv2d(width1, width2, 2, stride=2)
        self.encode2 = ResBlock(width2)
        self.down2 = nn.Conv2d(width2, width3, 2, stride=2)
        self.encode3 = ResBlock(width3)
        self.down3 = nn.Conv2d(width3, width4, 2, stride=2)
        self.encode4 = ResBlock(width4)
        self.context = ContextBlock(width4, sizes.dilations) if sizes.context else None

        self.decode4 = DecoderScale(width4, sizes, True, self.after)
        self.decode3 = DecoderScale(width3, sizes, False, self.after)
        self.decode2 = DecoderScale(width2, sizes, False, self.after)
        self.decode1 = DecoderScale(width1, sizes, False, self.after)
        inputs = width1 + (sizes.channels if sizes.concatenates_input else 0)
        kernel = 1 if sizes.reading == "paper-tail" else 3
        self.last = nn.Conv2d(inputs, sizes.channels, kernel, padding=kernel // 2)
        if sizes.initialisation != "default":
            self.apply(initialise_as_the_authors)
        if sizes.initialisation == "zero-offsets":
            self.apply(start_on_the_grid)

    def forward(self, noisy: Tensor) -> Tensor:
        """Denoise [B, C, H, W] in [0, 1]; the result has the same shape (Eq. 1)."""
        self.require_image(noisy)
        height, width = noisy.shape[-2:]
        padded = pad_to_multiple(noisy, 8)

        x1 = self.after(self.encode1(self.after(self.first(padded))))  # [B, 32, H, W]
        x2 = self.after(self.encode2(activate(self.down1(x1))))  # [B, 64, H/2, W/2]
        x3 = self.after(self.encode3(activate(self.down2(x2))))  # [B, 128, H/4, W/4]
        x4 = self.after(self.encode4(activate(self.down3(x3))))  # [B, 256, H/8, W/8]
        if self.context is not None:
            x4 = self.after(self.context(x4))

        x, coarser = self.decode4(x4)
        x, coarser = self.decode3(x, x3, coarser)
        x, coarser = self.decode2(x, x2, coarser)
        x, _ = self.decode1(x, x1, coarser)

        if self.sizes.concatenates_input:
            clean = self.last(torch.cat([x, padded], 1))
        else:
            clean = self.last(x) + padded  # the long residual connection: what is learned is the noise
        return clean[..., :height, :width]

    @torch.no_grad()
    def offsets(self, noisy: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Where the deformable kernels sample: (offset, modulation) of scales 4, 3, 2, 1, coarse to fine.

        For [B, C, H, W] and scale s: offset [B, 18 G, h, w] in pixels of that scale, ordered deform group,
        kernel row, kernel column, (y, x); modulation [B, 9 G, h, w] in (0, 1). Position (i, j) is the square
        of the image with its corner in row 2^(s-1) i and column 2^(s-1) j and the side 2^(s-1). The padded
        image is covered: h = 8 ceil(H/8) / 2^(s-1). ValueError for a network without RSAB.
        """
        if not self.sizes.rsab:
            raise ValueError("a SADNet without RSAB has no offsets.")
        blocks = [self.decode4.block, self.decode3.block, self.decode2.block, self.decode1.block]
        located: list[Tensor] = []
        hooks = [
            block.locate.register_forward_hook(lambda _conv, _inputs, output: located.append(output))
            for block in blocks
        ]
        try:
            self(noisy)
        finally:
            for hook in hooks:
                hook.remove()
        return [block.split(output) for block, output in zip(blocks, located, strict=True)]

    @classmethod
    def upstream_sizes(cls, arrays: dict[str, Tensor]) -> dict:
        """The sizes that a state dict of the authors' code shows.

        Dilations and initialisation leave no trace in it. A last layer that takes ``width + channels`` inputs
        is the replication's.
        """
        rsab = any(".dcnpack." in name for name in arrays)
        sizes = {
            "rsab": rsab,
            "transfer": any(".offset_conv2." in name for name in arrays),
            "context": any(name.startswith("context.") for name in arrays),
        }
        if "res1.conv0.weight" in arrays:
            sizes["width"], sizes["channels"] = arrays["res1.conv0.weight"].shape[:2]
            if "out.weight" in arrays and arrays["out.weight"].shape[1] == sizes["width"] + sizes["channels"]:
                sizes["reading"] = "replication"
        if "dres4.dcnpack.conv_offset_mask.weight" in arrays:
            located, sizes["offset_width"] = arrays["dres4.dcnpack.conv_offset_mask.weight"].shape[:2]
            sizes["deform_groups"] = located // (3 * KERNEL_POINTS)
        return sizes

    @classmethod
    def upstream_name(cls, name: str) -> str:
        """What the authors' code calls a parameter of this network."""
        for ours, theirs in UPSTREAM_NAMES:
            name, replaced = re.subn(ours, theirs, name)
            if replaced:
                break
        return name


def initialise_as_the_authors(module: nn.Module) -> None:
    """Xavier uniform and zero biases, but for the deformable kernel: uniform(-s, s), s = 1 / sqrt(9 c)."""
    if isinstance(module, DeformConv2d):
        limit = 1 / sqrt(KERNEL_POINTS * module.weight.shape[1])
        nn.init.uniform_(module.weight, -limit, limit)
        nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        nn.init.xavier_uniform_(module.weight)
        nn.init.zeros_(module.bias)


def start_on_the_grid(module: nn.Module) -> None:
    """Zeros in what predicts offsets and modulation: offsets 0, modulation sigmoid(0) = 1/2."""
    if isinstance(module, RSAB):
        nn.init.zeros_(module.locate.weight)
        nn.init.zeros_(module.locate.bias)


# Names here and names in the authors' code, where an RSAB's `conv` is called as a ResBlock's first one.
UPSTREAM_NAMES = (
    (r"^first\.", r"res1.conv0."),
    (r"^encode(\d)\.", r"res\1."),
    (r"^context\.compress\.", r"context.conv0."),
    (r"^context\.dilated\.(\d)\.", lambda found: f"context.conv{int(found[1]) + 1}."),
    (r"^context\.fuse\.", r"context.fusion."),
    (r"^decode(\d)\.offset\.extract\.", r"offset\1.offset_conv1."),
    (r"^decode(\d)\.offset\.merge\.", r"offset\1.offset_conv2."),
    (r"^decode(\d)\.offset\.refine\.", r"offset\1.offset_conv3."),
    (r"^decode(\d)\.block\.locate\.", r"dres\1.dcnpack.conv_offset_mask."),
    (r"^decode(\d)\.block\.deform\.", r"dres\1.dcnpack."),
    (r"^decode(\d)\.block\.conv\.", r"dres\1.conv1."),
    (r"^decode(\d)\.block\.", r"dres\1."),
    (r"^decode(\d)\.up\.", r"up\1."),
    (r"^decode(\d)\.fuse\.", r"dconv\1_1."),
    (r"^last\.", r"out."),
)
