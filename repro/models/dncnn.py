"""DnCNN, the denoising convolutional network.

K. Zhang, W. Zuo, Y. Chen, D. Meng, L. Zhang: Beyond a Gaussian Denoiser: Residual Learning of Deep CNN for
Image Denoising. IEEE Transactions on Image Processing 26(7), 2017.

The idea: a plain stack of 3x3 convolutions with batch normalisation, which learns the noise instead of the
image. What remains of the picture is taken out layer by layer, and the result is subtracted from the input.
Each of the study's papers compares with it, and GradNet takes its gradients from what it leaves.

Differences between paper, comparisons and code
-----------------------------------------------
- Depth. Paper: 17 layers for one noise level (DnCNN-S), 20 for a range of them (DnCNN-B, and the blind
  colour model). The authors' weights for one level in *colour* have 20, too. SADNet's Table 7 has 17 in
  colour: 558k parameters fit no other network. GradNet's re-implementation calls 16 layers DnCNN-S.
- Biases. The authors' MatConvNet code has them in every layer but leaves those before a normalisation at
  zero; their PyTorch code has one in the first layer only; the KAIR collection has all of them. 558k is the
  number with none (558,336) or with the first (558,400), not with all (559,363).
- Normalisation. Epsilon is 1e-4 in the authors' PyTorch code and in KAIR, 1e-5, the framework's own, in
  other ports. The weights that the authors publish have it merged into the convolutions (:meth:`DnCNN.merged`).
  Momentum is 0.95 in the authors' PyTorch code, where the last batch is nearly all of the running statistics; here
  it is 0.1, the framework's own, as in KAIR.
- What is learned. Paper: the noise. GradNet's re-implementation: the clean image, ``residual=False``.
- Initialisation. MatConvNet code, followed here: normal with variance 2 / (9 * width), scales of the
  normalisation drawn from the same distribution and kept at least 0.025 away from 0. PyTorch code: orthogonal.
- Noise levels 30 and 70 in SADNet's Table 3 fit neither the blind colour model, trained up to 55, nor a
  published colour model; where they come from is not said.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from math import ceil, sqrt

import torch
from torch import Tensor, nn

from repro.models.base import Denoiser

SMALLEST_SCALE = 0.025  # of a normalisation, at the start


@dataclass(frozen=True)
class DnCNNSizes:
    """What may vary. The defaults are the colour network of SADNet's Table 7: 558,336 parameters."""

    channels: int = 3  # 3 colour, 1 gray
    depth: int = 17  # convolutions
    width: int = 64  # features
    bias: str = "none"  # in the "first" convolution only, in "all", in "none"
    batch_norm: bool = True  # in all layers but the first and the last
    epsilon: float = 1e-4  # of the normalisation
    residual: bool = True  # the layers give the noise; False: the clean image

    def __post_init__(self):
        if min(self.channels, self.width) < 1 or self.depth < 2:
            raise ValueError("channels and width are at least 1, depth at least 2.")
        if self.bias not in ("none", "first", "all"):
            raise ValueError(f"bias is 'none', 'first' or 'all', not {self.bias!r}.")


def stack(channels_in: int, channels_out: int, sizes: DnCNNSizes) -> nn.Sequential:
    """[3x3, ReLU], then (depth - 2) x [3x3, normalisation, ReLU], then 3x3, all at full size (Figure 1)."""
    inner = sizes.bias == "all"
    layers = [nn.Conv2d(channels_in, sizes.width, 3, padding=1, bias=sizes.bias != "none"), nn.ReLU()]
    for _ in range(sizes.depth - 2):
        layers.append(nn.Conv2d(sizes.width, sizes.width, 3, padding=1, bias=inner))
        if sizes.batch_norm:
            layers.append(nn.BatchNorm2d(sizes.width, eps=sizes.epsilon))
        layers.append(nn.ReLU())
    layers.append(nn.Conv2d(sizes.width, channels_out, 3, padding=1, bias=inner))
    net = nn.Sequential(*layers)
    initialise_as_the_authors(net, sizes.width)
    return net


