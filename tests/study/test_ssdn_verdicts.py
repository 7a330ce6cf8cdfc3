"""Verdicts on document 002: its own table, its statements, its curves."""

import numpy as np
import pandas as pd
import pytest
import torch

import repro
from repro import blindspot_pages, files, pages, plots, timing, weights
from repro.data import catalog
from repro.errors import ReproError
from repro.study import claims, experiments, records, ssdn
from repro.study.verdicts import DIRECTION, NOT_REPRODUCED, NOT_TESTABLE, REPRODUCED, Study, settle
from repro.train_config import learning_rate

LEDGER, EXPERIMENTS = claims.load(), experiments.load()
TABLE = claims.find(LEDGER, source="002", table="Table 1")
SPREAD = np.linspace(-3, 3, 24)
VARIANTS = {"N2C": "unet", "N2N": "unet", "N2V": "unet", "mean only": "ssdn", "variable": "ssdn", "known": "ssdn"}


def settled(claim_id, *found):
    return settle(LEDGER.loc[claim_id], Study(LEDGER, EXPERIMENTS, list(found)))


@pytest.fixture
def make(make_record):
    def make(variant, psnr_db, **settings):
        curve = settings.pop("curve", None)
        name = settings.pop("name", variant.lower().replace(" ", "-").replace(",", ""))
        settings = {"method": VARIANTS.get(variant, "ssdn"), "variant": variant, "sigma_255": 25.0} | settings
        record = make_record(name, psnr_db + SPREAD, **settings)
        if curve is not None:
            step = 100.0 * np.arange(1, len(curve) + 1)
            pd.DataFrame({"step": step, "seconds": step, "psnr_db": curve}).to_csv(
                record.folder / "curve.csv", index=False
            )
        return record

    return make


def test_the_printed_table_is_whole_and_its_averages_are_averages():
    assert len(TABLE) == 21
    wide = TABLE.assign(row=TABLE["method"] + TABLE["variant"]).pivot(index="row", columns="dataset", values="number")
    mean = (wide["KODAK"] + wide["BSD300"]) / 2
    assert ((mean - wide["KODAK+BSD300"]).abs() < 0.0051).all()
    assert set(TABLE.loc[TABLE["attributed_to"] == "ssdn", "method"]) == {"CBM3D"}


@pytest.mark.parametrize(
    ("budget", "offset_db", "word"),
    [
        ("paper", 0.04, REPRODUCED),
        ("paper", -0.06, NOT_REPRODUCED),
        ("cpu", 0.0, DIRECTION),
        ("cpu", -2, NOT_REPRODUCED),
    ],
)
def test_a_value(make, budget, offset_db, word):
    printed = LEDGER.loc["002-t1-kodak-n2c", "number"]
    verdict = settled("002-t1-kodak-n2c", make("N2C", printed + offset_db, budget=budget))
    assert (verdict.word, round(verdict.difference, 6)) == (word, offset_db)


def test_a_worse_method_is_held_to_the_other_side_of_cbm3d(make):
    printed = LEDGER.loc["002-t1-kodak-ssdn-mean-only", "number"]
    below = settled("002-t1-kodak-ssdn-mean-only", make("mean only", printed - 1))
    assert below.word == NOT_TESTABLE, "whatever has learned little lies there"
    assert below.ours == pytest.approx(printed - 1) and "the printed value, too, lies below CBM3D" in below.reason
    assert settled("002-t1-kodak-ssdn-mean-only", make("mean only", printed + 5, name="b")).word == NOT_REPRODUCED


def gain(record, gain_db):
    """The record again, whose images have ``gain_db`` over the noisy ones."""
    table = pd.read_csv(record.folder / "metrics.csv").assign(sigma_255=25.0)
    table.assign(psnr_noisy_db=table["psnr_db"] - gain_db).to_csv(record.folder / "metrics.csv", index=False)
    return records.read(record.folder)


