"""Verdicts on SADNet's claims: of the paper (001) and of its replication (000).

The rules are those of :mod:`repro.study.verdicts`; here is which of them a claim falls under, and what is measured for
it.
"""

import math
from dataclasses import replace
from functools import cache
from pathlib import Path

import pandas as pd

from repro.study import claims as ledger
from repro.study import comparators, verdicts
from repro.study import records as archive
from repro.study.statistics import compare
from repro.study.verdicts import (
    DIRECTION,
    METHODS,
    NOT_REPRODUCED,
    NOT_TESTABLE,
    REPRODUCED,
    Group,
    Study,
    Verdict,
    by_sign,
    judge_by_own_numbers,
    judge_ordering,
    pair_up,
    untested,
    why_not,
    within,
)

GAIN_LEVELS = (30.0, 70.0)
FIRST_PUBLIC = 4_427_171  # parameters of the network in the authors' first public code, unused layers included


def settle(claim: pd.Series, study: Study) -> Verdict | None:
    """The verdict on a claim of 000 or 001; None where the rule is the same as for every other document's."""
    if claim["metric"] in ledger.ARCHITECTURE:
        return _settle_architecture(claim, study)
    rule = RULES.get(claim["metric"])
    return rule(claim, study) if rule else None


# --- orderings --------------------------------------------------------------------------------------------------------


def _settle_ordering(claim: pd.Series, study: Study) -> Verdict:
    variant = claim["variant"]
    if "flops" in variant or "parameters" in variant:
        return _settle_cost_ordering(claim, study)
    if "time" in variant:
        return untested(claim, study, verdicts.TIMES, waits=False)
    contradicted = _read_own_table(claim, study)
    if contradicted:
        return Verdict(claim["id"], NOT_REPRODUCED, contradicted, evidence=f"{claim['source']}'s own table")
    if claim["dataset"] in verdicts.CLOSED or not claim["dataset"]:
        return untested(claim, study, why_not(claim, claim["method"]))
    if claim["noise"] == "real":
        return _settle_over_on_real_noise(claim, study)
    ours, other = _sides(claim)
    dataset, sigma = ledger.dataset_name(claim), claim["sigma_255"]
    firsts, seconds = (list(study.find(m, v, claim["colour"], dataset, sigma)) for m, v in (ours, other))
    for first, second, evaluation in pair_up(firsts, seconds, dataset, sigma):
        if ours[0] != other[0] or first.same_recipe(second):
            verdict = judge_ordering(claim, first, second, evaluation)
            return _discount(claim, verdict, second, evaluation, study)
    if not seconds and ours[0] != other[0]:
        name = variant.split("over ")[-1]
        if absence := comparators.explain_absence(name, claim["colour"], sigma):  # a run of ours would settle nothing
            return untested(claim, study, absence, waits=False)
        return untested(claim, study, f"there is no record of {name} at sigma {sigma:g} on {claim['dataset']} here")
    return untested(claim, study, f"there are no per-image results of both: {claim['method']} {variant}")


def _discount(claim: pd.Series, verdict: Verdict, second: Group, evaluation: str, study: Study) -> Verdict:
    """A lead over published weights that are worse than printed: it has to be larger than what they are short of."""
    at = {"dataset": claim["dataset"], "colour": claim["colour"], "sigma_255": claim["sigma_255"], "metric": "psnr"}
    cells = ledger.find(study.claims, source="001", method=claim["variant"].split("over ")[-1], variant="", **at)
    if verdict.word == NOT_REPRODUCED or second.trained or cells.empty:
        return verdict
    cell = cells.iloc[0]
    short = cell["number"] - float(second.per_image(evaluation).mean())
    if within(short, verdicts.PSNR_DB) or short < verdict.low:
        return verdict
    reason = (
        f"{verdict.reason} But the {cell['method']} at hand is itself {short:.2f} dB below its printed "
        f"{cell['value']} dB: the lead may be no more than that."
    )
    return replace(verdict, word=NOT_TESTABLE, reason=reason)


