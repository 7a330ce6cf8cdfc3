"""Training: killed at any moment it ends with the same bits; what goes wrong is said and costs nothing."""

import csv
import errno
import json
import math
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from copy import deepcopy
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lightning_fabric import Fabric
from safetensors.torch import load_file

import repro
from repro import checkpoint, run_folder, train_config
from repro import train as training
from repro.data import catalog
from repro.data import training as training_data
from repro.data.images import crop_centre, write_image
from repro.data.noise import fixed_gaussian_noise, fixed_impulse_noise, fixed_poisson_noise
from repro.errors import ReproError
from repro.metrics import psnr_db
from repro.models import gradnet
from repro.train import Interrupted, train
from repro.train_config import TrainConfig, learning_rate

TINY = TrainConfig(
    sizes={"width": 8, "offset_width": 8, "deform_groups": 2, "context": False},
    data="embedded-train",
    patch=16,
    batch=2,
    steps=12,
    lr=2e-3,
    warmup_steps=3,
    validation_images=1,
    validate_every=6,
    checkpoint_every=2,
    log_every=3,
)

# Forked from a server that has torch loaded and has never computed: real processes, quick to start.
processes = multiprocessing.get_context("forkserver")
processes.set_forkserver_preload(["repro.train"])


def child(config, folder, sabotage):
    """Body of a process that trains; its exit status and, in a file beside the folder, its last words."""
    torch.set_num_threads(1)
    if sabotage:
        SABOTAGE[sabotage]()
    try:
        train(config, folder, progress=lambda row: None, device="cpu")
    except ReproError as error:
        folder.with_suffix(".error").write_text(str(error))
        os._exit(130 if isinstance(error, Interrupted) else 1)
    os._exit(0)


def start(folder, config=TINY, sabotage=None):
    process = processes.Process(target=child, args=(config, folder, sabotage), daemon=True)
    process.start()
    return process


def finish(process):
    process.join(300)
    assert process.exitcode is not None, "the process hangs"
    return process.exitcode


def wait_for_a_checkpoint(folder):
    """Until there is another than there is now."""
    path = folder / checkpoint.NAME

    def written():
        with suppress(FileNotFoundError):  # for a moment there is none
            return path.stat().st_mtime_ns

    before = written()
    while written() in (None, before):
        time.sleep(0.001)


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def on_call(owner, name, number, action):
    """Replace ``owner.name``: its call ``number`` runs ``action(original, *arguments)``."""
    original, calls = getattr(owner, name), 0

    def counted(*arguments):
        nonlocal calls
        calls += 1
        return action(original, *arguments) if calls == number else original(*arguments)

    setattr(owner, name, counted)


def write_half_and_die(write, path, content):
    write(path, content[: len(content) // 2])
    die()


def do_and_die(original, *arguments):
    original(*arguments)
    die()


def append_half_and_die(append, path, row):
    append(path, row)
    os.truncate(path, path.stat().st_size - 20)
    die()


# Where a process kills itself. Path.replace is called for config.json, then for each checkpoint, twice where
# one moves out of its way; Path.write_bytes once for each checkpoint.
SABOTAGE = {
    "first checkpoint half written": lambda: on_call(Path, "write_bytes", 1, write_half_and_die),
    "third checkpoint half written": lambda: on_call(Path, "write_bytes", 3, write_half_and_die),
    "between the two renames": lambda: on_call(Path, "replace", 3, do_and_die),
    "after both renames": lambda: on_call(Path, "replace", 4, do_and_die),
    "first row of the curve half written": lambda: on_call(run_folder, "append", 1, append_half_and_die),
    "third row of the curve half written": lambda: on_call(run_folder, "append", 3, append_half_and_die),
    "before the final weights": lambda: on_call(training, "save", 1, lambda *_: die()),
    "before the summary": lambda: on_call(training, "save", 1, lambda save, *a: (save(*a), die())),
}


def curve(folder, *without):
    with (folder / "curve.csv").open(newline="") as file:
        return [
            {key: value for key, value in row.items() if key not in ("seconds", *without)}
            for row in csv.DictReader(file)
        ]


def assert_same_run(folder, other):
    for name in ("weights.safetensors", "checkpoint.safetensors"):
        ours, theirs = load_file(folder / name), load_file(other / name)
        assert ours.keys() == theirs.keys()
        different = [key for key in ours if not torch.equal(ours[key], theirs[key])]
        assert not different, f"{name}: {len(different)} of {len(ours)} tensors differ, such as {different[0]}"
    assert curve(folder) == curve(other)
    assert (folder / "summary.json").exists()
    leftovers = [path.name for path in folder.glob(".*") if path.name != ".lock"]
    assert not leftovers


@pytest.fixture(scope="session")
def uninterrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("uninterrupted") / "run"
    assert finish(start(folder)) == 0
    assert [row["step"] for row in curve(folder)] == ["3", "6", "9", "12"]
    return folder


# --- killed and resumed ---------------------------------------------------------------------------


@pytest.mark.parametrize("moment", SABOTAGE)
def test_killed_at_the_worst_moment(moment, uninterrupted, tmp_path):
    folder = tmp_path / "run"
    assert finish(start(folder, sabotage=moment)) == -signal.SIGKILL
    assert finish(start(folder)) == 0
    assert_same_run(folder, uninterrupted)


@pytest.mark.parametrize("precision", ["32", pytest.param("bf16", marks=pytest.mark.slow)])
def test_killed_at_random_moments(precision, tmp_path):
    config = replace(TINY, precision=precision, steps=40)
    whole, folder = tmp_path / "whole", tmp_path / "run"
    assert finish(start(whole, config)) == 0
    moments = random.Random(0)
    for _ in range(3):
        process = start(folder, config)
        for _ in range(moments.randint(1, 4)):
            wait_for_a_checkpoint(folder)
        time.sleep(moments.uniform(0, 0.1))
        process.kill()
        assert finish(process) == -signal.SIGKILL
    assert finish(start(folder, config)) == 0
    assert_same_run(folder, whole)


def test_processes_go_by_the_latest_clock_and_stop_together():
    def reduce(mine, reduce_op):
        assert reduce_op == "max"
        return torch.maximum(mine, torch.tensor([7.5, 1.0], dtype=torch.float64))  # the other's clock and wish

    run = training._Run.__new__(training._Run)
    run.fabric = SimpleNamespace(world_size=2, device=torch.device("cpu"), all_reduce=reduce)
    assert run._agree(3.0, False) == (7.5, True)
    assert run._agree(9.0, False) == (9.0, True)
    run.fabric.world_size = 1
    assert run._agree(3.0, False) == (3.0, False)


def test_validation_is_in_the_precision_of_training(tmp_path, monkeypatch):
    seen, estimate = [], training._estimate

    def watch(*given, **told):
        seen.append(torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else torch.float32)
        return estimate(*given, **told)

    monkeypatch.setattr(training, "_estimate", watch)
    for precision, dtype in (("32", torch.float32), ("bf16", torch.bfloat16)):
        seen.clear()
        config = replace(TINY, precision=precision, steps=1, validate_every=1, checkpoint_every=1, log_every=1)
        train(config, tmp_path / precision, progress=lambda row: None, device="cpu")
        assert seen == [dtype]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_asked_to_stop(number, uninterrupted, tmp_path):
    folder = tmp_path / "run"
    process = start(folder, sabotage=None)
    while not (folder / "curve.csv").exists():
        time.sleep(0.01)
    os.kill(process.pid, number)
    status = finish(process)
    if status == 130:  # on a fast machine the run may have ended first
        _, facts = checkpoint.newest_checkpoint(folder)
        message = (tmp_path / "run.error").read_text()
        assert f"step {facts['step']}" in message and "same command" in message
        assert not (folder / "weights.safetensors").exists()
        status = finish(start(folder))
    assert status == 0
    assert_same_run(folder, uninterrupted)


@pytest.mark.parametrize("speaks", [True, False])
def test_the_first_signal_is_answered_once_and_by_one_process(speaks, capfd):
    with suppress(KeyboardInterrupt), training._signals(speaks) as caught:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGINT):
            signal.raise_signal(number)
    assert caught == [signal.SIGTERM, signal.SIGINT]
    said = "Stopping after this step; the same signal again stops at once.\n"
    assert capfd.readouterr().err == (said if speaks else "")


def flip(path, position):
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)


