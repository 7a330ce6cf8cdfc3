"""What is left of a campaign, from records whose pace is known by hand: every record of the tests took one second."""

import json
from dataclasses import replace

import pandas as pd
import pytest

import repro
from repro.study import campaign, estimates, experiments
from repro.study.costs import measure_cost
from repro.study.experiments import Evaluation

ROW = replace(
    experiments.get("smoke-colour"), name="row", budget="cpu", seeds=(0, 1), offsets=None, sizes={},
    train={"steps": 100, "patch": 32, "batch": 2, "precision": "32"}, evaluate=(),
)  # fmt: skip


@pytest.fixture(autouse=True)
def runs(tmp_path, monkeypatch):
    monkeypatch.setenv("REPRO_RUNS", str(tmp_path / "unfinished"))
    return tmp_path / "unfinished"


def left(tmp_path, *rows):
    """Seconds left by experiment and seed."""
    frame = campaign.status(tmp_path, list(rows))
    return {(row.experiment, row.seed): row.seconds_left for row in frame.itertuples()}


def count(**sizes):
    cost = measure_cost(repro.build("sadnet", **sizes), 32, 32)
    return cost.macs + cost.products


@pytest.fixture
def record(make_record):
    """A record in the folder of results ``tmp_path``, with the settings that multiply-adds are counted from."""

    def make(name, steps, seconds=1.0, **settings):
        shape = {"patch": 32, "batch": 2, "precision": "32"}
        made = make_record(name, [30.0], steps=steps, **shape | settings)
        content = json.loads((made.folder / "record.json").read_text())
        content["seconds"] = seconds
        (made.folder / "record.json").write_text(json.dumps(content))
        return made

    return make


def test_a_run_that_was_begun_goes_on_at_its_own_pace(tmp_path, runs, record):
    record("other", steps=1)  # a hundred times as slow
    folder = runs / "row" / "seed0"
    folder.mkdir(parents=True)
    (folder / "environment.json").write_text("{}")
    (folder / "curve.csv").write_text("step,seconds,loss\n20,10.0,1\n40,20.0,1\n")
    assert left(tmp_path, ROW)["row", 0] == pytest.approx(100.0), "without a checkpoint it begins anew"
    (folder / "checkpoint.safetensors").touch()
    assert left(tmp_path, ROW)["row", 0] == pytest.approx(30.0)
    assert left(tmp_path, ROW)["row", 1] == pytest.approx(50.0), "and so does another seed of the row"


def test_another_seed_tells_the_training_and_the_evaluation(tmp_path, record, monkeypatch):
    monkeypatch.setattr(campaign, "_is_current", lambda *run: True)
    made = record("row", steps=50, seconds=10.0)
    record("other", steps=1)
    content = json.loads((made.folder / "record.json").read_text())
    content["evaluations"] = [
        {**content["evaluations"][0], "images": 24, "seconds": 0.5},
        {**content["evaluations"][0], "images": 10, "seconds": 0.2, "repeats": 3},
    ]
    (made.folder / "record.json").write_text(json.dumps(content))
    found = campaign.status(tmp_path, [ROW])
    assert found["state"].tolist() == ["done", "waiting"]
    assert found["seconds_training"].tolist() == [10.0, 0.0]
    assert found["seconds"].tolist() == pytest.approx([10 + 12 + 6, 0.0])
    assert found["seconds_left"].tolist() == pytest.approx([0.0, 100 / 50 * 10 + 12 + 6])


def test_another_row_of_the_method_is_scaled_by_its_arithmetic(tmp_path, record):
    """A record of 10 steps in a second, and one of another precision that takes no part."""
    record("small", steps=10, batch=4, sizes={"width": 8, "offset_width": 8})
    record("brief", steps=1000, precision="bf16")
    record("beside-other-work", steps=10, batch=4, sizes={"width": 8, "offset_width": 8}, seconds=60.0)
    record("alike", steps=10, batch=4, sizes={"width": 8, "offset_width": 8})
    record("elsewhere", steps=77, method="dncnn", sizes={"depth": 3, "width": 4})
    per_second = 10 * 4 * count(width=8, offset_width=8)
    assert left(tmp_path, ROW)["row", 0] == pytest.approx(100 * 2 * count() / per_second)
    faster = replace(ROW, train=ROW.train | {"precision": "bf16"})
    assert left(tmp_path, faster)["row", 0] == pytest.approx(100 / 1000)


