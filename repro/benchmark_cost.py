"""What one image costs: parameters, arithmetic under both conventions, seconds, memory; all networks in one run.

One row per network. Counts are exact and the same everywhere (:mod:`repro.study.costs`); seconds are of this
machine. The networks take turns, round by round, so that a machine that slows down slows all of them down.
Memory is what one image needs beyond the loaded network: on a CPU the largest resident memory of a fresh process
less what it had before, on a GPU what torch says it allocated.
"""

import functools
import multiprocessing
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor

from repro import devices, timing
from repro.errors import ReproError
from repro.evaluate import _run
from repro.models import build
from repro.models.base import Denoiser
from repro.study.costs import measure_cost

# SADNet's Table 7 in its order, ScaoedNet's slide on cost, the others. The classical methods have no arithmetic to
# count. Name -> model and sizes.
NETWORKS: dict[str, tuple[str, dict]] = {
    "dncnn": ("dncnn", {}),
    "memnet": ("memnet", {}),
    "rnan": ("rnan", {}),
    "ridnet": ("ridnet", {}),
    "sadnet": ("sadnet", {}),
    "scaoednet-1": ("scaoednet", {"stages": 1}),
    "scaoednet-3": ("scaoednet", {"stages": 3}),
    "scaoednet-5": ("scaoednet", {"stages": 5}),
    "dncnn-20": ("dncnn", {"depth": 20, "bias": "all", "batch_norm": False}),  # its authors' colour weights
    "ffdnet": ("ffdnet", {}),
    "pd": ("pd", {"stride": 2}),
    "ssdn": ("ssdn", {}),
    "unet": ("unet", {}),
    "gradnet": ("gradnet", {}),
    "gradnet-impl": ("gradnet-impl", {}),
}
HEIGHT, WIDTH = 320, 480  # of the image in SADNet's Table 7
SIGMA = 50 / 255  # for networks that must be told; it has no influence on the cost
FEW_ROUNDS = 3  # for a network that takes longer than SLOW_SECONDS, the first time counted in
SLOW_SECONDS = 20


def bench_cost(
    device: str | None = None,
    *,
    networks: tuple[str, ...] | None = None,
    height: int = HEIGHT,
    width: int = WIDTH,
    rounds: int | None = None,
    folder: Path | None = None,
    echo: Callable[[str], None] = print,
) -> pd.DataFrame:
    """Measure the networks on ``device`` ("cpu", "cuda"; the GPU where there is one), print a table and store it.

    Writes ``cost-<device>.csv`` and ``.json`` (versions, threads, date) into ``folder``, by default
    results/benchmarks, where only a run of all networks may go. ``networks``: names in :data:`NETWORKS`.
    ``rounds``: measurements per network (5 on a CPU, 30 on a GPU; 3 for those that take very long, which the
    second file names under ``few_rounds``). ``seconds`` is their median, beside it are the quartiles. ``flops_g``:
    1e9 operations as the profilers of 2019 count; ``macs_g``: true multiply-accumulates of the convolutions;
    ``products_g``: those of matrix products, which neither includes; ``peak_memory_mib``: what one image needs
    beyond the network.
    """
    device = devices.choose(device or "auto")
    rounds = rounds or (30 if torch.device(device).type == "cuda" else 5)
    names = networks or tuple(NETWORKS)
    if unknown := sorted(set(names) - set(NETWORKS)):
        raise ReproError(f"{', '.join(unknown)} cannot be measured; there are {', '.join(NETWORKS)}.")
    if folder is None and (set(names) != set(NETWORKS) or (height, width) != (HEIGHT, WIDTH)):
        raise ReproError("Some of the networks alone do not go into the study's table: name another folder (--out).")
    about = timing.describe_machine(device, rounds) | {"height": height, "width": width, "few_rounds": {}}
    image = torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(0)).to(device)
    memory, first, cases = {}, {}, {}
    for name in names:
        memory[name] = measure_memory_mib(name, height, width, device)
        run = functools.partial(_denoise, _build(name).to(device), image)
        once = timing.time_calls(run, device)  # chooses algorithms, fills caches
        slow = once > SLOW_SECONDS  # so long that such beginnings do not count
        first[name] = [once] if slow else []
        cases[name] = timing.Case(run, FEW_ROUNDS - 1 if slow else rounds)
        if slow:
            about["few_rounds"][name] = FEW_ROUNDS
        echo(f"{name}: {once:.2f} s the first time, {memory[name]:,.0f} MiB")
    seconds = timing.time_in_turns(cases, device)
    rows = []
    for name in names:
        samples, cost = first[name] + seconds[name], measure_cost(_build(name), height, width)
        rows.append(
            {
                "network": name,
                "height": height,
                "width": width,
                "parameters": cost.parameters,
                "flops_g": cost.flops / 1e9,
                "macs_g": cost.macs / 1e9,
                "products_g": cost.products / 1e9,
                **timing.summarise(samples, "seconds"),
                "rounds": len(samples),
                "peak_memory_mib": memory[name],
            }
        )
    table = pd.DataFrame(rows)
    echo(table.drop(columns=["height", "width"]).to_string(index=False, float_format="{:.4g}".format))
    timing.store(table, about, "cost", folder, 6, echo)
    return table


def _build(name: str) -> Denoiser:
    model, sizes = NETWORKS[name]
    return build(model, **sizes).eval()


@torch.no_grad()
def _denoise(net: Denoiser, image: Tensor) -> None:
    _run(net, image, SIGMA)


def measure_memory_mib(name: str, height: int, width: int, device: str) -> float:
    """Most memory that one image takes beyond the network itself, in MiB; NaN where the system does not tell."""
    if torch.device(device).type == "cuda":
        net = _build(name).to(device)
        image = torch.rand(1, 3, height, width, device=device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        _denoise(net, image)
        torch.cuda.synchronize(device)
        return (torch.cuda.max_memory_allocated(device) - before) / 2**20
    # A process of its own: the largest resident memory of this one may come from something else.
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_measure_resident_mib, (name, height, width, torch.get_num_threads()))


def _measure_resident_mib(name: str, height: int, width: int, threads: int) -> float:
    torch.set_num_threads(threads)
    net = _build(name)
    _denoise(net, torch.rand(1, 3, 16, 16))  # libraries and compiled kernels are loaded before it counts
    image = torch.rand(1, 3, height, width)
    before = timing.read_status_mib("VmRSS")
    _denoise(net, image)
    return max(timing.read_status_mib("VmHWM") - before, 0.0)