DAMAGE = {
    "a bit of a tensor": lambda path: flip(path, -1000),
    "the step in the header": lambda path: flip(path, path.read_bytes().index(b'\\"step\\": ') + 11),
    "cut short": lambda path: os.truncate(path, path.stat().st_size // 2),
    "empty": lambda path: path.write_bytes(b""),
    "another kind of file": lambda path: path.write_text("not a checkpoint " * 100),
}


def test_a_damaged_checkpoint_does_not_take_the_place_of_a_good_one(tmp_path):
    tensors = {"net/weight": torch.ones(3)}
    for step in (1, 2):
        checkpoint.write_checkpoint(tmp_path, tensors, {"step": step})
    newest = tmp_path / checkpoint.NAME
    newest.write_bytes(newest.read_bytes()[:-1])
    checkpoint.write_checkpoint(tmp_path, tensors, {"step": 3})
    assert checkpoint.newest_checkpoint(tmp_path)[1] == {"step": 3}
    assert checkpoint.read_checkpoint(checkpoint.previous(newest))[1] == {"step": 1}


@pytest.mark.parametrize(
    ("model", "setting", "source"),
    [
        ("sadnet", {"patch": 128}, "SADNet"), ("ssdn", {"patch": 256}, "SSDN"), ("ssdn", {"patch": 128}, "chosen"),
        ("ssdn", {"betas": (0.9, 0.99)}, "SSDN"), ("sadnet", {"betas": (0.9, 0.99)}, "chosen"),
        ("gradnet-impl", {"clip": True}, "slides"), ("gradnet", {"clip": True}, "chosen"),
        ("scaoednet", {"lr": 1e-4}, "chosen"),
    ],
)  # fmt: skip
def test_the_origin_of_a_setting_is_that_of_its_own_source(model, setting, source):
    described = TrainConfig(model=model, steps=10, **setting).hyperparameters()
    assert all(described[name]["origin"].startswith(source) for name in setting)


def test_with_pairs_the_published_loss_is_that_for_real_noise():
    real = {"model": "sadnet", "pairs": "polyu", "pairs_share": 1.0, "steps": 10}
    origins = [TrainConfig(loss=loss, **real).hyperparameters()["loss"]["origin"] for loss in ("l1", "l2")]
    assert origins[0] == "SADNet, paper or authors' code" and origins[1].startswith("the study's default")
    assert TrainConfig(loss="l1", steps=10).hyperparameters()["loss"]["origin"] == "chosen for this experiment"


def test_a_network_for_a_range_of_levels_is_validated_in_its_middle():
    sizes = {"noise": "gaussian", "level": (5, 50), "parameter": "variable"}
    config = TrainConfig(model="ssdn", sizes=sizes, steps=1)
    assert training._middle_level(config, repro.build("ssdn", **sizes)) == ("sigma", 27.5)


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_checkpoint_is_passed_over(damage, uninterrupted, tmp_path, capsys):
    folder = tmp_path / "run"
    assert finish(start(folder, sabotage="third row of the curve half written")) == -signal.SIGKILL
    DAMAGE[damage](folder / checkpoint.NAME)
    _, facts = checkpoint.newest_checkpoint(folder)
    assert facts["step"] == 6  # the newest, of step 8, is the damaged one
    assert "checkpoint.safetensors is damaged" in capsys.readouterr().err
    run_without_files(TINY, folder)
    assert capsys.readouterr().err.count("is damaged") == 1  # read once, and said once
    assert finish(start(folder)) == 0
    assert_same_run(folder, uninterrupted)


def test_a_finished_run_is_left_alone(uninterrupted):
    before = {path.name: path.stat().st_mtime_ns for path in uninterrupted.iterdir() if path.name != ".lock"}
    assert train(TINY, uninterrupted) == uninterrupted / "weights.safetensors"
    after = {path.name: path.stat().st_mtime_ns for path in uninterrupted.iterdir() if path.name != ".lock"}
    assert before == after


def test_a_finished_run_needs_no_checkpoints(uninterrupted, tmp_path):
    folder, rows = tmp_path / "run", []
    shutil.copytree(uninterrupted, folder)
    for path in folder.glob("checkpoint*"):
        path.unlink()
    before = {path.name: path.stat().st_mtime_ns for path in folder.glob("[!.]*")}
    assert train(TINY, folder, progress=rows.append) == folder / "weights.safetensors"
    assert {path.name: path.stat().st_mtime_ns for path in folder.glob("[!.]*")} == before and not rows
    with pytest.raises(ReproError, match="other settings"):
        train(replace(TINY, seed=7), folder)


@pytest.mark.parametrize("damage", ["cut short", "a bit of a tensor"])
def test_damaged_final_weights_are_written_anew(damage, uninterrupted, tmp_path, capsys):
    folder, rows = tmp_path / "run", []
    shutil.copytree(uninterrupted, folder)
    DAMAGE[damage](folder / "weights.safetensors")
    train(TINY, folder, progress=rows.append)
    assert_same_run(folder, uninterrupted)
    assert not rows, "nothing is trained twice"
    assert "it is written anew from the newest checkpoint" in capsys.readouterr().err


def test_damaged_final_weights_without_a_checkpoint_are_said(uninterrupted, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(uninterrupted, folder)
    for path in folder.glob("checkpoint*"):
        path.unlink()
    os.truncate(folder / "weights.safetensors", 1000)
    with pytest.raises(ReproError, match=r"weights\.safetensors is not .*, and no checkpoint is there"):
        train(TINY, folder, progress=quiet)
    assert (folder / "weights.safetensors").stat().st_size == 1000


def test_nothing_is_written_over_where_every_checkpoint_is_damaged(uninterrupted, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(uninterrupted, folder)
    (folder / "weights.safetensors").unlink()
    for path in folder.glob("checkpoint*"):
        os.truncate(path, path.stat().st_size - 1)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(
        ReproError, match=r"checkpoint\.safetensors is damaged .* .*checkpoint-previous\.safetensors is"
    ):
        train(TINY, folder, progress=quiet)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


# --- what goes wrong ------------------------------------------------------------------------------


def quiet(row):
    pass


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_not_a_number(what, tmp_path, monkeypatch):
    def objective(net, noisy, clean, step):
        estimate = net(noisy)
        loss = (estimate - clean).square().mean()
        if step < 4:
            return loss
        # the second has the value 0 and an infinite slope
        return loss * math.nan if what == "loss" else loss + 0 * (estimate - estimate.detach()).abs().sqrt().sum()

    monkeypatch.setitem(training.LOSSES, "l2", objective)
    with pytest.raises(ReproError, match=f"step 5: the {what} is not finite. The checkpoint of step 4"):
        train(TINY, tmp_path / "run", progress=quiet)
    tensors, facts = checkpoint.newest_checkpoint(tmp_path / "run")
    assert facts["step"] == 4
    assert all(tensor.isfinite().all() for tensor in tensors.values())


@pytest.mark.parametrize("writer", ["write_bytes", "append"])
def test_full_disk(writer, tmp_path, monkeypatch):
    owner = Path if writer == "write_bytes" else run_folder
    original, calls = getattr(owner, writer), 0

    def write(*arguments):
        nonlocal calls
        calls += 1
        if calls >= 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return original(*arguments)

    monkeypatch.setattr(owner, writer, write)
    with pytest.raises(ReproError, match=r"^Cannot write .*No space left on device\.$"):
        train(TINY, tmp_path / "run", progress=quiet)
    _, facts = checkpoint.newest_checkpoint(tmp_path / "run")
    assert facts["step"] == {"write_bytes": 4, "append": 8}[writer]
    assert not list((tmp_path / "run").glob(".checkpoint-*"))


def test_a_folder_of_another_run(uninterrupted):
    other = replace(TINY, lr=1e-3, seed=7)
    with pytest.raises(ReproError, match=r"other settings \(lr 0.002 instead of 0.001, seed 0 instead of 7\)"):
        train(other, uninterrupted)


def test_other_files_of_a_folder_stay(tmp_path):
    folder = tmp_path / "mine"
    folder.mkdir()
    kept = [folder / name for name in (".pre-commit-config.yaml", ".zcompdump-host-5.9", ".config-mine.tar")]
    for path in kept:
        path.write_text("mine")
    train(replace(TINY, steps=1), folder, progress=quiet)
    (folder / ".checkpoint-abcd_123.safetensors").write_text("what a kill left")
    train(replace(TINY, steps=1), folder, progress=quiet)
    assert [path.read_text() for path in kept] == 3 * ["mine"]
    assert not (folder / ".checkpoint-abcd_123.safetensors").exists()
    (folder / "config.json").unlink()
    with pytest.raises(ReproError, match=r"no readable config\.json"):
        train(replace(TINY, steps=1), folder, progress=quiet)


def read_files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != ".lock"}


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["config.json", "curve.csv"], r"mine holds a config\.json that is of no run"),
        (["curve.csv"], r"mine holds curve\.csv and no readable config\.json"),
        (["summary.json"], r"mine holds summary\.json and no"),
        (["other.safetensors"], r"mine holds other\.safetensors and no"),
    ],
)
def test_files_of_somebody_else_by_the_names_of_a_run_are_left_alone(names, message, tmp_path):
    folder = tmp_path / "mine"
    folder.mkdir()
    for name in names:
        (folder / name).write_text('{"model": "mine", "batch": 8, "steps": 1000}')
    before = read_files(folder)
    with pytest.raises(ReproError, match=message):
        train(TINY, folder, progress=quiet)
    assert read_files(folder) == before and not (folder / ".lock").exists()


