"""The chapter on SADNet: its short runs beside their reference."""

import re

import numpy as np
import pandas as pd

from repro import front_page, pages, sadnet_pages
from repro.study import claims, experiments, records
from repro.study.verdicts import NOT_TESTABLE, Study, settle, settle_all

LEDGER, EXPERIMENTS = claims.load(), experiments.load()
SPREAD = np.linspace(-3, 3, 24)


def make(make_record, name, psnr_db, validation_db):
    experiment = experiments.get(name)
    told = ("batch", "lr", "clip", "precision")
    settings = {key: experiment.train[key] for key in told} | {"patch": 64, "loss": "l2"}
    settings |= {key: value for key, value in experiment.train.items() if key in settings}
    record = make_record(name, psnr_db + SPREAD, steps=experiment.train["steps"], sizes=experiment.sizes, **settings)
    curve = pd.DataFrame({"step": [1, 2], "seconds": [1.0, 2.0], "psnr_db": [20.0, validation_db]})
    curve.to_csv(record.folder / "curve.csv", index=False)
    return record


def test_the_recipe_is_chosen_by_validation_and_not_by_the_test_set(make_record):
    records = [
        make(make_record, "ablation-full", 28.0, 27.0),
        make(make_record, "recipe-rate-1e-3", 27.9, 27.5),
        make(make_record, "recipe-batch-16", 28.4, 26.5),
        make(make_record, "noise-clipped", 30.0, 30.0),
        make(make_record, "recipe-bf16", 28.0, 27.0),
    ]
    text = sadnet_pages.describe_recipes(Study(LEDGER, EXPERIMENTS, records))
    assert "`recipe-rate-1e-3` does best, by 0.50 dB over the reference" in text
    assert "-0.10 (-0.10 to -0.10)" in text and "+0.40 (+0.40 to +0.40)" in text
    assert "1,250 steps of 16 patches of 64², rate 0.0006, L2" in text
    assert "L2, noise clipped" in text and text.count("L2, bf16<") == 1
    waiting = text.partition("Still to be run: ")[2]
    assert "`recipe-loss-l1`" in waiting and "`recipe-patch-96`" in waiting and "`recipe-batch-16`" not in waiting


def test_parts_are_runs_of_other_networks(make_record):
    records = [make(make_record, "ablation-full", 28.0, 27.0), make(make_record, "ablation-none", 27.5, 26.0)]
    text = sadnet_pages.describe_parts(Study(LEDGER, EXPERIMENTS, records))
    assert "-0.50 (-0.50 to -0.50)" in text
    waiting = text.partition("Still to be run: ")[2]
    assert all(f"`{name}`" in waiting for name in ("ablation-rsab", "initialisation-zero-offsets", "dilations-1248"))
    assert "recipe-" not in text


def test_the_ablation_study_stands_beside_the_printed_one(make_record, tmp_path):
    found = []
    for name, psnr_db in (("none", 27.0), ("rsab", 27.3), ("rsab-transfer", 27.25), ("full", 27.5)):
        made = make(make_record, f"ablation-{name}", psnr_db, 27.0)
        content = made.content | {"variant": experiments.get(f"ablation-{name}").variant}
        records.write(content, made.folder)
        found.append(records.read(made.folder))
    study = Study(LEDGER, EXPERIMENTS, found)
    settled = LEDGER.join(settle_all(study).drop(columns="id"))
    text = sadnet_pages.describe_ablation(settled, study, tmp_path)
    assert (tmp_path / "sadnet_ablation.png").stat().st_size > 1000
    assert "RSAB +0.30 dB, printed +0.50; RSAB and offset transfer +0.25 dB, printed +0.54" in text
    rows = [
        re.findall(r"<td[^>]*>(.*?)</td>", row) for row in re.findall(r"<tr><td.*?</tr>", text.replace("\xa0", " "))
    ]
    assert [row[:4] for row in rows] == [
        ["RSAB", "none of them", "+0.50", "+0.30 [+0.30, +0.30]"],
        ["RSAB", "context block", "+0.48", "–"],
        ["context block", "none of them", "+0.07", "–"],
        ["context block", "RSAB", "+0.05", "–"],
        ["context block", "RSAB and offset transfer", "+0.05", "+0.25 [+0.25, +0.25]"],
        ["offset transfer", "RSAB", "+0.04", "-0.05 [-0.05, -0.05]"],
        ["offset transfer", "RSAB and context block", "+0.04", "–"],
        ["all three", "none of them", "+0.59", "+0.50 [+0.50, +0.50]"],
    ]
    assert "not reproduced" in rows[5][4] and "direction reproduced" in rows[4][4]
    assert "Not measured yet" in sadnet_pages.describe_ablation(settled, Study(LEDGER, [], []), tmp_path)


