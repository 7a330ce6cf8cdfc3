"""What the chapter on SADNet says of its short runs: what its parts are worth, and what was tried in training it."""

from collections.abc import Callable
from html import escape
from math import ceil
from pathlib import Path
from statistics import fmean

import pandas as pd

from repro import plots
from repro.pages import list_statements, render_rows, show_verdict
from repro.study import claims as ledger
from repro.study.experiments import Experiment
from repro.study.records import Record
from repro.study.statistics import compare
from repro.study.verdicts import HINT, NOT_TESTABLE, Group, Study

REFERENCE = "ablation-full"
ON = "kodak24-50"
# The states of the ablation study, as the ledger's variants name them -> their short runs.
STATES = {
    "none": "ablation-none",
    "context": "ablation-context",
    "rsab": "ablation-rsab",
    "rsab+transfer": "ablation-rsab-transfer",
    "rsab+context": "ablation-rsab-context",
    "full": REFERENCE,
}
ALL = "rsab+transfer+context"  # what "full" has
NAMES = {
    "none": "none of them",
    "rsab": "RSAB",
    "context": "context block",
    "transfer": "offset transfer",
    "full": "all three",
}


def describe_parts(study: Study) -> str:
    """Each short run of another network than the reference, and its difference to it, image by image."""
    caption = "What the parts of the network are worth, after the same number of steps"
    table = _describe(study, caption, lambda e, r: e.sizes != r.sizes)
    others = [group for experiment, group in _pair_up(study) if experiment.sizes != _reference(study).sizes]
    return table if any(others) else f"Not measured yet: no network without one of the parts is trained. {table}"


KERNELS = {
    "001-direction-kernels-extend-along-edges": "At edges the kernels extend along the edge",
    "001-direction-kernels-uniform-in-smooth-regions": "Where the picture is smooth the sampling points spread evenly",
    "001-direction-samples-on-similar-texture": "The points lie on similar texture",
    "001-direction-coarse-scale-reaches-further": "The coarsest scale reaches farthest",
    "001-direction-fine-scale-stays-near": "The finest scale stays near",
}
"""What the paper says of the learned kernels, by the id of the claim."""
REAL = {
    "001-t6-nam-sadnet-psnr": "On Nam's photographs SADNet has {value} dB",
    "001-s43-nam-gain-over-pd": "There it is {value} dB above PD",
    "001-order-nam-ssim-over-pd": "Its SSIM there is above PD's",
    "001-order-nam-ssim-over-cdncnn-b": "Its SSIM there is above that of CDnCNN-B",
    "000-direction-removes-real-noise": "It removes noise from real photographs",
}
"""What is said of real noise and can be tested with the photographs at hand, by the id of the claim."""


def describe_kernels(settled: pd.DataFrame) -> str:
    """What the paper says of the kernels, with verdicts."""
    return list_statements(settled.loc[list(KERNELS)], KERNELS)


def describe_real(settled: pd.DataFrame) -> str:
    """What is said of real noise: what could be tested, and how much could not."""
    told = list_statements(settled.loc[list(REAL)], REAL)
    of_real = ledger.find(settled, method="SADNet")
    of_real = of_real[of_real["dataset"].isin(["SIDD validation", "SIDD benchmark", "DND", "Nam"])]
    left = int((of_real["word"] == NOT_TESTABLE).sum())
    return f"{told}\n\nOf the {len(of_real)} claims about SADNet on SIDD, DND and Nam, {left} could not be tested here."


def describe_ablation(settled: pd.DataFrame, study: Study, folder: Path) -> str:
    """The paper's ablation study beside ours: a picture of the states, and a line for each step between two."""
    groups = {group.first["experiment"]: group for group in study.groups}
    printed = ledger.find(settled, source="001", table="Table 1", metric="psnr").set_index("variant")["number"]
    states = [state for state, name in STATES.items() if name in groups and STATES["none"] in groups]
    if len(states) < 2:
        return "Not measured yet: `repro campaign --only 'ablation-*'` trains the states."
    values = {state: groups[STATES[state]].per_seed(ON) for state in states}
    gains = {state: compare(values[state], values["none"]) for state in states[1:]}
    drawn = pd.DataFrame({"state": [name_state(state) for state in gains]})
    drawn["printed"] = [printed[state] - printed["none"] for state in gains]
    for side in ("mean", "low", "high"):
        drawn[side] = [getattr(gain, side) for gain in gains.values()]
    plots.save(plots.draw_gains(drawn, "gain over none of the parts, dB"), folder / "sadnet_ablation.png")
    told = "; ".join(f"{row.state} {row.mean:+.2f} dB, printed {row.printed:+.2f}" for row in drawn.itertuples())
    steps = " or ".join(f"{count:,}" for count in sorted({groups[STATES[state]].first["steps"] for state in states}))
    return (
        f"```{{image}} _generated/sadnet_ablation.png\n:alt: Gains over the network with none of the parts: {told}.\n"
        "```\n\nThe networks of the paper's ablation study, with none, some or all of the parts, after "
        f"{steps} steps each, with 95 % intervals; the printed gains are those of the paper's whole training. Where "
        "each was trained once, a small step may be due to the seed: it is a hint.\n\n"
        f"{_describe_steps(settled, printed)}"
    )


