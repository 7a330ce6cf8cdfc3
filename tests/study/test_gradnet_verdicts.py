"""Rules for the claims of the slides about GradNet, and the fragments of their chapter."""

import itertools
import json
import re

import numpy as np
import pandas as pd
import pytest
import torch

from repro import fusion_pages, gradient_pages, gradients, timing
from repro.study import claims, experiments, records
from repro.study.verdicts import DIRECTION, NOT_REPRODUCED, NOT_TESTABLE, REPRODUCED, Study, settle

LEDGER, EXPERIMENTS = claims.load(), experiments.load()
SPREAD = np.linspace(-3, 3, 24)  # between images
WIGGLE = 0.01 * (-1.0) ** np.arange(24)  # of one method against another


def settled(claim_id, *found):
    return settle(LEDGER.loc[claim_id], Study(LEDGER, EXPERIMENTS, list(found)))


@pytest.fixture
def make(make_record):
    def record(name, psnr, method, variant, steps=10, changes=None, **settings):
        made = make_record(
            name, psnr + SPREAD + settings.pop("wiggle", 0), method=method, variant=variant, steps=steps,
            sigma_255=25.0, **settings,
        )  # fmt: skip
        if changes is not None:
            rows = [
                {"image": f"image{k}", "sigma_255": 25.0, "gradient": kind, "psnr_db": psnr + SPREAD[k] + change,
                 "gradient_loss": 0.2, "gradient_loss_displayed": 0.2 / 48}
                for kind, change in changes.items() for k in range(24)
            ]  # fmt: skip
            pd.DataFrame(rows).to_csv(made.folder / "gradients.csv", index=False)
        return records.read(made.folder)

    return record


def test_the_table_of_results_is_there():
    ours = claims.find(LEDGER, source="003", metric="psnr", table="Results")
    assert len(ours) == 18 + 5 and ours["approx"].sum() == 5
    assert LEDGER.loc["003-results-kodak24-50-gradnet-bm3d", "value"] == "25.763"
    exchanged = ours[ours["variant"] == "DnCNN, BM3D gradients"].sort_values("dataset")["value"].tolist()
    assert exchanged == ours[ours["variant"] == "DnCNN"].sort_values("dataset")["value"].tolist()


def test_values_that_need_no_training(make):
    bm3d = make("a", 31.87, "bm3d", "full", steps=0)
    assert settled("003-results-kodak24-25-bm3d", bm3d).word == REPRODUCED
    assert settled("003-results-kodak24-25-bm3d", make("b", 31.70, "bm3d", "full", steps=0)).word == NOT_REPRODUCED
    dncnn = make("c", 28.5, "dncnn", "16 layers", steps=0, wiggle=WIGGLE)
    assert settled("003-results-kodak24-25-dncnn", dncnn).word == NOT_REPRODUCED  # as published: no smaller budget
    assert settled("003-results-kodak24-25-dncnn", make("d", 33, "dncnn", "16 layers", steps=0)).word == NOT_REPRODUCED
    assert settled("003-order-kodak24-25-bm3d-over-dncnn", bm3d, dncnn).word == REPRODUCED


@pytest.mark.parametrize(("spread", "word"), [(1.5, REPRODUCED), (0.5, NOT_REPRODUCED)])
def test_a_value_of_one_random_crop_is_held_against_all_crops(make, spread, word):
    """The printed 27.482 lies 0.4 dB from the mean: within what 24 draws of standard deviation 1.5 scatter."""
    made = make("a", 27.0, "dncnn", "16 layers", steps=0)
    about = json.loads((made.folder / "record.json").read_text())
    about["evaluations"][0]["crop_side"] = 256
    (made.folder / "record.json").write_text(json.dumps(about))
    metrics = made.metrics.assign(psnr_crop_db=27.082, psnr_crop_std_db=spread)
    metrics.to_csv(made.folder / "metrics.csv", index=False)
    verdict = settled("003-results-kodak24-25-dncnn", records.read(made.folder))
    assert verdict.word == word
    if word == REPRODUCED:
        assert verdict.tolerance == pytest.approx(1.96 * 1.5 / 24**0.5, rel=1e-3)
        assert (verdict.low, verdict.high) == pytest.approx((-0.4 - verdict.tolerance, -0.4 + verdict.tolerance))


