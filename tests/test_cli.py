"""The command line with the input that people give: one sentence, nothing damaged, no traceback."""

import errno
import importlib
import os
import pickle
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest
import tifffile
import torch
import typer
from PIL import Image
from typer.testing import CliRunner

import repro
from repro import doctor, files, weights
from repro.cli import Command, app
from repro.data import catalog
from repro.data.images import read_picture, write_image
from repro.errors import ReproError
from repro.metrics import psnr_db
from repro.models.gradnet import fixed_pixelwise_noise
from repro.study import experiments

ROOT = Path(__file__).parents[1]
SMALL = {"width": 8, "offset_width": 8}
SMALL_OPTIONS = [f"--size={name}={value}" for name, value in SMALL.items()]
QUICK = ["--model", "sadnet", "--data", "embedded-train", *SMALL_OPTIONS, "--patch", "16", "--batch", "2",
         "--precision", "32", "--set", "validation_images=2", "--device", "cpu"]  # fmt: skip


@pytest.fixture(autouse=True)
def quiet(monkeypatch, tmp_path):
    """No settings of the person who runs the tests."""
    for name in ("REPRO_DEBUG", "REPRO_DATA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("REPRO_RUNS", str(tmp_path / "runs"))


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> dict[str, Path]:
    """Weights files of small networks, colour and gray. Random, so that they change an image."""
    folder, paths = tmp_path_factory.mktemp("models"), {}
    for name, channels in (("colour", 3), ("gray", 1)):
        torch.manual_seed(0)
        net = repro.build("sadnet", channels=channels, **SMALL)
        paths[name] = weights.save(net, folder / f"{name}.safetensors")
    return paths


@pytest.fixture
def photo(tmp_path) -> Path:
    generator = torch.Generator().manual_seed(0)
    write_image(tmp_path / "photo.png", torch.rand(3, 24, 20, generator=generator))
    return tmp_path / "photo.png"


def call(*arguments, environment: dict | None = None):
    return CliRunner().invoke(app, [str(a) for a in arguments], env=environment)


def failure(*arguments, code: int = 1, environment: dict | None = None) -> str:
    """The one sentence with which the command fails."""
    result = call(*arguments, environment=environment)
    assert result.exit_code == code, (result.output, result.exception)
    assert "Traceback" not in result.output
    complaints = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
    assert complaints, result.output
    return complaints[-1]


# ---- help and errors


def test_help_is_fast_and_names_every_command():
    start = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "repro.cli", "--help"],
        capture_output=True, text=True, check=True, cwd=ROOT,
    )  # fmt: skip
    for command in (
        "doctor",
        "denoise",
        "train",
        "evaluate",
        "run",
        "book",
        "data",
        "campaign",
        "claims",
        "bench",
    ):
        assert f"\n  {command} " in done.stdout
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert not imported & {"torch", "numpy", "pandas", "papermill", "rich.console"}, "only what help needs"
    assert time.monotonic() - start < 5  # 0.2 s on an idle machine


def test_wrong_usage():
    sigma = ["denoise", "a", "b", "--model", "m", "--sigma"]
    for arguments in ([], ["denoise"], ["nonsense"], [*sigma, "-3"], [*sigma, "nan"], [*sigma, "much"]):
        result = call(*arguments)
        assert result.exit_code == 2 and "Usage" in result.output and "Traceback" not in result.output


def fail_with(monkeypatch, error: BaseException) -> None:
    def claims_load():
        raise error

    monkeypatch.setattr(importlib.import_module("repro.study.claims"), "load", claims_load)


def test_failures_are_one_sentence(monkeypatch):
    fail_with(monkeypatch, ReproError("Two lines\nof text."))
    assert failure("claims") == "Error: Two lines of text."
    fail_with(monkeypatch, RuntimeError("out of order"))
    assert failure("claims") == (
        "Error: Unexpected RuntimeError: out of order (`repro --debug claims ...` shows where)."
    )
    fail_with(monkeypatch, KeyboardInterrupt())
    assert failure("claims", code=130) == "Error: Interrupted."


