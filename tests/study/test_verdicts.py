import numpy as np
import pandas as pd
import pytest
import typer

from repro import cli, files, offsets, pages
from repro.errors import ReproError
from repro.study import claims, experiments, records, verdicts
from repro.study.verdicts import DIRECTION, HINT, NOT_REPRODUCED, NOT_TESTABLE, REPRODUCED, WORDS, Group, Study, settle

LEDGER, EXPERIMENTS = claims.load(), experiments.load()
PRINTED = 29.64  # SADNet, Kodak24, sigma 50
CLASSICAL = 28.63  # CBM3D there
SPREAD = np.linspace(-3, 3, 24)  # between images
RIDNET = float(LEDGER.loc["001-t3-kodak24-50-ridnet", "value"])


def settled(claim_id, *found):
    return settle(LEDGER.loc[claim_id], Study(LEDGER, EXPERIMENTS, list(found)))


@pytest.mark.parametrize(
    ("budget", "steps", "offset_db", "word"),
    [
        ("paper", 960_000, 0.05, REPRODUCED),
        ("paper", 960_000, -0.05, REPRODUCED),
        ("paper", 960_000, -0.051, NOT_REPRODUCED),  # a direction is for smaller budgets
        ("cpu", 0, -0.05, REPRODUCED),  # published weights: nothing was trained
        ("cpu", 10_000, 0.0, DIRECTION),  # however close: a smaller budget speaks of the direction only
        ("cpu", 10_000, CLASSICAL - PRINTED + 0.11, DIRECTION),
        ("cpu", 10_000, CLASSICAL - PRINTED + 0.09, NOT_REPRODUCED),  # within the tolerance of CBM3D
        ("cpu", 10_000, -3.0, NOT_REPRODUCED),
    ],
)
def test_a_value_at_the_edges_of_its_tolerance(make_record, budget, steps, offset_db, word):
    record = make_record("x", PRINTED + offset_db + SPREAD, budget=budget, steps=steps)
    verdict = settled("001-t3-kodak24-50-sadnet", record)
    assert verdict.word == word, verdict.reason
    assert verdict.difference == pytest.approx(offset_db)
    assert verdict.evidence == "x-seed0"
    if steps and budget != "paper":
        assert "cpu budget" in verdict.reason


def test_direction_is_decided_image_by_image_where_it_can_be(make_record):
    ours = make_record("ours", CLASSICAL + 0.05 + SPREAD)
    classical = make_record("classical", CLASSICAL + SPREAD, method="bm3d", steps=0)
    assert settled("001-t3-kodak24-50-sadnet", ours).word == NOT_REPRODUCED
    assert settled("001-t3-kodak24-50-sadnet", ours, classical).word == DIRECTION


@pytest.mark.parametrize(("gain", "word"), [(0.02, DIRECTION), (-0.02, NOT_REPRODUCED), (0.0, NOT_REPRODUCED)])
def test_an_ordering_needs_an_interval_that_excludes_zero(make_record, gain, word):
    wobble = 0.01 * (-1.0) ** np.arange(24)
    ours = make_record("ours", RIDNET + SPREAD + gain + wobble)
    other = make_record("other", RIDNET + SPREAD, method="ridnet", steps=0)
    verdict = settled("001-order-kodak24-50-over-ridnet", ours, other)
    assert verdict.word == word, verdict.reason
    assert verdict.low <= verdict.difference <= verdict.high


def test_a_mean_over_seeds_says_over_how_many(make_record):
    records = [make_record("sadnet-colour-50", 29.0 + 0.1 * seed + SPREAD, seed=seed) for seed in range(3)]
    verdict = settled("001-t3-kodak24-50-sadnet", *records)
    assert "29.10 dB as the mean of 3 trainings, 0.54 dB below" in verdict.reason
    assert "mean of" not in settled("001-t3-kodak24-50-sadnet", records[0]).reason


def test_seeds_of_two_recipes_are_refused(make_record):
    records = [make_record("sadnet-colour-50", 29.0 + SPREAD, seed=seed, lr=(seed + 1) * 1e-4) for seed in range(2)]
    with pytest.raises(ReproError, match="sadnet-colour-50-seed1 differ in lr"):
        settled("001-t3-kodak24-50-sadnet", *records)


