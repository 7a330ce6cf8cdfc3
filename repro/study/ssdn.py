"""Verdicts on the reproduction of SSDN (document 002), where they need rules of their own.

Its table compares seven methods on two image sets and their average, all at one noise level. What differs between
them is how a network is trained, so runs are held against each other that share everything but network and loss.
Values follow the rules for all sources: at a smaller budget than the paper's only the side of CBM3D counts, and
that is 002's own column. Statements about training are read off the learning curves, whose PSNR is of photographs
kept out of training.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, partial

import numpy as np
import pandas as pd

from repro import timing
from repro.data import catalog
from repro.study import claims as ledger
from repro.study import verdicts
from repro.study.records import find_differences, names_accelerator
from repro.study.statistics import DRAWS, LEVEL, Interval, compare, compare_trainings
from repro.study.verdicts import DIRECTION, NOT_REPRODUCED, NOT_TESTABLE, REPRODUCED, Group, Study, Verdict

# (method, variant) as printed -> (method, variant) of the experiments.
RUNS = {
    ("CBM3D", ""): ("bm3d", "full"),
    ("N2C", ""): ("unet", "N2C"),
    ("N2N", ""): ("unet", "N2N"),
    ("N2V", ""): ("unet", "N2V"),
    ("SSDN", "mean only"): ("ssdn", "mean only"),
    ("SSDN", "unknown"): ("ssdn", "variable"),
    ("SSDN", "known"): ("ssdn", "known"),
    ("SSDN", "25 to 50"): ("ssdn", "variable, 25 to 50"),
}
SIGMA_255 = 25.0
APART_DB = verdicts.PSNR_TRAINED_HERE_DB  # printed values nearer than this have no order to reproduce
# What the authors print beside their code to check it by: sigma known. Their table is not among the sources.
ORIGINAL_DB = {"KODAK": 32.45, "BSD300": 31.03}
SIZE_RATIO = 0.5  # how far from "twice the size" a network may be
FAILED_DB = 1.0  # "fails" is said of training that ends this far below what it is compared with


def settle(claim: pd.Series, study: Study) -> Verdict | None:
    """The verdict on a claim of 002, or None where the rules for all sources have one."""
    rule = DIRECTIONS.get(claim["variant"]) if claim["metric"] == "direction" else RULES.get(claim["metric"])
    return rule(claim, study) if rule else None


# --- the table


def _settle_value(claim: pd.Series, study: Study) -> Verdict:
    if math.isnan(claim["sigma_255"]):
        return _settle_value_of_range(claim, study)
    measured = _measure(claim, study)
    if measured is None:
        what = f"{claim['method']} {claim['variant']}".rstrip()
        return verdicts.untested(claim, study, f"there is no record of {what} on {claim['dataset']}")
    group, frames = measured
    if claim["method"] == "CBM3D":  # Table 1 says of it that sigma is not known
        ours = np.mean([_mean(frame) for frame in frames])
        why = f"the printed one finds the level itself, how is not said; ours is told it and reaches {ours:.2f} dB"
        return verdicts.untested(claim, study, why, waits=False)
    facts = verdicts.hold_against(claim, group, *frames) | {"command": group.first["command"]}
    near = verdicts.describe_difference(facts)
    if not group.smaller:
        word = REPRODUCED if verdicts.within(facts["difference"], facts["tolerance"]) else NOT_REPRODUCED
        return Verdict(claim["id"], word, f"{near}.", **facts)
    # By what is printed: 002's CBM3D finds the level itself, ours is told it, and is not the one of this column.
    cells = ledger.find(study.claims, source="002", table="Table 1", method="CBM3D", dataset=claim["dataset"])
    word, why = verdicts.judge_side(claim, facts["ours"], cells.iloc[0])
    return Verdict(claim["id"], word, f"At the {group.budget} budget {near}; {why}.", **facts)


def _settle_value_of_range(claim: pd.Series, study: Study) -> Verdict:
    """A value of a network for a range of levels, whose level in testing is not said: is it one of that range?"""
    low, high = (study.claims.loc[f"002-s4-sigma-{end}", "number"] for end in ("low", "high"))
    method, variant = RUNS[claim["method"], claim["variant"]]
    dataset = ledger.dataset_name(claim)
    for group in study.groups:
        if (group.first["method"], group.first["variant"]) == (method, variant):
            found = [group.first.find_evaluation(dataset, level) for level in (low, high)]
            if all(found):
                best, worst = (float(group.per_image(evaluation["name"]).mean()) for evaluation in found)
                reason = (
                    f"The level of the test is not said; ours are {best:.2f} dB at {low:g} and {worst:.2f} dB at "
                    f"{high:g}, the ends of the range it was trained for, at the {group.budget} budget."
                )
                if group.smaller:  # neither end is what the paper's training would reach
                    return verdicts.untested(claim, study, reason, waits=False)
                return Verdict(claim["id"], _word(worst <= claim["number"] <= best, (group,)), reason, **_facts(group))
    return verdicts.untested(claim, study, "there is no network for a range of levels")


def _measure(claim: pd.Series, study: Study) -> tuple[Group, list[pd.DataFrame]] | None:
    """The network that answers a claim, and its PSNR per image and seed of each of the claim's image sets."""
    run = RUNS.get((claim["method"], claim["variant"]))
    sets = [ledger.DATASETS[name, "rgb"] for name in claim["dataset"].split("+")]
    groups = study.find(*run, "rgb", sets[0], SIGMA_255) if run else []
    for group in groups:
        found = [group.first.find_evaluation(name, SIGMA_255) for name in sets]
        if all(found):
            return group, [group.per_seed(evaluation["name"]) for evaluation in found]
    return None


