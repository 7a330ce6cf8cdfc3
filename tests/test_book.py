"""The book's sources and, where it was built, its pages: links, offline use, no typed results."""

import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest
import yaml

from repro import book, files, pages, pdf, publish
from repro.study import verdicts

ROOT = files.root()
BUILT = ROOT / "_build" / "html"
PROSE = sorted((ROOT / "book").glob("*.md"))


def toc() -> list[str]:
    return pdf.read_contents()


def test_the_contents_name_pages_that_exist_and_all_of_them():
    executed = [name for name in toc() if name.startswith("results/notebooks/")]
    assert {name.removeprefix("results/notebooks/") for name in executed} == set(publish.NOTEBOOKS)
    prose = {name.removeprefix("book/") for name in toc() if name.startswith("book/")}
    assert prose == {path.stem for path in PROSE}


def test_pages_include_only_what_is_generated():
    folder = ROOT / "book" / "_generated"
    if not (BUILT / "index.html").exists():
        pytest.skip("the book is not built: make book")
    written = {path.name for path in folder.glob("*.md")}
    included = {name for path in PROSE for name in re.findall(r"\{include\} _generated/(\S+)", path.read_text())}
    assert included == written
    for name in written:
        text = (folder / name).read_text()
        assert text.strip(), name
        assert not re.search(r"\{\w+[.(\[][^{}]*\}", text), f"{name} shows how a number is made in place of the number"


@pytest.mark.parametrize("path", PROSE, ids=lambda path: path.stem)
def test_prose_types_no_result(path):
    text = path.read_text(encoding="utf-8")
    assert not re.search(r"\b[1-4]\d\.\d{1,2}\b(?!\s*%)", text), "a PSNR comes from a record or from claims.csv"


def test_every_answer_of_the_checklist_has_a_link():
    text = (ROOT / "book" / "checklist.md").read_text(encoding="utf-8")
    rows = [
        [cell.strip() for cell in line.strip("|\n").split("|")] for line in text.splitlines() if line.startswith("|")
    ]
    answers = [(asked, answer) for asked, answer in rows if answer.startswith("**")]
    assert len(rows) - len(answers) == 2 * text.count("| asked for | answer |") and len(answers) > 30
    for asked, answer in answers:
        places = re.findall(r"\{doc\}`(?:[^`<]*<)?([^`>]+)>?`", answer)
        assert places or re.search(r"\]\(https://|<https://", answer), asked
        for place in places:
            assert f"book/{place}".replace("book//", "") in toc(), f"{asked}: {place}"


def test_mathjax_lies_beside_the_book():
    config = yaml.safe_load((ROOT / "_config.yml").read_text())["sphinx"]["config"]
    static = ROOT / config["html_static_path"][0]
    assert (static / config["mathjax_path"]).stat().st_size > 500_000
    assert len(list((static / "mathjax").rglob("*.woff"))) > 20
    assert sum(path.stat().st_size for path in static.rglob("*") if path.is_file()) < 3 * 2**20


def test_ledger_shows_every_claim_and_escapes_it():
    settled = pages.join_verdicts(verdicts.Study.load())
    settled.loc[settled.index[0], "note"] = "<script>alert(1)</script>"
    page = pages.describe_ledger(settled)
    assert page.count("<tr id=") == len(settled)
    assert "<script>" not in page
    reader = _Reader()
    reader.feed(page)
    assert {row["data-verdict"] for row in reader.found["tr"] if "id" in row} == set(settled["word"])


class _Reader(HTMLParser):
    def __init__(self):
        super().__init__()
        self.found, self.anchors = {}, set()

    def handle_starttag(self, tag, attributes):
        self.found.setdefault(tag, []).append(dict(attributes))
        self.anchors |= {value for name, value in attributes if name in ("id", "name")}


def test_words_at_the_edges_of_cells_stay_words():
    cells = "<tr><td>Table 3<div>001-t3</div></td><td>SADNet<br>Kodak24</td></tr>"
    assert re.sub(r"<[^<]+?>", "", cells) == "Table 3001-t3SADNetKodak24", "which is what Sphinx does"
    assert re.sub(r"<[^<]+?>", "", book.separate(cells)).split() == ["Table", "3", "001-t3", "SADNet", "Kodak24"]
    assert book.separate(book.separate(cells)) == book.separate(cells)


def built_pages():
    return [BUILT / f"{name}.html" for name in toc()]


needs_book = pytest.mark.skipif(not built_pages()[0].exists(), reason="the book is not built; `make book` builds it")


@needs_book
def test_built_pages_load_nothing_from_elsewhere():
    for page in built_pages():
        reader = _Reader()
        reader.feed(page.read_text(encoding="utf-8"))
        loads = [
            entry.get("src") for tag in ("script", "img", "iframe", "source") for entry in reader.found.get(tag, [])
        ]
        loads += [
            entry.get("href")
            for entry in reader.found.get("link", [])
            if entry.get("rel") not in ("canonical", "license")
        ]
        for address in filter(None, loads):
            assert not re.match(r"(https?:)?//", address), f"{page.name} asks for {address}"
            target = (page.parent / address.split("?")[0].split("#")[0]).resolve()
            assert address.startswith("data:") or target.exists(), f"{page.name} misses {address}"
    for style in (BUILT / "_static").rglob("*.css"):
        assert not re.search(r"(@import|url\()\s*[\"']?(https?:)?//", style.read_text(encoding="utf-8")), style


@needs_book
def test_built_links_lead_somewhere_and_pictures_are_described():
    readers = {}

    def read(page):
        if page not in readers:
            readers[page] = _Reader()
            readers[page].feed(page.read_text(encoding="utf-8"))
        return readers[page]

    for page in map(Path.resolve, built_pages()):
        for entry in read(page).found.get("a", []):
            address, _, anchor = (entry.get("href") or "").partition("#")
            if re.match(r"[a-z]+:|//", address):
                continue
            address = unquote(address.partition("?")[0])
            target = (page.parent / address).resolve() if address else page
            assert target.exists(), f"{page.name} links to {address}"
            if anchor and target.suffix == ".html":
                assert unquote(anchor) in read(target).anchors, f"{page.name} links to {address}#{anchor}"
        for entry in read(page).found.get("img", []):
            assert "alt" in entry, f"{page.name}: {entry.get('src', '')[:60]}"


@needs_book
def test_built_pages_name_no_script_of_another_host():
    for page in built_pages():
        text = page.read_text(encoding="utf-8")
        scripts = re.findall(r"<script\b.*?</script>", text, re.DOTALL)
        assert not [script for script in scripts if re.search(r"https?://", script)], page.name


@needs_book
def test_built_pictures_are_small():
    for picture in (BUILT / "_images").glob("*.png"):
        assert picture.stat().st_size <= 300 * 1024, picture
