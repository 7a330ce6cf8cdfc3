"""Verdicts on the slides about GradNet (document 003), where they need rules of their own.

003 tests on one random crop of 256x256 from each image, drawn anew each time. What its own DnCNN and BM3D reach is
therefore measured on all such crops, and a printed value is reproduced where it lies within the 95 % interval of what
one crop of each image gives. This rule came after the first results: the tolerance of 0.05 dB for values that need no
training had been fixed without regard to that draw, which scatters several times as much, so that the same network
tested twice by 003's own protocol would miss it. Our crops are cut from the denoised image; 003 denoises the crop,
whose border then lacks its surroundings, which is not measured. What is said of the noise of cameras is measured on
pairs (:mod:`repro.camera_noise`); that cameras differ where permuted labels are as far apart in fewer than 5 of 100
draws was decided after a first look at them. Networks trained here are narrower and see less, and can at best be on
the printed value's side of BM3D, image by image. 003's values on SIDD were measured on the folder that it had
trained on, and say nothing about denoising photographs that were not seen. Which method is ahead there is tested on
photographs of another set, which no network here has seen; such a verdict speaks of the direction at most.
"""

import copy
from collections.abc import Callable
from dataclasses import replace
from functools import cache

import numpy as np
import pandas as pd
import torch
from scipy.special import ndtri

from repro import camera_noise, timing
from repro.data import catalog, noise
from repro.models import build
from repro.models.gradnet import SOBEL
from repro.study import claims as ledger
from repro.study import verdicts
from repro.study.statistics import LEVEL, compare, permute
from repro.study.verdicts import (
    DIRECTION,
    NOT_REPRODUCED,
    PSNR_DB,
    REPRODUCED,
    Group,
    Study,
    Verdict,
)

REACH = ndtri((1 + LEVEL) / 2)  # in standard deviations of a mean
NARROW = ", width 16"  # what the experiments call networks of a quarter of the published width
# A column of the table of results -> method and variant of the experiments.
COLUMNS = {
    "DnCNN": ("dncnn", "16 layers"),
    "BM3D": ("bm3d", "full"),
    "GradNet + DnCNN": ("gradnet-impl", "DnCNN"),
    "GradNet + DnCNN + mixup": ("gradnet-impl", "DnCNN, mixup"),
    "GradNet + BM3D": ("gradnet-impl", "BM3D"),
    "GradNet + DnCNN, paper": ("gradnet", "DnCNN"),
}
# The same columns for real noise: networks trained half on pairs, half on Gaussian noise, and 003's choice for BM3D.
REAL_COLUMNS = {
    "DnCNN": ("dncnn", "16 layers, real, width 32"),
    "BM3D": ("bm3d", "estimated, times 5"),
    "GradNet + DnCNN": ("gradnet-impl", "DnCNN, real, width 16"),
}
REAL_PHOTOGRAPHS = "cc15"
SIDD = "sidd_samples"  # blocks of it that are at hand
SEEN = "it was measured on the folder that the networks had been trained on, and SIDD is at its home page alone"
ON_BENCHMARK = "it is the paper's value, on SIDD's benchmark, whose clean images stay with its home"
PAPER = ("paper", "DnCNN, paper")  # variants of the values that 003 gives for the paper
EXCHANGED = "GradNet + DnCNN, BM3D gradients"  # the column in which gradients are exchanged after training


def settle(claim: pd.Series, study: Study) -> Verdict | None:
    """The verdict on a claim of 003, or None where the rules for all sources have one."""
    metric = claim["metric"]
    if metric == "psnr" and not claim["dataset"]:
        return verdicts.untested(claim, study, "its pictures are lost: what was measured is not said", waits=False)
    if claim["dataset"] == "SIDD" and claim["variant"] in PAPER:
        return verdicts.untested(claim, study, ON_BENCHMARK, waits=False)
    if claim["dataset"] == "SIDD" and metric == "psnr":
        return verdicts.untested(claim, study, SEEN, waits=False)
    if claim["dataset"] == "SIDD" and metric == "ordering":
        return _settle_real_ordering(claim, study)
    if metric == "psnr":
        return _settle_quality(claim, study)
    if metric == "ordering":
        return _settle_ordering(claim, study)
    if metric == "direction":
        for words, rule in DIRECTIONS.items():
            if words in claim["variant"]:
                return rule(claim, study)
        return verdicts.untested(claim, study, "the study has no measure for it")
    if metric in ledger.ARCHITECTURE:
        return _settle_architecture(claim)
    if metric in ledger.DATA | {
        "noise_levels",
        "probability",
        "epochs",
        "choices",
        "precision",
        "workers",
        "estimate_factor",
        "gradient_weight",
    }:
        return verdicts.untested(claim, study, "it is a choice, not an outcome", waits=False)
    return None


