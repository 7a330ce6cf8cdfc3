"""One sitting on a GPU that is lent for some minutes: check the operator, time it, train what waits, until time is up.

What is finished is written at once: records, weights in float16 and the benchmark's table. The sitting may be killed at
any moment, and the same command goes on, on this machine or, where everything was put into one folder, on another to
which the folder was carried.
"""

import math
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor

from repro import devices, files, timing
from repro.data import catalog
from repro.errors import ReproError
from repro.ops import deform_conv2d, explain, reference
from repro.study import campaign
from repro.study import experiments as listing
from repro.study.experiments import Experiment

BENCHMARK_SHARE = 0.1  # of the time, at most; a table that is not complete by then is given up
BENCHMARK_ROUNDS = 5
RESERVE_SHARE = 0.02  # of the time: for the last checkpoint
ERROR_ALLOWED = {torch.float32: 2e-5, torch.bfloat16: 1e-2}  # of the largest magnitude, as in the operator's tests
# batch, channels, height, width: an odd one, and a layer of SADNet
CHECKED = ((3, 32, 19, 23), (2, 64, 32, 48))
DEFORM_GROUPS, TAPS = 8, 9


def run(
    minutes: float = 25,
    out: Path | None = None,
    *,
    rehearse: bool = False,
    began: float | None = None,
    experiments: list[Experiment] | None = None,
    say: Callable[[str], None] = print,
) -> None:
    """The sitting, of ``minutes`` at most, into ``out`` (the repository's results by default).

    The time counts from ``began``, by the clock of ``time.monotonic``, or from now.

    Experiments are those of the budget `gpu` that have a record neither in ``out`` nor in the repository, in the
    campaign's order. Into an ``out`` that is given go the unfinished runs as well, unless ``$REPRO_RUNS`` names a
    place. ``rehearse``: the same with the budget `smoke`, on the device that is here. Verdicts are left alone.

    Raises ReproError without a GPU, where the operator is wrong (nothing is trained then), and where no experiment has
    its data here; :class:`repro.study.campaign.Stopped` on SIGINT or SIGTERM, but not at the end of the time.
    """
    ends = (time.monotonic() if began is None else began) + 60 * minutes * (1 - RESERVE_SHARE)
    device, results, budget = devices.choose(), out or files.results(), "smoke" if rehearse else "gpu"
    if rehearse and results == files.results():
        raise ReproError("What a rehearsal writes is no result of the study: name a folder for it with --out.")
    if device == "cpu" and not rehearse:
        raise ReproError("There is no GPU here that torch can use; --rehearse goes through the same steps without one.")
    if out is not None:
        os.environ.setdefault("REPRO_RUNS", str(out / "unfinished"))
    rows = [e for e in (listing.load() if experiments is None else experiments) if e.budget == budget]
    waiting = _keep_waiting(rows, results)
    ready = _keep_those_with_data(waiting, say)
    if waiting and not ready:
        raise ReproError("No experiment that waits has its data on this machine; nothing was done.")

    _report("The operator", lambda: check_op(device), say)
    seconds = min(60 * minutes * BENCHMARK_SHARE, ends - time.monotonic())
    _report("Its benchmark", lambda: benchmark_op(device, results / "benchmarks", seconds), say)
    try:
        hours = max(0.0, ends - time.monotonic()) / 3600
        campaign.run(hours, budget, results=results, experiments=ready, say=say, renew_verdicts=False)
    except campaign.Stopped:
        if time.monotonic() < ends - 1:
            raise
        say(f"The {minutes:g} minutes are over; the same command goes on.")
    finally:
        say(campaign.format_status(campaign.status(results, rows)))
        say(f"Records, weights and the benchmark are in {results}, what is unfinished in {files.runs()}.")


def _report(what: str, step: Callable[[], str], say: Callable[[str], None]) -> None:
    """Take the step; say what came of it, and how long it took."""
    began = time.monotonic()
    outcome = step()
    say(f"{what}: {outcome} [{time.monotonic() - began:.0f} s]")


def _keep_waiting(rows: list[Experiment], results: Path) -> list[Experiment]:
    """Those that are done neither in ``results`` nor in the repository."""
    status = pd.concat([campaign.status(place, rows) for place in {results, files.results()}])
    done = set(status.loc[status["state"] == "done", ["experiment", "seed"]].itertuples(index=False, name=None))
    return [row for row in rows if any((row.name, seed) not in done for seed in row.seeds)]