def test_without_a_record_of_the_method_the_budget_s_median_is_taken(tmp_path, record):
    record("one", steps=10, method="dncnn", sizes={"depth": 3, "width": 4})
    record("two", steps=20, method="dncnn", sizes={"depth": 3, "width": 4})
    record("three", steps=1, method="dncnn", sizes={"depth": 3, "width": 4})
    record("away", steps=1, method="dncnn", sizes={"depth": 3, "width": 4}, budget="smoke")
    assert left(tmp_path, ROW)["row", 0] == pytest.approx(100 / 10)
    assert pd.isna(left(tmp_path, replace(ROW, budget="gpu"))["row", 0])


def test_a_limit_in_seconds_ends_a_training(tmp_path, record):
    by_clock = replace(ROW, budget="gpu", train=ROW.train | {"steps": None, "seconds": 300})
    assert left(tmp_path, by_clock)["row", 0] == 300.0
    record("one", steps=1)
    assert left(tmp_path, replace(ROW, train=ROW.train | {"seconds": 7}))["row", 0] == 7.0


def test_the_paper_s_budget_goes_by_a_measured_throughput_or_has_no_estimate(tmp_path, record):
    paper = replace(ROW, budget="paper")
    assert pd.isna(left(tmp_path, paper)["row", 0])
    record("small", steps=10, sizes={"width": 8, "offset_width": 8})
    expected = 100 * 2 * count() / (10 * 2 * count(width=8, offset_width=8))
    assert left(tmp_path, paper)["row", 0] == pytest.approx(expected)


def test_an_evaluation_goes_by_the_pixels_that_the_methods_records_took(tmp_path, record):
    """20 seconds for each image of 200 pixels; another data set of two images, measured by another method."""
    record("own", steps=1, dataset="kodak24", method="dncnn", sizes={"depth": 3, "width": 4})
    record("other", steps=1, dataset="cbsd68", sizes={"width": 8, "offset_width": 8})
    table = tmp_path / "runs" / "other" / "seed0" / "metrics.csv"
    rows = pd.read_csv(table)
    pd.concat([rows, rows.assign(image="image1", height=30)]).to_csv(table, index=False)
    row = replace(ROW, method="dncnn", train=None)
    seconds = {
        (): 0.0,
        (Evaluation("cbsd68", 50),): 20 * (10 + 30) / 10,
        (Evaluation("cbsd68", 25, limit=1), Evaluation("kodak24", 50, repeats=3)): 20 + 3 * 20,
        (Evaluation("kodak24", 50, ensemble=True),): 8 * 20,
    }
    for evaluate, expected in seconds.items():
        assert left(tmp_path, replace(row, evaluate=evaluate))["row", 0] == pytest.approx(expected)
    assert pd.isna(left(tmp_path, replace(row, evaluate=(Evaluation("cc15", None),)))["row", 0]), "of unknown images"
    assert pd.isna(left(tmp_path, replace(row, method="bm3d", evaluate=(Evaluation("cbsd68", 50),)))["row", 0])


def test_of_a_methods_records_those_of_the_colour_and_the_sizes_count_first(tmp_path, record):
    row = replace(ROW, method="bm3d", train=None, evaluate=(Evaluation("kodak24", 50),), sizes={"factor": 2.0})
    for name, seconds, about in (
        ("gray", 1.0, {"colour": "gray", "sizes": {"factor": 2.0}}), ("colour", 5.0, {}),
        ("both", 7.0, {"sizes": {"factor": 2.0}}),
    ):  # fmt: skip
        made = record(name, steps=0, method="bm3d", **about)
        content = json.loads((made.folder / "record.json").read_text())
        content["evaluations"][0]["seconds"] = seconds
        (made.folder / "record.json").write_text(json.dumps(content))
        assert left(tmp_path, row)["row", 0] == pytest.approx(seconds)


def test_evaluations_of_an_unfinished_run_are_part_of_its_cost(tmp_path, runs):
    folder = runs / "row" / "seed0"
    folder.mkdir(parents=True)
    (folder / "environment.json").write_text("{}")
    (folder / "evaluation-one.csv").write_text("image,seconds,draws\na,0.5,3\nb,0.25,3\n")
    (folder / "evaluation-one.journal").write_text('{"image": "a", "seconds": 9.0}\n')
    (folder / "evaluation-two.journal").write_text('{"image": "a", "seconds": 2.0}\n{"image": "b", "sec')
    row = campaign.status(tmp_path, [ROW]).iloc[0]
    assert (row["seconds"], row["seconds_training"]) == (0.75 * 3 + 2.0, 0.0)


def test_seconds_of_evaluations_are_those_of_all_images_and_draws(make_record):
    record = make_record("one", [30.0, 31.0, 32.0])  # 20 seconds an image
    assert estimates.sum_evaluation_seconds(record) == 60.0
    record.content["evaluations"][0]["repeats"] = 10
    assert estimates.sum_evaluation_seconds(record) == 600.0