def test_an_ordering_that_another_seed_may_undo_is_a_hint(make_record):
    other = make_record("other", RIDNET + SPREAD, method="ridnet", steps=0)
    ours = make_record("ours", RIDNET + 0.05 + SPREAD)
    verdict = settled("001-order-kodak24-50-over-ridnet", ours, other)
    assert verdict.word == DIRECTION and verdict.reason.endswith(f" {HINT}")
    again = [make_record("ours", RIDNET + 0.05 + SPREAD, seed=seed) for seed in range(1, 5)]
    few = settled("001-order-kodak24-50-over-ridnet", ours, *again[:2], other)
    assert few.reason.endswith(f"by a network that was trained 3 times: {HINT}"), (
        "three seeds do not say how they scatter"
    )
    assert HINT not in settled("001-order-kodak24-50-over-ridnet", ours, *again, other).reason
    ahead = make_record("ahead", RIDNET + 0.2 + SPREAD)
    assert HINT not in settled("001-order-kodak24-50-over-ridnet", ahead, other).reason
    behind = settled("001-order-kodak24-50-over-ridnet", make_record("behind", RIDNET - 0.05 + SPREAD), other)
    assert behind.word == NOT_REPRODUCED and behind.reason.endswith(f" {HINT}")
    level = make_record("level", RIDNET + SPREAD + 0.05 * (-1.0) ** np.arange(24))
    assert HINT not in settled("001-order-kodak24-50-over-ridnet", level, other).reason, "of chance nothing is hinted"


def test_what_a_seed_was_seen_to_change_is_a_hint(make_record):
    other = make_record("other", RIDNET + SPREAD, method="ridnet", steps=0)
    ours = make_record("ours", RIDNET + 0.3 + SPREAD)
    seeds = [make_record("twice", RIDNET + 1 + 0.35 * seed + SPREAD, seed=seed, sigma_255=15.0) for seed in range(2)]
    claim = "001-order-kodak24-50-over-ridnet"
    assert HINT not in settled(claim, ours, other).reason
    verdict = settled(claim, ours, other, *seeds)
    assert verdict.word == DIRECTION
    assert verdict.reason.endswith(
        f"the 0.35 dB between trainings of twice on kodak24-15, by a network that was trained once: {HINT}"
    )
    ahead = make_record("ahead", RIDNET + 0.4 + SPREAD)
    assert HINT not in settled(claim, ahead, other, *seeds).reason
    others = [
        make_record("other-twice", 28 + 0.35 * seed + SPREAD, seed=seed, method="unet", sigma_255=15.0)
        for seed in range(2)
    ]
    assert HINT not in settled(claim, ours, other, *others).reason, "of another method"


def test_a_training_that_failed_is_a_spread_of_its_own_network_alone(make_record):
    other = make_record("other", RIDNET + SPREAD, method="ridnet", steps=0)
    ours = [make_record("ours", RIDNET + 0.3 + SPREAD, seed=seed) for seed in range(2)]
    learned, failed = (make_record("elsewhere", 30 - 9 * seed + SPREAD, seed=seed, sigma_255=15.0) for seed in range(2))
    table = pd.read_csv(failed.folder / "metrics.csv")
    table.assign(sigma_255=15.0, psnr_noisy_db=table["psnr_db"]).to_csv(failed.folder / "metrics.csv", index=False)
    failed = records.read(failed.folder)
    assert failed.gives_back_noise and not learned.gives_back_noise
    claim = "001-order-kodak24-50-over-ridnet"
    assert HINT not in settled(claim, *ours, other, learned, failed).reason
    study = Study(LEDGER, EXPERIMENTS, [*ours, other, learned, failed])
    assert study.seed_spread == {"sadnet": (0.0, "ours on kodak24-50")}
    assert Group((learned, failed)).spread == (pytest.approx(9.0), "elsewhere on kodak24-15")


def test_a_lead_over_weights_that_miss_their_printed_value_must_be_larger_than_that(make_record):
    short = make_record("short", RIDNET - 0.2 + SPREAD, method="ridnet", steps=0)
    ahead, hardly = make_record("ahead", RIDNET + 0.1 + SPREAD), make_record("hardly", RIDNET - 0.05 + SPREAD)
    assert settled("001-order-kodak24-50-over-ridnet", ahead, short).word == DIRECTION
    verdict = settled("001-order-kodak24-50-over-ridnet", hardly, short)
    assert verdict.word == NOT_TESTABLE and "is itself 0.20 dB below its printed" in verdict.reason
    behind = make_record("behind", RIDNET - 0.3 + SPREAD)
    assert settled("001-order-kodak24-50-over-ridnet", behind, short).word == NOT_REPRODUCED


def test_an_ordering_waits_for_nothing_where_the_other_side_has_no_weights(make_record):
    for name, why in (("memnet", "MemNet cannot be scored here"), ("rnan", "holds no weights")):
        for found in ((), (make_record(f"ours-{name}", 29 + SPREAD),)):
            verdict = settled(f"001-order-kodak24-50-over-{name}", *found)
            assert verdict.word == NOT_TESTABLE and not verdict.waits_for and why in verdict.reason
    assert "none for 70" in settled("001-order-kodak24-70-over-dncnn").reason
    assert settled("001-order-kodak24-30-over-dncnn").waits_for, "its blind network is for that level, too"


