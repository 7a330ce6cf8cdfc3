import json

import pandas as pd
import pytest
import torch

from repro import benchmark_step
from repro.benchmark_step import KINDS, OTHER, SETTINGS, Step, bench_step
from repro.errors import ReproError

SMALL = {"width": 8, "blocks": 1, "stages": 2}


def test_one_row_per_setting(tmp_path, monkeypatch):
    monkeypatch.setattr(benchmark_step, "_measure_memory_mib", lambda *arguments: 1.0)
    monkeypatch.setattr(benchmark_step, "measure_speeds", lambda device, dtype: {"operations": 1e15, "bytes": 1e12})
    arguments = {"sizes": SMALL, "batch": 2, "patch": 16, "rounds": 2, "folder": tmp_path}
    table = bench_step("scaoednet", "cpu", **arguments, echo=str)
    (path,) = tmp_path.glob("step-scaoednet-cpu-*.csv")
    assert list(pd.read_csv(path)) == list(table) and list(table.setting) == list(SETTINGS)
    assert (table.seconds > 0).all() and (table.floor_ratio > 1).all()
    shares = table[[f"share_{kind}" for kind in (*KINDS, OTHER)]]
    assert shares.sum(axis=1).sub(1).abs().max() < 1e-6 and (shares >= 0).all(axis=None)
    assert json.loads(path.with_suffix(".json").read_text())["sizes"] == SMALL


@pytest.mark.parametrize("name", SETTINGS)
def test_every_setting_gives_the_same_gradients(name):
    def gradient(name):
        step = Step("scaoednet", SMALL, 2, 16, "cpu", **SETTINGS[name])
        step.net.zero_grad = lambda: None
        step.run()
        return torch.cat([p.grad.flatten() for p in step.net.parameters()])

    expected = gradient("contiguous")
    error = (gradient(name) - expected).norm() / expected.norm()
    assert error < (0.1 if SETTINGS[name].get("bf16") else 1e-4)


def test_convolutions_and_reductions_are_told_apart():
    class Event:
        def __init__(self, *names):
            self.name = names[0]
            self.cpu_parent = Event(*names[1:]) if names[1:] else None

    backward = "autograd::engine::evaluate_function: "
    assert benchmark_step._classify(Event("aten::sum", backward + "ConvolutionBackward0")) == "convolutions"
    assert benchmark_step._classify(Event("aten::div", backward + "MeanBackward1")) == "reductions"
    assert benchmark_step._classify(Event("aten::amax")) == "reductions"
    assert benchmark_step._classify(Event("aten::mul", backward + "MulBackward0")) == OTHER


@pytest.mark.slow
def test_checkpointing_saves_memory():
    plain, saving = (
        benchmark_step._measure_memory_mib("scaoednet", {"width": 32, "stages": 4}, 4, 64, "cpu", SETTINGS[name])
        for name in ("in place", "checkpointing")
    )
    assert saving < 0.7 * plain


def test_what_cannot_be_measured_is_said(tmp_path):
    with pytest.raises(ReproError, match="bm3d has no training step"):
        bench_step("bm3d", folder=tmp_path)
    with pytest.raises(ReproError, match="no setting 'fp4'"):
        bench_step("sadnet", settings=("fp4",), folder=tmp_path)
    with pytest.raises(ReproError, match="only scaoednet"):
        bench_step("sadnet", settings=("checkpointing",), folder=tmp_path)