@pytest.mark.parametrize("wrong", [{"data": "embedded-test"}, {"loss": "l3"}, {"patch": 1000}])
def test_nothing_is_written_for_settings_or_data_that_are_refused(wrong, tmp_path):
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(ReproError):
        train(replace(TINY, **wrong), folder, progress=quiet)
    assert read_files(folder) == {"notes.txt": b"mine"}
    run_folder.claim(folder, TINY)
    (folder / "curve.csv").write_text("step,seconds\n")  # of a first attempt
    before = read_files(folder)
    with pytest.raises(ReproError):
        train(replace(TINY, **wrong), folder, progress=quiet)
    assert read_files(folder) == before


@pytest.mark.parametrize(
    ("device", "gpu", "asked"),
    [
        ("auto", False, ("cpu", 1)), ("auto", True, ("cuda", 1)), ("cpu", True, ("cpu", 1)),
        ("cuda", True, ("cuda", 1)), ("cuda:1", True, ("cuda", [1])),
    ],
)  # fmt: skip
def test_the_device_is_chosen_as_everywhere(device, gpu, asked, tmp_path, monkeypatch):
    """Lightning's own "auto" would take an mps, and knows no cuda:1."""
    seen = []

    def stop(accelerator, devices, **rest):
        seen.append((accelerator, devices))
        raise InterruptedError

    monkeypatch.setattr(training, "Fabric", stop)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    monkeypatch.setattr(torch, "empty", lambda *size, device: None)
    with pytest.raises(InterruptedError):
        train(TINY, tmp_path / "run", device=device)
    assert seen == [asked]


def test_a_device_that_is_not_there_is_said(tmp_path, monkeypatch):
    with pytest.raises(ReproError, match="no device 'mps'; choose cpu, cuda or auto"):
        train(TINY, tmp_path / "run", device="mps")
    with pytest.raises(ReproError, match="no device 'cuda:99' here"):
        train(TINY, tmp_path / "run", device="cuda:99")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    monkeypatch.setattr(torch, "empty", lambda *size, device: None)
    with pytest.raises(ReproError, match="2 processes have a GPU each: choose cuda, not cuda:1"):
        train(TINY, tmp_path / "run", device="cuda:1")


def test_half_a_checkpoint_is_no_run(tmp_path):
    """After a kill in the middle of the first, the settings may still change."""
    folder = tmp_path / "run"
    assert finish(start(folder, sabotage="first checkpoint half written")) == -signal.SIGKILL
    (half,) = folder.glob("*.safetensors")
    assert half.name.startswith(".checkpoint-")
    run_folder.claim(folder, replace(TINY, lr=1e-3))
    assert json.loads((folder / "config.json").read_text())["lr"] == 1e-3 and not half.exists()


