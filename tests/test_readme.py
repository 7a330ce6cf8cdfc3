"""README.md: its table follows from the verdicts, and what it names exists."""

import re
from urllib.parse import unquote

import pytest
import yaml
from chromium import PROGRAM, Browser
from markdown_it import MarkdownIt
from PIL import Image

from repro import files, front_page, pages, readme, rerun_pages
from repro.cli import app
from repro.errors import ReproError
from repro.study import claims as ledger
from repro.study import records, verdicts
from repro.study.verdicts import WORDS

README = files.root() / "README.md"


@pytest.fixture
def settled():
    return ledger.load().join(verdicts.load().drop(columns="id"))


def count(table: str) -> dict[tuple[str, str], dict[str, int]]:
    """``{(paper, family): {mark: number}}`` of a table in Markdown."""
    head, _, *rows = [line.strip("| ").split("|") for line in table.splitlines() if line.startswith("|")]
    families = [cell.strip() for cell in head]
    return {
        (row[0].strip(" *"), family): {mark: int(number) for mark, number in re.findall(r"(\S) (\d+)", cell)}
        for row in rows
        for family, cell in zip(families, row[1:], strict=True)
    }


def test_the_table_follows_from_the_verdicts():
    readme.check()


def test_the_table_counts_what_the_landing_page_counts(settled):
    table = count(readme.render_verdicts(settled, ""))
    assert len(table) == len(pages.PAPERS) * len(pages.KINDS)
    marks = [readme.VERDICT_MARKS[word][1] for word in WORDS]
    page = front_page.render_matrix(settled)
    for paper in pages.PAPERS:
        row = re.search(rf">{paper}</a>.*?</tr>", page)[0]
        for family in pages.KINDS:
            cell = re.search(rf'<td data-label="{family}">(.*?)</td>', row)[1]
            shown = {word: int(count) for count, word in re.findall(r">(\d+) ([a-z ]+)<", cell)}
            words = [front_page.SHORT[word] for word in WORDS]
            assert table[paper, family] == {mark: shown[w] for mark, w in zip(marks, words, strict=True) if w in shown}
    assert sum(sum(family.values()) for family in table.values()) == len(settled)


def test_a_verdict_that_changes_is_noticed_and_renewed(tmp_path, monkeypatch):
    copy = tmp_path / "README.md"
    copy.write_text(README.read_text(encoding="utf-8"), encoding="utf-8")
    readme.check(copy)
    changed = verdicts.load()
    changed.loc[changed["word"] == WORDS[0], "word"] = WORDS[2]
    monkeypatch.setattr(verdicts, "load", lambda: changed)
    monkeypatch.setattr(rerun_pages, "find_repository", lambda: None)
    with pytest.raises(ReproError, match="repro claims --write"):
        readme.check(copy)
    readme.save(copy)
    readme.check(copy)
    before, after = (path.read_text(encoding="utf-8") for path in (README, copy))
    assert before.partition(readme.BEGIN)[0] == after.partition(readme.BEGIN)[0]
    assert before.partition(readme.END)[2] == after.partition(readme.END)[2]


@pytest.mark.parametrize("text", ["no marks", f"{readme.END} {readme.BEGIN}", 2 * f"{readme.BEGIN} {readme.END}"])
def test_a_file_without_the_marks_is_left_alone(tmp_path, text):
    (tmp_path / "README.md").write_text(text)
    with pytest.raises(ReproError, match="no place for the verdicts"):
        readme.save(tmp_path / "README.md")
    assert (tmp_path / "README.md").read_text() == text


def test_the_command_checks_it(monkeypatch):
    from typer.testing import CliRunner

    def fail():
        raise ReproError("README.md does not show the verdicts.")

    monkeypatch.setattr(readme, "check", fail)
    monkeypatch.setattr(verdicts, "check", lambda: 1)
    result = CliRunner().invoke(app, ["claims", "--check"])
    assert result.exit_code == 1 and "README.md does not show" in result.output


