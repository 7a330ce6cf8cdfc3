"""What the pages on state, cost and reproducibility show: what was executed, what is missing, what the rest takes."""

import json
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path

import pandas as pd

from repro import files
from repro.notebooks import render_table
from repro.study import campaign, campaign_costs, experiments, records
from repro.study import claims as ledger
from repro.study.campaign_costs import DEVICES, EFFICIENCY_PER_DOUBLING, Plan, Run, Throughput
from repro.study.experiments import Experiment

STATES = {  # of one, of several
    "done": ("has its record", "have their record"),
    "running": ("is running while this page is written", "are running while this page is written"),
    "interrupted": (
        "was begun and goes on from its last checkpoint",
        "were begun and go on from their last checkpoint",
    ),
    "waiting": ("is waiting", "are waiting"),
    "outdated": ("has a record of other settings than the list's", "have a record of other settings than the list's"),
}


def write_all(folder: Path, notebooks: Sequence[str]) -> None:
    """Write the fragments into ``folder``; ``notebooks`` are those of the book, in their order."""
    listed, found = experiments.load(), records.load()
    fragments: dict[str, Callable[[], str]] = {
        "status_notebooks": lambda: describe_notebooks(notebooks),
        "status_campaign": lambda: describe_campaign(campaign.status(experiments=listed)),
        "paper_cost": lambda: (
            describe_cost(campaign_costs.list_runs(listed, "paper"), campaign_costs.measure_throughputs(found))
            + f"\n\n{describe_coverage(listed)}"
        ),
        "checklist_counts": lambda: describe_counts(found),
    }
    for name, describe in fragments.items():
        with files.write_atomically(folder / f"{name}.md") as path:
            path.write_text(describe().strip() + "\n", encoding="utf-8")


# --- what was executed -----------------------------------------------------------------------------------------------


def describe_notebooks(names: Sequence[str]) -> str:
    """When each notebook of the book was executed, for how long, and how many of its cells ran."""
    rows, seconds = [], 0.0
    for name in names:
        page = f"{{doc}}`{name} </results/notebooks/{name}>`"
        run = _read_run(files.results() / "notebooks" / f"{name}.ipynb")
        if run is None:
            rows.append(f"| {name} | not executed | | |")
            continue
        seconds += run["seconds"]
        rows.append(f"| {page} | {run['when']} | {_minutes(run['seconds'])} | {run['cells']} |")
    head = "| notebook | executed | minutes:seconds | cells |\n|---|---|---|---|"
    return "\n".join([head, *rows]) + f"\n\nTogether they took {_minutes(seconds)}."


def _read_run(path: Path) -> dict | None:
    """What papermill noted in an executed notebook."""
    if not path.exists():
        return None
    content = json.loads(path.read_text(encoding="utf-8"))
    noted = content["metadata"].get("papermill", {})
    if not noted.get("end_time"):
        return None
    cells = [cell for cell in content["cells"] if cell["cell_type"] == "code" and cell.get("execution_count")]
    when = datetime.fromisoformat(noted["start_time"])
    return {"when": f"{when:%Y-%m-%d %H:%M} UTC", "seconds": noted["duration"], "cells": len(cells)}


# --- what is missing -------------------------------------------------------------------------------------------------


def describe_campaign(status: pd.DataFrame) -> str:
    """Every run of the list: its state, what it took, and what it is estimated to take yet."""
    counts = status["state"].value_counts()
    said = ", ".join(
        f"{counts[state]} {words[int(counts[state] > 1)]}" for state, words in STATES.items() if state in counts
    )
    open_ = status[~status["state"].isin(("done", "outdated"))]
    parts = [("at the paper's budget", open_["budget"] == "paper"), ("at the others", open_["budget"] != "paper")]
    told = [_describe_left(open_[which], where) for where, which in parts if which.any()]
    left = f"By the estimates, what is left takes {'; '.join(told)}." if told else "Nothing is left to do."
    shown = pd.DataFrame(
        {
            "experiment": status["experiment"],
            "seed": status["seed"],
            "budget": status["budget"],
            "state": status["state"],
            "steps": status["steps"],
            "hours spent": status["seconds"] / 3600,  # evaluation included
            "hours left": status["seconds_left"] / 3600,
        }
    )
    return f"Of {len(status)} runs, {said}. {left}\n\n{render_table(shown, 'campaign')}"