def test_one_process_per_folder(tmp_path):
    folder = tmp_path / "run"
    process = start(folder, replace(TINY, steps=100_000))
    while not (folder / "curve.csv").exists():
        time.sleep(0.01)
    with pytest.raises(ReproError, match="Another process is training"):
        train(TINY, folder)
    process.kill()
    finish(process)
    with pytest.raises(ReproError, match="other settings"):  # the lock went with the process
        train(TINY, folder)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"schedule": "linear"}, "schedule is 'linear'; it can be cosine or step or constant"),
        ({"precision": "16"}, "precision is '16'"),
        ({"colour": "RGB"}, "colour is 'RGB'"),
        ({"steps": None}, "needs a budget"),
        ({"batch": 0}, "batch is 0"),
        ({"sigma_255": -1}, "sigma_255 is -1"),
        ({"sigma_255": (50, 10)}, "sigma_255 is"),
        ({"ema_decay": 1.0}, "ema_decay is 1.0"),
        ({"loss": "l3"}, "sadnet has no loss 'l3'"),
        ({"loss": "torch"}, "sadnet has no loss 'torch'"),
        ({"model": "bm3d", "sizes": {}}, "bm3d has nothing to be trained"),
        ({"lr": -1.0}, "lr is -1.0"),
        ({"lr": math.nan}, "lr is nan"),
        ({"warmup_steps": -1}, "warmup_steps is -1"),
        ({"plateau_factor": 1.0}, "plateau_factor is 1.0; it must be between 0 and 1"),
        ({"plateau_patience": 0}, "plateau_patience is 0; it must be at least 1"),
        ({"clip_norm": -1.0}, "clip_norm is -1.0"),
        ({"clip": "maybe"}, "clip = 'maybe', which should be bool"),
        ({"seed": 1.5}, "seed = 1.5, which should be int"),
        ({"batch": True}, "batch = True, which should be int"),
        ({"betas": (2, 3)}, "betas is"),
        ({"betas": 3}, "betas = 3"),
        ({"sigma_255": math.inf}, "sigma_255 is inf"),
        ({"seconds": -5.0}, "seconds is -5.0"),
        ({"sizes": {"depth": 3}}, "no size depth"),
        ({"sizes": {"channels": 1}}, "1 channels cannot learn rgb"),
        ({"model": "unheard-of"}, "no model 'unheard-of'"),
        ({"data": "embedded-test"}, "embedded-test is a test set"),
        ({"data": "unheard-of"}, "no data set 'unheard-of'"),
        ({"patch": 1000}, "1000 x 1000 cannot be cut"),
        ({"pairs": "cc15"}, "cc15 is a test set"),
        ({"pairs": "unheard-of"}, "no data set 'unheard-of'"),
        ({"pairs": "embedded-train"}, "embedded-train has no noisy photographs"),
        ({"pairs": "polyu", "pairs_share": 0.0}, "pairs_share is 0.0; it lies above 0"),
        ({"pairs": "polyu", "pairs_share": 0.3}, "of a batch of 2 makes a whole number"),
        ({"pairs": "polyu", "model": "ssdn", "sizes": {}, "loss": "blindspot"}, "'blindspot' of ssdn takes no pairs"),
        ({"model": "unet", "sizes": {"width": 4}, "loss": "blindspot"}, "blindspot is for networks that do not see"),
        ({"pairs": "polyu", "model": "ffdnet", "sizes": {}}, "must be told the level of the noise, which the loss"),
    ],
)
def test_wrong_settings(wrong, message, tmp_path):
    with pytest.raises(ReproError, match=message):
        train(replace(TINY, **wrong), tmp_path / "run", progress=quiet)


# --- facts ----------------------------------------------------------------------------------------


def test_schedules():
    cosine = TrainConfig(steps=1000, lr=1.0, warmup_steps=10)
    assert [learning_rate(cosine, step) for step in (0, 4)] == pytest.approx([0.1, 0.5], rel=1e-3)
    assert learning_rate(cosine, 250) == pytest.approx((1 + math.sqrt(0.5)) / 2)
    assert learning_rate(cosine, 500) == pytest.approx(0.5)
    assert 0 < learning_rate(cosine, 999) < 1e-5
    paper = TrainConfig(steps=10**6, lr=1e-4, schedule="step", warmup_steps=0)
    rates = [learning_rate(paper, step) for step in (0, 299_999, 300_000, 599_999, 600_000, 900_000)]
    assert rates == [1e-4, 1e-4, 5e-5, 5e-5, 2.5e-5, 1.25e-5]
    constant = TrainConfig(steps=10, lr=0.3, schedule="constant", warmup_steps=0)
    assert {learning_rate(constant, step) for step in range(10)} == {0.3}


def test_a_plateau_is_so_many_validations_without_a_better_one():
    count = train_config.count_plateaus
    assert count([], 2) == count([20.0], 2) == count([20.0, 19.0, 20.1, 19.0], 2) == 0
    assert count([20.0, 20.0, 20.0], 2) == 1, "as good is not better"
    assert count([20.0, 19.0, 19.5], 2) == 1, "above the one before is not above the best"
    assert count([20.0, 19.0, 19.0, 19.0], 2) == 1 and count([20.0, 19.0, 19.0, 19.0, 19.0], 2) == 2, "it counts anew"


@given(st.lists(st.floats(0, 60), max_size=40), st.integers(1, 6))
def test_plateaus_are_those_of_the_scheduler_in_torch(validated, patience):
    parameter = torch.zeros((), requires_grad=True)
    optimiser = torch.optim.SGD([parameter], lr=1.0)
    waits = torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimiser, "max", factor=0.5, patience=patience - 1, threshold=0, threshold_mode="abs", eps=0
    )
    for value in validated:
        waits.step(value)
    (group,) = optimiser.param_groups
    assert group["lr"] == 0.5 ** train_config.count_plateaus(validated, patience)


@pytest.mark.parametrize("stopped_at", [None, 1, 3, 4])
def test_the_rate_falls_where_validation_stands_still(stopped_at, tmp_path, monkeypatch):
    config = replace(TINY, steps=6, schedule="plateau", plateau_patience=2, warmup_steps=0, validate_every=1)
    monkeypatch.setattr(training._Run, "validate", lambda run: {"psnr_db": 20.0})
    rates = {}

    def note(row):
        rates[row["step"]] = row["lr"]
        if row["step"] == stopped_at:
            os.kill(os.getpid(), signal.SIGTERM)

    if stopped_at:
        with pytest.raises(Interrupted):
            train(config, tmp_path / "run", progress=note)
        stopped_at = None
    train(config, tmp_path / "run", progress=note)
    assert [rates[step] for step in range(1, 7)] == pytest.approx([config.lr * 0.2**n for n in (0, 0, 0, 1, 1, 2)])


