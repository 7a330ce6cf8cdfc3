"""Verdicts on the slides about ScaoedNet (document 004), where they need rules of their own.

What the slides measure they measure on SIDD and DND, which cannot be had freely. So an absolute value waits for
the data. What a part of the network is worth, and that estimates improve from stage to stage, is tested on
photographs that are at hand, with signal-dependent noise of random strength (:mod:`repro.stages`): two networks
by the same recipe, whose sizes differ in nothing but the part under test, image by image. Such a verdict
speaks of the direction at most, since data and budget are others than the slides'.
"""

from dataclasses import asdict, replace
from functools import cache
from itertools import pairwise

import pandas as pd

from repro.models.scaoednet import ScaoedNetSizes
from repro.study import claims as ledger
from repro.study import verdicts
from repro.study.statistics import Interval, compare
from repro.study.verdicts import DIRECTION, NOT_REPRODUCED, NOT_TESTABLE, REPRODUCED, Group, Study, Verdict

# Words of claims.csv -> sizes of the network; "stages 3" and "blocks 8" speak for themselves.
STATES = {
    "nfae": {"nfae": True},
    "no nfae": {"nfae": False},
    "fsm": {"attention": "fsm"},
    "no fsm": {"attention": "none"},
    "sca": {"attention": "sca"},
    "dem": {"dem": True},
    "no dem": {"dem": False},
}
TABLES_OF_PARTS = ("Table 3", "Table 4", "Table S1", "Table S2")  # where the slides switch parts on and off
UNITS = {"k": 1e3, "M": 1e6}
# Three times that of the other networks: how the slides count is not said, and their own steps are unequal. Fixed when
# it was known that the authors' network lies 2 % below the slides.
FLOPS_RELATIVE = 0.03
LAST_STAGE = "Our loss looks at the last stage's image alone, which no source says; what stages bring depends on it."
SIDE = 512  # of the image that the slides count operations for


def settle(claim: pd.Series, study: Study) -> Verdict | None:
    """The verdict on a claim of 004, or None where the rules for all sources have one."""
    rule = RULES.get(claim["metric"])
    return rule(claim, study) if rule else None


# --- quality


def _settle_quality(claim: pd.Series, study: Study) -> Verdict:
    verdict = verdicts.untested(claim, study, _why_not(claim), waits=False)
    needs, command = _tell_test(claim)
    if not command:
        return verdict
    return Verdict(
        claim["id"], NOT_TESTABLE, f"{verdict.reason} With {needs} the command of the ledger tests it.", command=command
    )


def _tell_test(claim: pd.Series) -> tuple[str, str]:
    """What an absolute value of ScaoedNet waits for, and the command that would test it; empty where none can."""
    if claim["method"] != "ScaoedNet":
        return "", ""
    ensemble = " --ensemble" if claim["variant"] == "ensemble" else ""
    weights = "--model CHECKPOINT --network scaoednet"
    if claim["dataset"] == "SIDD validation" and claim["table"] == "Table 2":
        return "its two files and the authors' weights", f"repro evaluate {weights} --data sidd-validation{ensemble}"
    if claim["dataset"] == "SIDD validation" and claim["table"] in TABLES_OF_PARTS:
        sizes = " ".join(f"--size {name}={value}" for name, value in read_state(claim["variant"]).items())
        pairs = "--data sidd-medium --set pairs=sidd-medium --set pairs_share=1 --set loss=l1"
        train = f"repro train --model scaoednet {sizes} {pairs} --steps STEPS --out RUN"
        test = "repro evaluate --model RUN/weights.safetensors --data sidd-validation"
        return "SIDD, and a training of a length that the slides do not give", f"{train} && {test}"
    for dataset, benchmark in (("DND", "dnd"), ("SIDD benchmark", "sidd")):
        if claim["dataset"] == dataset:
            return "it and the authors' weights", f"repro submit {benchmark} {weights}{ensemble} OUT"
    return "", ""


def _why_not(claim: pd.Series) -> str:
    if claim["dataset"] == "SIDD benchmark":
        return "SIDD benchmark: its ground truth stays with its home page, which scores what is submitted"
    return verdicts.why_not(claim, claim["method"])


