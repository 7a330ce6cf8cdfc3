"""The chapter on comparators and costs: what it shows with and without a benchmark, and why a method is missing."""

import numpy as np
import pandas as pd
import pytest

from repro import cost_pages, plots, timing
from repro.benchmark_cost import NETWORKS
from repro.data import catalog
from repro.study import claims, comparators, experiments, records, verdicts
from repro.study.costs import Cost
from repro.study.verdicts import Study

LEDGER = claims.load()


@pytest.fixture(scope="module")
def settled():
    return LEDGER.join(verdicts.load().drop(columns="id"))


@pytest.fixture
def counted(monkeypatch):
    """Counts made up: the real ones take some seconds."""
    counts = {name: Cost(1000 + n, 2 * n + 3, n + 1, n) for n, name in enumerate(NETWORKS)}
    monkeypatch.setattr(cost_pages, "count_all", lambda *size: counts)
    return counts


@pytest.fixture
def benchmark(tmp_path):
    rows = [{"network": name, "seconds": 0.1 * (n + 1)} for n, name in enumerate(NETWORKS)]
    table = pd.DataFrame(rows).assign(
        seconds_lower_quartile=0.05, seconds_upper_quartile=9.0, rounds=5, peak_memory_mib=123.0
    )
    about = {"device": "cpu Some Processor 2 threads", "threads": 2, "date": "2020-02-02T00:00:00", "load_before": 0.1}
    about |= {"versions": {"torch": "2.0"}, "height": 320, "width": 480, "few_rounds": {"rnan": 3}}
    timing.store(table, about, "cost", tmp_path / "benchmarks", 6, lambda line: None)
    return tmp_path / "benchmarks"


def test_without_a_benchmark_one_sentence_says_so(settled, counted, tmp_path):
    assert cost_pages.describe_times(settled, tmp_path) == cost_pages.NO_BENCHMARK
    page = cost_pages.describe_figure(settled, Study(LEDGER, [], []), tmp_path, tmp_path)
    assert cost_pages.NO_BENCHMARK in page and page.count("```{image}") == 1
    assert (tmp_path / "cost_macs.png").exists() and not (tmp_path / "cost_seconds.png").exists()


def test_with_a_benchmark_there_are_times_and_a_second_panel(settled, counted, benchmark, tmp_path):
    page = cost_pages.describe_times(settled, benchmark)
    assert "Some Processor" in page and "1.07" in page  # RNAN's printed 1072.2 ms
    assert "RNAN: measured less often" in page
    page = cost_pages.describe_figure(settled, Study(LEDGER, [], []), tmp_path, benchmark)
    assert page.count("```{image}") == 2 and cost_pages.NO_BENCHMARK not in page
    assert "RNAN printed 29.58 dB at 0.3;" in page  # the third network of the benchmark


def test_a_record_is_found_by_its_network_and_its_parameters(make_cost_record, settled, counted):
    ours = make_cost_record("ours", "dncnn", counted["dncnn-20"].parameters)
    other = make_cost_record("other", "dncnn", 5)
    points = cost_pages.collect_points(settled, Study(LEDGER, [], [ours, other]))
    measured = points[points["kind"] == "measured"]
    assert measured[["network", "psnr_db"]].to_numpy().tolist() == [["dncnn-20", 29.0]]
    assert set(points.loc[points["kind"] == "printed", "method"]) == set(cost_pages.PRINTED)


@pytest.fixture
def make_cost_record(tmp_path):
    def make(experiment, method, parameters):
        folder = tmp_path / "runs" / experiment / "seed0"
        folder.mkdir(parents=True)
        metrics = pd.DataFrame({metric: 29.0 for metric in records.METRICS}, index=range(3))
        metrics.insert(0, "image", ["a", "b", "c"])
        metrics["evaluation"] = "kodak24-50"
        metrics.to_csv(folder / "metrics.csv", index=False)
        about = {"name": "kodak24-50", "dataset": "kodak24", "sigma_255": 50, "clip": False, "round_8bit": False}
        content = {
            "experiment": experiment, "method": method, "variant": "full", "colour": "rgb", "sigma_255": 50, "seed": 0,
            "budget": "cpu", "hyperparameters": {}, "commit": "none", "versions": {}, "device": "none", "threads": 1,
            "started": "now", "seconds": 0.0, "steps": 0, "peak_memory_mib": 1, "parameters": parameters, "data": [],
            "evaluations": [about | {"patch": None} | records.summarise(metrics)],
            "command": f"repro campaign --only {experiment}",
        }  # fmt: skip
        records.write(content, folder)
        return records.read(folder)

    return make


