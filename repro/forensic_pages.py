"""What the page on disagreements shows: how many there are, their largest effects, all of them in one table.

Every number is computed from records or claims, and every word about an effect follows from its number.
"""

import base64
import textwrap
from collections.abc import Callable
from html import escape
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from repro import files, plots
from repro.pages import show_verdict
from repro.study import forensics, verdicts
from repro.study.forensics import (
    MEASURED,
    METHODS,
    NO_EFFECT,
    STATES,
    WAITING,
    Comparison,
    Disagreement,
    Effect,
    Finding,
)
from repro.study.statistics import Interval
from repro.study.verdicts import Study

SHOWN = 12  # effects in the picture
WIDTH_IN = 4.4  # of the picture: on a phone its letters are still of the size of the text
SAID = {"paper": "paper", "reproduction": "reproduction", "code": "authors' code", "ours": "this study"}
PART = '<div style="margin-bottom: 0.4rem">'  # opens one of several things said in a cell
EMPTY = "Nothing is measured yet; the table names the command for each effect."
UNCLEAR = "No measured effect is told from 0."


def write_all(folder: Path, study: Study, settled: pd.DataFrame) -> None:
    """Write the page's fragments into ``folder``."""
    findings = forensics.find(study)
    fragments: dict[str, Callable[[], str]] = {
        "forensics_counts": lambda: describe_counts(findings),
        "forensics_effects": lambda: describe_effects(findings, folder),
        "forensics_patches": lambda: describe_patches(findings),
        "forensics_table": lambda: describe_table(findings, settled),
    }
    for name, describe in fragments.items():
        with files.write_atomically(folder / f"{name}.md") as path:
            path.write_text(describe().strip() + "\n", encoding="utf-8")


# --- numbers and words -----------------------------------------------------------------------------------------------


def show_interval(interval: Interval, unit: str) -> str:
    """``-1.65 dB [-2.24, -1.21]`` with a true minus sign, and as many digits as tell it from 0."""
    digits = _digits(interval.mean)
    mean, low, high = (_sign(number, digits) for number in (interval.mean, interval.low, interval.high))
    return f"{mean} {unit} [{low}, {high}]" if low else f"{mean} {unit}"


def _digits(number: float) -> int:
    return 2 if abs(number) >= 0.1 else 3


def _sign(number: float, digits: int = 2) -> str:
    """With its sign, a true minus; empty for NaN."""
    return "" if number != number else f"{number:+.{digits}f}".replace("-", "−")


def describe_counts(findings: list[Finding]) -> str:
    """How many disagreements there are, how many are measured, and what came out of that."""
    by_state = {state: [finding for finding in findings if finding.state == state] for state in STATES}
    waiting = [finding for finding in by_state[WAITING] if finding.can_be_run]
    effects = forensics.list_effects(findings)
    large = [effect for _, effect in effects if effect.matters]
    small = [effect for _, effect in effects if effect.interval.sign and not effect.matters]
    unclear = len(effects) - len(large) - len(small)
    counts = (
        f"**{len(findings)} disagreements** are listed. The effect of {len(by_state[MEASURED])} is measured. Of the "
        f"rest, {len(waiting)} are not measured yet, with the command that does it; "
        f"{len(by_state[WAITING]) - len(waiting)} are not measured, with the reason; and "
        f"{len(by_state[NO_EFFECT])} have no effect on a picture: a count, a time, a slip of the pen, two "
        "descriptions of one thing."
    )
    if not effects:
        return counts
    told = [
        f"{len(large)} exceed what a verdict of this study would let pass ({verdicts.PSNR_DB:g} dB for one network "
        f"scored again, {verdicts.PSNR_TRAINED_HERE_DB:g} dB between two trainings)",
        f"{len(small)} have a clear sign and stay within it",
    ]
    told += [f"{unclear} cannot be told from 0"] if unclear else []
    return f"{counts}\n\nThe measured ones rest on {_count(len(effects), 'comparison')} in decibels: {', '.join(told)}."


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