def test_whole_images_are_no_second_chance_where_crops_were_measured(make):
    made = make("a", 27.482, "dncnn", "16 layers", steps=0)
    about = json.loads((made.folder / "record.json").read_text())
    about["evaluations"][0]["crop_side"] = 256
    (made.folder / "record.json").write_text(json.dumps(about))
    made.metrics.assign(psnr_crop_db=28.2, psnr_crop_std_db=0.5).to_csv(made.folder / "metrics.csv", index=False)
    verdict = settled("003-results-kodak24-25-dncnn", records.read(made.folder))
    assert verdict.word == NOT_REPRODUCED and "28.00 to 28.40 dB in 95 of 100 draws" in verdict.reason


def test_a_network_trained_here_speaks_of_the_direction_only(make):
    bm3d = make("a", 31.87, "bm3d", "full", steps=0)
    ours = make("b", 30.435, "gradnet-impl", "DnCNN, width 16", wiggle=WIGGLE)
    verdict = settled("003-results-kodak24-25-gradnet-dncnn", bm3d, ours)
    assert verdict.word == NOT_TESTABLE and "width 16" in verdict.reason, "the printed value is below BM3D, too"
    above = make("d", 32.5, "gradnet-impl", "DnCNN, width 16", wiggle=WIGGLE)
    assert settled("003-results-kodak24-25-gradnet-dncnn", bm3d, above).word == NOT_REPRODUCED
    paper = make("c", 31, "gradnet", "DnCNN, width 16", wiggle=WIGGLE)
    verdict = settled("003-results-kodak24-25-gradnet-dncnn-paper", bm3d, paper)
    assert verdict.word == NOT_TESTABLE and "About 32 dB is too coarse to say on which side" in verdict.reason
    for reached, word in ((31.6, REPRODUCED), (32.5, REPRODUCED), (31.4, NOT_REPRODUCED)):  # "about 32" is no 32.00
        whole = make(f"whole{reached}", reached, "gradnet", "DnCNN", budget="paper", wiggle=WIGGLE)
        assert settled("003-results-kodak24-25-gradnet-dncnn-paper", bm3d, whole).word == word, reached
    exact = LEDGER.copy()
    exact.loc["003-results-kodak24-25-gradnet-dncnn-paper", "approx"] = False
    claim = exact.loc["003-results-kodak24-25-gradnet-dncnn-paper"]
    assert settle(claim, Study(exact, EXPERIMENTS, [bm3d, paper])).word == NOT_REPRODUCED


def test_how_long_a_training_with_bm3d_takes(monkeypatch):
    claim = "003-direction-training-with-bm3d-long"
    monkeypatch.setattr(timing, "load", lambda subject: [])
    assert settled(claim).word == NOT_TESTABLE
    seconds = {"the network's step": 0.5, "DnCNN": 0.1, "BM3D": 11.5, "BM3D, equal variances": 0.7}
    table = pd.DataFrame({"what": list(seconds), "seconds": list(seconds.values())})
    monkeypatch.setattr(timing, "load", lambda subject: [({"batch": 8, "patch": 64, "device": "cpu x"}, table)])
    verdict = settled(claim)
    assert verdict.word == DIRECTION and verdict.ours == pytest.approx(20.0) and verdict.command == "repro bench naive"
    assert "12.0 s with BM3D, 1.2 s with equal variances, 0.60 s with DnCNN" in verdict.reason
    table.loc[2, "seconds"] = 0.05
    assert settled(claim).word == NOT_REPRODUCED


def test_the_norm_of_a_loss_is_that_of_the_lists_runs():
    assert "by budget: 1 (cpu" in settled("003-protocol-loss-norm-image").reason


def test_sidd_is_said_to_be_the_training_folder():
    for claim in ("003-results-sidd-gradnet-dncnn", "003-order-sidd-gradnet-dncnn-over-gradnet-bm3d"):
        verdict = settled(claim)
        assert verdict.word == NOT_TESTABLE and "trained on" in verdict.reason and not verdict.waits_for
    verdict = settled("003-order-sidd-gradnet-dncnn-over-bm3d")
    assert verdict.word == NOT_TESTABLE and "trained on" in verdict.reason
    assert verdict.waits_for in ("gradnet-real", "bm3d-estimated-times-5")
    assert verdict.waits_for in verdict.reason


