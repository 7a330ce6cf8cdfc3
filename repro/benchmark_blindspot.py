"""Which part of the hardware's speed a training step of SSDN reaches: against plain convolutions of the same shapes.

One row per way of training. A step is what the training loop does with a batch: loss, gradients, optimiser. Beside
it the same convolutions stand alone, each forward and backward on a tensor of its shape, with no rotation, shift,
pooling, concatenation, activation or likelihood between them. They are what the step cannot do without, as fast as
torch has them; the rest of the step is what the blind spot and its posterior cost. All take turns in one run, so that
a machine that slows down slows all of them down. What a large matrix product would take for the same operations is a
second, lower floor.

What was done for speed: two views at a time pass the trunk as one batch, those of equal shape, rather than four
stacked in a square; a convolution that looks upward pads once and crops nothing; layers run in the layout that is
the faster one at these widths (``channels_last = false``).
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d

from repro import devices, timing
from repro.benchmark import measure_speeds
from repro.models import build, ssdn

# Way of training -> network, its sizes, its objective; as the experiments have them.
STEPS: dict[str, tuple[str, dict, Callable]] = {
    "N2C": ("unet", {}, ssdn.n2c),
    "N2V": ("unet", {}, ssdn.n2v),
    "SSDN, mean only": ("ssdn", {"covariance": "none"}, ssdn.blindspot),
    "SSDN, known level": ("ssdn", {"level": 25}, ssdn.blindspot),
    "SSDN, variable level": ("ssdn", {"parameter": "variable"}, ssdn.blindspot),
}


def bench_blindspot(
    device: str | None = None,
    *,
    batch: int = 4,
    patch: int = 64,
    width: int = 48,
    rounds: int | None = None,
    folder: Path | None = None,
    echo: Callable[[str], None] = print,
) -> pd.DataFrame:
    """Time the training steps on ``device`` ("cpu", "cuda"; the GPU where there is one), print a table and store it.

    Writes ``blindspot-<device>.csv`` and ``.json`` into ``folder``, by default results/benchmarks. ``rounds``:
    measurements per row (7 on a CPU, 30 on a GPU). ``step_s`` and ``convolutions_s`` are medians, beside them are
    the quartiles; ``gflop`` counts the convolutions, a product and a sum as two; ``share_of_floor`` is the time of
    the bare convolutions divided by the step's (1 cannot be beaten), ``share_of_product`` that of a matrix product;
    ``n2v_ratio`` the step's time divided by N2V's.
    """
    device = devices.choose(device or "auto")
    rounds = rounds or (30 if torch.device(device).type == "cuda" else 7)
    about = timing.describe_machine(device, rounds) | {"batch": batch, "patch": patch, "width": width}
    speed = about["product_operations_per_s"] = measure_speeds(device, torch.float32)["operations"]
    cases, operations = {}, {}
    for name, (model, sizes, objective) in STEPS.items():
        step = Step(model, sizes | {"width": width}, objective, batch, patch, device)
        layers = step.list_convolutions()
        operations[name] = sum(layer.operations for layer in layers)
        for kind, call in (("step", step.run), ("convolutions", partial(run_convolutions, layers))):
            call()  # chooses algorithms, fills caches
            cases[name, kind] = timing.Case(call, rounds)
        echo(f"{name}: {len(layers)} convolutions, {operations[name] / 1e9:.1f} GFLOP a step")
    seconds = timing.time_in_turns(cases, device)
    rows = []
    for name in STEPS:
        row = {"training": name, "gflop": operations[name] / 1e9}
        for kind in ("step", "convolutions"):
            row |= timing.summarise(seconds[name, kind], f"{kind}_s")
        row["share_of_floor"] = row["convolutions_s"] / row["step_s"]
        row["share_of_product"] = operations[name] / speed / row["step_s"]
        rows.append(row | {"rounds": rounds})
    table = pd.DataFrame(rows)
    table["n2v_ratio"] = table["step_s"] / table.loc[table["training"] == "N2V", "step_s"].item()
    echo(table.drop(columns=table.filter(like="quartile").columns).to_string(index=False, float_format="{:.3g}".format))
    timing.store(table, about, "blindspot", folder, 6, echo)
    return table


class Step:
    """A network, its objective and a batch, ready to be trained on as the training loop does it."""

    def __init__(self, model: str, sizes: dict, objective: Callable, batch: int, patch: int, device: str):
        torch.manual_seed(0)
        self.net, self.objective = build(model, **sizes).to(device).train(), objective
        self.optimiser = torch.optim.AdamW(self.net.parameters(), lr=1e-4, fused=True)
        self.clean = torch.rand(batch, 3, patch, patch, device=device)
        self.noisy = self.clean + torch.randn_like(self.clean) * 25 / 255

    def run(self) -> None:
        self.objective(self.net, self.noisy, self.clean, 0).backward()
        self.optimiser.step()
        self.optimiser.zero_grad()

    def list_convolutions(self) -> list["Layer"]:
        """Every convolution of a step, those of several calls several times, in the order of the calls."""
        layers: list[Layer] = []

        def note(module: nn.Conv2d, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            layers.append(Layer(module.weight, output.shape, inputs[0].requires_grad))

        hooks = [m.register_forward_hook(note) for m in self.net.modules() if isinstance(m, nn.Conv2d)]
        try:
            self.objective(self.net, self.noisy, self.clean, 0)
        finally:
            for hook in hooks:
                hook.remove()
        return layers


class Layer:
    """An ordinary convolution with the shapes of one of the network's, side in and side out the same."""

    def __init__(self, weight: Tensor, output: torch.Size, passes_gradients: bool):
        batch, channels_out, height, width = output
        like = {"device": weight.device, "dtype": weight.dtype}
        self.input = torch.randn(batch, weight.shape[1], height, width, **like).requires_grad_(passes_gradients)
        self.weight = weight.detach().clone().requires_grad_()
        self.bias = torch.zeros(channels_out, **like).requires_grad_()
        self.gradient = torch.randn(output, **like)
        # A product forward, one for the gradient of the weights, and one for that of the input where it is wanted.
        self.operations = 2 * (2 + passes_gradients) * batch * height * width * weight.numel()

    def run(self) -> None:
        result = conv2d(self.input, self.weight, self.bias, padding=self.weight.shape[-1] // 2)
        wanted = [self.weight, self.bias, *[self.input] * self.input.requires_grad]
        torch.autograd.grad(result, wanted, self.gradient)


def run_convolutions(layers: list[Layer]) -> None:
    """Every layer once, forward and backward."""
    for layer in layers:
        layer.run()
