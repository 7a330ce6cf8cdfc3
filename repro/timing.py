"""How the benchmarks measure time, what they tell of the machine, and how they store their tables."""

import json
import os
import platform
import re
import time
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pandas as pd
import torch

from repro import files
from repro.ops import explain


@dataclass(frozen=True)
class Case:
    """Something to be timed."""

    call: Callable[[], object]
    rounds: int  # measurements
    repeats: int = 1  # calls within one measurement, for what takes very short


def time_calls(call: Callable[[], object], device: str | torch.device, repeats: int = 1) -> float:
    """Seconds per call. On a GPU the clock starts and stops when all work that was handed over is done."""
    cuda = torch.device(device).type == "cuda"
    if cuda:
        torch.cuda.synchronize(device)
    began = time.perf_counter()
    for _ in range(repeats):
        call()
    if cuda:
        torch.cuda.synchronize(device)
    return (time.perf_counter() - began) / repeats


def time_in_turns(cases: Mapping[Hashable, Case], device: str | torch.device) -> dict[Hashable, list[float]]:
    """Seconds per call of every case, as many times as it has rounds.

    The cases take turns, and each round begins with another one: a machine that slows down slows all of them down.
    """
    keys = list(cases)
    seconds: dict[Hashable, list[float]] = {key: [] for key in keys}
    for number in range(max((case.rounds for case in cases.values()), default=0)):
        first = number % len(keys)
        for key in keys[first:] + keys[:first]:
            if number < cases[key].rounds:
                seconds[key].append(time_calls(cases[key].call, device, cases[key].repeats))
    return seconds


def summarise(samples: list[float], unit: str, factor: float = 1.0) -> dict[str, float]:
    """Median and quartiles of ``samples`` times ``factor``, named ``unit``, ``unit``_lower_quartile and so on."""
    values = factor * pd.Series(samples, dtype=float)
    lower, upper = values.quantile(0.25), values.quantile(0.75)
    return {unit: values.median(), f"{unit}_lower_quartile": lower, f"{unit}_upper_quartile": upper}


def describe_machine(device: str, rounds: int) -> dict:
    """The machine and the software: what a reader needs to judge the numbers."""
    kind = torch.device(device).type

    def installed(name: str) -> str | None:
        try:
            return version(name)
        except PackageNotFoundError:
            return None

    about = {
        "device": torch.cuda.get_device_name(device) if kind == "cuda" else f"cpu {name_processor()}",
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "rounds": rounds,
        "runs": explain(kind).splitlines()[0],
        "versions": {
            "python": platform.python_version(),
            **{name: installed(name) for name in ("repro", "torch", "torchvision", "cuda-core")},
        },
        "system": platform.platform(),
    }
    if kind == "cuda":
        about["versions"]["cuda"] = torch.version.cuda
        about["tf32_convolutions"] = torch.backends.cudnn.allow_tf32
        about["tf32_products"] = torch.backends.cuda.matmul.allow_tf32
    else:
        about["device"] += f" {torch.get_num_threads()} threads"
        about["threads"] = torch.get_num_threads()
        about["load_before"] = round(os.getloadavg()[0], 2)  # of one minute; above 0.5, somebody else was computing
    return about


def store(
    table: pd.DataFrame, about: dict, subject: str, folder: Path | None, digits: int, echo: Callable[[str], None]
) -> None:
    """Write ``<subject>-<device>.csv`` and ``.json`` into ``folder`` (results/benchmarks), and say so.

    Each file appears when it is complete; what stood there before stays until then.
    """
    folder = folder or files.results() / "benchmarks"
    device = re.sub(r"[^a-z0-9]+", "-", re.sub(r"\(\w+\)", "", about["device"]).lower()).strip("-")
    stem = f"{subject}-{device}"
    with files.write_atomically(folder / f"{stem}.csv") as path:
        table.to_csv(path, index=False, float_format=f"%.{digits}g")
    with files.write_atomically(folder / f"{stem}.json") as path:
        path.write_text(json.dumps(about, indent=2) + "\n")
    if about.get("load_before", 0) > 0.5:
        echo(
            f"In the minute before, other processes were computing (load {about['load_before']}): unless they had "
            "ended, measure again in quiet."
        )
    echo(f"Stored in {folder}: {stem}.csv, and {stem}.json with the machine and its versions.")


def load(subject: str, folder: Path | None = None) -> list[tuple[dict, pd.DataFrame]]:
    """What :func:`store` wrote of one subject, a pair (about, table) per device, by name; CPUs come first."""
    folder = folder or files.results() / "benchmarks"
    found = sorted(folder.glob(f"{subject}-*.csv"), key=lambda path: (f"{subject}-cpu-" not in path.name, path.name))
    pairs = [(path.with_suffix(".json"), path) for path in found if path.with_suffix(".json").exists()]
    return [(json.loads(about.read_text()), pd.read_csv(table)) for about, table in pairs]


def read_status_mib(field: str) -> float:
    """A line of /proc/self/status in MiB, such as VmHWM, the largest resident memory so far; NaN but on Linux."""
    if not os.path.exists("/proc/self/status"):
        return float("nan")
    found = re.search(rf"^{field}:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    return int(found[1]) / 1024 if found else float("nan")


def name_processor() -> str:
    """What the system calls the processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