def _describe_steps(settled: pd.DataFrame, printed: pd.Series) -> str:
    """HTML: what the paper says that a part adds, by its table and here."""
    columns: dict[str, list[str]] = {name: [] for name in ("what is added", "to", "printed, dB", "here, dB", "verdict")}
    for _, claim in ledger.find(settled, source="001", table="Section 4.1", metric="ordering").iterrows():
        first, second = claim["variant"].split(" over ")
        added = first
        if second != "none":
            (added,) = set(first.replace("full", ALL).split("+")) - set(second.split("+"))
        interval = f" [{claim['low']:+.2f},\N{NO-BREAK SPACE}{claim['high']:+.2f}]" if pd.notna(claim["low"]) else ""
        cells = (
            name_state(added),
            name_state(second),
            f"{printed[first] - printed[second]:+.2f}",
            f"{claim['difference']:+.2f}{interval}" if pd.notna(claim["difference"]) else "–",
            f"{show_verdict(claim['word'])}{', a hint' if HINT in claim['reason'] else ''}",
        )
        for column, cell in zip(columns.values(), cells, strict=True):
            column.append(cell)
    return render_rows("Sentences of the paper's ablation study: what a part adds on Kodak24 at sigma 50", columns)


def name_state(state: str) -> str:
    """``rsab+transfer`` in words."""
    return NAMES[state] if state in ("none", "full") else " and ".join(NAMES[part] for part in state.split("+"))


def describe_recipes(study: Study) -> str:
    """Each short run of the reference's network, trained otherwise; what is best is told by the validation images."""
    table = _describe(
        study, "What was tried in training, for about the same arithmetic", lambda e, r: e.sizes == r.sizes
    )
    reached = _compare_recipes(study)
    if len(reached) < 2 or REFERENCE not in reached:
        return table
    best = max(reached, key=reached.get)
    verdict = "nothing tried so far is better than the reference"
    if best != REFERENCE:
        verdict = f"`{best}` does best, by {reached[best] - reached[REFERENCE]:.2f} dB over the reference"
    return f"{table}\n\nBy the photographs that are kept out of training, {verdict}. Kodak24 has no say in this."


def describe_other_runs(settled: pd.DataFrame, study: Study) -> str:
    """What SADNets at sigma 50 that settle no claim say of the orderings: their distance from others' weights."""
    evidence = str(settled.loc["001-order-kodak24-50-over-dncnn", "evidence"]).split()
    found = study.find("sadnet", "full", "rgb", "kodak24", 50.0)
    settling = [group for group in found if set(group.names.split()) <= set(evidence)]
    lines = []
    for group in found if settling else []:
        if group is settling[0] or not group.first.list_evaluations("kodak24", 50.0).count(ON):
            continue
        against = []
        for method, name in (("dncnn", "DnCNN"), ("ffdnet", "FFDNet")):
            for other in study.find(method, "full", "rgb", "kodak24", 50.0)[:1]:
                against.append(f"{compare(group.per_seed(ON), other.per_seed(ON)).signed()} dB against {name}")
        if against:
            lines.append(f"`{group.first['experiment']}` ({_name_training(group.first)}) is {' and '.join(against)}")
    if not lines:
        return ""
    return (
        f"The verdicts in colour at sigma 50 are those of `{settling[0].first['experiment']}`. What other trainings "
        f"give on Kodak24, image by image: {'; '.join(lines)}."
    )


def _compare_recipes(study: Study) -> dict[str, float]:
    """What each short run of the reference's network reached on the photographs kept out of training, in dB."""
    reference = _reference(study)
    return {
        experiment.name: _validate(group)
        for experiment, group in _pair_up(study)
        # Validation is in the noise of the training: clipped noise is another task.
        if group is not None
        and experiment.sizes == reference.sizes
        and experiment.train["clip"] == reference.train["clip"]
    }