def _describe_left(open_: pd.DataFrame, where: str) -> str:
    """The sum of the estimates, and how many runs have none."""
    known = open_["seconds_left"].dropna()
    without = len(open_) - len(known)
    if not len(known):
        return f"a time for which there is no estimate {where}"
    hours = f"about {_round(known.sum() / 3600)} hours {where}"
    return f"{hours}, without {without} run{'s' if without > 1 else ''} that no estimate covers" if without else hours


# --- what the rest takes ---------------------------------------------------------------------------------------------


def describe_cost(runs: Sequence[Run], measured: Sequence[Throughput]) -> str:
    """The budget `paper` on 1, 8 and 64 devices of the kind whose throughput was measured."""
    if not (runs and measured):
        return "No run of this budget is listed, or no throughput is measured yet."
    chosen = {run: campaign_costs.choose_throughput(run, measured) for run in runs}
    lines = [_describe_row(campaign_costs.plan(runs, measured, devices)) for devices in DEVICES]
    on_gpus = all(throughput.is_accelerator for throughput in chosen.values())
    one, several = ("device", "devices") if on_gpus else ("core", "cores of a CPU as measured")
    head = f"| {several} | of which one run uses | days until all is finished | {one}-days |\n|---|---|---|---|"
    taken = sorted({_describe_throughput(throughput) for throughput in chosen.values()})
    foreign = [run.name for run, throughput in chosen.items() if throughput.precision != run.precision]
    remarks = [
        f"The budget `paper` has {_count(len(runs), 'training run')}, which the {{doc}}`list of runs <status>` names. "
        "What was measured, in part while the machine did other work, too:\n\n"
        "| device | trained | precision | billion forward multiply-adds per second |\n|---|---|---|---|\n"
        + "\n".join(taken)
        + "\n\n",
    ]
    if not on_gpus:
        remarks.append(
            "**No GPU has been measured for this budget yet**: the numbers show why it needs some. "
            f"{_describe_arithmetic(runs)}"
        )
    remarks.append(describe_lengths(runs))
    if foreign:
        remarks.append(f"The measurement is of another floating-point precision than {', '.join(foreign)}.")
    remarks.append(
        "One thing is assumed and not measured: each time the number of devices that share a run doubles, "
        f"{EFFICIENCY_PER_DOUBLING:.0%} of the throughput per device is kept "
        "(`EFFICIENCY_PER_DOUBLING` in `repro/study/campaign_costs.py`). More devices than the batch has patches are "
        "of no use to a run."
    )
    return "\n".join([head, *lines]) + "\n\n" + " ".join(remarks)


def _describe_arithmetic(runs: Sequence[Run]) -> str:
    """What the budget takes on devices of a speed that nobody measured: for scale, and to put one's own in."""
    unit = Throughput("", "", "", 1e12, "nobody")
    days = " / ".join(_round(campaign_costs.plan(runs, [unit], devices).seconds / 86_400) for devices in DEVICES)
    total = _round(sum(run.multiply_adds for run in runs) / 1e15)
    return (
        f"Together the runs have {total} million billion forward multiply-adds. On devices that train at 1,000 billion "
        f"per second each, {' / '.join(map(str, DEVICES))} of them would take {days} days; at twice that speed, "
        "half as long."
    )


def describe_lengths(runs: Sequence[Run]) -> str:
    """Whose trainings the runs are as long as; what SSDN's authors' length would add to the whole."""
    told = (
        "SADNet's runs are as long as in its authors' code, GradNet's as in the slides, SSDN's as in the replication; "
        "ScaoedNet's length is in no source and was chosen here."
    )
    shortened = [run for run in runs if run.method in ("ssdn", "unet")]  # 002 trains a tenth of what its paper does
    if not shortened:
        return told
    printed = ledger.load()["number"]
    own, original = (printed[f"002-s4-iterations{end}"] for end in ("", "-original"))
    added = (original / own - 1) * sum(run.multiply_adds for run in shortened)
    whole = sum(run.multiply_adds for run in runs)
    return (
        f"{told} For SSDN and its baselines these are {own:,.0f} images; with the {original:,.0f} of SSDN's authors "
        f"all runs together would take {1 + added / whole:.1f} times the arithmetic."
    )