def _settle_noise_map(claim: pd.Series, study: Study) -> Verdict:
    reason = "neither the photographs, nor what their true noise map is, nor its scale is said"
    return verdicts.untested(claim, study, reason, waits=False)


# --- orderings


def _settle_ordering(claim: pd.Series, study: Study) -> Verdict:
    variant = claim["variant"]
    if "ensemble" in variant:
        return _settle_ensemble(claim, study)
    if "DeamNet" in variant:
        return verdicts.untested(claim, study, _why_not(claim), waits=False)
    of_map = variant.startswith("noise map of ")
    first, second = (read_state(side) for side in variant.removeprefix("noise map of ").split(" over "))
    found = find_pair(first, second, study)
    if found is None:
        return verdicts.untested(claim, study, "there are no two networks that differ in this alone")
    one, other = found
    if of_map:  # the smaller error is the better one
        paired = compare(of_last_stage(other, "noise_map_l1_255"), of_last_stage(one, "noise_map_l1_255"))
    else:
        paired = _compare_images(one, other)
    unit = "gray levels by which the noise map comes nearer to the true one" if of_map else "dB"
    what = f"{paired.signed()} {unit} {_where(one)}"
    verdict = verdicts.by_sign(claim, paired, True, what, _facts(paired, one, other))
    by_stages = first.get("stages") != second.get("stages")
    return replace(verdict, reason=f"{verdict.reason} {LAST_STAGE}") if by_stages else verdict


def read_state(words: str) -> dict:
    """Sizes that the words of one side of an ordering fix: ``fsm, no dem``."""
    sizes: dict = {}
    for word in words.split(", "):
        name, _, number = word.rpartition(" ")
        sizes |= {name: int(number)} if name in ("stages", "blocks") else STATES[word]
    return sizes


def find_pair(first: dict, second: dict, study: Study) -> tuple[Group, Group] | None:
    """Two groups trained by one recipe whose sizes are ``first`` and ``second``, and equal in all else."""
    groups = _measured(study)
    for one in groups:
        for other in groups:
            sizes = _sizes(one)
            fits = all(sizes[name] == value for name, value in first.items())
            if fits and _sizes(other) == sizes | second and one.same_recipe(other):
                return one, other
    return None


def _measured(study: Study) -> list[Group]:
    """ScaoedNets trained here, and measured stage by stage."""
    groups = [g for g in study.groups if g.first["method"] == "scaoednet" and g.trained]
    return [g for g in groups if g.first.stages is not None]


def _sizes(group: Group) -> dict:
    """All sizes of a group's network, those left at their defaults included, but for what changes no number."""
    sizes = asdict(ScaoedNetSizes(**group.first["hyperparameters"]["sizes"]["value"]))
    return {name: value for name, value in sizes.items() if name != "checkpointing"}


def _settle_ensemble(claim: pd.Series, study: Study) -> Verdict:
    metric = claim["variant"].split()[0]
    cells = ledger.find(study.claims, source="004", dataset=claim["dataset"], metric=metric, method="ScaoedNet")
    cells = cells[cells["table"].isin(["Table 1", "Table 2"])].set_index("variant")
    if cells.loc["ensemble", "number"] < cells.loc["", "number"]:
        printed = f"{cells.loc['ensemble', 'value']} for the ensemble and {cells.loc['', 'value']} for the network"
        reason = f"{claim['table']} itself prints {printed}: its SSIM is lower, though its PSNR is higher."
        return Verdict(claim["id"], NOT_REPRODUCED, reason, evidence="004's own table")
    column = {"psnr": "psnr_db", "ssim": "ssim"}[metric]
    # What the papers score so is trained on real noise; a network that is comes first.
    for group in sorted(study.groups, key=lambda group: group.first.settings.get("pairs") is None):
        if group.first["method"] != "scaoednet":
            continue
        for evaluation in group.first["evaluations"]:
            single = evaluation["name"].replace("-ensemble", "")
            if not evaluation.get("ensemble") or single not in {e["name"] for e in group.first["evaluations"]}:
                continue
            values = (group.per_seed(name, column) for name in (evaluation["name"], single))
            paired = compare(*values)
            shown = f"{paired.signed()} dB"
            if metric == "ssim":
                shown = f"{paired.mean:+.4f} [{paired.low:+.4f}, {paired.high:+.4f}]"
            on = f"{evaluation['dataset']}, in place of {claim['dataset']}"
            what = f"{shown} on {on}, by {group.first['experiment']}"
            return verdicts.by_sign(claim, paired, True, what, _facts(paired, group))
    return verdicts.untested(claim, study, "no network was measured both ways")