def _keep_those_with_data(rows: list[Experiment], say: Callable[[str], None]) -> list[Experiment]:
    """Those whose sets are all here: borrowed minutes are no time for downloads."""
    kept = []
    for row in rows:
        named = [row.data, (row.train or {}).get("pairs"), row.offsets, row.stages, row.gradients]
        named += [evaluation.dataset for evaluation in row.evaluate]
        missing = [name for name in dict.fromkeys(filter(None, named)) if catalog.locate(name) is None]
        if missing:
            say(f"{row.name} is left out: `repro data fetch {' '.join(missing)}` gets what is not on this machine.")
        else:
            kept.append(row)
    return kept


# --- the operator ----------------------------------------------------------------------------------------------------


def check_op(device: str) -> str:
    """Compare output and gradients with the reference in float64, in two sizes, two precisions and two layouts.

    Returns which implementation was compared and how far it is off; raises ReproError where that is too far.
    """
    told, errors = explain(device).splitlines()[0].rstrip("."), []
    for dtype, allowed in ERROR_ALLOWED.items():
        word = str(dtype).removeprefix("torch.")
        found = [
            _find_error(shape, dtype, layout, device)
            for shape in CHECKED
            for layout in (torch.contiguous_format, torch.channels_last)
        ]
        error = max(found, key=lambda error: math.inf if math.isnan(error) else error)
        if not error <= allowed:
            raise ReproError(
                f"The deformable convolution is wrong on {device} ({told}): in {word} it is {error:.1e} of the largest "
                f"magnitude off its reference, and {allowed:.0e} are allowed. Nothing was trained."
            )
        errors.append(f"{error:.1e} in {word}")
    return f"{told}. Farthest from the reference, of the largest magnitude: {', '.join(errors)}."


def _find_error(shape: tuple[int, ...], dtype: torch.dtype, layout: torch.memory_format, device: str) -> float:
    """The largest error of output and gradients, each in units of its largest magnitude; NaN where there is one."""
    batch, channels, height, width = shape
    generator = torch.Generator().manual_seed(0)

    def draw(*size: int, scale: float = 1.0) -> Tensor:
        return (torch.randn(size, generator=generator) * scale).to(dtype)

    # Odd multiples of 1/32 pixel: the same in every precision, and never whole, where the derivative jumps.
    offset = (draw(batch, 2 * DEFORM_GROUPS * TAPS, height, width, scale=24).float().floor() + 0.5) / 16
    arguments = [
        draw(batch, channels, height, width),
        offset.clamp(-127.5 / 16, 127.5 / 16).to(dtype),
        draw(batch, DEFORM_GROUPS * TAPS, height, width).sigmoid(),
        draw(channels, channels, 3, 3, scale=(TAPS * channels) ** -0.5),
        draw(channels),
    ]
    towards = draw(batch, channels, height, width)
    expected = _compute(reference.deform_conv2d, [t.double() for t in arguments], towards.double())
    arguments = [t.to(memory_format=layout) if t.ndim == 4 else t for t in arguments]
    actual = _compute(deform_conv2d, [t.to(device) for t in arguments], towards.to(device))
    errors = [
        ((ours.double().cpu() - right).abs().max() / right.abs().max()).item()
        for ours, right in zip(actual, expected, strict=True)
    ]
    return math.nan if any(map(math.isnan, errors)) else max(errors)


def _compute(function: Callable, arguments: list[Tensor], towards: Tensor) -> list[Tensor]:
    """The output, and the gradients of input, offset, mask, weight and bias."""
    input, offset, mask, weight, bias = leaves = [t.detach().requires_grad_() for t in arguments]
    output = function(input, offset, weight, bias, (1, 1), (1, 1), (1, 1), mask)
    return [output.detach(), *torch.autograd.grad(output, leaves, towards)]


def benchmark_op(device: str, folder: Path, seconds: float) -> str:
    """Write the table of ``repro bench op`` into ``folder`` unless it is there; give it up after ``seconds``.

    It runs in a process of its own, which can be ended, and leaves no memory behind. Returns what came of it: without
    a table there is training all the same.
    """
    here = timing.describe_machine(device, BENCHMARK_ROUNDS)["device"]
    if any(about["device"] == here for about, _ in timing.load("op", folder)):
        return "measured before."
    command = [sys.executable, "-m", "repro.cli", "bench", "op", "--device", device]
    command += ["--rounds", str(BENCHMARK_ROUNDS), "--out", str(folder)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=max(seconds, 0.1))
    except subprocess.TimeoutExpired:
        return f"given up after {seconds:.0f} s, no table."
    if done.returncode:
        return f"no table ({(done.stderr.strip().splitlines() or ['no reason was given'])[-1]})."
    return f"written to {folder}."