def test_a_mean_over_seeds_is_redone_by_training_them(make_record, tmp_path, monkeypatch):
    (tmp_path / "weights").mkdir()
    for seed in (0, 1):
        (tmp_path / "weights" / f"x-seed{seed}.safetensors").touch()
    monkeypatch.setattr(files, "results", lambda: tmp_path)
    first, second = (make_record("x", PRINTED + SPREAD, seed=seed) for seed in (0, 1))
    assert Group((first,)).command("kodak24-50").startswith("repro evaluate --model x-seed0")
    assert Group((first, second)).command("kodak24-50") == "repro campaign --only x"


def test_a_measure_without_a_tolerance_is_shown_and_not_judged(make_record):
    ours = make_record("ours", 38 + SPREAD, dataset="nam25", sigma_255=None, pairs="polyu", ssim=0.97)
    verdict = settled("001-t6-nam-sadnet-ssim", ours)
    assert verdict.word == NOT_TESTABLE and verdict.ours == pytest.approx(0.97)
    assert not settled("001-t6-nam-sadnet-ssim").waits_for


def test_an_ordering_at_the_papers_budget_is_reproduced(make_record):
    ours = make_record("ours", RIDNET + 0.1 + SPREAD, budget="paper")
    other = make_record("other", RIDNET + SPREAD, method="ridnet", steps=0)
    assert settled("001-order-kodak24-50-over-ridnet", ours, other).word == REPRODUCED


def put_first(record, psnr_db):
    """The record with another principal evaluation, on noise that is clipped and rounded."""
    (about,) = record["evaluations"]
    name = f"{about['name']}-clipped-rounded"
    table = record.metrics.assign(evaluation=name, psnr_db=psnr_db)
    first = about | {"name": name, "clip": True, "round_8bit": True, "psnr_db": float(np.mean(psnr_db))}
    records.write(record.content | {"evaluations": [first, about]}, record.folder)
    pd.concat([table, record.metrics]).to_csv(record.folder / "metrics.csv", index=False)
    return records.read(record.folder)


def test_an_ordering_is_on_the_first_noise_that_both_were_tested_on(make_record):
    """The rows of the paper's budget are tested first as its authors test."""
    brief = make_record("brief", RIDNET - 0.2 + SPREAD)
    long = put_first(make_record("long", RIDNET + 0.1 + SPREAD, budget="paper"), RIDNET - 2 + SPREAD)
    plain = make_record("plain", RIDNET + SPREAD, method="ridnet", steps=0)
    verdict = settled("001-order-kodak24-50-over-ridnet", brief, long, plain)
    assert (verdict.word, verdict.evidence) == (REPRODUCED, "long-seed0 plain-seed0")
    both = put_first(make_record("both", RIDNET + SPREAD, method="ridnet", steps=0), RIDNET - 1.5 + SPREAD)
    verdict = settled("001-order-kodak24-50-over-ridnet", brief, long, plain, both)
    assert (verdict.word, verdict.evidence) == (NOT_REPRODUCED, "long-seed0 both-seed0")


def test_a_state_of_the_ablation_is_held_to_its_own_side(make_record):
    none, full = "001-t1-kodak24-50-none", "001-t1-kodak24-50-full"  # printed 29.05 and 29.64 dB
    below, above = make_record("below", 28.5 + SPREAD, variant="none"), make_record("above", 28.9 + SPREAD)
    assert settled(none, below, above).word == settled(full, below, above).word == DIRECTION
    better, worse = make_record("better", 28.9 + SPREAD, variant="none"), make_record("worse", 28.5 + SPREAD)
    assert settled(none, better, worse).word == settled(full, better, worse).word == NOT_REPRODUCED


def test_ablation_states_are_compared_by_the_same_recipe_only(make_record):
    full = make_record("full", 29.2 + SPREAD, steps=10_000)
    short = make_record("short", 29.0 + SPREAD, variant="none", steps=2_500)
    claim = "001-order-ablation-full-over-none"
    assert settled(claim, full, short).word == NOT_TESTABLE
    fair = make_record("fair", 29.1 + SPREAD, steps=2_500)
    verdict = settled(claim, full, short, fair)
    assert verdict.word == DIRECTION
    assert verdict.evidence == "fair-seed0 short-seed0"