def _settle_over_on_real_noise(claim: pd.Series, study: Study) -> Verdict:
    """SADNet over another method on photographs: in SSIM where the claim says so, else by its gain in dB.

    The networks have other training sets than the paper's, so that a gain speaks by its sign.
    """
    words, _, name = claim["variant"].rpartition("over ")  # "ssim over PD", "over PD"
    dataset, method = ledger.dataset_name(claim), METHODS.get(name, name.lower())
    firsts, seconds = (study.find(m, "full", claim["colour"], dataset, None) for m in ("sadnet", method))
    for first, second, evaluation in pair_up(firsts, seconds, dataset, None):
        metric = "ssim" if words.startswith("ssim") else "psnr_db"
        better = claim.copy()
        better["number"] = 1.0
        verdict = judge_ordering(better, first, second, evaluation, metric)
        about = verdicts.describe_real_training(claim, first).removeprefix(", ")
        about = about[:1].upper() + about[1:]
        word = DIRECTION if verdict.word == REPRODUCED else verdict.word
        verdict = replace(verdict, word=word, reason=f"{verdict.reason} {about}.")
        if metric == "psnr_db":
            verdict = _discount(claim, verdict, second, evaluation, study)
        return verdicts.withhold_empty_lead(verdict, second, evaluation)
    if not seconds:  # a run of ours would settle nothing
        absence = comparators.explain_absence(name, claim["colour"], math.nan)
        absence = absence or f"there is no record of {name} on the photographs of {claim['dataset']} here"
        return untested(claim, study, absence, waits=False)
    return untested(claim, study, why_not(claim, claim["method"]))


def _sides(claim: pd.Series) -> tuple[tuple[str, str], tuple[str, str]]:
    """(method, variant) of the two sides of an ordering's ``variant``."""
    first, second = (
        ("", claim["variant"].removeprefix("over "))
        if claim["variant"].startswith("over ")
        else (claim["variant"].split(" over "))
    )
    if claim["table"] == "Section 4.1":  # two states of the ablation study
        return ("sadnet", first), ("sadnet", second)
    return ("sadnet", first or "full"), (METHODS.get(second, second.lower()), "full")


def _read_own_table(claim: pd.Series, study: Study) -> str:
    """What the source's own table says against an ordering, or an empty word."""
    name = claim["variant"].split("over ")[-1]
    metric = "ssim" if claim["variant"].startswith("ssim") else "psnr"
    cells = ledger.find(
        study.claims, source=claim["source"], dataset=claim["dataset"], colour=claim["colour"], metric=metric
    )
    cells = cells[cells["table"].str.startswith("Table") & (cells["table"] != "Table 1")]
    if not math.isnan(claim["sigma_255"]):
        cells = cells[cells["sigma_255"] == claim["sigma_255"]]
    own = "replication" if claim["source"] == "000" else ""
    first = ledger.find(cells, method="SADNet", variant=own)
    second = ledger.find(cells, method=name, variant="")
    if first.empty or second.empty or first["number"].iloc[0] > second["number"].iloc[0]:
        return ""
    first, second = first.iloc[0], second.iloc[0]
    return f"{first['table']} itself prints {first['value']} for SADNet and {second['value']} for {name}."


# --- statements -------------------------------------------------------------------------------------------------------


def _settle_direction(claim: pd.Series, study: Study) -> Verdict:
    variant = claim["variant"]
    for words, rule in DIRECTIONS.items():
        if words in variant:
            return rule(claim, study)
    return untested(claim, study, "the study has no measure for it")


