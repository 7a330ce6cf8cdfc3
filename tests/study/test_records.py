"""The committed records: complete, consistent with their tables, and enough to redo the run."""

import pandas as pd
import pytest

from repro import files, weights
from repro.errors import ReproError
from repro.study import experiments, records

PUBLISHED = records.load()


@pytest.fixture(params=PUBLISHED, ids=lambda record: record.name)
def record(request):
    return request.param


def test_means_are_those_of_the_images(record):
    for evaluation in record["evaluations"]:
        images = record.metrics[record.metrics["evaluation"] == evaluation["name"]]
        assert records.summarise(images) == {
            key: pytest.approx(evaluation[key], abs=2e-4) for key in ("images", *records.METRICS)
        }


def test_a_committed_run_can_be_redone(record):
    if record["steps"]:
        config = records.redo(record)
        assert (config.model, config.seed) == (record["method"], record["seed"])
        assert record.curve["step"].iloc[-1] == record["steps"]


def test_a_committed_run_belongs_to_the_list_and_has_its_weights(record):
    experiment = experiments.get(record["experiment"])
    assert experiment.budget == record["budget"]
    path = files.results() / "weights" / f"{record.name}.safetensors"
    assert path.exists() == experiment.publishes(record["seed"])
    if path.exists():
        about = weights.describe(path)
        assert about["model"] == record["method"]
        assert about["experiment"] == record["experiment"]


def test_a_record_that_cannot_be_redone_names_its_commit(make_record):
    record = make_record("x", [20.0, 21.0], forgotten_setting=1)
    with pytest.raises(ReproError, match=r"commit none.*forgotten_setting"):
        records.redo(record)


def test_a_damaged_record_is_said_in_a_sentence(tmp_path):
    (tmp_path / "record.json").write_text('{"experiment": ')
    with pytest.raises(ReproError, match="Cannot read the record"):
        records.read(tmp_path)
    (tmp_path / "record.json").write_text('{"experiment": "x"}')
    with pytest.raises(ReproError, match="lacks"):
        records.read(tmp_path)


def test_the_principal_evaluation_is_the_first(make_record):
    record = make_record("x", [20.0, 22.0])
    assert record.find_evaluation("kodak24", 50)["psnr_db"] == 21
    assert record.find_evaluation("kodak24", 30) is None
    assert record.per_image("kodak24-50").equals(pd.Series([20.0, 22.0], ["image0", "image1"]))


def test_the_environment_is_told_completely():
    told = records.describe_environment()
    assert told["versions"].keys() >= {"python", "torch", "numpy"}
    assert len(told["commit"].removesuffix("+changes")) == 40 or told["commit"] == "not a repository"
    assert told["threads"] >= 1


def test_images_are_named_by_text_even_where_all_names_are_numbers(make_record):
    record = make_record("one", [30.0, 31.0])
    table = record.metrics.assign(image=["0101085", "101087"])
    table.to_csv(record.folder / "metrics.csv", index=False)
    assert list(records.read(record.folder).per_image("kodak24-50").index) == ["0101085", "101087"]


def test_a_table_that_lost_rows_is_named(make_record):
    record = make_record("one", [20.0, 22.0, 24.0])
    path = record.folder / "metrics.csv"
    path.write_text("\n".join(path.read_text().splitlines()[:3]) + "\n")
    with pytest.raises(ReproError, match=r"metrics.csv has 2 images of kodak24-50, not 3"):
        records.read(record.folder).per_image("kodak24-50")


def test_records_name_the_images_of_a_set_alike():
    """Or no two of them can be held against each other."""
    names = {}
    for record in records.load():
        for evaluation, rows in record.metrics.groupby("evaluation"):
            about = next(one for one in record["evaluations"] if one["name"] == evaluation)
            if not about["limit"]:
                names.setdefault(about["dataset"], {}).setdefault(frozenset(rows["image"]), []).append(record.name)
    assert {dataset: list(alike.values()) for dataset, alike in names.items() if len(alike) > 1} == {}
