"""README.md: its table follows from the verdicts, and what it names exists."""

import re

import pytest
from PIL import Image

from repro import files, pages, readme
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
    page = pages.describe_glance(settled, verdicts.Study.load()).partition("<details>")[0]
    for paper in pages.PAPERS:
        row = re.search(rf"<tr[^>]*><th>{paper},[^<]*</th>(.*?)</tr>", page)[1]
        shown = [int(cell) if cell.isdigit() else 0 for cell in re.findall(r"<td>(.*?)</td>", row)]
        families = [table[paper, family] for family in pages.KINDS]
        assert [sum(family.get(mark, 0) for family in families) for mark in marks] == shown
    assert sum(sum(family.values()) for family in table.values()) == len(settled)


def test_a_verdict_that_changes_is_noticed_and_renewed(tmp_path, monkeypatch):
    copy = tmp_path / "README.md"
    copy.write_text(README.read_text(encoding="utf-8"), encoding="utf-8")
    readme.check(copy)
    changed = verdicts.load()
    changed.loc[changed["word"] == WORDS[0], "word"] = WORDS[2]
    monkeypatch.setattr(verdicts, "load", lambda: changed)
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


def test_it_is_two_screens_and_names_what_exists():
    text = README.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 110
    for place in re.findall(r"\]\(([^)#]+)\)", text):
        assert place.startswith("https:") or (files.root() / place.replace("\n", "")).exists(), place
    for place in re.findall(r"`((?:book|notebooks|repro|results|tests|CITATION|environment|_)[\w./]*[/.]\w*)`", text):
        assert (files.root() / place).exists() or place.startswith("results/notebooks"), place


def test_its_picture_is_small_enough_for_a_page():
    path = files.root() / "book" / "_static" / "gallery.png"
    assert path.stat().st_size <= 300 * 1024
    assert Image.open(path).width <= 1200


def test_sentences_about_gpus_are_true():
    """They are typed; the first record of a GPU makes them false."""
    sentences = {
        "README.md": "no measurement on a GPU is on record yet",
        "book/index.md": "none ran on a GPU so far",
        "book/rerun.md": "No run on record has used a GPU yet",
    }
    none_ran = not any("NVIDIA" in record["device"] for record in records.load())
    for name, sentence in sentences.items():
        text = " ".join((README.parent / name).read_text(encoding="utf-8").split())
        assert (sentence in text) == none_ran, f"{name}: {sentence!r}"