def column(claim: pd.Series) -> str:
    """The column of the table of results that a value stands in."""
    return f"{claim['method']} + {claim['variant']}" if claim["method"] == "GradNet" else claim["method"]


def find(name: str, study: Study, dataset: str, sigma_255: float) -> list[Group]:
    """The groups that stand for a column, those of the published width first."""
    method, variant = COLUMNS[name]
    return [
        group for words in (variant, variant + NARROW) for group in study.find(method, words, "rgb", dataset, sigma_255)
    ]


# --- the table of results ---------------------------------------------------------------------------------------


def _settle_quality(claim: pd.Series, study: Study) -> Verdict:
    dataset, sigma = ledger.dataset_name(claim), claim["sigma_255"]
    if column(claim) == EXCHANGED:
        return _settle_exchanged(claim, study)
    groups = find(column(claim), study, dataset, sigma)
    if not groups:
        return verdicts.untested(claim, study, f"there is no record of {column(claim)} here")
    group = groups[0]
    about = group.first.find_evaluation(dataset, sigma)
    evaluation = about["name"]
    values = group.per_seed(evaluation)
    facts = verdicts.hold_against(claim, group, values) | {"command": group.command(evaluation)}
    if about.get("crop_side") and not group.smaller:
        by_crops, reach = _measure_crops(claim, group, evaluation)
        low, high = (by_crops["ours"] + side * reach for side in (-1, 1))
        drawn = (
            f"one random crop of {about['crop_side']} pixels from each, cut after denoising, gives {low:.2f} to "
            f"{high:.2f} dB"
        )
        reason = f"{facts['ours']:.2f} dB on whole images; {drawn} in {100 * LEVEL:g} of 100 draws."
        holds = verdicts.within(by_crops["difference"], by_crops["tolerance"])
        return Verdict(claim["id"], REPRODUCED if holds else NOT_REPRODUCED, reason, **facts | by_crops)
    smaller = f", at the {group.budget} budget ({group.first['variant']})," if group.smaller else ""
    near = f"On whole images{smaller} {verdicts.describe_difference(facts)}"
    near += "" if claim["variant"] in PAPER else ", which is of one random crop of each"
    printed_to = 10.0 ** -len(claim["value"].partition(".")[2])
    if not group.smaller:
        if claim["approx"]:  # "about 32" says no more than its digits
            facts["tolerance"] = max(facts["tolerance"], printed_to / 2)
        word = REPRODUCED if verdicts.within(facts["difference"], facts["tolerance"]) else NOT_REPRODUCED
        return Verdict(claim["id"], word, f"{near}.", **facts)
    bm3d, images, beside = _find_bm3d(claim, study), None, None
    for other in find("BM3D", study, dataset, sigma):
        if images is None and other.first.find_evaluation(dataset, sigma)["name"] == evaluation:
            images, beside = (values, other.per_seed(evaluation)), other
    if claim["approx"]:  # the printed BM3D is of random crops; what the paper has is not
        sides = {"as printed": bm3d["number"]} | ({} if images is None else {"here": images[1].to_numpy().mean()})
        if any(abs(claim["number"] - side) <= printed_to / 2 for side in sides.values()):
            told = " and ".join(f"{side:.2f} dB {where}" for where, side in sides.items())
            coarse = f"about {claim['value']} dB is too coarse to say on which side of BM3D it lies, which has {told}"
            return replace(verdicts.untested(claim, study, coarse, waits=False), **facts)
    word, why = verdicts.judge_side(claim, facts["ours"], bm3d, images)
    if images is not None:
        why += verdicts.describe_hint(compare(*images), [group, beside], study)
    return Verdict(claim["id"], word, f"{near}; {why}.", **facts)