def _settle_loss(claim: pd.Series, study: Study) -> Verdict:
    """The printed difference, against what the document itself prints."""
    cells = ledger.find(study.claims, source="002", metric="psnr", variant="known", dataset=claim["dataset"])
    expected, reached = (cells.loc[f"002-s5-average-{word}", "number"] for word in ("expected", "known"))
    reason = (
        f"The document's own {reached} is {expected - reached:.2f} dB below the {expected} that it expects, which "
        "seems to be the original's for sigma unknown."
    )
    return verdicts.judge_by_own_numbers(claim, f"{expected - reached:.1f}" == claim["value"], reason)


def _settle_iterations_ratio(claim: pd.Series, study: Study) -> Verdict:
    original, own = (study.claims.loc[f"002-s4-iterations{end}", "number"] for end in ("-original", ""))
    reason = f"{own:,.0f} of {original:,.0f} iterations, both of one image."
    return verdicts.judge_by_own_numbers(claim, own / original == claim["number"], reason)


def _settle_ordering(claim: pd.Series, study: Study) -> Verdict:
    first, second = (_of(name, claim, study) for name in (("SSDN", "known"), ("CBM3D", "")))
    if first is None or second is None:
        return verdicts.untested(claim, study, "there are no per-image results of both")
    evaluation = first[0].first.find_evaluation(ledger.dataset_name(claim), SIGMA_255)["name"]
    verdict = verdicts.judge_ordering(claim, first[0], second[0], evaluation)
    return replace(
        verdict, reason=f"{verdict.reason} Our CBM3D is told sigma, as SSDN is; the report's finds it itself."
    )


def _of(name: tuple[str, str], claim: pd.Series, study: Study) -> tuple[Group, list[pd.DataFrame]] | None:
    return _measure(pd.Series({"method": name[0], "variant": name[1], "dataset": claim["dataset"]}), study)


