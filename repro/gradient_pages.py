"""What the chapter on GradNet shows: 003's table beside ours, the suspects, the gradients, the classical line."""

import math
import time
from html import escape
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure

import repro
from repro import camera_noise, gradients, plots, timing
from repro.data import catalog, noise
from repro.metrics import psnr_db
from repro.models import MODELS
from repro.pages import render_rows, show_verdict
from repro.study import claims as ledger
from repro.study.records import Record
from repro.study.statistics import compare
from repro.study.verdicts import REPRODUCED, Group, Study, settle

NONE_EXCHANGED = "No network was given other gradients yet."
NOT_YET = "No GradNet is trained yet; `repro campaign --only 'gradnet-*'` runs the experiments that are listed."
LEVELS = (25.0, 50.0)
# Experiment -> its neighbour, and what the two differ in.
SUSPECTS = {
    "gradnet-naive-residual": ("gradnet-naive", "learns the noise"),
    "gradnet-naive-image-level": ("gradnet-naive", "first weights; no inner biases"),
    "gradnet-naive-clipped": ("gradnet-naive-image-level", "clipped in training"),
    "gradnet-naive-pixel-level": ("gradnet-naive-clipped", "level for every value"),
    "gradnet-noisy": ("gradnet-none", "fusion, of what is there anyway; a larger network"),
    "gradnet-dncnn": ("gradnet-noisy", "the gradient after DnCNN"),
    "gradnet-mskresnet": ("gradnet-noisy", "the gradient after MSKResNet"),
    "gradnet-add": ("gradnet-dncnn", "addition"),
    "gradnet-add-reduction-2": ("gradnet-add", "reduction"),
    "gradnet-add-bias": ("gradnet-add", "biases"),
    "gradnet-add-first-weights": ("gradnet-add", "first weights"),
    "gradnet-impl-normalised": ("gradnet-add", "reduction, biases, first weights"),
    "gradnet-impl-dncnn": ("gradnet-impl-normalised", "no normalisation"),
    "gradnet-impl-mixup-4-units": ("gradnet-impl-dncnn", "copies of the gradient"),
    "gradnet-impl-mixup": ("gradnet-impl-mixup-4-units", "three units"),
    "gradnet-impl-lambda-0": ("gradnet-impl-dncnn", "loss without gradients"),
    "gradnet-impl-clipped": ("gradnet-impl-dncnn", "clipped in training"),
    "gradnet-impl-pixel-level": ("gradnet-impl-clipped", "level for every value"),
    "gradnet-impl-noisy": ("gradnet-impl-dncnn", "the noisy image's gradient"),
    "gradnet-impl-bm3d": ("gradnet-impl-dncnn", "BM3D's gradient"),
}
# With the gradient -> without, otherwise alike; without it the network is a little smaller.
FUSED = {
    "gradnet-dncnn": "gradnet-none",
    "gradnet-mskresnet": "gradnet-none",
    "gradnet-impl-dncnn": "gradnet-impl-none",
}
# With the gradient of DnCNN's estimate -> with that of the noisy image, which says nothing new.
OF_EQUAL_SIZE = {"gradnet-dncnn": "gradnet-noisy", "gradnet-impl-dncnn": "gradnet-impl-noisy"}
BATCHES = {"gradnet-impl-mixup": 32, "gradnet-impl-mixup-4-units": 32}  # of 003's runs; the others have 48
# Trained on a level for every value -> on one for a patch, both clipped.
TRAINED_PER_VALUE = {
    "gradnet-naive-pixel-level": "gradnet-naive-clipped",
    "gradnet-impl-pixel-level": "gradnet-impl-clipped",
}
PER_VALUE = "kodak24-levels8.16to63.75-clipped"  # the evaluation that is like the first's training
READERS = ("gradnet-dncnn", "gradnet-impl-dncnn")  # of both forms one, trained with the gradient that it is used with
REAL = ("cc15", "nam25", "sidd_samples")  # photographs of other sets than those that are trained on
LINE = "gradnet_line.png"
CROP = 160  # side of the pictures of the classical line, in pixels
SIGMA_255 = 25