def _measure_crops(claim: pd.Series, group: Group, evaluation: str) -> tuple[dict, float]:
    """Facts of a verdict by 003's protocol, of the mean over all crops; and how far one draw of crops is from it."""
    means, spread = (group.per_image(evaluation, f"psnr_crop{end}") for end in ("_db", "_std_db"))
    ours, reach = float(means.mean()), float(REACH * np.sqrt(np.square(spread).sum()) / len(spread))
    difference = ours - claim["number"]
    about = {"ours": ours, "difference": difference, "tolerance": max(PSNR_DB, reach)}
    return about | {"low": difference - reach, "high": difference + reach}, reach


def _find_bm3d(claim: pd.Series, study: Study) -> pd.Series:
    """The claim on BM3D in the same row of the table."""
    cells = ledger.find(
        study.claims, source="003", method="BM3D", metric="psnr", dataset=claim["dataset"], sigma_255=claim["sigma_255"]
    )
    return cells.iloc[0]


def _settle_exchanged(claim: pd.Series, study: Study) -> Verdict:
    group = _find_exchanged(study, claim["sigma_255"])
    if group is None:
        return verdicts.untested(claim, study, "no network's gradients were exchanged yet")
    ours = float(group.given_gradients(claim["sigma_255"], "bm3d").to_numpy().mean())
    facts = {"ours": ours, "difference": ours - claim["number"], "budget": group.budget}
    facts |= {"evidence": group.names, "command": group.first["command"]}
    # Of the direction at most, at any budget: these crops are not the printed ones.
    word, why = verdicts.judge_side(claim, ours, _find_bm3d(claim, study))
    reason = f"At the {group.budget} budget {ours:.2f} dB on central crops; {why}."
    return Verdict(claim["id"], word, reason, **facts)


def _settle_ordering(claim: pd.Series, study: Study) -> Verdict:
    dataset, sigma = ledger.dataset_name(claim), claim["sigma_255"]
    first, second = claim["variant"].split(" over ")
    for one in find(first, study, dataset, sigma):
        others = find(second, study, dataset, sigma)
        inside = one.first["hyperparameters"]["sizes"]["value"].get("naive_weights") if one.trained else None
        if second == "DnCNN" and inside:  # its own naive denoiser, not 003's, which is larger
            others = [group for group in study.groups if group.first["experiment"] == inside]
            others = [group for group in others if group.first.find_evaluation(dataset, sigma)]
        for other in others:
            evaluation = one.first.find_evaluation(dataset, sigma)["name"]
            same_images = other.first.find_evaluation(dataset, sigma)["name"] == evaluation
            alike = COLUMNS[first][0] != COLUMNS[second][0] or one.same_recipe(other)
            if same_images and alike:
                return verdicts.judge_ordering(claim, one, other, evaluation)
    return verdicts.untested(claim, study, f"there are no per-image results of both: {claim['variant']}")


def _settle_real_ordering(claim: pd.Series, study: Study) -> Verdict:
    """By the blocks of SIDD at hand, else by photographs of another set; neither side was trained on either."""
    sides = [REAL_COLUMNS.get(side) for side in claim["variant"].split(" over ")]
    for dataset in (SIDD, REAL_PHOTOGRAPHS):
        groups = [study.find(*side, "rgb", dataset, None) if side else [] for side in sides]
        if all(groups):
            break
    else:
        verdict = verdicts.untested(claim, study, SEEN, waits=None not in sides)
        after = f"; other photographs wait for the experiment {verdict.waits_for}" if verdict.waits_for else ""
        return replace(verdict, reason=f"{SEEN[0].upper()}{SEEN[1:]}{after}.")
    first, second = (found[0] for found in groups)
    verdict = _judge_on_other_photographs(claim, first, second, dataset)
    told = "The slides' values are of the folder that their networks had been trained on."
    if dataset == SIDD and all(side.first.find_evaluation(REAL_PHOTOGRAPHS, None) for side in (first, second)):
        elsewhere = compare(*(side.per_seed(REAL_PHOTOGRAPHS) for side in (first, second)))
        told = f"On {REAL_PHOTOGRAPHS} it is {elsewhere.signed()} dB. {told}"
    return replace(verdict, reason=f"{verdict.reason} {told}")


