import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import replace

import pandas as pd
import pytest
import torch

from repro import files, weights
from repro.errors import ReproError
from repro.study import campaign, experiments, records
from repro.study.experiments import Evaluation
from repro.train import Interrupted, _signals

SMOKE = experiments.get("smoke-colour")
TINY = replace(
    SMOKE, name="tiny", offsets=None,
    train=SMOKE.train | {"steps": 4, "validate_every": 4, "checkpoint_every": 2, "log_every": 2},
    evaluate=(Evaluation("embedded-test", 50, limit=1),),
)  # fmt: skip


@pytest.fixture(autouse=True)
def runs(tmp_path, monkeypatch):
    monkeypatch.setenv("REPRO_RUNS", str(tmp_path / "unfinished"))
    return tmp_path / "unfinished"


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Results with one finished run, which the tests that use it only read."""
    folder = tmp_path_factory.mktemp("results")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REPRO_RUNS", str(folder / "unfinished"))
        campaign.run(only=("tiny",), results=folder, experiments=[TINY], say=lambda line: None)
    return folder


@pytest.fixture
def published(results):
    return records.read(results / "runs" / "tiny" / "seed0")


def state(results, experiment=TINY):
    return campaign.status(results, [experiment])["state"].tolist()


def test_a_finished_run_is_published_complete(published, results):
    assert state(results) == ["done"]
    assert published["steps"] == 4
    assert published.curve["step"].tolist() == [2, 4]
    assert len(published.metrics) == 1
    mean = published["evaluations"][0]["psnr_db"]
    assert mean == pytest.approx(published.metrics["psnr_db"].mean(), abs=1e-3)
    assert not (results / "unfinished" / "tiny" / "seed0").exists()
    # nothing is left to do
    assert campaign.run(only=("tiny",), results=results, experiments=[TINY]) == []


def test_a_record_says_how_to_redo_it(published):
    assert records.redo(published) == TINY.train_config(0)
    assert all(entry["origin"] for entry in published["hyperparameters"].values())
    assert {d["name"] for d in published["data"]} == {"embedded-train", "embedded-test"}
    assert published["command"] == "repro campaign --only tiny"


def test_published_weights_are_what_was_measured(published, results):
    from repro.evaluate import evaluate

    net = weights.load(results / "weights" / "tiny-seed0.safetensors")
    again = evaluate(net, "embedded-test", 50, limit=1)
    assert again["psnr_db"].item() == pytest.approx(published.metrics["psnr_db"].item(), abs=1e-3)
    assert weights.describe(results / "weights" / "tiny-seed0.safetensors")["experiment"] == "tiny"


def test_weights_come_with_the_first_seed_alone(tmp_path, runs):
    row = replace(TINY, seeds=(3, 1))
    lines = []
    assert len(campaign.run(only=("tiny",), results=tmp_path / "results", experiments=[row], say=lines.append)) == 2
    assert [path.name for path in tmp_path.glob("results/weights/*")] == ["tiny-seed3.safetensors"]
    assert weights.describe(runs / "tiny" / "seed1.safetensors")["seed"] == 1
    assert any(line.endswith(f"the weights stay in {runs / 'tiny' / 'seed1.safetensors'}") for line in lines)


def test_a_run_repeated_elsewhere_leaves_the_kept_weights_alone(tmp_path, runs):
    row = replace(TINY, publish=False)
    campaign.run(only=("tiny",), results=tmp_path / "results", experiments=[row], say=lambda line: None)
    first = (runs / "tiny" / "seed0.safetensors").read_bytes()
    longer = replace(row, train=row.train | {"steps": 6})
    campaign.run(only=("tiny",), results=tmp_path / "again", experiments=[longer], say=lambda line: None)
    assert (runs / "tiny" / "seed0.safetensors").read_bytes() == first
    (other,) = runs.glob("tiny/seed0-*.safetensors")
    assert weights.describe(other)["steps"] == 6


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here")
def test_a_row_that_ends_by_a_gpu_s_clock_is_refused_without_one(tmp_path):
    said = []
    with pytest.raises(ReproError, match="Nothing could be finished"):
        campaign.run(only=("tiny",), results=tmp_path, experiments=[replace(TINY, budget="gpu")], say=said.append)
    assert any("ends by the clock of a GPU" in line for line in said) and not list(tmp_path.glob("runs/*"))


def test_a_row_with_neither_weights_nor_data_measures_no_random_network(tmp_path):
    blank = replace(TINY, name="blank", train=None, data=None, publish=False)
    with pytest.raises(ReproError, match="blank names neither weights nor data"):
        campaign.carry_out(blank, 0, tmp_path, say=lambda line: None)


def test_measurements_of_other_weights_are_not_published(tmp_path, runs, monkeypatch):
    """Whoever deletes a network to train it anew keeps its tables, which are of the old one."""
    monkeypatch.setattr(campaign, "_publish", lambda *_: (_ for _ in ()).throw(ReproError("a full disk")))
    for seed_of_weights in (0, 1):
        changed = replace(TINY, train=TINY.train | {"lr": 1e-3 * (1 + seed_of_weights)})
        with pytest.raises(ReproError, match="a full disk"):
            campaign.carry_out(changed, 0, tmp_path, say=lambda line: None)
        folder = runs / "tiny" / "seed0"
        (table,) = folder.glob("evaluation-*.csv")
        found = float(pd.read_csv(table)["psnr_db"].iloc[0])
        if seed_of_weights == 0:
            first = found
            for path in folder.glob("*.safetensors"):
                path.unlink()
    assert found != first


def test_what_cannot_be_removed_costs_space_and_no_record(tmp_path, runs, monkeypatch):
    """As on shared folders, where a file that is still open stays under another name."""
    remove = os.unlink
    keeps = lambda path, *more, **options: None if "checkpoint" in str(path) else remove(path, *more, **options)  # noqa: E731
    monkeypatch.setattr(os, "unlink", keeps)
    home = campaign.carry_out(TINY, 0, tmp_path, say=lambda line: None)
    (left,) = (runs / "tiny").glob(".seed0-*")
    assert (home / "record.json").exists() and list(left.iterdir())
    assert not (runs / "tiny" / "seed0").exists(), "who works there next is not disturbed"


def test_a_network_that_was_trained_before_keeps_its_device_and_versions(tmp_path, runs):
    from repro.train import train

    folder = runs / "tiny" / "seed0"
    train(TINY.train_config(0), folder)
    summary = json.loads((folder / "summary.json").read_text())
    summary |= {"device": "another machine", "versions": {"torch": "1.0"}}
    (folder / "summary.json").write_text(json.dumps(summary))
    record = records.read(campaign.carry_out(TINY, 0, tmp_path, say=lambda line: None))
    assert record["device"] == "another machine" and record["versions"] == {"torch": "1.0"}


def test_a_pattern_asks_for_what_fits_the_machine():
    rows = [replace(TINY, name=f"a-{budget}", budget=budget) for budget in ("cpu", "gpu", "paper")]
    fits = "gpu" if torch.cuda.is_available() else "cpu"
    assert [row.budget for row in campaign.choose(rows, only=("a-*",))] == [fits]
    assert [row.budget for row in campaign.choose(rows, "paper", ("a-*",))] == ["paper"]
    assert [row.budget for row in campaign.choose(rows, only=("*-paper",))] == ["paper"], "it names them"
    assert [row.budget for row in campaign.choose(rows, only=("a-gpu", "a-paper"))] == ["gpu", "paper"]


def test_weights_stay_behind_where_the_row_says_so(tmp_path, runs):
    row = replace(TINY, publish=False)
    (home,) = campaign.run(only=("tiny",), results=tmp_path / "results", experiments=[row], say=lambda line: None)
    assert records.read(home)["steps"] == 4
    assert not list(tmp_path.glob("results/weights/*"))
    assert [path.name for path in (runs / "tiny").iterdir()] == ["seed0.safetensors"]


def test_a_record_of_other_settings_is_not_overwritten(published, results):
    changed = replace(TINY, train=TINY.train | {"lr": 1e-5})
    assert state(results, changed) == ["outdated"]
    said = []
    assert campaign.run(only=("tiny",), results=results, experiments=[changed], say=said.append) == []
    assert "remove" in said[0]


def test_an_evaluation_that_is_there_is_not_repeated(tmp_path, monkeypatch):
    two = replace(TINY, evaluate=(*TINY.evaluate, Evaluation("embedded-test", 25, limit=1)))
    done = []

    def evaluate(net, dataset, sigma_255, **options):
        done.append(sigma_255)
        if len(done) == 2:
            raise KeyboardInterrupt
        row = {"image": "a", "psnr_db": 20.0, "psnr_noisy_db": 14.0} | dict.fromkeys(records.METRICS, 20.0)
        return pd.DataFrame([row])

    monkeypatch.setattr("repro.evaluate.evaluate", evaluate)
    with pytest.raises(KeyboardInterrupt):
        campaign.run(only=("tiny",), results=tmp_path, experiments=[two])
    assert state(tmp_path, two) == ["interrupted"]
    campaign.run(only=("tiny",), results=tmp_path, experiments=[two])
    assert done == [50, 25, 25]
    assert state(tmp_path, two) == ["done"]


def test_a_record_of_published_weights_says_whose(tmp_path, monkeypatch):
    """Nothing is trained, and the network that comes out of the file is the one that is measured."""
    from repro import build, published

    monkeypatch.setenv("REPRO_CACHE", str(tmp_path / "cache"))
    name, net = "dncnn-gray-50-published", build("dncnn", channels=1, depth=3, width=4)
    monkeypatch.setattr(published, "_read", lambda source: net)
    experiment = replace(
        TINY, name="scored", method="dncnn", colour="gray", data=None, train=None, weights=name,
        evaluate=(Evaluation("embedded-test", 50, limit=1, patch=64),),
    )  # fmt: skip
    (home,) = campaign.run(only=("scored",), results=tmp_path, experiments=[experiment], say=lambda line: None)
    record = records.read(home)
    assert (record["steps"], record["parameters"]) == (0, sum(p.numel() for p in net.parameters()))
    assert record["hyperparameters"]["weights"]["value"] == name
    assert published.SOURCES[name].sha256 in record["hyperparameters"]["weights"]["origin"]
    assert not list(tmp_path.glob("weights/*"))  # other people's weights are not passed on


def test_a_missing_data_set_does_not_end_the_campaign(tmp_path):
    closed = replace(TINY, name="closed", data="div2k")
    said = []
    with pytest.raises(ReproError, match="1 of 2 runs failed; see above for closed seed 0"):
        campaign.run(only=("*",), results=tmp_path, experiments=[closed, TINY], say=said.append)
    assert [record["experiment"] for record in records.load(tmp_path / "runs")] == ["tiny"]
    assert any("div2k" in line for line in said)


def test_failures_are_counted_when_all_else_is_done(tmp_path, monkeypatch):
    done = []

    def carry_out(experiment, seed, results, say):
        if experiment.name == "good":
            done.append(experiment.name)
            return tmp_path
        raise ReproError("No such data.")

    monkeypatch.setattr(campaign, "carry_out", carry_out)
    rows = [replace(TINY, name=name) for name in ("bad", "good", "worse")]
    with pytest.raises(ReproError, match=r"2 of 3 runs failed; see above for bad seed 0, worse seed 0\."):
        campaign.run(only=("*",), results=tmp_path, experiments=rows, say=lambda line: None)
    assert done == ["good"]
    with pytest.raises(ReproError, match="Nothing could be finished; see above for bad seed 0"):
        campaign.run(only=("bad",), results=tmp_path, experiments=rows, say=lambda line: None)


def test_hours_that_end_after_a_failure_are_an_error(tmp_path, monkeypatch):
    def carry_out(experiment, seed, results, say):
        if experiment.name == "bad":
            raise ReproError("No such data.")
        time.sleep(30)

    monkeypatch.setattr(campaign, "carry_out", carry_out)
    rows = [replace(TINY, name="bad"), replace(TINY, name="long")]
    with pytest.raises(ReproError, match=r"hours are over, and 1 run failed \(see above for bad seed 0\)") as error:
        campaign.run(0.5 / 3600, only=("*",), results=tmp_path, experiments=rows, say=lambda line: None)
    assert not isinstance(error.value, campaign.Stopped)
    with pytest.raises(campaign.Stopped):
        campaign.run(0.5 / 3600, only=("long",), results=tmp_path, experiments=rows, say=lambda line: None)


def test_a_campaign_with_nothing_to_do_says_so(published, results):
    said = []
    campaign.run(only=("tiny",), results=results, experiments=[TINY], say=said.append)
    assert said == ["Nothing is missing."]


@pytest.mark.parametrize("place", ["file", "/proc/nowhere"])
def test_results_that_cannot_be_written_are_said_before_anything_is_trained(place, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("mine")
    monkeypatch.setattr(campaign, "carry_out", lambda *run: pytest.fail("it was begun"))
    where = {"results": tmp_path / place, "experiments": [TINY], "say": lambda line: None}
    with pytest.raises(ReproError, match=f"Cannot write .*{place}/runs/"):
        campaign.run(only=("tiny",), **where)
    with pytest.raises(ReproError, match=f"Cannot write .*{place}/runs/"):
        campaign.run_one("tiny", **where)


def test_weights_that_cannot_be_written_are_said_before_anything_is_trained(tmp_path, monkeypatch):
    (tmp_path / "weights").write_text("mine")
    monkeypatch.setattr(campaign, "carry_out", lambda *run: tmp_path)
    campaign.run(only=("tiny",), results=tmp_path, experiments=[replace(TINY, publish=False)])
    with pytest.raises(ReproError, match=r"Cannot write .*weights/tiny-seed0"):
        campaign.run(only=("tiny",), results=tmp_path, experiments=[TINY])


def test_the_status_writes_nothing(tmp_path, runs):
    campaign.status(tmp_path / "results")
    assert not runs.exists() and not (tmp_path / "results").exists()


def test_a_run_that_failed_before_anything_was_kept_is_waiting(tmp_path, runs):
    closed, place = replace(TINY, data="div2k"), runs / "tiny" / "seed0"
    place.mkdir(parents=True)
    for name, content in {"environment.json": "{}", "config.json": "{}", "network.json": "{}"}.items():
        (place / name).write_text(content)
    (place / "curve.csv").write_text("step,seconds\n2,0.5\n")  # without a checkpoint it begins anew
    row = campaign.status(tmp_path, [closed]).iloc[0]
    assert (row["state"], row["steps"]) == ("waiting", 0)
    for kept in ("checkpoint.safetensors", "evaluation-kodak24-50.journal", "offsets-kodak24.csv"):
        (place / kept).touch()
        assert state(tmp_path, closed) == ["interrupted"], kept
        (place / kept).unlink()


def test_a_stop_is_not_swallowed_by_code_that_gets_over_errors():
    with pytest.raises(campaign.Stopped), campaign._ending(None):
        with suppress(ReproError, OSError):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(5)
        pytest.fail("the campaign went on")


def test_a_record_of_other_weights_or_settings_is_outdated(make_record, tmp_path):
    row = replace(TINY, name="two", data=None, train=None, weights="dncnn-gray-30-published", evaluate=())
    record = make_record("two", [30.0, 31.0], steps=0, weights="dncnn-gray-50-published")
    record.content.update(method=row.method, variant=row.variant, colour=row.colour, sigma_255=row.sigma_255)
    record.content.update(budget=row.budget, evaluations=[])

    def is_current(row):
        return campaign._is_current(record, row, 0, tmp_path)

    named = replace(row, weights="dncnn-gray-50-published")
    assert is_current(named) and not is_current(row)
    assert not is_current(replace(named, variant="other")) and not is_current(replace(named, budget="paper"))
    (record.folder / "offsets.csv").write_text("image\n")
    record.content["data"] = [{"name": "kodak24"}]
    assert is_current(replace(named, offsets="kodak24"))
    assert not is_current(replace(named, offsets="cbsd68")), "its sampling points are those of another set"
    record.content["data"] = []
    assert not is_current(replace(named, gradients="kodak24"))
    assert not is_current(replace(named, sigma_255=999.0))


@pytest.fixture
def own(published, results, tmp_path):
    """A copy of the results that may be written to."""
    return shutil.copytree(results, tmp_path / "own")


def test_a_record_of_weights_that_were_trained_anew_is_outdated(own):
    row = replace(TINY, name="scored", data=None, train=None, weights="tiny", publish=False)
    campaign.run(only=("scored",), results=own, experiments=[row], say=lambda line: None)
    assert state(own, row) == ["done"]
    path = own / "weights" / "tiny-seed0.safetensors"
    net = weights.load(path)
    with torch.no_grad():
        next(net.parameters()).add_(0.5)
    weights.save(net, path, dtype=torch.float16)
    assert state(own, row) == ["outdated"]


def test_weights_of_the_folder_of_results_come_before_those_of_the_study(own):
    """Another folder has a network of its own by the name of one that comes with the study."""
    path = own / "weights" / "sadnet-colour-50-seed0.safetensors"
    (own / "weights" / "tiny-seed0.safetensors").replace(path)
    assert weights.find("sadnet-colour-50", own) == path
    assert weights.find("sadnet-colour-50") != path
    assert weights.describe("sadnet-colour-50", own)["experiment"] == "tiny"


@pytest.mark.parametrize("change", [{"crop_side": 16}, {}])
def test_an_option_that_names_no_file_is_not_lost(tmp_path, monkeypatch, change):
    """A record, and what an interrupted run has measured, are of all the options of an evaluation."""
    measured = []

    def evaluate(net, dataset, sigma_255, *, crop_side, journal, **options):
        measured.append((crop_side, journal.exists()))
        journal.write_text("rows of an image\n")
        if len(measured) == 1:
            raise KeyboardInterrupt
        return pd.DataFrame([{"image": "a", "psnr_noisy_db": 14.0} | dict.fromkeys(records.METRICS, 20.0)])

    monkeypatch.setattr("repro.evaluate.evaluate", evaluate)
    with pytest.raises(KeyboardInterrupt):
        campaign.run(only=("tiny",), results=tmp_path, experiments=[TINY])
    changed = replace(TINY, evaluate=tuple(replace(e, **change) for e in TINY.evaluate))
    campaign.run(only=("tiny",), results=tmp_path, experiments=[changed])
    assert measured[1] == (change.get("crop_side"), not change)  # the journal of other options is gone
    assert state(tmp_path, changed) == ["done"]
    assert state(tmp_path, TINY) == (["outdated"] if change else ["done"])


def test_a_setting_that_is_newer_than_a_record_had_its_default_there(make_record):
    old, new = make_record("old", [30.0, 31.0]), make_record("new", [30.0, 31.0], pairs="polyu", pairs_share=1.0)
    assert records.find_differences(old.settings, new.settings) == ["pairs", "pairs_share"]
    assert records.find_differences(old.settings, make_record("same", [30.0, 31.0], pairs=None).settings) == []


def test_hours_end_a_campaign(tmp_path, runs):
    long = replace(TINY, train=TINY.train | {"steps": 100_000})
    began = time.monotonic()
    with pytest.raises(campaign.Stopped):
        campaign.run(hours=2 / 3600, only=("tiny",), results=tmp_path, experiments=[long])
    assert time.monotonic() - began < 60
    row = campaign.status(tmp_path, [long]).iloc[0]
    begun = (runs / "tiny" / "seed0" / "checkpoint.safetensors").exists()
    assert row["state"] == ("interrupted" if begun else "waiting")
    assert not row["seconds_left"] <= 0  # not a number where the time was over before the first step


def test_the_end_comes_again_where_it_was_lost(monkeypatch):
    """What a signal raises within a finaliser is dropped by Python."""
    monkeypatch.setattr(campaign, "AGAIN_SECONDS", 0.2)
    lost = []
    with pytest.raises(campaign.Stopped), campaign._ending(0.1 / 3600):
        try:
            time.sleep(30)
        except campaign._Asked:
            lost.append(time.monotonic())
        time.sleep(30)
    assert len(lost) == 1 and time.monotonic() - lost[0] < 20


def test_the_end_comes_once_where_training_takes_it(monkeypatch):
    """A second signal would end it in the middle of its checkpoint."""
    monkeypatch.setattr(campaign, "AGAIN_SECONDS", 0.1)
    with pytest.raises(Interrupted), campaign._ending(0.1 / 3600), _signals() as caught:
        time.sleep(1)
        raise Interrupted("Stopped after step 3.")
    assert caught == [signal.SIGTERM]


@pytest.mark.parametrize("error", [None, ReproError("No such data.")])
def test_an_end_that_comes_in_the_last_step_of_a_training_ends_the_campaign(monkeypatch, error):
    """Such a training is finished, or fails by itself; what would come after it is not begun."""
    monkeypatch.setattr(campaign, "AGAIN_SECONDS", 30)
    begun = []
    with pytest.raises(campaign.Stopped), campaign._ending(0.1 / 3600):
        with suppress(ReproError), _signals():
            time.sleep(1)
            if error:
                raise error
        begun.append("the next")
    assert not begun


def test_what_needs_a_run_of_another_process_is_put_off_and_comes_last(tmp_path, monkeypatch):
    needed, other = replace(TINY, name="needed"), replace(TINY, name="other")
    needy = replace(TINY, name="needy", sizes=TINY.sizes | {"naive_weights": "needed"})
    states = dict.fromkeys(("needed", "other", "needy"), "waiting") | {"needed": "running"}
    monkeypatch.setattr(campaign, "_describe", lambda experiment, *_: {"state": states[experiment.name]})
    done, said = [], []

    def carry_out(experiment, *_):
        done.append(experiment.name)
        states["needed"] = "done"
        return tmp_path

    monkeypatch.setattr(campaign, "carry_out", carry_out)
    campaign.run(only=("needy", "other"), results=tmp_path, experiments=[needed, needy, other], say=said.append)
    assert done == ["other", "needy"]
    assert "needy seed 0: waits for needed, on which another process works; its turn comes last." in said


def test_what_still_needs_a_run_of_another_process_at_the_end_is_no_failure(tmp_path, monkeypatch):
    needed, needy = replace(TINY, name="needed"), replace(TINY, name="needy", sizes={"naive_weights": "needed"})
    states = {"needed": "running", "needy": "waiting"}
    monkeypatch.setattr(campaign, "_describe", lambda experiment, *_: {"state": states[experiment.name]})
    monkeypatch.setattr(campaign, "carry_out", lambda *_: pytest.fail("it has not got what it needs"))
    said = []
    assert campaign.run(only=("needy",), results=tmp_path, experiments=[needed, needy], say=said.append) == []
    assert said[-1].startswith("needy seed 0: still waits for needed")


def test_validations_shape_a_run_whose_rate_waits_for_them(published, results):
    for schedule, current in (("cosine", True), ("plateau", False)):
        row = replace(TINY, train=TINY.train | {"schedule": schedule, "validate_every": 77})
        settings = json.loads(json.dumps(row.train_config(0).hyperparameters()))
        settings["validate_every"]["value"] = 2
        then = records.Record(published.content | {"hyperparameters": settings}, published.folder)
        assert campaign._is_current(then, row, 0, results) is current


def test_a_run_that_ends_while_it_is_looked_at_is_looked_at_again(tmp_path, monkeypatch):
    looks = []

    def look(*run):
        looks.append(run)
        if len(looks) == 1:
            raise FileNotFoundError("evaluation-kodak24-50.csv")
        return {"state": "done"}

    monkeypatch.setattr(campaign, "_look_at", look)
    assert campaign._describe(TINY, 0, tmp_path) == {"state": "done"} and len(looks) == 2


def test_names_and_budgets_that_do_not_exist(tmp_path):
    with pytest.raises(ReproError, match="no experiment"):
        campaign.run(only=("nothing",), results=tmp_path)
    with pytest.raises(ReproError, match="no budget"):
        campaign.run(budget="huge", results=tmp_path)


def test_status_reads_as_a_table(tmp_path):
    text = campaign.format_status(campaign.status(tmp_path))
    assert "sadnet-colour-50 " in text
    assert f"{sum(len(one.seeds) for one in experiments.load())} waiting" in text


def test_the_status_ends_with_sums_and_what_has_no_estimate():
    def say(*rows):
        columns = ["experiment", "seed", "budget", "state", "steps", "seconds", "seconds_left"]
        return campaign.format_status(pd.DataFrame(rows, columns=columns)).splitlines()[-2:]

    done, open_ = ("a", 0, "cpu", "done", 9, 3600.0, 0.0), ("b", 0, "cpu", "waiting", 0, 0.0, 5400.0)
    unknown, paper = ("c", 0, "cpu", "waiting", 0, 0.0, float("nan")), ("d", 0, "paper", "waiting", 0, 0.0, 7.2e6)
    assert say(done, open_) == ["1 done, 1 waiting; 1.0 h spent.", "About 1.5 h left."]
    assert say(open_, unknown, unknown)[1] == "About 1.5 h left, and there is no estimate for 2 runs."
    assert say(done, open_, paper)[1] == "About 1.5 h left; about 2,000.0 h left at the paper's budget."
    assert say(paper)[1] == "About 2,000.0 h left at the paper's budget."
    assert say((*paper[:-1], float("nan")))[1] == "No estimate of what is left at the paper's budget."


def test_one_run_for_a_scheduler(published, results):
    """What is done stays, what is of other settings is in the way, and only listed seeds are run."""
    before = (published.folder / "record.json").stat().st_mtime_ns
    assert campaign.run_one("tiny", results=results, experiments=[TINY]) == published.folder
    assert (published.folder / "record.json").stat().st_mtime_ns == before
    changed = replace(TINY, train=TINY.train | {"lr": 1e-5})
    with pytest.raises(ReproError, match="other settings"):
        campaign.run_one("tiny", results=results, experiments=[changed])
    with pytest.raises(ReproError, match="seed 0, not 7"):
        campaign.run_one("tiny", 7, results=results, experiments=[TINY])


def test_one_run_is_stopped_like_a_campaign(tmp_path, monkeypatch):
    from repro import train

    def interrupt(config, folder, results):
        raise train.Interrupted("Stopped after step 3.")

    monkeypatch.setattr(train, "train", interrupt)
    with pytest.raises(campaign.Stopped, match="step 3"):
        campaign.run_one("tiny", results=tmp_path, experiments=[TINY])


def test_of_several_processes_the_first_publishes(tmp_path, monkeypatch):
    from repro import train

    asked = []
    monkeypatch.setattr(train, "train", lambda config, folder, results: asked.append(config))
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    home = campaign.run_one("tiny", results=tmp_path, experiments=[TINY])
    assert asked == [TINY.train_config(0)] and not home.exists()
    with pytest.raises(ReproError, match="repro experiment"):
        campaign.run(only=("tiny",), results=tmp_path, experiments=[TINY])


def test_status_for_programs(tmp_path):
    from typer.testing import CliRunner

    from repro.cli import app

    said = CliRunner().invoke(app, ["campaign", "--status", "--json", "--budget", "smoke", "--results", str(tmp_path)])
    rows = json.loads(said.stdout)
    listed = {(e.name, seed) for e in experiments.load() if e.budget == "smoke" for seed in e.seeds}
    assert {(row["experiment"], row["seed"]) for row in rows} == listed
    assert {(row["state"], row["seconds_left"]) for row in rows} == {("waiting", None)}


@pytest.mark.slow
def test_killed_twice_and_continued(tmp_path, runs):
    """SIGKILL in the middle of training and again while evaluating; the third start finishes."""
    text = (files.results() / "experiments.toml").read_text()
    text = text.replace("steps = 30", "steps = 60").replace('offsets = "embedded-test"\n', "")
    (tmp_path / "list.toml").write_text(text)
    code = (
        "import sys; from pathlib import Path; from repro.study import campaign, experiments\n"
        "listed = experiments.load(sys.argv[2])\n"
        "campaign.run(only=('smoke-colour',), results=Path(sys.argv[1]), experiments=listed)"
    )
    command = [sys.executable, "-c", code, str(tmp_path), str(tmp_path / "list.toml")]
    place = runs / "smoke-colour" / "seed0"
    environment = os.environ | {"OMP_NUM_THREADS": "1"}

    def kill_when(there):
        with subprocess.Popen(command, cwd=files.root(), env=environment) as process:
            while not there():
                assert process.poll() is None, "it ended by itself"
                time.sleep(0.01)
            process.send_signal(signal.SIGKILL)

    def steps():
        curve = place / "curve.csv"
        return len(curve.read_text().splitlines()) - 1 if curve.exists() else 0

    kill_when(lambda: steps() >= 3)
    listed = experiments.load(tmp_path / "list.toml")
    chosen = [e for e in listed if e.name == "smoke-colour"]
    assert campaign.status(tmp_path, chosen)["state"].tolist() == ["interrupted"]
    started = json.loads((place / "environment.json").read_text())["started"]
    kill_when(lambda: any(place.glob("evaluation-*.csv")))
    first = next(place.glob("evaluation-*.csv")).read_bytes()
    subprocess.run(command, cwd=files.root(), env=environment, check=True)
    record = records.read(tmp_path / "runs" / "smoke-colour" / "seed0")
    assert record["steps"] == 60
    assert record["started"].startswith(started[:10])
    assert record.curve["step"].tolist() == list(range(5, 61, 5))
    kept = pd.read_csv(io.BytesIO(first))["psnr_db"].item()
    assert kept == pytest.approx(record.metrics["psnr_db"].iloc[0])
    assert len(record.metrics) == 2


def test_verdicts_that_cannot_be_renewed_leave_the_record(monkeypatch, runs):
    said = []
    broken = subprocess.CompletedProcess([], 1, "", "Traceback\nSyntaxError: invalid syntax\n")
    monkeypatch.setattr(subprocess, "run", lambda *command, **options: broken)
    campaign._renew_verdicts(said.append)
    assert "SyntaxError: invalid syntax" in said[0] and "the record is kept" in said[0]


def test_a_lock_for_the_verdicts_that_fails_fails_no_run(monkeypatch, runs):
    said = []

    def refuse(*_):
        raise ReproError("Cannot lock it.")

    monkeypatch.setattr(files, "locked", refuse)
    campaign._renew_verdicts(said.append)
    assert "Cannot lock it." in said[0] and "the record is kept" in said[0]


def test_verdicts_are_renewed_after_a_kill_that_left_a_record(results, monkeypatch, runs):
    """What a campaign does for whoever came before it: also where nothing is missing."""
    renewed = []
    monkeypatch.setattr(files, "results", lambda: results)

    def start(rc):
        ran = lambda *command, **options: renewed.append(command) or subprocess.CompletedProcess([], rc, "", "no\n")  # noqa: E731
        monkeypatch.setattr(subprocess, "run", ran)
        campaign.run(only=("tiny",), experiments=[TINY], say=lambda line: None)

    start(0)
    assert not renewed, "nothing is due"
    campaign._note_due(TINY, 0)
    campaign._note_due(TINY, 7)
    start(1)
    assert len(renewed) == 1 and len(campaign._list_due()) == 1, "it is still due"
    start(0)
    start(0)
    assert len(renewed) == 2 and not campaign._list_due()
    assert [note.name for note in (runs / ".verdicts-due" / "tiny").iterdir()] == ["7"], "that run has no record yet"


def test_a_file_system_without_locks_is_not_taken_for_another_process(runs, monkeypatch):
    import fcntl

    folder = runs / "tiny" / "seed0"
    folder.mkdir(parents=True)
    (folder / ".campaign").touch()

    def refuse(*_):
        raise OSError(37, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    assert not campaign._is_locked(folder)
    with pytest.raises(ReproError, match=r"Cannot lock .*No locks available"):
        campaign.run_one("tiny", results=runs / "results", experiments=[TINY])


def test_one_run_does_not_begin_before_what_it_needs(tmp_path, monkeypatch):
    needed, needy = replace(TINY, name="needed"), replace(TINY, name="needy", sizes={"naive_weights": "needed"})
    states = {"needed": "running", "needy": "waiting"}
    monkeypatch.setattr(campaign, "_describe", lambda experiment, *_: {"state": states[experiment.name]})
    with pytest.raises(ReproError, match="needs needed, on which another process works"):
        campaign.run_one("needy", results=tmp_path, experiments=[needed, needy])


def test_first_seeds_come_first():
    rows = [replace(TINY, name=name, seeds=seeds) for name, seeds in (("a", (0, 1, 2)), ("b", (5,)), ("c", (0, 1)))]
    assert order(rows) == [("a", 0), ("b", 5), ("c", 0), ("a", 1), ("c", 1), ("a", 2)]
    assert campaign._order([]) == []


def order(rows, as_given=False):
    return [(experiment.name, seed) for experiment, seed in campaign._order(rows, as_given)]


def test_headline_rows_and_what_they_need_come_before_others_of_the_same_seed():
    rows = [
        replace(TINY, name="other", seeds=(0, 1)),
        replace(TINY, name="part"),
        replace(TINY, name="asked", headline=True, seeds=(0, 1), sizes=TINY.sizes | {"naive_weights": "part"}),
        replace(TINY, name="scored", weights="asked-seed0"),
        replace(TINY, name="first", headline=True),
    ]
    expected = [("part", 0), ("asked", 0), ("first", 0), ("other", 0), ("scored", 0), ("asked", 1), ("other", 1)]
    assert order(rows) == expected
    given = [rows[3], rows[2], rows[0]]
    assert order(given, as_given=True) == [("asked", 0), ("scored", 0), ("other", 0), ("asked", 1), ("other", 1)]


@pytest.mark.parametrize("budget", ["cpu", "gpu", "paper"])
def test_the_campaign_begins_with_the_headline_rows(budget):
    rows = [e for e in experiments.load() if e.budget == budget]
    listed = {e.name: e for e in rows}
    asked = {e.name for e in rows if e.headline}
    wanted, new = set(asked), set(asked)
    while new := {name for one in new for name in listed[one].needs} & listed.keys() - wanted:
        wanted |= new
    names = [name for name, _ in order(rows)]
    firsts = list(dict.fromkeys(names))
    assert asked and set(firsts[: len(wanted)]) == wanted
    assert names[: len(rows)] == firsts, "the first seed of all before the second of any"
    for name in firsts:
        assert all(firsts.index(needed) < firsts.index(name) for needed in listed[name].needs)


def test_a_campaign_of_named_rows_keeps_their_order(tmp_path, monkeypatch):
    rows = [replace(TINY, name="a", headline=True), replace(TINY, name="b")]
    seen = []
    monkeypatch.setattr(campaign, "carry_out", lambda e, seed, results, say: seen.append(e.name) or tmp_path)
    campaign.run(only=("b", "a"), results=tmp_path, experiments=rows, say=lambda line: None)
    campaign.run(budget="smoke", results=tmp_path, experiments=rows[::-1], say=lambda line: None)
    assert seen == ["b", "a", "a", "b"]