def _settle_trends(claim: pd.Series, study: Study) -> Verdict:
    """Every pair of trained methods of the printed column that is clearly apart, in our order."""
    column = ledger.find(study.claims, source="002", table="Table 1", dataset=claim["dataset"])
    cells = [cell for _, cell in column.iterrows() if cell["method"] != "CBM3D"]
    found = {cell["id"]: _measure(cell, study) for cell in cells}
    if not all(found.values()):
        return verdicts.untested(claim, study, "not all methods of the table are trained yet")
    groups = [measured[0] for measured in found.values()]
    if not all(alike(groups[0], group) for group in groups):
        return verdicts.untested(claim, study, "the methods of the table were not trained alike")
    wrong, pairs = [], 0
    for k, first in enumerate(cells):
        for second in cells[k + 1 :]:
            printed = first["number"] - second["number"]
            if abs(printed) <= APART_DB:
                continue
            pairs += 1
            paired = compare(found[first["id"]][1][0], found[second["id"]][1][0])
            if paired.sign != math.copysign(1, printed):
                names = (" ".join(filter(None, (c["method"], c["variant"]))) for c in (first, second))
                wrong.append(f"{' over '.join(names)} is {paired.signed()} dB, printed {printed:+.2f}")
    told = f"; not so: {'; '.join(wrong)}" if wrong else ""
    reason = f"{pairs - len(wrong)} of {pairs} pairs in the printed order{told}."
    smaller = any(group.smaller for group in groups)
    word = NOT_REPRODUCED if wrong else DIRECTION if smaller else REPRODUCED
    return Verdict(claim["id"], word, reason, **_facts(*groups))


def _settle_at_best(claim: pd.Series, study: Study) -> Verdict:
    first, second = _of(("SSDN", "known"), claim, study), _of(("N2C", ""), claim, study)
    if first is None or second is None or not alike(first[0], second[0]):
        return verdicts.untested(claim, study, "there are no two networks trained alike")
    paired = compare(first[1][0], second[1][0])
    matches = paired.high <= verdicts.PSNR_TRAINED_HERE_DB  # that it may exceed N2C is then excluded
    word = (DIRECTION if first[0].smaller else REPRODUCED) if matches else NOT_REPRODUCED
    what = f"SSDN with known sigma is {paired.signed()} dB against N2C"
    evaluation = first[0].first.find_evaluation(ledger.dataset_name(claim), SIGMA_255)["name"]
    for other in _find("N2C, patches of 64", study):  # which teach N2C more for the same work
        if other.first.find_evaluation(ledger.dataset_name(claim), SIGMA_255):
            lead = compare(first[1][0], other.per_seed(evaluation))
            what += f", {lead.signed()} dB against N2C on patches of 64"
    return Verdict(claim["id"], word, f"{what}.", **_facts(first[0], second[0], paired=paired))


def _settle_above_n2v(claim: pd.Series, study: Study) -> Verdict:
    """Unknown sigma, which is what learning from noisy images alone knows."""
    first, second = _of(("SSDN", "unknown"), claim, study), _of(("N2V", ""), claim, study)
    if first is None or second is None or not alike(first[0], second[0]):
        return verdicts.untested(claim, study, "there are no two networks trained alike")
    paired = compare(first[1][0], second[1][0])
    what = f"SSDN with unknown sigma is {paired.signed()} dB against N2V"
    holds = _word(paired.sign > 0, (first[0], second[0]))
    return Verdict(claim["id"], holds, f"{what}.", **_facts(first[0], second[0], paired=paired))


# --- training, read off the curves


def alike(one: Group, other: Group, but: str = "") -> bool:
    """Whether two groups were trained by one recipe, but for network, loss and seed, and the setting ``but``."""
    return not find_differences(one.first.settings, other.first.settings, ("loss", but))


def _find(variant: str, study: Study) -> list[Group]:
    """Trained groups of one variant, the largest budget first."""
    return [g for g in study.groups if g.first["variant"] == variant and g.trained and g.first.curve is not None]


def _pair(first: str, second: str, study: Study, fits: Callable[[Group, Group], bool]) -> tuple[Group, Group] | None:
    pairs = ((one, other) for one in _find(first, study) for other in _find(second, study))
    return next(((one, other) for one, other in pairs if fits(one, other)), None)


def _curve(group: Group, step_s: float = 1.0) -> pd.Series:
    """Validation PSNR by steps, or by seconds of ``step_s`` each; the mean over the seeds that have a curve."""
    mean = _curves(group).mean(axis=1)
    return pd.Series(mean.to_numpy(), index=mean.index * step_s)


def _curves(group: Group) -> pd.DataFrame:
    """The same by steps, a column for each of these seeds."""
    curves = [
        r.curve.dropna(subset=["psnr_db"]).set_index("step")["psnr_db"] for r in group.records if r.curve is not None
    ]
    table = pd.concat(curves, axis=1, keys=range(len(curves))).astype(float).sort_index()
    table = table.set_axis(table.index.astype(float))
    # Trainings that end by the clock have steps of their own.
    return table.interpolate(method="index", limit_area="inside").dropna()