def _judge_on_other_photographs(claim: pd.Series, first: Group, second: Group, dataset: str) -> Verdict:
    """Which is ahead on photographs that neither was trained on and that are not 003's: the direction at most."""
    evaluation = first.first.find_evaluation(dataset, None)["name"]
    verdict = verdicts.judge_ordering(claim, first, second, evaluation)
    word = DIRECTION if verdict.word == REPRODUCED else verdict.word
    where = f"On {REAL_PHOTOGRAPHS}, which neither was trained on, not on SIDD."
    if dataset == SIDD:
        where = "On the blocks of SIDD at hand, which neither was trained on."
    told = replace(verdict, word=word, reason=f"{verdict.reason} {where}")
    return verdicts.withhold_empty_lead(told, second, evaluation)


# --- statements ---------------------------------------------------------------------------------------------------


def _find_exchanged(study: Study, sigma_255: float) -> Group | None:
    """A group in 003's form that was given BM3D's gradients at a noise level."""
    for group in study.groups:
        own = group.first["variant"].removesuffix(NARROW) == "DnCNN"
        if group.first["method"] == "gradnet-impl" and own and len(group.given_gradients(sigma_255, "bm3d")):
            return group
    return None


def _settle_exchange_without_effect(claim: pd.Series, study: Study) -> Verdict:
    """Printed equal to three decimals; ours are equal where they agree to that."""
    if claim["dataset"] == "SIDD":
        return verdicts.untested(claim, study, SEEN, waits=False)
    group = _find_exchanged(study, claim["sigma_255"])
    if group is None:
        return verdicts.untested(claim, study, "no network's gradients were exchanged yet")
    own, bm3d, zero = (group.given_gradients(claim["sigma_255"], kind) for kind in ("own", "bm3d", "zero"))
    paired, nothing = compare(bm3d, own), compare(zero, own)
    facts = {"difference": paired.mean, "low": paired.low, "high": paired.high, "tolerance": 0.0005}
    facts |= {"budget": group.budget, "evidence": group.names, "command": group.first["command"]}
    what = f"BM3D's gradients change {paired.mean:+.3f} dB, none at all {nothing.mean:+.3f} dB"
    word = NOT_REPRODUCED if abs(paired.mean) > 0.0005 else DIRECTION if group.smaller else REPRODUCED
    return Verdict(claim["id"], word, f"{what}, on a network trained here.", **facts)


def _settle_against_paper(claim: pd.Series, study: Study) -> Verdict:
    """What is said of two values that are both printed: the paper's, as 003 gives it, and 003's own."""
    column = ledger.find(study.claims, source="003", table="Results", metric="psnr", dataset=claim["dataset"])
    column = column[(column["method"] == claim["method"]) & column["variant"].isin(["", "16 layers", "DnCNN", *PAPER])]
    first = column["variant"].isin(PAPER) == claim["variant"].startswith("paper")
    pairs = list(zip(column.loc[first, "number"], column.loc[~first, "number"], strict=True))
    told = ", ".join(f"{one:g} against {other:g}" for one, other in pairs)
    holds = all(one > other for one, other in pairs)
    return verdicts.judge_by_own_numbers(claim, holds, f"Printed: {told} dB.")