def _settle_on_par(claim: pd.Series, study: Study) -> Verdict:
    """The replication's own statement, by this study's tolerance for models trained anew."""
    at = {"dataset": claim["dataset"], "colour": claim["colour"], "metric": "psnr", "method": "SADNet"}
    cells = ledger.find(study.claims, source="000", **at)
    cells = cells[cells["table"].str.startswith("Table")]
    if not math.isnan(claim["sigma_255"]):
        cells = cells[cells["sigma_255"] == claim["sigma_255"]]
    paper, replication = (ledger.find(cells, variant=v)["number"].iloc[0] for v in ("", "replication"))
    difference = replication - paper
    near = f"{abs(difference):.2f} dB {'above' if difference >= 0 else 'below'} the paper"
    reason = f"The replication prints {near}; on par is what is no more than {verdicts.PSNR_TRAINED_HERE_DB} dB below."
    return judge_by_own_numbers(claim, difference > -verdicts.PSNR_TRAINED_HERE_DB - 1e-9, reason)


def _settle_noise_removal(claim: pd.Series, study: Study) -> Verdict:
    for group in study.groups:
        known = group.first["evaluations"] if group.first["method"] == "sadnet" else []
        found = [e["name"] for e in known if (e["sigma_255"] is None) == (claim["noise"] == "real")]
        if found:
            evaluation = found[0]
            gained = compare(group.per_seed(evaluation), group.per_seed(evaluation, "psnr_noisy_db"))
            facts = {
                "difference": gained.mean,
                "low": gained.low,
                "high": gained.high,
                "budget": group.budget,
            }
            facts |= {"evidence": group.names, "command": group.command(evaluation)}
            about = next(e for e in known if e["name"] == evaluation)
            at = f" at the {group.budget} budget" if group.smaller else ""
            what = f"{gained.signed()} dB over the noisy images of {about['dataset']}{at}"
            return by_sign(
                claim, gained, group.smaller, f"{what}{verdicts.describe_real_training(claim, group)}", facts
            )
    return untested(claim, study, "there is no record of a SADNet for this noise")


def _settle_generalisation(claim: pd.Series, study: Study) -> Verdict:
    """How much of real noise has to be removed is not said, nor is DND at hand; what is at hand is told."""
    verdict = untested(claim, study, why_not(claim, claim["method"]), waits=False)
    for group in study.groups:
        if (group.first["method"], group.first["colour"]) == ("dncnn", "rgb") and not group.trained:
            for evaluation in group.first["evaluations"]:
                if evaluation["sigma_255"] is None and evaluation["dataset"] == "nam25":
                    name = evaluation["name"]
                    gained = compare(group.per_seed(name), group.per_seed(name, "psnr_noisy_db"))
                    told = f"On nam25 its published weights bring {gained.signed()} dB over the noisy images."
                    return replace(verdict, reason=f"{verdict.reason} {told}", evidence=group.names)
    return verdict


def _settle_activations(claim: pd.Series, study: Study) -> Verdict:
    from repro.study.settings import find_activated_blocks

    count, blocks = find_activated_blocks()
    word = REPRODUCED if count == blocks else NOT_REPRODUCED
    reason = f"In the network that meets the authors' code {count} of {blocks} ResBlocks are followed by an activation."
    return Verdict(claim["id"], word, reason, evidence="repro.models.sadnet")