def test_what_a_record_is_too_old_to_say_had_its_default(make_record):
    old = make_record("old", 29.0 + SPREAD, variant="none")
    same = make_record("same", 29.2 + SPREAD, pairs=None, pairs_share=0.5, betas=[0.9, 0.99])
    other = make_record("other", 29.2 + SPREAD, pairs="polyu", pairs_share=0.5)
    claim = "001-order-ablation-full-over-none"
    assert settled(claim, old, same).word == DIRECTION
    assert settled(claim, old, other).word == NOT_TESTABLE


REAL = {"dataset": "nam25", "sigma_255": None}


@pytest.mark.parametrize(("offset_db", "word"), [(0.11, DIRECTION), (0.09, NOT_REPRODUCED)])
def test_a_network_for_real_noise_speaks_of_the_direction_and_of_its_training_set(make_record, offset_db, word):
    cbm3d = LEDGER.loc["001-t6-nam-cbm3d-psnr", "number"]
    ours = make_record("ours", cbm3d + offset_db + SPREAD, **REAL, pairs="polyu")
    verdict = settled("001-t6-nam-sadnet-psnr", ours)
    assert verdict.word == word, verdict.reason
    assert "trained on pairs of polyu, not on SIDD and RENOIR" in verdict.reason


def test_orderings_on_real_noise_are_by_the_measure_they_name(make_record):
    ours = make_record("ours", 38 + SPREAD, **REAL, pairs="polyu", ssim=0.97)
    other = make_record("other", 39 + SPREAD, **REAL, method="pd", steps=0, ssim=0.96)
    verdict = settled("001-order-nam-ssim-over-pd", ours, other)
    assert verdict.word == DIRECTION and "+0.0100" in verdict.reason and "Trained on pairs of polyu" in verdict.reason
    verdict = settled("001-s43-nam-gain-over-pd", ours, other)
    assert verdict.word == NOT_REPRODUCED and verdict.difference == pytest.approx(-1)
    better = make_record("better", 39.5 + SPREAD, **REAL, pairs="polyu", budget="paper")
    verdict = settled("001-s43-nam-gain-over-pd", better, other)
    assert verdict.word == NOT_TESTABLE and "is itself 2.09 dB below its printed 41.09 dB" in verdict.reason
    as_printed = make_record("as-printed", 41.09 + SPREAD, **REAL, method="pd", steps=0)
    better = make_record("best", 41.5 + SPREAD, **REAL, pairs="polyu", budget="paper")
    assert settled("001-s43-nam-gain-over-pd", better, as_printed).word == DIRECTION  # its gain is another
    assert settled("001-order-nam-ssim-over-ridnet", ours, other).word == NOT_TESTABLE
    assert settled("001-t5-sidd-validation-sadnet", ours).word == NOT_TESTABLE


def test_a_lead_over_a_network_that_makes_photographs_worse_is_none(make_record):
    better = make_record("better", 41.5 + SPREAD, **REAL, pairs="polyu", ssim=0.97)
    worse = make_record("worse", 41.09 + SPREAD, **REAL, method="pd", steps=0, ssim=0.96)
    metrics = worse.metrics.assign(psnr_noisy_db=worse.metrics["psnr_db"] + 0.1)
    vars(worse)["metrics"] = metrics
    for claim in ("001-s43-nam-gain-over-pd", "001-order-nam-ssim-over-pd"):
        verdict = settled(claim, better, worse)
        assert verdict.word == NOT_TESTABLE and "against no denoising at all" in verdict.reason


def test_a_gain_that_grows_by_what_the_other_loses_is_not_counted(make_record):
    """CBM3D at hand loses 0.2 dB from sigma 30 to 70 against what is printed of it, FFDNet nothing."""
    runs = []
    for sigma, gain_db, short_db in ((30, 0.5, 0.0), (70, 0.55, 0.2)):
        at = {"sigma_255": float(sigma), "dataset": "kodak24"}
        printed = {name: LEDGER.loc[f"001-t3-kodak24-{sigma}-{name}", "number"] for name in ("cbm3d", "ffdnet")}
        runs.append(make_record(f"a-{sigma}", printed["cbm3d"] - short_db + SPREAD, method="bm3d", steps=0, **at))
        runs.append(make_record(f"b-{sigma}", printed["ffdnet"] + SPREAD, method="ffdnet", steps=0, **at))
        runs.append(make_record(f"ours-{sigma}", printed["ffdnet"] + gain_db + SPREAD, **at))
    verdict = settled("001-direction-kodak24-gain-grows-with-noise", *runs)
    assert verdict.difference == pytest.approx(0.05) and "The gain grows over FFDNet by +0.05" in verdict.reason
    assert "not counted: over CBM3D" in verdict.reason and "0.20 dB that the CBM3D at hand loses" in verdict.reason