def _settle_gradient_loss(claim: pd.Series, study: Study) -> Verdict:
    """What 003's curve would show: 0.0 to the printed digit, since the mean is divided by the batch once more."""
    found = {}
    for group in study.groups:
        about, tables = group.first, [record.gradients for record in group.records if record.gradients is not None]
        if about["method"] == "gradnet-impl" and tables:
            table = pd.concat(tables)
            losses = table.loc[table["gradient"] == "own", ["gradient_loss", "gradient_loss_displayed"]].mean()
            found.setdefault(about["variant"].removesuffix(NARROW), (group, losses))  # the largest budget comes first
    if not {"DnCNN", "BM3D"} <= found.keys():
        return verdicts.untested(claim, study, "the gradient losses of a network with DnCNN and of one with BM3D wait")
    (group, dncnn), (other, bm3d) = found["DnCNN"], found["BM3D"]
    shown = [f"{loss['gradient_loss_displayed']:.1f}" for loss in (dncnn, bm3d)]
    holds = shown[0] == "0.0" != shown[1]
    word = (DIRECTION if group.smaller else REPRODUCED) if holds else NOT_REPRODUCED
    reason = (
        f"The mean gradient loss is {dncnn['gradient_loss']:.3f} with DnCNN and {bm3d['gradient_loss']:.3f} with BM3D; "
        f"divided by 48 once more, as the slides' code does, {shown[0]} and {shown[1]} are left in its one digit. The "
        "slides see 0.0 with DnCNN and not with BM3D."
    )
    facts = {"ours": float(dncnn["gradient_loss"]), "budget": group.budget}
    facts |= {"evidence": f"{group.names} {other.names}"}
    return Verdict(claim["id"], word, reason, command=group.first["command"], **facts)


def _settle_estimate(claim: pd.Series, study: Study) -> Verdict:
    """Five times the estimate against the estimate itself, on what is at hand of the set that it is said of."""
    named = {group.first["variant"]: group for group in study.groups if group.first["method"] == "bm3d"}
    sides = [named.get(variant) for variant in ("estimated, times 5", "estimated")]
    shared = [
        name
        for name in (SIDD, REAL_PHOTOGRAPHS)
        if all(side and side.first.find_evaluation(name, None) for side in sides)
    ]
    if not shared:
        return verdicts.untested(claim, study, "BM3D with both levels has no record yet")
    if shared[0] != SIDD:
        return _judge_on_other_photographs(claim, *sides, shared[0])
    verdict = verdicts.judge_ordering(claim, *sides, SIDD)
    word = DIRECTION if verdict.word == REPRODUCED else verdict.word  # these are not all blocks
    others = (f"; on {name} {compare(*(side.per_seed(name) for side in sides)).signed()} dB" for name in shared[1:])
    told = replace(verdict, word=word, reason=f"{verdict.reason} On the blocks of SIDD at hand{''.join(others)}.")
    return verdicts.withhold_empty_lead(told, sides[1], SIDD)


def _settle_training_time(claim: pd.Series, study: Study) -> Verdict:
    """A training step with BM3D against one with DnCNN, timed in turns; how much longer is extreme is not said."""
    from repro.benchmark_naive import NETWORK, REFERENCE

    for about, table in timing.load("naive"):
        took = table.set_index("what")["seconds"]
        plain, exact, equal = (took[NETWORK] + took[name] for name in (REFERENCE, "BM3D", "BM3D, equal variances"))
        reason = (
            f"A step on {about['batch']} patches of {about['patch']} pixels takes {exact:.1f} s with BM3D, "
            f"{equal:.1f} s with equal variances, {plain:.2f} s with {REFERENCE}, for a network a quarter as wide, on "
            f"{about['device']}."
        )
        word = DIRECTION if exact > plain else NOT_REPRODUCED
        facts = {"ours": exact / plain, "evidence": "repro bench naive", "command": "repro bench naive"}
        return Verdict(claim["id"], word, reason, **facts)
    return verdicts.untested(claim, study, "nobody ran `repro bench naive` yet", waits=False)


@cache
def _measure_breaking_patch() -> tuple[float, float]:
    """Shares of values that are no numbers in the package's estimate of a gray patch in colour, and that are in ours.

    Gray noise on one colour: two opponent colours have no range.
    """
    import bm3d

    gray = 0.5 + 0.1 * np.random.default_rng(0).normal(size=(16, 16, 1))
    with np.errstate(all="ignore"):
        theirs = bm3d.bm3d_rgb(gray.repeat(3, 2), 0.1)
    noisy = torch.from_numpy(gray.repeat(3, 2)).permute(2, 0, 1)[None]
    ours = build("bm3d")(noisy, sigma=0.1)
    return float(np.isnan(theirs).mean()), float(ours.isfinite().double().mean())


