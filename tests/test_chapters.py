"""The order of the book and of its chapters, and the code that stands beside the equations."""

import re

import pytest
from sphinx.pycode import ModuleAnalyzer

from repro import files, pdf, weights
from repro.study import experiments

BOOK = files.root() / "book"
CHAPTERS = ("sadnet", "ssdn", "gradnet", "scaoednet")
SECTIONS = [
    "The idea",
    "Where the sources differ",
    "Results",
    "What was easy",
    "What was difficult",
    "What it cost",
    "Every number beside its source",
]
CODE = re.compile(
    r"```\{literalinclude\} (?P<file>\S+)\n:language: python\n:class: source\n"
    r":pyobject: (?P<name>\S+)\n(:dedent:\n)?```"
)


def read(page):
    return (BOOK / f"{page}.md").read_text(encoding="utf-8")


def list_code(page):
    """(file, name, lines) of the code that a page shows, found as Sphinx finds it."""
    found = []
    for match in CODE.finditer(read(page)):
        path = (BOOK / match["file"]).resolve()
        tags = ModuleAnalyzer.for_file(path, "").find_tags()
        assert match["name"] in tags, f"{page}: there is no {match['name']} in {match['file']}"
        _, first, last = tags[match["name"]]
        found.append((match["file"], match["name"], path.read_text(encoding="utf-8").splitlines()[first - 1 : last]))
    return found


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_a_chapter_has_the_sections_of_all_in_their_order(chapter):
    assert re.findall(r"^## (.+)$", read(chapter), re.MULTILINE) == SECTIONS
    idea = read(chapter).split("\n## ")[1]
    assert re.findall(r"^### (.+)$", idea, re.MULTILINE)[-1] == "In the code"


@pytest.mark.parametrize("page", [*CHAPTERS, "noise"])
def test_code_stands_beside_equations_and_is_short(page):
    assert len(re.findall(r"\(eq:[a-z-]+\)$", read(page), re.MULTILINE)) >= 2
    shown = list_code(page)
    assert len(shown) == read(page).count("{literalinclude}") >= 2
    assert {name: len(lines) for _, name, lines in shown if len(lines) > 35} == {}


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_names_that_the_text_sets_beside_symbols_are_in_the_code(chapter):
    shown = "\n".join(line for _, _, lines in list_code(chapter) for line in lines)
    named = re.findall(r"`(\w+)`(?:\s+is)?\s+\$", read(chapter).split("\n## ")[1])
    assert len(named) >= 3
    assert [name for name in named if not re.search(rf"\b{name}\b", shown)] == []


@pytest.mark.parametrize("page", CHAPTERS)
def test_networks_and_rows_that_a_chapter_names_exist(page):
    text = read(page)
    loaded = re.findall(r'repro\.load\("([^"]+)"\)', text)
    assert loaded and set(loaded) <= set(weights.published())
    rows = re.findall(r"(?:--only|repro experiment) ([\w-]+)", text)
    assert rows and all(experiments.get(row) for row in rows)


def test_pages_come_in_the_order_in_which_they_are_read():
    wanted = [
        *(f"book/{chapter}" for chapter in CHAPTERS),
        "results/notebooks/operator",
        "results/notebooks/offsets",
        *(f"book/{page}" for page in ("noise", "protocol", "costs", "forensics", "ledger", "checklist", "status")),
    ]
    assert [page for page in pdf.read_contents() if page in wanted] == wanted
