"""Rules for the claims of the slides about ScaoedNet."""

import re
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

import repro
from repro import pages, stage_pages, stages
from repro.data.catalog import Sample
from repro.study import campaign, claims, experiments, records, scaoednet
from repro.study.scaoednet import read_state
from repro.study.verdicts import DIRECTION, NOT_REPRODUCED, NOT_TESTABLE, REPRODUCED, Study, settle

LEDGER, EXPERIMENTS = claims.load(), experiments.load()
IMAGES = 24
SPREAD = np.linspace(-3, 3, IMAGES)  # between images
SMALL = {"width": 32, "blocks": 4}


@pytest.fixture
def make_run(make_record):
    """``make_run("x", [30, 31], stages=2)``: PSNR and, falling by the same numbers, the error of each stage's map."""

    def make(name, psnr_by_stage, errors=None, **sizes):
        errors = errors or [40 - psnr for psnr in psnr_by_stage]
        record = make_record(
            name, 30 + SPREAD, method="scaoednet", variant=name, sizes=SMALL | {"stages": len(psnr_by_stage)} | sizes
        )
        table = pd.DataFrame(
            {
                "dataset": "kodak24", "image": f"image{k}", "stage": stage,
                "psnr_db": psnr + SPREAD[k] + 0.01 * (-1) ** k, "noise_map_l1_255": error + 0.01 * (-1) ** k,
            }
            for stage, (psnr, error) in enumerate(zip(psnr_by_stage, errors, strict=True), start=1)
            for k in range(IMAGES)
        )  # fmt: skip
        table.to_csv(record.folder / "stages.csv", index=False)
        return records.read(record.folder)

    return make


def test_a_seed_that_was_not_measured_stage_by_stage_is_left_out(make_run, make_record):
    measured = make_run("x", [30, 31, 32])
    other = make_record("x", 30 + SPREAD, seed=1, method="scaoednet", variant="x", sizes=SMALL | {"stages": 3})
    (group,) = Study(LEDGER, EXPERIMENTS, [measured, other]).groups
    assert list(scaoednet.of_last_stage(group, "psnr_db")) == [measured.name]


def settled(claim_id, *found):
    return settle(LEDGER.loc[claim_id], Study(LEDGER, EXPERIMENTS, list(found)))


def test_every_number_of_the_slides_is_there():
    ours = LEDGER[LEDGER["source"] == "004"]
    counts = ours.groupby("table").size().to_dict()
    printed = {"Table S1": 4, "Table S3": 10, "Table S4": 10, "Table 5": 10}
    assert {table: counts[table] - _statements(ours, table) for table in printed} == printed
    printed = {"Table 1": 28, "Table 2": 56, "Table 3": 12, "Table 4": 10, "Table S2": 8}
    assert {table: counts[table] - _statements(ours, table) for table in printed} == printed
    known = {
        "004-t1-dnd-scaoednet-psnr": "40.12",
        "004-t1-dnd-invdn-psnr": "39.57",
        "004-t2-sidd-benchmark-vdn-ssim": "0.955",
        "004-t2-sidd-validation-danet-ssim": "0.9164",
        "004-t3-stages-6-ssim": "0.9187",
        "004-t4-blocks-12-psnr": "39.40",
        "004-ts3-noise-map-4-l1": "4.27",
        "004-ts4-stage-1-ssim": "0.8729",
        "004-t5-noise-map-pridnet-l1": "6.19",
        "004-ts1-sca-psnr": "39.39",
        "004-ts2-no-fsm-no-dem-psnr": "39.28",
        "004-cost-stages-5-time": "0.28",
    }
    assert {name: LEDGER.loc[name, "value"] for name in known} == known


def _statements(frame, table):
    return int((frame["metric"].isin(claims.STATEMENTS) & (frame["table"] == table)).sum())


@pytest.mark.parametrize(("stages", "ours"), [(1, 206.83), (3, 629.90), (5, 1052.96)])
def test_costs_are_two_per_cent_below_the_slides_and_their_steps_are_told(stages, ours):
    verdict = settled(f"004-cost-stages-{stages}-flops")
    assert (verdict.word, verdict.ours) == (REPRODUCED, pytest.approx(ours, abs=0.005))
    assert "3% are allowed of this network, 1% of all others" in verdict.reason
    assert verdict.difference / LEDGER.loc[verdict.id, "number"] == pytest.approx(-0.02, abs=0.005)
    assert "428 and 431" in verdict.reason
    assert "423.06" in verdict.reason