def _ends(group: Group) -> list[float]:
    """The validation PSNR that each training has at its own end."""
    return [float(r.curve["psnr_db"].dropna().iloc[-1]) for r in group.records if r.curve is not None]


def _missing(claim: pd.Series, study: Study) -> Verdict:
    return verdicts.untested(claim, study, "there are no two runs to compare")


def _settle_training_matches(claim: pd.Series, study: Study) -> Verdict:
    pair = _pair("variable", "N2C", study, alike)
    if pair is None:
        return _missing(claim, study)
    difference = compare_trainings(*map(_ends, pair))
    bounds = [number for number in difference[:3] if not math.isnan(number)]
    holds = all(verdicts.within(number, verdicts.PSNR_TRAINED_HERE_DB) for number in bounds)
    what = f"SSDN with unknown sigma is {_describe_side(difference.mean)} N2C"
    reason = f"At its end {what} on photographs kept out of training.{_describe_seeds(difference)}"
    facts = _facts(*pair) | _bounds(difference) | {"tolerance": verdicts.PSNR_TRAINED_HERE_DB}
    return Verdict(claim["id"], _word(holds, pair), reason, **facts)


def _settle_lead_in_steps(claim: pd.Series, study: Study) -> Verdict:
    """Ahead of N2V at every validation, averaged as SSDN is here, and without averaging, as the report has it."""
    pair = _pair("variable", "N2V", study, alike)
    lead = _lead(tuple(map(_curve, pair))) if pair else None
    if lead is None:
        return _missing(claim, study)
    holds, groups = bool((lead > 0).all()), pair
    mean = compare_trainings(*_leads(pair, lead.index))
    holds = holds and not mean.low <= 0
    reason = f"Both averaged, SSDN is {_describe_lead(lead, 'validation steps')}.{_describe_seeds(mean)}"
    plain = _pair("variable", "N2V without averaging", study, partial(alike, but="ema_decay"))
    if plain and (other := _lead(tuple(map(_curve, plain)))) is not None:
        holds, groups = holds and bool((other > 0).all()), (*pair, plain[1])
        reason += f" Against N2V without averaging it is {_describe_lead(other, 'validation steps')}."
    return Verdict(claim["id"], _word(holds, groups), reason, **_facts(*groups) | _bounds(mean))


def _leads(pair: tuple[Group, Group], at: pd.Index) -> list[list[float]]:
    """The mean of the validation PSNR over the steps ``at``, for each training of the first group and of the second."""
    curves = (_curves(group) for group in pair)
    return [[float(np.interp(at, table.index, table[seed]).mean()) for seed in table] for table in curves]


def _bounds(difference: Interval) -> dict:
    """An interval over trainings as a verdict has it: without bounds where each was trained once."""
    bounds = (None if math.isnan(bound) else bound for bound in (difference.low, difference.high))
    return {"difference": difference.mean, **dict(zip(("low", "high"), bounds, strict=True))}


def _describe_seeds(difference: Interval) -> str:
    """The same as a sentence; nothing where each was trained once."""
    if math.isnan(difference.low):
        return ""
    return f" Interval over the {difference.count} trainings: [{difference.low:+.2f}, {difference.high:+.2f}] dB."


