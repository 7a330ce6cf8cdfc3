"""The parts of README.md that are written, each between two comment marks: the verdicts, and badges.

`repro claims --write` renews them by :func:`save`; `repro claims --check` fails, by :func:`check`, where the verdicts
are not those on record. Badges lead to where the repository is: where that is not known, they stay as they are.
"""

import html
import re
from pathlib import Path

import pandas as pd

from repro import files, pages, rerun_pages
from repro.errors import ReproError
from repro.plots import VERDICT_MARKS
from repro.study import claims as ledger
from repro.study import verdicts
from repro.study.verdicts import REPRODUCED, WORDS, Study

BEGIN = "<!-- verdicts, written by `repro claims --write` -->"
END = "<!-- end of verdicts -->"
BADGES = "<!-- badges, written by `repro claims --write` where the repository's address is known -->"
END_OF_BADGES = "<!-- end of badges -->"
NOTEBOOK = "gallery"  # opened by the badges


def render_verdicts(settled: pd.DataFrame, headline: str) -> str:
    """Markdown of the headline and of the verdicts: a row per paper, a column per family of claims.

    ``settled``: claims with their verdicts; ``headline``: Markdown, in which HTML tags are dropped.
    """
    rows = [f"| | {' | '.join(pages.KINDS)} |", "|---" * (len(pages.KINDS) + 1) + "|"]
    for paper, sources in pages.PAPERS.items():
        of_paper = settled[settled["source"].isin(sources)]
        if len(of_paper):
            cells = [_count(of_paper[of_paper["metric"].isin(metrics)]) for metrics in pages.KINDS.values()]
            rows.append(f"| **{paper}** | {' | '.join(cells)} |")
    words = settled["word"].value_counts()
    key = ", ".join(f"{VERDICT_MARKS[word][1]} {word} ({words.get(word, 0)})" for word in WORDS)
    table = "\n".join(rows)
    outcomes = settled[settled["metric"].isin(pages.KINDS["quality and cost"]) & (settled["word"] == REPRODUCED)]
    others = int((outcomes["metric"].isin(["psnr", "ssim"]) & ~outcomes["method"].isin(pages.PAPERS)).sum())
    counts = int(outcomes["metric"].isin(["parameters", "flops"]).sum())
    told = (
        f" Of the {len(outcomes)} ● under *quality and cost*, {others} are other methods' values, {counts} counts of "
        "parameters or operations."
        if others or counts
        else ""
    )
    return f"{html.unescape(re.sub('<[^>]+>', '', headline))}\n\n{table}\n\n{len(settled)} claims: {key}.{told}"


def _count(claims: pd.DataFrame) -> str:
    words = claims["word"].value_counts()
    return "\u2002".join(f"{VERDICT_MARKS[word][1]} {words[word]}" for word in WORDS if word in words)


def save(path: Path | None = None) -> Path:
    """Put the verdicts of results/verdicts.csv into README.md, and badges where the repository's address is known."""
    path = path or files.root() / "README.md"
    text = path.read_text(encoding="utf-8")
    renewed = _renew(text, path)
    repository = rerun_pages.find_repository()
    if repository:
        renewed = _replace(renewed, path, "badges", (BADGES, END_OF_BADGES), render_badges(repository))
    if renewed != text:
        with files.write_atomically(path) as temporary:
            temporary.write_text(renewed, encoding="utf-8")
    return path


def check(path: Path | None = None) -> None:
    """Raise :class:`ReproError` where README.md shows other verdicts than results/verdicts.csv has."""
    path = path or files.root() / "README.md"
    text = path.read_text(encoding="utf-8")
    if _renew(text, path) != text:
        raise ReproError(f"{path.name} does not show the verdicts as they are: `repro claims --write` renews it.")


def render_badges(repository: str) -> str:
    """Markdown of badges that open the gallery notebook of ``owner/name`` on GitHub in Binder and in Colab."""
    addresses = {
        "binder": rerun_pages.address_binder(repository, NOTEBOOK),
        "colab": rerun_pages.address_colab(repository, NOTEBOOK),
    }
    return " ".join(
        f"[![Open {NOTEBOOK} in {name.capitalize()}](book/_static/{name}.svg)]({address})"
        for name, address in addresses.items()
    )


def _renew(text: str, path: Path) -> str:
    return _replace(text, path, "verdicts", (BEGIN, END), _render_committed())


def _replace(text: str, path: Path, what: str, marks: tuple[str, str], part: str) -> str:
    begin, end = marks
    if text.count(begin) != 1 or text.count(end) != 1 or text.index(begin) > text.index(end):
        raise ReproError(f"{path.name} has no place for the {what}, between {begin} and {end}.")
    before, rest = text.split(begin)
    return f"{before}{begin}\n\n{part}\n\n{end}{rest.split(end)[1]}"


def _render_committed() -> str:
    settled = ledger.load().join(verdicts.load().drop(columns="id"))
    headline = f"{pages.describe_answer(settled, *pages.PAPERS)}\n\n{pages.describe_headline(settled, Study.load())}"
    return render_verdicts(settled, headline)