@pytest.mark.parametrize(
    ("claim_id", "word"),
    [
        ("004-cost-parameters", REPRODUCED),
        ("004-settings-stages", REPRODUCED),
        ("004-settings-blocks", REPRODUCED),
        ("004-cost-deamnet-flops", NOT_TESTABLE),
        ("004-cost-stages-5-time", NOT_TESTABLE),
        ("004-t1-dnd-scaoednet-psnr", NOT_TESTABLE),
        ("004-t5-noise-map-pridnet-l1", NOT_TESTABLE),
        ("004-order-dnd-ssim-ensemble-over-single", NOT_REPRODUCED),  # the table itself says the contrary
        ("004-order-dnd-psnr-ensemble-over-single", NOT_TESTABLE),
        ("004-direction-best-looking", NOT_TESTABLE),
    ],
)
def test_claims_that_need_no_run(claim_id, word):
    verdict = settled(claim_id)
    assert verdict.word == word, verdict.reason
    assert len(verdict.reason) > 20


CHECKPOINT = "--model CHECKPOINT --network scaoednet"
TRAINING = "--data sidd-medium --set pairs=sidd-medium --set pairs_share=1 --set loss=l1 --steps STEPS --out RUN"


@pytest.mark.parametrize(
    ("claim_id", "command"),
    [
        ("004-t2-sidd-validation-scaoednet-psnr", f"repro evaluate {CHECKPOINT} --data sidd-validation"),
        (
            "004-t2-sidd-validation-scaoednet-ensemble-psnr",
            f"repro evaluate {CHECKPOINT} --data sidd-validation --ensemble",
        ),
        ("004-t2-sidd-benchmark-scaoednet-ssim", f"repro submit sidd {CHECKPOINT} OUT"),
        ("004-t1-dnd-scaoednet-ensemble-ssim", f"repro submit dnd {CHECKPOINT} --ensemble OUT"),
        (
            "004-t3-stages-3-psnr",
            f"repro train --model scaoednet --size stages=3 {TRAINING} && "
            "repro evaluate --model RUN/weights.safetensors --data sidd-validation",
        ),
    ],
)
def test_a_value_on_closed_data_says_how_it_could_be_tested(claim_id, command):
    verdict = settled(claim_id)
    assert verdict.word == NOT_TESTABLE
    assert verdict.command == command


def test_words_of_the_ablation_are_sizes():
    assert read_state("no fsm, dem") == {"attention": "none", "dem": True}
    assert read_state("stages 3") == {"stages": 3}
    for claim in LEDGER[(LEDGER["source"] == "004") & (LEDGER["metric"] == "ordering")].itertuples():
        if "DeamNet" not in claim.variant and "ensemble" not in claim.variant:
            first, second = (read_state(side) for side in claim.variant.removeprefix("noise map of ").split(" over "))
            assert first.keys() == second.keys() and first != second


@pytest.mark.parametrize(("gain", "word"), [(0.05, DIRECTION), (-0.05, NOT_REPRODUCED)])
def test_stages_are_compared_at_the_last_one(make_run, gain, word):
    one, three = make_run("one", [30.0]), make_run("three", [25.0, 29.0, 30.0 + gain])
    verdict = settled("004-order-stages-3-over-1", one, three)
    assert verdict.word == word, verdict.reason
    assert verdict.difference == pytest.approx(gain)
    assert "kodak24" in verdict.reason and "width 32, blocks 4" in verdict.reason


def test_networks_that_differ_in_more_are_not_compared(make_run):
    one = make_run("one", [30.0])
    assert settled("004-order-stages-3-over-1", one, make_run("other", [25, 29, 31], blocks=8)).word == NOT_TESTABLE
    assert settled("004-order-stages-3-over-1", one, make_run("wide", [25, 29, 31], width=64)).word == NOT_TESTABLE
    same = make_run("same", [25, 29, 31], checkpointing=True)  # changes no number
    assert settled("004-order-stages-3-over-1", one, same).word == DIRECTION


