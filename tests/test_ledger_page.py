"""The page of the ledger and that of the disagreements: their filters in a browser, and what a row says."""

import json
import re
import shutil

import pytest
from chromium import PROGRAM, Browser, serve

from repro import files, forensic_pages, pages
from repro.study import claims as ledger
from repro.study import forensics, verdicts

STATIC = files.root() / "book" / "_static"
DESK, PHONE = (1280, 900), (390, 844)
SHOWN = (
    "[...document.querySelectorAll('#ledger tbody tr')].filter((row) => row.getClientRects().length)"
    ".map((row) => row.id)"
)

needs_browser = pytest.mark.skipif(PROGRAM is None, reason="no chromium here")


@pytest.fixture(scope="module")
def settled():
    return ledger.load().join(verdicts.load().drop(columns="id"))


@pytest.fixture(scope="module")
def findings():
    return forensics.find(verdicts.Study.load())


@pytest.fixture(scope="module")
def folder(tmp_path_factory, settled, findings):
    """Both pages as the book has them, without the theme around them."""
    folder = tmp_path_factory.mktemp("pages")
    for name in ("book.css", "filter.js"):
        shutil.copy(STATIC / name, folder)
    tables = {
        "ledger": pages.describe_ledger(settled),
        "forensics": forensic_pages.describe_table(findings, settled),
    }
    for name, table in tables.items():
        (folder / f"{name}.html").write_text(
            f"<!doctype html><html lang='en'><meta charset='utf-8'><title>{name}</title>"
            f"<link rel='icon' href='data:,'><link rel='stylesheet' href='book.css'>"
            f"<script defer src='filter.js'></script><main>{table}</main>",
            encoding="utf-8",
        )
    return folder


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with Browser(tmp_path_factory.mktemp("profile")) as browser:
        yield browser


@pytest.fixture
def open_page(browser, folder):
    def open_(name, size=DESK):
        browser.errors.clear()
        browser.resize(*size)
        browser.open(folder / f"{name}.html")

    yield open_
    browser.send("Emulation.setScriptExecutionDisabled", value=False)


def choose(browser, **fields):
    """Set controls by their names, as a reader does, and return the ids of the rows that are seen then."""
    for name, value in fields.items():
        browser.run(
            f"(() => {{ const field = document.querySelector('#ledger-controls [name={name}]'); "
            f"field.value = {json.dumps(value)}; field.dispatchEvent(new Event('input', {{bubbles: true}})); }})()"
        )
    return browser.run(SHOWN)


def list_options(browser, name):
    return browser.run(f"[...document.querySelectorAll('[name={name}] option')].map((one) => one.value)")


# --- the ledger


def name_kind(metric):
    return next(str(number) for number, metrics in enumerate(pages.KINDS.values()) if metric in metrics)


FIELDS = {
    "source": lambda claims: claims["source"],
    "kind": lambda claims: claims["metric"].map(name_kind),
    "method": lambda claims: claims["method"],
    "dataset": lambda claims: claims["dataset"],
    "verdict": lambda claims: claims["word"],
}


@needs_browser
@pytest.mark.parametrize("size", [DESK, PHONE], ids=["desk", "phone"])
@pytest.mark.parametrize("name", FIELDS)
def test_each_select_shows_the_claims_that_it_names(browser, open_page, settled, name, size):
    open_page("ledger", size)
    column = FIELDS[name](settled)
    options = list_options(browser, name)
    assert options[0] == "" and set(options[1:]) == set(column) - {""}
    for option in options[1:]:
        assert choose(browser, **{name: option}) == list(settled.index[column == option])
    assert choose(browser, **{name: ""}) == list(settled.index)
    assert browser.errors == []


@needs_browser
def test_selects_and_words_narrow_each_other_and_are_cleared(browser, open_page, settled):
    open_page("ledger")
    count = "document.getElementById('ledger-count').textContent"
    wanted = (settled["method"] == "SADNet") & (settled["dataset"] == "Kodak24")
    both = choose(browser, method="SADNet", dataset="Kodak24")
    assert both == list(settled.index[wanted]) and 0 < len(both) < (settled["method"] == "SADNet").sum()
    assert browser.run(count) == f"{len(both)} of {len(settled)} claims"
    decided = choose(browser, verdict="not testable here")
    assert decided == list(settled.index[wanted & (settled["word"] == "not testable here")])
    alone = next(name for name in decided if sum(name in other for other in decided) == 1)
    assert choose(browser, words=alone) == [alone]
    assert choose(browser, method="", dataset="", verdict="", words="") == list(settled.index)


@needs_browser
@pytest.mark.parametrize(("name", "size"), [("ledger", DESK), ("ledger", PHONE), ("forensics", DESK)])
def test_without_scripts_all_rows_are_seen_and_no_control(browser, open_page, settled, findings, name, size):
    browser.send("Emulation.setScriptExecutionDisabled", value=True)
    open_page(name, size)
    rows = {"ledger": list(settled.index), "forensics": [finding.disagreement.id for finding in findings]}
    assert browser.run(SHOWN) == rows[name]
    assert browser.run("document.getElementById('ledger-controls').getClientRects().length") == 0