def _settle_breaking_patches(claim: pd.Series, study: Study) -> Verdict:
    broken, finite = _measure_breaking_patch()
    reason = (
        f"In the package's estimate of a gray patch in colour {broken:.0%} of the values are no numbers; with ranges "
        f"never smaller than the noise, {finite:.0%} are finite. That is one patch, made with the same noise in every "
        "colour; how many of a photograph's are like it was not measured."
    )
    return Verdict(claim["id"], DIRECTION if broken else NOT_REPRODUCED, reason, evidence="repro.models.classical")


@cache
def _measure_brightening(level: float, draws: int = 8) -> dict[str, np.ndarray]:
    """Change of brightness and contrast of each embedded photograph by noise of a level, not clipped and clipped."""
    changes: dict[str, list] = {"not clipped": [], "clipped": []}
    for sample in (*catalog.samples("embedded-train", "RGB"), *catalog.samples("embedded-test", "RGB")):
        noisy = [noise.fixed_gaussian_noise(sample.clean, sample.name, level, seed) for seed in range(draws)]
        clean = sample.clean - sample.clean.mean()
        for name, rows in changes.items():
            mean = torch.stack([n.clamp(0, 1) if name == "clipped" else n for n in noisy]).mean(0)
            # The slope of the mean noisy value over the clean one: 1 where contrast stays.
            rows.append((float((mean - sample.clean).mean()), float((clean * mean).sum() / clean.square().sum()) - 1))
    return {name: np.array(rows) for name, rows in changes.items()}


def _settle_brightening(claim: pd.Series, study: Study) -> Verdict:
    """Brightness and contrast of the embedded photographs after noise of the picture's level, clipped and not."""
    level = 50.0
    changes = _measure_brightening(level)
    brighter, contrast = changes["clipped"].T
    means = {name: rows.mean(0) for name, rows in changes.items()}
    reason = (
        f"Noise of level {level:g} on {len(brighter)} embedded photographs, clipped: "
        f"{_signed(255 * means['clipped'][0])} gray levels and {_signed(100 * means['clipped'][1])} % contrast, "
        f"{int((brighter > 0).sum())} brighter and {int((contrast < 0).sum())} with less contrast. Without clipping "
        f"{_signed(255 * means['not clipped'][0])} gray levels and {_signed(100 * means['not clipped'][1])} %. These "
        "are not the photographs of the slides."
    )
    holds = (brighter > 0).all() and (contrast < 0).all()
    return Verdict(claim["id"], DIRECTION if holds else NOT_REPRODUCED, reason, evidence="repro.data.noise")


def _signed(value: float) -> str:
    """With its sign and one digit; nothing is below 0 that rounds to it."""
    return f"{round(value, 1) + 0.0:+.1f}"


def _settle_clean_target(claim: pd.Series, study: Study) -> Verdict:
    """Whether 003's DnCNN, trained here to give the clean image, denoises."""
    for group in study.find("dncnn", "16 layers, width 32", "rgb", "kodak24", 25):
        evaluation = group.first.find_evaluation("kodak24", 25)["name"]
        gained = compare(group.per_seed(evaluation), group.per_seed(evaluation, "psnr_noisy_db"))
        facts = {"difference": gained.mean, "low": gained.low, "high": gained.high, "budget": group.budget}
        facts |= {"evidence": group.names, "command": group.command(evaluation)}
        what = f"{gained.signed()} dB over the noisy images at sigma 25"
        return verdicts.by_sign(claim, gained, group.smaller, what, facts)
    return verdicts.untested(claim, study, "there is no record of such a network")


def _settle_channel_count(claim: pd.Series, study: Study) -> Verdict:
    """Whether a concatenating skip makes the maps of the network grow."""
    net = _build("gradnet")
    widths = {stage.merge.out_channels for stage in net.body.stages}
    grows = widths != {net.sizes.inner_width}
    reason = (
        f"After concatenating, the authors' code brings {net.body.stages[0].merge.in_channels} channels back to "
        f"{net.sizes.inner_width} by a 3x3 convolution, in every module."
    )
    word = REPRODUCED if grows else NOT_REPRODUCED
    return Verdict(claim["id"], word, reason, evidence="repro.models.gradnet")