def test_guidance_and_attention(make_run):
    both, neither = make_run("both", [30, 31, 32]), make_run("neither", [30, 31, 31.5], attention="none", dem=False)
    assert settled("004-order-fsm-dem-over-no-fsm-no-dem", both, neither).word == DIRECTION
    assert settled("004-order-no-fsm-dem-over-no-fsm-no-dem", both, neither).word == NOT_TESTABLE
    guided = make_run("guided", [30, 31, 31.4], attention="none")
    assert settled("004-order-no-fsm-dem-over-no-fsm-no-dem", both, neither, guided).word == NOT_REPRODUCED
    assert settled("004-order-fsm-dem-over-no-fsm-dem", both, neither, guided).word == DIRECTION


@pytest.mark.parametrize(("error", "word"), [(4.5, DIRECTION), (5.5, NOT_REPRODUCED)])
def test_the_smaller_error_of_the_noise_map_is_the_better_one(make_run, error, word):
    found = make_run("with", [30.0], [error]), make_run("without", [31.0], [5.0], nfae=False)
    verdict = settled("004-order-nfae-over-none", *found)
    assert (verdict.word, verdict.difference) == (word, pytest.approx(5.0 - error))


@pytest.mark.parametrize(
    ("psnr", "maps", "images"),
    [
        ([26, 29, 30, 30.5], DIRECTION, DIRECTION),
        ([26, 29, 28.9, 30], NOT_REPRODUCED, NOT_REPRODUCED),  # a step back
        ([26, 27, 28, 30], DIRECTION, NOT_REPRODUCED),  # ever more, not ever less
    ],
)
def test_from_stage_to_stage(make_run, psnr, maps, images):
    run = make_run("x", psnr)
    assert settled("004-direction-noise-map-improves", run, make_run("short", [30, 29])).word == maps
    assert settled("004-direction-stages-converge", run).word == images


@pytest.mark.parametrize(("gain", "word"), [(0.0, DIRECTION), (0.2, NOT_REPRODUCED)])
def test_more_of_it_adds_nothing(make_run, gain, word):
    five, six = make_run("five", [30] * 5), make_run("six", [30] * 5 + [30 + gain])
    assert settled("004-direction-five-stages-suffice", five, six).word == word
    assert settled("004-direction-sixteen-blocks", five, six).word == NOT_TESTABLE


def test_adding_nothing_must_be_certain(make_run):
    """A mean of nothing whose interval reaches beyond the tolerance shows nothing."""
    five, six = make_run("five", [30] * 5), make_run("six", [30] * 6)
    wiggle = {f"image{k}": (-1.0) ** k for k in range(IMAGES)}
    vars(six)["stages"] = six.stages.assign(psnr_db=six.stages["psnr_db"] + six.stages["image"].map(wiggle))
    verdict = settled("004-direction-five-stages-suffice", five, six)
    assert verdict.low < 0.05 < verdict.high and verdict.word == NOT_REPRODUCED


def test_some_printed_noise_map_errors_exceed_the_root_mean_square_error():
    """As the chapter says: a mean absolute error cannot, on one map."""
    errors = claims.find(LEDGER, source="004", metric="noise_map_l1")
    psnr = LEDGER.loc[[name.replace("-l1", "-psnr") for name in errors.index], "number"].to_numpy()
    larger = errors["number"].to_numpy() > 255 * 10 ** (-psnr / 20)
    assert larger.any() and not larger.all()


# --- the chapter


def test_every_statement_has_a_sentence_and_equal_ones_stand_in_one_row(make_run):
    study = Study(claims.find(LEDGER, source="004"), EXPERIMENTS, [])
    frame = pages.join_verdicts(study)
    text = stage_pages.describe_statements(frame)
    assert all(sentence in text for sentence in stage_pages.STATED.values())
    ensemble = frame["variant"] == "psnr of the ensemble over the single network"
    values = {
        "difference": 1.0,
        "low": -0.5,
        "high": 1.5,
        "word": DIRECTION,
        "evidence": "scaoednet-x-seed0 scaoednet-x-seed1",
    }
    frame.loc[ensemble, list(values)] = list(values.values())
    text = stage_pages.describe_statements(frame)
    (row,) = (row for row in text.split("<tr>") if "DND, Table 1; SIDD benchmark, Table 2; SIDD validation" in row)
    assert "+1.0000 [-0.5000, +1.5000], within chance" in row
    assert (
        f"The {ensemble.sum()} statements on the ensemble whose direction holds rest on one network, `scaoednet-x`"
        in text
    )