# --- stages


def _settle_direction(claim: pd.Series, study: Study) -> Verdict:
    return {
        "noise map improves with every stage": _settle_noise_map_improves,
        "image improves with every stage, ever less": _settle_image_improves,
        "a sixth stage adds nothing": lambda c, s: _settle_saturation(c, s, {"stages": 6}, {"stages": 5}),
        "more than 16 blocks add little": lambda c, s: _settle_saturation(c, s, {"blocks": 20}, {"blocks": 16}),
        "best to the eye": lambda c, s: verdicts.untested(c, s, "whose eye, and on which images, is not said", False),
    }[claim["variant"]](claim, study)


def _settle_noise_map_improves(claim: pd.Series, study: Study) -> Verdict:
    group = _find_longest(study)
    if group is None:
        return verdicts.untested(claim, study, "no network of several stages was measured stage by stage")
    errors = [_of_stage(group, stage, "noise_map_l1_255") for stage in _stages(group)]
    steps = [compare(before, after) for before, after in pairwise(errors)]
    return _judge_steps(claim, group, steps, "gray levels by which the noise map comes nearer to the true one")


def _settle_image_improves(claim: pd.Series, study: Study) -> Verdict:
    group = _find_longest(study)
    if group is None:
        return verdicts.untested(claim, study, "no network of several stages was measured stage by stage")
    psnr = [_of_stage(group, stage, "psnr_db") for stage in _stages(group)]
    steps = [compare(after, before) for before, after in pairwise(psnr)]
    # Ever less: the first gain against the last.
    shrinks = compare(psnr[1] - psnr[0], psnr[-1] - psnr[-2])
    verdict = _judge_steps(claim, group, steps, "dB", shrinks)
    return replace(verdict, reason=f"{verdict.reason} {LAST_STAGE}")


def _judge_steps(
    claim: pd.Series, group: Group, steps: list[Interval], unit: str, shrinks: Interval | None = None
) -> Verdict:
    shown = "; ".join(f"{step.signed()} at stage {stage}" for stage, step in enumerate(steps, start=2))
    reason = f"In {unit}: {shown}; {_where(group)}."
    holds = all(step.sign == 1 for step in steps) and (shrinks is None or shrinks.sign == 1)
    return Verdict(claim["id"], DIRECTION if holds else NOT_REPRODUCED, reason, **_facts(None, group))


def _settle_saturation(claim: pd.Series, study: Study, more: dict, less: dict) -> Verdict:
    found = find_pair(more, less, study)
    if found is None:
        return verdicts.untested(claim, study, "there are no two networks that differ in this alone")
    paired = _compare_images(*found)
    word = DIRECTION if paired.high <= verdicts.PSNR_DB else NOT_REPRODUCED
    return Verdict(claim["id"], word, f"{paired.signed()} dB {_where(found[0])}.", **_facts(paired, *found))


def _find_longest(study: Study) -> Group | None:
    """The network of at least three stages, measured stage by stage, that has most of them."""
    groups = [g for g in _measured(study) if len(_stages(g)) > 2]
    return max(groups, key=lambda g: len(_stages(g)), default=None)  # of equals the first: the largest budget


def _stages(group: Group) -> list[int]:
    return sorted(group.first.stages["stage"].unique())


def _of_stage(group: Group, stage: int, column: str) -> pd.DataFrame:
    """A value per image, a column for each seed."""
    tables = {record.name: record.stages for record in group.records if record.stages is not None}
    columns = {
        name: table[table["stage"] == stage].set_index("image")[column].astype(float) for name, table in tables.items()
    }
    return pd.concat(columns, axis=1)


def of_last_stage(group: Group, column: str) -> pd.DataFrame:
    """A value of the last stage per image, a column for each seed."""
    return _of_stage(group, _stages(group)[-1], column)


