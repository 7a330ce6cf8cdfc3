"""What one image costs: parameters, arithmetic under both conventions, seconds, memory; all networks in one run.

One row per network. Counts are exact and the same everywhere (:mod:`repro.study.costs`); seconds are of this
machine. The networks take turns, round by round, so that a machine that slows down slows all of them down.
Memory is what one image needs beyond the loaded network: on a CPU the largest resident memory of a fresh process
less what it had before, on a GPU what torch says it allocated.
"""

import json
import multiprocessing
import os
import re
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor

from repro import files
from repro.benchmark import _about
from repro.errors import ReproError
from repro.evaluate import _run
from repro.models import MODELS, build
from repro.models.base import Denoiser
from repro.study.costs import measure_cost

# SADNet's Table 7 in its order, then the others. The classical methods have no arithmetic to count.
NETWORKS = ("dncnn", "memnet", "rnan", "ridnet", "sadnet", "ffdnet", "ssdn", "unet", "gradnet", "scaoednet")
HEIGHT, WIDTH = 320, 480  # of the image in SADNet's Table 7
SIGMA = 50 / 255  # for networks that must be told; it has no influence on the cost
FEW_ROUNDS = 3  # for a network that takes longer than SLOW_SECONDS
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
    results/benchmarks. ``rounds``: measurements per network (7 on a CPU, 30 on a GPU; 3 for those that take very
    long). ``seconds`` is their median, beside it are the quartiles. ``flops_g``: 1e9 operations as the profilers
    of 2019 count; ``macs_g``: true multiply-accumulates of the convolutions; ``products_g``: those of matrix
    products, which neither includes.
    """
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    kind = torch.device(device).type
    rounds = rounds or (30 if kind == "cuda" else 7)
    names = networks or tuple(name for name in NETWORKS if name in MODELS)
    if unknown := sorted(set(names) - set(NETWORKS)):
        raise ReproError(f"{', '.join(unknown)} cannot be measured; there are {', '.join(NETWORKS)}.")
    about = _about(device, rounds) | {"height": height, "width": width}
    memory = {name: measure_memory_mib(name, height, width, device) for name in names}
    nets = {name: build(name).eval().to(device) for name in names}
    image = torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(0)).to(device)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for name, net in nets.items():
        once = time_once(net, image)  # chooses algorithms, fills caches
        echo(f"{name}: {once:.2f} s the first time")
        if once > SLOW_SECONDS:
            about.setdefault("few_rounds", []).append(name)
    for number in range(rounds):
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            if number < FEW_ROUNDS or name not in about.get("few_rounds", []):
                seconds[name].append(time_once(nets[name], image))
    rows = []
    for name, net in nets.items():
        cost, times = measure_cost(net.cpu(), height, width), pd.Series(seconds[name])
        rows.append(
            {
                "network": name,
                "height": height,
                "width": width,
                "parameters": cost.parameters,
                "flops_g": cost.flops / 1e9,
                "macs_g": cost.macs / 1e9,
                "products_g": cost.products / 1e9,
                "seconds": times.median(),
                "seconds_lower_quartile": times.quantile(0.25),
                "seconds_upper_quartile": times.quantile(0.75),
                "rounds": len(times),
                "peak_memory_mib": memory[name],
            }
        )
    table = pd.DataFrame(rows)
    folder = folder or files.results() / "benchmarks"
    stem = "cost-" + re.sub(r"[^a-z0-9]+", "-", re.sub(r"\(\w+\)", "", about["device"]).lower()).strip("-")
    with files.write_atomically(folder / f"{stem}.csv") as path:
        table.to_csv(path, index=False, float_format="%.6g")
    with files.write_atomically(folder / f"{stem}.json") as path:
        path.write_text(json.dumps(about, indent=2) + "\n")
    echo(table.drop(columns=["height", "width"]).to_string(index=False, float_format="{:.4g}".format))
    if about.get("load_before", 0) > 0.5:
        echo(f"Other processes were computing (load {about['load_before']}): measure again in quiet.")
    echo(f"Stored in {folder}: {stem}.csv, and {stem}.json with the machine and its versions.")
    return table


@torch.no_grad()
def time_once(net: Denoiser, image: Tensor) -> float:
    """Seconds for one image."""
    if image.is_cuda:
        torch.cuda.synchronize(image.device)
    began = time.perf_counter()
    _run(net, image, SIGMA)
    if image.is_cuda:
        torch.cuda.synchronize(image.device)
    return time.perf_counter() - began


def measure_memory_mib(name: str, height: int, width: int, device: str) -> float:
    """Most memory that one image takes beyond the network itself, in MiB; NaN where the system does not tell."""
    if torch.device(device).type == "cuda":
        net = build(name).eval().to(device)
        image = torch.rand(1, 3, height, width, device=device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        time_once(net, image)
        return (torch.cuda.max_memory_allocated(device) - before) / 2**20
    # A process of its own: the largest resident memory of this one may come from something else.
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_measure_resident_mib, (name, height, width, torch.get_num_threads()))


def _measure_resident_mib(name: str, height: int, width: int, threads: int) -> float:
    torch.set_num_threads(threads)
    net = build(name).eval()
    time_once(net, torch.rand(1, 3, 16, 16))  # libraries and compiled kernels are loaded before it counts
    image = torch.rand(1, 3, height, width)
    before = _read_status_mib("VmRSS")
    time_once(net, image)
    return max(_read_status_mib("VmHWM") - before, 0.0)


def _read_status_mib(field: str) -> float:
    """A line of /proc/self/status, which only Linux has."""
    if not os.path.exists("/proc/self/status"):
        return float("nan")
    found = re.search(rf"^{field}:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    return int(found[1]) / 1024 if found else float("nan")