def describe_curves(study: Study, folder: Path) -> str:
    """The learning curves of SADNet's colour runs at sigma 50, as a picture: of the short ones the reference and the
    best."""
    short = {experiment.name for experiment, _ in _pair_up(study)}
    reached = _compare_recipes(study)
    kept = {REFERENCE, max(reached, key=reached.get, default="")}
    runs = [
        record
        for group in study.groups
        for record in group.records
        if (group.first["method"], group.first["colour"], group.first["sigma_255"]) == ("sadnet", "rgb", 50)
        and record.curve is not None
        and (group.first["experiment"] not in short or group.first["experiment"] in kept)
    ]
    if not runs:
        return "No run is finished yet, so there is no curve to show."
    curves = {record.name: record.curve for record in runs}
    plots.save(plots.draw_learning_curves(curves), folder / "sadnet_curve.png")
    ends = {name: curve["psnr_db"].dropna().iloc[-1] for name, curve in curves.items()}
    best = max(ends, key=ends.get)
    others = [
        f"`{record.name}`{_name_threads(record)}{'' if record.settings['precision'] == '32' else ' in bf16'}"
        for record in runs
        if record["threads"] > 1 or record.settings["precision"] != "32"
    ]
    apart = f" All ran on one thread in float32, except {', '.join(others)}." if others else ""
    alt = f"Learning curves of {len(curves)} runs; {best} ends highest, at {ends[best]:.2f} dB."
    return (
        f"```{{image}} _generated/sadnet_curve.png\n:alt: {alt}\n```\n\n"
        "PSNR on photographs of the training set that are kept out of training (no test images), against hours of "
        f"training; in some of these hours the machine did other work too.{apart} Of the short runs only the reference "
        "and the recipe that ends highest are shown."
    )


def describe_runaways(study: Study) -> str:
    """The runs in which the mean offset of a scale grew beyond the side of a training patch, and how they ended; how
    large it is in all others. Offsets are absolute, on the photographs kept out of training, in positions of their
    scale.
    """
    drifts = {
        record.name: (record, offsets)
        for group in study.groups
        for record in group.records
        if record["method"] == "sadnet" and (offsets := record.largest_offsets) is not None
    }
    ran = {name: (record, o) for name, (record, o) in drifts.items() if record.ran_away}
    quiet = [offsets.max() for name, (_, offsets) in drifts.items() if name not in ran]
    highest = f"{ceil(10 * max(quiet)) / 10:g}" if quiet else ""
    within = f"the mean offset of every scale stays below {highest} of its positions throughout" if quiet else ""
    runs = f"{len(quiet)} run{'s' if len(quiet) > 1 else ''} of SADNet"
    if not ran:
        return f"In {runs} {within}: no sampling points ran away." if quiet else "No run is finished yet."
    lines = []
    for record, offsets in ran.values():
        validated = record.curve.set_index("step")["psnr_db"].dropna()
        began = offsets.index[offsets > record.settings["patch"]][0]
        before, end = validated[validated.index < began].max(), validated.iloc[-1]
        most = f"{offsets.max():,.0f} after step {offsets.idxmax():,}, " if offsets.idxmax() != began else ""
        fell = f"Validation ended at {end:.2f} dB."
        if not pd.isna(before):
            fell = f"Validation had reached {before:.2f} dB before, and ended at {end:.2f}."
        seed = f" seed {record['seed']}" if record["seed"] else ""
        colour = "gray, " if record["colour"] == "gray" else ""
        lines.append(
            f"- `{record['experiment']}`{seed}, {colour}{_name_training(record)}: {offsets[began]:,.0f} positions "
            f"after step {began:,}, {most}{offsets.iloc[-1]:,.0f} at the end. {fell}{_describe_siblings(record, study)}"
        )
    others = f"\n\nIn the other {runs} {within}." if quiet else ""
    return "\n".join(lines) + others


def _describe_siblings(lost: Record, study: Study) -> str:
    """What the other trainings of the same settings have on the first test, where there are any in which it did not
    happen."""
    group = next(group for group in study.groups if lost in group.records)
    others = [record.name for record in group.records if not record.ran_away]
    if not others or lost["evaluations"] == []:
        return ""
    test = lost["evaluations"][0]["name"]
    means = group.per_seed(test).mean()
    told = " and ".join(f"{means[name]:.2f}" for name in others)
    return f" On `{test}` it has {means[lost.name]:.2f} dB, where other seeds have {told}."