def drift(make_record, name, offsets, psnr_db, **settings):
    record = make_record(name, 28.0 + SPREAD, **{"steps": 3, "patch": 64, "batch": 8, "precision": "32"} | settings)
    curve = {"step": [1, 2, 3], "psnr_db": psnr_db, "offset_decode1": offsets, "offset_decode2": [0.2, 0.3, 0.25]}
    pd.DataFrame(curve).to_csv(record.folder / "curve.csv", index=False)
    return record


def test_sampling_points_that_ran_away_are_told_from_the_others(make_record):
    calm = drift(make_record, "ablation-full", [0.4, 0.61, 0.5], [24.0, 25.0, 26.0], lr=5e-4, clip=False, loss="l2")
    far = drift(make_record, "recipe-rate-2e-3", [0.5, 64.5, 12.0], [24.0, 23.0, 23.5], lr=2e-3, clip=False, loss="l2")
    edge = drift(make_record, "recipe-rate-1e-3", [0.5, 64.0, 0.5], [24.0, 23.0, 23.5], lr=1e-3, clip=False, loss="l2")
    text = sadnet_pages.describe_runaways(Study(LEDGER, EXPERIMENTS, [calm, far]))
    assert "rate 0.002, L2: 64 positions after step 2, 12 at the end." in text
    assert "had reached 24.00 dB before, and ended at 23.50" in text and "other seeds" not in text
    within = "the mean offset of every scale stays below {} of its positions throughout"
    assert text.endswith(f"In the other 1 run of SADNet {within.format('0.7')}.")
    text = sadnet_pages.describe_runaways(Study(LEDGER, EXPERIMENTS, [calm, edge]))
    assert text == f"In 2 runs of SADNet {within.format('64')}: no sampling points ran away."


def test_a_seed_whose_sampling_points_ran_away_stands_beside_the_others(make_record):
    settings = {"lr": 1e-3, "clip": False, "loss": "l2"}
    calm = drift(make_record, "long", [0.4, 0.6, 0.5], [24.0, 25.0, 26.0], **settings)
    far = drift(make_record, "long", [0.5, 64.5, 70.0], [24.0, 23.0, 23.5], seed=1, **settings)
    study = Study(LEDGER, EXPERIMENTS, [calm, far])
    text = sadnet_pages.describe_runaways(study)
    assert "`long` seed 1" in text and "64 positions after step 2, 70 after step 3, 70 at the end" in text
    assert "On `kodak24-50` it has 28.00 dB, where other seeds have 28.00." in text
    settled = LEDGER.assign(evidence="", word=NOT_TESTABLE)
    assert front_page.describe_failures(settled, study, "SADNet") == "", "no claim of the first page rests on it"
    settled.loc["001-t3-kodak24-50-sadnet", "evidence"] = "long-seed0 long-seed1"
    told = front_page.describe_failures(settled, study, "SADNet")
    assert told == "In 1 of the 2 trainings of `long` sampling points ran away: 28.00 dB, where the other has 28.00."
    assert not front_page.describe_failures(settled, Study(LEDGER, EXPERIMENTS, [far]), "SADNet")


