"""What is uploaded to the benchmarks of SIDD and DND: shapes, types, order and names, and nothing lost by a kill."""

import base64
import json
from dataclasses import make_dataclass
from pathlib import Path

import numpy as np
import official_files as official_set
import pytest
import torch
from scipy.io import loadmat, whosmat
from typer.testing import CliRunner

import repro
from repro import submission, weights
from repro.cli import app
from repro.errors import ReproError
from repro.models.base import Denoiser


class Inverting(Denoiser):
    """Not a denoiser, but one whose result is known: 1 - x, in which order, place and colour show."""

    name = "inverting"
    Sizes = make_dataclass("Sizes", [("channels", int, 3)], frozen=True)

    def __init__(self, needs_sigma=False):
        super().__init__()
        self.sizes, self.needs_sigma, self.told, self.calls = self.Sizes(), needs_sigma, [], 0
        self.weight = torch.nn.Parameter(torch.ones(1))

    def forward(self, noisy, sigma=None):
        self.calls += 1
        self.told.append(sigma)
        return self.weight - noisy


class Killed(BaseException):
    pass


def kill_after(images: int):
    """A progress function that does what a kill does, once so many images are done."""
    seen = []

    def progress(name):
        seen.append(name)
        if len(seen) == images:
            raise Killed

    return progress


@pytest.fixture(autouse=True)
def nothing_at_hand(monkeypatch):
    monkeypatch.delenv("REPRO_DATA", raising=False)


# ---- SIDD


@pytest.mark.parametrize("version", ["5", "7.3"])
def test_sidd_files_are_as_the_benchmark_takes_them(tmp_path, version):
    noisy = official_set.write_sidd_benchmark(tmp_path, shape=(3, 2, 16, 12, 3), version=version)
    written = submission.submit_sidd(Inverting(), tmp_path, tmp_path / "out", method="Inverting")
    assert [path.name for path in written] == ["SubmitSrgb.mat", "SubmitSrgb.csv"]
    assert whosmat(written[0])[0] == ("DenoisedBlocksSrgb", (3, 2), "cell")
    content = loadmat(written[0])
    cells = content["DenoisedBlocksSrgb"]
    lines = written[1].read_text().splitlines()
    assert lines[0] == "ID,BLOCK" and len(lines) == 7
    for number, (image, block) in enumerate(np.ndindex(3, 2)):
        assert cells[image, block].dtype == np.uint8
        np.testing.assert_array_equal(cells[image, block], 255 - noisy[image, block])
        count, text = lines[1 + number].split(",")
        decoded = np.frombuffer(base64.b64decode(text), dtype=np.uint8).reshape(16, 12, 3)
        assert int(count) == number
        np.testing.assert_array_equal(decoded, 255 - noisy[image, block])
    assert content["TimeMPSrgb"].shape == (1, 1) and content["TimeMPSrgb"][0, 0] > 0
    assert content["OptionalData"]["MethodName"][0, 0][0] == "Inverting"
    assert sorted(path.name for path in (tmp_path / "out").glob("[!.]*")) == [
        "SubmitSrgb.csv", "SubmitSrgb.mat", "submission.json"
    ]  # fmt: skip


def test_a_killed_sidd_submission_goes_on(tmp_path):
    official_set.write_sidd_benchmark(tmp_path)
    net = Inverting()
    with pytest.raises(Killed):
        submission.submit_sidd(net, tmp_path, tmp_path / "out", method="x", progress=kill_after(2))
    assert net.calls == 4 and not list((tmp_path / "out").glob("Submit*"))
    resumed = submission.submit_sidd(net, tmp_path, tmp_path / "out", method="x")
    assert net.calls == 6, "two blocks of the third image"
    submission.submit_sidd(net, tmp_path, tmp_path / "out", method="x")
    assert net.calls == 6, "nothing of what is finished"
    whole = submission.submit_sidd(Inverting(), tmp_path, tmp_path / "whole", method="x")
    assert resumed[1].read_bytes() == whole[1].read_bytes()