class DnCNN(Denoiser):
    """``net(noisy) -> clean``, as :class:`~repro.models.base.Denoiser` promises; blind."""

    name = "dncnn"
    Sizes = DnCNNSizes
    alignment = 1

    def __init__(self, sizes: DnCNNSizes = DnCNNSizes()):
        super().__init__()
        self.sizes = sizes
        self.halo = 8 * ceil(sizes.depth / 8)  # one pixel per convolution: tiles give exactly what the whole does
        self.layers = stack(sizes.channels, sizes.channels, sizes)

    def forward(self, noisy: Tensor) -> Tensor:
        """Denoise [B, C, H, W] in [0, 1]; the result has the same shape."""
        self.require_image(noisy)
        learned = self.layers(noisy)
        return noisy - learned if self.sizes.residual else learned  # Eq. 1: the residual mapping is the noise

    @torch.no_grad()
    def merged(self) -> "DnCNN":
        """The same function in evaluation mode without normalisation layers, which only scale and shift."""
        sizes = replace(self.sizes, batch_norm=False, bias="all")
        plain = DnCNN(sizes).to(next(self.parameters()))
        targets = (layer for layer in plain.layers if isinstance(layer, nn.Conv2d))
        for layer, following in zip(self.layers, [*self.layers[1:], None], strict=True):
            if not isinstance(layer, nn.Conv2d):
                continue
            weight = layer.weight
            bias = weight.new_zeros(len(weight)) if layer.bias is None else layer.bias
            if isinstance(following, nn.BatchNorm2d):
                scale = following.weight / (following.running_var + following.eps).sqrt()
                weight = weight * scale[:, None, None, None]
                bias = (bias - following.running_mean) * scale + following.bias
            target = next(targets)
            target.weight.copy_(weight)
            target.bias.copy_(bias)
        return plain.train(self.training)

    @classmethod
    def upstream_sizes(cls, arrays: dict[str, Tensor]) -> dict:
        """The sizes that a state dict shows, and what is known of the code behind its naming.

        Three namings: ``model.`` (KAIR), ``dncnn.`` (PyTorch ports, the authors' among them, which alone has
        a bias in the first layer only), and ``conv1``, ``mid_layer.``, ``conv_last`` (GradNet's
        re-implementation, which gives the clean image). Array shapes tell the rest.
        """
        naming = cls.upstream_naming(arrays)
        kernels = {name for name, array in arrays.items() if array.dim() == 4}
        biases = [name for name in arrays if name.endswith(".bias") and name[:-4] + "weight" in kernels]
        sizes = {"batch_norm": any(name.endswith(".running_mean") for name in arrays)}
        sizes["depth"] = _find_depth(arrays, 3 if sizes["batch_norm"] else 2)
        if (first := arrays.get(naming("layers.0.weight"))) is not None:
            sizes["width"], sizes["channels"] = first.shape[:2]
        sizes["bias"] = "all" if len(biases) > 1 else "first" if biases else "none"
        sizes["residual"] = not any(name.startswith("conv_last.") for name in arrays)
        kair = any(name.startswith("model.") for name in arrays)
        sizes["epsilon"] = 1e-4 if kair or sizes["bias"] == "first" else 1e-5
        return sizes

    @classmethod
    def upstream_name(cls, name: str) -> str:
        """What KAIR calls a parameter of this network."""
        return re.sub(r"^layers\.", "model.", name)

    @classmethod
    def upstream_naming(cls, arrays: dict[str, Tensor]) -> Callable[[str], str]:
        """What the code that wrote ``arrays`` calls a parameter of this network."""
        if any(name.startswith("mid_layer.") for name in arrays):
            last = 2 + 3 * (_find_depth(arrays, 3) - 2)  # the place of the last layer

            def rename(found: re.Match) -> str:
                place = int(found[1])
                return "conv1." if place == 0 else "conv_last." if place == last else f"mid_layer.{place - 2}."

            return lambda name: re.sub(r"^layers\.(\d+)\.", rename, name)
        prefix = "dncnn." if any(name.startswith("dncnn.") for name in arrays) else "model."
        return lambda name: re.sub(r"^layers\.", prefix, name)


def _find_depth(arrays: dict[str, Tensor], period: int) -> int:
    """Convolutions of the network whose layers are numbered in the names, ``period`` layers for each inner one."""
    numbers = [int(found[1]) for name in arrays if (found := re.search(r"\.(\d+)\.", name))]
    shift = 2 if any(name.startswith("mid_layer.") for name in arrays) else 0  # there the inner ones begin at 0
    inner = ceil((max(numbers, default=0) + shift - 2) / period)
    return 2 + inner


def initialise_as_the_authors(net: nn.Sequential, width: int) -> None:
    """Normal with variance 2 / (9 * width), zero biases; scales of the normalisation not too close to 0."""
    deviation = sqrt(2 / (9 * width))
    for layer in net:
        if isinstance(layer, nn.Conv2d):
            nn.init.normal_(layer.weight, std=deviation)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        elif isinstance(layer, nn.BatchNorm2d):
            with torch.no_grad():
                scale = torch.randn_like(layer.weight) * deviation
                layer.weight.copy_(torch.where(scale < 0, -1.0, 1.0) * scale.abs().clamp(min=SMALLEST_SCALE))
