"""How fast the deformable convolution is: ours, torchvision's and an ordinary convolution, in one run.

One row per shape, precision, implementation, memory layout and pass. The variants of a shape take turns,
round by round, so that a machine that slows down slows all of them down. Beside the times stand the work that
nobody can avoid (operations, and bytes if every number moved once) and the time it would take at the speeds
that a matrix product and a copy reach on this machine, measured in the same run.
"""

import contextlib
import functools
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor
from torch.nn.functional import conv2d

from repro import devices, timing
from repro.ops import backend, deform_conv, deform_conv2d

TAPS = 9  # 3x3, as everywhere in SADNet
PASSES = ("forward", "forward+backward")


@dataclass(frozen=True)
class Shape:
    """One layer: as many channels out as in, 3x3, stride 1, padding 1, with mask and bias."""

    batch: int
    channels: int
    height: int
    width: int
    deform_groups: int = 8

    def operations(self, backward: bool, deformable: bool = True) -> int:
        """Additions and multiplications. A product costs 2 per weight and place, its two gradients 2 each.
        Per sampled value, the four corners with shares and mask cost 8; backward samples again (8), spreads
        over the corners (8) and multiplies the corners into the gradient of the position (8).
        """
        samples = self.batch * self.height * self.width * TAPS * self.channels
        product = (6 if backward else 2) * self.channels
        return samples * (product + deformable * (32 if backward else 8))

    def bytes(self, backward: bool, item: int, deformable: bool = True) -> int:
        """Every argument read once and every result written once; backward reads all of them again."""
        places = self.batch * self.height * self.width
        arguments = places * (self.channels + deformable * 3 * self.deform_groups * TAPS)
        arguments += self.channels * (TAPS * self.channels + 1)
        forward = arguments + places * self.channels
        return item * (forward + backward * (2 * arguments + places * self.channels))