def test_the_other_processes_hear_what_the_first_has_validated(tmp_path):
    run = training._Run.__new__(training._Run)
    heard = SimpleNamespace(global_rank=1, broadcast=lambda given: 20.5 if given is None else pytest.fail("its own"))
    run.config, run.fabric, run.validated = TINY, heard, [20.0]
    run.step, run.seconds = TINY.validate_every, 0.0
    run._log()
    assert run.validated == [20.0, 20.5]
    run.step += 1
    run._log()
    assert run.validated == [20.0, 20.5]


def test_what_a_run_does_not_use_is_not_from_its_source():
    origins = [
        TrainConfig(model="gradnet", steps=1, plateau_patience=20, **more).hyperparameters()["plateau_patience"][
            "origin"
        ]
        for more in ({}, {"schedule": "plateau"})
    ]
    assert origins == ["chosen for this experiment", "GradNet, authors' code"]


@pytest.mark.parametrize("damage", ["\n", "\0\0\0\n", "9,1.0,0.1", "x,1\n"])
def test_a_curve_is_kept_up_to_what_was_not_written_as_a_whole(damage, tmp_path):
    path = tmp_path / "curve.csv"
    path.write_text(f"step,seconds\n2,1.0\n4,2.0\n{damage}")
    run_folder.truncate(path, 10)
    assert path.read_text() == "step,seconds\n2,1.0\n4,2.0\n"


def test_schedule_by_the_clock():
    """The larger share of the two budgets counts."""
    clock = TrainConfig(seconds=60, lr=1.0, warmup_steps=0)
    assert [learning_rate(clock, step=7, seconds=s) for s in (0, 30, 60, 70)] == pytest.approx([1, 0.5, 0, 0])
    both = TrainConfig(steps=100, seconds=60, lr=1.0, warmup_steps=0)
    assert learning_rate(both, 50, 10) == learning_rate(both, 50, 30) == learning_rate(both, 10, 30)


def test_a_budget_in_seconds(tmp_path):
    config = replace(TINY, steps=None, seconds=0.5, log_every=1000, validate_every=1000)
    rows = []
    weights = train(config, tmp_path / "run", progress=rows.append)
    assert weights.exists() and rows[-1]["seconds"] >= 0.5 and rows[-1]["psnr_db"] > 0
    assert len(rows) == 1 and rows[0]["lr"] == 0


def run_without_files(config, folder):
    return training._Run(config, folder, Fabric(accelerator="cpu"), quiet)


def test_statistics_of_batches_are_averaged_like_the_weights(tmp_path):
    sizes = {"depth": 3, "width": 4}
    run = run_without_files(replace(TINY, model="dncnn", sizes=sizes, ema_decay=0.6), tmp_path)
    (name,) = (name for name, _ in run.net.named_buffers() if name.endswith("running_var"))
    average, generator = run.net.get_buffer(name).clone(), torch.Generator().manual_seed(0)
    for step, spread in enumerate((0.1, 1.0, 5.0), 1):
        run._update(*(spread * torch.rand(2, 2, 3, 16, 16, generator=generator)))
        average.lerp_(run.net.get_buffer(name), 1 - min(0.6, step / (step + 9)))
    torch.testing.assert_close(run.averaged.get_buffer(name), average)
    assert not torch.allclose(average, run.net.get_buffer(name))
    assert next(b for n, b in run.averaged.named_buffers() if n.endswith("num_batches_tracked")) == 3


