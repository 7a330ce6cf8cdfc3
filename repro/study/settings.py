"""What the network of this study really is, and what its runs really use, to hold against printed settings.

A printed layer is looked up in the built network rather than in its source, so that a claim about the
architecture is tested as any other. The network itself is tied to the authors' by golden arrays, by its
parameter count and by its arithmetic (see the tests of the models).
"""

from functools import cache

import torch
from torch import nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

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
# A concatenation has no weights: in comes the output of one layer, out goes the input of the next. The replication's
# fourth, before its last layer, is none of the authors' network.
CONCATENATIONS = {f"Concat{i}": (f"decode{4 - i}.up", f"decode{4 - i}.fuse") for i in (1, 2, 3)}
# The losses of GradNet differ in terms and in what is drawn; all but one are of absolute differences.
NORMS = {
    "l1": 1, "l2": 2, "consistency": 1, "consistency_sum": 1, "fidelity": 1, "oracle": 1, "pixelwise": 1,
    "pixelwise_l2": 2,
}  # fmt: skip
# Printed setting -> the field of repro.train_config.TrainConfig.
FIELDS = {
    "batch": lambda config: config.batch,
    "patch": lambda config: config.patch,
    "beta1": lambda config: config.betas[0],
    "beta2": lambda config: config.betas[1],
    "epsilon": lambda config: config.eps,
    "learning_rate": lambda config: config.lr,
    "halve_every_steps": lambda config: config.halve_every_steps if config.schedule == "step" else None,
    "learning_rate_factor": lambda config: {"step": 0.5, "plateau": config.plateau_factor}.get(config.schedule),
    "patience": lambda config: config.plateau_patience if config.schedule == "plateau" else None,
    "loss_norm": lambda config: NORMS.get(config.loss),
}


def find_layer_value(claim) -> float | str | None:
    """The value in the built network of what an architecture claim prints, or None where it has no such
    thing.

    That is the authors' network for every document: ``reading="replication"`` was built from the replication's own
    table, and would agree with it whatever it says.
    """
    metric, variant = claim["metric"], claim["variant"]
    net = _build((1, 2, 4, 8) if "1248" in variant else (1, 2, 3, 4), 3)
    if metric in ("input_channels", "output_channels"):
        net = _build((1, 2, 3, 4), 1 if claim["colour"] == "gray" else 3)
        return net.first.weight.shape[1] if metric == "input_channels" else net.last.weight.shape[0]
    if (metric, variant) == ("layers", "batch normalisation"):
        return sum(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in net.modules())
    if metric == "scales":
        return sum(name.startswith("decode") for name, _ in net.named_children())
    if metric == "dilation_rates":
        return len(net.context.dilated)
    if metric in ("modulation_min", "modulation_max"):
        block = net.decode1.block
        logits = torch.full((1, block.locate.out_channels, 1, 1), 1e4 if metric.endswith("max") else -1e4)
        return float(block.split(logits)[1][0, 0])
    if metric == "leaky_slope":
        if variant not in LAYERS:
            return sadnet.SLOPE  # of the network as a whole
        layers = LAYERS[variant]
        block = layers[0] if len(layers) == 1 else layers[0].rpartition(".")[0]
        return _find_activations().get(block, "no activation there")
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


def find_activated_blocks() -> tuple[int, int]:
    """How many ResBlocks of the authors' network are followed by an activation, and how many there are."""
    blocks = [name for name, _ in _build((1, 2, 3, 4), 3).named_children() if name.startswith("encode")]
    return sum(name in _find_activations() for name in blocks), len(blocks)


@cache
def _build(dilations: tuple[int, ...], channels: int) -> Denoiser:
    with torch.random.fork_rng(devices=[]):  # building draws weights, and nobody else's random numbers may move
        return repro.build("sadnet", dilations=dilations, channels=channels)


class _Activations(TorchFunctionMode):
    """Sees what goes into each leaky ReLU, what comes out, and with which slope."""

    def __init__(self):
        super().__init__()
        self.slopes: dict[int, float] = {}
        self.seen: list[torch.Tensor] = []  # kept, so that no id is given twice

    def __torch_function__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if function is F.leaky_relu:
            slope = args[1] if len(args) > 1 else kwargs["negative_slope"]
            self.slopes |= {id(args[0]): slope, id(result): slope}
            self.seen += [args[0], result]
        return result


@cache
def _find_activations() -> dict[str, float]:
    """Slopes of the leaky ReLUs that follow a module or end it, by the module's name: a pass through the network is
    watched, since activations are no modules of their own."""
    net, outputs = _build((1, 2, 3, 4), 3), []
    hooks = [
        module.register_forward_hook(lambda _module, _inputs, output, name=name: outputs.append((name, output)))
        for name, module in net.named_modules()
    ]
    try:
        with torch.no_grad(), _Activations() as watched:
            net(torch.zeros(1, 3, 8, 8))
    finally:
        for hook in hooks:
            hook.remove()
    return {name: watched.slopes[id(output)] for name, output in outputs if id(output) in watched.slopes}


def _is_layer(module: nn.Module) -> bool:
    return getattr(module, "weight", None) is not None and module.weight.dim() == 4


def _channels_in(layer: nn.Module) -> int:
    return layer.weight.shape[0 if isinstance(layer, nn.ConvTranspose2d) else 1]


def _channels_out(layer: nn.Module) -> int:
    return layer.weight.shape[1 if isinstance(layer, nn.ConvTranspose2d) else 0]
