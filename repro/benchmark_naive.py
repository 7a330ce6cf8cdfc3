"""What a naive denoiser adds to a training step of GradNet: BM3D in both of its versions, and a DnCNN, in one run.

One row for the network's own step and one for each naive denoiser on the same patches; they take turns. A filter is
asked as in training (:mod:`repro.naive`), patches side by side, with a cache that is empty. Document 003 says that
training with BM3D is extremely long; how long depends on the machine's load where it is read off a training, and on
what the cache already has.
"""

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pandas as pd
import torch

from repro import naive, timing
from repro.benchmark_step import Step
from repro.models import build

NETWORK = "the network's step"
# As in the experiments of the study: GradNet in the form of document 003 and its DnCNN, a quarter and half as wide.
SIZES = {"width": 16}
DENOISERS = {
    "DnCNN": ("dncnn", {"depth": 16, "width": 32, "bias": "all", "residual": False}),
    "BM3D": ("bm3d", {}),
    "BM3D, equal variances": ("bm3d", {"variances": "equal"}),
}
REFERENCE = "DnCNN"
SIGMA = 36 / 255  # in the middle of what is trained on


def bench_naive(
    *,
    batch: int = 8,
    patch: int = 64,
    rounds: int = 3,
    folder: Path | None = None,
    echo: Callable[[str], None] = print,
) -> pd.DataFrame:
    """Time a step and each naive denoiser on ``batch`` colour patches, ``patch`` pixels a side; store the table.

    Writes ``naive-<device>.csv`` and ``.json`` into ``folder``, by default results/benchmarks, always of the CPU, where
    filters run. ``seconds`` is the median of ``rounds``, beside it are the quartiles; ``step_ratio`` is how many times
    as long a step with this naive denoiser takes as one with DnCNN.
    """
    about = timing.describe_machine("cpu", rounds) | {"batch": batch, "patch": patch, "sizes": SIZES}
    generator = torch.Generator().manual_seed(0)
    flat = torch.rand(batch, 3, 1, 1, generator=generator).expand(batch, 3, patch, patch)
    noisy = flat + SIGMA * torch.randn(flat.shape, generator=generator)
    step = Step("gradnet-impl", SIZES, batch, patch, "cpu", channels_last=True, in_place=True)
    calls = {NETWORK: step.run}
    for name, (model, sizes) in DENOISERS.items():
        calls[name] = partial(_estimate, build(model, **sizes).eval(), noisy)
    for name, call in calls.items():
        echo(f"{name}: {timing.time_calls(call, 'cpu'):.3f} s the first time")
    seconds = timing.time_in_turns({name: timing.Case(call, rounds) for name, call in calls.items()}, "cpu")
    rows = [{"what": name, **timing.summarise(seconds[name], "seconds"), "rounds": rounds} for name in calls]
    table = pd.DataFrame(rows)
    took = table.set_index("what")["seconds"]
    table["step_ratio"] = [
        float("nan") if name == NETWORK else (took[NETWORK] + took[name]) / (took[NETWORK] + took[REFERENCE])
        for name in calls
    ]
    echo(table.to_string(index=False, float_format="{:.3g}".format))
    timing.store(table, about, "naive", folder, 4, echo)
    return table


@torch.no_grad()
def _estimate(denoiser, noisy: torch.Tensor) -> None:
    if not denoiser.weightless:
        denoiser(noisy)
        return
    with tempfile.TemporaryDirectory() as empty:
        naive.recall(denoiser, noisy, SIGMA, Path(empty))