def _settle_lead_in_time(claim: pd.Series, study: Study) -> Verdict:
    """Which of the two reaches first what both reach, if every step takes what it takes on an idle machine."""
    pair = _pair("variable", "N2V", study, alike)
    if pair is None or not (took := read_step_seconds(pair[0])):
        return _missing(claim, study)
    curves = tuple(_curve(group, took[group.first["variant"]]) for group in pair)
    lead = _lead_at_any_time(curves)
    if lead is None:
        return _missing(claim, study)
    level = min(curve.max() for curve in curves)
    first, second = (_reach(curve, level) for curve in curves)
    reason = (
        f"Both averaged, and with the step times of an idle machine, SSDN reaches the most that both reach, "
        f"{level:.2f} dB, after {first / 60:.1f} minutes, N2V after {second / 60:.1f}"
    )
    if not ((lead > 0).all() or (lead < 0).all()):
        reason += f"; {'N2V' if lead.iloc[0] < 0 else 'SSDN'} is ahead at first" if lead.iloc[0] else ""
        whose = "of one seed" if all(len(group.records) == 1 for group in pair) else "of a few seeds"
        why = f"two curves that meet, {whose}, decide nothing"
        return replace(verdicts.untested(claim, study, f"{reason}: {why}", waits=False), **_facts(*pair))
    side = "ahead" if (lead > 0).all() else "behind"
    reason += f"; while both train, SSDN is {side} throughout, by {abs(lead).min():.2f} dB or more."
    return Verdict(claim["id"], _word(side == "ahead", pair), reason, **_facts(*pair))


def read_step_seconds(group: Group | None = None) -> dict[str, float]:
    """Seconds of a training step on an idle machine by variant, from `repro bench blindspot`; empty where nobody ran
    it, or only with another kind of device and other batches than those of ``group``. The seconds of a record would not
    do, since the machine may have worked on other things as well."""
    for about, table in timing.load("blindspot"):
        if group and _describe_load(about["device"], about) != _describe_load(
            group.first["device"], group.first.settings
        ):
            continue
        took = table.set_index("training")["step_s"]
        plain = took["N2V"]  # averaging the weights costs next to nothing
        ours = {"variable": took["SSDN, variable level"], "known": took["SSDN, known level"]}
        return ours | {"N2V": plain, "N2V without averaging": plain}
    return {}


def _describe_load(device: str, batches: dict) -> tuple[bool, int]:
    """Whether a step runs on an accelerator, and how many pixels it sees."""
    return names_accelerator(device), batches.get("batch", 0) * batches.get("patch", 0) ** 2


def _lead(curves: tuple[pd.Series, pd.Series]) -> pd.Series | None:
    """How far the first curve is above the second wherever it has a point while both run, in dB."""
    ours, other = curves
    at = ours.index[(ours.index >= other.index[0]) & (ours.index <= min(ours.index[-1], other.index[-1]))]
    return ours[at] - np.interp(at, other.index, other) if len(at) else None


def _lead_at_any_time(curves: tuple[pd.Series, pd.Series]) -> pd.Series | None:
    """The same wherever either curve has a point while both run, the other between its points by a straight line."""
    begin, end = max(curve.index[0] for curve in curves), min(curve.index[-1] for curve in curves)
    at = np.unique(np.concatenate([curve.index for curve in curves]))
    at = at[(at >= begin) & (at <= end)]
    ours, other = (np.interp(at, curve.index, curve) for curve in curves)
    return pd.Series(ours - other, at) if len(at) else None


def _describe_lead(lead: pd.Series, moments: str) -> str:
    return f"ahead at {int((lead > 0).sum())} of {len(lead)} {moments}, on average {_describe_side(lead.mean())}"


def _describe_side(difference_db: float) -> str:
    return f"{abs(difference_db):.2f} dB {'above' if difference_db >= 0 else 'below'}"


@dataclass(frozen=True)
class Race:
    """After how many steps two runs reach the highest validation PSNR that both reach: SSDN first, N2V second."""

    groups: tuple[Group, Group]
    psnr_db: float
    steps: tuple[float, float]


def race(study: Study) -> list[Race]:
    """SSDN against N2V, for the kinds of each that are trained by one recipe."""
    races = []
    for ours in ("variable", "known"):
        for theirs, but in (("N2V", ""), ("N2V without averaging", "ema_decay")):
            pair = _pair(ours, theirs, study, partial(alike, but=but))
            if pair is None:
                continue
            curves = [_curve(group) for group in pair]
            level = min(curve.max() for curve in curves)
            races.append(Race(pair, float(level), tuple(_reach(curve, level) for curve in curves)))
    return races


def _reach(curve: pd.Series, level: float) -> float:
    """Where a curve first reaches ``level``, between its points by a straight line."""
    place = int((curve.to_numpy() >= level).argmax())
    if place == 0:
        return float(curve.index[0])
    below, above = curve.iloc[place - 1], curve.iloc[place]
    share = (level - below) / (above - below)
    return float(curve.index[place - 1] + share * (curve.index[place] - curve.index[place - 1]))


