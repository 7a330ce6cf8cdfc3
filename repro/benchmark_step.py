"""What one training step costs and where its time goes: one network under several settings, in one run.

One row per setting. The settings take turns, round by round, so that a machine that slows down slows all of
them down. Beside the seconds stand the share of each kind of work, from a profile of one step; the largest
memory; and the time that the network's multiply-accumulates alone would take at the speed of a large matrix
product on this machine, measured in the same run.
"""

import multiprocessing
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import torch
from torch import nn
from torch.nn.functional import l1_loss

from repro import devices, timing
from repro.benchmark import measure_speeds
from repro.errors import ReproError, unknown_name
from repro.models import build
from repro.study.costs import measure_cost

# Each setting changes one thing of the one before it, but for the last two, which start from "in place".
SETTINGS: dict[str, dict] = {
    "contiguous": {"channels_last": False, "in_place": False},
    "channels last": {"channels_last": True, "in_place": False},
    "in place": {"channels_last": True, "in_place": True},
    "checkpointing": {"channels_last": True, "in_place": True, "checkpointing": True},
    "bf16": {"channels_last": True, "in_place": True, "bf16": True},
}
NETWORKS = ("sadnet", "ssdn", "unet", "gradnet", "scaoednet", "dncnn")
SIGMA = 50 / 255  # for networks that must be told; it has no influence on the cost

# Kinds of work by parts of the names that the profiler uses, in lower case, forward and backward, the first that
# fits. A sum inside the backward pass of a convolution is that convolution's.
KINDS: dict[str, tuple[str, ...]] = {
    "convolutions": ("conv", "addmm", "bmm", "aten::mm", "mmbackward", "repro::"),
    "reductions": tuple(start + name for name in ("mean", "sum", "amax", "var") for start in ("aten::", ": ")),
    "copies": ("copy", "clone", "aten::cat", "catbackward", "pixel_shuffle", "pixelshuffle", "unshuffle"),
}
OTHER = "element-wise"


def bench_step(
    model: str,
    device: str | None = None,
    *,
    sizes: dict | None = None,
    batch: int = 16,
    patch: int = 64,
    rounds: int | None = None,
    settings: tuple[str, ...] | None = None,
    folder: Path | None = None,
    echo: Callable[[str], None] = print,
) -> pd.DataFrame:
    """Time a step of ``model`` on ``batch`` colour patches of ``patch`` x ``patch``, print a table and store it.

    A step is the network's answer, its mean absolute error and all gradients; optimiser and data are not in it.
    Writes ``step-<model>-<device>.csv`` and ``.json`` into ``folder``, by default results/benchmarks.
    ``rounds``: measurements per setting (3 on a CPU, 20 on a GPU); ``seconds`` is their median, beside it are the
    quartiles. ``floor_ratio`` is the time divided by that of three times the forward pass's multiply-accumulates
    at the speed of a matrix product (1 cannot be beaten). ``peak_memory_mib`` is of a fresh process on a CPU,
    and what torch allocated on a GPU; the network and its gradients are in it.

    Raises ReproError for a network that is not one of NETWORKS and for a setting that it does not have.
    """
    device = devices.choose(device or "auto")
    kind = torch.device(device).type
    if model not in NETWORKS:
        raise ReproError(f"{model} has no training step to measure; there are {', '.join(NETWORKS)}.")
    sizes = sizes or {}
    names = settings or tuple(name for name in SETTINGS if name != "checkpointing" or model == "scaoednet")
    if unknown := sorted(set(names) - set(SETTINGS)):
        raise unknown_name("setting", unknown[0], SETTINGS)
    if model != "scaoednet" and "checkpointing" in names:
        raise ReproError(f"{model} does not recompute anything; only scaoednet has the setting 'checkpointing'.")
    rounds = rounds or (20 if kind == "cuda" else 3)
    about = timing.describe_machine(device, rounds)
    about |= {"model": model, "sizes": sizes, "batch": batch, "patch": patch}
    dtypes = {name: torch.bfloat16 if SETTINGS[name].get("bf16") else torch.float32 for name in names}
    speeds = {dtype: measure_speeds(device, dtype) for dtype in set(dtypes.values())}
    about["speeds"] = {str(dtype).removeprefix("torch."): speed for dtype, speed in speeds.items()}
    operations = 2 * 3 * batch * measure_cost(build(model, **sizes), patch, patch).macs
    memory, cases, steps = {}, {}, {}
    for name in names:
        memory[name] = _measure_memory_mib(model, sizes, batch, patch, device, SETTINGS[name])
        steps[name] = Step(model, sizes, batch, patch, device, **SETTINGS[name])
        once = timing.time_calls(steps[name].run, device)  # chooses algorithms, fills caches
        cases[name] = timing.Case(steps[name].run, rounds)
        echo(f"{name}: {once:.2f} s the first time, {memory[name]:,.0f} MiB")
    seconds = timing.time_in_turns(cases, device)
    rows = []
    for name in names:
        summary = timing.summarise(seconds[name], "seconds")
        floor = operations / speeds[dtypes[name]]["operations"]
        shares = {f"share_{kind}": share for kind, share in steps[name].profile().items()}
        about_setting = {"setting": name, **summary, "rounds": rounds, "floor_ratio": summary["seconds"] / floor}
        rows.append(about_setting | {"peak_memory_mib": memory[name], **shares})
    table = pd.DataFrame(rows)
    echo(table.to_string(index=False, float_format="{:.3g}".format))
    timing.store(table, about, f"step-{model}", folder, 6, echo)
    return table