@pytest.mark.parametrize("name", ["sidd", "dnd"])
def test_one_process_per_submission(tmp_path, name):
    data, submit, refused = tmp_path / "data", getattr(submission, f"submit_{name}"), []
    (official_set.write_dnd if name == "dnd" else official_set.write_sidd_benchmark)(data)

    def again(image):
        with pytest.raises(ReproError, match="Another process is writing a submission in"):
            submit(Inverting(), data, tmp_path / "out", method="m", progress=lambda name: None)
        refused.append(image)

    submit(Inverting(), data, tmp_path / "out", method="m", progress=again)
    assert refused
    submit(Inverting(), data, tmp_path / "out", method="m", progress=lambda name: None)


def test_a_submission_is_not_mixed_with_another(tmp_path):
    official_set.write_sidd_benchmark(tmp_path)
    out = tmp_path / "out"
    with pytest.raises(Killed):
        submission.submit_sidd(Inverting(), tmp_path, out, method="x", progress=kill_after(1))
    other = Inverting()
    other.weight.data += 1
    smaller = Inverting()
    smaller.sizes = make_dataclass("Sizes", [("channels", int, 3), ("stride", int, 2)], frozen=True)()
    for net, setting, match in (
        (other, {"method": "x"}, "weights_sha256"),
        (smaller, {"method": "x"}, "sizes"),
        (Inverting(), {"method": "y"}, "method"),
        (Inverting(), {"method": "x", "sigma_255": 25.0}, "sigma_255"),
        (Inverting(), {"method": "x", "ensemble": True}, "ensemble"),
    ):
        with pytest.raises(ReproError, match=rf"made otherwise \(submission\.json: {match}\): name another folder"):
            submission.submit_sidd(net, tmp_path, out, **setting)
    official_set.write_sidd_benchmark(tmp_path)  # other pixels
    with pytest.raises(ReproError, match=r"made otherwise \(submission\.json: input\)"):
        submission.submit_sidd(Inverting(), tmp_path, out, method="x")
    (out / "submission.json").write_text("[")
    with pytest.raises(ReproError, match=r"Cannot read .*submission\.json"):
        submission.submit_sidd(Inverting(), tmp_path, out, method="x")
    (out / "submission.json").unlink()
    with pytest.raises(ReproError, match="of unknown origin"):
        submission.submit_sidd(Inverting(), tmp_path, out, method="x")
    with pytest.raises(ReproError, match="is a file; a submission goes to a folder"):
        submission.submit_sidd(Inverting(), tmp_path, tmp_path / "BenchmarkNoisyBlocksSrgb.mat", method="x")


@pytest.mark.parametrize("name", ["sidd", "dnd"])
def test_a_folder_is_not_claimed_by_a_command_without_the_level(tmp_path, name):
    (official_set.write_sidd_benchmark if name == "sidd" else official_set.write_dnd)(tmp_path)
    submit, wrong = getattr(submission, f"submit_{name}"), {"sidd": None, "dnd": 300.0}[name]  # DND states levels
    with pytest.raises(ReproError, match=r"must be told the noise level|is not in \[0, 1\]"):
        submit(Inverting(needs_sigma=True), tmp_path, tmp_path / "out", method="x", sigma_255=wrong)
    assert not (tmp_path / "out").exists()


def test_a_note_of_a_submission_that_has_not_begun_is_written_anew(tmp_path):
    official_set.write_sidd_benchmark(tmp_path / "data")
    note, broken = tmp_path / "out" / "submission.json", Inverting()
    broken.forward = lambda noisy, sigma=None: 1 / 0
    with pytest.raises(ZeroDivisionError):
        submission.submit_sidd(broken, tmp_path / "data", tmp_path / "out", method="x")
    assert json.loads(note.read_text())["method"] == "x"
    submission.submit_sidd(Inverting(), tmp_path / "data", tmp_path / "out", method="y", sigma_255=20.0)
    assert json.loads(note.read_text())["method"] == "y"
    own = tmp_path / "own" / "submission.json"
    own.parent.mkdir()
    own.write_text('{"team": "mine"}')
    with pytest.raises(ReproError, match="made otherwise"):
        submission.submit_sidd(Inverting(), tmp_path / "data", own.parent, method="y")
    assert own.read_text() == '{"team": "mine"}'


