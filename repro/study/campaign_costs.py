"""What training at a budget costs on 1, 8 or 64 devices: the planned arithmetic divided by a measured throughput.

    arithmetic of a run   = steps x batch x multiply-adds of one patch, forward
    throughput            = the same of a run that was timed, divided by its seconds; on a CPU by its threads, too
    seconds on one device = arithmetic / throughput
    seconds on n devices  = seconds on one / (n x EFFICIENCY_PER_DOUBLING ** log2(n))

A device is a GPU, or one core of a CPU. The backward pass, the optimiser and the data are in the measured seconds, so
that no factor has to be assumed for them. Two things are assumed: that a device keeps its throughput when the patches
or the batch are larger, and how well several devices share one run (:data:`EFFICIENCY_PER_DOUBLING`). Evaluation is
left out; it takes minutes.
"""

import hashlib
import json
import math
import re
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch

from repro import files, timing
from repro.errors import ReproError
from repro.study import records
from repro.study.costs import measure_cost
from repro.study.experiments import Experiment
from repro.study.records import Record
from repro.train_config import TrainConfig

EFFICIENCY_PER_DOUBLING = 0.9
"""Assumed, not measured: what is left of the throughput per device each time their number in one run doubles."""

DEVICES = (1, 8, 64)


@dataclass(frozen=True)
class Throughput:
    """Forward multiply-adds of one training, per second."""

    device: str
    method: str
    precision: str  # "32" or "bf16", as in repro.train_config.TrainConfig
    multiply_adds_per_second: float
    source: str  # the record or benchmark that was timed
    threads: int = 1  # of a CPU; a GPU counts as one

    @property
    def is_accelerator(self) -> bool:
        return records.names_accelerator(self.device)

    @property
    def per_device(self) -> float:
        """What a GPU does, or one core of a CPU."""
        return self.multiply_adds_per_second / (1 if self.is_accelerator else self.threads)


@dataclass(frozen=True)
class Run:
    """One training to be paid for."""

    name: str
    method: str
    precision: str
    batch: int
    multiply_adds: float  # forward, over all of its steps


@dataclass(frozen=True)
class Plan:
    """Runs side by side on ``devices``, at most ``devices_per_run`` of which share a run."""

    devices: int
    devices_per_run: int
    seconds: float  # until the last run is finished
    device_seconds: float  # in which a device computes; idle ones are not counted


def list_runs(experiments: Sequence[Experiment], budget: str = "paper") -> list[Run]:
    """The trainings of a budget that is given in steps; those that end by the clock cost what the clock says."""
    runs = []
    for experiment in experiments:
        if experiment.budget != budget or experiment.train is None:
            continue
        for seed in experiment.seeds:
            config = experiment.train_config(seed)
            if config.steps is None:
                continue
            name = f"{experiment.name}-seed{seed}"
            runs.append(Run(name, config.model, config.precision, config.batch, config.steps * count_step(config)))
    return runs


def count_step(config: TrainConfig) -> int:
    """Multiply-adds of one step of a training, forward."""
    return config.batch * _count(config.model, config.colour, config.sizes, config.patch)


def measure_throughputs(found: Iterable[Record] | None = None, benchmarks: Path | None = None) -> list[Throughput]:
    """What records of trainings on one device tell, then what benchmarks of a training step do.

    ``benchmarks`` is their folder, results/benchmarks by default.
    """
    return measure_records(records.load() if found is None else found) + _read_step_benchmarks(benchmarks)


def measure_records(found: Iterable[Record]) -> list[Throughput]:
    """What records of trainings on one device tell; other records tell nothing."""
    measured = []
    for record in found:
        settings = {name: entry["value"] for name, entry in record["hyperparameters"].items()}
        if not (record["steps"] and record["seconds"]) or "patch" not in settings or _is_shared(record["device"]):
            continue
        macs = _count(record["method"], record["colour"], settings["sizes"], settings["patch"])
        rate = record["steps"] * settings["batch"] * macs / record["seconds"]
        threads = record["threads"]
        measured.append(
            Throughput(record["device"], record["method"], settings["precision"], rate, record.name, threads)
        )
    return measured