def test_a_verdict_says_that_the_sampling_points_of_its_network_ran_away(make_record):
    claim = LEDGER.loc["001-t3-kodak24-50-sadnet"]
    for largest, told in ((64.5, True), (63.0, False)):
        record = drift(
            make_record, f"run{largest}", [0.5, largest, 12.0], [24.0, 23.0, 23.5], lr=2e-3, clip=False, loss="l2"
        )
        verdict = settle(claim, Study(LEDGER, EXPERIMENTS, [record]))
        assert verdict.evidence == f"run{largest}-seed0" and record.ran_away == told
        assert verdict.reason.endswith(f"In the training of run{largest}-seed0 sampling points ran away.") == told


def test_a_network_at_a_foreign_level_stands_beside_one_trained_for_it(make_record):
    far = make_record("sadnet-colour-50", 28.0 + SPREAD, sigma_255=30)
    far.content["sigma_255"] = 50
    near = make_record("sadnet-colour-30", 31.0 + SPREAD, sigma_255=30)
    text = sadnet_pages.describe_other_levels(Study(LEDGER, EXPERIMENTS, [far, near]))
    assert "trained for 50, has 28.00 dB" in text and "trained for 30, 31.00" in text
    assert text.endswith("a difference of -3.00 [-3.00, -3.00] dB.")
    assert sadnet_pages.describe_other_levels(Study(LEDGER, EXPERIMENTS, [near])) == ""


def test_without_records_it_says_what_is_to_be_run():
    assert "`ablation-full`" in sadnet_pages.describe_recipes(Study(LEDGER, EXPERIMENTS, []))


def test_the_reference_alone_settles_nothing(make_record):
    text = sadnet_pages.describe_recipes(Study(LEDGER, EXPERIMENTS, [make(make_record, "ablation-full", 28.0, 27.0)]))
    assert "does best" not in text and "28.00" in text


def test_value_and_difference_are_of_one_evaluation(make_record):
    """The run with clipped noise is measured on clipped noise first: that is not what the reference is measured on."""
    reference, clipped = make(make_record, "ablation-full", 28.0, 27.0), make(make_record, "noise-clipped", 26.0, 27.0)
    first = clipped["evaluations"][0] | {"name": "kodak24-50-clipped-rounded", "clip": True, "psnr_db": 29.5}
    clipped["evaluations"].insert(0, first)
    text = sadnet_pages.describe_recipes(Study(LEDGER, EXPERIMENTS, [reference, clipped]))
    assert "26.00" in text and "-2.00 (-2.00 to -2.00)" in text and "29.50" not in text


def test_the_headline_names_the_methods_that_are_ahead_and_no_state_of_the_ablation_study(make_record):
    ours = make_record("ours", 29.0 + SPREAD)
    others = [make_record(name, 29.1 + SPREAD, method=name, steps=0, dataset="kodak24") for name in ("dncnn", "ffdnet")]
    states = [make_record(f"s-{name}", 29.0 + SPREAD, variant=name) for name in ("none", "context")]
    study = Study(LEDGER, EXPERIMENTS, [ours, *others, *states])
    headline = pages.describe_headline(LEDGER.join(settle_all(study).drop(columns="id")), study)
    assert headline.count("29.00 dB") == 1 and "at the cpu budget **29.00 dB**, 0.64 dB below the printed" in headline
    assert "ahead of DnCNN and FFDNet, too; ours is not (-0.10 dB and -0.10 dB, image by image)" in headline
    assert pages._enumerate(["a", "b", "c"]) == "a, b and c" and pages._enumerate(["a"]) == "a"


def test_the_headline_tells_what_is_behind_from_what_cannot_be_told(make_record):
    ours = make_record("ours", 29.0 + SPREAD)
    level = make_record("level", 29.01 + SPREAD + np.tile([0.5, -0.5], 12), method="dncnn", steps=0)
    ahead = make_record("ahead", 29.1 + SPREAD, method="ffdnet", steps=0)
    study = Study(LEDGER, EXPERIMENTS, [ours, level, ahead])
    headline = pages.describe_headline(LEDGER.join(settle_all(study).drop(columns="id")), study)
    assert "ahead of FFDNet, too; ours is not (-0.10 dB, image by image)" in headline
    assert "ahead of DnCNN, too; of ours that cannot be told (-0.01 dB, image by image)" in headline


