"""Parameters and arithmetic of a network, under the two conventions that are in use.

``flops``: what the profilers of 2019 counted, and the SADNet paper printed as FLOPs. One
multiply-accumulate is one FLOP; one more per output element for a bias. A transposed convolution counts its
*output* elements times its kernel, as if its stride were 1 (four times the work done at stride 2). Batch
normalisation counts 4 per element, adaptive average pooling 1 per input element. A deformable convolution
counts as an ordinary one. Activations, sums, products, interpolation, matrix products: nothing. All five
networks of the paper's Table 7 are met to the printed digit by these rules.

``macs``: the multiply-accumulates that convolutions of all three kinds really do, and nothing else.

``products``: those of matrix products, which neither counts. RNAN's non-local blocks compare every position of
the picture with every other: at 480x320 that is three times the work of all its convolutions.
"""

import copy
import sys
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from repro.models.base import Denoiser, count_parameters
from repro.ops import DeformConv2d

# What torch calls matrix products; it counts two operations for a multiply-accumulate.
PRODUCTS = {torch.ops.aten.mm, torch.ops.aten.addmm, torch.ops.aten.bmm, torch.ops.aten.baddbmm}


@dataclass(frozen=True)
class Cost:
    """What one image costs: parameters, FLOPs by the profilers' rules, true multiply-accumulates of convolutions,
    and those of matrix products."""

    parameters: int
    flops: int
    macs: int
    products: int = 0


def measure_cost(net: nn.Module, height: int, width: int, channels: int | None = None) -> Cost:
    """Cost of one image [1, C, height, width].

    Runs through the network without any arithmetic, so the size of the image does not matter. ``channels`` is
    needed where ``net`` is not a Denoiser.
    """
    if channels is None:
        if not isinstance(net, Denoiser):
            raise ValueError("Say how many channels the image has.")
        channels = net.sizes.channels
    flops, macs = [], []

    def count(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        rule = _find_rule(module)
        by_profiler, true = rule(module, inputs[0], output)
        flops.append(by_profiler)
        macs.append(true)

    # A copy on the device whose tensors have a shape and no values: every layer runs, nothing is computed.
    shapes = copy.deepcopy(net).to("meta").eval()
    for module in shapes.modules():
        if hasattr(module, "pairs_at_once"):
            module.pairs_at_once = sys.maxsize
        if getattr(module, "weightless", False):
            # A filter inside (BM3D as naive denoiser) wants values, and does nothing that is counted.
            module.forward = lambda noisy, **_: noisy
        if _find_rule(module):
            module.register_forward_hook(count)
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        image = torch.empty(1, channels, height, width, device="meta")
        shapes(image, sigma=0.1) if getattr(shapes, "needs_sigma", False) else shapes(image)
    by_operator = counter.get_flop_counts().get("Global", {})
    products = sum(count for operator, count in by_operator.items() if operator in PRODUCTS) // 2
    return Cost(count_parameters(net), sum(flops), sum(macs), products)


def _convolution(module, x: Tensor, y: Tensor) -> tuple[int, int]:
    # weight: [out, in / groups, kernel height, kernel width]
    macs = y.numel() * module.weight[0].numel()
    return macs + (y.numel() if module.bias is not None else 0), macs


def _transposed(module: nn.ConvTranspose2d, x: Tensor, y: Tensor) -> tuple[int, int]:
    # weight: [in, out / groups, kernel height, kernel width]; every input element meets the kernel once
    area = module.kernel_size[0] * module.kernel_size[1]
    by_profiler = y.numel() * (module.in_channels // module.groups) * area
    return by_profiler + (y.numel() if module.bias is not None else 0), x.numel() * module.weight[0].numel()


def _normalisation(module: nn.BatchNorm2d, x: Tensor, y: Tensor) -> tuple[int, int]:
    return 4 * x.numel(), 0


def _pooling(module: nn.AdaptiveAvgPool2d, x: Tensor, y: Tensor) -> tuple[int, int]:
    return x.numel(), 0


RULES: dict[type[nn.Module], Callable] = {
    nn.Conv2d: _convolution,
    DeformConv2d: _convolution,
    nn.ConvTranspose2d: _transposed,
    nn.BatchNorm2d: _normalisation,
    nn.AdaptiveAvgPool2d: _pooling,
}


def _find_rule(module: nn.Module) -> Callable | None:
    return next((rule for kind, rule in RULES.items() if isinstance(module, kind)), None)
