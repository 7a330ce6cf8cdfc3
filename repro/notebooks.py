"""What the notebooks share: the run record at their top, tables with a CSV beside them, running one from
outside."""

import html
from datetime import UTC, datetime

import pandas as pd
import torch
from IPython.display import HTML, Markdown, display

from repro import files, weights
from repro.models import build
from repro.models.base import Denoiser
from repro.study import experiments, records
from repro.study.tables import link_csv

FIRST_LOOK = "first-look"  # folder of the live chapter's run, in repro.files.runs()


def choose_network(model: str = "", method: str = "sadnet", other: bool = False) -> tuple[Denoiser, str]:
    """The network that a notebook works with, and a sentence that says which it is.

    ``model`` names published weights or a file, of ``method`` or, with ``other``, of any. Where it is
    empty: the first published colour network of
    ``method``, in the order of the experiments; else the one that the chapter "A minute of training" left;
    else an untrained one.
    """
    if model:
        return weights.load(model, None if other else method), f"The network is `{model}`."
    published = weights.published()
    for experiment in experiments.load():
        wanted = experiment.method == method and experiment.colour == "rgb" and experiment.variant == "full"
        if wanted and experiment.name in published:
            budget = f"trained at the `{experiment.budget}` budget for sigma {experiment.sigma_255:g}"
            return weights.load(experiment.name), f"The network is `{experiment.name}`, {budget}."
    minute = sorted((files.runs() / FIRST_LOOK).glob("*/weights.safetensors"))
    if minute and weights.describe(minute[0])["model"] == method:
        return weights.load(minute[0]), (
            "**No trained network is published yet.** What follows uses the narrow network that was trained "
            "for a minute in the live chapter: it shows the way, not the result."
        )
    torch.manual_seed(0)
    return build(method, width=8, offset_width=8).eval(), (
        "**No trained network is published yet.** What follows uses random weights: it shows the way, not a result."
    )


def describe_run(**values: object) -> None:
    """First output of every notebook: the parameters it ran with, on what, with which versions, when."""
    environment = records.describe_environment()
    versions = ", ".join(f"{name} {version}" for name, version in environment["versions"].items())
    rows = {
        "parameters": ", ".join(f"{name} = {value!r}" for name, value in values.items()),
        "commit": environment["commit"],
        "device": f"{environment['device']}, {environment['threads']} thread{'s' * (environment['threads'] > 1)}",
        "versions": versions,
        "run": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    }
    body = "".join(f"<tr><th>{key}</th><td>{html.escape(str(value))}</td></tr>" for key, value in rows.items())
    display(HTML(f'<table class="run-record">{body}</table>'))


def say(text: str) -> None:
    """Show a sentence in Markdown."""
    display(Markdown(text))


def show_table(frame: pd.DataFrame, name: str, caption: str = "", **options) -> None:
    """A table, and below it a link from which the same numbers, unrounded, are saved as ``name``.csv.

    ``options`` are those of :func:`render_table`.
    """
    display(HTML(render_table(frame, name, caption, **options)))


def render_table(
    frame: pd.DataFrame,
    name: str,
    caption: str = "",
    *,
    digits: int = 2,
    index: bool = False,
    csv: pd.DataFrame | None = None,
) -> str:
    """HTML of :func:`show_table`. ``digits`` after the point; ``csv``: what is saved where that is not
    ``frame``."""
    table = frame.to_html(
        index=index,
        border=0,
        na_rep="–",
        float_format=lambda v: f"{v:,.{digits}f}",
        classes="study",
        justify="unset",
    )
    if caption:
        table = table.replace(">", f"><caption>{html.escape(caption)}</caption>", 1)
    link = link_csv(frame if csv is None else csv, name, index and csv is None)
    return f'<div class="study-table">{table}</div>{link}'