def describe_results(settled: pd.DataFrame) -> str:
    """The slides' table of results and their statements, with our verdicts."""
    rows = ledger.find(settled, source="003", metric=["psnr", "ordering", "direction"])
    columns: dict[str, list[str]] = {name: [] for name in ("the slides", "on", "printed", "verdict", "why")}
    for _, claim in rows.iterrows():
        level = "" if np.isnan(claim["sigma_255"]) else f" sigma {claim['sigma_255']:g}"
        what = f"{claim['method']} {claim['variant']}" if claim["metric"] == "psnr" else claim["variant"]
        printed = f"{'about ' if claim['approx'] else ''}{claim['value']} dB" if claim["metric"] == "psnr" else ""
        cells = (
            escape(what),
            escape(claim["dataset"] + level),
            printed,
            show_verdict(claim["word"]),
            escape(claim["reason"]),
        )
        for column, cell in zip(columns.values(), cells, strict=True):
            column.append(cell)
    return render_rows("Results and statements of the slides", columns)


def describe_suspects(study: Study) -> str:
    """PSNR on Kodak24 of every experiment, under each convention of the noise, and against its neighbour."""
    groups = {group.first["experiment"]: group for group in study.groups}
    names = ["network", "differs in"]
    names += [name for level in LEVELS for name in (f"at {level:g}", f"change at {level:g}")]
    columns: dict[str, list[str]] = {name: [] for name in names}
    for experiment in study.experiments:
        group = groups.get(experiment.name)
        listed = experiment.name.startswith("gradnet-") and experiment.budget == "cpu"
        if not listed or group is None or group.first.find_evaluation("kodak24", LEVELS[0]) is None:
            continue
        other, change = SUSPECTS.get(experiment.name, ("", ""))
        neighbour = groups.get(other)
        cells = [f"<code>{experiment.name}</code>: {escape(experiment.why)}"]
        cells.append(f"{escape(change)} (<code>{other}</code>)" if other else "")
        for level in LEVELS:
            name = f"kodak24-{level:g}"
            cells.append(" / ".join(_mean(group, f"{name}{ending}") for ending in ("", "-clipped")))
            both = neighbour and all(level in _levels(side) for side in (group, neighbour))
            cells.append(compare(group.per_seed(name), neighbour.per_seed(name)).signed() if both else "")
        for column, cell in zip(columns.values(), cells, strict=True):
            column.append(cell)
    if not columns["network"]:
        return NOT_YET
    levels = " and ".join(f"{level:g}" for level in LEVELS)
    caption = (
        f"PSNR in dB on Kodak24 at sigma {levels}, for noise as it is / clipped, and what one change does, with 95 % "
        "intervals"
    )
    return render_rows(caption, columns)


def describe_naive_times() -> str:
    """A training step and what each naive denoiser adds to it: a line for each device that `repro bench naive` saw."""
    lines = []
    for about, table in timing.load("naive"):
        took = table.set_index("what")["seconds"]
        each = "; ".join(f"{name} {seconds:.2f} s" for name, seconds in took.items())
        lines.append(f"- {about['batch']} patches of {about['patch']} pixels on {about['device']}: {each}.")
    return "\n".join(lines) or "Not measured yet: `repro bench naive`."