@pytest.mark.parametrize(("gain", "word"), [(0.1, DIRECTION), (-0.1, NOT_REPRODUCED)])
def test_what_is_ahead_on_sidd_is_tested_on_other_photographs(make_record, gain, word):
    """The sets are 003's training folder and 15 photographs that no network here has seen: the direction at most."""
    real = {"dataset": "cc15", "sigma_255": None}
    naive = make_record("a", 35 + SPREAD, method="dncnn", variant="16 layers, real, width 32", **real)
    ours = make_record("b", 35 + gain + WIGGLE + SPREAD, method="gradnet-impl", variant="DnCNN, real, width 16", **real)
    verdict = settled("003-order-sidd-gradnet-dncnn-over-dncnn", naive, ours)
    assert verdict.word == word and verdict.difference == pytest.approx(gain)
    assert "On cc15, which neither was trained on, not on SIDD. The slides' values are of the folder" in verdict.reason
    bm3d = make_record("c", 34 + SPREAD, method="bm3d", variant="estimated, times 5", steps=0, **real)
    assert settled("003-order-sidd-bm3d-over-dncnn", naive, bm3d).word == NOT_REPRODUCED
    noisy = pd.read_csv(naive.folder / "metrics.csv").assign(psnr_noisy_db=38 + SPREAD)
    noisy.to_csv(naive.folder / "metrics.csv", index=False)
    verdict = settled("003-order-sidd-gradnet-dncnn-over-dncnn", records.read(naive.folder), ours)
    assert verdict.word == (NOT_TESTABLE if gain > 0 else NOT_REPRODUCED)
    assert ("-3.00 [-3.00, -3.00] dB against no denoising at all" in verdict.reason) == (gain > 0)


@pytest.mark.parametrize(("change", "word"), [(0.0002, DIRECTION), (0.02, NOT_REPRODUCED)])
def test_exchanged_gradients(make, change, word):
    kinds = dict.fromkeys(gradients.KINDS, 0.0) | {"bm3d": change, "zero": -1.0}
    ours = make("b", 30.0, "gradnet-impl", "DnCNN, width 16", changes=kinds)
    verdict = settled("003-direction-kodak24-25-exchanged-gradients", ours)
    assert verdict.word == word and verdict.difference == pytest.approx(change)
    assert settled("003-direction-gradient-loss-zero", ours).word == NOT_TESTABLE, "it speaks of BM3D, too"
    bm3d = make("c", 30.0, "gradnet-impl", "BM3D, width 16", changes=kinds)
    loss = settled("003-direction-gradient-loss-zero", bm3d, ours)
    assert loss.word == NOT_REPRODUCED and loss.ours == pytest.approx(0.2), "0.0 and 0.0: no difference"
    mixup = make("a", 30.0, "gradnet-impl", "DnCNN, mixup, width 16", changes=kinds)
    assert settled("003-direction-kodak24-25-exchanged-gradients", mixup).word == NOT_TESTABLE, "another network"
    page = gradient_pages.describe_gradients(Study(LEDGER, EXPERIMENTS, [ours]))
    assert "-1.000" in page and f"{0.2 / 48:.4f}" in page


def test_every_training_of_a_network_counts_where_gradients_are_exchanged(make):
    seeds = [
        make(
            "b", 30.0, "gradnet-impl", "DnCNN, width 16", changes={"own": 0.0, "zero": -1.0, "bm3d": change}, seed=seed
        )
        for seed, change in enumerate((0.2, 0.4))
    ]
    verdict = settled("003-direction-kodak24-25-exchanged-gradients", *seeds)
    assert verdict.difference == pytest.approx(0.3) and verdict.evidence == "b-seed0 b-seed1"
    assert (verdict.low, verdict.high) == pytest.approx((0.2, 0.4)), "over trainings: the images agree"
    page = gradient_pages.describe_gradients(Study(LEDGER, EXPERIMENTS, seeds))
    assert "+0.300 [+0.200, +0.400]" in page and "given no gradient, and so read theirs: 1 of 1." in page


@pytest.mark.parametrize(
    ("dncnn", "bm3d", "word"),
    [(0.2, 3.0, DIRECTION), (3.0, 0.2, NOT_REPRODUCED), (3.0, 3.0, NOT_REPRODUCED)],
)
def test_the_gradient_loss_that_003_displays(make, dncnn, bm3d, word):
    """Its one digit is 0.0 below a loss of 2.4, which it divides by the batch of 48 once more."""
    found = []
    for variant, loss in (("DnCNN, width 16", dncnn), ("BM3D, width 16", bm3d)):
        record = make(variant[:4], 30.0, "gradnet-impl", variant, changes={"own": 0.0})
        table = record.gradients.assign(gradient_loss=loss, gradient_loss_displayed=loss / 48)
        table.to_csv(record.folder / "gradients.csv", index=False)
        found.append(records.read(record.folder))
    verdict = settled("003-direction-gradient-loss-zero", *found)
    assert verdict.word == word and verdict.ours == pytest.approx(dncnn)
    assert f"{dncnn / 48:.1f} and {bm3d / 48:.1f} are left" in verdict.reason


