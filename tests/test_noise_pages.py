"""The page on the noise models: its picture, its counts and its commands."""

import re

import pytest
import torch
from typer.testing import CliRunner

from repro import cli, evaluate, files, noise_pages, train
from repro.data import catalog, noise
from repro.study.experiments import Evaluation, Experiment

PAGE = files.root() / "book" / "noise.md"


def test_the_crop_has_every_noise_that_is_drawn_and_the_same_each_time():
    clean = noise_pages.read_crop()
    images, captions = noise_pages.add_each_noise(clean)
    again, _ = noise_pages.add_each_noise(clean)
    assert list(images) == list(captions) == list(again)
    assert all(torch.equal(image, again[name]) for name, image in images.items())
    noisy = [image for name, image in images.items() if name != "clean" and len(image) == 3]
    assert len(noisy) == len(images) - 2
    assert all(noise_pages.measure_255(image, clean) > 5 for image in noisy)
    pairs = [(one, other) for place, one in enumerate(noisy) for other in noisy[:place]]
    assert not any(torch.equal(one, other) for one, other in pairs)
    words = " ".join(images).lower()
    drawn = [kind for kind in noise_pages.KINDS if kind != noise_pages.CAMERAS]
    assert all(kind.split(",")[0].lower() in words for kind in drawn)


def test_strength_is_the_root_mean_square_in_gray_levels():
    clean = torch.zeros(3, 2, 2)
    assert noise_pages.measure_255(torch.full_like(clean, 10 / 255), clean) == pytest.approx(10)


def test_what_an_evaluation_is_tried_on():
    kinds = {
        Evaluation("kodak24", 25): noise_pages.ONE,
        Evaluation("kodak24", None, events=30): noise_pages.POISSON,
        Evaluation("kodak24", None, alpha=0.5): noise_pages.IMPULSE,
        Evaluation("cc15", None): noise_pages.CAMERAS,
    }
    assert {evaluation.name: noise_pages.name_noise(evaluation) for evaluation in kinds} == {
        evaluation.name: kind for evaluation, kind in kinds.items()
    }
    per_value = Evaluation("kodak24", None, levels_255=[8.0, 64.0])
    assert noise_pages.name_noise(per_value) == noise_pages.PER_VALUE


def test_counts_follow_the_list():
    entry = Experiment(
        name="one", method="sadnet", variant="full", colour="rgb", sigma_255=33, budget="cpu", why="", data="bsd400",
        train={"steps": 1}, evaluate=(Evaluation("kodak24", 33), Evaluation("bsd68", 33), Evaluation("cc15", None)),
    )  # fmt: skip
    rows = re.findall(r"<tr><td.*?</tr>", noise_pages.describe_use([entry, entry]))
    cells = [re.findall(r"<td[^>]*>(.*?)</td>", row) for row in rows]
    counts = {kind: (training, int(learned), int(tried)) for kind, _, training, learned, tried in cells}
    assert counts.pop(noise_pages.ONE) == ("33", 2, 2)
    assert counts.pop(noise_pages.CAMERAS) == ("–", 0, 2)
    assert set(counts.values()) == {("–", 0, 0)}


def test_clipping_is_told_as_it_is_measured():
    told = noise_pages.describe_clipping(levels_255=(0.0,))
    assert "changes 0% of the values" in told, "nothing leaves [0, 1] without noise"
    assert "changes 0%" not in noise_pages.describe_clipping(levels_255=(25.0,))


# --- commands


def list_commands(name):
    lines = (line.split("  #")[0] for line in PAGE.read_text(encoding="utf-8").splitlines())
    return [line.split()[1:] for line in lines if line.startswith(f"repro {name} ")]


def test_the_training_commands_draw_each_kind_of_noise(monkeypatch, tmp_path):
    configs = []
    monkeypatch.setattr(train, "train", lambda config, *_, **__: configs.append(config))
    for words in list_commands("train"):
        words[words.index("--out") + 1] = str(tmp_path / "run")
        done = CliRunner().invoke(cli.app, words)
        assert done.exit_code == 0, f"{' '.join(words)}: {done.output}"
    drawn = {kind for config in configs for kind, _ in noise_pages.list_training_noise(config)}
    assert drawn == set(noise_pages.KINDS)
    assert any(config.clip for config in configs)


def test_every_training_has_a_folder_of_its_own_and_is_tested_from_it():
    folders = [words[words.index("--out") + 1] for words in list_commands("train")]
    assert len(set(folders)) == len(folders) > 5, "a folder that holds another run is refused"
    tested = [words[words.index("--model") + 1] for words in list_commands("evaluate")]
    assert {name.split("/")[0] for name in tested if "/" in name} <= set(folders)


def test_the_test_commands_name_each_noise_that_can_be_added(monkeypatch):
    given = []

    def note(net, data, sigma_255=None, **options):
        given.append({"sigma": sigma_255} | options)
        raise evaluate.ReproError("seen")

    monkeypatch.setattr(evaluate, "evaluate", note)
    monkeypatch.setattr("repro.weights.load", lambda *_, **__: torch.nn.Identity())
    monkeypatch.setattr(catalog, "paths", lambda name: [("one", "one.png", None)])  # with no test set at hand, too
    for words in list_commands("evaluate"):
        CliRunner().invoke(cli.app, words)
    assert len(given) == len(list_commands("evaluate"))
    for keyword in (*noise.FIXED, "levels_255", "clip", "round_8bit"):
        assert any(options.get(keyword) for options in given), keyword
    assert any(not any(options.get(keyword) for keyword in (*noise.FIXED, "levels_255")) for options in given)