def test_weight_averaging_and_updates(tmp_path):
    """Three steps by hand: AdamW from its paper, in float64, and the average from its definition."""
    config = replace(TINY, clip_norm=0.01, weight_decay=0.1, ema_decay=0.6)
    run = run_without_files(config, tmp_path)
    generator = torch.Generator().manual_seed(0)
    batches = [torch.rand(2, 2, 3, 16, 16, generator=generator) for _ in range(3)]
    name, parameter = next((n, p) for n, p in run.net.named_parameters() if n == "last.weight")
    value = average = parameter.detach().double().clone()
    m = v = torch.zeros_like(value)
    beta1, beta2 = config.betas
    for step, (noisy, clean) in enumerate(batches):
        run.net.zero_grad()
        (run.net(noisy) - clean).square().mean().backward()
        norm = sum(p.grad.double().square().sum() for p in run.net.parameters()).sqrt()
        assert norm > 0.01
        gradient = parameter.grad.double() * 0.01 / (norm + 1e-6)
        m, v = beta1 * m + (1 - beta1) * gradient, beta2 * v + (1 - beta2) * gradient**2
        rate = learning_rate(config, step)
        value = value * (1 - rate * 0.1)
        value -= rate * (m / (1 - beta1 ** (step + 1))) / ((v / (1 - beta2 ** (step + 1))).sqrt() + 1e-8)
        decay = min(0.6, (step + 1) / (step + 10))
        average = decay * average + (1 - decay) * value
        run.net.zero_grad()
        run._update(noisy, clean)
        torch.testing.assert_close(parameter.double(), value, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(run.averaged.get_parameter(name).double(), average, rtol=1e-4, atol=1e-6)


def test_offset_statistics_are_the_network_s(tmp_path):
    run = run_without_files(TINY, tmp_path)
    run.validation = [(torch.rand(3, 24, 40), torch.rand(3, 24, 40)) for _ in range(2)]
    row = run.validate()
    scales = [run.averaged.offsets(noisy[None]) for noisy, _ in run.validation]
    for index, scale in enumerate(("decode4", "decode3", "decode2", "decode1")):
        offset, mask = (sum(image[index][k].abs().mean().item() for image in scales) / 2 for k in (0, 1))
        assert row[f"offset_{scale}.block.deform"] == pytest.approx(offset, rel=1e-5)
        assert row[f"mask_{scale}.block.deform"] == pytest.approx(mask, rel=1e-5)
    assert not any(module._forward_pre_hooks for module in run.averaged.modules())


@pytest.mark.parametrize(
    ("model", "sizes", "loss", "corrupt"),
    [
        ("ssdn", {"noise": "poisson", "level": [20, 40]}, "blindspot", partial(fixed_poisson_noise, events=30)),
        ("unet", {"noise": "impulse", "level": [0.0, 0.5]}, "n2c", partial(fixed_impulse_noise, alpha=0.25)),
        ("ssdn", {"level": [5, 50], "parameter": "known"}, "blindspot", partial(fixed_gaussian_noise, sigma_255=27.5)),
    ],
    ids=["poisson, told", "impulse, blind", "a range of levels, told"],
)
def test_validation_is_in_the_noise_that_is_trained_for(model, sizes, loss, corrupt, tmp_path):
    about = {"model": model, "sizes": sizes | {"width": 8}, "loss": loss, "sigma_255": 25.0, "patch": 32}
    config = replace(TINY, steps=2, validate_every=1, channels_last=False, **about)
    train(config, tmp_path / "run", progress=lambda row: None, device="cpu")
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    *_, held_out = catalog.samples("embedded-train")
    clean = crop_centre(held_out.clean, training_data.VALIDATION_SIZE)
    expected = psnr_db(clean, corrupt(clean, held_out.name))
    assert summary["validation_psnr_noisy_db"] == pytest.approx(expected, abs=1e-4)
    assert math.isfinite(summary["validation_psnr_db"])


def test_training_for_other_noise_needs_its_level(tmp_path):
    config = replace(TINY, model="unet", sizes={"noise": "poisson", "width": 8}, loss="n2c", patch=32)
    with pytest.raises(ReproError, match="Training for poisson noise needs its level"):
        train(config, tmp_path / "run", progress=lambda row: None, device="cpu")


def test_validation_photographs_are_not_trained_on():
    config = replace(TINY, validation_images=2)
    images, validation = training_data.split_photographs(config, "sigma", 50)
    assert len(images) == 6 and len(validation) == 2
    for _, clean in validation:
        crop = (clean * 255).round().byte()
        assert crop.shape == (3, 256, 256)
        assert not any(
            torch.equal(image[:, top : top + 256, left : left + 256], crop)
            for image in images
            for top, left in [((image.shape[1] - 256) // 2, (image.shape[2] - 256) // 2)]
        )
    gray, pairs = training_data.split_photographs(replace(config, colour="gray"), "sigma", 50)
    assert {image.shape[0] for image in gray} == {1} and pairs[0][1].shape[0] == 1


# --- real noise -----------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def pairs(tmp_path_factory):
    """Two crops of each of four scenes; the noisy one is the clean one and 0.1 more."""
    folder, generator = tmp_path_factory.mktemp("pairs"), torch.Generator().manual_seed(0)
    for scene in "abcd":
        for crop in (1, 2):
            clean = 0.9 * torch.rand(3, 24, 30, generator=generator)
            for place, image in (("clean", clean), ("noisy", clean + 0.1)):
                (folder / place).mkdir(exist_ok=True)
                write_image(folder / place / f"{scene}_{crop}.png", image)
    return str(folder)


SCAOEDNET = {"model": "scaoednet", "sizes": {"width": 4, "blocks": 1, "stages": 2}, "loss": "signal_dependent"}


@pytest.mark.parametrize(
    "settings",
    [
        {"pairs_share": 1.0, "loss": "l1"},
        {"pairs_share": 0.5, "validation_images": 2} | SCAOEDNET,
    ],
    ids=["pairs alone", "a mix"],
)
def test_real_noise_resumes_with_the_same_bits(settings, pairs, tmp_path):
    config = replace(TINY, pairs=pairs, **settings)
    whole, folder = tmp_path / "whole", tmp_path / "run"
    assert finish(start(whole, config)) == 0
    assert finish(start(folder, config, "third checkpoint half written")) == -signal.SIGKILL
    assert finish(start(folder, config)) == 0
    assert_same_run(folder, whole)


def test_a_folder_from_before_there_were_pairs_goes_on(uninterrupted, pairs, tmp_path):
    folder = tmp_path / "run"
    assert finish(start(folder, sabotage="third row of the curve half written")) == -signal.SIGKILL
    path = folder / "config.json"
    known = json.loads(path.read_text())
    path.write_text(json.dumps({name: value for name, value in known.items() if not name.startswith("pairs")}))
    with pytest.raises(ReproError, match=r"other settings \(pairs None instead of"):
        train(replace(TINY, pairs=pairs), folder)
    assert finish(start(folder)) == 0
    assert_same_run(folder, uninterrupted)


def test_real_noise_is_validated_on_scenes_that_are_not_trained_on(pairs):
    images, training_pairs, validation = training_data.gather(
        replace(TINY, pairs=pairs, validation_images=2), "sigma", 50
    )
    assert len(images) == len(training_data.split_photographs(replace(TINY, validation_images=2), "sigma", 50)[0])
    assert len(training_pairs) == 6 and len(validation) == 2
    assert all(noisy.dtype == torch.float32 and noisy.shape == clean.shape for noisy, clean in validation)
    for noisy, clean in validation:
        torch.testing.assert_close(noisy - clean, torch.full_like(clean, 0.1), rtol=0, atol=1 / 255)
        assert not any(torch.equal((clean * 255).round().byte(), other) for _, other in training_pairs)
    images, _, _ = training_data.gather(replace(TINY, pairs=pairs, pairs_share=1.0, data="not looked at"), "sigma", 50)
    assert images == []


def test_scenes_stay_together():
    names = ["hall_1", "hall_2", "hall_3", "lake_1", "lake_2", "tree_1", "tree_2", "yard_1"]
    assert training_data.keep_scenes_apart("a folder", names, 1) == {7}
    assert training_data.keep_scenes_apart("a folder", names, 2) == {5, 6, 7}
    assert training_data.keep_scenes_apart("a folder", names, 8) == {3, 4, 5, 6, 7}  # the largest stays
    camera = [f"IMG_{number}" for number in range(8)]  # numbers, but not of crops
    assert training_data.keep_scenes_apart("a folder", camera, 2) == {6, 7}
    assert training_data.keep_scenes_apart("a folder", ["a", "b", "c", "d"], 1) == {3}
    sidd = [f"{k:04}_{k // 2:03}_S6_00100_00060_3200_L_{take:03}" for k in range(8) for take in (10, 11)]
    assert training_data.keep_scenes_apart("sidd", sidd, 3) == {12, 13, 14, 15}  # two recordings of one scene


def test_crops_of_polyu_stay_with_their_subject():
    """Of 100 crops, many show the same toys, plants and rooms, through other cameras too."""
    crops = sorted(Path(path).stem for path in catalog.find("polyu").files if path.startswith("clean/"))
    crops = [crop.removesuffix("_mean") for crop in crops]
    apart = training_data.keep_scenes_apart("polyu", crops, 8)
    subjects = [crop.rstrip("0123456789_").split("_")[-1] for crop in crops]
    kept_out = {subjects[index] for index in apart}
    assert len(kept_out) > 3 and 8 <= len(apart) < 12
    assert kept_out.isdisjoint(subject for index, subject in enumerate(subjects) if index not in apart)


def test_an_objective_is_told_which_samples_are_real(pairs, tmp_path, monkeypatch):
    seen = []

    def told(net, noisy, clean, step, real=None):
        seen.append(real.tolist())
        assert torch.equal((noisy - clean - 0.1).abs().amax((1, 2, 3)) < 0.01, real)
        return (net(noisy) - clean).square().mean()

    monkeypatch.setattr("repro.models.sadnet.told", told, raising=False)
    train(replace(TINY, loss="told", pairs=pairs, batch=4, steps=2), tmp_path / "run", progress=quiet)
    assert seen == [[False, True, False, True]] * 2


# --- objectives, and what is kept -----------------------------------------------------------------


def test_an_objective_of_the_model_s_own_file(tmp_path, monkeypatch):
    """It may draw random numbers: they depend on the step, not on what was drawn before."""
    module = repro.models.sadnet
    drawn = {}

    def masked(net, noisy, clean, step):
        mask = torch.rand(noisy.shape)
        drawn.setdefault(step, []).append(mask)
        return (mask * (net(noisy) - clean).square()).mean()

    monkeypatch.setattr(module, "masked", masked, raising=False)
    config = replace(TINY, loss="masked", steps=4, checkpoint_every=2)
    train(config, tmp_path / "one", progress=quiet)
    torch.rand(5)
    train(config, tmp_path / "two", progress=quiet)
    assert all(torch.equal(*twice) for twice in drawn.values()) and len(drawn) == 4
    assert not torch.equal(drawn[0][0], drawn[1][0])


def test_the_caller_keeps_its_random_state(tmp_path):
    before, algorithms = torch.random.get_rng_state(), torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    try:
        torch.use_deterministic_algorithms(True, warn_only=True)
        train(replace(TINY, steps=1), tmp_path / "run", progress=quiet)
        assert torch.equal(torch.random.get_rng_state(), before)
        assert torch.are_deterministic_algorithms_enabled() and torch.is_deterministic_algorithms_warn_only_enabled()
    finally:
        torch.use_deterministic_algorithms(algorithms, warn_only=warn_only)
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


@pytest.mark.parametrize("device", ["cpu", "cuda:1"])
def test_the_state_of_the_gpu_in_use_is_kept_too(device, monkeypatch):
    kept = []

    @contextmanager
    def fork(devices):
        kept.extend(devices)
        yield

    monkeypatch.setattr(torch.random, "fork_rng", fork)
    with training._repeatable(torch.device(device)):
        pass
    assert kept == [torch.device(device)] * (device != "cpu")


def test_final_weights_load_and_hyperparameters_have_origins(uninterrupted):
    net = repro.load(uninterrupted / "weights.safetensors")
    averaged = load_file(uninterrupted / checkpoint.NAME)
    assert all(torch.equal(averaged[f"averaged/{n}"], t) for n, t in net.state_dict().items())
    origins = {name: entry["origin"] for name, entry in TINY.hyperparameters().items()}
    assert all(origins.values()) and origins["steps"] == "chosen for this experiment"
    assert TrainConfig(steps=1, lr=1e-4).hyperparameters()["lr"]["origin"] == "SADNet, paper or authors' code"


# One network per method and what is peculiar about it when several processes train it. Objectives that draw at random
# draw something else in each process, and are left out.
SHARED = {
    "sadnet": {"sizes": TINY.sizes},
    "ssdn": {"loss": "blindspot", "sizes": {"width": 8, "level": 50}},
    "ssdn, estimator": {"model": "ssdn", "loss": "blindspot", "sizes": {"width": 8, "parameter": "variable"}},
    "gradnet": {"loss": "consistency", "sizes": {"width": 16, "reduction": 4}},  # batch normalisation
    "scaoednet, one stage": {"model": "scaoednet", "loss": "gaussian", "sizes": {"width": 8, "blocks": 1, "stages": 1}},
    "scaoednet, recomputed": {
        "model": "scaoednet",
        "loss": "gaussian",
        "sizes": {"width": 8, "blocks": 1, "stages": 2, "checkpointing": True},
    },
}  # "one stage": idle parameters; "recomputed": every parameter of a stage is used twice


@pytest.mark.slow
def test_two_processes_are_one_with_the_whole_batch(tmp_path):
    shared = replace(TINY, batch=4, patch=32, lr=1e-4, weight_decay=0.1)
    configs = {name: replace(shared, **({"model": name} | changes)) for name, changes in SHARED.items()}
    script = tmp_path / "script.py"
    script.write_text(
        "import sys, torch\nfrom repro.train import TrainConfig, train\ntorch.set_num_threads(1)\n"
        f"for name, config in {configs!r}.items():\n"
        "    train(config, f'{sys.argv[1]}/{name}', progress=lambda row: None, device='cpu')\n"
    )
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    environment = os.environ | {"PYTHONPATH": str(Path(repro.__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    for command, folder in (([*launch, script], "two"), ([sys.executable, script], "one")):
        done = subprocess.run([*command, tmp_path / folder], env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    for name, config in configs.items():
        two, one = tmp_path / "two" / name, tmp_path / "one" / name
        # The checkpoint has the optimiser's moments too: none of a parameter that no gradient reaches.
        ours, theirs = (load_file(folder / checkpoint.NAME) for folder in (two, one))
        assert ours.keys() == theirs.keys(), name
        torch.manual_seed(config.seed)
        start = repro.build(config.model, **({"channels": 3} | config.sizes)).named_parameters()
        away, apart = (
            math.sqrt(sum((theirs[f"net/{key}"] - tensor).square().sum().item() for key, tensor in pairs))
            for pairs in (list(start), [(key[4:], t) for key, t in ours.items() if key.startswith("net/")])
        )
        assert apart < 0.01 * away, name  # not bit for bit: Adam makes steps of what is left of a gradient of zero
        losses = [[float(row["loss"]) for row in curve(folder)] for folder in (two, one)]
        assert losses[0] == pytest.approx(losses[1], rel=1e-4), name


@pytest.mark.slow
@pytest.mark.parametrize("colour", ["rgb", "gray"])
def test_it_learns_to_denoise(colour, tmp_path):
    """A small network and few steps improve photographs they have not seen by more than 5 dB."""
    config = replace(
        TINY,
        colour=colour,
        patch=48,
        batch=8,
        steps=250,
        lr=3e-3,
        warmup_steps=20,
        ema_decay=0.98,
        validate_every=250,
    )
    rows = []
    train(config, tmp_path / "run", progress=rows.append)
    _, validation = training_data.split_photographs(config, "sigma", 50)
    noisy_db = sum(psnr_db(clean, noisy) for noisy, clean in validation) / len(validation)
    assert rows[-1]["loss"] < rows[0]["loss"] / 5
    assert rows[-1]["psnr_db"] > noisy_db + 5


# ---- what is written down about a run


def test_validation_is_of_the_averaged_network_in_evaluation_mode(tmp_path):
    run = run_without_files(replace(TINY, model="dncnn", sizes={"depth": 3, "width": 4}), tmp_path)
    noisy, clean = 2 * torch.rand(3, 24, 40) - 0.5, torch.rand(3, 24, 40)
    run.validation = [(noisy, clean)]
    run._update(*torch.rand(2, 2, 3, 16, 16))  # from here on the average is another network than the one that learns
    with torch.no_grad():
        expected = psnr_db(clean, deepcopy(run.averaged).eval()(noisy[None])[0].clamp(0, 1))
    assert run.validate()["psnr_db"] == pytest.approx(expected, abs=1e-6)
    assert run.averaged.training


@pytest.mark.parametrize("convention", [{}, {"clip": True}, {"round_8bit": True}])
def test_validation_is_the_centre_in_the_noise_convention_of_training(convention):
    _, ((noisy, clean),) = training_data.split_photographs(replace(TINY, **convention), "sigma", 50)
    *_, held_out = catalog.samples("embedded-train")
    top, left = ((side - 256) // 2 for side in held_out.clean.shape[1:])
    torch.testing.assert_close(clean, held_out.clean[:, top : top + 256, left : left + 256])
    assert torch.equal(noisy, fixed_gaussian_noise(clean, held_out.name, 50, **convention))


def test_the_clock_of_a_resumed_run_goes_on(tmp_path):
    folder, config, rows = tmp_path / "run", replace(TINY, seconds=1000.0), []
    train(config, folder, progress=quiet)
    tensors, facts = checkpoint.newest_checkpoint(folder)
    checkpoint.write_checkpoint(folder, tensors, facts | {"step": 11, "seconds": 900.0})
    (folder / "weights.safetensors").unlink()
    train(config, folder, progress=rows.append)
    assert rows[-1]["step"] == 12 and 900 <= rows[-1]["seconds"] < 1000


def test_other_threads_are_said_to_give_other_bits(tmp_path, monkeypatch, capsys):
    folder, config = tmp_path / "run", replace(TINY, steps=2)
    train(config, folder, progress=quiet)
    (folder / "weights.safetensors").unlink()
    train(config, folder, progress=quiet)
    assert "bit-identical" not in capsys.readouterr().err
    (folder / "weights.safetensors").unlink()
    threads = torch.get_num_threads()
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads + 1)
    train(config, folder, progress=quiet)
    said = capsys.readouterr().err
    assert f"resuming with {threads + 1} threads what ran with {threads}: the weights will not be bit-identical" in said


@pytest.mark.parametrize(
    ("facts", "says"),
    [
        ({"device": "cuda:0"}, "resuming on cpu what ran on cuda: the weights will not be bit-identical"),
        ({"processes": 2}, "resuming with 1 processes what ran with 2: the weights will not be bit-identical"),
    ],
)
def test_another_device_or_number_of_processes_is_said_to_give_other_bits(facts, says, tmp_path, capsys):
    config = replace(TINY, steps=2)
    train(config, tmp_path / "run", progress=quiet, device="cpu")
    tensors, there = checkpoint.newest_checkpoint(tmp_path / "run")
    checkpoint.write_checkpoint(tmp_path / "run", tensors, there | facts)
    run_without_files(config, tmp_path / "run")
    said = capsys.readouterr().err
    assert says in said and said.count("Warning") == 1


def test_the_optimiser_has_the_configurations_settings(tmp_path):
    config = replace(TINY, betas=(0.8, 0.9), eps=0.1, weight_decay=0.3)
    (group,) = run_without_files(config, tmp_path).optimiser.param_groups
    assert (group["betas"], group["eps"], group["weight_decay"]) == ((0.8, 0.9), 0.1, 0.3)


def test_draws_depend_on_seed_step_and_process(tmp_path):
    drawn = []
    for seed, step, rank in product((0, 1), repeat=3):
        run = run_without_files(replace(TINY, seed=seed), tmp_path)
        alone = {"backward": lambda loss: loss.backward(), "all_reduce": lambda value: value}
        run.step, run.fabric = step, SimpleNamespace(global_rank=rank, **alone)
        run.objective = lambda net, noisy, clean, step: drawn.append(torch.rand(()).item()) or net(noisy).mean()
        run._update(*torch.rand(2, 2, 3, 16, 16))
    assert len(set(drawn)) == 8


GRADNET = replace(
    TINY, model="gradnet", loss="consistency", sizes={"width": 8, "modules": 1, "units": 1, "reduction": 2}
)


def test_the_gradient_term_stands_in_the_curve_beside_the_loss(tmp_path, monkeypatch):
    noted, original = [], gradnet.gradient_difference
    monkeypatch.setattr(gradnet, "gradient_difference", lambda *pair: noted.append(original(*pair)) or noted[-1])
    rows = []
    train(GRADNET, tmp_path / "run", progress=rows.append)
    noted = [difference.mean().item() for difference in noted]
    assert len(noted) == 12 and min(noted) > 0
    assert [row["gradient_loss"] for row in rows] == pytest.approx([sum(noted[k : k + 3]) / 3 for k in (0, 3, 6, 9)])
    header = (tmp_path / "run" / "curve.csv").read_text().splitlines()[0]
    assert header.startswith("step,seconds,loss,gradient_loss,")
    rows.clear()
    train(replace(GRADNET, loss="l1"), tmp_path / "other", progress=rows.append)
    assert "gradient_loss" not in rows[0], "a loss without that term"


def test_a_run_that_was_begun_before_a_term_was_noted_goes_on_without_it(tmp_path, monkeypatch):
    def die(row):
        if row["step"] == 6:
            raise RuntimeError

    with monkeypatch.context() as older:
        older.setattr(gradnet, "TERMS", ())
        train(GRADNET, tmp_path / "whole", progress=quiet)
        with pytest.raises(RuntimeError):
            train(GRADNET, tmp_path / "run", progress=die)
    assert "gradient_loss" not in checkpoint.newest_checkpoint(tmp_path / "run")[1]["tally"]
    train(GRADNET, tmp_path / "run", progress=quiet)
    assert_same_run(tmp_path / "run", tmp_path / "whole")
    newer = tmp_path / "newer"
    train(GRADNET, newer, progress=quiet)
    assert [{**row, "gradient_loss": ""} for row in curve(newer)] == [
        {**row, "gradient_loss": ""} for row in curve(tmp_path / "whole")
    ], "what is noted changes nothing else"


def test_a_run_with_a_term_is_resumed_with_it(tmp_path):
    def die(row):
        if row["step"] == 9:
            raise RuntimeError

    train(GRADNET, tmp_path / "whole", progress=quiet)
    with pytest.raises(RuntimeError):
        train(GRADNET, tmp_path / "run", progress=die)
    assert checkpoint.newest_checkpoint(tmp_path / "run")[1]["step"] == 8, "between two rows of the curve"
    train(GRADNET, tmp_path / "run", progress=quiet)
    assert_same_run(tmp_path / "run", tmp_path / "whole")


def test_a_row_of_the_curve_is_the_mean_since_the_last(tmp_path, monkeypatch):
    monkeypatch.setitem(training.LOSSES, "l2", lambda net, noisy, clean, step: 0 * net(noisy).sum() + step)
    rows = []
    train(TINY, tmp_path / "run", progress=rows.append)
    assert [row["loss"] for row in rows] == [1, 4, 7, 10]
    assert [row["lr"] for row in rows] == [learning_rate(TINY, row["step"] - 1) for row in rows]