def describe_reason(study: Study) -> str:
    """What is known of why the slides fell short: how much of it their own weights explain, and what each step on the
    way changes in short trainings."""
    groups = {group.first["experiment"]: group for group in study.groups}

    def change(name: str, other: str) -> str:
        sides = [groups[side] for side in (name, other) if side in groups]
        levels = [level for level in LEVELS if len(sides) == 2 and all(level in _levels(side) for side in sides)]
        if not levels:
            return f"not measured yet (`{name}`)"
        each = []
        for level in levels:
            paired = compare(*(side.per_seed(f"kodak24-{level:g}") for side in sides))
            each.append(f"{paired.signed()} dB at sigma {level:g}")
        return f"{' and '.join(each)} (`{name}`)"

    gap, form = _describe_gap(groups), _describe_form(groups)
    return f"""{gap}*The noise of the test is not that of the training.* The slides' DnCNN saw clipped noise with a
level of its own for every value, and was tested on noise of one level that is not clipped; GradNet itself was trained
in the same way. What each step changes:

- clipped in training, DnCNN: {change("gradnet-naive-clipped", "gradnet-naive-image-level")};
  GradNet: {change("gradnet-impl-clipped", "gradnet-impl-dncnn")};
- then a level for every value, DnCNN: {change("gradnet-naive-pixel-level", "gradnet-naive-clipped")};
  GradNet: {change("gradnet-impl-pixel-level", "gradnet-impl-clipped")};
- the clean image as target, where DnCNN as published learns the noise:
  {change("gradnet-naive", "gradnet-naive-residual")};
- half of each batch photographs with noise of their own, as in the slides' training (theirs were SIDD's):
  {change("gradnet-real-naive", "gradnet-naive")}.

The same DnCNN with other first weights and without its inner biases changes by
{change("gradnet-naive-image-level", "gradnet-naive")}: what is smaller than that proves little in a single training.

*The two forms are not two ways to write the same.* The slides' form differs from the authors' in addition,
normalisation, the squeeze of the attention, biases and first weights:

- addition: {change("gradnet-add", "gradnet-dncnn")};
- after it each by itself, a squeeze to half of the channels: {change("gradnet-add-reduction-2", "gradnet-add")};
  biases: {change("gradnet-add-bias", "gradnet-add")};
  first weights: {change("gradnet-add-first-weights", "gradnet-add")};
- all three: {change("gradnet-impl-normalised", "gradnet-add")};
- and no normalisation: {change("gradnet-impl-dncnn", "gradnet-impl-normalised")}.

{form}The authors begin their batch normalisation with small scales, which may need more steps than any network had
here: this ranks brief trainings, and not the forms.

*A gradient may say nothing.* The noisy image's own gradient is mostly that of the noise. Against no gradient at all it
changes the authors' form by {change("gradnet-noisy", "gradnet-none")}, and that of the slides by
{change("gradnet-impl-noisy", "gradnet-impl-none")}, although it makes the network larger. So the list at the head of
this chapter says what fusion is worth against both neighbours: the network without a gradient, which is smaller, and
the one with its input's own, which is as large, and which that gradient may mislead."""


def describe_fusion(study: Study) -> str:
    """What the slides' network gains from its gradient, against none and against one that says nothing new."""
    groups = {group.first["experiment"]: group for group in study.groups}
    if not {"gradnet-impl-dncnn", "gradnet-impl-none", "gradnet-impl-noisy"} <= groups.keys():
        return ""
    ours, none, noisy = (groups[f"gradnet-impl-{kind}"] for kind in ("dncnn", "none", "noisy"))
    levels = " and ".join(f"{level:g}" for level in LEVELS)
    return (
        f"What fusion is worth, which no source prints: the slides' network gains {_gain(ours, none)} at sigma "
        f"{levels} over the same without a gradient, which is smaller ({_count(none)} parameters, not {_count(ours)}), "
        f"and {_gain(ours, noisy)} over one of its size that has its input's own."
    )


def _gain(one: Group, other: Group) -> str:
    each = [compare(*(side.per_seed(f"kodak24-{level:g}") for side in (one, other))) for level in LEVELS]
    return f"{' and '.join(gain.signed() for gain in each)} dB"


def _count(group: Group) -> str:
    return f"{group.first['parameters']:,}"