def test_tracebacks_on_request(monkeypatch):
    fail_with(monkeypatch, RuntimeError("out of order"))
    assert isinstance(call("--debug", "claims").exception, RuntimeError)
    assert isinstance(call("claims", environment={"REPRO_DEBUG": "1"}).exception, RuntimeError)


def test_every_command_reports_its_failures_this_way():
    def commands(group):
        for command in group.commands.values():
            yield from commands(command) if hasattr(command, "commands") else [command]

    found = list(commands(typer.main.get_command(app)))
    assert len(found) > 10
    assert all(isinstance(command, Command) and command.help for command in found)


# ---- denoise


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("transparent", [False, True])
@pytest.mark.parametrize("model", ["colour", "gray"])
def test_denoise_keeps_what_the_file_is(models, tmp_path, channels, bits, transparent, model):
    generator = torch.Generator().manual_seed(0)
    image, alpha = (torch.rand(c, 13, 18, generator=generator) for c in (channels, 1))
    options = {"alpha": alpha if transparent else None, "icc_profile": b"profile" * 20}
    write_image(tmp_path / "in.png", image, bits, **options)
    result = call("denoise", tmp_path / "in.png", tmp_path / "out.png", "--model", models[model])
    assert result.exit_code == 0, result.output
    assert str(models[model]) in result.output and " s" in result.output
    before, after = read_picture(tmp_path / "in.png"), read_picture(tmp_path / "out.png")
    assert after.bits == bits and after.pixels.shape == before.pixels.shape
    assert after.icc_profile == before.icc_profile
    assert not torch.equal(after.pixels, before.pixels), "it was denoised"
    assert after.alpha is None if not transparent else torch.equal(after.alpha, before.alpha)


@pytest.mark.parametrize("kind", ["1x1", "palette", "1-bit", "gray", "jpeg", "tiff"])
def test_denoise_files_of_every_kind(models, tmp_path, kind):
    image = Image.effect_noise((33, 17), 60)
    path = tmp_path / {"jpeg": "a.jpg", "tiff": "a.tif"}.get(kind, "a.png")
    picture = {
        "1x1": lambda: Image.new("RGB", (1, 1), (20, 90, 200)),
        "palette": lambda: image.convert("RGB").quantize(16),
        "1-bit": lambda: image.convert("1"),
        "gray": lambda: image,
    }.get(kind, lambda: image.convert("RGB"))()
    picture.save(path)
    result = call("denoise", path, tmp_path / "out.png", "--model", models["colour"])
    assert result.exit_code == 0, result.output
    with Image.open(tmp_path / "out.png") as out:
        assert out.size == picture.size
        assert out.mode == ("L" if kind in ("1-bit", "gray") else "RGB")