def test_a_damaged_part_is_named(tmp_path):
    official_set.write_sidd_benchmark(tmp_path)
    with pytest.raises(Killed):
        submission.submit_sidd(Inverting(), tmp_path, tmp_path / "out", method="x", progress=kill_after(1))
    (tmp_path / "out" / "parts" / "01.npz").write_bytes(b"PK")
    with pytest.raises(ReproError, match=r"01\.npz is damaged"):
        submission.submit_sidd(Inverting(), tmp_path, tmp_path / "out", method="x")


def test_sidd_input_that_is_not_the_benchmarks(tmp_path):
    official_set.write_sidd_validation(tmp_path / "validation")
    for where, match in (
        (tmp_path / "validation", "is not the SIDD benchmark .sRGB.: that is the file BenchmarkNoisyBlocksSrgb.mat"),
        (tmp_path / "nowhere", "no data set"),
        ("sidd-benchmark", "REPRO_DATA"),
    ):
        with pytest.raises(ReproError, match=match):
            submission.submit_sidd(Inverting(), where, tmp_path / "out", method="x")
    official_set.write_sidd_benchmark(tmp_path)
    path = tmp_path / "BenchmarkNoisyBlocksSrgb.mat"
    path.write_bytes(path.read_bytes()[:-900])
    with pytest.raises(ReproError, match=r"BenchmarkNoisyBlocksSrgb\.mat is damaged, incomplete"):
        submission.submit_sidd(Inverting(), path, tmp_path / "out", method="x")


# ---- DND


def test_dnd_files_are_as_the_benchmark_takes_them(tmp_path):
    content = official_set.write_dnd(tmp_path, images=3, boxes=2, side=12)
    written = submission.submit_dnd(Inverting(), tmp_path, tmp_path / "out", method="x")
    assert [path.relative_to(tmp_path / "out").as_posix() for path in written] == [
        "bundled/0001.mat", "bundled/0002.mat", "bundled/0003.mat"
    ]  # fmt: skip
    assert sorted((tmp_path / "out" / "bundled").iterdir()) == written
    for path, (name, image) in zip(written, content.items(), strict=True):
        assert path.stem == name
        assert whosmat(path) == [
            ("Idenoised", (1, 2), "cell"),
            ("israw", (1, 1), "logical"),
            ("eval_version", (1,), "char"),
        ]
        bundle = loadmat(path)
        assert bundle["israw"].item() == 0 and bundle["eval_version"].item() == "1.0"
        for box, noisy in zip(bundle["Idenoised"][0], (image[0:12, 1:13], image[-12:, -12:]), strict=True):
            assert box.dtype == np.float32 and box.shape == (12, 12, 3)
            np.testing.assert_array_equal(box, 1 - noisy)


def test_a_killed_dnd_submission_goes_on(tmp_path):
    official_set.write_dnd(tmp_path, images=3, boxes=2)
    net = Inverting()
    with pytest.raises(Killed):
        submission.submit_dnd(net, tmp_path, tmp_path / "out", method="x", progress=kill_after(2))
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "bundled").iterdir()}
    assert len(kept) == 2
    written = submission.submit_dnd(net, tmp_path, tmp_path / "out", method="x")
    assert net.calls == 6 and len(written) == 3
    assert all(path.stat().st_mtime_ns == before for path, before in kept.items())
    note = json.loads((tmp_path / "out" / "submission.json").read_text())
    assert note["benchmark"] == "dnd" and note["network"] == "inverting" and len(note["input"]["bytes"]) == 3


def test_networks_are_told_the_levels_that_dnd_states(tmp_path):
    official_set.write_dnd(tmp_path, images=2, boxes=2)
    net = Inverting(needs_sigma=True)
    submission.submit_dnd(net, tmp_path, tmp_path / "stated", method="x")
    assert net.told == pytest.approx([0.01, 0.011, 0.02, 0.021])
    submission.submit_dnd(net, tmp_path, tmp_path / "given", method="x", sigma_255=25.5)
    assert net.told[4:] == pytest.approx([0.1] * 4)


