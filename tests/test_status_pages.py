"""The pages on state and cost say what is there, and what was not measured."""

import json
import re
from dataclasses import replace

import pandas as pd
import pytest

from repro import files, status_pages
from repro.study import experiments
from repro.study.campaign_costs import Run, Throughput

RUN = Run("a-seed0", "sadnet", "32", 16, 86_400e12)  # a day at a million million multiply-adds per second
CPU = Throughput("A Processor, 2 cores", "sadnet", "32", 1e12, "timed-seed0")
GPU = Throughput("A GPU", "sadnet", "bf16", 1e12, "timed-seed0")


@pytest.fixture
def results(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "results", lambda: tmp_path)
    (tmp_path / "notebooks").mkdir()
    return tmp_path


def test_executed_notebooks_and_others(results):
    noted = {"start_time": "2026-01-02T03:04:05+00:00", "end_time": "2026-01-02T03:05:15+00:00", "duration": 70.2}
    cells = [{"cell_type": "code", "execution_count": 1}, {"cell_type": "markdown"}, {"cell_type": "code"}]
    content = {"metadata": {"papermill": noted}, "cells": cells}
    (results / "notebooks" / "one.ipynb").write_text(json.dumps(content))
    text = status_pages.describe_notebooks(["one", "two"])
    assert "| {doc}`one </results/notebooks/one>` | 2026-01-02 03:04 UTC | 1:10 | 1 |" in text
    assert "| two | not executed |" in text
    assert text.endswith("took 1:10.")


def test_states_and_estimates_are_summed():
    rows = [("a", "done", 0.0), ("b", "waiting", 7200.0), ("c", "waiting", float("nan"))]
    status = pd.DataFrame(
        [
            {"experiment": name, "seed": 0, "budget": "cpu", "state": state, "steps": 1, "seconds": 60.0}
            | {"seconds_left": left}
            for name, state, left in rows
        ]
    )
    text = status_pages.describe_campaign(status)
    assert text.startswith("Of 3 runs, 1 has its record, 2 are waiting. ")
    assert "takes about 2 hours at the others, without 1 run that no estimate covers." in text
    assert "takes about 2 hours at the others." in status_pages.describe_campaign(status[:2])
    paper = status[1:2].assign(budget="paper", seconds_left=7.2e6)
    told = status_pages.describe_campaign(pd.concat([status[:2], paper]))
    assert "takes about 2,000 hours at the paper's budget; about 2 hours at the others." in told
    assert "no estimate at the paper" in status_pages.describe_campaign(paper.assign(seconds_left=float("nan")))
    assert "Nothing is left" in status_pages.describe_campaign(status[status["state"] == "done"])


def test_costs_are_days_and_say_what_was_not_measured():
    text = status_pages.describe_cost([RUN], [CPU])
    assert "| 1 | 1 | 1 | 1 |" in text
    assert "| 8 | 8 | 0.17 | 1.4 |" in text  # 1 / (8 x 0.9^3) days on each of 8
    assert "| 64 | 16 |" in text
    assert "No GPU has been measured" in text and "90%" in text
    assert "has 1 training run, which" in text and re.search(r"\n\| one core of: .* \| float32 \| [\d,]+ \|\n\n", text)
    assert "have 86 million billion forward" in text and "1 / 8 / 64 of them would take 1 / 0.17 / " in text
    text = status_pages.describe_cost([RUN], [CPU, GPU])
    assert "No GPU" not in text and "another floating-point precision than a-seed0" in text
    assert "no throughput is measured" in status_pages.describe_cost([RUN], [])


def test_what_ssdns_authors_length_would_add_follows_from_its_share():
    assert "images" not in status_pages.describe_lengths([RUN])
    half = [RUN, replace(RUN, name="b-seed0", method="ssdn")]
    text = status_pages.describe_lengths(half)  # ten times as long: (1 + 10) / 2
    assert "200,000 images; with the 2,000,000 of SSDN's authors" in text and "take 5.5 times" in text
    assert text in status_pages.describe_cost(half, [CPU])


def test_what_the_cost_leaves_out_follows_from_the_list():
    paper = replace(experiments.get("sadnet-colour-50-paper"), claims=("a",))
    narrow = replace(paper, name="narrow", budget="cpu", variant="full, width 8")
    claimed = replace(narrow, name="claimed", sigma_255=30, headline=False)
    quiet = replace(claimed, name="quiet", colour="gray", claims=())
    alone = status_pages.describe_coverage([paper, narrow])
    assert "of 1 experiment, one seed of each" in alone and "no evaluation" in alone
    assert "Not in it" not in alone and "no claim" not in alone
    told = status_pages.describe_coverage([paper, narrow, claimed, quiet, replace(claimed, name="s", budget="smoke")])
    assert "(sadnet: `claimed`)" in told and "1 more are" in told
    assert "1 or 3 seeds of each" in status_pages.describe_coverage([paper, replace(paper, name="b", seeds=(0, 1, 2))])
    assert status_pages.describe_coverage([narrow]) == ""
