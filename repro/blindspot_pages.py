"""What the chapter on SSDN quotes, from claims, records and verdicts: no number is typed."""

from html import escape
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure
from torch import Tensor

from repro import pages, plots, timing, weights
from repro.data import catalog, noise
from repro.errors import ReproError
from repro.evaluate import denoise
from repro.metrics import psnr_db
from repro.notebooks import render_table
from repro.study import claims as ledger
from repro.study import experiments, ssdn
from repro.study.statistics import Interval
from repro.study.verdicts import Study

NOT_YET = (
    "None of these networks is trained yet; `repro campaign --only 'ssdn-*'` runs the experiments that are listed."
)
# Variants of the experiments and what pictures call them. 002's Figure 1 has most of them.
METHODS = {
    "N2C": "N2C",
    "N2N": "N2N",
    "N2V": "N2V",
    "N2V without averaging": "N2V, not averaged",
    "mean only": "SSDN, mean only",
    "constant": "SSDN, constant level",
    "variable": "SSDN, variable level",
    "known": "SSDN, known level",
}
PHOTOGRAPH = "astronaut"  # of the set embedded-test
BOX_PX = (0, 104, 256, 256)  # top, left, height and width of the part that is shown


def describe_table(settled: pd.DataFrame) -> str:
    """Table 1 of document 002 with this study's values."""
    rows = []
    for _, claim in ledger.find(settled, source="002", table="Table 1").iterrows():
        name = f"{claim['method']} ({claim['variant']})" if claim["variant"] else claim["method"]
        copied = (
            f", copied from {ledger.CITED[claim['attributed_to']]}" if claim["attributed_to"] in ledger.CITED else ""
        )
        rows.append(
            f"<tr><td>{escape(name)}</td><td>{claim['dataset']}</td><td>{claim['value']}{copied}</td>"
            f"<td>{pages._number(claim['ours'])}</td><td>{pages.show_verdict(claim['word'])}</td>"
            f"<td>{escape(claim['reason'])}</td></tr>"
        )
    head = "".join(f"<th>{name}</th>" for name in ("method", "images", "reproduction", "ours", "verdict", "why"))
    return (
        '<div class="study-table"><table class="study"><caption>Mean PSNR in dB, colour, sigma 25</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
    )


def describe_statements(settled: pd.DataFrame) -> str:
    """What document 002 states in words, with verdicts."""
    stated = ledger.find(settled, source="002")
    stated = stated[stated["metric"].isin(ledger.STATEMENTS | {"size_ratio", "time_ratio", "psnr_loss"})]
    items = []
    for _, claim in stated.iterrows():
        where = f", {claim['dataset']}" if claim["dataset"] else ""
        what = f"SSDN, {claim['variant'] or claim['metric'].replace('_', ' ')}{where}"
        if claim["metric"] not in ledger.STATEMENTS:
            what += f": {claim['metric'].replace('_', ' ')} {claim['value']} {claim['unit']}".rstrip()
        items.append(f"- {escape(what)}. {pages.show_verdict(claim['word'])}: {escape(claim['reason'])}")
    return "\n".join(items)


def describe_curves(study: Study, folder: Path) -> str:
    """The learning curves of all methods, by steps and by minutes, and whether SSDN is the faster one."""
    found = {label: ssdn._find(variant, study) for variant, label in METHODS.items()}
    curves = {label: groups[0].first.curve for label, groups in found.items() if groups}
    if not curves:
        return NOT_YET
    plots.save(plots.draw_curves_twice(curves), folder / "ssdn_curves.png")
    ends = {label: curve["psnr_db"].dropna().iloc[-1] for label, curve in curves.items()}
    best = max(ends, key=ends.get)
    alt = (
        f"PSNR against steps, and against minutes of training, for {'; '.join(curves)}. {best} ends highest, at "
        f"{ends[best]:.2f} dB."
    )
    missing = [label for label, groups in found.items() if not groups]
    still = f" Not trained yet: {'; '.join(missing)}." if missing else ""
    return (
        f"```{{image}} _generated/ssdn_curves.png\n:alt: {alt}\n```\n\n"
        f"PSNR on photographs of the training set that are kept out of training.{still}\n\n"
        f"{describe_speed(study)}\n\n{describe_step()}"
    )


def describe_step() -> str:
    """Which part of the speed of bare convolutions a training step reaches, where `repro bench blindspot` has run."""
    lines = []
    for about, table in timing.load("blindspot"):
        each = "; ".join(
            f"{row.training} {row.step_s * 1e3:,.0f} ms, {row.share_of_floor:.0%} of the floor, {row.n2v_ratio:.1f} "
            "times N2V's" for row in table.itertuples()
        )  # fmt: skip
        lines.append(f"- {about['device']}, {about['batch']} patches of {about['patch']} pixels: {each}.")
    if not lines:
        return ""
    return (
        "What a training step takes, and which part of the speed of the same convolutions by themselves, without "
        "rotations, shifts and likelihood, it reaches:\n\n" + "\n".join(lines)
    )


