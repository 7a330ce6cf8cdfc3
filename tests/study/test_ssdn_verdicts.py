"""Verdicts on document 002: its own table, its statements, its curves."""

import numpy as np
import pandas as pd
import pytest

from repro import blindspot_pages
from repro.study import claims, experiments, verdicts
from repro.study.verdicts import DIRECTION, NOT_REPRODUCED, NOT_TESTABLE, REPRODUCED, Study, settle

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
            pd.DataFrame({"step": step, "seconds": step / settings.get("pace", 1), "psnr_db": curve}).to_csv(
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
    assert settled("002-t1-kodak-ssdn-mean-only", make("mean only", printed - 1)).word == DIRECTION
    assert settled("002-t1-kodak-ssdn-mean-only", make("mean only", printed + 5, name="b")).word == NOT_REPRODUCED


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


def test_faster_per_step_and_slower_per_hour(make):
    ours = make("variable", 30.0, curve=[20.0, 25.0, 27.0])
    void = make("N2V", 29.0, curve=[19.0, 22.0, 24.0])
    step, hour = "002-direction-learns-faster-than-n2v", "002-direction-faster-in-real-time"
    assert settled(step, ours, void).word == DIRECTION
    table = pd.read_csv(void.folder / "curve.csv")
    table["seconds"] /= 4
    table.loc[len(table)] = [1000.0, 300.0, 29.0]
    table.to_csv(void.folder / "curve.csv", index=False)
    vars(void).pop("curve", None)
    assert settled(hour, ours, void).word == NOT_REPRODUCED


@pytest.mark.parametrize(("end", "word"), [(20.0, DIRECTION), (26.5, NOT_REPRODUCED)])
def test_the_zeroed_layer(make, end, word):
    zeroed = make("variable", 30.0, curve=[20.0, 27.0])
    other = make("variable, last layer not zeroed", 30.0, curve=[19.0, end])
    assert settled("002-direction-zero-last-layer", zeroed, other).word == word


def test_claims_that_need_no_run():
    assert settled("002-s5-size-factor").word == NOT_REPRODUCED
    assert settled("002-s5-size-factor").ours == pytest.approx(1.151, abs=0.001)
    assert settled("002-s5-loss-to-original").word == REPRODUCED
    assert settled("002-s5-tenth-of-training").word == REPRODUCED


def test_known_levels_in_the_sizes_are_those_of_the_noise():
    for experiment in EXPERIMENTS:
        if experiment.method in ("ssdn", "unet") and "level" in experiment.sizes:
            assert experiment.sizes["level"] == experiment.sigma_255, experiment.name


def test_methods_of_the_table_share_one_recipe():
    recipes = [e.train for e in EXPERIMENTS if e.variant in VARIANTS and e.name.startswith("ssdn-")]
    assert len(recipes) == len(VARIANTS)
    assert all(recipe | {"loss": ""} == recipes[0] | {"loss": ""} for recipe in recipes)


def test_the_chapter_shows_every_cell_and_statement():
    study = Study(claims.find(LEDGER, source="002"), EXPERIMENTS, [])
    frame = study.claims.join(verdicts.settle_all(study).drop(columns="id"))
    assert blindspot_pages.describe_table(frame).count("<tr>") == 1 + len(TABLE)
    assert "known over CBM3D" in blindspot_pages.describe_statements(frame)


def test_the_chapter_draws_what_is_there(make, tmp_path):
    record = make("N2C", 30.0, curve=[20.0, 25.0, 27.0])
    study = Study(LEDGER, EXPERIMENTS, [record])
    assert "27.00 dB" in blindspot_pages.describe_curves(study, tmp_path)
    assert {path.name for path in tmp_path.glob("*.png")} == {"ssdn_curves_step.png", "ssdn_curves_hours.png"}
    assert "kodak24" in blindspot_pages.describe_conventions(study)
    empty = Study(LEDGER, EXPERIMENTS, [])
    assert blindspot_pages.describe_curves(empty, tmp_path) == blindspot_pages.NOT_YET