def test_a_training_that_gives_back_the_noisy_image_counts_and_is_told(make):
    one, lost = (gain(make("known", psnr, seed=k), by) for k, (psnr, by) in enumerate(((29.5, 9.3), (20.3, 0.1))))
    assert (one.gives_back_noise, lost.gives_back_noise) == (False, True)
    verdict = settled("002-t1-kodak-ssdn-known", one, lost)
    assert verdict.ours == pytest.approx((29.5 + 20.3) / 2)
    assert verdict.reason.endswith("known-seed1 gave back the noisy images: a training that failed counts.")
    text = blindspot_pages.describe_collapses(Study(LEDGER, EXPERIMENTS, [one, lost]))
    assert "Of the 2 trainings of `known`" in text and "1 failed (`known-seed1`)" in text and "29.50, 20.30 dB" in text
    assert "it estimates" not in text, "a network that is told the level estimates none"
    assert "failed" not in settled("002-t1-kodak-ssdn-known", one).reason
    assert settled("002-t1-kodak-ssdn-known", lost).reason.endswith("known-seed1 gave back the noisy images.")
    text = blindspot_pages.describe_collapses(Study(LEDGER, EXPERIMENTS, [lost]))
    assert text == "Without a training that did better, the noisy image is given back by `known` (20.30 dB)."
    assert not blindspot_pages.describe_collapses(Study(LEDGER, EXPERIMENTS, [one]))
    worse = gain(make("known", 6.0, name="worse"), -14.2)
    assert not worse.gives_back_noise, "it destroys the image"


def test_a_failed_training_is_told_where_curves_are_compared(make, monkeypatch):
    monkeypatch.setattr(ssdn, "read_step_seconds", lambda *_: {"variable": 1.3, "N2V": 1.0})
    ours = [make("variable", 29.0, seed=seed, curve=[20.0, 25.0, 27.0 - 5 * seed]) for seed in range(2)]
    ours[1] = gain(ours[1], 0.1)
    void = make("N2V", 29.0, curve=[19.0, 22.0, 25.5])
    verdict = settled("002-direction-faster-in-real-time", *ours, void)
    assert verdict.word == NOT_TESTABLE and "variable-seed1 gave back the noisy images" in verdict.reason
    text = blindspot_pages.describe_speed(Study(LEDGER, EXPERIMENTS, [*ours, void]))
    assert "The curve is a mean with `variable-seed1`, which failed." in text
    text = blindspot_pages.describe_collapses(Study(LEDGER, EXPERIMENTS, [gain(ours[0], 9), ours[1]]))
    assert "The level that it estimates lies at its floor" in text


def test_what_estimating_trainings_gained_is_told_where_one_failed(make):
    pairs = (("variable", 29.5, 9.3), ("variable, clipped noise", 20.3, 0.1))
    found = [gain(make(variant, psnr_db), gain_db) for variant, psnr_db, gain_db in pairs]
    text = blindspot_pages.describe_collapses(Study(LEDGER, EXPERIMENTS, found))
    assert text.endswith(f"in dB: `{found[0].name}` +9.30; `{found[1].name}` +0.10.")
    assert not blindspot_pages.describe_collapses(Study(LEDGER, EXPERIMENTS, found[:1]))


def test_an_average_needs_both_sets(make):
    assert settled("002-t1-average-n2c", make("N2C", 32.0)).word == NOT_TESTABLE


def test_trends_need_every_pair_that_is_clearly_apart(make):
    printed = {"N2C": 32.19, "N2N": 32.16, "N2V": 31.03, "mean only": 30.0, "variable": 31.61, "known": 32.12}
    right = [make(variant, value - 2) for variant, value in printed.items()]
    verdict = settled("002-direction-trends-kodak", *right)
    assert verdict.word == DIRECTION, verdict.reason
    assert settled("002-direction-trends-kodak", *right[:-1]).word == NOT_TESTABLE
    swapped = make("known", 28.0, name="known-worse")
    assert settled("002-direction-trends-kodak", *right[:-1], swapped).word == NOT_REPRODUCED


