"""What the chapter on GradNet shows: 003's table beside ours, the suspects, the gradients, the classical line."""

import time
from html import escape
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure

import repro
from repro import gradients, plots
from repro.data import catalog, noise
from repro.metrics import psnr_db
from repro.models import MODELS
from repro.pages import render_rows, show_verdict
from repro.study import claims as ledger
from repro.study.statistics import compare
from repro.study.verdicts import Study

NOT_YET = "No GradNet is trained yet; `repro campaign --only 'gradnet-*'` runs the experiments that are listed."
LEVELS = (25.0, 50.0)
# Experiment -> the neighbour from which it differs in one suspect.
SUSPECTS = {
    "gradnet-naive-clipped": "gradnet-naive-image-level",
    "gradnet-naive-pixel-level": "gradnet-naive-image-level",
    "gradnet-dncnn": "gradnet-none",
    "gradnet-impl-dncnn": "gradnet-dncnn",
    "gradnet-impl-mixup": "gradnet-impl-dncnn",
    "gradnet-impl-lambda-0": "gradnet-impl-dncnn",
    "gradnet-impl-pixel-level": "gradnet-impl-dncnn",
    "gradnet-impl-bm3d": "gradnet-impl-dncnn",
}
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
    body = ""
    for experiment in study.experiments:
        group = groups.get(experiment.name)
        if not experiment.name.startswith("gradnet-") or group is None:
            continue
        cells = [escape(experiment.why)]
        for level in LEVELS:
            values = [_mean(group, f"kodak24-{level:g}{ending}") for ending in ("", "-clipped")]
            cells.append(" / ".join(values))
            neighbour = groups.get(SUSPECTS.get(experiment.name, ""))
            evaluation = group.first.find_evaluation("kodak24", level)
            if neighbour is None or evaluation is None:
                cells.append("")
                continue
            paired = compare(group.per_image(evaluation["name"]), neighbour.per_image(evaluation["name"]))
            cells.append(f"{paired.mean:+.2f} [{paired.low:+.2f}, {paired.high:+.2f}]")
        body += f"<tr>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"
    if not body:
        return NOT_YET
    head = ("suspect", "sigma 25, as it is / clipped", "against its neighbour", "sigma 50", "against its neighbour")
    return _table("PSNR in dB on Kodak24, and what one change does, with 95 % intervals", head, body)


def _mean(group, evaluation: str) -> str:
    if evaluation not in {about["name"] for about in group.first["evaluations"]}:
        return "-"
    return f"{group.per_image(evaluation).mean():.2f}"


def describe_gradients(study: Study) -> str:
    """What a network makes of gradients of every kind, and how large its gradient loss is."""
    measured = [group.first for group in study.groups if group.first.gradients is not None]
    body, losses = "", []
    for record in measured:
        summary = gradients.summarise(record.gradients)
        for level, rows in summary.groupby("sigma_255"):
            changes = {row.gradient: f"{row.mean:+.3f} [{row.low:+.3f}, {row.high:+.3f}]" for row in rows.itertuples()}
            cells = [record["variant"], f"{level:g}", *(changes.get(kind, "") for kind in gradients.KINDS[1:])]
            body += f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in cells)}</tr>"
        own = record.gradients[record.gradients["gradient"] == "own"]
        loss, shown = own[["gradient_loss", "gradient_loss_displayed"]].mean()
        losses.append(f"{record['variant']}: {loss:.3f}, shown as {shown:.4f}")
    if not body:
        return NOT_YET
    head = ("network", "sigma", *gradients.KINDS[1:])
    table = _table("Change of PSNR in dB against the network's own gradient, with 95 % intervals", head, body)
    return (
        f"{table}\n\nThe mean gradient loss, and what is left of it after a second division by 48: {'; '.join(losses)}."
    )


def describe_line(folder: Path, photograph: str = "astronaut") -> str:
    """One photograph through every filter of the classical line, with the PSNR and the time of each."""
    sample = next(sample for sample in catalog.samples("embedded-test", "RGB") if sample.name == photograph)
    top, left = 40, 150  # the face
    clean = sample.clean[:, top : top + CROP, left : left + CROP].contiguous()
    noisy = noise.fixed_gaussian_noise(clean, sample.name, SIGMA_255)
    pictures, body = {"noisy": noisy}, ""
    for name in (name for name, (module, _) in MODELS.items() if module == "repro.models.classical"):
        began = time.perf_counter()
        pictures[name] = repro.denoise(noisy.clamp(-1, 2), model=name, sigma=SIGMA_255 / 255)
        seconds = time.perf_counter() - began
        body += f"<tr><td>{name}</td><td>{psnr_db(clean, pictures[name]):.2f}</td><td>{seconds:.2f}</td></tr>"
    plots.save(draw_line(pictures), folder / "gradnet_line.png")
    about = f"{sample.name}, {CROP} x {CROP} pixels, sigma {SIGMA_255}, on {torch.get_num_threads()} threads"
    table = _table(f"The classical line: {about}", ("filter", "PSNR, dB", "seconds"), body)
    alt = "The same noisy crop after each filter of the classical line."
    return f"```{{image}} _generated/gradnet_line.png\n:alt: {alt}\n```\n\n{table}"


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