def _settle_global_sum(claim: pd.Series, study: Study) -> Verdict:
    """Whether the network returns its input where its last layer gives nothing."""
    net, image = copy.deepcopy(_build("gradnet-impl")).eval(), torch.linspace(0, 1, 768).view(1, 3, 16, 16)
    for parameter in net.last.parameters():
        torch.nn.init.zeros_(parameter)
    with torch.no_grad():
        added = torch.equal(net(image), image)
    returned = "its input" if added else "something else"
    reason = f"With a last layer of zeros the network of the slides' code returns {returned}."
    return Verdict(claim["id"], REPRODUCED if added else NOT_REPRODUCED, reason, evidence="repro.models.gradnet")


NOISE_UNMEASURED = "the noise of cameras is not measured yet"
NOISE = {"evidence": "repro.camera_noise", "command": "repro data noise"}  # facts of the verdicts that rest on it


def _read_scenes(study: Study) -> dict[str, pd.DataFrame] | None:
    """What :mod:`repro.camera_noise` measured, by set, a row per scene."""
    if study.camera_noise is None:
        return None
    scenes = camera_noise.average_scenes(study.camera_noise)
    return {str(name): rows.reset_index(drop=True) for name, rows in scenes.groupby("dataset")}


def _enumerate_sets(sets: dict[str, pd.DataFrame], describe: Callable[[pd.DataFrame], str]) -> str:
    return ", ".join(f"{describe(rows)} on {name}" for name, rows in sets.items())


def _correlate_neighbours(scenes: pd.DataFrame, kind: str = "") -> pd.Series:
    return scenes[[f"{kind}correlation_{way}" for way in ("right", "down")]].mean(axis=1)


def _settle_grain(claim: pd.Series, study: Study) -> Verdict:
    """Real noise against Gaussian noise of the same strength: how alike is it in neighbouring pixels?"""
    if (sets := _read_scenes(study)) is None:
        return verdicts.untested(claim, study, NOISE_UNMEASURED, waits=False)
    signs = [
        compare(_correlate_neighbours(rows), _correlate_neighbours(rows, "control_")).sign for rows in sets.values()
    ]
    near = _enumerate_sets(sets, lambda rows: f"{_correlate_neighbours(rows).mean():.2f}")
    far = _enumerate_sets(sets, lambda rows: f"{rows['correlation_far'].mean():.2f}")
    control = max(_correlate_neighbours(rows, "control_").abs().mean() for rows in sets.values())
    reason = (
        f"The noise of neighbouring values is correlated by {near}; {camera_noise.FAR} pixels apart by {far}; that of "
        f"Gaussian noise as strong, by {control:.2f} at most. None of these are the photographs of the slides."
    )
    return Verdict(claim["id"], DIRECTION if min(signs) > 0 else NOT_REPRODUCED, reason, **NOISE)


def _settle_sensors(claim: pd.Series, study: Study) -> Verdict:
    """Whether PolyU's cameras differ at the same ISO by more than scenes do: in strength, and in grain."""
    if (sets := _read_scenes(study)) is None or "polyu" not in sets:
        return verdicts.untested(claim, study, NOISE_UNMEASURED, waits=False)
    scenes = sets["polyu"]
    scenes = scenes[scenes.groupby("iso")["sensor"].transform("nunique") > 1]
    measures = {"strength": np.log(scenes["sigma_255"]), "the correlation of neighbours": _correlate_neighbours(scenes)}
    chances = {name: permute(values, scenes["sensor"], scenes["iso"]) for name, values in measures.items()}
    told = "; ".join(
        f"in {name} {'more than chance would have it' if chance < 1 - LEVEL else 'by what may be chance'} "
        f"(p = {chance:.4f})"
        for name, chance in chances.items()
    )
    reason = (
        f"Between {len(scenes)} scenes of PolyU, at the same ISO, {scenes['sensor'].nunique()} cameras differ {told}. "
        "These are not the photographs of the slides, and so few scenes can show a difference, not that there is none."
    )
    holds = all(chance < 1 - LEVEL for chance in chances.values())
    return Verdict(claim["id"], DIRECTION if holds else NOT_REPRODUCED, reason, **NOISE)