def _settle_clipping(plain: str, clipped: str, loss_db: float) -> Callable[[pd.Series, Study], Verdict]:
    """Trained and tested with clipped noise, against neither, by the mean over Kodak24."""

    def settle_clipping(claim: pd.Series, study: Study) -> Verdict:
        pair = _pair(plain, clipped, study, partial(alike, but="clip"))
        if pair is None:
            return _missing(claim, study)
        values = []
        for group, clip in zip(pair, (False, True), strict=True):
            on = [e["name"] for e in group.first["evaluations"] if e["dataset"] == "kodak24" and e["clip"] == clip]
            if not on:
                return _missing(claim, study)
            values.append(group.per_seed(on[0]))
        paired = compare(*values)
        holds = paired.low > loss_db
        reason = f"Kodak24 without clipping is {paired.signed()} dB against Kodak24 with clipping"
        needed = f", where more than {loss_db:g} dB would be a failure" if loss_db else ""
        told = f"{reason}{needed}.{_describe_start(pair[0])}"
        return Verdict(claim["id"], _word(holds, pair), told, **_facts(*pair, paired=paired))

    return settle_clipping


def _describe_start(group: Group) -> str:
    """What an unknown level begins from, where that is not what the authors' begins from."""
    from repro.models.ssdn import FIRST_STRENGTH

    first, theirs = group.first["hyperparameters"]["sizes"]["value"].get("first_strength"), 255 * FIRST_STRENGTH
    return f" The level begins at {255 * first:.0f} gray levels here, at {theirs:.1f} in the sources." if first else ""


def _settle_zero_layer(claim: pd.Series, study: Study) -> Verdict:
    """Said of a level that begins at the authors' value; begun elsewhere, a run says nothing about it."""
    pair = _pair("variable", "variable, last layer not zeroed", study, alike)
    if pair is None:
        return _missing(claim, study)
    difference = compare_trainings(*map(_ends, pair))
    reason = (
        f"With zeros the run ends {_describe_side(difference.mean)} the run without, on photographs kept out of "
        f"training; more than {FAILED_DB:g} dB would be a failure to converge.{_describe_seeds(difference)}"
        f"{_describe_start(pair[0])}"
    )
    facts = _facts(*pair) | _bounds(difference) | {"tolerance": FAILED_DB}
    at_least = difference.mean if math.isnan(difference.low) else difference.low
    word = NOT_TESTABLE if _describe_start(pair[0]) else _word(at_least > FAILED_DB, pair)
    return Verdict(claim["id"], word, reason, **facts)


def _settle_time_ratio(claim: pd.Series, study: Study) -> Verdict:
    """A training step of SSDN with a variable level against one of N2V, timed in turns on a machine that did nothing
    else: the seconds of a record are of whatever ran beside it."""
    took = read_step_seconds()
    if not took:
        return verdicts.untested(claim, study, "nobody ran `repro bench blindspot` yet", waits=False)
    ratio = took["variable"] / took["N2V"]
    reason = f"{took['variable']:.2f} s a step against {took['N2V']:.2f} s, {ratio:.1f} times as long."
    facts = {"ours": ratio, "difference": ratio - claim["number"]}
    facts |= {"evidence": "repro bench blindspot", "command": "repro bench blindspot"}
    return Verdict(claim["id"], DIRECTION if ratio > 1 else NOT_REPRODUCED, reason, **facts)


def _settle_size_ratio(claim: pd.Series, study: Study) -> Verdict:
    blind, baseline = _costs()
    parameters, arithmetic = blind.parameters / baseline.parameters, blind.macs / baseline.macs
    reason = (
        f"{blind.parameters:,} parameters against {baseline.parameters:,}, {parameters:.2f} times as many; the "
        f"arithmetic is {arithmetic:.2f} times as much, since four turned copies of the image pass through."
    )
    facts = {"ours": parameters, "difference": parameters - claim["number"], "evidence": "repro.study.costs"}
    word = REPRODUCED if verdicts.within(parameters - claim["number"], SIZE_RATIO) else NOT_REPRODUCED
    return Verdict(claim["id"], word, reason, **facts)