def test_methods_trained_by_other_recipes_are_not_compared(make):
    one, other = make("known", 30.0, lr=1e-3), make("N2C", 30.5, lr=1e-4)
    assert settled("002-direction-matches-at-best-kodak", one, other).word == NOT_TESTABLE
    fair = make("N2C", 30.5, lr=1e-3, name="fair")
    assert settled("002-direction-matches-at-best-kodak", one, fair).word == DIRECTION
    above = make("known", 31.0, lr=1e-3, name="above")
    assert settled("002-direction-matches-at-best-kodak", above, fair).word == NOT_REPRODUCED


def test_faster_per_step_and_slower_per_hour(make, monkeypatch):
    ours = make("variable", 30.0, curve=[20.0, 25.0, 27.0])
    void = make("N2V", 29.0, curve=[19.0, 22.0, 24.0])
    step, hour = "002-direction-learns-faster-than-n2v", "002-direction-faster-in-real-time"
    assert settled(step, ours, void).word == DIRECTION
    monkeypatch.setattr(ssdn, "read_step_seconds", lambda *_: {"variable": 4.0, "N2V": 1.0})
    table = pd.read_csv(void.folder / "curve.csv")
    table.loc[len(table)] = [400.0, 300.0, 29.0]
    table.to_csv(void.folder / "curve.csv", index=False)
    vars(void).pop("curve", None)
    assert settled(step, ours, void).word == DIRECTION
    verdict = settled(hour, ours, void)
    assert verdict.word == NOT_REPRODUCED and "SSDN is behind throughout" in verdict.reason
    monkeypatch.setattr(ssdn, "read_step_seconds", lambda *_: {"variable": 0.9, "N2V": 1.0})
    assert settled(hour, ours, void).word == DIRECTION
    monkeypatch.setattr(ssdn, "read_step_seconds", lambda *_: {"variable": 1.3, "N2V": 1.0})
    verdict = settled(hour, ours, void)
    assert verdict.word == NOT_TESTABLE and "SSDN is ahead at first: two curves that meet" in verdict.reason
    monkeypatch.setattr(ssdn, "read_step_seconds", lambda *_: {})  # the benchmark was never run
    assert settled(hour, ours, void).word == NOT_TESTABLE


def test_what_is_read_off_curves_has_an_interval_over_trainings(make):
    ends = {"variable": (27.0, 26.0), "N2C": (26.6, 26.5), "N2V": (24.0, 24.2)}
    found = [
        make(variant, 29.0, seed=seed, curve=[20.0, end])
        for variant, two in ends.items()
        for seed, end in enumerate(two)
    ]
    once = [record for record in found if record["seed"] == 0]
    verdict = settled("002-direction-training-matches-n2c", *found)
    assert verdict.word == NOT_REPRODUCED and verdict.difference == pytest.approx(-0.05), (
        "seeds that cancel match nothing"
    )
    assert (verdict.low, verdict.high) == (pytest.approx(-0.6), pytest.approx(0.5))
    assert verdict.reason.endswith("Interval over the 4 trainings: [-0.60, +0.50] dB.")
    verdict = settled("002-direction-training-matches-n2c", *once)
    assert (verdict.low, verdict.high) == (None, None) and "Interval" not in verdict.reason
    close = [make("variable", 29.0, seed=seed, curve=[20.0, 26.5 + seed / 20], name="close") for seed in range(2)]
    assert settled("002-direction-training-matches-n2c", *close, *found[2:4]).word == DIRECTION
    verdict = settled("002-direction-learns-faster-than-n2v", *found)
    assert verdict.difference == pytest.approx((27 + 26 - 24 - 24.2) / 4), (
        "the mean lead at two steps of which one has 0"
    )
    assert (verdict.low, verdict.high) == (pytest.approx(0.9), pytest.approx(1.5))