# --- the picture -----------------------------------------------------------------------------------------------------


def describe_effects(findings: list[Finding], folder: Path) -> str:
    """The largest effects that are told from 0 as a picture, and below it the same in words."""
    every = forensics.list_effects(findings)
    if not every:
        return EMPTY
    clear = [(entry, effect) for entry, effect in every if effect.interval.sign]
    if not clear:
        return UNCLEAR
    effects = clear[:SHOWN]
    smallest = min(abs(effect.interval.mean) for _, effect in effects)
    larger = [e for _, e in every if not e.interval.sign and abs(e.interval.mean) > smallest]
    left_out = _describe_left_out(larger) if larger else ""
    plots.save(draw_effects(effects), folder / "forensics_effects.png")
    largest = "; ".join(
        f"{name_effect(*pair)}{_mark(pair[1])}: {show_interval(pair[1].interval, 'dB')}" for pair in effects[:3]
    )
    away = (
        " An asterisk marks effects for which sampling points ran away in a training; from another seed, without that, "
    )
    away = f"{away}an effect can be quite another." if any(effect.ran_away for _, effect in effects) else ""
    alt = f"Effects of {len(effects)} disagreements in dB with their 95 % intervals, the largest first. {largest}."
    return (
        f"```{{image}} _generated/forensics_effects.png\n:alt: {alt}\n:align: left\n```\n\n"
        f"The {_count(len(effects), 'largest effect')} that can be told from 0. Positive: the other way gives a higher "
        "PSNR than this study's. "
        "Filled dots are one network scored in two ways, hollow diamonds two trainings; bars are 95 % intervals over "
        "images, and over seeds where there are several. The scale is linear within the gray band, which is what a "
        f"verdict lets pass between two trainings, and logarithmic outside.{away}{left_out}"
    )


def _describe_left_out(effects: list[Effect]) -> str:
    """How many means are as large as those of the picture and not told from 0, and which failed trainings they rest on,
    as the end of a paragraph."""
    told = f" {_count(len(effects), 'other mean')} as large cannot be told from 0."
    failed = sorted({name for effect in effects for name in effect.gave_back_noise})
    if not failed:
        return told
    resting = sum(bool(effect.gave_back_noise) for effect in effects)
    which = f"{resting} of them" if resting < len(effects) else "All of them" if resting > 1 else "It"
    return (
        f"{told} {which} rest{'s' if resting == 1 else ''} on trainings that failed and gave back the noisy images "
        f"({', '.join(f'`{name}`' for name in failed)}); a mean over such a training says little."
    )


def _mark(effect: Effect) -> str:
    """An asterisk for an effect that rests on a training in which sampling points ran away."""
    return "*" if effect.ran_away else ""


def name_effect(entry: Disagreement, effect: Effect) -> str:
    """What was changed, in which method."""
    # What concerns the comparators names the one it is about.
    return effect.comparison.change if entry.method == "Comparators" else f"{entry.method}, {effect.comparison.change}"


