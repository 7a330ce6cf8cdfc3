"""`make pdf`: the built book on paper, ``_build/four-denoisers.pdf``, and linked from the first page of the built book.

Chromium prints the pages of ``_build/html`` in the order of the contents, and the prints are joined: a first page with
the contents, bookmarks, page numbers, and links that lead to the page of the print.
"""

import argparse
import io
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote

import yaml
from pypdf import PdfReader, PdfWriter
from pypdf.generic import ArrayObject, Fit, NameObject, NumberObject

from repro import files
from repro.chromium import PROGRAM, Browser
from repro.errors import ReproError

TARGET = "four-denoisers.pdf"
# A4. At this scale the theme's text is of nine and a half points, and a line of it is as long as on a screen.
PAPER = {"paperWidth": 8.27, "paperHeight": 11.69, "marginTop": 0.6, "marginBottom": 0.75, "marginLeft": 0.75}
PAPER |= {"marginRight": 0.75, "scale": 0.78, "printBackground": True, "preferCSSPageSize": False}


class Entry(NamedTuple):
    """A page of the book: its name in the contents, how deep it stands there, and the part that it opens."""

    name: str
    depth: int
    part: str


class Chapter(NamedTuple):
    """A printed page of the book. ``places`` are the anchors that something leads to: page and height there."""

    entry: Entry
    title: str
    sections: list[tuple[str, str]]  # anchor and title
    print: PdfReader
    places: dict[str, tuple[int, float]]


def main(arguments: list[str] | None = None) -> int:
    """Run from the command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m repro.pdf", description="Print the built book as one PDF.")
    parser.add_argument("--only", nargs="*", choices=read_contents(), metavar="PAGE", help="print these pages alone")
    only = parser.parse_args(arguments).only
    try:
        path = print_book(only=only)
        if only is None:
            offer(path)
    except ReproError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    print(f"The book on paper: {path}")
    return 0


def read_contents() -> list[str]:
    """Names of the book's pages, such as ``book/sadnet``, in the order in which it is read."""
    return [entry.name for entry in _list_entries()]


def _list_entries() -> Iterator[Entry]:
    def walk(entries: list[dict], depth: int, part: str) -> Iterator[Entry]:
        for entry in entries:
            yield Entry(entry["file"], depth, part)
            yield from walk(entry.get("sections", []), depth + 1, "")
            part = ""

    contents = yaml.safe_load((files.root() / "_toc.yml").read_text(encoding="utf-8"))
    yield Entry(contents["root"], 0, "")
    for part in contents["parts"]:
        yield from walk(part["chapters"], 0, part["caption"])


def print_book(target: Path | None = None, only: list[str] | None = None) -> Path:
    """Print the pages ``only``, or all, into ``target``, and return its path.

    A :class:`ReproError` where there is no Chromium, or no built book.
    """
    built = files.root() / "_build" / "html"
    if PROGRAM is None:
        raise ReproError("The PDF is printed by Chromium (or Chrome), and there is none on this machine.")
    entries = [entry for entry in _list_entries() if only is None or entry.name in only]
    missing = [entry.name for entry in entries if not (built / f"{entry.name}.html").exists()]
    if missing:
        raise ReproError(f"Not built yet: {', '.join(missing)}; `make book` does it.")
    title = yaml.safe_load((files.root() / "_config.yml").read_text(encoding="utf-8"))["title"]
    wanted = _find_anchors(built, entries)
    with tempfile.TemporaryDirectory() as folder, Browser(Path(folder) / "profile") as browser:
        chapters = [_print_chapter(browser, built, entry, wanted[entry.name]) for entry in entries]
        front = _print_html(browser, Path(folder), _render_front(title, chapters, built))
        labels = [chapter.title for chapter in chapters for _ in chapter.print.pages]
        numbers = _print_html(browser, Path(folder), _render_numbers(labels, first=1 + len(front.pages)))
    writer = _join(title, front, chapters, numbers, built)
    with files.write_atomically(target or built.parent / TARGET) as path:
        writer.write(path)
    return target or built.parent / TARGET


