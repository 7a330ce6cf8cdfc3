import base64
import io
import re

import numpy as np
import pandas as pd
import pytest

from repro.errors import ReproError
from repro.study import claims, experiments, tables, verdicts
from repro.study.verdicts import Study

LEDGER, EXPERIMENTS = claims.load(), experiments.load()


@pytest.fixture(scope="module")
def study(make_lasting_record):
    make_record = make_lasting_record
    ours = make_record("ours", 28.9 + np.linspace(-3, 3, 24), steps=10_000)
    theirs = make_record("theirs", 28.5 + np.linspace(-3, 3, 24), variant="replication", steps=2_500)
    return Study(LEDGER, EXPERIMENTS, [ours, theirs])


@pytest.fixture(scope="module")
def settled(study):
    return verdicts.settle_all(study)


def test_paper_reproduction_and_ours_in_one_row(study, settled):
    cells = tables.compare("sadnet-colour", study, settled).set_index("claim")
    assert len(cells) == 42
    row = cells.loc["001-t3-kodak24-50-sadnet"]
    assert (row["paper"], row["reproduction"], row["budget"], row["steps"]) == (
        "29.64",
        "29.86",
        "cpu",
        10_000,
    )
    assert row["ours"] == pytest.approx(28.9)
    assert row["ours_as_reproduced"] == pytest.approx(28.5)
    assert (cells["reproduction"] != "").sum() == 6


def test_the_printed_arrangement_shows_the_budget(study, settled):
    wide = tables.arrange(tables.compare("sadnet-colour", study, settled))
    assert wide.index.tolist() == ["CBM3D", "DnCNN", "MemNet", "FFDNet", "RNAN", "RIDNet", "SADNet"]
    cell = wide.loc["SADNet", "Kodak24, sigma 50"]
    assert cell.tolist() == ["29.64", "29.86", "28.90 (cpu, 10,000 steps)"]
    assert wide.loc["CBM3D", ("Kodak24, sigma 50", "ours")] == ""


@pytest.mark.parametrize("name", tables.TABLES)
def test_every_table_has_every_value_and_its_csv(study, settled, name):
    html = tables.render(tables.compare(name, study, settled), name)
    data = re.search(rf'download="{name}.csv" href="data:text/csv;base64,([^"]*)"', html)[1]
    written = pd.read_csv(io.BytesIO(base64.b64decode(data)), dtype=str)
    printed = claims.match(LEDGER, [tables.TABLES[name].paper])
    assert written["paper"].str.removeprefix("about ").tolist() == printed["value"].tolist()
    assert written["paper"].str.startswith("about ").tolist() == printed["approx"].tolist()
    for value in printed["value"]:
        assert re.search(rf">(?:about )?{re.escape(value)}<", html), value


def test_a_row_without_a_value_stays_in_grey_with_its_reason(study, settled):
    html = tables.render(tables.compare("sadnet-colour", study, settled), "sadnet-colour")
    kodak = html[html.index("</table>") :]  # Kodak24, where the study has a record
    rnan, sadnet = (re.search(rf"<tr[^>]*><th>{name}</th>.*?</tr>", kodak)[0] for name in ("RNAN", "SADNet"))
    assert 'class="untested"' in rnan
    (why,) = re.findall(r"<li><b>RNAN</b>: (.*?)</li>", html)  # once, though its row stands in both parts
    assert why.count("holds no weights") == 1
    assert "verdict-direction" in sadnet or "verdict-not-reproduced" in sadnet
    assert 'class="untested"' not in sadnet
    assert re.search(r"verdict-[^>]*>28.90</span> <small>\(cpu, 10,000 steps\)</small>", sadnet)


def test_the_cost_table_shows_counts_without_a_budget(study, settled):
    wide = tables.arrange(tables.compare("sadnet-cost", study, settled))
    assert wide.loc["SADNet", ("parameters (k)", "ours")] == "4235"
    assert wide.loc["SADNet", ("FLOPs (G)", "ours")] == "50.1"
    assert wide.loc["SADNet", ("time (ms)", "reproduction")] == "25.9"


def test_the_matrix_counts_every_claim_once(study, settled):
    matrix = tables.count_verdicts(study, settled)
    assert matrix[list(verdicts.WORDS)].to_numpy().sum() == len(LEDGER)
    assert (matrix["of these waiting for a run"] <= matrix[verdicts.NOT_TESTABLE]).all()


def test_the_ledger_and_the_evaluations(study, settled):
    assert tables.list_evaluations(study)["psnr_db"].tolist() == pytest.approx([28.9, 28.5])


def test_tolerances_are_those_the_verdicts_use():
    text = tables.list_tolerances().to_string()
    for number in ("0.05 dB", "1%", "95%"):
        assert number in text


def test_an_unknown_table(study):
    with pytest.raises(ReproError, match="sadnet-colour"):
        tables.compare("sadnet-color", study)
