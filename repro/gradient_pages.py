"""What the chapter on GradNet shows: 003's table beside ours, the suspects, the gradients, the classical line."""

import math
import re
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
from repro.fusion_pages import LEVELS, SUSPECTS, has_evaluation, list_levels, show_mean
from repro.metrics import psnr_db
from repro.models import MODELS
from repro.pages import render_rows, show_verdict
from repro.study import claims as ledger
from repro.study.statistics import compare
from repro.study.verdicts import Group, Study

NONE_EXCHANGED = "No network was given other gradients yet."
NOT_YET = "No GradNet is trained yet; `repro campaign --only 'gradnet-*'` runs the experiments that are listed."
BATCHES = {"gradnet-impl-mixup": 32, "gradnet-impl-mixup-4-units": 32}  # of 003's runs; the others have 48
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
        what = what.replace("003", "the slides")
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
            cells.append(" / ".join(show_mean(group, f"{name}{ending}") for ending in ("", "-clipped")))
            both = neighbour and all(level in list_levels(side) for side in (group, neighbour))
            cells.append(compare(group.per_seed(name), neighbour.per_seed(name)).signed() if both else "")
        for column, cell in zip(columns.values(), cells, strict=True):
            column.append(cell)
    if not columns["network"]:
        return NOT_YET
    levels = " and ".join(f"{level:g}" for level in LEVELS)
    caption = (
        f"PSNR in dB on Kodak24 at sigma {levels}, for unclipped / clipped noise, and what one change does, with 95 % "
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


def describe_real(study: Study) -> str:
    """PSNR on photographs with real noise of GradNet, its naive denoiser and BM3D, and of the noisy photographs
    themselves, than which a network that has learned little is worse."""
    rows, noisy, worse = [], {}, []
    for group in study.groups:
        about = group.first
        real = about["experiment"] in ("gradnet-real-naive", "gradnet-real", "bm3d-estimated", "bm3d-estimated-times-5")
        if real:
            rows.append((about["experiment"], [show_mean(group, name) for name in REAL]))
            for name in REAL:
                if has_evaluation(group, name):
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
            f"On the blocks at hand of SIDD, the set that the slides report, a factor of {needed:.1f} would do: with "
            f"five, BM3D is told {5 / needed:.1f} times the true level."
        )
    both = scenes[scenes["sensor"] != ""].groupby(["sensor", "dataset"])["factor"].mean().unstack().dropna()
    for sensor, row in both.iterrows():
        each = " and ".join(f"{row[name]:.1f} on {name}" for name in both.columns)
        camera = re.sub("^(Canon|Nikon|Sony)", r"\1 ", sensor)
        told.append(f"Nor does the sensor decide the factor: for the same {camera} it is {each}.")
    polyu = scenes.loc[scenes["dataset"] == "polyu", "factor"]
    if len(polyu):
        told.append(f"From scene to scene of PolyU it goes from {polyu.min():.1f} to {polyu.max():.1f}.")
    return " ".join(told)


def describe_gradients(study: Study) -> str:
    """What a network makes of gradients of every kind, and how large its gradient loss is."""
    body, losses, measured, missed = "", [], 0, 0
    for group in study.groups:
        # What a network was trained with: its own naive denoiser's gradient, or the clean image's.
        reference = "clean" if group.first.settings.get("loss") == "oracle" else "own"
        usual = {level: given for level in LEVELS if len(given := group.given_gradients(level, reference))}
        for level, as_trained in usual.items():
            told = [_change(group, level, kind, reference) for kind in gradients.KINDS[1:]]
            cells = [group.first["experiment"], f"{level:g}", f"{as_trained.to_numpy().mean():.2f}", *told]
            body += f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in cells)}</tr>"
        if usual:
            measured += 1
            missed += all(
                compare(group.given_gradients(level, "zero"), as_trained).sign < 0
                for level, as_trained in usual.items()
            )
            each = [group.given_gradients(level, reference, "gradient_loss").to_numpy().mean() for level in usual]
            loss, batch = float(np.mean(each)), BATCHES.get(group.first["experiment"], 48)
            losses.append(f"{group.first['experiment']}: {loss:.3f}, shown as {loss / batch:.4f}")
    if not body:
        return NONE_EXCHANGED
    head = ("network", "sigma", "PSNR as trained", *gradients.KINDS[1:])
    where = f"central {gradients.SIDE}x{gradients.SIDE} pixels of the photographs of Kodak24"
    table = _table(
        f"Change of PSNR in dB by a gradient other than that of the training, with 95 % intervals; {where}", head, body
    )
    return (
        f"{table}\n\nNetworks that get worse at every level when given no gradient, and so read theirs: {missed} of "
        f"{measured}. The mean gradient loss, and what is left of it after a second division by the slides' batch "
        f"size: {'; '.join(losses)}."
    )


def _change(group: Group, level_255: float, kind: str, reference: str) -> str:
    """What gradients of one kind change against those that a network was trained with."""
    given = group.given_gradients(level_255, kind)
    if kind == reference or given.empty:
        return "as trained" if kind == reference else ""
    paired = compare(given, group.given_gradients(level_255, reference))
    return f"{paired.mean:+.3f} [{paired.low:+.3f}, {paired.high:+.3f}]"


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