def _describe_gap(groups: dict[str, Group]) -> str:
    """How far the slides' own DnCNN is below CBM3D, and how much of that clipping the test's noise gives back."""
    own, gaps, gains = groups.get("gradnet-naive-003"), [], []
    for level in LEVELS:
        classical, name = groups.get(f"bm3d-colour-{level:g}"), f"kodak24-{level:g}"
        if own is None or classical is None or not _has(own, f"{name}-clipped"):
            return ""
        gaps.append(compare(classical.per_seed(name), own.per_seed(name)).mean)
        gains.append(compare(own.per_seed(f"{name}-clipped"), own.per_seed(name)).mean)
    rest = [gap - gain for gap, gain in zip(gaps, gains, strict=True)]
    told = [" and ".join(f"{value:.2f}" for value in values) for values in (gaps, gains, rest)]
    levels = " and ".join(f"{level:g}" for level in LEVELS)
    most = "Most of the shortfall" if min(rest) > max(gains) else "The rest"
    return (
        f"The slides' own DnCNN lies {told[0]} dB below CBM3D at sigma {levels}. Where the noise of the test is "
        f"clipped, as that of its training was, it gets {told[1]} dB back. What is left, {told[2]} dB, is in the "
        "network or in its training. Short trainings of smaller networks can rank what went into that, but do not add "
        "up to it. "
        f"{most} is not explained.\n\n"
    )


def _describe_form(groups: dict[str, Group]) -> str:
    """Whether the slides' form of GradNet, as a whole, is behind the authors' in short trainings."""
    sides = [groups.get(name) for name in ("gradnet-impl-dncnn", "gradnet-dncnn")]
    if None in sides:
        return ""
    gained = [compare(*(side.per_seed(f"kodak24-{level:g}") for side in sides)) for level in LEVELS]
    each = " and ".join(f"{gain.signed()} dB at sigma {level:g}" for gain, level in zip(gained, LEVELS, strict=True))
    meaning = {
        1: "So nothing here says that the slides fell short by their form. ",
        -1: "So their form may be a part of what the slides fell short by. ",
    }
    signs = {gain.sign for gain in gained}
    concluded = meaning.get(signs.pop(), "") if len(signs) == 1 else ""
    return f"All together, the slides' form is {each} against the authors'. {concluded}"