def _settle_undershooting(claim: pd.Series, study: Study) -> Verdict:
    """scikit-image's estimate against the strength that the clean image shows."""
    if (sets := _read_scenes(study)) is None:
        return verdicts.untested(claim, study, NOISE_UNMEASURED, waits=False)
    signs = [compare(rows["estimate_255"], rows["sigma_255"]).sign for rows in sets.values()]
    told = _enumerate_sets(
        sets, lambda rows: f"{rows['estimate_255'].mean():.1f} where it is {rows['sigma_255'].mean():.1f}"
    )
    shares = [(rows["control_estimate_255"] / rows["control_sigma_255"]).mean() for rows in sets.values()]
    reason = (
        f"In gray levels, the estimate is {told}. Of Gaussian noise as strong it finds {min(shares):.0%} to "
        f"{max(shares):.0%}: it reads the finest diagonal wavelets, where the grain of cameras leaves little. None of "
        "these are the photographs of the slides."
    )
    return Verdict(claim["id"], DIRECTION if max(signs) < 0 else NOT_REPRODUCED, reason, **NOISE)


DIRECTIONS: dict[str, Callable[[pd.Series, Study], Verdict]] = {
    "exchanged gradients": _settle_exchange_without_effect,
    "paper above 003": _settle_against_paper,
    "003 above paper": _settle_against_paper,
    "gradient loss": _settle_gradient_loss,
    "5 times the estimate": _settle_estimate,
    "patches break": _settle_breaking_patches,
    "concatenation": _settle_channel_count,
    "input is added to the result": _settle_global_sum,
    "clean image as target": _settle_clean_target,
    "brightens": _settle_brightening,
    "spatially correlated": _settle_grain,
    "sensor to sensor": _settle_sensors,
    "training with BM3D": _settle_training_time,
    "undershoots": _settle_undershooting,
}


# --- settings -----------------------------------------------------------------------------------------------------


def _settle_architecture(claim: pd.Series) -> Verdict:
    name = "dncnn" if claim["method"] == "DnCNN" else "gradnet-impl"
    found = LAYERS[claim["metric"], claim["variant"]](_build(name))
    word = REPRODUCED if found == claim["number"] else NOT_REPRODUCED
    reason = f"The network that meets the slides' code: {found:g}."
    return Verdict(claim["id"], word, reason, ours=float(found), evidence=f"repro.models.{name.partition('-')[0]}")


LAYERS = {
    ("channels", "features"): lambda net: net.first.out_channels,
    ("channels", "gradient"): lambda net: net.sizes.inner_width - net.sizes.width,
    ("output_channels", "reconstruction"): lambda net: net.last.out_channels,
    ("kernel", "gradient, horizontal"): lambda net: len(SOBEL),
    ("kernel", "gradient, vertical"): lambda net: len(SOBEL.T),
    ("modules", ""): lambda net: len(net.body.stages),
    ("modules", "mixup"): lambda net: len(_build("gradnet-impl", "mixup").body.stages),
    ("layers", "attention, convolutions"): lambda net: sum(
        isinstance(m, torch.nn.Conv2d) for m in net.body.stages[0].attention.modules()
    ),
    ("units", ""): lambda net: len(net.body.stages[0].units),
    ("units", "mixup"): lambda net: len(_build("gradnet-impl", "mixup").body.stages[0].units),
    ("copies", "mixup"): lambda net: (
        (_build("gradnet-impl", "mixup").sizes.inner_width - net.sizes.width) // net.sizes.channels
    ),
    ("layers", "residual unit"): lambda net: sum(
        isinstance(m, torch.nn.Conv2d) for m in net.body.stages[0].units[0].modules()
    ),
    ("compression_ratio", "attention"): lambda net: (
        net.body.stages[0].attention.squeeze.in_channels // net.body.stages[0].attention.squeeze.out_channels
    ),
    ("layers", "16 layers"): lambda net: sum(isinstance(m, torch.nn.Conv2d) for m in net.modules()),
}
SIZES = {
    "dncnn": {"depth": 16, "bias": "all", "residual": False},
    "mixup": {"mixup": 12, "units": 3},  # the configuration behind 003's mixup
}


@cache
def _build(name: str, state: str = ""):
    with torch.random.fork_rng(devices=[]):  # building draws weights, and nobody else's random numbers may move
        return build(name, **SIZES.get(state or name, {}))