def test_what_ours_has_seen_is_told_in_pixels_of_what_is_published(make_record):
    record = make(make_record, "sadnet-colour-50", 29.0, 27.0)
    record["data"].append({"name": "bsd400", "images": 400, "sha256": ""})
    told = pages.describe_shortfall(
        Study(LEDGER, EXPERIMENTS, [record]), "Why?", "sadnet-colour-50*", "sadnet-colour-50-paper", "The paper's"
    )
    assert told.startswith("**Why?** `sadnet-colour-50` saw 10,000 steps of 8 patches of 64², cut from 392 photographs")
    assert told.endswith("The paper's training has 960,000 steps of 16 patches of 128²: 768 times as many pixels.")
    none = Study(LEDGER, EXPERIMENTS, [])
    assert "No network" in pages.describe_shortfall(none, "", "*", "sadnet-colour-50-paper", "The paper's")


def test_threads_and_precision_are_told_where_they_differ(make_record):
    one, two = make(make_record, "ablation-full", 28.0, 27.0), make(make_record, "recipe-rate-1e-3", 27.9, 27.5)
    two.content["threads"] = 2
    text = sadnet_pages.describe_recipes(Study(LEDGER, EXPERIMENTS, [one, two]))
    assert text.count("on 2 threads") == 1


def test_values_in_colour_and_in_gray_stand_beside_what_is_printed(make_record):
    gray = make_record("sadnet-gray-50", 27.3 + SPREAD, colour="gray")
    study = Study(LEDGER, EXPERIMENTS, [gray])
    colour, table = pages.describe_result(pages.join_verdicts(study), study).split("<table")[1:]
    assert "Mean PSNR in dB, colour" in colour and ">29.64</td>" in colour and ">29.86</td>" in colour
    assert "Mean PSNR in dB, gray" in table and "replication" not in table
    (row,) = (row for row in table.split("<tr>") if "Kodak24, sigma 50" in row)
    assert ">27.96</td>" in row and ">27.30</td>" in row


def test_runs_that_settle_nothing_are_told_beside_the_one_that_does(make_record):
    recipe = {"batch": 8, "patch": 64, "lr": 1e-3, "loss": "l2", "clip": False, "precision": "32"}
    wobble = 0.01 * (-1.0) ** np.arange(24)
    long = make_record("sadnet-colour-50-long", 29.2 + SPREAD + wobble, steps=20_000, **recipe)
    brief = make_record("sadnet-colour-50", 28.9 + SPREAD, steps=10_000, **recipe)
    dncnn = make_record("dncnn-colour-50", 29.16 + SPREAD, method="dncnn", steps=0)
    study = Study(LEDGER, EXPERIMENTS, [long, brief, dncnn])
    text = sadnet_pages.describe_other_runs(pages.join_verdicts(study), study)
    assert text.startswith("The verdicts in colour at sigma 50 are those of `sadnet-colour-50-long`.")
    assert "`sadnet-colour-50` (10,000 steps" in text and "-0.26 [-0.26, -0.26] dB against DnCNN." in text
    alone = Study(LEDGER, EXPERIMENTS, [long, dncnn])
    assert sadnet_pages.describe_other_runs(pages.join_verdicts(alone), alone) == ""


def test_what_a_seed_changes_is_told_of_every_network_that_has_several(make_record):
    seeds = [make_record("twice", 28 + 0.214 * seed + SPREAD, seed=seed) for seed in range(3)]
    text = pages.describe_seeds(Study(LEDGER, EXPERIMENTS, [make_record("once", 28 + SPREAD), *seeds]))
    (row,) = re.findall(r"<tr><td.*?</tr>", text)
    assert re.findall(r">([^<]+)<", row) == ["twice", "kodak24-50", "28.00, 28.21, 28.43", "0.43", "1"]
    assert "more than once yet" in pages.describe_seeds(Study(LEDGER, EXPERIMENTS, seeds[:1]))