def test_trainings_that_end_by_the_clock_have_ends_of_their_own(make):
    ours = [make("variable", 30.0, seed=seed, curve=[20.0, 25.0, 27.0]) for seed in range(2)]
    for record, last in zip(ours, (290, 310), strict=True):
        table = pd.read_csv(record.folder / "curve.csv")
        table.loc[2, "step"] = last
        table.to_csv(record.folder / "curve.csv", index=False)
    theirs = make("N2C", 30.0, curve=[20.0, 25.0, 27.0])
    verdict = settled("002-direction-training-matches-n2c", *ours, theirs)
    assert (verdict.word, verdict.difference) == (DIRECTION, 0)
    curve = ssdn._curve(Study(LEDGER, EXPERIMENTS, ours).groups[0])
    assert curve.index.tolist() == [100, 200, 290] and curve[290] == pytest.approx((27 + 25 + 2 * 90 / 110) / 2)


def test_a_benchmark_of_another_device_or_batch_times_no_training(make, monkeypatch):
    table = pd.DataFrame({"training": ["N2V", "SSDN, variable level", "SSDN, known level"], "step_s": [1.0, 3.0, 2.0]})
    about = {"device": "cpu x 2 threads", "batch": 4, "patch": 64}
    monkeypatch.setattr(timing, "load", lambda kind: [(about, table)])
    (group,) = Study(LEDGER, EXPERIMENTS, [make("variable", 30.0, batch=1, patch=128)]).groups
    vars(group.first)["content"]["device"] = "x, 2 cores"
    assert ssdn.read_step_seconds(group)["variable"] == 3.0 == ssdn.read_step_seconds()["variable"]
    vars(group.first)["content"]["device"] = "NVIDIA H200"
    assert ssdn.read_step_seconds(group) == {}
    (group,) = Study(LEDGER, EXPERIMENTS, [make("variable", 30.0, batch=16, patch=128, name="more")]).groups
    vars(group.first)["content"]["device"] = "x, 2 cores"
    assert ssdn.read_step_seconds(group) == {}


def test_curves_cross_between_the_validations_of_one():
    ours, other = pd.Series([20.0, 30.0], [10.0, 30.0]), pd.Series([19.0, 29.0], [10.0, 25.0])
    assert ssdn._lead_at_any_time((ours, other)).to_dict() == {10.0: 1.0, 25.0: -1.5}
    assert ssdn._lead_at_any_time((ours, other + 10)).index.tolist() == [10.0, 25.0]
    assert ssdn._lead_at_any_time((ours, pd.Series([29.0], [40.0]))) is None


def test_n2v_without_averaging_is_told_beside_the_fair_comparison(make):
    ours = make("variable", 30.0, curve=[20.0, 25.0, 27.0], ema_decay=0.999)
    fair = make("N2V", 29.0, curve=[21.0, 22.0, 24.0], ema_decay=0.999)
    plain = make("N2V without averaging", 29.0, curve=[19.0, 22.0, 24.0], method="unet", ema_decay=None)
    verdict = settled("002-direction-learns-faster-than-n2v", ours, fair, plain)
    assert verdict.word == NOT_REPRODUCED and verdict.evidence.startswith("variable-seed0 n2v-seed0 ")
    assert "Both averaged, SSDN is ahead at 2 of 3" in verdict.reason
    assert "without averaging it is ahead at 3 of 3" in verdict.reason


def test_a_value_whose_level_is_not_said_is_one_of_its_range(make):
    def between(low, high, name, budget="paper"):
        record = make("variable, 25 to 50", low, dataset="bsd300test", name=name, budget=budget)
        add_evaluation(record, "bsd300test-50", high + SPREAD, sigma_255=50.0)
        return settled("002-s4-bsd300-range", record)

    inside, outside = between(29.5, 26.0, "inside"), between(28.5, 26.0, "outside")
    assert (inside.word, outside.word) == (REPRODUCED, NOT_REPRODUCED)
    assert between(28.5, 26.0, "brief", "cpu").word == NOT_TESTABLE
    assert "29.50 dB at 25 and 26.00 dB at 50" in inside.reason