def test_a_gain_grows_where_it_does_so_over_all_that_were_measured(make_record):
    """Of two growths the larger one is that of a wide interval."""
    runs, wide = [], np.where(np.arange(24) % 2, 0.9, -0.9)
    for sigma, over_cbm3d, over_ffdnet in ((30, 0.5, 0.5), (70, 0.7 + wide, 0.6)):
        at = {"sigma_255": float(sigma), "dataset": "kodak24"}
        runs.append(make_record(f"ours-{sigma}", 30 + SPREAD, **at))
        runs.append(make_record(f"a-{sigma}", 30 - over_cbm3d + SPREAD, method="bm3d", steps=0, **at))
        runs.append(make_record(f"b-{sigma}", 30 - over_ffdnet + SPREAD, method="ffdnet", steps=0, **at))
    verdict = settled("001-direction-kodak24-gain-grows-with-noise", *runs)
    assert verdict.word == NOT_REPRODUCED and verdict.low < 0 < verdict.difference, verdict.reason
    assert settled("001-direction-kodak24-gain-grows-with-noise", *runs[:1], *runs[2:4], runs[5]).word == DIRECTION


def test_a_cell_of_the_ablation_is_settled_by_the_paper_s_budget_where_it_is_there(make_record):
    small = [make_record("full", 28.6 + SPREAD), make_record("none", 27.6 + SPREAD, variant="none")]
    long = make_record("long", PRINTED + SPREAD, budget="paper", steps=960_000)
    assert settled("001-t1-kodak24-50-full", *small).word == DIRECTION
    verdict = settled("001-t1-kodak24-50-full", *small, long)
    assert (verdict.word, verdict.evidence) == (REPRODUCED, "long-seed0")


def test_a_mean_counts_and_names_the_trainings_that_it_is_of(make_record):
    seeds = [make_record("sadnet-colour-50", 29.0 + seed / 2 + SPREAD, seed=seed) for seed in range(3)]
    vars(seeds[1])["metrics"] = seeds[1].metrics.assign(evaluation="another")
    seeds[1].content["evaluations"] = []
    verdict = settled("001-t3-kodak24-50-sadnet", *seeds)
    assert verdict.reason.startswith("At the cpu budget 29.50 dB as the mean of 2 trainings")
    assert verdict.evidence == "sadnet-colour-50-seed0 sadnet-colour-50-seed2"


def test_one_image_decides_no_ordering(make_record):
    ours, other = make_record("ours", [30.5]), make_record("other", [30.0], method="ridnet", steps=0)
    verdict = settled("001-order-kodak24-50-over-ridnet", ours, other)
    assert verdict.word == NOT_TESTABLE and "nan" not in verdict.reason, verdict.reason


def test_rows_that_are_measured_without_a_test_have_no_spread(make_record):
    seeds = [make_record("oracle", 29.0 + SPREAD, seed=seed) for seed in range(2)]
    for record in seeds:
        record.content["evaluations"] = []
    study = Study(LEDGER, EXPERIMENTS, seeds)
    assert study.seed_spread == {"sadnet": (0.0, "oracle")}
    assert pages.describe_seeds(study) == "No network was trained more than once yet."


def test_the_value_is_the_mean_over_the_seeds_and_the_interval_draws_them(make_record):
    first = make_record("x", PRINTED + 0.1 + SPREAD, budget="paper", seed=0)
    second = make_record("x", PRINTED - 0.1 + SPREAD[::-1], budget="paper", seed=1)
    verdict = settled("001-t3-kodak24-50-sadnet", first, second)
    assert verdict.word == REPRODUCED
    assert verdict.low < -0.5 < 0.5 < verdict.high  # the trainings disagree, and are drawn like the images
    assert verdict.evidence == "x-seed0 x-seed1"


def test_noise_of_another_kind_is_not_that_of_a_photograph(make_record):
    """Neither has a sigma; the evaluation with Poisson noise stands first here."""
    record = make_record("x", 38 + SPREAD, **REAL)
    own = record["evaluations"][0]
    for kind in ({"events": 30}, {"alpha": 0.5}):
        record.content["evaluations"] = [own | kind | {"name": "other"}, own]
        assert record.find_evaluation("nam25", None)["name"] == own["name"]
    record.content["evaluations"] = [own | {"events": 30}]
    assert record.find_evaluation("nam25", None) is None