def offer(path: Path) -> None:
    """Lay the print at ``path`` beside the built pages, and let the first of them link to it.

    A book that was never printed has no such link, and so none that leads nowhere. A :class:`ReproError` where the page
    has no place for it.
    """
    built = files.root() / "_build" / "html"
    page = built / f"{read_contents()[0]}.html"
    copy = built / TARGET
    size = f"{len(PdfReader(path).pages)} pages, {path.stat().st_size / 1e6:.0f} MB"
    address = Path(os.path.relpath(copy, page.parent)).as_posix()
    link = f'<p id="book-pdf"><a href="{address}">The book as a PDF</a> ({size})</p>'
    text, places = re.subn(r'<p id="book-pdf">.*?</p>', link, page.read_text(encoding="utf-8"), flags=re.DOTALL)
    if places != 1:
        raise ReproError(f"{page.name} has no place for a link to the PDF; `make book` builds one that has.")
    with files.write_atomically(copy) as temporary:
        shutil.copyfile(path, temporary)
    with files.write_atomically(page) as temporary:
        temporary.write_text(text, encoding="utf-8")


# --- printing


def _find_anchors(built: Path, entries: list[Entry]) -> dict[str, set[str]]:
    """The anchors of each page that another one links to."""
    pages = {(built / f"{entry.name}.html").resolve(): entry.name for entry in entries}
    wanted: dict[str, set[str]] = {name: set() for name in pages.values()}
    for path in pages:
        for address, anchor in re.findall(r'href="([^"#:]+)#([^"]+)"', path.read_text(encoding="utf-8")):
            name = pages.get((path.parent / unquote(address)).resolve())
            if name:
                wanted[name].add(unquote(anchor))
    return wanted


def _print_chapter(browser: Browser, built: Path, entry: Entry, anchors: set[str]) -> Chapter:
    browser.open(built / f"{entry.name}.html")
    browser.run("document.documentElement.dataset.theme = document.documentElement.dataset.mode = 'light'")
    browser.typeset()
    heading = "one.textContent.replace(/#$/, '').trim()"
    title = browser.run(f"(() => {{ const one = document.querySelector('.bd-article h1'); return {heading}; }})()")
    sections = browser.run(
        "[...document.querySelectorAll('.bd-article h2')].filter((one) => one.parentElement.id)"
        f".map((one) => [one.parentElement.id, {heading}])"
    )
    # Chromium keeps the place of an anchor where a link of the same page leads to it.
    links = "".join(f'<a href="#{escape(one)}"></a>' for one in sorted(anchors | {one for one, _ in sections}))
    browser.run(f"document.body.insertAdjacentHTML('beforeend', `<div hidden>{links}</div>`)")
    browser.settle()
    reader = _drop_empty_end(PdfReader(io.BytesIO(browser.print_pdf(**PAPER))))
    return Chapter(entry, title, [tuple(section) for section in sections], reader, _find_places(reader))


def _drop_empty_end(reader: PdfReader) -> PdfReader:
    """Without last pages that hold nothing: a chapter that fills its page to the end leaves one for its padding."""
    full = len(reader.pages)
    while full > 1 and not (reader.pages[full - 1].extract_text().strip() or reader.pages[full - 1].images):
        full -= 1
    if full == len(reader.pages):
        return reader
    writer, kept = PdfWriter(clone_from=reader), io.BytesIO()
    for page in reversed(writer.pages[full:]):
        writer.remove_page(page)
    writer.write(kept)
    return PdfReader(kept)


def _find_places(reader: PdfReader) -> dict[str, tuple[int, float]]:
    return {
        unquote(name.removeprefix("/")): (reader.get_destination_page_number(place), float(place.top))
        for name, place in reader.named_destinations.items()
    }


def _print_html(browser: Browser, folder: Path, html: str) -> PdfReader:
    page = folder / "page.html"
    page.write_text(html, encoding="utf-8")
    browser.open(page)
    return PdfReader(io.BytesIO(browser.print_pdf(**PAPER | {"marginTop": 0, "marginBottom": 0, "scale": 1})))


_STYLE = (
    "<!doctype html><html lang='en'><meta charset='utf-8'><style>* { box-sizing: border-box; margin: 0 } "
    "body { font: 11pt system-ui, sans-serif; color: #22262b } a { color: inherit; text-decoration: none } "
    ".line { display: flex; justify-content: space-between; gap: 1em } "
)