def describe_findings(study: Study) -> str:
    """What is known of the chapter's question, from the records that there are, as a list."""
    groups = {group.first["experiment"]: group for group in study.groups}
    found = []
    if own := groups.get("gradnet-naive-003"):
        found += _describe_own_network(own, study)
    effects = []
    for name, (other, change) in SUSPECTS.items():
        if name in groups and other in groups and all(LEVELS[1] in _levels(groups[side]) for side in (name, other)):
            one, two = (groups[side].per_seed("kodak24-50") for side in (name, other))
            effects.append((compare(one, two), change, name))
    telling = sorted((e for e in effects if e[0].sign), key=lambda effect: -abs(effect[0].mean))
    if telling:
        each = "; ".join(f"{change} (`{name}`), {paired.signed()} dB" for paired, change, name in telling[:4])
        tried = f"Of {len(effects)} steps from a network to its neighbour"
        found.append(f"{tried}, these change most at sigma 50: {each}.")
    for name, other in TRAINED_PER_VALUE.items():
        sides = [groups[side] for side in (name, other) if side in groups and _has(groups[side], PER_VALUE)]
        if len(sides) == 2:
            gained = compare(*(side.per_seed(PER_VALUE) for side in sides))
            found.append(
                f"Tested on noise with a level for every value, clipped, `{name}`, which was trained on it, is "
                f"{gained.signed()} dB against `{other}`, which knows one level for a patch."
            )
    levels = " and ".join(f"{level:g}" for level in LEVELS)
    worth = [
        f"`{name}` over `{without}` {_gain(groups[name], groups[without])} "
        f"({_count(groups[name])} parameters against {_count(groups[without])})"
        for name, without in FUSED.items()
        if {name, without} <= groups.keys()
    ]
    if worth:
        found.append(f"What fusion is worth at sigma {levels}, against networks without gradients: {'; '.join(worth)}.")
    pairs = [(name, other) for name, other in OF_EQUAL_SIZE.items() if {name, other} <= groups.keys()]
    fair = "; ".join(f"`{name}` over `{other}` {_gain(groups[name], groups[other])}" for name, other in pairs)
    if fair:
        found.append(f"Against networks of the same size, whose gradient is that of their own noisy input: {fair}.")
    if {"gradnet-impl-dncnn", "gradnet-impl-clipped"} <= groups.keys():
        printed = study.claims.loc["003-results-kodak24-50-gradnet-dncnn", "number"]
        means = (groups[f"gradnet-impl-{n}"].per_image("kodak24-50").mean() - printed for n in ("dncnn", "clipped"))
        plain, clipped = (f"{abs(mean):.2f} dB {'above' if mean > 0 else 'below'}" for mean in means)
        found.append(
            f"At sigma 50 `gradnet-impl-dncnn`, brief and narrow, is {plain} what the slides print for their whole "
            f"network, and {clipped} once it is trained on clipped noise, as that was."
        )
    for record in (groups[name].first for name in READERS if name in groups):
        if record.gradients is not None and {"own", "zero", "bm3d"} <= set(record.gradients["gradient"]):
            own, *others = (_select_gradient(record, LEVELS[1], kind) for kind in ("own", "zero", "bm3d"))
            none, bm3d = (compare(other, own) for other in others)
            found.append(
                f"On central crops, `{record['experiment']}` given no gradient changes by {none.signed()} dB at sigma "
                f"{LEVELS[1]:g}, given BM3D's in place of its own by {bm3d.signed()} dB."
            )
    both = [groups[name].first for name in ("gradnet-impl-oracle", "gradnet-impl-dncnn") if name in groups]
    if len(both) == 2 and all(record.gradients is not None for record in both):
        sides = (("gradnet-impl-oracle", "clean"), ("gradnet-impl-dncnn", "own"))
        gained = []
        for level in LEVELS:
            one, two = (_select_gradient(groups[name].first, level, kind) for name, kind in sides)
            gained.append(f"{compare(one, two).signed()} dB at sigma {level:g}")
        found.append(
            f"Trained and used with the gradient of the clean image, which nobody has, the network of the slides gains "
            f"{' and '.join(gained)} on central crops over one with its own DnCNN's: the most that a better naive "
            "denoiser could bring, in so short a training at this width."
        )
    missing = [f"`{name}`" for name, (other, _) in SUSPECTS.items() if not {name, other} <= groups.keys()]
    if missing:
        found.append(f"Not compared with its neighbour yet: {', '.join(missing)}.")
    return "\n".join(f"- {sentence}" for sentence in found)


def _select_gradient(record: Record, level_255: float, kind: str) -> pd.Series:
    """PSNR in dB by image, given a gradient of one kind."""
    table = record.gradients
    chosen = table[(table["sigma_255"] == level_255) & (table["gradient"] == kind)]
    return chosen.set_index("image")["psnr_db"]


def _describe_own_network(own: Group, study: Study) -> list[str]:
    """What the slides' own DnCNN gives here, as it was tested there and with the noise clipped."""
    reached, gained, words = [], [], set()
    for level in LEVELS:
        values = own.per_image(f"kodak24-{level:g}")
        claim = study.claims.loc[f"003-results-kodak24-{level:g}-dncnn"]
        words.add(settle(claim, study).word)
        reached.append(f"{values.mean():.2f} dB at sigma {level:g} (printed: {claim['value']})")
        clipped = compare(own.per_image(f"kodak24-{level:g}-clipped"), values)
        gained.append(f"{clipped.signed()} dB at sigma {level:g}")
    test = "What is printed is of one random crop of each"
    if words == {REPRODUCED}:
        test += ", and lies within what such crops scatter: it is what these weights give"
    alike = ""
    if _has(own, PER_VALUE):
        alike = (
            f"; on noise just as in its training, with a level for every value, it reaches {_mean(own, PER_VALUE)} dB"
        )
    return [
        f"The slides' own DnCNN reaches {' and '.join(reached)} on whole images. {test}.",
        f"It was trained on clipped noise. Where that of the test is clipped, too, it gains {' and '.join(gained)}"
        f"{alike}.",
    ]