def test_the_command_of_a_verdict_measures_what_was_measured(make_record, tmp_path, monkeypatch):
    """Read by the command line itself: every condition of the evaluation is in it."""
    record = make_record("x", PRINTED + SPREAD)
    first = record["evaluations"][0]
    conditions = {"clip": True, "round_8bit": True, "patch": 128, "seed": 3, "limit": 4, "repeats": 2, "pad": "clean"}
    record.content["evaluations"] += [first | conditions | {"name": "other"}]
    group = Group((record,))
    assert group.command("other") == record["command"], "nothing is published: training comes first"
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "x-seed0.safetensors").touch()
    monkeypatch.setattr(files, "results", lambda: tmp_path)
    asked = read_command(group.command("other"))
    assert {name: asked[name] for name in conditions} == conditions
    assert (asked["model"], asked["data"], asked["sigma"]) == ("x-seed0", "kodak24", 50)
    asked = read_command(group.command(first["name"]))
    assert not asked["clip"] and not asked["round_8bit"] and asked["patch"] is None


def read_command(command):
    """Parameters as the command line reads them."""
    program, name, *rest = command.split()
    assert program == "repro"
    return typer.main.get_command(cli.app).commands[name].make_context(name, rest).params


def test_the_larger_budget_speaks(make_record):
    small = make_record("small", PRINTED - 0.5 + SPREAD)
    large = make_record("large", PRINTED - 0.02 + SPREAD, budget="paper")
    smoke = make_record("smoke", PRINTED + SPREAD, budget="smoke")
    assert settled("001-t3-kodak24-50-sadnet", smoke, small, large).evidence == "large-seed0"
    assert settled("001-t3-kodak24-50-sadnet", smoke).word == NOT_TESTABLE


def test_other_conditions_do_not_count(make_record):
    for k, wrong in enumerate(
        (
            {"sigma_255": 30.0},
            {"colour": "gray"},
            {"dataset": "cbsd68"},
            {"variant": "none"},
            {"method": "dncnn"},
        )
    ):
        record = make_record(f"x{k}", PRINTED + SPREAD, **wrong)
        assert settled("001-t3-kodak24-50-sadnet", record).word == NOT_TESTABLE, wrong


def test_more_gain_at_more_noise(make_record):
    found = []
    for sigma, gain in ((30.0, 0.2), (70.0, 0.6)):
        found.append(make_record(f"ours{sigma}", 28 + gain + SPREAD, sigma_255=sigma))
        found.append(make_record(f"other{sigma}", 28 + SPREAD, sigma_255=sigma, method="dncnn", steps=0))
    verdict = settled("001-direction-kodak24-gain-grows-with-noise", *found)
    assert (verdict.word, verdict.difference) == (DIRECTION, pytest.approx(0.4))
    assert settled("001-direction-kodak24-gain-grows-with-noise", *found[:2]).word == NOT_TESTABLE


def test_a_gain_is_of_one_noise_at_both_levels(make_record):
    found = []
    for sigma, gain in ((30.0, 0.2), (70.0, 0.6)):
        ours = make_record(f"ours{sigma}", 28 + gain + SPREAD, sigma_255=sigma)
        found.append(put_first(ours, 20 + SPREAD))
        found.append(make_record(f"other{sigma}", 28 + SPREAD, sigma_255=sigma, method="dncnn", steps=0))
    verdict = settled("001-direction-kodak24-gain-grows-with-noise", *found)
    assert (verdict.word, verdict.difference) == (DIRECTION, pytest.approx(0.4))
    found[1] = put_first(found[1], 25 + SPREAD)  # at one level alone: what both levels have is still the other noise
    assert settled("001-direction-kodak24-gain-grows-with-noise", *found).difference == pytest.approx(0.4)


@pytest.mark.parametrize(("alignment", "word"), [(0.3, DIRECTION), (-0.3, NOT_REPRODUCED)])
def test_kernels_along_edges(make_record, alignment, word):
    record = make_record("x", PRINTED + SPREAD, offsets=measure_kernels(alignment=alignment))
    assert settled("001-direction-kernels-extend-along-edges", record).word == word


def test_kernels_of_a_runaway_training_count_and_the_others_are_told_by_themselves(make_record):
    claim, found = "001-direction-kernels-extend-along-edges", []
    for seed, (alignment, offset) in enumerate(((0.3, 0.5), (-5.0, 1000.0))):
        kernels = measure_kernels(alignment=alignment)
        record = make_record("x", PRINTED + SPREAD, seed=seed, offsets=kernels, patch=64)
        curve = pd.DataFrame({"step": [1], "seconds": [1.0], "psnr_db": [24.0], "offset_decode1": [offset]})
        curve.to_csv(record.folder / "curve.csv", index=False)
        found.append(record)
    verdict = settled(claim, *found)
    assert verdict.word == NOT_REPRODUCED and verdict.reason.startswith("Holds at 0 of 4 scales.")
    assert "In the one without runaway sampling points it holds at 4 of 4 scales." in verdict.reason
    assert "without runaway" not in settled(claim, found[0]).reason + settled(claim, found[1]).reason