def _scales(batch: int, height: int, width: int) -> list[Shape]:
    """The layers of SADNet's four scales for images of this size."""
    return [Shape(batch, 32 * 2**s, height // 2**s, width // 2**s) for s in range(4)]


SHAPES = {"cpu": _scales(4, 128, 128), "cuda": _scales(16, 128, 128) + _scales(1, 320, 480)}


def bench_op(
    device: str | None = None,
    *,
    rounds: int | None = None,
    shapes: list[Shape] | None = None,
    with_reference: bool = False,
    folder: Path | None = None,
    echo: Callable[[str], None] = print,
) -> pd.DataFrame:
    """Time the op on ``device`` ("cpu", "cuda"; the GPU where there is one), print a table and store it.

    Writes ``op-<device>.csv`` and ``op-<device>.json`` (versions, threads, date, speeds) into ``folder``, by
    default results/benchmarks. ``rounds``: measurements per row (7 on a CPU, 30 on a GPU). ``ms`` is their
    median, beside it are the quartiles; ``torchvision_ratio`` is torchvision's time divided by this one
    (higher is better), ``convolution_ratio`` this time divided by that of an ordinary convolution in the same
    layout, ``floor_ratio`` this time divided by ``floor_ms``, what the unavoidable work would take (lower is
    better). The reference is left out unless ``with_reference``: large shapes take gigabytes.
    """
    device = devices.choose(device or "auto")
    kind = torch.device(device).type
    rounds = rounds or (30 if kind == "cuda" else 7)
    about = timing.describe_machine(device, rounds) | {"speeds": {}}
    rows = []
    for dtype in (torch.float32, torch.bfloat16):
        speeds = about["speeds"][str(dtype).removeprefix("torch.")] = measure_speeds(device, dtype)
        for shape in shapes or SHAPES[kind]:
            rows += _measure(shape, dtype, device, rounds, with_reference, speeds)
            done = f"{shape.batch} x {shape.channels} x {shape.height} x {shape.width}, {str(dtype)[6:]}"
            echo(f"{done}: measured, {rounds} rounds")
    table = _compare(pd.DataFrame(rows))
    echo(_show(table))
    timing.store(table, about, "op", folder, 5, echo)
    return table


def _show(table: pd.DataFrame) -> str:
    """The table for a terminal: fewer columns, three digits."""

    def short(value: float) -> str:
        return f"{value:#.3g}".rstrip(".")

    shape = table[["batch", "channels", "height", "width"]].astype(str).agg(" x ".join, axis=1)
    spread = table.ms_lower_quartile.map(short) + " to " + table.ms_upper_quartile.map(short)
    columns = {
        "shape": shape,
        **table[["dtype", "implementation", "layout", "pass", "ms"]],
        "quartiles": spread,
    }
    ratios = table[["torchvision_ratio", "convolution_ratio", "floor_ratio"]]
    return pd.DataFrame({**columns, **ratios}).to_string(index=False, float_format=short)


def _measure(shape: Shape, dtype, device: str, rounds: int, with_reference: bool, speeds: dict) -> list[dict]:
    cases = {}
    for key, (function, tensors) in _variants(shape, dtype, device, with_reference).items():
        for what in PASSES:
            call = functools.partial(_call, function, tensors, what)
            timing.time_calls(call, device)  # builds, autotunes, fills caches
            once = timing.time_calls(call, device)
            cases[*key, what] = timing.Case(call, rounds, max(1, min(50, round(0.02 / once))))
    rows = []
    for (implementation, layout, what), seconds in timing.time_in_turns(cases, device).items():
        backward, deformable = what != "forward", implementation != "convolution"
        operations = shape.operations(backward, deformable)
        moved = shape.bytes(backward, dtype.itemsize, deformable)
        rows.append(
            {
                **asdict(shape),
                "dtype": str(dtype).removeprefix("torch."),
                "implementation": implementation,
                "layout": layout,
                "pass": what,
                **timing.summarise(seconds, "ms", 1e3),
                "rounds": rounds,
                "gigaoperations": operations / 1e9,
                "megabytes": moved / 1e6,
                "floor_ms": 1e3 * max(operations / speeds["operations"], moved / speeds["bytes"]),
            }
        )
    return rows


def _variants(shape: Shape, dtype, device: str, with_reference: bool) -> dict[tuple[str, str], tuple]:
    """(implementation, layout) -> (function, the tensors it takes and whose gradients are wanted)."""
    kind = torch.device(device).type
    generator = torch.Generator().manual_seed(0)

    def random(*size: int, scale: float = 1.0) -> Tensor:
        return (torch.randn(size, generator=generator) * scale).to(device, dtype)

    image = (shape.height, shape.width)
    plain = [
        random(shape.batch, shape.channels, *image),
        random(shape.batch, 2 * shape.deform_groups * TAPS, *image, scale=1.5),
        random(shape.batch, shape.deform_groups * TAPS, *image).sigmoid(),
        random(shape.channels, shape.channels, 3, 3, scale=(TAPS * shape.channels) ** -0.5),
        random(shape.channels),
    ]
    last = [t.to(memory_format=torch.channels_last) if t.ndim == 4 else t.clone() for t in plain]
    plain, last = ([t.requires_grad_() for t in tensors] for tensors in (plain, last))

    ours, _ = deform_conv._best(kind)
    variants = {}
    for layout, tensors in (("contiguous", plain), ("channels_last", last)):
        variants[ours, layout] = functools.partial(_choose, ours), tensors
        variants["convolution", layout] = _convolve, [tensors[0], *tensors[3:]]
    if ours != "torchvision" and deform_conv._usable("torchvision", kind)[0]:
        variants["torchvision", "contiguous"] = _torchvision(plain), plain
    if with_reference and ours != "reference":
        variants["reference", "contiguous"] = functools.partial(_choose, "reference"), plain
    return variants


def _choose(name: str, input, offset, mask, weight, bias) -> Tensor:
    with backend(name):
        return deform_conv2d(input, offset, weight, bias, 1, 1, 1, mask)


def _convolve(input, weight, bias) -> Tensor:
    return conv2d(input, weight, bias, padding=1)


def _torchvision(tensors: list[Tensor]) -> Callable[..., Tensor]:
    """torchvision's own function. It has no bfloat16 on a CPU: its user converts to float32 and back."""
    from torchvision.ops import deform_conv2d as theirs

    def native(input, offset, mask, weight, bias):
        return theirs(input, offset, weight, bias, 1, 1, 1, mask)

    def converting(*tensors):
        return native(*(t.float() for t in tensors)).to(tensors[0].dtype)

    try:
        with torch.no_grad():
            native(*(t[:1] if index < 3 else t for index, t in enumerate(tensors)))
    except RuntimeError as error:
        if "not implemented for" not in str(error):
            raise
        return converting
    return native


def _call(function, tensors: list[Tensor], what: str) -> None:
    """One pass."""
    with torch.no_grad() if what == "forward" else contextlib.nullcontext():
        output = function(*tensors)
        if what != "forward":
            torch.autograd.grad(output, tensors, output.detach())


def measure_speeds(device: str, dtype: torch.dtype) -> dict[str, float]:
    """Operations per second of a large matrix product, bytes per second of a large copy: best of five."""
    cuda = torch.device(device).type == "cuda"
    side = 8192 if cuda else 1536
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    source = torch.empty(1 << (30 if cuda else 27), dtype=torch.uint8, device=device).random_()
    target = torch.empty_like(source)

    def best(function) -> float:
        return min(timing.time_calls(function, device) for _ in range(6))

    product, copy = best(lambda: a @ b), best(lambda: target.copy_(source))
    return {"operations": 2 * side**3 / product, "bytes": 2 * source.numel() / copy}


def _compare(table: pd.DataFrame) -> pd.DataFrame:
    """The three ratios."""
    case = ["batch", "channels", "height", "width", "dtype", "pass"]

    def times(implementation: str, keys: list[str]) -> pd.Series:
        other = table[table.implementation == implementation].set_index(keys).ms
        return other.reindex(pd.MultiIndex.from_frame(table[keys])).to_numpy()

    return table.assign(
        torchvision_ratio=times("torchvision", case) / table.ms,
        convolution_ratio=table.ms / times("convolution", [*case, "layout"]),
        floor_ratio=table.ms / table.floor_ms,
    ).sort_values(
        ["dtype", "batch", "channels", "pass", "implementation", "layout"],
        ascending=[False, False, True, True, True, False],
    )