def describe_real(study: Study) -> str:
    """PSNR on photographs with real noise of GradNet, its naive denoiser and BM3D, and of the noisy photographs
    themselves, than which a network that has learned little is worse."""
    rows, noisy, worse = [], {}, []
    for group in study.groups:
        about = group.first
        real = about["experiment"] in ("gradnet-real-naive", "gradnet-real", "bm3d-estimated", "bm3d-estimated-times-5")
        if real:
            rows.append((about["experiment"], [_mean(group, name) for name in REAL]))
            for name in REAL:
                if _has(group, name):
                    gained = compare(group.per_seed(name), group.per_seed(name, "psnr_noisy_db"))
                    noisy[name] = f"{group.per_image(name, 'psnr_noisy_db').mean():.2f}"
                    worse += [f"`{about['experiment']}` on {name} ({gained.signed()} dB)"] if gained.sign < 0 else []
    if not rows:
        return "Not measured yet: `repro campaign --only 'gradnet-real*' --only 'bm3d-estimated*'` does it."
    body = "".join(f"<td>{noisy.get(name, '-')}</td>" for name in REAL)
    body = f"<tr><td>the noisy photographs</td>{body}</tr>"
    body += "".join(
        f"<tr><td><code>{name}</code></td>{''.join(f'<td>{value}</td>' for value in values)}</tr>"
        for name, values in rows
    )
    table = _table("PSNR in dB on photographs with real noise", ("network", *REAL), body)
    if worse:
        table += f"\n\nWorse than what they were given: {'; '.join(worse)}."
    groups = {group.first["experiment"]: group for group in study.groups}
    told = []
    for first, second in (("gradnet-real", "gradnet-real-naive"), ("bm3d-estimated-times-5", "bm3d-estimated")):
        if {first, second} <= groups.keys():
            named = [{e["name"] for e in groups[side].first["evaluations"]} for side in (first, second)]
            shared = [name for name in REAL if all(name in names for names in named)]
            each = (compare(*(groups[side].per_seed(name) for side in (first, second))).signed() for name in shared)
            pairs = ", ".join(f"{gain} dB on {name}" for gain, name in zip(each, shared, strict=True))
            told.append(f"- `{first}` against `{second}`: {pairs}.")
    return table + ("\n\nImage by image, with 95 % intervals:\n\n" + "\n".join(told) if told else "")


# What stands in the place of a photograph's noise -> the prefix of its columns in camera_noise.csv.
REPLACED = {"factor": "", "shuffled": "shuffled_", "spectrum": "spectrum_"}


def describe_camera_noise(study: Study) -> str:
    """How strong the noise of cameras is, of what grain, and by how much an estimate undershoots it and its like."""
    table = study.camera_noise
    if table is None:
        return "Not measured yet: `repro data noise` does it."
    scenes = camera_noise.average_scenes(table)
    factors = {label: scenes["sigma_255"] / scenes[f"{kind}estimate_255"] for label, kind in REPLACED.items()}
    factors["white"] = scenes["control_sigma_255"] / scenes["control_estimate_255"]
    body = ""
    for name, rows in scenes.groupby("dataset"):
        neighbours = rows[["correlation_right", "correlation_down"]].mean(axis=None)
        cells = [str(name), f"{rows['sigma_255'].mean():.1f}"]
        cells += [f"{neighbours:.2f}", f"{rows['correlation_colours'].mean():.2f}"]
        cells += [f"{factor[rows.index].mean():.1f}" for factor in factors.values()]
        body += f"<tr>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"
    head = ("set", "strength", "neighbours", "colours", *factors)
    caption = (
        "Noise of cameras: its strength in gray levels; correlation of neighbouring values, and of red and green; the "
        "factor by which scikit-image's estimate is too small, for the noise as photographed, its values shuffled, "
        "Gaussian noise of the same spectrum, and white noise of the same strength"
    )
    shown = _table(caption, head, body)
    return f"{shown}\n\n{_compare_factors(scenes.assign(factor=factors['factor']))}"


