"""A sitting on a lent GPU, gone through on the CPU: nothing is trained by a wrong operator, and a kill costs little."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pandas as pd
import pytest
import torch

from repro import accelerator, files, timing
from repro.errors import ReproError
from repro.ops import deform_conv2d
from repro.study import campaign, experiments, records

SMOKE = [e for e in experiments.load() if e.budget == "smoke"]


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.setenv("REPRO_RUNS", str(tmp_path / "unfinished"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    return tmp_path


@pytest.fixture
def trained(monkeypatch):
    """What the campaign was asked to run, instead of running it; the operator and its benchmark are as quick."""
    asked = []
    monkeypatch.setattr(
        campaign, "run", lambda *about, experiments, **more: asked.append([e.name for e in experiments])
    )
    monkeypatch.setattr(accelerator, "check_op", lambda device: "right.")
    monkeypatch.setattr(accelerator, "benchmark_op", lambda device, folder, seconds: "none.")
    return asked


def test_without_a_gpu_it_refuses(place):
    with pytest.raises(ReproError, match="no GPU here"):
        accelerator.run(out=place)
    with pytest.raises(ReproError, match="name a folder"):
        accelerator.run(rehearse=True)


def test_a_wrong_operator_ends_it_before_anything_is_trained(place, trained, monkeypatch):
    def complain(device):
        raise ReproError("It is wrong.")

    monkeypatch.setattr(accelerator, "check_op", complain)
    with pytest.raises(ReproError, match="It is wrong"):
        accelerator.run(out=place, rehearse=True, experiments=SMOKE, say=lambda line: None)
    assert trained == []


@pytest.mark.parametrize("factor", [1.001, float("nan")])
def test_a_wrong_value_is_found(monkeypatch, factor):
    monkeypatch.setattr(accelerator, "deform_conv2d", lambda *given: deform_conv2d(*given) * factor)
    with pytest.raises(ReproError, match=r"in float32 .* Nothing was trained"):
        accelerator.check_op("cpu")


def test_a_wrong_gradient_is_found():
    class Wrong(torch.autograd.Function):
        @staticmethod
        def forward(ctx, offset):
            return offset.clone()

        @staticmethod
        def backward(ctx, gradient):
            return gradient.roll(1, 1)

    def swapped(input, offset, *given):
        return deform_conv2d(input, Wrong.apply(offset), *given)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(accelerator, "deform_conv2d", swapped)
        with pytest.raises(ReproError, match="off its reference"):
            accelerator.check_op("cpu")


def test_the_right_operator_passes():
    assert "in float32" in accelerator.check_op("cpu")


def test_what_waits_is_trained_and_each_step_is_said_with_its_time(place, trained):
    said = []
    accelerator.run(out=place, rehearse=True, experiments=SMOKE, say=said.append)
    assert trained == [[e.name for e in SMOKE]]
    assert said[0].startswith("The operator: right. [") and said[0].endswith(" s]")
    assert said[1].startswith("Its benchmark: none. [")


def test_the_campaign_gets_the_time_that_is_left(place, trained, monkeypatch):
    given = []
    monkeypatch.setattr(campaign, "run", lambda hours, *about, **more: given.append(hours))
    began = time.monotonic() - 5 * 60
    accelerator.run(10, place, rehearse=True, began=began, experiments=SMOKE, say=lambda line: None)
    assert 4.5 < 60 * given[0] < 5, "ten minutes, less five and a reserve"


def test_what_has_a_record_here_or_in_the_study_does_not_wait(place, trained, monkeypatch):
    here, home = place / "out", place / "home"
    monkeypatch.setattr(files, "results", lambda: home)
    done = {here: SMOKE[0].name, home: SMOKE[1].name}

    def status(results, rows):
        states = ["done" if e.name == done[results] else "waiting" for e in rows]
        frame = pd.DataFrame({"experiment": [e.name for e in rows], "seed": 0, "state": states, "budget": "smoke"})
        return frame.assign(steps=0, seconds=0.0, seconds_left=0.0)

    monkeypatch.setattr(campaign, "status", status)
    accelerator.run(out=here, rehearse=True, experiments=SMOKE, say=lambda line: None)
    assert trained == [[e.name for e in SMOKE[2:]]]


def test_a_row_without_its_data_is_left_out(place, trained, monkeypatch):
    monkeypatch.setenv("REPRO_DATA", str(place))
    monkeypatch.setenv("REPRO_CACHE", str(place / "cache"))
    away, said = replace(SMOKE[0], name="away", data="bsd400"), []
    accelerator.run(out=place, rehearse=True, experiments=[away, SMOKE[1]], say=said.append)
    assert trained == [[SMOKE[1].name]]
    assert said[0] == "away is left out: `repro data fetch bsd400` gets what is not on this machine."
    with pytest.raises(ReproError, match="has its data"):
        accelerator.run(out=place, rehearse=True, experiments=[away], say=said.append)


def test_the_end_of_the_time_is_no_failure_but_a_signal_is_said(place, trained, monkeypatch):
    def stop(*about, **more):
        raise campaign.Stopped("stopped")

    monkeypatch.setattr(campaign, "run", stop)
    said = []
    accelerator.run(0.001, place, rehearse=True, experiments=SMOKE, say=said.append)
    assert any("minutes are over" in line for line in said)
    with pytest.raises(campaign.Stopped):
        accelerator.run(25, place, rehearse=True, experiments=SMOKE, say=said.append)


def test_a_benchmark_is_measured_once_and_given_up_in_time(place, monkeypatch):
    assert "given up" in accelerator.benchmark_op("cpu", place, 0.1)
    broken = subprocess.CompletedProcess([], 1, "", "Traceback\nError: out of memory\n")
    monkeypatch.setattr(subprocess, "run", lambda *command, **options: broken)
    assert accelerator.benchmark_op("cpu", place, 9) == "no table (Error: out of memory)."
    store_table(place)
    assert accelerator.benchmark_op("cpu", place, 9) == "measured before."


def store_table(folder):
    about = timing.describe_machine("cpu", 1)
    timing.store(pd.DataFrame({"ms": [1.0]}), about, "op", folder, 3, lambda line: None)


@pytest.mark.slow
def test_killed_in_the_middle_and_continued(place):
    """SIGKILL while the first experiment is trained; the same command goes on from its checkpoint and does the rest."""
    out = place / "out"
    text = (files.results() / "experiments.toml").read_text().replace("steps = 30", "steps = 60")
    (place / "list.toml").write_text(text.replace('offsets = "embedded-test"\n', ""))
    store_table(out / "benchmarks")
    command = [sys.executable, "-m", "repro.cli", "accelerator", "--rehearse", "--minutes", "9", "--out", str(out)]
    command += ["--experiments", str(place / "list.toml")]
    environment = {name: value for name, value in os.environ.items() if name != "REPRO_RUNS"}
    environment |= {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    begun = out / "unfinished" / SMOKE[0].name / "seed0"
    with subprocess.Popen(command, cwd=files.root(), env=environment, stdout=subprocess.DEVNULL) as process:
        while not (begun / "checkpoint.safetensors").exists():
            assert process.poll() is None, "it ended by itself"
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    started = json.loads((begun / "environment.json").read_text())["started"]
    done = subprocess.run(command, cwd=files.root(), env=environment, capture_output=True, text=True, check=True)
    assert f"{SMOKE[0].name} seed 0: {SMOKE[0].why} [interrupted]" in done.stdout
    for row in SMOKE:
        record = records.read(out / "runs" / row.name / "seed0")
        assert record["steps"] == 60 and len(record.metrics)
        assert (out / "weights" / f"{row.name}-seed0.safetensors").exists()
    first = records.read(out / "runs" / SMOKE[0].name / "seed0")
    assert first["started"] >= started and first.curve["step"].tolist() == list(range(5, 61, 5))