# As GitHub shows it in a window of 1280 pixels, beside the column that describes a repository: 832 are for the text.
STYLE = """
* { box-sizing: border-box }
body { margin: 0; padding: 32px; width: 896px; font: 16px/1.5 -apple-system, "Segoe UI", "Noto Sans", Helvetica, Arial, sans-serif }
h1 { font-size: 2em; padding-bottom: .3em; border-bottom: 1px solid; margin: 0 0 16px; line-height: 1.25 }
h2 { font-size: 1.5em; padding-bottom: .3em; border-bottom: 1px solid; margin: 24px 0 16px; line-height: 1.25 }
p, table, pre { margin: 0 0 16px }
table { border-collapse: collapse; display: block; width: max-content; max-width: 100%; overflow: auto }
td, th { padding: 6px 13px; border: 1px solid }
code, pre { font: 85% ui-monospace, "Liberation Mono", monospace }
code { padding: .2em .4em }
pre { padding: 16px; overflow: auto; line-height: 1.45; background: #eee } pre code { font-size: 100%; padding: 0 }
img { max-width: 100% }
"""  # noqa: E501
SCREEN_PX = 900


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    """README.md with badges, in a browser."""
    text = README.read_text(encoding="utf-8")
    text = text.replace(readme.BADGES, readme.render_badges("owner/name"))
    folder = tmp_path_factory.mktemp("readme")
    page = folder / "README.html"
    body = MarkdownIt("commonmark", {"html": True}).enable("table").render(text)
    base = f"<base href='{README.parent.as_uri()}/'>"
    page.write_text(f"<!doctype html><meta charset='utf-8'>{base}<style>{STYLE}</style>{body}", encoding="utf-8")
    with Browser(folder / "profile") as browser:
        browser.resize(1280, SCREEN_PX)
        browser.open(page)
        browser.typeset()
        yield browser


needs_browser = pytest.mark.skipif(PROGRAM is None, reason="no chromium here")


@needs_browser
def test_it_is_at_most_two_screens(shown):
    assert shown.run("document.querySelectorAll('h2').length") >= 3 and shown.run("document.images.length") == 3
    assert shown.run("document.body.getBoundingClientRect().height") <= 2 * SCREEN_PX


@needs_browser
def test_its_pictures_are_there_and_nothing_is_cut(shown):
    assert shown.failed == []
    assert shown.run("[...document.images].every((one) => one.naturalWidth && one.alt)")
    wide = "[...document.querySelectorAll('table, pre')].filter((one) => one.scrollWidth > one.clientWidth)"
    assert shown.run(f"{wide}.map((one) => one.textContent)") == []


def test_badges_open_a_notebook_that_exists_and_are_written_where_the_address_is_known(tmp_path, monkeypatch):
    copy = tmp_path / "README.md"
    copy.write_text(README.read_text(encoding="utf-8"), encoding="utf-8")
    monkeypatch.setattr(rerun_pages, "find_repository", lambda: None)
    readme.save(copy)
    assert copy.read_text(encoding="utf-8") == README.read_text(encoding="utf-8"), "an address is not made up"
    monkeypatch.setattr(rerun_pages, "find_repository", lambda: "owner/name")
    for _ in range(2):
        readme.save(copy)
        addresses = re.findall(r"\]\((https://[^)]*owner/name[^)]*)\)", copy.read_text(encoding="utf-8"))
        assert len(addresses) == 2
    readme.check(copy)
    for address in map(unquote, addresses):
        assert (README.parent / re.search(r"notebooks/\w+\.ipynb", address)[0]).exists()


def test_it_is_cited_as_its_citation_file_says():
    text = README.read_text(encoding="utf-8")
    cited = dict(
        re.findall(r"^ *(\w+) *= \{+(.*?)\}+,?$", re.search(r"@software\{.*?\n\}", text, re.DOTALL)[0], re.MULTILINE)
    )
    about = yaml.safe_load((README.parent / "CITATION.cff").read_text(encoding="utf-8"))
    assert (cited["title"], cited["version"]) == (about["title"], about["version"])
    assert cited["author"] == " and ".join(author["name"] for author in about["authors"])
    assert f"Copyright (c) {cited['year']}" in (README.parent / "LICENSE").read_text(encoding="utf-8")


def test_it_names_what_exists():
    text = README.read_text(encoding="utf-8")
    for place in [*re.findall(r"\]\(([^)#]+)\)", text), *re.findall(r'src="([^"]+)"', text)]:
        assert place.startswith("https:") or (files.root() / place.replace("\n", "")).exists(), place
    for place in re.findall(r"`((?:book|notebooks|repro|results|tests|CITATION|environment|_)[\w./]*[/.]\w*)`", text):
        made_by_the_book = place.startswith(("results/notebooks", "_build/"))  # which the tests do without
        assert (files.root() / place).exists() or made_by_the_book, place


def test_its_picture_is_small_enough_for_a_page():
    path = files.root() / "book" / "_static" / "gallery.png"
    assert path.stat().st_size <= 300 * 1024
    assert Image.open(path).width <= 1200


def test_sentences_about_gpus_are_true():
    """They are typed; the first record of a GPU makes them false."""
    sentences = [
        ("README.md", "no measurement on a GPU is on record yet"),
        ("book/index.md", "none ran on a GPU so far"),
        ("book/rerun.md", "No run on record has used a GPU yet"),
        ("book/rerun.md", "no GPU has run it yet"),
        ("results/experiments.toml", "None of them has been run yet"),
    ]
    none_ran = not any("NVIDIA" in record["device"] for record in records.load())
    for name, sentence in sentences:
        text = " ".join((README.parent / name).read_text(encoding="utf-8").replace("\n#", "").split())
        assert (sentence in text) == none_ran, f"{name}: {sentence!r}"