def _render_front(title: str, chapters: list[Chapter], built: Path) -> str:
    """The first page: the title, and the contents with the numbers of the pages."""
    lines, number = "", 2
    for chapter in chapters:
        entry = chapter.entry
        lines += f"<h2>{escape(entry.part)}</h2>" if entry.part else ""
        lines += (
            f'<a class="line" style="padding-left: {1.5 * entry.depth}em" href="{(built / entry.name).as_uri()}.html">'
            f"<span>{escape(chapter.title)}</span><span>{number}</span></a>"
        )
        number += len(chapter.print.pages)
    return (
        f"{_STYLE}body {{ padding-top: 1.3in }} h1 {{ font-size: 26pt; margin-bottom: 0.5in }} "
        "h2 { font-size: 11pt; margin: 1.1em 0 0.3em } .line { padding: 0.15em 0 }</style>"
        f"<h1>{escape(title)}</h1>{lines}"
    )


def _render_numbers(labels: list[str], first: int) -> str:
    """An empty page for each page of the book, with its chapter and number at the bottom."""
    return (
        f"{_STYLE}.page {{ height: 11.6in; padding-top: 11.1in; break-after: page; color: #5a6068; font-size: 8pt }}"
        "</style>"
        + "".join(
            f'<div class="page"><div class="line"><span>{escape(label)}</span><span>{number}</span></div></div>'
            for number, label in enumerate(labels, first)
        )
    )


# --- joining


def _join(title: str, front: PdfReader, chapters: list[Chapter], numbers: PdfReader, built: Path) -> PdfWriter:
    writer = PdfWriter()
    for page in front.pages:
        writer.add_page(page)
    starts: dict[str, int] = {}
    for chapter in chapters:
        starts[chapter.entry.name] = len(writer.pages)
        for page in chapter.print.pages:
            writer.add_page(page)
    for page, number in zip(list(writer.pages)[len(front.pages) :], numbers.pages, strict=True):
        page.merge_page(number)
        page.compress_content_streams()
    _add_bookmarks(writer, chapters, starts)
    places = {chapter.entry.name: chapter.places for chapter in chapters}
    owners = [chapter.entry.name for chapter in chapters for _ in chapter.print.pages]
    for page, owner in zip(writer.pages, ["", *owners], strict=True):
        _mend_links(writer, page, owner, starts, places, built)
    writer.compress_identical_objects()
    writer.add_metadata({"/Title": title, "/Producer": "Chromium, pypdf"})
    writer.page_mode = "/UseOutlines"
    return writer


def _add_bookmarks(writer: PdfWriter, chapters: list[Chapter], starts: dict[str, int]) -> None:
    above: list = [None]  # the bookmarks that the next one may stand under: its part, its chapter
    for chapter in chapters:
        entry, start = chapter.entry, starts[chapter.entry.name]
        if entry.part:
            above = [writer.add_outline_item(title=entry.part, page_number=start, bold=True)]
        del above[1 + entry.depth :]
        above.append(writer.add_outline_item(title=chapter.title, page_number=start, parent=above[-1], is_open=False))
        for anchor, section in chapter.sections:
            page, height = chapter.places.get(anchor, (0, 0.0))
            fit = Fit.xyz(top=height or None)
            writer.add_outline_item(title=section, page_number=start + page, parent=above[-1], fit=fit)


def _mend_links(
    writer: PdfWriter, page, owner: str, starts: dict[str, int], places: dict[str, dict], built: Path
) -> None:
    """Let each link lead to a place of the print; a link to a file that is not printed is none."""
    kept = ArrayObject()
    for reference in page.get("/Annots", ArrayObject()):
        link = reference.get_object()
        address = link.get("/A", {}).get("/URI")
        if address is None:  # within its chapter
            name, anchor = owner, unquote(str(link.get("/Dest", "")).removeprefix("/"))
        elif not str(address).startswith("file:"):
            if re.match(r"https?:", str(address)):
                kept.append(reference)
            continue
        else:
            path, _, anchor = unquote(str(address)).partition("#")
            name = path.removeprefix(unquote(built.as_uri()) + "/").removesuffix(".html")
        if name not in starts or (anchor and address is None and anchor not in places[name]):
            continue
        number, height = places[name].get(anchor, (0, None))
        to = [writer.pages[starts[name] + number].indirect_reference, NameObject("/XYZ"), NumberObject(0)]
        to += [NumberObject(round(height)) if height is not None else NumberObject(842), NumberObject(0)]
        link.pop("/A", None)
        link[NameObject("/Dest")] = ArrayObject(to)
        kept.append(reference)
    page[NameObject("/Annots")] = kept


if __name__ == "__main__":
    sys.exit(main())