@plots._styled
def draw_effects(effects: list[tuple[Disagreement, Effect]]) -> Figure:
    """One row per effect in dB: what was changed above, its mean and interval below."""
    labels = [textwrap.wrap(name_effect(*pair), 58) for pair in effects]
    lines = [len(label) for label in labels]
    figure = Figure(figsize=(WIDTH_IN, 0.9 + sum(0.16 * n + 0.24 for n in lines)), layout="constrained")
    axes = figure.subplots()
    allowed = verdicts.PSNR_TRAINED_HERE_DB
    axes.axvspan(-allowed, allowed, color="#E9EBE6", linewidth=0)
    place, reach = 0.0, allowed
    for (_, effect), label in zip(effects, labels, strict=True):
        mean, low, high, _ = effect.interval
        reach = max(reach, *(abs(value) for value in (mean, low, high) if value == value))
        text = "\n".join([*label[:-1], f"{label[-1]}  {_sign(mean, _digits(mean))} dB{_mark(effect)}"])
        axes.text(0, place, text, transform=axes.get_yaxis_transform(), fontsize=8.5, va="top")
        place += 0.16 * len(label) + 0.1
        axes.plot([0, 0], [place - 0.07, place + 0.07], color=plots.FAINT, linewidth=1)
        colour = plots.BLUE if mean >= 0 else plots.VERMILION
        axes.plot([low, high], [place, place], color=colour, linewidth=2.2, solid_capstyle="butt")
        axes.plot(
            mean, place, "o" if effect.same_network else "D", color=colour, markersize=6,
            markerfacecolor=colour if effect.same_network else plots.GROUND,
        )  # fmt: skip
        place += 0.14
    axes.set_xscale("symlog", linthresh=allowed, linscale=0.6)
    axes.set_xlim(-1.3 * reach, 1.3 * reach)
    ticks = [tick for tick in (allowed, 1, 10) if tick <= 1.3 * reach]
    axes.set_xticks([*(-tick for tick in reversed(ticks)), 0, *ticks])
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:+g}".replace("-", "−") if value else "0")
    axes.xaxis.set_minor_locator(plots.matplotlib.ticker.NullLocator())
    axes.set_ylim(place, -0.06)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    axes.set_xlabel("change of PSNR, dB")
    return figure


# --- patches against whole images ------------------------------------------------------------------------------------


def describe_patches(findings: list[Finding]) -> str:
    """What feeding patches does to the PSNR, in its two parts, beside what the replication prints above the paper."""
    by_id = {finding.disagreement.id: finding for finding in findings}
    finding = by_id["sadnet-test-patches"]
    by_sides = {(str(e.comparison.a), str(e.comparison.b)): e for e in finding.effects}
    patches, whole = "sadnet-colour-50/kodak24-50-patch128/psnr_db", "sadnet-colour-50/kodak24-50/psnr_db"
    assembled = patches.replace("psnr_db", "psnr_assembled_db")
    both, borders, averaging = (
        by_sides.get(sides) for sides in ((patches, whole), (assembled, whole), (patches, assembled))
    )
    told = (
        f"What the replication prints differs from the paper by {_list_printed(finding)} dB on Kodak24 at the three "
        f"noise levels, and by {_list_printed(by_id['sadnet-bsd68-values'])} dB on BSD68. The replication feeds its "
        "network patches of 128x128, and does not say whether it took the PSNR of each patch and averaged."
    )
    if both is None or borders is None or averaging is None:
        return f"{told} What that does to the PSNR is not measured yet."
    shown = {name: show_interval(effect.interval, "dB") for name, effect in
             (("both", both), ("borders", borders), ("averaging", averaging))}  # fmt: skip
    if both.interval.low > max(finding.printed):
        then = (
            "That is more than the replication's whole gain on Kodak24: if it was scored like that, the gain needs no "
            "better network, and on whole images the replication may lie below the paper."
        )
    else:
        then = "That does not account for the replication's gain on Kodak24 beyond doubt."
    return (
        f"{told}\n\nThe PSNR of one network of ours, on the same noise of Kodak24, changes by {shown['both']} when it "
        f"is fed such patches and the PSNR of each is averaged. {then} This number has two parts. At the borders of "
        "a patch the network does not see what lies beyond: patches that are put together again before they are scored "
        f"change the PSNR by {shown['borders']}. And the mean of many logarithms is not the logarithm of the mean: "
        f"smooth patches count as much as busy ones, which changes it by {shown['averaging']}. "
        f"{_describe_other_set(by_id['sadnet-bsd68-values'])}"
    )