@pytest.mark.parametrize(("gain", "word"), [(0.5, DIRECTION), (-0.5, NOT_REPRODUCED)])
def test_five_times_the_estimate_is_the_first_of_the_two(make_record, gain, word):
    real = {"method": "bm3d", "dataset": "cc15", "sigma_255": None, "steps": 0}
    plain = make_record("a", 35 + SPREAD, variant="estimated", **real)
    times_5 = make_record("b", 35 + gain + WIGGLE + SPREAD, variant="estimated, times 5", **real)
    verdict = settled("003-direction-estimate-times-5", plain, times_5)
    assert verdict.word == word and verdict.difference == pytest.approx(gain)
    assert "On cc15" in verdict.reason and "not on SIDD" in verdict.reason
    assert settled("003-direction-estimate-times-5", plain).word == NOT_TESTABLE


def test_five_times_the_estimate_is_judged_on_sidd_where_that_is_measured(make_record):
    real = {"method": "bm3d", "dataset": "sidd_samples", "sigma_255": None, "steps": 0}
    plain = make_record("a", 35 + SPREAD, variant="estimated", **real)
    times_5 = make_record("b", 34 + WIGGLE + SPREAD, variant="estimated, times 5", **real)
    verdict = settled("003-direction-estimate-times-5", plain, times_5)
    assert verdict.word == NOT_REPRODUCED and verdict.reason.endswith("On the blocks of SIDD at hand.")


def test_two_printed_values_are_held_against_each_other():
    """What a document says of its own numbers is not testable where they agree with it, and else not reproduced."""
    name = "003-direction-paper-above-awgn"
    assert settled(name).word == NOT_TESTABLE
    swapped = LEDGER.copy()
    ours = claims.find(LEDGER, source="003", table="Results", metric="psnr", dataset="Kodak24", method="GradNet")
    row = ours.index[ours["variant"] == "DnCNN"][0]
    swapped.loc[row, "number"] = 99.0
    assert settle(swapped.loc[name], Study(swapped, EXPERIMENTS, [])).word == NOT_REPRODUCED


def test_what_follows_from_the_code_alone():
    assert settled("003-direction-patches-break-bm3d").word == DIRECTION, "one patch, made to break it"
    brighter = settled("003-direction-awgn-brightens")
    assert brighter.word == DIRECTION, "other photographs than the slides'"
    assert "Without clipping +0.0 gray levels and +0.0 %" in brighter.reason
    assert settled("003-direction-dncnn-above-paper").word == NOT_TESTABLE, "the document's own values"
    assert settled("003-pictures-2").word == NOT_TESTABLE
    assert settled("003-direction-concatenation-grows").word == NOT_REPRODUCED
    assert settled("003-architecture-mixup-units").word == NOT_REPRODUCED
    assert settled("003-architecture-mixup-copies").word == REPRODUCED


def test_gradnet_is_held_against_its_own_naive_denoiser(make):
    slides = make("gradnet-naive-003", 27.0, "dncnn", "16 layers", steps=0)
    naive = make("gradnet-naive", 25.0, "dncnn", "16 layers, width 32")
    ours = make("b", 26.0, "gradnet-impl", "DnCNN, width 16", sizes={"naive_weights": "gradnet-naive"})
    verdict = settled("003-order-kodak24-25-gradnet-dncnn-over-dncnn", slides, naive, ours)
    assert (verdict.word, verdict.evidence) == (DIRECTION, "b-seed0 gradnet-naive-seed0")


def test_every_suspect_is_a_row_of_the_list_as_is_its_neighbour():
    names = {experiment.name for experiment in EXPERIMENTS}
    assert {*fusion_pages.SUSPECTS, *(other for other, _ in fusion_pages.SUSPECTS.values())} <= names


def test_what_was_found_and_what_is_missing_is_said(make):
    assert fusion_pages.describe_reason(Study(LEDGER, EXPERIMENTS, [])).count("not measured yet") == 15
    pair = [make(name, psnr, "gradnet", name) for name, psnr in (("gradnet-add", 26.0), ("gradnet-dncnn", 26.75))]
    reason = fusion_pages.describe_reason(Study(LEDGER, EXPERIMENTS, pair))
    assert "- addition: -0.75 [-0.75, -0.75] dB at sigma 25 (`gradnet-add`);" in reason
    told = fusion_pages.describe_findings(Study(LEDGER, EXPERIMENTS, []))
    assert told.startswith("Not compared with its neighbour yet: `gradnet-naive-residual`")
    assert "Not measured yet" in gradient_pages.describe_real(Study(LEDGER, EXPERIMENTS, []))