@pytest.mark.parametrize(("smooth", "word"), [(-0.05, NOT_TESTABLE), (0.05, NOT_REPRODUCED)])
def test_half_of_a_sentence_can_fail_and_not_hold(make_record, smooth, word):
    """It is about smooth places and even textures, of which only the first are measured."""
    record = make_record("x", PRINTED + SPREAD, offsets=measure_kernels(smooth=smooth))
    verdict = settled("001-direction-kernels-uniform-in-smooth-regions", record)
    assert verdict.word == word and ("half of it is not tested" in verdict.reason) == (word == NOT_TESTABLE)


def measure_kernels(alignment=0.0, smooth=0.0):
    """A table of sampling points: their alignment at edges, and how much less even they are where it is smooth."""
    columns = ("alignment", "alignment_shuffled", "anisotropy", "contrast", "contrast_shuffled", "radius_px")
    rows = [
        {"image": f"image{k}", "block": 0, "cell_px": cell, "region": region, "positions": 100}
        | dict.fromkeys(columns, 0.1)
        | {"alignment": alignment + 0.01 * k, "alignment_shuffled": 0.0}
        | {"anisotropy": 0.1 + 0.001 * k * smooth + (smooth if region == "smooth" else 0)}
        for k in range(24)
        for cell in offsets.SCALES
        for region in ("smooth", "edge", "texture")
    ]
    return pd.DataFrame(rows)


def test_counts_are_measured_and_explained():
    parameters = settled("001-t7-sadnet-parameters")
    assert parameters.word == REPRODUCED
    assert "4,234,723" in parameters.reason
    assert "4,321,187" in parameters.reason
    flops = settled("001-t7-sadnet-flops")
    assert (flops.word, flops.ours) == (REPRODUCED, pytest.approx(50.08, abs=0.005))
    claim = LEDGER.loc["001-t7-sadnet-flops"]
    for factor, word in ((1.009, REPRODUCED), (1.011, NOT_REPRODUCED)):
        changed = claim.copy()
        changed["number"] = flops.ours / factor
        assert settle(changed, Study(LEDGER, EXPERIMENTS, [])).word == word


@pytest.mark.parametrize(
    ("claim_id", "word"),
    [
        ("001-s33-kernel-first", REPRODUCED),
        ("001-s33-kernel-last", NOT_REPRODUCED),  # 3 x 3 in the authors' code
        ("001-s33-channels-4", REPRODUCED),
        ("000-t1-convout-channels-in", NOT_REPRODUCED),  # 35: the authors add the input, and concatenate nothing
        ("000-t1-conv2-leaky-slope", REPRODUCED),  # after the three strided convolutions there is an activation
        ("000-t1-conv5-leaky-slope", NOT_REPRODUCED),  # and after a fusion there is none
        ("000-t1-resblock1-leaky-slope", NOT_REPRODUCED),  # nor after a block's sum, whatever is inside
        ("000-t1-offset-block-1-leaky-slope", REPRODUCED),  # whose last part it is
        ("000-t1-offset-block-1-channels-out", NOT_REPRODUCED),  # 32 at every scale in the code
        ("001-order-kodak24-30-over-rnan", NOT_REPRODUCED),  # a tie in the paper's own table
        ("001-order-dnd-ssim-over-ridnet", NOT_REPRODUCED),  # and the contrary here
        ("001-order-dnd-psnr-over-ridnet", NOT_TESTABLE),
        ("001-t4-dnd-sadnet-psnr", NOT_TESTABLE),
        ("001-t5-sidd-validation-sadnet", NOT_TESTABLE),
        ("001-t6-nam-sadnet-psnr", NOT_TESTABLE),
        ("001-t7-sadnet-time", NOT_TESTABLE),
        ("001-s4-batch", NOT_TESTABLE),
        ("000-s4-sidd-loss", NOT_REPRODUCED),  # 0.05 of 39.46 is 0.13 %
        ("000-direction-on-par-kodak24-50", NOT_TESTABLE),  # it prints more than the paper
        ("000-direction-on-par-bsd68-30", NOT_TESTABLE),
        ("000-direction-activations-at-model-scope", NOT_REPRODUCED),
        ("001-s3-batch-normalisation", REPRODUCED),
        ("001-direction-cdncnn-b-real-noise", NOT_TESTABLE),
        ("001-order-faster-with-more-parameters-than-memnet", NOT_TESTABLE),
        ("003-direction-global-sum", REPRODUCED),
        ("001-direction-dilation-keeps-parameters", REPRODUCED),
    ],
)
def test_claims_that_need_no_run(claim_id, word):
    verdict = settled(claim_id)
    assert verdict.word == word, verdict.reason
    assert len(verdict.reason) > 20