def test_every_score_stands_beside_its_printed_value_and_a_miss_is_explained(settled):
    page = cost_pages.describe_rescored(settled)
    scored = settled[settled["method"].isin(comparators.COMPARATORS) & (settled["metric"] == "psnr")]
    scored = scored[(scored["word"] != verdicts.NOT_TESTABLE) & scored["source"].isin(["001", "004"])]
    assert page.count('<span class="verdict') == len(scored) > 10
    missed = scored[scored["word"] != verdicts.REPRODUCED]
    assert page.count("\n- ") == len(missed)
    assert all(missed["difference"].abs() > verdicts.PSNR_DB - 0.005)


def test_every_compared_method_is_listed_and_the_untested_are_grey(settled):
    page = cost_pages.describe_methods(settled)
    methods = comparators.find_compared(LEDGER)
    assert len(methods) > 20 and set(cost_pages.PRINTED) - {"SADNet"} <= set(methods)
    for method in methods:
        assert f">{method}</td>" in page
    assert page.count('class="untested"') == page.count(">nothing</td>") > 5


@pytest.mark.parametrize("method", comparators.find_compared(LEDGER))
def test_a_method_is_scored_or_has_a_reason(method):
    reason = comparators.explain(method, LEDGER)
    weights = method in comparators.COMPARATORS and not comparators.COMPARATORS[method].reason
    assert weights != bool(reason)
    if "only" in reason and "not looked for" in reason:  # such a method has no row on images that are here
        rows = claims.find(LEDGER, method=method, metric=["psnr", "ssim"])
        assert all(claims.dataset_name(row) is None for _, row in rows.iterrows())


def test_a_level_without_weights_is_named():
    claim = LEDGER.loc["001-t3-kodak24-70-dncnn"]
    assert comparators.explain_claim(claim).endswith("sigma 25, 50, and blind for levels up to 55, none for 70")
    assert "holds no weights" in comparators.explain_claim(LEDGER.loc["001-t3-kodak24-70-rnan"])


def test_a_missed_value_of_the_blind_network_is_explained():
    claim = LEDGER.loc["001-t3-kodak24-30-dncnn"]
    about = {"psnr_db": 31.29, "psnr_rounded_db": 31.28, "psnr_truncated_db": 31.26}
    reason = comparators.explain_difference(claim, "dncnn-colour-blind-published", about)
    assert "blind" in reason and "brings it no nearer" in reason
    about["psnr_truncated_db"] = 31.38
    assert "truncated to 8 bits it is 31.38" in comparators.explain_difference(
        claim, "dncnn-colour-blind-published", about
    )
    assert comparators.explain_difference(claim, "", about) == ""


def test_real_noise_is_listed_for_every_published_network():
    wanted = {"dncnn-colour-blind-published", "ffdnet-colour-real-published", "pd-colour-real-published"}
    found = {name: set() for name in wanted}
    for experiment in experiments.load():
        if experiment.weights in wanted:
            found[experiment.weights] |= {e.dataset for e in experiment.evaluate if e.sigma_255 is None}
    assert all(sets == set(cost_pages.REAL) for sets in found.values())
    assert all(catalog.find(name).images for name in cost_pages.REAL)


def test_names_in_the_figure_do_not_lie_on_each_other():
    rows = [("one", "a", 29.0, "printed", 10.0), ("two", "b", 29.01, "printed", 11.0)]
    rows += [("one, trained", "a", 28.99, "measured", 10.0), ("far", "c", 27.0, "printed", 4000.0)]
    points = pd.DataFrame(rows, columns=["method", "network", "psnr_db", "kind", "cost"])
    figure = plots.draw_quality_against_cost(points, "billion multiply-adds")
    (axes,) = figure.axes
    figure.draw_without_rendering()
    boxes = [text.get_window_extent().extents for text in axes.texts]
    assert [text.get_text() for text in axes.texts] == ["one", "two", "far"]  # the third is within 0.1 dB of the first
    for k, one in enumerate(boxes):
        for other in boxes[k + 1 :]:
            assert np.any(one[2:] < other[:2]) or np.any(other[2:] < one[:2])