def _settle_gain(claim: pd.Series, study: Study) -> Verdict:
    """The gain over each compared method at the highest noise level minus that at the lowest, image by image.

    The sentence names no method: it holds where the gain grows over every one that was measured.
    """
    dataset = ledger.dataset_name(claim)
    low, high = (study.find("sadnet", "full", claim["colour"], dataset, sigma) for sigma in GAIN_LEVELS)
    alike = low and high and not archive.find_differences(low[0].first.settings, high[0].first.settings, {"sigma_255"})
    printed = _read_printed_growth(claim, study)
    growths, adrift = {}, []
    for name in printed if alike else ():
        gains: list[dict[str, pd.DataFrame]] = []  # by the convention of the noise, which must be one at both levels
        short: list[dict[str, float]] = []  # how far the other lies below what is printed of it
        for ours, sigma in zip((low[0], high[0]), GAIN_LEVELS, strict=True):
            others = study.find(METHODS.get(name, name.lower()), "full", claim["colour"], dataset, sigma)
            gains.append({})
            short.append({})
            for _, other, evaluation in pair_up([ours], others, dataset, sigma):
                gain = ours.per_seed(evaluation).sub(other.per_image(evaluation), axis=0)
                convention = evaluation.removeprefix(f"{dataset}-{sigma:g}")
                gains[-1].setdefault(convention, gain)
                printed_db = _read_printed(claim, study, name, sigma)
                short[-1].setdefault(convention, printed_db - float(other.per_image(evaluation).mean()))
        if alike_both := [convention for convention in gains[0] if convention in gains[1]]:
            growth = compare(*(gain[alike_both[0]] for gain in reversed(gains)))
            drift = short[1][alike_both[0]] - short[0][alike_both[0]]
            if growth.sign > 0 and drift > verdicts.PSNR_DB and drift >= growth.low:
                adrift.append(
                    f"over {name} by {growth.signed()} dB, which may be no more than the {drift:.2f} dB that the "
                    f"{name} at hand loses against its printed values"
                )
            else:
                growths[name] = growth
    if not growths:
        why = (
            f"it grows {'; '.join(adrift)}"
            if adrift
            else ("it needs SADNet and one compared method at sigma 30 and 70")
        )
        return untested(claim, study, why)
    weakest = min(growths.values(), key=lambda growth: growth.low)  # the one that is told from 0 least
    facts = {"difference": weakest.mean, "low": weakest.low, "high": weakest.high, "budget": high[0].budget}
    facts |= {"evidence": f"{low[0].names} {high[0].names}", "command": high[0].first["command"]}
    told = ", ".join(f"over {name} by {growth.signed()} dB" for name, growth in growths.items())
    shrinks = [name for name, growth in printed.items() if growth <= 0]
    against = f"; by the printed values it grows over all but {', '.join(shrinks)}" if shrinks else ""
    left = f"; not counted: {'; '.join(adrift)}" if adrift else ""
    what = f"The gain grows {told} from sigma {GAIN_LEVELS[0]:g} to {GAIN_LEVELS[1]:g}{left}{against}"
    return by_sign(claim, weakest, high[0].smaller, what, facts)


def _read_printed(claim: pd.Series, study: Study, method: str, sigma_255: float) -> float:
    """What the paper's table of PSNR prints of a method, in dB."""
    at = {"dataset": claim["dataset"], "colour": claim["colour"], "sigma_255": sigma_255}
    cells = ledger.find(study.claims, source="001", table="Table 3", metric="psnr", method=method, **at)
    return float(cells["number"].iloc[0])


def _read_printed_growth(claim: pd.Series, study: Study) -> dict[str, float]:
    """Compared method -> growth of SADNet's printed gain over it from the lowest to the highest level, in dB."""
    cells = ledger.find(study.claims, source="001", table="Table 3", metric="psnr", dataset=claim["dataset"])
    at = {sigma: cells[cells["sigma_255"] == sigma].set_index("method")["number"] for sigma in GAIN_LEVELS}
    low, high = (at[sigma]["SADNet"] - at[sigma].drop("SADNet") for sigma in GAIN_LEVELS)
    return (high - low).round(4).to_dict()


def _settle_offsets(claim: pd.Series, study: Study) -> Verdict:
    """One of the paper's sentences about the learned kernels, at every scale it speaks of."""
    from repro import offsets

    (statement,) = [statement for statement, id in offsets.CLAIMS.items() if id == claim["id"]]
    for group in study.groups:
        measured = [record for record in group.records if record.offsets is not None]
        if group.first["variant"] != "full" or not measured:
            continue
        rows = _summarise_offsets(*(record.folder for record in measured))
        rows = rows[rows["claim"] == statement]
        shown = "; ".join(
            f"{row.mean:+.2g} [{row.low:+.2g}, {row.high:+.2g}] (the first value alone: {row.own:.2g}) "
            f"at 1/{row.cell_px}"
            for row in rows.itertuples()
        )
        shown = f"{offsets.QUANTITIES[statement]}: {shown}{_tell_calm(measured, statement)}"
        evidence = " ".join(record.name for record in measured)
        facts = {"budget": group.budget, "evidence": evidence, "command": group.first["command"]}
        if rows["holds"].all():
            word = DIRECTION if group.smaller else REPRODUCED
            reason = f"Holds at every scale. {shown}."
            if statement in offsets.UNMEASURED:
                word, reason = NOT_TESTABLE, f"{reason} {offsets.UNMEASURED[statement]}"
            return Verdict(claim["id"], word, reason, **facts)
        count = int(rows["holds"].sum())
        reason = f"Holds at {count} of {len(rows)} scales. {shown}."
        return Verdict(claim["id"], NOT_REPRODUCED, reason, **facts)
    return untested(claim, study, "there is no network whose sampling points were measured")