def describe_coverage(listed: Sequence[Experiment]) -> str:
    """What the cost of the budget `paper` has in it, and what of the list it has not."""
    trained = [experiment for experiment in listed if experiment.train is not None]
    own = [experiment for experiment in trained if experiment.budget == "paper"]
    if not own:
        return ""
    seeds = sorted({len(experiment.seeds) for experiment in own})
    each = "one seed" if seeds == [1] else f"{' or '.join(map(str, seeds))} seeds"
    covered = {_identify_network(experiment) for experiment in own}
    # Some rows learn real noise and drawn noise at once, which at a smaller budget are two.
    both = {_identify_network(experiment) for experiment in own if experiment.train.get("pairs")}
    smaller = [  # headline rows are in every budget
        experiment
        for experiment in trained
        if experiment.budget not in ("paper", "smoke")
        and not (experiment.headline or _identify_network(experiment) in covered)
        and not (experiment.train.get("pairs") and _identify_network(experiment, ignored="real") in both)
    ]
    remarks = [
        f"**In this cost** is the training of {_count(len(own), 'experiment')}, {each} of each, and nothing else: no "
        "evaluation of the networks, no second attempt at a recipe, and no comparator, since none is trained."
    ]
    for_claims = [experiment for experiment in smaller if experiment.claims]
    if for_claims:
        named = "; ".join(
            f"{method}: {', '.join(f'`{e.name}`' for e in for_claims if e.method == method)}"
            for method in dict.fromkeys(experiment.method for experiment in for_claims)
        )
        remarks.append(
            "**Not in it** are networks that a smaller budget trains for a claim and this one does not train at all "
            f"({named})."
        )
    if others := len(smaller) - len(for_claims):
        remarks.append(
            f"Of experiments that test no claim, but compare recipes or what the sources disagree on, {others} more "
            "are trained at smaller budgets alone."
        )
    return " ".join(remarks)


def _identify_network(experiment: Experiment, ignored: str = "") -> tuple:
    """Method, variant, colour and level: what is the same at every budget. A smaller width makes no other variant, nor
    does the part that is ``ignored``."""
    parts = experiment.variant.split(", ")
    variant = ", ".join(part for part in parts if part != ignored and not part.startswith("width "))
    return experiment.method, variant, experiment.colour, experiment.sigma_255


def _describe_row(plan: Plan) -> str:
    days, paid = plan.seconds / 86_400, plan.device_seconds / 86_400
    return f"| {plan.devices} | {plan.devices_per_run} | {_round(days)} | {_round(paid)} |"


def _describe_throughput(throughput: Throughput) -> str:
    """A row of the table of devices."""
    device = throughput.device if throughput.is_accelerator else f"one core of: {throughput.device}"
    precision = "float32" if throughput.precision == "32" else throughput.precision
    return f"| {device} | {throughput.source} | {precision} | {_round(throughput.per_device / 1e9)} |"


# --- what the checklist counts ---------------------------------------------------------------------------------------


def describe_counts(found: Sequence[records.Record]) -> str:
    """Claims, records, seeds, devices and published weights, as they are now."""
    trained = [record for record in found if record["steps"] and record["budget"] != "smoke"]
    seeds = pd.Series([record["experiment"] for record in trained], dtype=str).value_counts()
    weights = list((files.results() / "weights").glob("*.safetensors"))
    mib = sum(path.stat().st_size for path in weights) / 2**20
    hours = sum(record["seconds"] for record in trained) / 3600
    rows = {
        "claims in the ledger": len(ledger.load()),
        "records": len(found),
        "of them of networks trained here": len(trained),
        "experiments with more than one seed": int((seeds > 1).sum()),
        "hours of training behind them": f"{hours:.1f}",
        "devices they were computed on": "; ".join(sorted({record["device"] for record in found})) or "none yet",
        "weights published with the study": f"{len(weights)} files, {mib:.0f} MiB",
    }
    return "| what | how much |\n|---|---|\n" + "\n".join(f"| {what} | {value} |" for what, value in rows.items())


# --- numbers and words -----------------------------------------------------------------------------------------------


def _minutes(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _round(number: float) -> str:
    """Two significant digits: estimates have no more."""
    return f"{float(f'{number:.2g}'):,g}"