def _compare_factors(scenes: pd.DataFrame) -> str:
    """What the slides' factor of 5 would be here: on their own set, and for one camera in two sets."""
    by_set = scenes.groupby("dataset")["factor"].mean()
    told = []
    if "sidd_samples" in by_set:
        needed = by_set["sidd_samples"]
        told.append(
            f"On the blocks at hand of SIDD, the set that the slides report, a factor of {needed:.1f} would do: five "
            f"tells BM3D {5 / needed:.1f} times the true level."
        )
    both = scenes[scenes["sensor"] != ""].groupby(["sensor", "dataset"])["factor"].mean().unstack().dropna()
    for sensor, row in both.iterrows():
        each = " and ".join(f"{row[name]:.1f} on {name}" for name in both.columns)
        told.append(f"Nor does the sensor decide: for the same {sensor} it is {each}.")
    polyu = scenes.loc[scenes["dataset"] == "polyu", "factor"]
    if len(polyu):
        told.append(f"From scene to scene of PolyU it goes from {polyu.min():.1f} to {polyu.max():.1f}.")
    return " ".join(told)


def _levels(group) -> set[float]:
    """Noise levels at which a group was tested on Kodak24."""
    return {about["sigma_255"] for about in group.first["evaluations"] if about["dataset"] == "kodak24"}


def _has(group: Group, evaluation: str) -> bool:
    return evaluation in {about["name"] for about in group.first["evaluations"]}


def _mean(group: Group, evaluation: str) -> str:
    if not _has(group, evaluation):
        return "-"
    return f"{group.per_image(evaluation).mean():.2f}"


def describe_gradients(study: Study) -> str:
    """What a network makes of gradients of every kind, and how large its gradient loss is."""
    measured = [group.first for group in study.groups if group.first.gradients is not None]
    body, losses = "", []
    for record in measured:
        # What a network was trained with: its own naive denoiser's gradient, or the clean image's.
        reference = "clean" if record.settings["loss"] == "oracle" else "own"
        summary = gradients.summarise(record.gradients, reference)
        for level, rows in summary.groupby("sigma_255"):
            changes = {row.gradient: f"{row.mean:+.3f} [{row.low:+.3f}, {row.high:+.3f}]" for row in rows.itertuples()}
            at = record.gradients[record.gradients["sigma_255"] == level]
            reached = at.loc[at["gradient"] == reference, "psnr_db"].mean()
            told = ["as trained" if kind == reference else changes.get(kind, "") for kind in gradients.KINDS[1:]]
            cells = [record["experiment"], f"{level:g}", f"{reached:.2f}", *told]
            body += f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in cells)}</tr>"
        usual = record.gradients[record.gradients["gradient"] == reference]
        loss, batch = usual["gradient_loss"].mean(), BATCHES.get(record["experiment"], 48)
        losses.append(f"{record['experiment']}: {loss:.3f}, shown as {loss / batch:.4f}")
    if not body:
        return NONE_EXCHANGED
    head = ("network", "sigma", "PSNR as trained", *gradients.KINDS[1:])
    where = f"central {gradients.SIDE}x{gradients.SIDE} pixels of the photographs of Kodak24"
    table = _table(
        f"Change of PSNR in dB by another gradient than the trained one, with 95 % intervals; {where}", head, body
    )
    return (
        f"{table}\n\n{_describe_reading(measured)}The mean gradient loss, and what is left of it after a second "
        f"division, by the slides' batch: {'; '.join(losses)}."
    )