def _settle_constant_parameters(claim: pd.Series, study: Study) -> Verdict:
    """What learning one level for all images adds to the network that is told the level."""
    from repro.models import build
    from repro.models.base import count_parameters

    constant, known = (count_parameters(build("ssdn", parameter=name)) for name in ("constant", "known"))
    difference = constant - known
    word = REPRODUCED if difference == claim["number"] else NOT_REPRODUCED
    reason = f"{constant:,} parameters with a constant sigma that is learned, {known:,} with a known one."
    return Verdict(claim["id"], word, reason, evidence="repro.models.ssdn")


@cache
def _costs():
    from repro.models import build
    from repro.study.costs import measure_cost

    return measure_cost(build("ssdn"), 256, 256), measure_cost(build("unet"), 256, 256)


# --- the puzzle of BSD300


@dataclass(frozen=True)
class Shift:
    """One network under one convention: mean PSNR, and how far it is from the study's own convention there."""

    dataset: str
    convention: str
    measured_with: str
    psnr_db: float
    shift: Interval | None  # None for the study's own convention
    originals: bool = False  # whether the original has it and the report has not; else the report may have it
    same_images: bool = True  # else the two sets of images are given, and the interval is that of other images

    @property
    def is_told(self) -> bool:
        """Whether its sign is beyond chance. Which images there are is not a matter of chance."""
        return bool(self.shift) and (bool(self.shift.sign) or not self.same_images)

    @property
    def towards_report_db(self) -> float:
        """What goes from the original's way to the report's change, if this is where they differ."""
        return -self.shift.mean if self.originals else self.shift.mean


def measure_conventions(group: Group, study: Study) -> list[Shift]:
    """What each evaluation of ``group`` changes against the first on the same images: rounding, clipping, padding,
    cropping, repeats, by image; and other choices of BSD300's images."""
    own = {}
    for evaluation in group.first["evaluations"]:
        own.setdefault(evaluation["dataset"], evaluation)
    shifts = []
    for dataset in (name for name in own if name in ("kodak24", "bsd300test")):
        values = group.per_seed(own[dataset]["name"])
        who = group.first["variant"]
        shifts.append(Shift(dataset, "one draw, then padded, nothing rounded", who, _mean(values), None))
        rounded = group.per_seed(own[dataset]["name"], "psnr_rounded_db")
        shifts.append(Shift(dataset, "result rounded to 8 bits", who, _mean(rounded), compare(rounded, values), True))
        for other in group.first["evaluations"]:
            if other["dataset"] == dataset and other is not own[dataset] and other["sigma_255"] == SIGMA_255:
                column = group.per_seed(other["name"])
                originals = other.get("pad") == "clean" or other.get("repeats", 1) > 1
                shift = compare(column, values)
                shifts.append(Shift(dataset, _name_convention(other), who, _mean(column), shift, originals))
    if {"bsd300test", "cbsd68"} <= own.keys():
        whole, part = (group.per_image(own[name]["name"]) for name in ("bsd300test", "cbsd68"))
        if set(part.index) <= set(whole.index):
            shift = compare_choices(whole, whole.index.isin(part.index), np.ones(len(whole), bool))
            who = group.first["variant"]
            shifts.append(Shift("bsd300test", "the 68 images of CBSD68", who, part.mean(), shift, same_images=False))
    return shifts + _measure_all_300(study)


def _mean(values: pd.DataFrame) -> float:
    return float(values.to_numpy().mean())


def _name_convention(evaluation: dict) -> str:
    """How an evaluation differs from the study's own convention, in words."""
    parts = {
        "noise clipped and rounded to 8 bits": evaluation["round_8bit"],
        "noise clipped": evaluation["clip"] and not evaluation["round_8bit"],
        "padded by reflection, then noise": evaluation.get("pad") == "clean",
        "noise, then padded by reflection": evaluation.get("pad") == "noisy",
        f"cropped to multiples of {evaluation.get('crop_multiple')}": evaluation.get("crop_multiple"),
        f"{evaluation.get('repeats')} draws of the noise": evaluation.get("repeats", 1) > 1,
        f"patches of {evaluation.get('patch')} pixels": evaluation.get("patch"),
        "mean over eight turned versions": evaluation.get("ensemble"),
        f"noise of seed {evaluation.get('seed')}": evaluation.get("seed"),
    }
    return ", ".join(words for words, holds in parts.items() if holds)