def read_rows(page):
    """Cells of the table's lines, as text."""
    lines = re.findall(r"<tr><td.*?</tr>", page)
    return [re.findall(r"<td[^>]*>(.*?)</td>", re.sub("</?code>", "", line).replace("\xa0", " ")) for line in lines]


class Side:
    """A group of one seed, of which nothing but means of 24 images is known."""

    def __init__(self, **means):
        self.means = {name.replace("_", "-"): mean for name, mean in means.items()}
        self.first = {"evaluations": [{"name": name} for name in self.means]}

    def per_seed(self, name):
        return pd.DataFrame({0: self.means[name] + SPREAD})


def test_the_shortfall_is_what_clipping_does_not_give_back():
    groups = {"bm3d-colour-25": Side(kodak24_25=31.0), "bm3d-colour-50": Side(kodak24_50=28.0)}
    own = {"kodak24_25": 27.0, "kodak24_25_clipped": 27.5, "kodak24_50": 24.0, "kodak24_50_clipped": 25.0}
    told = fusion_pages._describe_gap(groups | {"gradnet-naive-003": Side(**own)})
    assert "lies 4.00 and 4.00 dB below" in told and "it gets 0.50 and 1.00 dB back" in told
    assert (
        "What is left against CBM3D on noise that is not clipped, 3.50 and 3.00 dB" in told
        and "Most of its shortfall is not explained" in told
    )
    own |= {"kodak24_50_clipped": 27.5}
    assert "A part of its shortfall is not explained" in fusion_pages._describe_gap(
        groups | {"gradnet-naive-003": Side(**own)}
    )
    assert fusion_pages._describe_gap(groups) == ""


@pytest.mark.parametrize(
    ("at_50", "concluded"), [(29.0, "nothing here says that"), (25.0, "may be a part of"), (28.0, "")]
)
def test_whether_the_form_is_a_part_of_the_reason_follows_from_both_levels(at_50, concluded):
    sides = {"gradnet-dncnn": Side(kodak24_25=30.0, kodak24_50=28.0)}
    sides["gradnet-impl-dncnn"] = Side(kodak24_25=29.0 if at_50 < 28 else 31.0, kodak24_50=at_50)
    told = fusion_pages._describe_form(sides)
    assert concluded in told and ("their form" in told) == bool(concluded)
    assert fusion_pages._describe_form({}) == ""


def test_what_a_network_does_with_its_gradient_is_said(make):
    made = make("gradnet-dncnn", 29.5, "gradnet", "DnCNN, width 16", changes={"own": 0.0, "zero": -2.5, "bm3d": 0.04})
    table = made.gradients.assign(sigma_255=50.0)
    table.to_csv(made.folder / "gradients.csv", index=False)
    told = fusion_pages.describe_findings(Study(LEDGER, EXPERIMENTS, [records.read(made.folder)]))
    rows = read_rows(told)
    assert [at_50[:5] for what, _, _, at_50 in rows if what.startswith("no gradient")] == ["-2.50"]
    assert [at_50[:5] for what, _, _, at_50 in rows if what.startswith("BM3D's")] == ["+0.04"]
    assert [at_25 for _, _, at_25, _ in rows] == ["", ""], "not measured at 25"


def test_the_fragments_of_the_chapter(make, tmp_path, monkeypatch):
    reference = make("gradnet-none", 29.0, "gradnet", "none, width 16")
    noisy = make("gradnet-noisy", 29.2, "gradnet", "noisy, width 16", wiggle=WIGGLE)
    other = make("gradnet-dncnn", 29.5, "gradnet", "DnCNN, width 16", wiggle=WIGGLE)
    page = gradient_pages.describe_suspects(Study(LEDGER, EXPERIMENTS, [reference, noisy, other]))
    assert "29.50" in page and "+0.30 [" in page and "the gradient after DnCNN (<code>gradnet-noisy</code>)" in page
    assert "campaign" in gradient_pages.describe_suspects(Study(LEDGER, EXPERIMENTS, []))