def test_the_chapter_without_and_with_a_network(make_run, tmp_path):
    empty = Study(LEDGER, EXPERIMENTS, [])
    assert stage_pages.describe_stages(empty, tmp_path) == stage_pages.NOT_YET
    text = stage_pages.describe_stages(Study(LEDGER, EXPERIMENTS, [make_run("x", [26, 29, 30])]), tmp_path)
    assert "from 26.00 to 30.00 dB" in text
    assert "from 14.00 to 10.00 gray levels" in text
    assert (tmp_path / "scaoednet_curves.png").stat().st_size > 5000


def test_the_photograph_after_every_stage():
    net = repro.build("scaoednet", width=4, blocks=1, stages=3).eval()
    *panels, scale = stage_pages.draw_photograph(net).axes
    titles = [axes.get_title("left").split("\n") for axes in panels[:4]]
    assert [name for name, _ in titles] == ["noisy", "stage 1", "stage 2", "stage 3"]
    assert all(re.fullmatch(r"\d+\.\d dB", reached) for _, reached in titles)
    assert all(len(axes.images) == 1 for axes in panels) and scale.get_ylabel() == "noise, gray levels"


# --- measuring


def test_distance_of_noise_maps():
    truth = torch.full((1, 4, 4), 0.2)
    assert stages.noise_map_l1_255(truth, truth + 0.1) == pytest.approx(25.5, rel=1e-5)
    assert stages.noise_map_l1_255(truth, truth) == 0
    with pytest.raises(ValueError, match="one shape"):
        stages.noise_map_l1_255(truth, truth[0])


def test_every_stage_is_measured_against_the_clean_image_and_the_true_map():
    sample = Sample("x", torch.full((3, 16, 16), 0.5), None)
    noisy, noise_map = stages.fixed_realistic_noise(sample.clean, "x", 0)

    class Known(torch.nn.Module):
        """Its first stage is a tenth off, its second a fiftieth; their maps, too."""

        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(1))

        def forward(self, given, every_stage):
            assert torch.equal(given[0], noisy) and every_stage and not self.training
            return [
                SimpleNamespace(image=sample.clean[None] + off, noise_map=noise_map[None] + off) for off in (0.1, 0.02)
            ]

    table = stages.measure(Known(), "set", [sample]).set_index("stage")
    assert table["psnr_db"].tolist() == pytest.approx([20, -20 * np.log10(0.02)], abs=1e-4)
    assert table["noise_map_l1_255"].tolist() == pytest.approx([25.5, 5.1], rel=1e-4)
    assert table["noise_map_psnr_db"].tolist() == pytest.approx(table["psnr_db"].tolist(), abs=1e-3)
    error = (noisy - sample.clean).double().square().mean()
    assert table["psnr_noisy_db"].tolist() == pytest.approx([float(-10 * error.log10())] * 2, abs=1e-4)


def test_a_campaign_publishes_every_stage(tmp_path, monkeypatch):
    monkeypatch.setenv("REPRO_RUNS", str(tmp_path / "unfinished"))
    smoke = experiments.get("smoke-stages")
    tiny = replace(
        smoke, sizes=smoke.sizes | {"width": 4}, evaluate=smoke.evaluate[:1],
        train=smoke.train | {"steps": 2, "patch": 16, "validation_images": 1},
    )  # fmt: skip
    campaign.run(only=(tiny.name,), results=tmp_path, experiments=[tiny], say=lambda line: None)
    table = records.read(tmp_path / "runs" / tiny.name / "seed0").stages
    assert table["stage"].tolist() == [1, 2, 3] * 2
    assert table["image"].nunique() == 2
    assert table[["psnr_db", "ssim", "noise_map_l1_255", "noise_map_psnr_db"]].notna().all(axis=None)
    assert table.groupby("image")["psnr_noisy_db"].nunique().eq(1).all()
