"""Every page of the built book in a browser without a network: at a desk and on a phone, light and dark, searched."""

import json
from pathlib import Path

import pytest
from chromium import PROGRAM, Browser, serve

from repro import files, pdf
from repro.study import claims

BUILT = files.root() / "_build" / "html"
PAGES = [f"{name}.html" for name in pdf.read_contents()] + ["search.html", "genindex.html"]
DESK, PHONE = (1280, 900), (390, 844)
SCROLLED = (
    "[...document.querySelectorAll('.study-table, .pst-scrollable-table-container')]"
    ".filter((one) => one.scrollWidth > one.clientWidth + 1).map((one) => one.textContent.trim().slice(0, 80))"
)
LEVELS = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]

pytestmark = [
    pytest.mark.skipif(PROGRAM is None, reason="no chromium here"),
    pytest.mark.skipif(not (BUILT / PAGES[0]).exists(), reason="the book is not built; `make book` builds it"),
    pytest.mark.slow,
]


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with Browser(tmp_path_factory.mktemp("profile")) as browser:
        yield browser


@pytest.fixture(scope="module")
def axe():
    return (Path(__file__).parent / "axe" / "axe.min.js").read_text(encoding="utf-8")


def open_page(browser, page, size=DESK):
    for list_ in (browser.errors, browser.requested, browser.failed):
        list_.clear()
    browser.resize(*size)
    browser.open(BUILT / page)
    browser.typeset()
    # What a transition has not yet reached would be measured half-way.
    browser.run(
        "document.head.insertAdjacentHTML('beforeend', '<style>*, ::before, ::after { transition: none !important; "
        "animation: none !important }</style>')"
    )
    browser.run("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    browser.settle()


def find_violations(browser, axe, **options):
    """``{rule: [element, ...]}`` of what axe-core finds on the page, by the levels A and AA."""
    if browser.run("typeof axe === 'undefined'"):
        browser.send("Runtime.evaluate", expression=axe)
    options = {"runOnly": LEVELS, "resultTypes": ["violations"], "preload": False} | options
    found = browser.run(f"axe.run(document, {json.dumps(options)}).then((all) => all.violations)")
    return {
        rule["id"]: [f"{' '.join(node['target'])}: {node['failureSummary']}" for node in rule["nodes"]][:5]
        for rule in found
    }


every_page = pytest.mark.parametrize("page", PAGES)


def test_the_address_of_the_whole_book_leads_to_its_first_page(browser):
    browser.errors.clear()
    browser.open(BUILT / "index.html")
    browser.wait_for(f"location.pathname.endsWith({'/' + PAGES[0]!r}) && document.readyState === 'complete'")
    assert browser.run("document.querySelector('h1') !== null") and browser.errors == []


@every_page
def test_page_is_quiet_and_whole(browser, page):
    open_page(browser, page)
    assert browser.errors == []
    assert browser.failed == []
    assert [one for one in browser.requested if not one.startswith(("file:", "data:", "blob:"))] == []
    broken = "[...document.images].filter((one) => !one.complete || !one.naturalWidth)"
    assert browser.run(f"{broken}.map((one) => one.src.slice(0, 99))") == []
    wrong = "[...document.querySelectorAll('mjx-merror, [data-mjx-error]')]"
    assert browser.run(f"{wrong}.map((one) => one.outerHTML)") == []
    unset = "[...document.querySelectorAll('.math')].filter((one) => !one.querySelector('mjx-container'))"
    assert browser.run(f"{unset}.map((one) => one.textContent)") == []
    assert (
        browser.run(
            "(() => { const raw = /\\$[^$\\s][^$\\n]*\\$|\\\\[(\\[]|\\\\begin\\{/; const found = []; "
            "const walk = document.createTreeWalker(document.querySelector('main'), NodeFilter.SHOW_TEXT); "
            "while (walk.nextNode()) { const text = walk.currentNode; "
            "if (raw.test(text.data) && !text.parentElement.closest('code, pre, script, style, mjx-container')) "
            "found.push(text.data); } return found; })()"
        )
        == []
    ), "formulas that were not set"


@every_page
def test_page_is_open_to_all_at_a_desk_in_light_and_dark(browser, axe, page):
    open_page(browser, page)
    for theme in ("light", "dark"):
        browser.run(f"document.documentElement.dataset.theme = document.documentElement.dataset.mode = '{theme}'")
        browser.settle()
        only = {} if theme == "light" else {"runOnly": {"type": "rule", "values": ["color-contrast"]}}
        assert find_violations(browser, axe, **only) == {}, theme


@every_page
def test_page_fits_a_phone_and_is_open_to_all_there(browser, axe, page):
    open_page(browser, page, PHONE)
    wide = (
        "[...document.querySelectorAll('main *')].filter((one) => one.getBoundingClientRect().right > innerWidth + 1)"
        ".map((one) => one.tagName + '.' + one.className).slice(0, 8)"
    )
    assert browser.run("document.scrollingElement.scrollWidth") <= PHONE[0], browser.run(wide)
    assert browser.run(SCROLLED) == []
    # Colours are those of the desk.
    assert find_violations(browser, axe, rules={"color-contrast": {"enabled": False}}) == {}


@pytest.mark.parametrize("page", [page for page in PAGES if page.startswith("book/")])
def test_tables_of_a_chapter_fit_a_desk(browser, page):
    open_page(browser, page)
    assert browser.run(SCROLLED) == []
    assert browser.run("document.scrollingElement.scrollWidth") <= DESK[0]


# --- search


@pytest.fixture(scope="module")
def site():
    """The address of the book on a server of this machine: a file may not read the other files."""

    with serve(BUILT) as address:
        yield address


def choose_claims():
    """One claim of each source that names a method and a set of images, the last of them: the least looked at."""
    named = claims.load()
    named = named[(named["method"] != "") & (named["dataset"] != "") & (named["metric"] == "psnr")]
    return [claim for _, claim in named.groupby("source").tail(1).iterrows()]


LEDGER = "document.querySelector('#search-results li a[href*=\"book/ledger.html\"]')"


def search(browser, site, words):
    """Type the words into the book's search, as a reader does, and wait until its ledger is among what was found."""
    browser.resize(*DESK)
    browser.errors.clear()
    browser.open(f"{site}/book/protocol.html")
    browser.run("document.querySelector('.search-button__button').click()")
    browser.wait_for("document.activeElement.name === 'q'")
    browser.type(words)
    browser.press("Enter")
    browser.wait_for("location.pathname.endsWith('search.html') && document.readyState === 'complete'")
    browser.wait_for("document.querySelector('#search-results .search-summary')?.textContent.includes('found')")
    browser.wait_for(LEDGER)


@pytest.mark.parametrize("claim", choose_claims(), ids=lambda claim: claim.name)
def test_search_finds_the_ledger_by_a_printed_value(browser, site, claim):
    search(browser, site, f"{claim['method']} {claim['dataset']} {claim['value']}")
    assert browser.errors == []


@pytest.mark.parametrize("claim", choose_claims(), ids=lambda claim: claim.name)
def test_search_finds_a_claim(browser, site, claim):
    search(browser, site, f"{claim['method']} {claim['dataset']} {claim.name}")
    browser.run(f"setTimeout(() => {LEDGER}.click())")
    browser.wait_for(f"document.readyState === 'complete' && document.getElementById({claim.name!r})")
    shown = "[...document.querySelectorAll('#ledger tbody tr')].filter((one) => !one.hidden).map((one) => one.id)"
    assert claim.name in browser.run(shown) and len(browser.run(shown)) < 10, "the table shows what was searched"
    assert browser.errors == []