def test_denoise_broken_input(models, photo, tmp_path):
    whole = photo.read_bytes()
    broken = {
        "truncated.png": whole[: len(whole) // 2],
        "text.png": b"Dear reader, this is a letter.",
        "empty.png": b"",
    }
    for name, content in broken.items():
        (tmp_path / name).write_bytes(content)
        assert name in failure("denoise", tmp_path / name, tmp_path / "out.png", "--model", models["colour"])
    assert "There is no file" in failure("denoise", tmp_path / "none", tmp_path / "o.png", "--model", models["gray"])
    assert {p.name for p in tmp_path.iterdir()} == {"photo.png", *broken}


@pytest.mark.parametrize("bits", [8, 16])
def test_denoise_more_channels_than_colours(models, tmp_path, bits):
    """As pictures one after another, which is what tifffile makes of such an array, and as channels of one."""
    source, array = tmp_path / "in.tif", np.zeros((24, 20, 5), f"uint{bits}")
    for stored, says in (({}, "24 pictures of 5 x 20 pixels"), ({"planarconfig": "contig"}, "has 5 channels")):
        tifffile.imwrite(source, array, photometric="minisblack", **stored)
        told = failure("denoise", source, tmp_path / "out.png", "--model", models["colour"])
        assert says in told and "in.tif" in told
    assert not (tmp_path / "out.png").exists()


def test_denoise_output_that_cannot_be(models, photo, tmp_path):
    model = ["--model", models["colour"]]
    before = photo.read_bytes()
    assert "the input itself" in failure("denoise", photo, photo, *model)
    assert "the input itself" in failure("denoise", photo, tmp_path, *model)
    assert "ends in .png" in failure("denoise", photo, tmp_path / "out.xyz", *model)
    assert "Cannot write" in failure("denoise", photo, photo / "out.png", *model)
    write_image(tmp_path / "deep.png", torch.rand(3, 8, 8), bits=16)
    assert "holds 8 bits" in failure("denoise", tmp_path / "deep.png", tmp_path / "out.jpg", *model)
    assert photo.read_bytes() == before
    assert {p.name for p in tmp_path.iterdir()} == {"photo.png", "deep.png"}


def test_denoise_on_a_full_disk(models, photo, tmp_path, monkeypatch):
    (tmp_path / "out.png").write_bytes(b"what was there before")

    def full(self, data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", full)
    sentence = failure("denoise", photo, tmp_path / "out.png", "--model", models["colour"])
    assert "out.png" in sentence and "No space left on device" in sentence
    assert (tmp_path / "out.png").read_bytes() == b"what was there before"
    assert {p.name for p in tmp_path.iterdir()} == {"photo.png", "out.png"}


def test_denoise_a_folder(models, photo, tmp_path):
    source, target = tmp_path / "in", tmp_path / "out"
    for name in ("b.png", "a.png"):
        write_image(source / name, torch.rand(3, 9, 11))
    (source / "notes.txt").write_text("not an image, and not called one")
    (source / "broken.png").write_bytes(photo.read_bytes()[:60])
    sentence = failure("denoise", source, target, "--model", models["colour"])
    assert sentence == "Error: Not denoised: broken.png."
    assert sorted(p.name for p in target.iterdir()) == ["a.png", "b.png"], "the others are done"
    (source / "broken.png").unlink()
    result = call("denoise", source, target, "--model", models["colour"])
    assert result.exit_code == 0 and "2 of 2 images" in result.output
    (tmp_path / "nothing").mkdir()
    assert "no image" in failure("denoise", tmp_path / "nothing", target, "--model", models["colour"])
    assert "needs a folder" in failure("denoise", source, photo, "--model", models["colour"])


def test_a_slash_at_the_end_names_a_folder(models, photo, tmp_path):
    result = call("denoise", photo, f"{tmp_path}/results.v2/", "--model", models["colour"])
    assert result.exit_code == 0, result.output
    assert [path.name for path in (tmp_path / "results.v2").iterdir()] == [photo.name]


def test_denoise_a_folder_that_is_no_good(models, photo, tmp_path):
    model = ["--model", str(models["colour"])]
    assert "IN" in failure("denoise", "", str(tmp_path / "out"), *model, code=2)
    assert "name of an image" in failure("denoise", str(photo.parent), str(tmp_path / "x.png"), *model)
    assert "input itself" in failure("denoise", str(photo.parent), str(photo.parent), *model)
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("a.png", ".hidden.png"):
        (folder / name).write_bytes(photo.read_bytes())
    (folder / "notes.txt").write_text("no image")
    (folder / "folder.png").mkdir()
    result = call("denoise", str(folder), str(tmp_path / "out"), *model, "--sigma", "25")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a.png"]
    assert "not taken for images: notes.txt" in result.stderr and "--sigma changes nothing" in result.stderr


def test_a_folder_for_a_network_that_is_not_told_enough_is_one_error(models, photo, tmp_path):
    for name in ("a.png", "b.png"):
        write_image(tmp_path / "in" / name, torch.rand(3, 9, 11))
    result = call("denoise", tmp_path / "in", tmp_path / "out", "--model", "bm3d")
    told = "give sigma, or take bm3d-estimated, which estimates it"
    assert result.exit_code == 1 and result.stderr == f"Error: bm3d must be told the noise level: {told}.\n"
    assert not (tmp_path / "out").exists()


def test_a_name_that_is_almost_right(photo, tmp_path):
    told = failure("denoise", photo, tmp_path / "x.png", "--model", "bm3")
    assert told == (
        "Error: There is no trained model or filter 'bm3'; did you mean bm3d or bm3d-estimated or "
        "bm3d-estimated-times-5?"
    )


def test_a_level_beyond_255_is_a_wrong_option(models, photo, tmp_path):
    told = failure("denoise", str(photo), str(tmp_path / "x.png"), "--model", "bm3d", "--sigma", "256", code=2)
    assert "255" in told


def test_an_output_that_cannot_be_is_refused_before_the_work(models, tmp_path, monkeypatch):
    monkeypatch.setattr("repro.evaluate.evaluate", lambda *given, **options: pytest.fail("it was measured"))
    told = failure("evaluate", "--model", str(models["colour"]), "--data", "embedded-test", "--out", str(tmp_path))
    assert "is a folder" in told


def test_denoise_with_weights_that_are_none(models, photo, tmp_path):
    def attempt(path, *more):
        return failure("denoise", photo, tmp_path / "out.png", "--model", path, *more)

    whole = models["colour"].read_bytes()
    (tmp_path / "truncated.safetensors").write_bytes(whole[: len(whole) // 2])
    assert "truncated.safetensors" in attempt(tmp_path / "truncated.safetensors")
    tampered = bytearray(whole)
    tampered[-100] ^= 64
    (tmp_path / "tampered.safetensors").write_bytes(tampered)
    assert "checksum" in attempt(tmp_path / "tampered.safetensors")
    assert "no trained model" in attempt("nothing-of-that-name")
    assert "not of dncnn" in attempt(models["colour"], "--network", "dncnn")
    both = ("--network", "dncnn", "--weights", models["colour"])
    assert "with --weights, --model says it" in failure(
        "evaluate", "--model", "sadnet", *both, "--data", "embedded-test"
    )

    class Payload:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path / 'executed'}",)

    (tmp_path / "evil.pth").write_bytes(pickle.dumps({"weight": Payload()}))
    attempt(tmp_path / "evil.pth", "--network", "sadnet")
    torch.save({"weight": Payload()}, tmp_path / "evil2.pth")
    attempt(tmp_path / "evil2.pth", "--network", "sadnet")
    assert not (tmp_path / "executed").exists(), "a pickle was run"
    assert not (tmp_path / "out.png").exists()


def test_denoise_on_a_device_that_is_not_there(models, photo, tmp_path):
    if torch.cuda.is_available():
        pytest.skip("this machine has the device")
    options = ["--model", models["colour"], "--device", "cuda"]
    assert "no device 'cuda'" in failure("denoise", photo, tmp_path / "out.png", *options)


@pytest.mark.slow
def test_denoise_20_megapixels_in_4_gib(models, tmp_path):
    Image.effect_noise((5477, 3652), 40).convert("RGB").save(tmp_path / "in.png", compress_level=1)
    code = (
        "import resource, sys\nfrom repro.cli import app\n"
        "app(sys.argv[1:], standalone_mode=False)\n"
        "peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "print('peak', peak / 2 ** (30 if sys.platform == 'darwin' else 20))\n"
    )
    arguments = ["denoise", tmp_path / "in.png", tmp_path / "out.png", "--model", models["colour"]]
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert float(done.stdout.split()[-1]) < 4, done.stdout
    with Image.open(tmp_path / "out.png") as out:
        assert out.size == (5477, 3652)


# ---- train and evaluate


def test_train_resume_and_evaluate(tmp_path):
    out = tmp_path / "run"
    result = call("train", *QUICK, "--out", out, "--steps", "4")
    assert result.exit_code == 0, result.output
    assert f"Trained: {out / 'weights.safetensors'}" in result.output
    again = call("train", "--out", out)
    assert again.exit_code == 0 and "Trained" in again.output, "the folder alone says what to resume"
    assert "holds a run with other settings" in failure("train", *QUICK, "--out", out, "--steps", "5")
    alone = failure("train", "--out", out, "--steps", "5")
    assert alone.count(" instead of ") == 1 and "steps" in alone, "what nobody gave is not blamed"

    arguments = [
        "--model",
        out / "weights.safetensors",
        "--data",
        "embedded-test",
        "--sigma",
        "50",
        "--limit",
        "1",
    ]
    result = call("evaluate", *arguments, "--out", tmp_path / "scores.csv", "--device", "cpu")
    assert result.exit_code == 0, result.output
    table = pd.read_csv(tmp_path / "scores.csv")
    assert table["image"].tolist() == ["astronaut"] and table["psnr_db"].between(5, 60).all()
    assert f"{table['psnr_db'][0]:.4f}" in result.output and "mean" in result.output


def test_train_gray_and_settings_that_are_none(tmp_path):
    result = call("train", *QUICK, "--out", tmp_path / "gray", "--steps", "2", "--colour", "gray", "--sigma", "0,70")
    assert result.exit_code == 0, result.output
    assert repro.load(tmp_path / "gray" / "weights.safetensors").sizes.channels == 1
    for words, options in {
        "needs a budget": [],
        "no setting 'stepz'": ["--set", "stepz=3"],
        "not of the form": ["--steps", "2", "--set", "steps"],
        "colour": ["--steps", "2", "--colour", "blue"],
        "no model 'sadned'": ["--steps", "2", "--model", "sadned"],
        "no data set 'bsd401'": ["--steps", "2", "--data", "bsd401"],
        "test set": ["--steps", "2", "--data", "embedded-test"],
        "noise level": ["--steps", "2", "--sigma", "much"],
    }.items():
        assert words in failure("train", *QUICK, "--out", tmp_path / words, *options)
    assert "--out" in failure("train", *QUICK, "--steps", "2")
    assert "no experiment 'x'" in failure("train", "--experiment", "x")
    assert "--out" in failure("train", "--experiment", "smoke-colour", "--steps", "2")


def test_a_size_that_is_given_leaves_the_others_of_an_experiment_as_they_are(tmp_path, monkeypatch):
    from repro import train

    begun = []
    monkeypatch.setattr(train, "train", lambda config, folder, **_: begun.append(config) or folder)
    call("train", "--experiment", "gradnet-impl-dncnn", "--size", "width=32", "--out", tmp_path / "run")
    own = experiments.get("gradnet-impl-dncnn").sizes
    assert begun[0].sizes == own | {"width": 32} and "naive_weights" in own


def test_train_stops_at_nan_and_says_where(tmp_path):
    sentence = failure("train", *QUICK, "--out", tmp_path / "run", "--steps", "30", "--lr", "1e38")
    assert "step" in sentence
    assert not (tmp_path / "run" / "weights.safetensors").exists()


@pytest.mark.slow
def test_train_interrupted_by_the_terminal(tmp_path):
    command = [
        sys.executable,
        "-m",
        "repro.cli",
        "train",
        *QUICK,
        "--out",
        tmp_path / "run",
        "--minutes",
        "5",
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT)
    curve = tmp_path / "run" / "curve.csv"
    try:
        deadline = time.monotonic() + 120
        while not curve.exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130, errors
    assert "Stopped after step" in errors and "Traceback" not in output + errors


def test_evaluate_with_a_level_for_every_value(models, tmp_path):
    options = ["--model", models["colour"], "--data", "embedded-test", "--limit", "1", "--device", "cpu", "--clip"]
    result = call("evaluate", *options, "--levels", "8.16,63.75", "--out", tmp_path / "scores.csv")
    assert result.exit_code == 0, result.output
    (row,) = pd.read_csv(tmp_path / "scores.csv").to_dict("records")
    (sample,) = catalog.samples("embedded-test", "RGB", 1)
    noisy = fixed_pixelwise_noise(sample.clean, sample.name, (8.16, 63.75), clip=True)
    assert row["levels_255"] == "8.16 to 63.75" and row["psnr_noisy_db"] == pytest.approx(psnr_db(sample.clean, noisy))
    assert "give --sigma" in failure("evaluate", *options, "--levels", "25")
    assert "of one kind" in failure("evaluate", *options, "--levels", "8,64", "--sigma", "25")


def test_evaluate_what_is_not_there(models, tmp_path):
    options = ["--model", models["colour"], "--device", "cpu"]
    assert "no data set 'kodk'" in failure("evaluate", *options, "--data", "kodk", "--sigma", "50")
    assert "REPRO_DATA" in failure("evaluate", *options, "--data", "div2k", "--sigma", "50")


# ---- notebooks


@pytest.fixture
def notebook(tmp_path, monkeypatch):
    """A folder of notebooks with one in it, called "tiny"."""
    content = nbformat.v4.new_notebook()
    parameters = nbformat.v4.new_code_cell('level = 50  # of 255\ndata = "bsd"\nfast = True')
    parameters.metadata["tags"] = ["parameters"]
    work = nbformat.v4.new_code_cell("assert level < 100, 'too much'\nprint(level / 2, data, fast)")
    content.cells = [parameters, work]
    content.metadata["kernelspec"] = {"name": "python3", "language": "python", "display_name": "Python 3"}
    (tmp_path / "notebooks").mkdir()
    nbformat.write(content, tmp_path / "notebooks" / "tiny.ipynb")
    monkeypatch.setattr(files, "root", lambda: tmp_path)
    return tmp_path / "notebooks" / "tiny.ipynb"


def test_run_checks_before_it_runs(notebook, tmp_path):
    assert "no notebook 'huge'; there are tiny" in failure("run", "huge")
    assert "no parameter 'levle'; it has level, data, fast" in failure("run", "tiny", "-p", "levle=3")
    assert "level of tiny is a number, not 'much'" in failure("run", "tiny", "-p", "level=much")
    assert "fast of tiny is True or False" in failure("run", "tiny", "-p", "fast=3")
    assert "not of the form" in failure("run", "tiny", "-p", "level")
    assert "the notebook itself" in failure("run", "tiny", "--out", notebook)


def test_run_with_parameters(notebook, tmp_path):
    result = call("run", "tiny", "-p", "level=2e1", "-p", "data=7", "-p", "fast=false", "--out", tmp_path / "o.ipynb")
    assert result.exit_code == 0, result.output
    assert f"Written: {tmp_path / 'o.ipynb'}" in result.output
    outputs = [o for cell in nbformat.read(tmp_path / "o.ipynb", 4).cells for o in cell.get("outputs", [])]
    assert [o["text"] for o in outputs if o["output_type"] == "stream"] == ["10.0 7 False\n"]


def test_run_of_a_notebook_that_fails(notebook, tmp_path):
    sentence = failure("run", "tiny", "-p", "level=100", "--out", tmp_path / "o.ipynb")
    assert "tiny" in sentence and "too much" in sentence
    assert not (tmp_path / "o.ipynb").exists()


# ---- the rest


def test_data_commands(tmp_path, monkeypatch):
    monkeypatch.setenv("REPRO_CACHE", str(tmp_path / "cache"))
    result = call("data", "list")
    assert result.exit_code == 0
    lines = {line.split()[0]: line for line in result.output.splitlines()}
    assert "here" in lines["embedded-test"] and "to fetch" in lines["kodak24"] and "on request" in lines["dnd"]
    told = call("data", "list", "polyu", "dnd").output
    assert all(text in told for text in (catalog.DATASETS["polyu"].licence, catalog.DATASETS["dnd"].home, "J. Xu"))
    assert "no data set 'x'" in failure("data", "list", "x")
    result = call("data", "path", "embedded-test")
    assert (Path(result.output.strip()) / "chelsea.png").is_file()
    assert call("data", "fetch", "embedded-train").exit_code == 0
    result = call("data", "verify")
    assert result.exit_code == 0 and "embedded-train: 8 files as they should be" in result.output
    assert "kodak24" in failure("data", "verify", "kodak24")
    assert "no data set 'x'" in failure("data", "path", "x")
    monkeypatch.setenv("REPRO_DATA", str(tmp_path / "nowhere"))
    assert "REPRO_DATA" in failure("data", "path", "kodak24")


def test_claims():
    result = call("claims", "001-t3-kodak24-50-sadnet")
    assert result.exit_code == 0 and "29.64 dB" in result.output
    assert "all in order" in call("claims", "--check").output
    assert "No claim" in failure("claims", "nothing-*")


def test_campaign_that_ends_early(monkeypatch):
    """README.md is renewed after every record, by a process that has the code of that moment, and not at the end."""
    from repro import readme
    from repro.study import campaign

    monkeypatch.setattr(readme, "save", lambda: pytest.fail("this process may have begun hours ago"))

    def stop(hours, *_, **__):
        raise campaign.Stopped("The campaign was stopped.")

    monkeypatch.setattr(campaign, "run", stop)
    assert failure("campaign", code=130) == "Error: The campaign was stopped."
    assert failure("campaign", "--hours", "3", code=130) == "Error: The campaign was stopped."
    over = call("campaign", "--hours", "0")
    assert over.exit_code == 0 and "0 hours are over" in over.output, "that is what was asked for"


def test_a_campaign_without_time_begins_nothing(tmp_path):
    result = call("campaign", "--hours", "0", "--only", "smoke-colour", "--results", str(tmp_path / "results"))
    assert result.exception is None or isinstance(result.exception, SystemExit)
    assert not (tmp_path / "results").exists()


def test_campaign_status_for_programs(tmp_path):
    """It starts nothing."""
    result = call("campaign", "--json", "--only", "smoke-colour", "--results", str(tmp_path))
    assert '"state":"waiting"' in result.stdout.replace(" ", "") and not any(tmp_path.iterdir())


def test_campaign_status():
    result = call("campaign", "--status")
    assert result.exit_code == 0 and "sadnet-colour-50" in result.output


def test_doctor_says_what_runs_and_why(tmp_path):
    result = call("doctor", environment={"REPRO_CACHE": str(tmp_path)})
    assert result.exit_code == 0, result.output
    subjects = [line.split(":")[0] for line in result.output.splitlines() if not line.startswith(" ")]
    assert subjects == ["repro", "Python", "torch", "torchvision", "devices", "threads", "compiler",
                        "deform_conv2d", "cache", "results", "data sets", "weights"]  # fmt: skip
    assert torch.__version__ in result.output and "embedded-train" in result.output
    assert "reference: available" in result.output


def test_doctor_says_what_may_not_be_looked_into(monkeypatch):
    """As root one may look into everything: what others meet is raised here."""

    def refuse(original, path, *given, **options):
        if str(path).startswith("/secret/"):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return original(path, *given, **options)

    for name in ("exists", "is_dir", "is_file"):
        original = getattr(Path, name)
        monkeypatch.setattr(
            Path, name, lambda *given, original=original, **options: refuse(original, *given, **options)
        )
    monkeypatch.setenv("REPRO_DATA", "/secret/data")
    monkeypatch.setenv("REPRO_WEIGHTS", "/secret/weights")
    monkeypatch.setattr(files, "cache", lambda: Path("/secret/cache"))
    found = dict(doctor.examine())
    assert "GB free" in found["cache"]
    assert "/secret/data: Permission denied" in found["data sets"]
    assert "/secret/weights: Permission denied" in found["weights"]


def test_doctor_with_a_broken_torchvision(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision", None)
    result = call("doctor")
    assert result.exit_code == 0 and "cannot be imported (ModuleNotFoundError" in result.output


def test_as_a_program(models, photo, tmp_path):
    def program(*arguments):
        command = [sys.executable, "-m", "repro.cli", *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)

    done = program("denoise", photo, tmp_path / "out.png", "--model", models["colour"])
    assert done.returncode == 0 and not done.stderr, done.stderr
    assert np.asarray(Image.open(tmp_path / "out.png")).shape == (24, 20, 3)
    failed = program("denoise", tmp_path / "none.png", tmp_path / "o.png", "--model", models["colour"])
    assert failed.returncode == 1 and not failed.stdout
    assert failed.stderr == f"Error: There is no file {tmp_path / 'none.png'}.\n"


# --- what people do to a command line


def test_a_note_says_whose_noise_is_measured(tmp_path):
    for folder in ("clean", "noisy"):
        write_image(tmp_path / "own" / folder / "a.png", torch.full((3, 16, 16), 0.5), 8)
    data = ("--data", str(tmp_path / "own"))
    blind = CliRunner().invoke(app, ["evaluate", "--model", "median", *data])
    assert blind.exit_code == 0 and "Note" not in blind.stderr
    added = CliRunner().invoke(app, ["evaluate", "--model", "median", *data, "--sigma", "10"])
    assert added.exit_code == 0 and "its own noisy ones are not used" in added.stderr
    asked = CliRunner().invoke(app, ["evaluate", "--model", "bm3d", *data])
    assert asked.exit_code == 1 and "a photograph's own is, is not known" in asked.stderr


def test_what_was_measured_before_an_error_is_kept(tmp_path):
    for name in ("a", "b"):
        write_image(tmp_path / "set" / f"{name}.png", torch.rand(3, 16, 16), 8)
    (tmp_path / "set" / "b.png").write_bytes((tmp_path / "set" / "b.png").read_bytes()[:60])
    out = tmp_path / "rows.csv"
    command = ["evaluate", "--model", "median", "--data", str(tmp_path / "set"), "--sigma", "10", "--out", str(out)]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 1 and "1 images, is in" in result.stderr
    assert pd.read_csv(out)["image"].tolist() == ["a"]


def test_an_output_that_cannot_be_written_is_said_before_the_work(tmp_path, monkeypatch):
    from repro import evaluate

    write_image(tmp_path / "a.png", torch.rand(3, 16, 16), 8)
    (tmp_path / "plain").touch()
    monkeypatch.setattr(evaluate, "_run", lambda *given, **level: pytest.fail("it was denoised"))
    result = CliRunner().invoke(
        app, ["denoise", str(tmp_path / "a.png"), str(tmp_path / "plain" / "b.png"), "--model", "median"]
    )
    assert result.exit_code == 1 and result.stderr.startswith("Error: Cannot write")


def test_options_that_would_be_ignored_are_refused(tmp_path):
    for more, says in ((("--colour", "L"), "--weights published"), (("--out", "x.xlsx"), "written as CSV")):
        result = CliRunner().invoke(app, ["evaluate", "--model", "median", "--data", "kodak24", *more])
        assert result.exit_code == 1 and says in result.stderr


def test_an_error_of_the_system_is_a_sentence(tmp_path):
    write_image(tmp_path / "a.png", torch.rand(3, 16, 16), 8)
    out = tmp_path / f"{'x' * 300}.png"
    result = CliRunner().invoke(app, ["denoise", str(tmp_path / "a.png"), str(out), "--model", "median"])
    assert result.exit_code == 1 and "File name too long" in result.stderr and "Unexpected" not in result.stderr


def test_the_version_is_told():
    result = CliRunner().invoke(app, ["--version"])
    assert result.exit_code == 0 and re.fullmatch(r"repro \d+\.\S+\n", result.stdout)


@pytest.mark.parametrize(("value", "shown"), [("1", True), ("0", False), ("", False), ("no", False)])
def test_tracebacks_are_shown_where_they_are_asked_for(value, shown, monkeypatch):
    monkeypatch.setenv("REPRO_DEBUG", value)
    result = CliRunner().invoke(app, ["data", "path", "nothing"])
    assert isinstance(result.exception, ReproError) == shown


@pytest.mark.parametrize(
    "command",
    [
        ["evaluate", "--model", "median", "--data", "", "--sigma", "25"],
        ["evaluate", "--model", "median", "--data", "kodak24", "--out", ""],
        ["train", "--out", "", "--model", "sadnet"],
        ["campaign", "--status", "--results", ""],
        ["experiment", "smoke-gray", "--results", ""],
        ["accelerator", "--out", ""],
        ["bench", "op", "--out", ""],
        ["submit", "sidd", "", "--model", "sadnet-colour-50"],
    ],
)
def test_an_empty_name_is_not_the_current_folder(command, tmp_path, monkeypatch):
    """As a variable gives that is not set."""
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 2 and "it is empty" in result.output
    assert not list(tmp_path.iterdir())


def test_the_status_of_a_folder_that_is_not_there_says_so(tmp_path):
    result = CliRunner().invoke(app, ["campaign", "--status", "--only", "smoke-gray", "--results", str(tmp_path / "x")])
    assert result.exit_code == 0 and f"There is no folder {tmp_path / 'x'} yet." in result.stderr
    result = CliRunner().invoke(app, ["campaign", "--status", "--only", "smoke-gray", "--results", str(tmp_path)])
    assert "no folder" not in result.stderr