def _read_step_benchmarks(folder: Path | None) -> list[Throughput]:
    measured = []
    for about, table in timing.load("step", folder):
        work = about["batch"] * _count(about["model"], "rgb", about["sizes"], about["patch"])
        for setting, precision in (("in place", "32"), ("bf16", "bf16")):
            for seconds in table.loc[table["setting"] == setting, "seconds"]:
                source = f"benchmark of a step of {about['model']}"
                threads = about.get("threads", 1)
                measured.append(Throughput(about["device"], about["model"], precision, work / seconds, source, threads))
    return measured


def choose_throughput(run: Run, measured: Sequence[Throughput]) -> Throughput | None:
    """The measurement that says most about ``run``: on an accelerator, of its precision, of its method, the fastest
    of those; None where nothing was measured."""
    return max(
        measured,
        key=lambda t: (
            t.is_accelerator,
            t.precision == run.precision,
            t.method == run.method,
            t.per_device,
        ),
        default=None,
    )


def plan(
    runs: Sequence[Run],
    measured: Sequence[Throughput],
    devices: int,
    efficiency_per_doubling: float = EFFICIENCY_PER_DOUBLING,
) -> Plan:
    """The earliest end: as many devices per run as shorten the whole, the longest runs first.

    A run takes a number of devices that divides its batch. ValueError without runs or without a measurement.
    """
    if not (runs and measured):
        raise ValueError("A plan needs runs, and a throughput.")
    alone = {run: run.multiply_adds / choose_throughput(run, measured).per_device for run in runs}
    plans = []
    for most in range(1, devices + 1):
        shares = {run: max(n for n in range(1, most + 1) if run.batch % n == 0) for run in runs}
        seconds = {run: alone[run] / speed_up(shares[run], efficiency_per_doubling) for run in runs}
        ends = [0.0] * (devices // most)
        for run in sorted(runs, key=seconds.get, reverse=True):
            first = ends.index(min(ends))
            ends[first] += seconds[run]
        paid = sum(seconds[run] * shares[run] for run in runs)
        plans.append(Plan(devices, max(shares.values()), max(ends), paid))
    return min(plans, key=lambda plan: (plan.seconds, plan.devices_per_run))


def speed_up(devices: int, efficiency_per_doubling: float = EFFICIENCY_PER_DOUBLING) -> float:
    """How many times faster than one device so many are at one run, under the assumption."""
    return devices * efficiency_per_doubling ** math.log2(devices)


def _count(model: str, colour: str, sizes: dict, patch: int) -> int:
    """Multiply-adds of one forward pass of a patch, those of matrix products included."""
    return _count_described(model, json.dumps({"channels": {"rgb": 3, "gray": 1}[colour]} | sizes), patch)


@cache
def _count_described(model: str, sizes: str, patch: int) -> int:
    """The count, kept in the cache: it takes up to a second for a network, and the list has dozens of them."""
    from repro.models import build

    key = hashlib.sha256(f"{_identify_rules()} {model} {sizes} {patch}".encode()).hexdigest()
    kept = files.cache() / "multiply-adds" / key
    with suppress(OSError, ValueError):
        return int(kept.read_text())
    cost = measure_cost(build(model, **json.loads(sizes)), patch, patch)
    with suppress(ReproError), files.write_atomically(kept) as path:  # a cache that cannot be written costs time alone
        path.write_text(str(cost.macs + cost.products))
    return cost.macs + cost.products


@cache
def _identify_rules() -> str:
    """A checksum of all that a count follows from: the networks, the rules of counting, and torch's."""
    package = Path(__file__).parents[1]
    sources = [*sorted((package / "models").glob("*.py")), package / "study" / "costs.py"]
    return f"{''.join(files.sha256(source) for source in sources)} {torch.__version__}"


def _is_shared(device: str) -> bool:
    """Whether a record is of several processes or of several machines, one after the other: repro.study.campaign writes
    "8 x NVIDIA ..." and "..., then ..."."""
    return re.match(r"\d+ x ", device) is not None or ", then " in device