def test_the_classical_line_is_drawn_and_timed(tmp_path, monkeypatch):
    drawn = {}
    draw = gradient_pages.draw_line
    monkeypatch.setattr(gradient_pages, "draw_line", lambda pictures: drawn.update(pictures) or draw(pictures))
    monkeypatch.setattr(gradient_pages, "CROP", 24)
    line = gradient_pages.describe_line(tmp_path)
    assert (tmp_path / "gradnet_line.png").stat().st_size > 1000
    rows = re.findall(r"<tr><td>([^<]*)</td><td>([\d.]+)</td><td>([\d.]*)</td></tr>", line)
    assert {"noisy", "bm3d, in colour", "bm3d, of the gray picture", "median", "nlm", "tv"} <= {row[0] for row in rows}
    assert [float(row[1]) for row in rows] == sorted((float(row[1]) for row in rows), reverse=True)
    assert [row[0] for row in rows if not row[2]] == ["noisy"]
    clean, noisy, *filtered = drawn
    assert clean == "clean" and noisy.startswith("noisy, 20.") and len(filtered) == 8
    assert not any(torch.equal(one, other) for one, other in itertools.combinations(drawn.values(), 2))


def test_what_fusion_is_worth_is_told_against_networks_without_gradients(make):
    without, fused = (
        _at_both_levels(make(f"gradnet-{name}", psnr, "gradnet", f"{name}, width 16"))
        for name, psnr in (("none", 28.0), ("dncnn", 28.4))
    )
    told = fusion_pages.describe_findings(Study(LEDGER, EXPERIMENTS, [without, fused]))
    [(_, pair, *gains)] = read_rows(told)
    assert pair.startswith("gradnet-dncnn against gradnet-none; ") and gains == ["+0.40 [+0.40, +0.40]"] * 2
    assert "**Fusion helps.** In 1 of 1 pairs" in told
    noisy = _at_both_levels(make("gradnet-noisy", 28.6, "gradnet", "noisy, width 16"))
    told = fusion_pages.describe_findings(Study(LEDGER, EXPERIMENTS, [without, fused, noisy]))
    assert "**Fusion does not always help.** In 1 of 2 pairs" in told
    assert "**Fusion" not in fusion_pages.describe_findings(Study(LEDGER, EXPERIMENTS, [fused]))


def test_what_clipped_noise_explains_of_the_slides_value_is_told(make):
    printed = LEDGER.loc["003-results-kodak24-50-gradnet-dncnn", "number"]
    plain = _at_both_levels(make("gradnet-impl-dncnn", printed + 1.2, "gradnet-impl", "DnCNN, width 16"))
    clipped = _at_both_levels(make("gradnet-impl-clipped", printed - 0.3, "gradnet-impl", "clipped, width 16"))
    told = fusion_pages.describe_findings(Study(LEDGER, EXPERIMENTS, [plain, clipped]))
    assert "is 1.20 dB above what the slides print" in told and "0.30 dB below once it is trained on clipped" in told


def test_a_level_for_every_value_is_tested_as_it_was_trained(make):
    noise = {"name": fusion_pages.PER_VALUE, "sigma_255": None, "levels_255": [8.16, 63.75], "clip": True}
    alike, other = (
        _add(make(f"gradnet-naive-{name}", psnr, "gradnet", name), **noise)
        for name, psnr in (("pixel-level", 26.5), ("clipped", 26.3))
    )
    told = fusion_pages.describe_findings(Study(LEDGER, EXPERIMENTS, [alike, other]))
    assert "by +0.20 [+0.20, +0.20] dB (`gradnet-naive-pixel-level` against `gradnet-naive-clipped`)" in told
    names = {experiment.name: experiment for experiment in EXPERIMENTS}
    listed = itertools.chain(*fusion_pages.TRAINED_PER_VALUE.items(), ["gradnet-naive-003"])
    assert all(fusion_pages.PER_VALUE in [e.name for e in names[name].evaluate] for name in listed)


def _at_both_levels(record):
    """The record with its values at sigma 50 as well."""
    return _add(record, name="kodak24-50", sigma_255=50.0)


def _add(record, name, **about):
    """The record with its one evaluation again under another name, as if it had been of other noise."""
    metrics = pd.read_csv(record.folder / "metrics.csv")
    pd.concat([metrics, metrics.assign(evaluation=name)]).to_csv(record.folder / "metrics.csv", index=False)
    (first,) = record["evaluations"]
    again = first | {"name": name} | about
    records.write(record.content | {"evaluations": [first, again]}, record.folder)
    return records.read(record.folder)