def test_ssdn_over_n2v(make):
    ours, void = make("variable", 30.0), make("N2V", 29.0)
    assert settled("002-direction-better-than-self-supervised-kodak", ours, void).word == DIRECTION
    below = make("variable", 28.0, name="below")
    assert settled("002-direction-better-than-self-supervised-kodak", below, void).word == NOT_REPRODUCED


@pytest.mark.parametrize(("end", "word"), [(20.0, DIRECTION), (26.5, NOT_REPRODUCED)])
def test_the_zeroed_layer(make, end, word):
    zeroed = make("variable", 30.0, curve=[20.0, 27.0])
    other = make("variable, last layer not zeroed", 30.0, curve=[19.0, end])
    assert settled("002-direction-zero-last-layer", zeroed, other).word == word


@pytest.mark.parametrize(
    ("claim_id", "plain", "loss_db", "word"),
    [
        ("002-direction-clipping-costs-known", "known", 0.1, DIRECTION),
        ("002-direction-clipping-costs-known", "known", -0.1, NOT_REPRODUCED),
        ("002-direction-clipping-defeats-estimation", "variable", ssdn.FAILED_DB + 0.1, DIRECTION),
        ("002-direction-clipping-defeats-estimation", "variable", ssdn.FAILED_DB - 0.1, NOT_REPRODUCED),  # no failure
    ],
)
def test_clipped_noise(make, claim_id, plain, loss_db, word):
    curve = [20.0, 25.0]
    ours = make(plain, 31.0, curve=curve)
    clipped = make(f"{plain}, clipped noise", 20.0, curve=curve, clip=True)
    assert settled(claim_id, ours, clipped).word == NOT_TESTABLE, "it was not tested with clipped noise"
    add_evaluation(clipped, "kodak24-25-clipped", 31.0 - loss_db + SPREAD, clip=True)
    verdict = settled(claim_id, ours, clipped)
    assert verdict.word == word and verdict.difference == pytest.approx(loss_db)
    other = add_evaluation(
        make(f"{plain}, clipped noise", 20.0, curve=curve, clip=True, lr=1e-3, name="other"),
        "kodak24-25-clipped", 20 + SPREAD, clip=True,
    )  # fmt: skip
    assert settled(claim_id, ours, other).word == NOT_TESTABLE, "more than clipping differs"


@pytest.mark.parametrize(("seconds", "word"), [(4.0, DIRECTION), (0.5, NOT_REPRODUCED)])
def test_time_per_step_is_that_of_the_benchmark(seconds, word, monkeypatch):
    table = pd.DataFrame({"training": ["N2V", "SSDN, variable level", "SSDN, known level"], "step_s": [1, seconds, 2]})
    monkeypatch.setattr(ssdn.timing, "load", lambda name: [({}, table)])
    verdict = settled("002-s5-time-factor")
    assert (verdict.word, verdict.ours) == (word, pytest.approx(seconds))
    assert verdict.command == "repro bench blindspot"
    monkeypatch.setattr(ssdn.timing, "load", lambda name: [])
    assert settled("002-s5-time-factor").word == NOT_TESTABLE


def test_claims_that_need_no_run():
    assert settled("002-s5-size-factor").word == NOT_REPRODUCED
    assert settled("002-s5-size-factor").ours == pytest.approx(1.151, abs=0.001)
    for name in ("002-s5-loss-to-original", "002-s5-tenth-of-training"):  # the document's own numbers: no measurement
        assert settled(name).word == NOT_TESTABLE and "agrees with itself" in settled(name).reason
    assert settled("002-s3-constant-parameters").word == REPRODUCED


def test_known_levels_in_the_sizes_are_those_of_the_noise():
    for experiment in EXPERIMENTS:
        if experiment.method in ("ssdn", "unet") and "level" in experiment.sizes:
            assert experiment.sizes["level"] == experiment.sigma_255, experiment.name


