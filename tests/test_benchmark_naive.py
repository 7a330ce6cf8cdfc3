import json

import pandas as pd
import pytest

from repro import benchmark_naive, gradient_pages, timing
from repro.benchmark_naive import DENOISERS, NETWORK, REFERENCE, bench_naive


def test_a_row_for_the_network_and_for_each_naive_denoiser(tmp_path, monkeypatch):
    monkeypatch.setattr(benchmark_naive, "SIZES", {"width": 4, "modules": 1, "units": 1})
    table = bench_naive(batch=2, patch=16, rounds=1, folder=tmp_path, echo=str)
    (path,) = tmp_path.glob("naive-cpu-*.csv")
    assert list(table["what"]) == [NETWORK, *DENOISERS] and (table["seconds"] > 0).all()
    took = pd.read_csv(path).set_index("what")
    assert took.loc[REFERENCE, "step_ratio"] == 1 and pd.isna(took.loc[NETWORK, "step_ratio"])
    whole = took["seconds"] + took.loc[NETWORK, "seconds"]
    assert took.loc["BM3D", "step_ratio"] == pytest.approx(whole["BM3D"] / whole[REFERENCE], rel=1e-2)
    assert json.loads(path.with_suffix(".json").read_text())["patch"] == 16
    monkeypatch.setattr(timing, "load", lambda subject: [(json.loads(path.with_suffix(".json").read_text()), table)])
    assert "2 patches of 16 pixels on cpu" in gradient_pages.describe_naive_times()


def test_a_filter_is_asked_anew_every_time(monkeypatch):
    """Kept estimates would make it look as fast as a file."""
    asked = []

    class Filter:
        weightless, needs_sigma = True, True

    monkeypatch.setattr(benchmark_naive.naive, "recall", lambda denoiser, noisy, sigma, folder: asked.append(folder))
    for _ in range(2):
        benchmark_naive._estimate(Filter(), None)
    assert asked[0] != asked[1] and not asked[0].exists()
