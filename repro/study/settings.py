"""What the network of this study really is, and what its runs really use, to hold against printed settings.

A printed layer is looked up in the built network rather than in its source, so that a claim about the
architecture is tested as any other. The network itself is tied to the authors' by golden arrays, by its
parameter count and by its arithmetic (see the tests of the models).
"""

from functools import cache

import torch
from torch import nn

import repro
from repro.models import sadnet
from repro.models.base import Denoiser

# Printed row or place -> modules of repro.models.sadnet: the first one's input, the last one's output.
LAYERS = {
    # 001, sections 3.2 and 3.3
    "first layer": ("first",),
    "last layer": ("last",),
    "down layers": ("down1", "down2", "down3"),
    "up layers": ("decode3.up", "decode2.up", "decode1.up"),
    "context compression": ("context.compress",),
    "context fusion": ("context.fuse",),
    **{f"scale {i}": (f"encode{i}.conv1", f"encode{i}.conv2") for i in (1, 2, 3, 4)},
    **{f"branch {i}": (f"context.dilated.{i - 1}",) for i in (1, 2, 3, 4)},
    **{f"dilations 1248, branch {i}": (f"context.dilated.{i - 1}",) for i in (1, 2, 3, 4)},
    # 000, Table 1
    "Conv1": ("first",),
    "Conv2": ("down1",),
    "Conv3": ("down2",),
    "Conv4": ("down3",),
    "Conv5": ("decode3.fuse",),
    "Conv6": ("decode2.fuse",),
    "Conv7": ("decode1.fuse",),
    "ConvOut": ("last",),
    **{f"ResBlock{i}": (f"encode{i}.conv1", f"encode{i}.conv2") for i in (1, 2, 3, 4)},
    "Context Block": ("context.compress", "context.fuse"),
    "Offset Block Bottleneck": ("decode4.offset.extract", "decode4.offset.refine"),
    "RSAB Bottleneck": ("decode4.block.deform", "decode4.block.conv"),
    **{f"TransposeConv{i}": (f"decode{4 - i}.up",) for i in (1, 2, 3)},
    **{f"Offset Block {i}": (f"decode{4 - i}.offset.extract", f"decode{4 - i}.offset.refine") for i in (1, 2, 3)},
    **{f"RSAB {i}": (f"decode{4 - i}.block.deform", f"decode{4 - i}.block.conv") for i in (1, 2, 3)},
}
# A concatenation has no weights: in comes the output of one layer, out goes the input of the next.
CONCATENATIONS = {
    **{f"Concat{i}": (f"decode{4 - i}.up", f"decode{4 - i}.fuse") for i in (1, 2, 3)},
    "Concat4": ("decode1.block.conv", "last"),
}
# Printed setting -> the field of repro.train.TrainConfig.
FIELDS = {
    "batch": lambda config: config.batch,
    "patch": lambda config: config.patch,
    "beta1": lambda config: config.betas[0],
    "beta2": lambda config: config.betas[1],
    "epsilon": lambda config: config.eps,
    "learning_rate": lambda config: config.lr,
    "halve_every_steps": lambda config: config.halve_every_steps if config.schedule == "step" else None,
    "loss_norm": lambda config: {"l1": 1, "l2": 2}.get(config.loss),
}


def find_layer_value(claim) -> float | str | None:
    """The value in the built network of what an architecture claim prints, or None where it has no such
    thing.

    Document 000 is compared with the replication's reading of the network, 001 with the authors'.
    """
    metric, variant = claim["metric"], claim["variant"]
    reading = "replication" if claim["source"] == "000" and claim["table"] == "Table 1" else "authors"
    net = _build(reading, (1, 2, 4, 8) if "1248" in variant else (1, 2, 3, 4), 3)
    if metric in ("input_channels", "output_channels"):
        net = _build("authors", (1, 2, 3, 4), 1 if claim["colour"] == "gray" else 3)
        return net.first.weight.shape[1] if metric == "input_channels" else net.last.weight.shape[0]
    if metric == "scales":
        return sum(name.startswith("decode") for name, _ in net.named_children())
    if metric == "dilation_rates":
        return len(net.context.dilated)
    if metric in ("modulation_min", "modulation_max"):
        block = net.decode1.block
        logits = torch.full((1, block.locate.out_channels, 1, 1), 1e4 if metric.endswith("max") else -1e4)
        return float(block.split(logits)[1][0, 0])
    if metric == "leaky_slope":
        return sadnet.SLOPE
    if metric == "non_linearity":
        return "linear" if variant == "ConvOut" else None  # the forward pass returns what this layer gives
    if variant == "other layers" and metric == "kernel":
        named = {m for place, paths in LAYERS.items() if " layer" in place or "context" in place for m in paths}
        others = {m.weight.shape[-1] for path, m in net.named_modules() if _is_layer(m) and path not in named}
        return others.pop() if len(others) == 1 else " and ".join(str(k) for k in sorted(others))
    if variant in CONCATENATIONS:
        before, after = (net.get_submodule(path) for path in CONCATENATIONS[variant])
        return _channels_out(before) if metric == "channels_in" else after.weight.shape[1]
    if variant not in LAYERS:
        return None
    first, last = (net.get_submodule(LAYERS[variant][end]) for end in (0, -1))
    found = {
        "kernel": lambda: first.weight.shape[-1],
        "channels": lambda: _channels_out(last),
        "channels_in": lambda: _channels_in(first),
        "channels_out": lambda: _channels_out(last),
        "stride": lambda: first.stride[0] if isinstance(first.stride, tuple) else first.stride,
        "dilation_rate": lambda: first.dilation[0],
        "compression_ratio": lambda: _channels_in(first) / _channels_out(first),
        "channel_ratio": lambda: _channels_out(first) / _channels_in(net.context.compress),
    }.get(metric)
    return found() if found else None


@cache
def _build(reading: str, dilations: tuple[int, ...], channels: int) -> Denoiser:
    with torch.random.fork_rng(devices=[]):  # building draws weights, and nobody else's random numbers may move
        return repro.build("sadnet", reading=reading, dilations=dilations, channels=channels)


def _is_layer(module: nn.Module) -> bool:
    return getattr(module, "weight", None) is not None and module.weight.dim() == 4


def _channels_in(layer: nn.Module) -> int:
    return layer.weight.shape[0 if isinstance(layer, nn.ConvTranspose2d) else 1]


def _channels_out(layer: nn.Module) -> int:
    return layer.weight.shape[1 if isinstance(layer, nn.ConvTranspose2d) else 0]