def describe_other_levels(study: Study) -> str:
    """What a network has at a noise level that it was not trained for, beside one that was."""
    lines = []
    for group in (group for group in study.groups if group.first["method"] == "sadnet" and group.trained):
        own = group.first["sigma_255"]
        for about in group.first["evaluations"]:
            level, usual = about["sigma_255"], f"{about['dataset']}-{about['sigma_255'] or 0:g}"
            if own is None or level in (own, None) or about["name"] != usual:
                continue
            others = study.find("sadnet", "full", group.first["colour"], about["dataset"], level)
            for other in [one for one in others if one.first["sigma_255"] == level][:1]:
                values = [side.per_seed(usual) for side in (group, other)]
                ours, theirs = (frame.to_numpy().mean() for frame in values)
                lines.append(
                    f"At sigma {level:g} on {about['dataset']}, `{group.first['experiment']}`, trained for {own:g}, "
                    f"has {ours:.2f} dB, and `{other.first['experiment']}`, trained for {level:g}, {theirs:.2f}: "
                    f"a difference of {compare(*values).signed()} dB."
                )
    return " ".join(lines)


def _describe(study: Study, caption: str, belongs: Callable[[Experiment, Experiment], bool]) -> str:
    reference = _reference(study)
    runs = _pair_up(study)
    neighbour = next(group for experiment, group in runs if experiment is reference)
    columns: dict[str, list[str]] = {
        name: [] for name in ("run", "training", "minutes", "validation, dB", "Kodak24, dB", "against the reference")
    }
    waiting = []
    for experiment, group in runs:
        if experiment is not reference and not belongs(experiment, reference):
            continue
        if group is None:
            waiting.append(f"`{experiment.name}`")
            continue
        difference = "–"
        if group is not neighbour and neighbour is not None:
            paired = compare(group.per_seed(ON), neighbour.per_seed(ON))
            difference = f"{paired.mean:+.2f} ({paired.low:+.2f} to {paired.high:+.2f})"
        cells = (
            f"<code>{escape(experiment.name)}</code> {escape(experiment.why)}", _name_training(group.first),
            f"{group.first['seconds'] / 60:.0f}{_name_threads(group.first)}", f"{_validate(group):.2f}",
            f"{group.per_image(ON).mean():.2f}", difference,
        )  # fmt: skip
        for column, cell in zip(columns.values(), cells, strict=True):
            column.append(cell)
    told = f"Still to be run: {', '.join(waiting)}." if waiting else ""
    if not columns["run"]:
        return told
    devices = {group.first["device"] for _, group in _pair_up(study) if group is not None}
    machines = "are of several kinds of machine" if len(devices) > 1 else "are of one kind of machine"
    caption += (
        ". Colour, sigma 50; validation on photographs kept out of training; Kodak24 with noise that is "
        f"not clipped, differences image by image with 95 % intervals; minutes include what else the machine was "
        f"doing, and {machines}"
    )
    return f"{render_rows(caption, columns)}\n\n{told}"


def _reference(study: Study) -> Experiment:
    return next(experiment for experiment in study.experiments if experiment.name == REFERENCE)


def _pair_up(study: Study) -> list[tuple[Experiment, Group | None]]:
    """The short runs of the list, the reference first, each with its seeds' records or None."""
    groups = {group.first["experiment"]: group for group in study.groups}
    reference = _reference(study)
    about = ("method", "colour", "sigma_255", "budget", "data")
    short = [
        experiment
        for experiment in study.experiments
        if all(getattr(experiment, name) == getattr(reference, name) for name in about)
        and experiment.train["steps"] <= reference.train["steps"]
    ]
    short.sort(key=lambda experiment: experiment is not reference)
    return [(experiment, groups.get(experiment.name)) for experiment in short]


def _validate(group: Group) -> float:
    """PSNR in dB on the validation photographs at the end of training, the mean over the seeds."""
    return fmean(record.curve["psnr_db"].dropna().iloc[-1] for record in group.records)


def _name_threads(record: Record) -> str:
    return "" if record["threads"] == 1 else f" on {record['threads']} threads"


def _name_training(record: Record) -> str:
    value = record.settings
    clipped = ", noise clipped" if value["clip"] else ""
    products = "" if value["precision"] == "32" else f", {value['precision']}"
    return (
        f"{record['steps']:,} steps of {value['batch']} patches of {value['patch']}², rate {value['lr']:g}, "
        f"{value['loss'].upper()}{products}{clipped}"
    )
