"""GradNet: a residual network that is shown the edges of a first, "naive" estimate.

Y. Liu, S. Anwar, L. Zheng, Q. Tian: GradNet Image Denoising. CVPR Workshops (NTIRE) 2020.
Re-implementation: C.-A. Bretan: slides and code of an unofficial GradNet, 2025 (document 003 of the study).

The idea: the first layers of a convolutional network mostly find edges, and on a noisy image they find noise.
So let an existing denoiser make a naive estimate first, take the magnitude of its Sobel gradient, and put that
beside the features of the noisy image ("gradient fusion"). The body that follows, MSKResNet, has skip
connections of three lengths: around two convolutions (residual unit), around four units (residual module, with
squeeze-and-excitation) and around everything. A second loss term asks the estimate to have the gradients of
the clean image.

Differences between paper, earlier reproduction and authors' code
-----------------------------------------------------------------
``GradNet`` follows the authors' code, ``GradNetImpl`` the code behind 003. Every difference is a size of its
own, so that each can be put on trial alone.

- Skip of a module. Paper's figure: concatenation, and as many channels out as in, which 003 finds
  contradictory and replaces by addition. Authors: concatenation, then a 3x3 convolution from 2C back to C.
- Normalisation. 003: none. Authors: batch normalisation after the first convolution of each unit.
- Squeeze-and-excitation. 003: C to C/2. Authors: C to C/16, after the reducing convolution.
- Bias of the first and last layer. 003: yes. Authors: no.
- Global sum (the network learns the noise). Paper and 003: yes. Authors: in the networks without gradient, with
  the gradient at the image and at the end; in GradNet itself the line is switched off, so that it learns the
  image. Here: on, and off in what :func:`repro.weights.from_upstream` makes of a checkpoint of that class.
- Mixup. 003 only: the three gradient channels, twelve times over, interlaced with the features. 003 says "same
  structure"; its configuration has three units to a module instead of four.
- Last layer of 003: 3x3 (1x1 in its first versions).
- Naive estimate. Authors: MSKResNet without gradients, not clipped; their training script as published takes the
  gradient of the noisy image instead, and leaves the second loss out. 003: a DnCNN or BM3D, clipped in validation
  alone; on Gaussian noise its BM3D is told a level for every value, which the package takes for a power spectrum and
  returns the noisy image. Here: not clipped, no gradient flows into it, and BM3D is told the level.
- Channels. Authors: blue, green, red, in images and so in their checkpoints. 003 and here: red, green, blue.
- Loss. Paper and authors: sums. 003: means, "the grad loss reaches 10^5 if using a sum".
- Terms. What is a unit and a module here is a block and a unit in the authors' code.
- Magnitude. Its derivative at 0 is not a number in both codes. Here: 0.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from math import sqrt

import torch
import torch.distributed as dist
import torch.nn.functional as F
from scipy.special import ndtri
from torch import Tensor, nn

from repro.data.noise import keep_range, require_floats, uniform_numbers
from repro.errors import ReproError
from repro.models.base import Denoiser

CONSISTENCY = 0.1  # lambda: the weight of the gradient term, in 003 and in the authors' GradNet run
SIGMA_255_OF_003 = (0.032 * 255, 0.250 * 255)  # the range from which 003 draws a level for every value


@dataclass(frozen=True)
class GradNetSizes:
    """What may vary. The defaults are the authors' GradNet."""

    channels: int = 3  # 3 colour, 1 gray; as many gradient channels
    width: int = 64  # features of the first layer
    modules: int = 4
    units: int = 4  # per module
    fusion: str = "before"  # the gradient joins "image", "before" the body, at the "end", or never: "none"
    mixup: int = 0  # with fusion before the body: so many copies of the gradient, interlaced with the features
    skip: str = "concatenate"  # around a module; or "add"
    normalise: bool = True  # batch normalisation in the units
    reduction: int = 16  # of the squeeze-and-excitation
    bias: bool = False  # of the first and the last layer
    global_sum: bool = True  # the noisy image is added at the end of MSKResNet; a DnCNN never has it
    # The authors' fusion study has a second body: depth - 2 times convolution, BN, ReLU, as in DnCNN, and
    # "concatenate" or "none" as its skip. It learns the image: nothing is added at the end.
    body: str = "mskresnet"  # or "dncnn"
    depth: int = 20  # layers of a network with the DnCNN body
    initialisation: str = "authors"  # Kaiming normal, small BN scales; or "default": PyTorch's
    # Whose gradient is taken: a model by name; the noisy image's own ("none"); that of the clean image ("clean"), which
    # whoever calls the network must have, as in `oracle`.
    naive: str = "none"
    naive_sizes: dict = field(default_factory=dict)  # of that model
    naive_weights: str | None = None  # published weights, or a file, that training starts it from

    def __post_init__(self):
        words = {
            "fusion": ("image", "before", "end", "none"),
            "skip": ("concatenate", "add") if self.body == "mskresnet" else ("concatenate", "none"),
            "body": ("mskresnet", "dncnn"),
            "initialisation": ("authors", "default"),
        }
        for name, known in words.items():
            if getattr(self, name) not in known:
                raise ValueError(f"{name} is {' or '.join(map(repr, known))}, not {getattr(self, name)!r}.")
        if min(self.channels, self.width, self.modules, self.units, self.reduction) < 1 or self.depth < 3:
            raise ValueError("every size is at least 1, and depth at least 3.")
        if self.mixup < 0 or (self.mixup and self.fusion != "before"):
            raise ValueError("mixup counts copies of a gradient that is fused before the body.")
        if self.mixup * self.channels > self.width:
            raise ValueError(f"mixup = {self.mixup} makes more gradient channels than there are features.")
        if self.reduction > self.inner_width:
            raise ValueError(f"reduction = {self.reduction} leaves nothing of {self.inner_width} channels.")
        if self.body == "dncnn" and self.skip == "none" and self.fusion != "none":
            raise ValueError("the authors' DnCNN with gradients has the concatenating skip.")
        if (channels := self.naive_sizes.get("channels", self.channels)) != self.channels:
            raise ValueError(f"a naive denoiser of {channels} channels does not fit a network of {self.channels}.")

    @property
    def inner_width(self) -> int:
        """Channels throughout the body."""
        return self.width + (self.channels * max(self.mixup, 1) if self.fusion == "before" else 0)