def _describe_other_set(finding: Finding) -> str:
    """The same on BSD68, where the replication prints less than the paper."""
    if finding.effects:
        shown = show_interval(finding.effects[0].interval, "dB")
        return (
            f"On BSD68, where the replication prints less than the paper, patches bring {shown}. They cover less "
            "than two thirds of an image of 481x321 pixels; the rest is not scored. So patches cannot explain "
            "both: scored like that, the replication's network would lie well below the paper's on BSD68."
        )
    how = finding.disagreement.commands or tuple(gap.command for gap in finding.gaps if gap.command)
    return "What patches bring on BSD68 is in no record yet" + (f"; `{how[0]}` measures it." if how else ".")


def _list_printed(finding: Finding) -> str:
    return ", ".join(_sign(number) for number in finding.printed)


# --- the table -------------------------------------------------------------------------------------------------------


def describe_table(findings: list[Finding], settled: pd.DataFrame) -> str:
    """Every disagreement: who says what, and its effect. Works without the script that filters it."""
    points = {finding.disagreement.id: finding.disagreement for finding in findings}
    rows = "".join(_row(finding, settled, points) for finding in findings)
    head = "".join(f'<th scope="col">{name}</th>' for name in ("point", "who does what", "effect"))
    methods = _options([method for method in METHODS if any(f.disagreement.method == method for f in findings)])
    states = _options([state for state in STATES if any(f.state == state for f in findings)])
    saved = list_rows(findings).to_csv(index=False, lineterminator="\n")
    data = base64.b64encode(saved.encode()).decode()
    return (
        '<div class="ledger-controls" id="ledger-controls" hidden>'
        f'<label>method<select name="method"><option value="">all</option>{methods}</select></label>'
        f'<label>effect<select name="state"><option value="">all</option>{states}</select></label>'
        '<label>words<input type="search" name="words" placeholder="clipped noise"></label>'
        '<span class="ledger-count" id="ledger-count" role="status"></span></div>'
        '<div class="study-table"><table class="study" id="ledger" data-rows="disagreements">'
        f"<thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>"
        f'<a class="csv" download="forensics.csv" href="data:text/csv;base64,{data}">forensics.csv</a>'
    )


def list_rows(findings: list[Finding]) -> pd.DataFrame:
    """One row per comparison, command or reason, as plain values for a spreadsheet."""
    rows = []
    for finding in findings:
        entry = finding.disagreement
        about = {"id": entry.id, "method": entry.method, "point": entry.point}
        about |= {name: getattr(entry, name) for name in SAID} | {"state": finding.state}
        for effect in finding.effects:
            mean, low, high, images = effect.interval
            measured = {"change": effect.comparison.change, "effect": mean, "low": low, "high": high}
            measured |= {"unit": effect.unit, "images": images, "word": effect.word}
            measured |= {"a": str(effect.comparison.a), "b": str(effect.comparison.b)}
            measured |= {"ours_only": effect.comparison.ours_only, "ran_away": " ".join(effect.ran_away)}
            measured |= {"gave_back_noise": " ".join(effect.gave_back_noise)}
            rows.append(about | measured | {"joint": " ".join(effect.comparison.joint)})
        for gap in finding.gaps:
            sides = {"a": str(gap.comparison.a), "b": str(gap.comparison.b), "joint": " ".join(gap.comparison.joint)}
            rows.append(about | {"change": gap.comparison.change, "command": gap.command or gap.reason} | sides)
        for told in (" && ".join(entry.commands), entry.unmeasured, entry.no_effect):
            rows += [about | {"command": told}] if told else []
    return pd.DataFrame(rows).round(4)


def _row(finding: Finding, settled: pd.DataFrame, points: dict[str, Disagreement]) -> str:
    entry = finding.disagreement
    says = "".join(
        f'<div><span class="why">{label}:</span> {_text(getattr(entry, name))}</div>'
        for name, label in SAID.items()
        if getattr(entry, name)
    )
    silent = [label for name, label in SAID.items() if not getattr(entry, name)]
    says += f'<div class="why">{" and ".join(silent)}: nothing about it</div>' if silent else ""
    return (
        f'<tr id="{entry.id}" data-method="{entry.method}" data-state="{finding.state}">'
        f'<td><b>{entry.method}</b>, {escape(entry.point)}<div class="id">{entry.id}</div></td>'
        f"<td>{says}</td><td>{_show_finding(finding, settled, points)}</td></tr>"
    )