def _compare_images(one: Group, other: Group) -> Interval:
    return compare(of_last_stage(one, "psnr_db"), of_last_stage(other, "psnr_db"))


def _where(group: Group) -> str:
    table = group.first.stages
    sizes = _sizes(group)
    usual = asdict(ScaoedNetSizes())
    names = ("width", "blocks", "stages")
    reduced = ", ".join(f"{name} {sizes[name]}" for name in names if sizes[name] != usual[name])
    network = f", a network of {reduced}" if reduced else ""
    return f"on {table['dataset'].iloc[0]} with signal-dependent noise at the {group.budget} budget{network}"


def _facts(paired: Interval | None, *groups: Group) -> dict:
    first = groups[0]
    facts = {"budget": first.budget, "evidence": " ".join(g.names for g in groups), "command": first.first["command"]}
    if paired is not None:
        facts |= {"difference": paired.mean, "low": paired.low, "high": paired.high}
    return facts


# --- costs and settings


@cache
def _cost(stages: int):
    from repro.models import build
    from repro.study.costs import measure_cost

    return measure_cost(build("scaoednet", stages=stages), SIDE, SIDE)


def _settle_parameters(claim: pd.Series, study: Study) -> Verdict:
    cost, unit = _cost(5), UNITS[claim["unit"]]
    ours = cost.parameters / unit
    facts = {"ours": ours, "difference": ours - claim["number"], "tolerance": 0.5, "evidence": "repro.build"}
    word = REPRODUCED if round(ours) == claim["number"] else NOT_REPRODUCED
    return Verdict(claim["id"], word, f"{cost.parameters:,} in the network, for any number of stages.", **facts)


def _settle_flops(claim: pd.Series, study: Study) -> Verdict:
    if claim["method"] != "ScaoedNet":
        return verdicts.untested(claim, study, f"{claim['method']} is no part of this study", waits=False)
    stages = read_state(claim["variant"])["stages"]
    cost, further = _cost(stages), (_cost(3).macs - _cost(1).macs) / 2e9
    ours = cost.macs / 1e9
    difference, tolerance = ours - claim["number"], FLOPS_RELATIVE * claim["number"]
    word = REPRODUCED if verdicts.within(difference, tolerance) else NOT_REPRODUCED
    printed = ledger.find(study.claims, source="004", metric="flops", method="ScaoedNet")["number"].tolist()
    steps = " and ".join(f"{after - before:g}" for before, after in pairwise(printed))
    reason = (
        f"{ours:.2f} G multiply-accumulates, {cost.flops / 1e9:.2f} G with biases; each further stage costs "
        f"{further:.2f} G, two of them {2 * further:.2f} G, where the slide's values rise by {steps} G: no way of "
        "counting gives unequal steps."
    )
    if word == REPRODUCED and not verdicts.within(difference, verdicts.FLOPS_RELATIVE * claim["number"]):
        allowed = f"{FLOPS_RELATIVE:.0%} are allowed of this network, {verdicts.FLOPS_RELATIVE:.0%} of all others"
        side = "above" if difference > 0 else "below"
        off = 100 * abs(difference) / claim["number"]
        reason += f" Ours is {off:.1f} % {side} the printed value; {allowed}."
    facts = {"ours": ours, "difference": difference, "tolerance": tolerance, "evidence": "repro.study.costs"}
    return Verdict(claim["id"], word, reason, **facts)


def _settle_size(claim: pd.Series, study: Study) -> Verdict:
    found = getattr(ScaoedNetSizes(), claim["metric"])
    word = REPRODUCED if found == claim["number"] else NOT_REPRODUCED
    reason = f"The network that meets the authors' code: {found:g}."
    return Verdict(claim["id"], word, reason, ours=float(found), evidence="repro.models.scaoednet")


RULES = {
    "psnr": _settle_quality,
    "ssim": _settle_quality,
    "noise_map_l1": _settle_noise_map,
    "noise_map_psnr": _settle_noise_map,
    "ordering": _settle_ordering,
    "direction": _settle_direction,
    "parameters": _settle_parameters,
    "flops": _settle_flops,
    "stages": _settle_size,
    "blocks": _settle_size,
}