def test_methods_of_the_table_share_one_recipe():
    for budget, alone in (("cpu", {"loss"}), ("paper", {"loss", "ema_decay"})):  # the paper averages N2V's weights only
        rows = [e for e in EXPERIMENTS if e.variant in VARIANTS and e.name.startswith("ssdn-") and e.budget == budget]
        recipes = [{key: value for key, value in row.train.items() if key not in alone} for row in rows]
        assert len(recipes) == len(VARIANTS)
        assert all(recipe == recipes[0] for recipe in recipes)


def test_the_chapter_shows_every_cell_and_statement():
    study = Study(claims.find(LEDGER, source="002"), EXPERIMENTS, [])
    frame = pages.join_verdicts(study)
    table = blindspot_pages.describe_table(frame)
    assert [cell.count("ledger.html#") for cell in table.split("<td")].count(1) == len(TABLE)
    statements = blindspot_pages.describe_statements(frame)
    assert statements.count("\n- *") + statements.startswith("- *") == len(blindspot_pages.STATED)


def test_a_cell_has_both_values_and_says_of_how_many_trainings(make):
    runs = [make("N2C", mean, seed=seed) for seed, mean in enumerate((28.0, 29.0))]
    study = Study(claims.find(LEDGER, source="002"), EXPERIMENTS, runs)
    table = blindspot_pages.describe_table(pages.join_verdicts(study))
    row = next(row for row in table.split("<tr>") if ">N2C<" in row)
    assert "mean of 2 trainings" in row and "<b>28.50</b>, printed 32.19" in row
    assert "mean of" not in table.replace(row, "")


def test_claims_that_share_a_sentence_stand_in_one_item():
    rows = claims.find(LEDGER, source="002", variant="better than N2V")
    words = {"KODAK": DIRECTION, "BSD300": NOT_TESTABLE}
    rows = rows.assign(word=rows["dataset"].map(words), reason="For a <reason>.")
    told = pages.list_statements(rows, {"better than N2V": "It is better than {value}"})
    assert told.startswith("- *It is better than +1.* <span") and "\n" not in told
    assert "</span>. KODAK: For a &lt;reason&gt;. <span" in told and "</span>. BSD300: For" in told
    alone = pages.list_statements(rows[rows["word"] == NOT_TESTABLE], {"better than N2V": "It is"})
    assert alone == "What could not be tested:\n\n- *It is.* For a &lt;reason&gt;."
    with pytest.raises(KeyError):
        pages.list_statements(rows, {"another": "It is"})


def test_the_chapter_draws_what_is_there(make, tmp_path, monkeypatch):
    seeds = [make("N2C", 30.0, seed=seed, curve=[20.0, 25.0, 27.0 + seed]) for seed in range(2)]
    study = Study(LEDGER, EXPERIMENTS, seeds)
    drawn, draw = [], plots.draw_curves_twice
    monkeypatch.setattr(plots, "draw_curves_twice", lambda curves: drawn.append(draw(curves)) or drawn[-1])
    page = blindspot_pages.describe_curves(study, tmp_path)
    assert "27.50 dB" in page and "a line for each training" in page
    assert [len(axes.lines) for axes in drawn[0].axes] == [2, 2]
    assert [text.get_text() for text in drawn[0].legends[0].get_texts()] == ["N2C"], "once for both trainings"
    assert "Not trained yet: N2N" in page
    assert "needs a run of both" in page
    assert {path.name for path in tmp_path.glob("*.png")} == {"ssdn_curves.png"}
    assert "kodak24" in blindspot_pages.describe_conventions(study)
    empty = Study(LEDGER, EXPERIMENTS, [])
    assert blindspot_pages.describe_curves(empty, tmp_path) == blindspot_pages.NOT_YET


