"""What the chapter on SADNet says of its short runs: what its parts are worth, and what was tried in training it."""

from collections.abc import Callable
from html import escape

from repro.pages import render_rows
from repro.study.experiments import Experiment
from repro.study.records import Record
from repro.study.statistics import compare
from repro.study.verdicts import Study

REFERENCE = "ablation-full"
ON = "kodak24-50"


def describe_parts(study: Study) -> str:
    """Each short run of another network than the reference, and its difference to it, image by image."""
    return _describe(study, "What the parts of the network are worth", lambda e, r: e.sizes != r.sizes)


def describe_recipes(study: Study) -> str:
    """Each short run of the reference's network, trained otherwise; what is best is told by the validation images."""
    table = _describe(study, "What was tried in training", lambda e, r: e.sizes == r.sizes)
    reference = _reference(study)
    reached = {
        e.name: _validate(r)
        for e, r in _pair_up(study)
        # Validation is in the noise of the training: clipped noise is another task.
        if r is not None and e.sizes == reference.sizes and e.train["clip"] == reference.train["clip"]
    }
    if len(reached) < 2 or REFERENCE not in reached:
        return table
    best = max(reached, key=reached.get)
    verdict = "nothing tried so far is better than the reference"
    if best != REFERENCE:
        verdict = f"`{best}` does best, by {reached[best] - reached[REFERENCE]:.2f} dB over the reference"
    return f"{table}\n\nBy the photographs that are kept out of training, {verdict}. Kodak24 has no say in this."


def _describe(study: Study, caption: str, belongs: Callable[[Experiment, Experiment], bool]) -> str:
    reference = _reference(study)
    runs = _pair_up(study)
    neighbour = next(record for experiment, record in runs if experiment is reference)
    columns: dict[str, list[str]] = {
        name: [] for name in ("run", "training", "minutes", "validation, dB", "Kodak24, dB", "against the reference")
    }
    waiting = []
    for experiment, record in runs:
        if experiment is not reference and not belongs(experiment, reference):
            continue
        if record is None:
            waiting.append(f"`{experiment.name}`")
            continue
        difference = "–"
        if record is not neighbour and neighbour is not None:
            paired = compare(record.per_image(ON), neighbour.per_image(ON))
            difference = f"{paired.mean:+.2f} ({paired.low:+.2f} to {paired.high:+.2f})"
        cells = (
            f"<code>{escape(experiment.name)}</code> {escape(experiment.why)}", _name_training(record),
            f"{record['seconds'] / 60:.0f}", f"{_validate(record):.2f}",
            f"{record.per_image(ON).mean():.2f}", difference,
        )  # fmt: skip
        for column, cell in zip(columns.values(), cells, strict=True):
            column.append(cell)
    told = f"Still to be run: {', '.join(waiting)}." if waiting else ""
    if not columns["run"]:
        return told
    caption += (
        ": all for about the same arithmetic on one thread. Colour, sigma 50; validation on photographs kept out of "
        "training; Kodak24 with noise that is not clipped, differences image by image with 95 % intervals; minutes "
        "with whatever else the machine was doing"
    )
    return f"{render_rows(caption, columns)}\n\n{told}"


def _reference(study: Study) -> Experiment:
    return next(experiment for experiment in study.experiments if experiment.name == REFERENCE)


def _pair_up(study: Study) -> list[tuple[Experiment, Record | None]]:
    """The short runs of the list, the reference first, each with its first seed's record or None."""
    records = {group.first["experiment"]: group.first for group in study.groups}
    reference = _reference(study)
    about = ("method", "colour", "sigma_255", "budget", "data")
    short = [
        experiment
        for experiment in study.experiments
        if all(getattr(experiment, name) == getattr(reference, name) for name in about)
        and experiment.train["steps"] <= reference.train["steps"]
    ]
    short.sort(key=lambda experiment: experiment is not reference)
    return [(experiment, records.get(experiment.name)) for experiment in short]


def _validate(record: Record) -> float:
    """PSNR in dB on the validation photographs at the end of training."""
    return float(record.curve["psnr_db"].dropna().iloc[-1])


def _name_training(record: Record) -> str:
    value = {name: setting["value"] for name, setting in record["hyperparameters"].items()}
    clipped = ", noise clipped" if value["clip"] else ""
    return (
        f"{record['steps']:,} steps of {value['batch']} patches of {value['patch']}², rate {value['lr']:g}, "
        f"{value['loss'].upper()}{clipped}"
    )