def _show_finding(finding: Finding, settled: pd.DataFrame, points: dict[str, Disagreement]) -> str:
    entry = finding.disagreement
    parts = [_show_effect(effect, points) for effect in sorted(finding.effects, key=lambda e: e.order)]
    waiting: dict[str, list[str]] = {}
    for gap in finding.gaps:
        waiting.setdefault(gap.command or gap.reason, []).append(gap.comparison.change)
    for how, changes in waiting.items():
        shown = f"<code>{escape(how)}</code>" if how.startswith("repro ") else escape(how)
        parts.append(f'{PART}not measured: {escape("; ".join(changes))}<div class="why">{shown}</div></div>')
    parts += [_show_joint(gap.comparison, points) for gap in finding.gaps]
    shared = forensics.list_joint(entry.id, points.values())
    word = f"{WAITING} separately" if shared else WAITING
    if entry.commands:
        lines = "<br>".join(f"<code>{escape(command)}</code>" for command in entry.commands)
        parts.append(f'{PART}{word}<div class="why">{lines}</div></div>')
    if entry.unmeasured:
        parts.append(f'{PART}{word}<div class="why">{_text(entry.unmeasured)}</div></div>')
    for other, comparison in shared:
        parts.append(
            f'<div class="why">one of the {len(comparison.joint)} points whose joint effect stands at '
            f'<a href="#{other.id}">{escape(other.point)}</a></div>'
        )
    if entry.no_effect:
        parts.append(f"{PART}{escape(entry.no_effect)}</div>")
    if finding.printed:
        parts.append(f'<div class="why">difference as printed, dB: {_list_printed(finding)}</div>')
    for name in entry.claims:
        claim = settled.loc[name]
        printed = f"{'about ' if claim['approx'] else ''}{claim['value']} {claim['unit']}".strip()
        parts.append(
            f'<div class="why">claim <a href="ledger.html#{name}">{name}</a>, printed {escape(printed)}: '
            f"{show_verdict(claim['word'])}</div>"
        )
    return "".join(parts)


def _show_joint(comparison: Comparison, points: dict[str, Disagreement]) -> str:
    """Which points a comparison changes at once, where they are several."""
    if not comparison.joint:
        return ""
    links = (f'<a href="#{name}">{escape(points[name].point)}</a>' for name in comparison.joint)
    return f'<div class="why">one joint effect of {len(comparison.joint)} points: {"; ".join(links)}</div>'


def _show_effect(effect: Effect, points: dict[str, Disagreement]) -> str:
    images = _count(effect.interval.count, "image")
    whose = "for scale, as no source does it: " if effect.comparison.ours_only else ""
    lost = escape(", ".join(effect.ran_away))
    away = f'<div class="why">in the training of {lost} sampling points ran away</div>' if lost else ""
    if failed := escape(", ".join(effect.gave_back_noise)):
        away += f'<div class="why">failed, and gave back the noisy images: {failed}</div>'
    return (
        f"{PART}{whose}<b>{show_interval(effect.interval, effect.unit)}</b> {effect.word}: "
        f"{escape(effect.comparison.change)}"
        f'<div class="why">{images}; {escape(effect.runs)}</div>{away}{_show_joint(effect.comparison, points)}</div>'
    )


def _text(text: str) -> str:
    """Escaped, with what stands between backquotes as code."""
    parts = escape(text, quote=False).split("`")
    return "".join(f"<code>{part}</code>" if number % 2 else part for number, part in enumerate(parts))


def _options(words: list[str]) -> str:
    return "".join(f'<option value="{escape(word)}">{escape(word)}</option>' for word in words)
