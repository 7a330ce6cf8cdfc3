"""What the chapter on SSDN quotes, from claims, records and verdicts: no number is typed."""

from html import escape
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from torch import Tensor

from repro import pages, plots, timing, weights
from repro.data import catalog, noise
from repro.errors import ReproError
from repro.evaluate import denoise
from repro.metrics import psnr_db
from repro.models.ssdn import FIRST_STRENGTH
from repro.notebooks import render_table
from repro.study import claims as ledger
from repro.study import experiments, ssdn
from repro.study.statistics import Interval, compare
from repro.study.verdicts import Study, settle

NOT_YET = (
    "None of these networks is trained yet; `repro campaign --budget cpu --only 'ssdn-*'` runs the experiments that "
    "are listed."
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
    """Table 1 of document 002 with this study's values: a line for each method, a column for each set."""
    rows = ledger.find(settled, source="002", table="Table 1")
    columns: dict[str, list[str]] = {name: [] for name in ("method", *rows["dataset"].unique())}
    for (method, variant), group in rows.groupby(["method", "variant"], sort=False):
        trainings = max(len(str(evidence).split()) for evidence in group["evidence"])
        note = f'<div class="why">mean of {trainings} trainings</div>' if trainings > 1 else ""
        columns["method"].append(f"{escape(f'{method} ({variant})' if variant else method)}{note}")
        for _, claim in group.iterrows():
            columns[claim["dataset"]].append(_show_cell(claim))
    copied = rows[rows["attributed_to"].isin(ledger.CITED)]
    origins = [
        f"{escape(method)}'s are copied from {escape(ledger.CITED[source])}"
        for method, source in dict.fromkeys(zip(copied["method"], copied["attributed_to"], strict=True))
    ]
    printed = f"; of the printed values {' and '.join(origins)}" if origins else ""
    caption = f"Mean PSNR in dB, colour, sigma 25; each verdict leads to its reason{printed}"
    return pages.render_rows(caption, columns)


def _show_cell(claim: pd.Series) -> str:
    """Ours beside the printed value, and the verdict, which leads to its claim in the ledger."""
    verdict = f'<a href="ledger.html#{claim["id"]}">{pages.show_verdict(claim["word"])}</a>'
    if pd.isna(claim["ours"]):
        return f'printed {escape(claim["value"])}<br>{verdict}<div class="why">{escape(claim["reason"])}</div>'
    return f"<b>{claim['ours']:.2f}</b>, printed {escape(claim['value'])}<br>{verdict}"


COLLAPSE = (
    "The level that it estimates lies at its floor, a quarter of a gray level, so that all of the noise counts as "
    "signal, whose sum the likelihood judges. The softplus above that floor passes no gradient there, the "
    "regulariser's neither, and nothing leads back."
)


def describe_collapses(study: Study) -> str:
    """Trainings that gave back the noisy image, where others that differ in nothing but the seed did not and where all
    did; and what became of all that estimate a level per image."""
    groups = [group for group in study.groups if group.first["method"] == "ssdn" and group.trained]
    told, everywhere = [], []
    for group in groups:
        lost = [record for record in group.records if record.gives_back_noise]
        if not lost:
            continue
        evaluation = group.first["evaluations"][0]["name"]
        values = ", ".join(f"{value:.2f}" for value in group.per_seed(evaluation).mean())
        if len(lost) == len(group.records):
            everywhere.append(f"`{group.first['experiment']}` ({values} dB)")
            continue
        names = ", ".join(f"`{record.name}`" for record in lost)
        why = f" {COLLAPSE}" if group.first["variant"].startswith("variable") else ""
        told.append(
            f"Of the {len(group.records)} trainings of `{group.first['experiment']}`, whose settings differ in "
            f"nothing but the seed, {len(lost)} failed ({names}): on `{evaluation}` they have {values} dB. Such a "
            f"network gives back the noisy image.{why} Values and intervals are over all trainings, the failed ones "
            "too, so that a mean is that of neither kind."
        )
    if everywhere:
        told.append(f"Without a training that did better, the noisy image is given back by {', '.join(everywhere)}.")
    gains = {
        record.name: record.gain_db
        for group in groups
        if group.first["variant"].startswith("variable") and group.first["sigma_255"] is not None
        for record in group.records
        if record.gain_db is not None
    }
    if told and len(gains) > 1:
        listed = "; ".join(f"`{name}` {gain:+.2f}" for name, gain in sorted(gains.items(), key=lambda pair: -pair[1]))
        told.append(
            f"What each training that estimates a level per image gained over the noisy image, where all noise has one "
            f"level, in dB: {listed}."
        )
    return "\n\n".join(told)


def describe_spread(study: Study, folder: Path) -> str:
    """PSNR of each image of Kodak24 by method, as a picture: what a difference of means is beside that of images."""
    found = {label: ssdn._find(variant, study) for variant, label in METHODS.items()}
    values = {label: groups[0].per_image("kodak24-25") for label, groups in found.items() if groups}
    if not values:
        return NOT_YET
    plots.save(plots.draw_spread(values), folder / "ssdn_spread.png")
    failed = [label for label, groups in found.items() if groups and any(r.gives_back_noise for r in groups[0].records)]
    mixed = (
        f" With failed trainings among them, the marks of {' and '.join(failed)} are those of no network."
        if failed
        else ""
    )
    means = {label: column.mean() for label, column in values.items()}
    best, widest = max(means, key=means.get), max(values, key=lambda label: values[label].std())
    alt = (
        f"PSNR of each photograph of Kodak24 for {'; '.join(values)}. {best} has the highest mean, {means[best]:.2f} "
        f"dB; photographs differ most for {widest}, by a standard deviation of {values[widest].std():.1f} dB."
    )
    return (
        f"```{{image}} _generated/ssdn_spread.png\n:alt: {alt}\n```\n\nA mark for each photograph of Kodak24, averaged "
        f"over a method's trainings, and the mean.{mixed} Photographs differ by decibels under any method: that is why "
        "methods are compared photograph by photograph."
    )


STATED = {
    "better than N2V": "SSDN is better than N2V",
    "learns faster than N2V per iteration": "SSDN learns faster than N2V, iteration by iteration",
    "learns faster than N2V per hour": "SSDN learns faster than N2V by the hour, which the report calls unclear",
    "at best matches N2C": "SSDN at best matches N2C, which is trained on clean images",
    "trains like N2C": "With sigma unknown SSDN trains like N2C",
    "little difference to the eye": "To the eye SSDN and N2C hardly differ",
    "known over CBM3D": "With sigma known SSDN exceeds CBM3D",
    "expected trends": "The methods come in the expected order",
    "002-s5-average-expected": "With sigma known, {value} dB are expected on average over both sets",
    "002-s5-average-known": "With sigma known, {value} dB are reached on average over both sets",
    "002-s5-loss-to-original": "The report's average with sigma known is {value} dB below the original's",
    "002-s5-tenth-of-training": "It was trained for {value} of the original's iterations",
    "further training increases PSNR": "Further training would increase PSNR",
    "002-s4-bsd300-range": "Trained for levels from 25 to 50, SSDN has {value} dB on BSD300",
    "clipping lowers PSNR, sigma known": "Clipped noise lowers PSNR where sigma is known",
    "clipping defeats estimation": "With clipped noise sigma cannot be estimated",
    "estimation needs the zeroed last layer": "Unless the estimator's last layer begins with zeros, training fails",
    "002-s5-time-factor": "An iteration of SSDN takes {value} times as long as one of N2V",
    "002-s5-size-factor": "The network of SSDN is {value} times as large as N2V's",
    "original drops in validation": "The original's program loses PSNR in validation after a while",
    "trains as the original": "The report's training follows that of the original's program",
}
"""What document 002 states outside its table, by the variant or the id of a claim."""


def describe_statements(settled: pd.DataFrame) -> str:
    """What document 002 states in words, with verdicts."""
    stated = ledger.find(settled, source="002")
    shown = ledger.STATEMENTS | {"size_ratio", "time_ratio", "psnr_loss", "iterations_ratio"}
    stated = stated[stated["metric"].isin(shown) | ((stated["metric"] == "psnr") & (stated["table"] != "Table 1"))]
    return pages.list_statements(stated, STATED)


def describe_curves(study: Study, folder: Path) -> str:
    """The learning curves of all methods, by steps and by minutes, and whether SSDN is the faster one."""
    found = {label: ssdn._find(variant, study) for variant, label in METHODS.items()}
    trainings = {label: groups[0].records for label, groups in found.items() if groups}
    if not trainings:
        return NOT_YET
    curves = {label: [r.curve for r in records if r.curve is not None] for label, records in trainings.items()}
    plots.save(plots.draw_curves_twice(curves), folder / "ssdn_curves.png")
    ends = {label: [curve["psnr_db"].dropna().iloc[-1] for curve in tables] for label, tables in curves.items()}
    best = max(ends, key=lambda label: np.mean(ends[label]))
    alt = (
        f"PSNR against steps, and against minutes of training, for {'; '.join(curves)}. On average over its trainings "
        f"{best} ends highest, at {np.mean(ends[best]):.2f} dB."
    )
    missing = [label for label, groups in found.items() if not groups]
    still = f" Not trained yet: {'; '.join(missing)}." if missing else ""
    return (
        f"```{{image}} _generated/ssdn_curves.png\n:alt: {alt}\n```\n\n"
        "PSNR on photographs of the training set that are kept out of training, against steps and against minutes, a "
        f"line for each training. Machines differ, and in some of these minutes they did other work too.{still}\n\n"
        f"{describe_speed(study)}\n\n{describe_step()}"
    )


def describe_step() -> str:
    """Which part of the speed of bare convolutions a training step reaches, where `repro bench blindspot` has run."""
    lines = []
    for about, table in timing.load("blindspot"):
        each = "; ".join(
            f"{row.training} {row.step_s * 1e3:,.0f} ms, {row.share_of_floor:.0%} of the bare speed, "
            f"{row.n2v_ratio:.1f} times N2V's" for row in table.itertuples()
        )  # fmt: skip
        lines.append(f"- {about['device']}, {about['batch']} patches of {about['patch']} pixels: {each}.")
    if not lines:
        return ""
    return (
        "To save time, the four views pass through the network as two pairs of equal shape rather than as a padded "
        "square; a convolution that looks upward pads once and crops nothing; and memory that is freed stays with the "
        "process. 16-bit floats and another memory layout brought little here. What a training step takes on an idle "
        "machine, and its speed as a share of the bare speed, that of the same convolutions without rotations, shifts "
        "and likelihood:\n\n" + "\n".join(lines)
    )


def describe_speed(study: Study) -> str:
    """Whether SSDN is faster than N2V in real time, which the report leaves open: a sentence for each pair of runs."""
    races = ssdn.race(study)
    if not races:
        return "Whether SSDN is faster than N2V in real time needs a run of both."
    lines = []
    for race in races:
        took = ssdn.read_step_seconds(race.groups[0])
        first, second = (METHODS[group.first["variant"]] for group in race.groups)
        steps, step_for_step = race.steps, race.steps[1] / race.steps[0]
        variants = [group.first["variant"] for group in race.groups]
        ratio = took[variants[0]] / took[variants[1]] if took else None
        in_time = (
            f"; a step takes {ratio:.1f} times as long on an idle machine, so that in time it is "
            f"{_faster(step_for_step / ratio)}"
            if ratio
            else ""
        )
        lines.append(
            f"- {first} against {second}: both reach {race.psnr_db:.2f} dB, after {steps[0]:,.0f} and {steps[1]:,.0f} "
            f"steps. In steps {first} is {_faster(step_for_step)}{in_time}.{_tell_failed(race)}"
        )
    verdict = settle(study.claims.loc["002-direction-faster-in-real-time"], study)
    word = pages.show_verdict(verdict.word, verdict.word.capitalize())
    return (
        f"Is SSDN faster than N2V in real time? The report calls it unclear. {word}: "
        f"{escape(verdict.reason[0].lower() + verdict.reason[1:])} Every pair of runs, at the highest PSNR that "
        "both reach:\n\n" + "\n".join(lines)
    )


def _tell_failed(race: ssdn.Race) -> str:
    """Which of the trainings that a race is the mean of failed, as the end of a sentence."""
    lost = [f"`{record.name}`" for group in race.groups for record in group.records if record.gives_back_noise]
    return f" The curve is a mean with {', '.join(lost)}, which failed." if lost else ""


def _faster(ratio: float) -> str:
    if f"{ratio:.1f}" == "1.0":
        return "as fast"
    return f"{ratio:.1f} times as fast" if ratio >= 1 else f"{1 / ratio:.1f} times as slow"


def describe_recipe(study: Study) -> str:
    """What patches of 128 pixels and a level that begins above the noise are worth, on Kodak24."""
    smaller = "four patches of 64 pixels instead of one of 128"
    variants = ("mean only", "N2C", "N2V")
    pairs = [(f"{name}, patches of 64", name, f"{METHODS[name]}, {smaller}") for name in variants]
    begun = f"{METHODS['variable']}, begun at the authors' {255 * FIRST_STRENGTH:.1f} gray levels"
    pairs.append(("variable, from below", "variable", begun))
    lines: list[str] = []
    gains: list[int] = []
    for other, own, what in pairs:
        changed, usual = ssdn._find(other, study), ssdn._find(own, study)
        if changed and usual:
            one, two = (group.per_seed("kodak24-25") for group in (changed[0], usual[0]))
            reached = one.to_numpy().mean()
            lines.append(f"- {what}: {compare(one, two).signed()} dB on Kodak24, to {reached:.2f} dB.")
            gains += [compare(one, two).sign] if what.endswith(smaller) else []
    if not lines:
        return "No such pair is trained yet."
    better = (
        f"\n\nSo smaller patches would have been the better choice for all {len(gains)} that were tried."
        if gains and min(gains) > 0
        else ""
    )
    return "Measured, with 95 % intervals:\n\n" + "\n".join(lines) + better


# --- one photograph, every method


def describe_photograph(folder: Path) -> str:
    """002's Figure 2 from the committed weights, on a photograph that comes with scikit-image."""
    figure, alt, missing = draw_photograph()
    plots.save(figure, folder / "ssdn_photograph.png")
    still = f" Without published weights: {'; '.join(missing)}." if missing else ""
    return (
        f"```{{image}} _generated/ssdn_photograph.png\n:alt: {alt}\n```\n\n"
        f"Part of a photograph that no training saw, with PSNR of this part; a method's network is that of its first "
        f"seed.{still}"
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
    listed = [e for e in experiments.load() if e.name.startswith("ssdn-") and e.publish]
    rows = {e.variant: e.name for e in listed if e.name in published}
    for variant, label in METHODS.items():
        if variant not in {e.variant for e in listed}:
            continue  # its weights do not come with the study
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
    clean = catalog.sample(dataset, photograph).clean
    top, left, height, width = box_px
    if not (0 <= top < top + height <= clean.shape[1] and 0 <= left < left + width <= clean.shape[2]):
        raise ReproError(f"{photograph} is {clean.shape[2]} x {clean.shape[1]} pixels: it has no part {box_px}.")
    return clean[:, top : top + height, left : left + width].contiguous()


# --- the puzzle of BSD300


def describe_conventions(study: Study) -> str:
    """How far each convention that may explain 002's values on BSD300 moves the PSNR of one and the same network."""
    groups = ssdn._find("N2C", study)
    if not groups:
        return "Not measured yet: it needs `ssdn-n2c`."
    shifts = ssdn.measure_conventions(groups[0], study)
    table = pd.DataFrame(
        {
            "images": shift.dataset,
            "convention": shift.convention,
            "measured with": shift.measured_with,
            "PSNR, dB": shift.psnr_db,
            "shift, dB": f"{shift.shift.mean:+.3f}" if shift.shift else None,
            "95 % interval, dB": _show_interval(shift.shift),
            "whose": "" if shift.shift is None else "the original's" if shift.originals else "perhaps the report's",
            "towards the report, dB": f"{shift.towards_report_db:+.3f}" if shift.shift else None,
        }
        for shift in shifts
    )
    gaps = {name: _reported_db(study, name) - original for name, original in ssdn.ORIGINAL_DB.items()}
    wanted = gaps["BSD300"] - gaps["KODAK"]
    raising = [s for s in shifts if s.dataset == "bsd300test" and s.is_told]
    raising = [s for s in raising if s.towards_report_db >= 0.005]  # what two digits can show
    raising.sort(key=lambda s: -s.towards_report_db)
    named = "; ".join(f"{s.convention}{' by the original' if s.originals else ''}, {s.towards_report_db:+.2f} dB"
                      for s in raising)  # fmt: skip
    told = f"What would lift the report's values on BSD300 over the original's: {named}." if raising else (
        "Nothing that was tried would lift the report's values on BSD300 over the original's."
    )  # fmt: skip
    last = "None of it would do so by itself."
    if raising and raising[0].towards_report_db >= gaps["BSD300"]:
        most, left = raising[0], wanted - raising[0].towards_report_db
        last = f"The first of these would do so by itself, since {gaps['BSD300']:+.2f} dB are enough"
        if left > 0:
            last += f", but leaves {left:.2f} of {wanted:.2f} dB unexplained"
        else:
            last += f", and would explain all {wanted:.2f} dB"
        last += f"; it is measured with {most.measured_with}"
        last += ", and for other images it is not beyond chance." if not most.shift.sign else "."
    return (
        f"With sigma known the report is {gaps['BSD300']:+.2f} dB from the authors' check value on BSD300 and "
        f"{gaps['KODAK']:+.2f} dB on Kodak. If the shorter training cost as much on both, {wanted:.2f} dB are to be "
        "explained.\n\n"
        + render_table(table, "ssdn-conventions")
        + "\n\nThe first row of each set follows the report's conventions, and shifts are measured against it. A "
        "network without a blind spot pads by itself, after the noise, as the report does. "
        f"{told} {last} Intervals are of the paired difference, image by image. Where the choice of images "
        "is what differs, the interval draws from all images of both choices: the shift is what these images give, the "
        "interval what others might."
    )


def _reported_db(study: Study, dataset: str) -> float:
    """What the report prints for SSDN with known sigma."""
    cells = ledger.find(study.claims, source="002", table="Table 1", variant="known", dataset=dataset)
    return float(cells["number"].iloc[0])


def _show_interval(interval: Interval | None) -> str:
    return "" if interval is None else f"{interval.low:+.3f} to {interval.high:+.3f}"
