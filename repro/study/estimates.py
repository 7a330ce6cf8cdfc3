"""How long what is left of a run takes, from what was measured: for the campaign's status and a cluster's time limits.

The training, in seconds per step, from the first of these that there is:

1. the run itself, where it was begun;
2. another seed of its row;
3. the trainings of its method and budget that have a record, of its precision where there are any: their median of
   seconds per multiply-add (:mod:`repro.study.campaign_costs`), times the multiply-adds of its own step;
4. the median over the budget's trainings.

Medians, since a training beside other work takes several times as long.

At the budget `paper`, of which nothing may be measured on the device in question, 3 is the throughput with which the
page on its cost reckons, and there is no 4. A training never takes longer than its limit in seconds.

The evaluation, in seconds of the network, from other seeds of the row; else by the seconds per pixel of the method's
records, of its colour and its sizes where there are any, times the pixels of its image sets. Where nothing tells, it is
left out, and a run that only evaluates has no estimate.
"""

import math
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from statistics import median

import numpy as np
import pandas as pd

from repro.study import campaign_costs, records
from repro.study.campaign_costs import Throughput
from repro.study.experiments import Experiment
from repro.study.records import Record


def sum_evaluation_seconds(record: Record) -> float:
    """Seconds that the network of a record took in all its evaluations; the arithmetic of the metrics is not in it."""
    return float(sum(e["images"] * e["seconds"] * e.get("repeats", 1) for e in record["evaluations"]))


def estimate_seconds_left(frame: pd.DataFrame, experiments: Sequence[Experiment], results: Path) -> list[float]:
    """Seconds per row of ``frame``, the campaign's status without this column; NaN where nothing tells.

    ``results``: the folder whose records and benchmarks are measured by.
    """
    listed, measured = {experiment.name: experiment for experiment in experiments}, _Measured(results)
    return [_estimate(row, frame, listed[row.experiment], measured) for row in frame.itertuples()]


def _estimate(row, frame: pd.DataFrame, experiment: Experiment, measured: "_Measured") -> float:
    if row.state in ("done", "outdated"):
        return 0.0
    others = (frame["experiment"] == row.experiment) & (frame["seed"] != row.seed)
    seeds = frame[others & (frame["state"] != "outdated")]
    done = seeds[seeds["state"] == "done"]
    whole = (done["seconds"] - done["seconds_training"]).mean() if len(done) else measured.find_evaluation(experiment)
    evaluating = max(0.0, whole - (row.seconds - row.seconds_training)) if math.isfinite(whole) else math.nan
    if experiment.train is None:
        return evaluating
    training = min(_estimate_training(row, seeds, experiment, measured))
    if not math.isfinite(training):
        return math.nan
    return max(0.0, training) + (evaluating if math.isfinite(evaluating) else 0.0)


def _estimate_training(row, seeds: pd.DataFrame, experiment: Experiment, measured: "_Measured") -> tuple[float, float]:
    """Seconds until the last step, and until the limit in seconds; infinite where unknown or there is none."""
    by_clock = row.seconds_planned - row.seconds_training if row.seconds_planned else math.inf
    if not row.steps_planned:
        return math.inf, by_clock
    if row.steps and row.seconds_training:
        pace = row.seconds_training / row.steps
    elif len(begun := seeds[(seeds["steps"] > 0) & (seeds["seconds_training"] > 0)]):
        pace = begun["seconds_training"].sum() / begun["steps"].sum()
    else:
        pace = measured.find_pace(experiment, row.seed)
    return pace * (row.steps_planned - row.steps), by_clock


class _Measured:
    """What the records and benchmarks of a folder of results tell; read when it is asked for."""

    def __init__(self, results: Path):
        self.results = results

    @cached_property
    def records(self) -> list[Record]:
        return records.load(self.results / "runs")

    @cached_property
    def throughputs(self) -> list[Throughput]:
        return campaign_costs.measure_throughputs(self.records, self.results / "benchmarks")

    def find_pace(self, experiment: Experiment, seed: int) -> float:
        """Seconds per step of a run that was not begun, infinite where nothing tells."""
        config = experiment.train_config(seed)
        if experiment.budget == "paper":
            (run,) = campaign_costs.list_runs([experiment], "paper")[:1]
            chosen = campaign_costs.choose_throughput(run, self.throughputs)
            return run.multiply_adds / config.steps / chosen.multiply_adds_per_second if chosen else math.inf
        trained = [r for r in self.records if r["budget"] == experiment.budget and r["steps"] and r["seconds"]]
        own = [record for record in trained if record["method"] == experiment.method]
        own = [record for record in own if record.settings["precision"] == config.precision] or own
        if found := campaign_costs.measure_records(own):
            seconds = median(1 / throughput.multiply_adds_per_second for throughput in found)
            return seconds * campaign_costs.count_step(config)
        return median(r["seconds"] / r["steps"] for r in trained) if trained else math.inf

    def find_evaluation(self, experiment: Experiment) -> float:
        """Seconds of the network in all evaluations of an experiment, NaN where nothing tells."""
        own = [record for record in self.records if record["method"] == experiment.method]
        if experiment.budget in ("cpu", "gpu"):  # one says nothing of the other
            on_gpu = experiment.budget == "gpu"
            own = [record for record in own if records.names_accelerator(record["device"]) == on_gpu]
        own = [record for record in own if record["colour"] == experiment.colour] or own
        own = [record for record in own if record.settings["sizes"] == experiment.sizes] or own
        pixels = sum(_count_passes(e) * _list_pixels(record, e).sum() for record in own for e in record["evaluations"])
        if not pixels or any(evaluation.dataset not in self.pixels for evaluation in experiment.evaluate):
            return math.nan
        seconds = sum(sum_evaluation_seconds(record) for record in own)
        planned = (_count_passes(vars(e)) * self.pixels[e.dataset][: e.limit].sum() for e in experiment.evaluate)
        return float(sum(planned) * seconds / pixels)

    @cached_property
    def pixels(self) -> dict[str, np.ndarray]:
        """Pixels of each image by data set, from the record that measured most of them."""
        found: dict[str, np.ndarray] = {}
        for record in self.records:
            for evaluation in record["evaluations"]:
                images = _list_pixels(record, evaluation)
                if len(images) > len(found.get(evaluation["dataset"], ())):
                    found[evaluation["dataset"]] = images
        return found


def _list_pixels(record: Record, evaluation: dict) -> np.ndarray:
    """Pixels of each image of an evaluation."""
    table = record.metrics[record.metrics["evaluation"] == evaluation["name"]]
    return (table["height"] * table["width"]).to_numpy()


def _count_passes(evaluation: dict) -> int:
    """How often an evaluation runs the network over an image."""
    return evaluation.get("repeats", 1) * (8 if evaluation.get("ensemble") else 1)