@dataclass(frozen=True)
class GradNetImplSizes(GradNetSizes):
    """The same for the code behind 003."""

    skip: str = "add"
    normalise: bool = False
    reduction: int = 2
    bias: bool = True
    initialisation: str = "default"


# --- gradients ----------------------------------------------------------------------------------------------

SOBEL = torch.tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]])


def sobel(image: Tensor) -> tuple[Tensor, Tensor]:
    """Horizontal and vertical Sobel gradient G_H, G_V of each channel of [B, C, H, W], not normalised.

    Outside the image is 0, so that its border is an edge, as in both codes. (A slide prints the first row
    of the vertical kernel as -1 -2 +1; its code has -1 -2 -1.)
    """
    channels = image.shape[1]
    kernels = SOBEL.to(image)
    both = torch.stack([kernels, kernels.T])[:, None]  # [2, 1, 3, 3]
    gradients = F.conv2d(image, both.repeat(channels, 1, 1, 1), padding=1, groups=channels)
    return gradients[:, 0::2], gradients[:, 1::2]


def sobel_magnitude(image: Tensor) -> Tensor:
    """Magnitude of the Sobel gradient of each channel, [B, C, H, W]. Its derivative is 0 where it is 0."""
    horizontal, vertical = sobel(image)
    squared = horizontal.square() + vertical.square()
    flat = squared == 0
    return squared.masked_fill(flat, 1).sqrt().masked_fill(flat, 0)


def gradient_difference(estimate: Tensor, clean: Tensor) -> Tensor:
    """|G_H(estimate) - G_H(clean)| + |G_V(estimate) - G_V(clean)|, value by value: L_g before it is summed."""
    horizontal, vertical = sobel(estimate - clean)  # the gradient is linear
    return horizontal.abs() + vertical.abs()