def test_the_race_is_for_the_psnr_that_both_reach(make, monkeypatch):
    ours, void = make("variable", 30.0, curve=[20.0, 26.0, 28.0]), make("N2V", 29.0, curve=[20.0, 22.0, 24.0])
    (race,) = ssdn.race(Study(LEDGER, EXPERIMENTS, [ours, void]))
    assert race.psnr_db == 24
    assert race.steps == pytest.approx((100 + 100 * 4 / 6, 300))
    monkeypatch.setattr(ssdn, "read_step_seconds", lambda *_: {"variable": 5.0, "N2V": 1.0})
    text = blindspot_pages.describe_speed(Study(LEDGER, EXPERIMENTS, [ours, void]))
    assert "In steps SSDN, variable level is 1.8 times as fast; a step takes 5.0 times as long" in text
    assert "in time it is 2.8 times as slow" in text


def test_the_constant_level_can_arrive_in_the_listed_steps():
    """What the row's comment says: Adam moves a number by at most its rate per step."""
    experiment = experiments.get("ssdn-constant")
    config = experiment.train_config(0)
    path = sum(learning_rate(config, step) for step in range(config.steps))
    assert path == pytest.approx(0.76, abs=0.005)
    for gain, arrives in ((1.0, False), (experiment.sizes["estimate_gain"], True)):
        net = repro.build("ssdn", **experiment.sizes | {"estimate_gain": gain, "width": 8})
        net.estimate.data -= path
        assert (255 * net(torch.rand(1, 3, 32, 32), prior=True).strength.item() < ssdn.SIGMA_255) == arrives


def test_a_step_is_described_where_it_was_measured(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "results", lambda: tmp_path)
    assert blindspot_pages.describe_step() == ""
    row = {"training": "N2V", "step_s": 0.25, "share_of_floor": 0.8, "n2v_ratio": 1.0}
    about = {"device": "cpu x", "batch": 4, "patch": 64}
    timing.store(pd.DataFrame([row]), about, "blindspot", None, 6, lambda _: None)
    assert "N2V 250 ms, 80% of the bare speed" in blindspot_pages.describe_step()


def test_a_curve_that_begins_above_the_level_is_there_at_once():
    assert ssdn._reach(pd.Series([24.0, 25.0], index=[100.0, 200.0]), 23.0) == 100
    assert ssdn._reach(pd.Series([20.0, 24.0, 23.0, 26.0], index=[1.0, 2.0, 3.0, 4.0]), 24.0) == 2


def add_evaluation(record, name, psnr_db, **settings):
    """One more evaluation, image by image, in a made-up record."""
    first = record["evaluations"][0]
    metrics = record.metrics[record.metrics["evaluation"] == first["name"]].assign(psnr_db=psnr_db, evaluation=name)
    metrics["psnr_rounded_db"] = metrics["psnr_db"] + 0.25
    if "images" in settings:
        metrics["image"] = settings.pop("images")
    record.content["evaluations"].append(first | {"name": name} | settings)
    vars(record)["metrics"] = pd.concat([record.metrics, metrics])
    return record


def test_conventions_are_compared_with_the_first_evaluation_of_the_same_images(make):
    record = make("N2C", 30.0, dataset="bsd300test", curve=[20.0, 27.0])
    record.metrics["psnr_rounded_db"] = record.metrics["psnr_db"] - 0.01
    add_evaluation(record, "bsd300test-25-clipped", 30.5 + SPREAD, clip=True)
    add_evaluation(record, "bsd300test-25-padded-clean-x3", 29.75 + SPREAD, pad="clean", repeats=3)
    add_evaluation(record, "bsd300test-50", 20 + SPREAD, sigma_255=50.0)
    study = Study(LEDGER, EXPERIMENTS, [record])
    shifts = {s.convention: s for s in ssdn.measure_conventions(study.groups[0], study)}
    assert shifts.pop("one draw, then padded, nothing rounded").shift is None
    means = {name: round(shift.shift.mean, 6) for name, shift in shifts.items()}
    assert means == {
        "result rounded to 8 bits": -0.01,
        "noise clipped": 0.5,
        "padded by reflection, then noise, 3 draws of the noise": -0.25,
    }
    assert all(round(s.shift.low, 6) == round(s.shift.high, 6) for s in shifts.values()), "paired: no spread"
    page = blindspot_pages.describe_conventions(study)
    towards = {name: round(shift.towards_report_db, 6) for name, shift in shifts.items()}
    assert list(towards.values()) == [0.01, 0.5, 0.25], "what the original does and the report does not counts reversed"
    assert "+0.10 dB from the authors' check value on BSD300 and -0.33 dB on Kodak" in page
    assert "noise clipped, +0.50 dB; padded by reflection, then noise, 3 draws of the noise by the original, +" in page
    assert "The first of these would do so by itself, since +0.10 dB are enough, and would explain all 0.43" in page


