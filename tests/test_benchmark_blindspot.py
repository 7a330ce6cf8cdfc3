"""The benchmark of SSDN's training step: that it counts and times what it says."""

import json

import pandas as pd
import pytest
import torch

from repro import benchmark_blindspot, timing
from repro.benchmark_blindspot import STEPS, Step, bench_blindspot
from repro.models import build
from repro.study.costs import measure_cost


@pytest.mark.parametrize("name", STEPS)
def test_operations_are_three_times_the_forward_passes_but_for_the_first_layers(name):
    model, sizes, objective = STEPS[name]
    layers = Step(model, sizes | {"width": 4}, objective, 2, 32, "cpu").list_convolutions()
    macs = 2 * measure_cost(build(model, width=4, **sizes), 32, 32).macs
    blind = [layer for layer in layers if not layer.input.requires_grad]
    first = sum(2 * layer.gradient.numel() * layer.weight[0].numel() for layer in blind)
    assert sum(layer.operations for layer in layers) == 6 * macs - first


def test_a_step_learns_and_layers_have_the_networks_shapes():
    torch.manual_seed(0)
    step = Step("ssdn", {"level": 25, "width": 4}, STEPS["SSDN, known level"][2], 2, 32, "cpu")
    before = [p.detach().clone() for p in step.net.parameters()]
    step.run()
    assert all(not torch.equal(a, b) for a, b in zip(before, step.net.parameters(), strict=True))
    shapes = [tuple(layer.gradient.shape) for layer in step.list_convolutions()]
    # Two views of two images at a time through 17 layers, twice; then three 1x1 layers for all.
    assert len(shapes) == 2 * 17 + 3
    assert shapes[0] == (4, 4, 32, 32)
    assert shapes[-1] == (2, 9, 32, 32)


def test_the_table(tmp_path, monkeypatch):
    monkeypatch.setattr(benchmark_blindspot, "measure_speeds", lambda *_: {"operations": 1e9})
    seconds = {(name, kind): [2.0 + k, 4.0 + k] for k, name in enumerate(STEPS) for kind in ("step", "convolutions")}
    monkeypatch.setattr(timing, "time_in_turns", lambda cases, device: {key: seconds[key] for key in cases})
    table = bench_blindspot("cpu", batch=1, patch=32, width=2, rounds=2, folder=tmp_path, echo=lambda _: None)
    assert table["training"].tolist() == list(STEPS)
    assert (table["share_of_floor"] == 1).all()
    assert table["n2v_ratio"].tolist() == pytest.approx([(3 + k) / 4 for k in range(len(STEPS))])
    assert table["share_of_product"].tolist() == pytest.approx((table["gflop"] / table["step_s"]).tolist())
    (stored,) = tmp_path.glob("blindspot-*.csv")
    assert pd.read_csv(stored)["training"].tolist() == list(STEPS)
    assert json.loads(stored.with_suffix(".json").read_text())["patch"] == 32