def _measure_all_300(study: Study) -> list[Shift]:
    """All 300 photographs of BSD300 instead of the 100 for testing, with a filter, which no photograph has taught.

    The other 200 are the training half of bsd400, so that no network trained on it can say.
    """
    training = {path.removeprefix("train/").rsplit(".", 1)[0] for path in catalog.find("bsd400").files
                if path.startswith("train/")}  # fmt: skip
    for group in study.groups:
        found = [group.first.find_evaluation(name, SIGMA_255) for name in ("bsd300test", "bsd400")]
        if not group.trained and all(found):
            test, other = (group.per_image(evaluation["name"]) for evaluation in found)
            everything = pd.concat([test, other[other.index.isin(training)]])
            shift = compare_choices(everything, np.ones(len(everything), bool), everything.index.isin(test.index))
            who = group.first["method"]
            return [Shift("bsd300test", "all 300 images", who, everything.mean(), shift, same_images=False)]
    return []


def compare_choices(values: pd.Series, first: np.ndarray, second: np.ndarray, seed: int = 0) -> Interval:
    """Bootstrap of the mean over the images ``first`` minus that over the images ``second``, masks of ``values``.

    Images are drawn from all; the two choices may share some.
    """
    numbers, masks = values.to_numpy(float), np.stack([first, second]).astype(float)
    drawn = np.random.default_rng(seed).integers(len(numbers), size=(DRAWS, len(numbers)))
    chosen = masks[:, drawn]  # [2, draws, images]
    means = (numbers[drawn] * chosen).sum(2) / chosen.sum(2).clip(1)
    tail = 50 * (1 - LEVEL)
    low, high = np.percentile(means[0] - means[1], [tail, 100 - tail])
    mean = (masks @ numbers) / masks.sum(1)
    return Interval(float(mean[0] - mean[1]), float(low), float(high), len(numbers))


# --- helpers


def _word(holds: bool, groups: tuple[Group, ...]) -> str:
    if not holds:
        return NOT_REPRODUCED
    return DIRECTION if any(group.smaller for group in groups) else REPRODUCED


def _facts(*groups: Group, paired: Interval | None = None) -> dict:
    first = groups[0]
    facts = {"budget": first.budget, "evidence": " ".join(g.names for g in groups), "command": first.first["command"]}
    if paired is not None:
        facts |= {"difference": paired.mean, "low": paired.low, "high": paired.high}
    return facts


def _untested(reason: str) -> Callable[[pd.Series, Study], Verdict]:
    return lambda claim, study: verdicts.untested(claim, study, reason, waits=False)


RULES = {
    "psnr": _settle_value,
    "psnr_loss": _settle_loss,
    "iterations_ratio": _settle_iterations_ratio,
    "ordering": _settle_ordering,
    "time_ratio": _settle_time_ratio,
    "size_ratio": _settle_size_ratio,
    "parameters": _settle_constant_parameters,
}
DIRECTIONS = {
    "expected trends": _settle_trends,
    "at best matches N2C": _settle_at_best,
    "better than N2V": _settle_above_n2v,
    "trains like N2C": _settle_training_matches,
    "learns faster than N2V per iteration": _settle_lead_in_steps,
    "learns faster than N2V per hour": _settle_lead_in_time,
    "clipping lowers PSNR, sigma known": _settle_clipping("known", "known, clipped noise", 0.0),
    "clipping defeats estimation": _settle_clipping("variable", "variable, clipped noise", FAILED_DB),
    "estimation needs the zeroed last layer": _settle_zero_layer,
    "little difference to the eye": _untested("whose eye, and on which images, is not said"),
    "trains as the original": _untested("it is about the original's program, which is not run here"),
    "original drops in validation": _untested("it is about the original's program, which is not run here"),
    "further training increases PSNR": _untested("it is about training that nobody did"),
}