def _tell_calm(measured: list[archive.Record], statement: str) -> str:
    """At how many scales a sentence holds without the trainings in which sampling points ran away, where there are some
    of both kinds: one such training outweighs all others in a mean."""
    calm = [record.folder for record in measured if not record.ran_away]
    if not calm or len(calm) == len(measured):
        return ""
    rows = _summarise_offsets(*calm)
    holds = rows.loc[rows["claim"] == statement, "holds"]
    alone = "the one" if len(calm) == 1 else f"the {len(calm)}"
    return f". In {alone} without runaway sampling points it holds at {int(holds.sum())} of {len(holds)} scales"


@cache
def _summarise_offsets(*folders: Path) -> pd.DataFrame:
    from repro import offsets

    return offsets.summarise(*(pd.read_csv(folder / "offsets.csv") for folder in folders))


def _settle_dilation(claim: pd.Series, study: Study) -> Verdict:
    import repro
    from repro.models.base import count_parameters

    counts = {d: count_parameters(repro.build("sadnet", dilations=d)) for d in ((1, 1, 1, 1), (1, 2, 3, 4))}
    difference = counts[1, 2, 3, 4] - counts[1, 1, 1, 1]
    word = REPRODUCED if difference == 0 else NOT_REPRODUCED
    reason = f"{difference} more parameters with dilations 1, 2, 3, 4 than with 1, 1, 1, 1."
    return Verdict(claim["id"], word, reason, difference=difference, tolerance=0, evidence="repro.build")


# --- costs and settings -----------------------------------------------------------------------------------------------


def _settle_parameters(claim: pd.Series, study: Study) -> Verdict:
    cost = _cost(claim["method"])
    if cost is None:
        return untested(claim, study, f"the study has no {claim['method']} yet")
    ours = cost.parameters / 1000
    facts = {"ours": ours, "difference": ours - claim["number"], "tolerance": 0.5, "evidence": "repro.build"}
    exact = f"{cost.parameters:,} in the network"
    if round(ours) == claim["number"]:
        return Verdict(claim["id"], REPRODUCED, f"{exact}.", **facts)
    unused = _unused_upstream(claim["method"])
    if unused and round((cost.parameters + unused) / 1000) == claim["number"]:
        reason = (
            f"{exact}; explained: with the {unused:,} of the 1x1 layers that the authors' first public code "
            f"made in encoder blocks 2 to 4 and never used, it is {cost.parameters + unused:,}. That code has more "
            f"unused layers, {FIRST_PUBLIC:,} parameters in all; that just these were counted is inferred from the sum."
        )
        return Verdict(claim["id"], REPRODUCED, reason, **facts)
    return Verdict(claim["id"], NOT_REPRODUCED, f"{exact}.", **facts)


def _settle_flops(claim: pd.Series, study: Study) -> Verdict:
    cost = _cost(claim["method"])
    if cost is None:
        return untested(claim, study, f"the study has no {claim['method']} yet")
    ours = cost.flops / 1e9
    tolerance = verdicts.FLOPS_RELATIVE * claim["number"]
    word = REPRODUCED if within(ours - claim["number"], tolerance) else NOT_REPRODUCED
    reason = f"{ours:.2f} G as the profilers of 2019 count; {cost.macs / 1e9:.2f} G true multiply-accumulates."
    facts = {"ours": ours, "difference": ours - claim["number"], "tolerance": tolerance}
    facts["evidence"] = "repro.study.costs"
    return Verdict(claim["id"], word, reason, **facts)


