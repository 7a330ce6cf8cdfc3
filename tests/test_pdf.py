"""The book on paper."""

import itertools
import re

import pytest
from chromium import PROGRAM, Browser
from pypdf import PdfReader

from repro import files, pdf
from repro.errors import ReproError

BUILT = files.root() / "_build" / "html"
PAGES = pdf.read_contents()


def test_contents_are_those_of_the_toc():
    entries = list(pdf._list_entries())
    assert entries[0] == ("book/index", 0, "") and len({entry.name for entry in entries}) == len(entries)
    assert entries[1].part and {entry.depth for entry in entries} == {0, 1}
    assert len({entry.part for entry in entries if entry.part}) == len([entry for entry in entries if entry.part])


def test_without_a_browser_or_a_book_one_sentence_says_so(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(pdf, "PROGRAM", None)
    assert pdf.main([]) == 1
    told = capsys.readouterr().err
    assert "Chromium" in told and len(told.splitlines()) == 1
    monkeypatch.setattr(pdf, "PROGRAM", "chromium")
    (tmp_path / "_toc.yml").write_text("root: book/index\nparts: []\n")
    monkeypatch.setattr(files, "root", lambda: tmp_path)
    with pytest.raises(ReproError, match="Not built yet: book/index; `make book` does it"):
        pdf.print_book()


needs_book = pytest.mark.skipif(
    PROGRAM is None or not (BUILT / f"{PAGES[0]}.html").exists(), reason="no chromium, or no book"
)


@pytest.fixture(scope="module")
def printed(tmp_path_factory):
    return PdfReader(pdf.print_book(tmp_path_factory.mktemp("pdf") / "book.pdf"))


def list_bookmarks(reader):
    def walk(outline, depth):
        for entry in outline:
            if isinstance(entry, list):
                yield from walk(entry, depth + 1)
            else:
                yield depth, entry.title, reader.get_destination_page_number(entry)

    return list(walk(reader.outline, 0))


@needs_book
@pytest.mark.slow
def test_bookmarks_lead_to_the_first_pages_of_their_chapters(printed):
    bookmarks = list_bookmarks(printed)
    pages = [page for _, _, page in bookmarks]
    assert pages == sorted(pages) and pages[0] == 1, "behind the contents"
    chapters = {title: page for depth, title, page in bookmarks if depth < 2}
    for title in ("SADNet", "Protocol and verdicts", "The deformable convolution"):
        assert printed.pages[chapters[title]].extract_text().lstrip().startswith(title)
    assert len([title for depth, title, _ in bookmarks if depth == 2]) > 10
    contents = printed.pages[0].extract_text()
    assert re.search(rf"SADNet\s*{chapters['SADNet'] + 1}\b", contents)


@needs_book
@pytest.mark.slow
def test_pages_have_text_pictures_and_numbers_and_no_navigation(printed):
    for number, page in enumerate(printed.pages[1:], 2):
        text = page.extract_text()
        assert re.search(rf"\b{number}\s*$", text.rstrip()), (number, text[-80:])
        assert not re.search(r"(?m)Ctrl ?\+|Back to top|Print to PDF|Skip to main content|^(?:previous|next)$", text)
        assert len(text) > 100 or page.images, f"page {number} is empty"
    by_chapter = dict(_pictures(printed))
    assert by_chapter["The kernels under the pointer"] >= 1, "the still picture stands for the one that moves"
    assert by_chapter["Four denoisers, put to the test"] >= 3, "all versions side by side"


def _pictures(reader):
    titles = [re.search("<h1>(.*?)<a", (BUILT / f"{page}.html").read_text(encoding="utf-8"))[1] for page in PAGES]
    starts = {page: title for _, title, page in list_bookmarks(reader) if title in titles}
    for start, end in itertools.pairwise([*starts, len(reader.pages)]):
        yield starts[start], sum(len(page.images) for page in reader.pages[start:end])


@needs_book
@pytest.mark.slow
def test_links_stay_in_the_print_or_lead_to_the_web(printed):
    inside = 0
    for page in printed.pages:
        for reference in page.get("/Annots", []):
            link = reference.get_object()
            if "/A" in link:
                assert link["/A"]["/URI"].startswith(("https://", "http://"))  # some data sets' homes are old
            else:
                assert link["/Dest"][0].get_object()["/Type"] == "/Page"
                inside += 1
    assert inside > 5


@needs_book
@pytest.mark.slow
def test_no_place_of_this_machine_is_told(printed, tmp_path):
    assert str(files.root()).encode() not in printed.stream.getvalue()


@needs_book
@pytest.mark.slow
@pytest.mark.parametrize("page", ["book/index", "book/viewer"])
def test_pictures_that_move_stand_still_in_a_print_by_the_reader(page, tmp_path):
    with Browser(tmp_path) as browser:
        browser.open(BUILT / f"{page}.html")
        browser.wait_for("document.querySelector('.viewer.is-live')")
        browser.send("Emulation.setEmulatedMedia", media="print")
        shown = "getComputedStyle(document.querySelector('{}')).display !== 'none'"
        assert browser.run(shown.format(".viewer-static")) and not browser.run(shown.format(".viewer-live"))
        unseen = ".bd-sidebar-primary", ".bd-header-article", ".prev-next-footer"
        assert not any(browser.run(shown.format(one)) for one in unseen)