def interlace(features: Tensor, gradient: Tensor, copies: int) -> Tensor:
    """003's gradient mixup: ``copies`` of the gradient channels spread among the features.

    Every p-th channel, from the first on, is one of the gradient (R, G, B, R, ...), p being all channels over
    those of the gradient, rounded down; the features fill the rest in their order.
    """
    repeated = gradient.repeat(1, copies, 1, 1)
    total = features.shape[1] + repeated.shape[1]
    places = torch.arange(repeated.shape[1], device=features.device) * (total // repeated.shape[1])
    taken = torch.zeros(total, dtype=torch.bool, device=features.device)
    taken[places] = True
    order = torch.empty(total, dtype=torch.long, device=features.device)
    order[taken] = torch.arange(features.shape[1], total, device=features.device)
    order[~taken] = torch.arange(features.shape[1], device=features.device)
    return torch.cat([features, repeated], 1)[:, order]


# --- blocks -------------------------------------------------------------------------------------------------


def conv3x3(channels_in: int, channels_out: int, bias: bool = True) -> nn.Conv2d:
    return nn.Conv2d(channels_in, channels_out, 3, padding=1, bias=bias)


class ResidualUnit(nn.Module):
    """Two convolutions and the short skip; unlike a ResBlock of today, a ReLU after the sum."""

    def __init__(self, width: int, normalise: bool):
        super().__init__()
        self.conv1 = conv3x3(width, width)
        self.norm = nn.BatchNorm2d(width) if normalise else nn.Identity()
        self.conv2 = conv3x3(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.conv2(F.relu(self.norm(self.conv1(x)))) + x)


class Attention(nn.Module):
    """Squeeze-and-excitation: each channel times a number in (0, 1), computed from the means of all."""

    def __init__(self, width: int, reduction: int):
        super().__init__()
        self.squeeze = nn.Conv2d(width, width // reduction, 1)
        self.excite = nn.Conv2d(width // reduction, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        means = x.mean((2, 3), keepdim=True)  # [B, C, 1, 1]
        return x * self.excite(F.relu(self.squeeze(means))).sigmoid()


class ResidualModule(nn.Module):
    """Units in a row, the medium skip around them, attention."""

    def __init__(self, width: int, sizes: GradNetSizes):
        super().__init__()
        self.units = nn.Sequential(*(ResidualUnit(width, sizes.normalise) for _ in range(sizes.units)))
        self.merge = conv3x3(2 * width, width) if sizes.skip == "concatenate" else None
        self.attention = Attention(width, sizes.reduction)

    def forward(self, x: Tensor) -> Tensor:
        y = self.units(x)
        return self.attention(x + y if self.merge is None else self.merge(torch.cat([x, y], 1)))


class MSKResNet(nn.Module):
    """Modules in a row and the long skip around them."""

    def __init__(self, width: int, sizes: GradNetSizes):
        super().__init__()
        self.stages = nn.Sequential(*(ResidualModule(width, sizes) for _ in range(sizes.modules)))

    def forward(self, x: Tensor) -> Tensor:
        return self.stages(x) + x


class PlainBody(nn.Module):
    """The middle of a DnCNN, with the authors' concatenating skip.

    [x, body(x)], twice as many channels. Where the gradient came before the body, the authors put the body's
    output first and bring it down to ``width`` by one more convolution without activation.
    """

    def __init__(self, width: int, sizes: GradNetSizes):
        super().__init__()
        layers = [(conv3x3(width, width, bias=False), nn.BatchNorm2d(width), nn.ReLU()) for _ in range(sizes.depth - 2)]
        self.layers = nn.Sequential(*(part for layer in layers for part in layer))
        self.skip = sizes.skip == "concatenate"
        self.merge = conv3x3(2 * width, sizes.width, bias=False) if sizes.fusion == "before" else None

    def forward(self, x: Tensor) -> Tensor:
        y = self.layers(x)
        if self.merge is not None:
            return self.merge(torch.cat([y, x], 1))
        return torch.cat([x, y], 1) if self.skip else y


# --- networks -----------------------------------------------------------------------------------------------


class GradNet(Denoiser):
    """The authors' network: ``net(noisy)``, or ``net(noisy, gradient)`` with a gradient from elsewhere.

    ``gradient`` is the Sobel magnitude [B, C, H, W] of a naive estimate. Left out, the naive denoiser inside
    makes one (``sizes.naive``), or the gradient of the noisy image itself serves. That denoiser is frozen: its
    parameters are buffers, saved with the network but never trained nor counted. Where it must be told the
    noise level, so must this network. One that was trained with the clean image's gradient (``naive="clean"``) has
    none to put in its place: left out, it is a ReproError.
    """

    name = "gradnet"
    Sizes = GradNetSizes
    halo = None  # the attention takes means over the whole image
    alignment = 1

    def __init__(self, sizes: GradNetSizes | None = None):
        super().__init__()
        self.sizes = sizes = sizes or self.Sizes()
        width, channels = sizes.inner_width, sizes.channels
        self.first = conv3x3(channels * (2 if sizes.fusion == "image" else 1), sizes.width, sizes.bias)
        self.body = (MSKResNet if sizes.body == "mskresnet" else PlainBody)(width, sizes)
        if sizes.body == "dncnn" and sizes.fusion == "before":
            width = sizes.width
        elif sizes.body == "dncnn" and sizes.skip == "concatenate":
            width = 2 * width
        self.last = conv3x3(width + (channels if sizes.fusion == "end" else 0), channels, sizes.bias)
        if sizes.initialisation == "authors":
            self.apply(initialise_as_the_authors)
        self.naive = _build_naive(sizes)
        self.needs_sigma = self.naive is not None and self.naive.needs_sigma
        # Training begins with these weights in these parts.
        self.pretrained = {"naive": sizes.naive_weights} if self.naive is not None and sizes.naive_weights else {}

    def forward(self, noisy: Tensor, gradient: Tensor | None = None, *, sigma=None) -> Tensor:
        """Denoise [B, C, H, W] in [0, 1]; the result has the same shape."""
        self.require_image(noisy)
        if gradient is None and self.sizes.fusion != "none":
            self.require_naive()
            gradient = sobel_magnitude(self.estimate_naively(noisy, sigma))
        return self.fuse(noisy, gradient)

    def require_naive(self) -> None:
        """Raise ReproError for a network that cannot make a gradient by itself."""
        if self.sizes.naive == "clean" and self.sizes.fusion != "none":
            given = "gradient" if self.name == "gradnet" else "naive"
            raise ReproError(
                f"This {self.name} was trained with the gradient of the clean image, and denoises nothing without it: "
                f"give {given}, or take another network."
            )

    def fuse(self, noisy: Tensor, gradient: Tensor | None) -> Tensor:
        """Everything after the gradient. ``gradient`` is not looked at by a network without fusion."""
        sizes = self.sizes
        if sizes.fusion != "none" and gradient.shape != noisy.shape:
            raise ValueError(f"The gradient is {list(gradient.shape)}, the image {list(noisy.shape)}.")
        x = torch.cat([noisy, gradient], 1) if sizes.fusion == "image" else noisy
        x = F.relu(self.first(x))  # [B, 64, H, W]
        if sizes.mixup:
            x = interlace(x, gradient, sizes.mixup)  # [B, 64 + 3 * mixup, H, W]
        elif sizes.fusion == "before":
            x = torch.cat([x, gradient], 1)  # [B, 67, H, W]
        x = self.body(x)
        if sizes.fusion == "end":
            x = torch.cat([x, gradient], 1)
        x = self.last(x)
        return x + noisy if sizes.global_sum and sizes.body == "mskresnet" else x

    @torch.no_grad()
    def estimate_naively(self, noisy: Tensor, sigma=None) -> Tensor:
        """The image whose gradient is fused: [B, C, H, W], not clipped."""
        if self.naive is None:
            return noisy
        return self.naive(noisy, sigma=sigma) if self.naive.needs_sigma else self.naive(noisy)

    def train(self, mode: bool = True):
        super().train(mode)
        if self.naive is not None:
            self.naive.eval()  # frozen: its batch statistics too
        return self

    @classmethod
    def upstream_sizes(cls, arrays: dict[str, Tensor]) -> dict:
        """The sizes that a state dict of the authors' code shows, whichever place its gradient has."""
        names, sizes = " ".join(arrays), {}
        last = "block4.weight" if "block4.weight" in arrays else "block3.weight"
        if not {"block1.0.weight", last} <= arrays.keys():
            return sizes
        sizes["width"], inputs = arrays["block1.0.weight"].shape[:2]
        sizes["channels"], outputs = arrays[last].shape[:2]
        sizes["bias"] = "block1.0.bias" in arrays
        if "block2.0.weight" in arrays:  # the DnCNN of the fusion study
            inner = arrays["block2.0.weight"].shape[0]
            sizes |= {"body": "dncnn", "depth": 2 + len(re.findall(r"\bblock2\.\d+\.running_mean", names))}
            sizes["skip"] = "none" if outputs == sizes["width"] and last == "block3.weight" else "concatenate"
            at_end = outputs > 2 * sizes["width"]
        else:
            squeezed = arrays.get("block2.block1.ca.c1.body.0.weight", torch.empty(1, sizes["width"]))
            inner = squeezed.shape[1]
            sizes |= {
                "modules": len(re.findall(r"\bblock2\.block\d+\.conv\.weight", names)),
                "units": len(re.findall(r"\bblock2\.block1\.block\d+\.conv1\.weight", names)),
                "reduction": inner // squeezed.shape[0],
            }
            at_end = outputs > inner
        place = "image" if inputs > sizes["channels"] else "before" if inner > sizes["width"] else "end"
        sizes["fusion"] = "none" if place == "end" and not at_end else place
        sizes["global_sum"] = sizes["fusion"] != "before"  # as the authors' classes return it
        return sizes

    @classmethod
    def upstream_name(cls, name: str) -> str:
        """What the authors' code calls a parameter of this network."""
        return _rename(name, UPSTREAM_NAMES)

    @classmethod
    def upstream_naming(cls, arrays: dict[str, Tensor]) -> Callable[[str], str]:
        """The same, for the one class of theirs in which the last layer is the fourth block, too."""
        fourth = "block4.weight" in arrays
        return lambda name: "block4.weight" if fourth and name == "last.weight" else cls.upstream_name(name)


class GradNetImpl(GradNet):
    """The network of 003: ``net(noisy)``, or ``net(noisy, naive)`` with a naive estimate from elsewhere."""

    name = "gradnet-impl"
    Sizes = GradNetImplSizes

    def forward(self, noisy: Tensor, naive: Tensor | None = None, *, sigma=None) -> Tensor:
        """Denoise [B, C, H, W] in [0, 1], given the naive estimate [B, C, H, W] or making one inside."""
        self.require_image(noisy)
        if naive is None and self.sizes.fusion != "none":
            self.require_naive()
            naive = self.estimate_naively(noisy, sigma)
        return self.fuse(noisy, None if naive is None else sobel_magnitude(naive))

    @classmethod
    def upstream_sizes(cls, arrays: dict[str, Tensor]) -> dict:
        """The sizes that a state dict of 003's code shows. More than one copy of the gradient means mixup."""
        names, sizes = " ".join(arrays), {}
        if not {"_GradNet__fe.0.weight", "_GradNet__reconstruct_conv.weight"} <= arrays.keys():
            return sizes
        sizes["width"], sizes["channels"] = arrays["_GradNet__fe.0.weight"].shape[:2]
        inner = arrays["_GradNet__reconstruct_conv.weight"].shape[1]
        copies = (inner - sizes["width"]) // sizes["channels"]
        sizes["mixup"] = copies if copies > 1 else 0
        sizes["modules"] = len(
            re.findall(r"\b_GradNet__seq\.\d+\._ResModule__att\._AttentionUnit__conv1\.weight", names)
        )
        unit = r"\b_GradNet__seq\.0\._ResModule__seq\.\d+\._ResUnit__conv1\.weight"
        sizes["units"] = len(re.findall(unit, names))
        squeeze = arrays.get("_GradNet__seq.0._ResModule__att._AttentionUnit__conv1.weight")
        if squeeze is not None:
            sizes["reduction"] = squeeze.shape[1] // squeeze.shape[0]
        return sizes

    @classmethod
    def upstream_name(cls, name: str) -> str:
        """What 003's code calls a parameter of this network."""
        return _rename(name, IMPL_NAMES)

    def upstream_aliases(self) -> dict[str, str]:
        """The second names, each with the first, of layers that 003's code registers once more in a Sequential."""
        names = (self.upstream_name(name) for name in self.state_dict())
        found = {re.sub(r"_(Res|Attention)Unit__conv([12])\.", _name_in_sequential, name): name for name in names}
        return {alias: name for alias, name in found.items() if alias != name}


def initialise_as_the_authors(module: nn.Module) -> None:
    """Kaiming normal (fan in) convolutions; BN scales from a normal distribution, cut at +-0.025; BN shifts 0."""
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight)  # a = 0; biases keep the framework's default
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.normal_(module.weight, 0, sqrt(2 / 576)).data.clamp_(-0.025, 0.025)
        nn.init.zeros_(module.bias)


def _build_naive(sizes: GradNetSizes) -> Denoiser | None:
    if sizes.naive in ("none", "clean") or sizes.fusion == "none":
        return None
    from repro.models import build  # which imports this module

    naive = build(sizes.naive, **({"channels": sizes.channels} | sizes.naive_sizes)).eval()
    if getattr(naive, "is_told", False) and not naive.needs_sigma:
        raise ReproError(f"{sizes.naive} for {naive.sizes.noise} noise is no naive denoiser: it must be told more.")
    for module in list(naive.modules()):
        for name, parameter in list(module.named_parameters(recurse=False)):
            delattr(module, name)
            module.register_buffer(name, parameter.data)
    return naive


def _rename(name: str, names) -> str:
    for ours, theirs in names:
        name, replaced = re.subn(ours, theirs, name)
        if replaced:
            break
    return name


def _name_in_sequential(found: re.Match) -> str:
    first = 0 if found[1] == "Res" else 1  # the attention's Sequential begins with the pooling
    return f"_{found[1]}Unit__seq.{first + 2 * (int(found[2]) - 1)}."


def _count_up(pattern: str):
    """Fill ``pattern`` with the numbers that were found, each plus 1, and with the rest of the name."""
    return lambda found: pattern.format(*(int(n) + 1 for n in found.groups()))


UPSTREAM_NAMES = (
    (r"^first\.", "block1.0."),
    (r"^body\.stages\.(\d+)\.units\.(\d+)\.conv", _count_up("block2.block{}.block{}.conv")),
    (r"^body\.stages\.(\d+)\.units\.(\d+)\.norm", _count_up("block2.block{}.block{}.bn1")),
    (r"^body\.stages\.(\d+)\.merge", _count_up("block2.block{}.conv")),
    (r"^body\.stages\.(\d+)\.attention\.squeeze", _count_up("block2.block{}.ca.c1.body.0")),
    (r"^body\.stages\.(\d+)\.attention\.excite", _count_up("block2.block{}.ca.c2.body.0")),
    (r"^body\.layers\.", "block2."),
    (r"^body\.merge\.", "block3."),
    (r"^last\.", "block3."),
)
IMPL_NAMES = (
    (r"^first\.", "_GradNet__fe.0."),
    (r"^body\.stages\.(\d+)\.units\.(\d+)\.conv", r"_GradNet__seq.\1._ResModule__seq.\2._ResUnit__conv"),
    (
        r"^body\.stages\.(\d+)\.attention\.(squeeze|excite)",
        lambda m: f"_GradNet__seq.{m[1]}._ResModule__att._AttentionUnit__conv{1 if m[2] == 'squeeze' else 2}",
    ),
    (r"^last\.", "_GradNet__reconstruct_conv."),
)


# --- losses -------------------------------------------------------------------------------------------------
# repro.train finds them by name. The noise level of a batch is read off the pair where the naive denoiser asks.
# `real` [B] marks the samples whose noise is a camera's. It is left as it is: what draws its own noise looks at the
# mark, and to the other losses all noise is alike. A loss with a gradient term notes in `terms` what 003 saw as "0.0
# for most of training": the mean of `gradient_difference`, before lambda, be the loss one of means or of sums.

TERMS = ("gradient_loss",)
# What a loss teaches a network to expect, where its configuration does not say otherwise.
IMPLIED_SIZES = {"oracle": {"naive": "clean"}}


def consistency(net, noisy: Tensor, clean: Tensor, step: int, real=None, terms: dict | None = None) -> Tensor:
    """Mean L1 plus lambda times the mean gradient difference: 003."""
    return _mean_loss(estimate_in_training(net, noisy, clean), clean, terms)


def consistency_sum(net, noisy: Tensor, clean: Tensor, step: int, real=None, terms: dict | None = None) -> Tensor:
    """Both terms summed over the batch: paper and authors. The ratio of the two is that of the means.

    Of several processes each has a part of the batch, and their gradients are averaged: hence the factor.
    """
    estimate = estimate_in_training(net, noisy, clean)
    difference = _note_difference(estimate, clean, terms)
    processes = dist.get_world_size() if dist.is_initialized() else 1
    return processes * ((estimate - clean).abs().sum() + CONSISTENCY * difference.sum())


def fidelity(net, noisy: Tensor, clean: Tensor, step: int, real: Tensor | None = None) -> Tensor:
    """Mean L1 alone: lambda = 0."""
    return F.l1_loss(estimate_in_training(net, noisy, clean), clean)


def oracle(net, noisy: Tensor, clean: Tensor, step: int, real=None, terms: dict | None = None) -> Tensor:
    """:func:`consistency` with the gradient of the clean image: the best naive denoiser there could be."""
    return _mean_loss(_show(net, noisy, clean), clean, terms)


def pixelwise(
    net, noisy: Tensor, clean: Tensor, step: int, real: Tensor | None = None, terms: dict | None = None
) -> Tensor:
    """:func:`consistency` on noise as 003 draws it: a level for every value, clipped."""
    noisy = _redraw(noisy, clean, real)
    return _mean_loss(estimate_in_training(net, noisy, clean), clean, terms)


def pixelwise_l2(net, noisy: Tensor, clean: Tensor, step: int, real: Tensor | None = None) -> Tensor:
    """Mean squared error on such noise, as 003 trains its DnCNN: this network with body "dncnn" and no fusion, but for
    first weights and the biases of its inner layers."""
    noisy = _redraw(noisy, clean, real)
    return F.mse_loss(estimate_in_training(net, noisy, clean), clean)


def add_pixelwise_noise(clean: Tensor) -> Tensor:
    """The slides' training noise: sigma uniform in 0.032 to 0.250 for every pixel and channel anew, then clipped.

    Their code adds 1e-6 to the result, which is left out here. Over an image this is a mixture of standard deviation
    0.154 (39/255) with heavier tails than a Gaussian.
    """
    low, high = (level / 255 for level in SIGMA_255_OF_003)
    sigma = low + (high - low) * torch.rand_like(clean)
    return (clean + sigma * torch.randn_like(clean)).clamp(0, 1)


def fixed_pixelwise_noise(
    clean: Tensor,
    name: str,
    levels_255: tuple[float, float],
    seed: int = 0,
    *,
    clip: bool = False,
    round_8bit: bool = False,
) -> Tensor:
    """Return ``clean`` [C, H, W] with the evaluation noise of this kind for the image ``name``.

    Each value has its own standard deviation, uniform between the two of ``levels_255``, on the 0 to 255 scale. Fixed
    uniform numbers (key ``"name|levels low high|seed"``) are first the levels, then, through the inverse normal
    distribution, the noise. Clipped and rounded as in :mod:`repro.data.noise`; 003 clips.
    """
    low, high = (float(level) for level in levels_255)
    require_floats(clean, min(low, high))
    uniform = uniform_numbers(2 * clean.numel(), f"{name}|levels {low} {high}|{int(seed)}").reshape(2, *clean.shape)
    drawn = torch.from_numpy((low + (high - low) * uniform[0]) / 255 * ndtri(uniform[1]))
    return keep_range(clean + drawn.to(clean), clip, round_8bit)


def _redraw(noisy: Tensor, clean: Tensor, real: Tensor | None) -> Tensor:
    made = add_pixelwise_noise(clean)
    return made if real is None else torch.where(real[:, None, None, None], noisy, made)


def _mean_loss(estimate: Tensor, clean: Tensor, terms: dict | None) -> Tensor:
    return F.l1_loss(estimate, clean) + CONSISTENCY * _note_difference(estimate, clean, terms).mean()


def _note_difference(estimate: Tensor, clean: Tensor, terms: dict | None) -> Tensor:
    difference = gradient_difference(estimate, clean)
    if terms is not None:
        terms["gradient_loss"] = difference.detach().mean()
    return difference


def estimate_in_training(net, noisy: Tensor, clean: Tensor, sigma: float | None = None) -> Tensor:
    """The network's estimate of noisy [B, C, H, W] where the clean image is known: in a loss, and in validation.

    The naive image of a slow filter comes from the cache of :mod:`repro.naive`, which a validation pair finds filled
    after the first time. ``sigma``: the level to be told, in units of [0, 1]; left out, that of each pair.
    """
    if net.sizes.naive == "clean":
        return _show(net, noisy, clean)
    if net.needs_sigma and sigma is None:
        sigma = (noisy - clean).std((1, 2, 3))
    if net.naive is None or not net.naive.weightless:
        return net(noisy, sigma=sigma) if net.needs_sigma else net(noisy)
    from repro.naive import recall

    return _show(net, noisy, recall(net.naive, noisy, sigma if net.needs_sigma else None))


def _show(net, noisy: Tensor, naive: Tensor) -> Tensor:
    """The estimate, given the gradient of a naive image."""
    return net(noisy, sobel_magnitude(naive) if net.name == "gradnet" else naive)