def _settle_cost_ordering(claim: pd.Series, study: Study) -> Verdict:
    what, relation, name = claim["variant"].split()  # "flops below RNAN"
    ours, other = _cost("SADNet"), _cost(name)
    if other is None:
        return untested(claim, study, f"the study has no {name} yet")
    first, second = ((getattr(cost, what)) for cost in (ours, other))
    holds = first < second if relation == "below" else first > second
    reason = f"{first:,} {what} against {second:,}."
    if relation == "above" and holds:  # "faster than ... with more parameters"
        reason += " That half of the sentence is so; the other, which is faster, belongs to the authors' machine."
        return Verdict(claim["id"], NOT_TESTABLE, reason)
    facts = {"ours": first, "difference": first - second, "evidence": "repro.study.costs"}
    return Verdict(claim["id"], REPRODUCED if holds else NOT_REPRODUCED, reason, **facts)


@cache
def _cost(method: str):
    """Cost of a method's published network on a 480x320 colour image, or None where the study has none."""
    from repro.models import MODELS, build
    from repro.study.costs import measure_cost

    name = METHODS.get(method, method.lower())
    return measure_cost(build(name), 320, 480) if name in MODELS else None


def _unused_upstream(method: str) -> int:
    """Parameters of the 1x1 layers, with bias, that the authors' first public code made and never used."""
    return sum(width * width + width for width in (64, 128, 256)) if method == "SADNet" else 0


def _settle_psnr_loss(claim: pd.Series, study: Study) -> Verdict:
    cells = ledger.find(study.claims, source=claim["source"], dataset=claim["dataset"], table="Table 2")
    cells = ledger.find(cells, method="SADNet")
    paper, replication = (ledger.find(cells, variant=v)["number"].iloc[0] for v in ("", "replication"))
    ours = 100 * (paper - replication) / paper
    reason = f"The table's own {replication} against {paper} is {ours:.3f} % less."
    return judge_by_own_numbers(claim, f"{ours:.2f}" == claim["value"], reason)


def _settle_architecture(claim: pd.Series, study: Study) -> Verdict:
    from repro.study.settings import find_layer_value

    found = find_layer_value(claim)
    if found is None:
        return untested(claim, study, "the network has no such part")
    same = found == claim["value"] if math.isnan(claim["number"]) else found == claim["number"]
    found_in = f"{found:g}" if isinstance(found, int | float) else str(found)
    reason = f"The network that meets the authors' code: {found_in}."
    if claim["source"] == "000" and not same:
        reason += " The table may be right about the replication's own network, which is not at hand."
    ours = float(found) if isinstance(found, int | float) else None
    word = REPRODUCED if same else NOT_REPRODUCED
    return Verdict(claim["id"], word, reason, ours=ours, evidence="repro.models.sadnet")


RULES = {
    "ordering": _settle_ordering,
    "direction": _settle_direction,
    "parameters": _settle_parameters,
    "flops": _settle_flops,
    "psnr_loss": _settle_psnr_loss,
    "psnr_gain": _settle_over_on_real_noise,
}
DIRECTIONS = {
    "on par": _settle_on_par,
    "denoised over noisy": _settle_noise_removal,
    "gain grows": _settle_gain,
    "kernels": _settle_offsets,
    "samples on similar": _settle_offsets,
    "scale": _settle_offsets,
    "fine-tuned": lambda claim, study: untested(claim, study, why_not(claim, "SADNet")),
    "dilation keeps": _settle_dilation,
    "cannot generalize": _settle_generalisation,
    "at the level of the model": _settle_activations,
    "in SSIM": lambda claim, study: untested(claim, study, "the document prints no SSIM", waits=False),
    "to the eye": lambda claim, study: untested(claim, study, "whose eye is not said", waits=False),
}