def test_dnd_is_looked_through_before_anything_is_denoised(tmp_path):
    official_set.write_dnd(tmp_path, images=3)
    (tmp_path / "dnd_2017" / "images_srgb" / "0003.mat").unlink()
    net = Inverting()
    with pytest.raises(ReproError, match=r"no file .*0003\.mat"):
        submission.submit_dnd(net, tmp_path, tmp_path / "out", method="x")
    assert net.calls == 0 and not (tmp_path / "out").exists()


# ---- the command


def call(*arguments) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 0, (result.output, result.exception)
    return result.output


@pytest.mark.parametrize("name", ["sadnet", "ssdn", "gradnet", "scaoednet"])
def test_every_method_is_submitted_by_the_command(tmp_path, monkeypatch, name):
    sizes = {
        "sadnet": {"width": 8, "offset_width": 8},
        "ssdn": {"width": 8, "parameter": "variable"},
        "gradnet": {"width": 8, "modules": 2, "units": 2, "reduction": 4},
        "scaoednet": {"width": 8, "blocks": 1, "stages": 1},
    }
    torch.manual_seed(0)
    net = repro.build(name, **sizes[name]).eval()
    path = weights.save(net, tmp_path / f"{name}.safetensors")
    noisy = official_set.write_sidd_benchmark(tmp_path / "sidd", shape=(1, 1, 16, 16, 3))
    images = official_set.write_dnd(tmp_path / "dnd", images=4, boxes=1, side=16)
    monkeypatch.setenv("REPRO_DATA", str(tmp_path))
    assert "SubmitSrgb.csv" in call("submit", "sidd", tmp_path / "a", "--model", path, "--device", "cpu")
    output = call("submit", "dnd", tmp_path / "b", "--model", path, "--data", tmp_path / "dnd", "--device", "cpu")
    assert "0001.mat to 0004.mat, 4 files" in output
    content = loadmat(tmp_path / "a" / "SubmitSrgb.mat")
    assert content["OptionalData"]["MethodName"][0, 0][0] == name
    np.testing.assert_array_equal(content["DenoisedBlocksSrgb"][0, 0], repro.denoise(noisy[0, 0], model=net))
    box = loadmat(tmp_path / "b" / "bundled" / "0001.mat")["Idenoised"][0, 0]
    np.testing.assert_allclose(box, repro.denoise(images["0001"][-16:, -16:], model=net), atol=1e-6)
    assert box.min() >= 0 and box.max() <= 1 and box.std() > 0


def test_self_ensemble_and_gray_networks(tmp_path):
    noisy = official_set.write_sidd_benchmark(tmp_path, shape=(1, 1, 16, 16, 3))
    torch.manual_seed(0)
    for channels, options in ((3, ["--ensemble"]), (1, ["--method", "gray one"])):
        net = repro.build("dncnn", channels=channels, width=8, depth=3).eval()
        path = weights.save(net, tmp_path / f"{channels}.safetensors")
        out = tmp_path / f"out{channels}"
        call("submit", "sidd", out, "--model", path, "--data", tmp_path, "--device", "cpu", *options)
        content = loadmat(out / "SubmitSrgb.mat")
        single = repro.denoise(noisy[0, 0], model=net)
        assert np.array_equal(content["DenoisedBlocksSrgb"][0, 0], single) == (channels == 1)
        assert content["OptionalData"]["MethodName"][0, 0][0] == ("3" if channels == 3 else "gray one")


def test_the_help_says_how_it_is_uploaded():
    for benchmark, words in (("sidd", "kaggle.com"), ("dnd", "noise.visinf.tu-darmstadt.de")):
        assert words in "".join(call("submit", benchmark, "--help").split("\n"))


def test_a_failure_is_one_sentence(tmp_path):
    path = weights.save(repro.build("dncnn", width=8, depth=3), tmp_path / "net.safetensors")
    (tmp_path / "dnd_2017" / "images_srgb").mkdir(parents=True)
    result = CliRunner().invoke(
        app, ["submit", "dnd", str(tmp_path / "o"), "--model", str(path), "--data", str(tmp_path)]
    )
    assert result.exit_code == 1 and result.stderr.startswith("Error: There is no file ")
    assert len(result.stderr.strip().splitlines()) == 1 and not Path(tmp_path / "o").exists()