class Step:
    """A network and a batch, ready to be trained on."""

    def __init__(self, model: str, sizes: dict, batch: int, patch: int, device: str, **setting: bool):
        layout = torch.channels_last if setting["channels_last"] else torch.contiguous_format
        if setting.get("checkpointing"):
            sizes = sizes | {"checkpointing": True}
        torch.manual_seed(0)
        self.net = build(model, **sizes).to(device, memory_format=layout).train()
        for part in self.net.modules():
            if isinstance(part, nn.ReLU):
                part.inplace = part.inplace and setting["in_place"]
        self.noisy, self.clean = (torch.rand(batch, 3, patch, patch, device=device) for _ in range(2))
        self.noisy = self.noisy.to(memory_format=layout)
        self.cast = torch.autocast(torch.device(device).type, torch.bfloat16, enabled=setting.get("bf16", False))

    def run(self) -> None:
        told = {"sigma": SIGMA} if self.net.needs_sigma else {}
        with self.cast:
            loss = l1_loss(self.net(self.noisy, **told), self.clean)
        loss.backward()
        self.net.zero_grad()

    def profile(self) -> dict[str, float]:
        """The share of every kind of work in one step's time, of which they are the whole."""
        activity = torch.profiler.ProfilerActivity
        cuda = self.clean.is_cuda
        with torch.profiler.profile(activities=[activity.CPU, *[activity.CUDA] * cuda]) as profile:
            self.run()
        shares = dict.fromkeys([*KINDS, OTHER], 0.0)
        for event in profile.events():
            spent = event.self_device_time_total if cuda else event.self_cpu_time_total
            shares[_classify(event)] += spent
        whole = sum(shares.values())
        return {kind: spent / whole for kind, spent in shares.items()}


def _classify(event) -> str:
    """The kind of work of a profiler's event: the first of KINDS that it or what it is part of belongs to."""
    names = []
    while event is not None:
        names.append(event.name.lower())
        event = event.cpu_parent
    for kind, marks in KINDS.items():
        if any(mark in name for name in names for mark in marks):
            return kind
    return OTHER


def _measure_memory_mib(model, sizes, batch, patch, device, setting) -> float:
    if torch.device(device).type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        Step(model, sizes, batch, patch, device, **setting).run()
        return (torch.cuda.max_memory_allocated(device) - before) / 2**20
    # A process of its own: the largest resident memory of this one may come from something else.
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_measure_resident_mib, (model, sizes, batch, patch, setting, torch.get_num_threads()))


def _measure_resident_mib(model, sizes, batch, patch, setting, threads) -> float:
    torch.set_num_threads(threads)
    Step(model, sizes, 1, 16, "cpu", **setting).run()  # libraries and kernels are loaded before it counts
    before = timing.read_status_mib("VmRSS")
    Step(model, sizes, batch, patch, "cpu", **setting).run()
    return max(timing.read_status_mib("VmHWM") - before, 0.0)