def describe_speed(study: Study) -> str:
    """Whether SSDN is faster than N2V in real time, which the report leaves open: a sentence for each pair of runs."""
    races = ssdn.race(study)
    if not races:
        return "Whether SSDN is faster than N2V in real time needs a run of both."
    lines = []
    for race in races:
        first, second = (METHODS[group.first["variant"]] for group in race.groups)
        steps, minutes = race.steps, [seconds / 60 for seconds in race.seconds]
        lines.append(
            f"- {first} against {second}: both reach {race.psnr_db:.2f} dB, after {steps[0]:,.0f} and {steps[1]:,.0f} "
            f"steps, after {minutes[0]:.1f} and {minutes[1]:.1f} minutes. In steps {first} is "
            f"{_faster(steps[1] / steps[0])}, "
            + (f"in real time {_faster(minutes[1] / minutes[0])}." if race.same_machine else
               "in real time they cannot be compared: the runs are of different machines.")
        )
    return "Is SSDN faster than N2V in real time? The report calls it unclear.\n\n" + "\n".join(lines)


def _faster(ratio: float) -> str:
    return f"{ratio:.1f} times as fast" if ratio >= 1 else f"{1 / ratio:.1f} times as slow"


# --- one photograph, every method


def describe_photograph(folder: Path) -> str:
    """002's Figure 2 from the committed weights, on a photograph that comes with scikit-image."""
    figure, alt, missing = draw_photograph()
    plots.save(figure, folder / "ssdn_photograph.png")
    still = f" Without published weights: {'; '.join(missing)}." if missing else ""
    return (
        f"```{{image}} _generated/ssdn_photograph.png\n:alt: {alt}\n```\n\n"
        f"Part of a photograph that no training saw, with PSNR of this part.{still}"
    )


def draw_photograph(
    dataset: str = "embedded-test",
    photograph: str = PHOTOGRAPH,
    box_px: tuple[int, int, int, int] = BOX_PX,
    seed: int = 0,
) -> tuple[Figure, str, list[str]]:
    """Part of one photograph, clean, noisy (sigma 25) and after every method that has published weights.

    ``dataset``: a set of the catalogue or a folder of images; ``box_px``: top, left, height and width of the part,
    which each network sees by itself. Returns the figure, its description, and the methods without weights. A
    ReproError for a photograph that the set does not have, or that has no such part.
    """
    clean = _cut_part(dataset, photograph, box_px)
    noisy = noise.fixed_gaussian_noise(clean, photograph, ssdn.SIGMA_255, seed)
    images = {"clean": clean, f"noisy, sigma {ssdn.SIGMA_255:g}": noisy.clamp(0, 1)}
    published, missing = weights.published(), []
    # Of several budgets the largest, which the list has last.
    rows = {e.variant: e.name for e in experiments.load() if e.name.startswith("ssdn-") and e.name in published}
    for variant, label in METHODS.items():
        if variant in rows:
            net = weights.load(rows[variant])
            images[label] = denoise(noisy, net, ssdn.SIGMA_255 / 255 if net.needs_sigma else None)
        else:
            missing.append(label)
    values = {label: f"{psnr_db(clean, image):.2f} dB" for label, image in images.items() if label != "clean"}
    figure = plots.draw_gallery({label: image.numpy() for label, image in images.items()}, values)
    alt = f"Part of the photograph {photograph}: clean; {'; '.join(f'{k} {v}' for k, v in values.items())}."
    return figure, alt, missing


def _cut_part(dataset: str, photograph: str, box_px: tuple[int, int, int, int]) -> Tensor:
    samples = {image: path for image, path, _ in catalog.paths(dataset)}
    if photograph not in samples:
        raise ReproError(f"{dataset} has no photograph {photograph!r}; it has {', '.join(samples)}.")
    clean = next(sample.clean for sample in catalog.samples(dataset) if sample.name == photograph)
    top, left, height, width = box_px
    if not (0 <= top < top + height <= clean.shape[1] and 0 <= left < left + width <= clean.shape[2]):
        raise ReproError(f"{photograph} is {clean.shape[2]} x {clean.shape[1]} pixels: it has no part {box_px}.")
    return clean[:, top : top + height, left : left + width].contiguous()


# --- the puzzle of BSD300


def describe_conventions(study: Study) -> str:
    """How far each convention that may explain 002's values on BSD300 moves the PSNR of one and the same network."""
    groups = ssdn._find("N2C", study)
    if not groups:
        return NOT_YET
    shifts = ssdn.measure_conventions(groups[0], study)
    table = pd.DataFrame(
        {
            "images": shift.dataset,
            "convention": shift.convention,
            "measured with": shift.measured_with,
            "PSNR, dB": shift.psnr_db,
            "shift, dB": shift.shift.mean if shift.shift else None,
            "95 % interval, dB": _show_interval(shift.shift),
        }
        for shift in shifts
    )
    raising = [s for s in shifts if s.dataset == "bsd300test" and s.shift and s.shift.sign > 0]
    raising.sort(key=lambda s: -s.shift.mean)
    named = "; ".join(f"{s.convention}, by {s.shift.mean:.2f} dB" for s in raising)
    told = f"What raises PSNR on BSD300: {named}." if raising else "None of these raises PSNR on BSD300."
    return (
        render_table(table, "ssdn-conventions")
        + f"\n\n{told} Shifts are against the first row of the same images. Intervals are of the paired difference, "
        "image by image; where the images themselves differ, images are drawn from all of both choices."
    )


def _show_interval(interval: Interval | None) -> str:
    return "" if interval is None else f"{interval.low:+.3f} to {interval.high:+.3f}"