def test_rows_tell_tolerance_and_interval_unless_the_reason_does(settled):
    rows = dict(re.findall(r'<tr id="([^"]+)"(.*?)</tr>', pages.describe_ledger(settled), re.DOTALL))
    told = {"tolerance": 0, "interval": 0}
    for name, claim in settled.iterrows():
        unit = f" {pages.name_unit(claim)}".rstrip()
        if claim["tolerance"] == claim["tolerance"]:
            assert f"tolerance {claim['tolerance']:.3g}{unit}" in rows[name]
            told["tolerance"] += 1
        else:
            assert "tolerance " not in rows[name].replace(claim["reason"], "")
        if claim["low"] == claim["low"]:
            shown = [tuple(map(float, one)) for one in re.findall(r"\[([+-][\d.]+), ([+-][\d.]+)\]", rows[name])]
            near = [one for one in shown if max(abs(one[0] - claim["low"]), abs(one[1] - claim["high"])) < 0.0051]
            assert len(near) == 1, f"{name}: once, in the reason or behind it"
            told["interval"] += 1
        else:
            assert "interval of the difference" not in rows[name]
    assert min(told.values()) > 30


def test_units_are_those_of_what_was_measured(settled):
    row = settled.loc["001-t3-kodak24-50-sadnet"].copy()
    row["tolerance"], row["low"], row["high"], row["reason"] = 0.05, -0.123, 0.02, "Near it."
    assert pages._describe_spread(row) == "tolerance 0.05 dB; 95 % interval of the difference [-0.12, +0.02] dB"
    row["reason"] = "It is -0.05 [-0.12, +0.02] dB away."
    assert pages._describe_spread(row) == "tolerance 0.05 dB"
    measured = settled[settled["metric"].isin(ledger.STATEMENTS) & settled["low"].notna()]
    assert {pages.name_unit(claim) for _, claim in measured.iterrows()} >= {"dB"}
    unnamed = [claim["variant"] for _, claim in measured.iterrows() if not pages.name_unit(claim)]
    assert all("ssim" in variant for variant in unnamed), "which is a number without a unit"


# --- links to a row, on a server: a file's address is never written anew


@pytest.fixture(scope="module")
def site(folder):
    with serve(folder) as address:
        yield address


IN_SIGHT = (
    "(() => {{ const box = document.getElementById('{}').getBoundingClientRect(); "
    "return box.height > 0 && box.top > -5 && box.top < innerHeight; }})()"
)


@needs_browser
def test_a_link_to_a_claim_leads_to_it(browser, site, settled):
    last = settled.index[-1]
    browser.resize(*DESK)
    browser.open(f"{site}/ledger.html#{last}")
    assert browser.run("location.hash") == f"#{last}"
    assert browser.run(IN_SIGHT.format(last)) and browser.run("document.querySelector(':target').id") == last


@needs_browser
def test_a_filter_and_a_link_in_one_address(browser, site, settled):
    source = settled["source"].iloc[-1]
    inside = settled.index[settled["source"] == source][-1]
    browser.resize(*DESK)
    browser.open(f"{site}/ledger.html?source={source}#{inside}")
    assert browser.run(SHOWN) == list(settled.index[settled["source"] == source])
    assert browser.run(IN_SIGHT.format(inside)) and browser.run("location.search") == f"?source={source}"


@needs_browser
def test_a_link_to_a_row_that_is_filtered_out_shows_it(browser, site, findings):
    measured = next(one.disagreement for one in findings if one.state == forensics.MEASURED)
    browser.resize(*DESK)
    browser.open(f"{site}/forensics.html")
    choose(browser, state=forensics.NO_EFFECT)
    assert not browser.run(IN_SIGHT.format(measured.id))
    browser.run(f"void (location.hash = '{measured.id}')")
    browser.settle()
    assert browser.run(IN_SIGHT.format(measured.id)) and browser.run("location.search") == ""


# --- the disagreements


@needs_browser
@pytest.mark.parametrize("name", ["method", "state"])
def test_disagreements_are_chosen_by_method_and_by_effect(browser, open_page, findings, name):
    open_page("forensics")
    values = {one.disagreement.id: one.disagreement.method if name == "method" else one.state for one in findings}
    options = list_options(browser, name)
    assert options[0] == "" and set(options[1:]) == set(values.values())
    for option in options[1:]:
        assert choose(browser, **{name: option}) == [key for key, value in values.items() if value == option]
    assert choose(browser, **{name: ""}) == list(values)
    assert browser.errors == []


@needs_browser
def test_two_choices_among_disagreements_narrow_each_other(browser, open_page, findings):
    open_page("forensics")
    first = findings[0]
    both = [
        one.disagreement.id
        for one in findings
        if one.disagreement.method == first.disagreement.method and one.state == first.state
    ]
    assert choose(browser, method=first.disagreement.method, state=first.state) == both
    assert 0 < len(both) < len(findings)
    assert choose(browser, words=first.disagreement.id) == [first.disagreement.id]
    assert len(choose(browser, method="", state="", words="")) == len(findings)