def test_a_claim_waits_for_the_experiment_that_tests_it(make_record):
    verdict = settled("001-t2-bsd68-50-sadnet")
    assert verdict.waits_for == "sadnet-gray-50"
    assert verdict.command == "repro campaign --only sadnet-gray-50"


def test_every_claim_has_one_verdict_of_four():
    frame = verdicts.load()
    assert frame["id"].tolist() == LEDGER["id"].tolist()
    assert set(frame["word"]) <= set(WORDS)
    assert (frame["reason"].str.len() > 5).all()


def test_committed_verdicts_follow_from_the_records():
    assert verdicts.check() == len(LEDGER)


def test_a_changed_verdict_is_found(tmp_path):
    text = (files.results() / "verdicts.csv").read_text()
    changed = text.replace("001-t7-sadnet-flops,reproduced", "001-t7-sadnet-flops,not reproduced")
    assert changed != text
    (tmp_path / "verdicts.csv").write_text(changed)
    with pytest.raises(ReproError, match="001-t7-sadnet-flops"):
        verdicts.check(path=tmp_path / "verdicts.csv")


def test_a_record_without_an_origin_is_refused(make_record, tmp_path):
    content = dict(make_record("x", PRINTED + SPREAD).content)
    content["hyperparameters"] = {"lr": {"value": 1e-4, "origin": ""}}
    with pytest.raises(ReproError, match="where its lr comes from"):
        records.validate(content)
    del content["commit"]
    with pytest.raises(ReproError, match="lacks commit"):
        records.validate(content)


def test_a_seed_without_the_evaluation_is_left_out_of_its_mean(make_record):
    """A record that is older than an evaluation of its row lacks it, until it is made again."""
    first, second = (make_record("ours", [29.0, 30.0], seed=seed) for seed in (0, 1))
    second.metrics["evaluation"] = second["evaluations"][0]["name"] = "another"
    mean = verdicts.Group((first, second)).per_image("kodak24-50")
    assert list(mean) == [29.0, 30.0]


def test_a_gain_must_grow_over_every_method_that_was_measured(make_record):
    name = "001-direction-kodak24-gain-grows-with-noise"
    wiggle = np.linspace(-0.05, 0.05, 24)

    def run(method, sigma_255, psnr_db, **settings):
        steps = 10 if method == "sadnet" else 0
        return make_record(
            f"{method}-{sigma_255}", psnr_db + wiggle * (method == "sadnet"), method=method, sigma_255=sigma_255,
            steps=steps, **settings,
        )  # fmt: skip

    ours = run("sadnet", 30.0, np.full(24, 30.0)), run("sadnet", 70.0, np.full(24, 27.0))
    cbm3d = run("bm3d", 30.0, np.full(24, 29.5)), run("bm3d", 70.0, np.full(24, 26.2))
    ffdnet = run("ffdnet", 30.0, np.full(24, 29.8)), run("ffdnet", 70.0, np.full(24, 27.0))
    assert settled(name, *ours).word == NOT_TESTABLE
    verdict = settled(name, *ours, *cbm3d)
    assert verdict.word == DIRECTION and "over CBM3D by +0.30" in verdict.reason and "all but MemNet" in verdict.reason
    verdict = settled(name, *ours, *cbm3d, *ffdnet)
    assert verdict.word == NOT_REPRODUCED and verdict.difference == pytest.approx(-0.2)


def test_a_gain_is_of_one_recipe(make_record):
    ours = [make_record(f"s{level}", [30.0, 31.0], sigma_255=level, lr=level / 1e5) for level in (30.0, 70.0)]
    others = [make_record(f"b{level}", [29.0, 29.5], method="bm3d", sigma_255=level, steps=0) for level in (30.0, 70.0)]
    assert settled("001-direction-kodak24-gain-grows-with-noise", *ours, *others).word == NOT_TESTABLE


def test_an_activation_after_every_block_would_be_found(monkeypatch):
    from repro.study import settings

    blocks = {f"encode{scale}": 0.2 for scale in (1, 2, 3, 4)}
    monkeypatch.setattr(settings, "_find_activations", lambda: blocks)
    assert settled("000-direction-activations-at-model-scope").word == REPRODUCED
    del blocks["encode2"]
    assert settled("000-direction-activations-at-model-scope").word == NOT_REPRODUCED