def _describe_reading(measured: list[Record]) -> str:
    """How many networks miss their gradient when they are given none."""
    missed = 0
    for record in measured:
        kind = "clean" if record.settings["loss"] == "oracle" else "own"
        levels = record.gradients["sigma_255"].unique()
        sides = [[_select_gradient(record, level, name) for name in ("zero", kind)] for level in levels]
        missed += all(compare(*pair).sign < 0 for pair in sides)
    networks = f"network{'' if len(measured) == 1 else 's'}"
    return f"Given no gradient, {missed} of {len(measured)} {networks} get worse at every level: so many read theirs. "


def describe_line(folder: Path, photograph: str = "astronaut") -> str:
    """One photograph through every filter of the classical line, with the PSNR and the time of each."""
    sample = catalog.sample("embedded-test", photograph)
    top, left = 40, 150  # the face
    clean = sample.clean[:, top : top + CROP, left : left + CROP].contiguous()
    noisy = noise.fixed_gaussian_noise(clean, sample.name, SIGMA_255)
    names = [name for name, (module, _) in MODELS.items() if module == "repro.models.classical"]
    rows, pictures = [("noisy", psnr_db(clean, noisy.clamp(0, 1)), math.nan)], {"clean": clean, "noisy": noisy}
    for name in names:
        pictures[name], seconds = _time(name, noisy)
        rows.append((f"{name}, in colour" if name == "bm3d" else name, psnr_db(clean, pictures[name]), seconds))
    gray = noise.fixed_gaussian_noise(clean.mean(0, keepdim=True), sample.name, SIGMA_255)
    estimate, seconds = _time("bm3d", gray)
    rows.append(("bm3d, of the gray picture", psnr_db(clean.mean(0, keepdim=True), estimate), seconds))
    titles = {name: f"{name}, {told[1]:.2f} dB" for name, told in zip(names, rows[1:], strict=False)}
    titles["noisy"] = f"noisy, {rows[0][1]:.2f} dB"
    plots.save(draw_line({titles.get(name, name): picture for name, picture in pictures.items()}), folder / LINE)
    body = ""
    for name, value_db, seconds in sorted(rows, key=lambda row: -row[1]):
        took = "" if math.isnan(seconds) else f"{seconds:.2f}"
        body += f"<tr><td>{name}</td><td>{value_db:.2f}</td><td>{took}</td></tr>"
    about = f"{sample.name}, {CROP} x {CROP} pixels, sigma {SIGMA_255}; times of the machine that built this page"
    table = _table(f"The classical line: {about}", ("filter", "PSNR, dB", "seconds"), body)
    alt = "The same crop clean, noisy, and after each filter of the classical line."
    return f"```{{image}} _generated/{LINE}\n:alt: {alt}\n```\n\n{table}"


def _time(name: str, noisy: torch.Tensor) -> tuple[torch.Tensor, float]:
    """The filter's estimate of [C, H, W], and its seconds, loading of its library left out."""
    settings = {"model": name, "sigma": SIGMA_255 / 255}
    repro.denoise(noisy[:, :16, :16].clamp(-1, 2), **settings)
    began = time.perf_counter()
    return repro.denoise(noisy.clamp(-1, 2), **settings), time.perf_counter() - began


@plots._styled
def draw_line(pictures: dict[str, torch.Tensor]) -> Figure:
    """Crops [3, H, W] side by side, three to a row, with their names."""
    rows = -(-len(pictures) // 3)
    figure = Figure(figsize=(plots.WIDTH_IN, 2.5 * rows), layout="constrained")
    cells = figure.subplots(rows, 3, squeeze=False).flat
    for axes, (name, picture) in zip(cells, pictures.items(), strict=False):
        axes.imshow(np.moveaxis(picture.clamp(0, 1).numpy(), 0, 2))
        axes.set_title(name, fontsize=8)
    for axes in figure.axes:
        axes.set_axis_off()
    return figure


def _table(caption: str, head, body: str) -> str:
    titles = "".join(f"<th>{title}</th>" for title in head)
    return (
        f'<div class="study-table"><table class="study"><caption>{caption}</caption>'
        f"<thead><tr>{titles}</tr></thead><tbody>{body}</tbody></table></div>"
    )