def test_another_choice_of_images_is_not_paired(make):
    record = make("N2C", 30.0, dataset="bsd300test")
    names = [f"image{k}" for k in range(24)]
    part = record.per_image("bsd300test-25")
    add_evaluation(record, "cbsd68-25", part.to_numpy(), dataset="cbsd68", images=[f"image{k % 12}" for k in range(24)])
    vars(record)["metrics"] = record.metrics.drop_duplicates(["evaluation", "image"])
    record["evaluations"][-1]["images"] = 12
    study = Study(LEDGER, EXPERIMENTS, [record])
    (shift,) = [s.shift for s in ssdn.measure_conventions(study.groups[0], study) if "CBSD68" in s.convention]
    assert len(names) == shift.count
    assert shift.mean == pytest.approx(part.iloc[:12].mean() - part.mean())
    assert shift.low < shift.mean < shift.high


def test_choices_of_images_by_hand():
    values = pd.Series([1.0, 2.0, 3.0, 6.0])
    everything, first_two = np.ones(4, bool), np.array([True, True, False, False])
    interval = ssdn.compare_choices(values, everything, first_two)
    assert interval.mean == pytest.approx(1.5)
    assert ssdn.compare_choices(values, everything, everything)[:3] == (0, 0, 0)


def test_all_300_images_are_measured_with_what_learns_nothing(make):
    training = [path for path in catalog.find("bsd400").files if path.startswith("train/")]
    assert len(training) == 200
    record = make("full", 26.0, method="wavelet", dataset="bsd300test", steps=0, name="filter")
    names = [path.removeprefix("train/").rsplit(".", 1)[0] for path in training[:23]]
    add_evaluation(record, "bsd400-25", 28.0 + 0 * SPREAD, dataset="bsd400", images=[*names, "not of BSD300"])
    (shift,) = ssdn._measure_all_300(Study(LEDGER, EXPERIMENTS, [record]))
    assert (shift.measured_with, shift.shift.count) == ("wavelet", 24 + 23)
    assert shift.shift.mean == pytest.approx((24 * 26 + 23 * 28) / 47 - 26)


def test_one_photograph_after_every_method_that_has_weights(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "results", lambda: tmp_path)
    torch.manual_seed(0)
    for name, sizes in (("ssdn-n2c", {}), ("ssdn-known", {"level": 25})):
        model = "unet" if name == "ssdn-n2c" else "ssdn"
        weights.save(repro.build(model, width=2, **sizes), tmp_path / "weights" / f"{name}-seed0.safetensors", {})
    monkeypatch.setattr(experiments, "load", lambda: EXPERIMENTS)
    figure, alt, missing = blindspot_pages.draw_photograph(box_px=(10, 20, 32, 48))
    titles = list(filter(None, (axes.get_title(loc="left") for axes in figure.axes)))
    assert titles == ["clean", "noisy, sigma 25", "N2C", "SSDN, known level"]
    assert "SSDN, variable level" in missing and "N2C" not in missing
    assert alt.count(" dB") == 3
    with pytest.raises(ReproError, match="has no photograph"):
        blindspot_pages.draw_photograph(photograph="nobody")
    with pytest.raises(ReproError, match="no part"):
        blindspot_pages.draw_photograph(box_px=(0, 0, 10_000, 8))
