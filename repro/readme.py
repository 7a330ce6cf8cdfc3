"""The part of README.md that follows from the verdicts, between two comment marks.

:func:`save` renews it and :func:`check` fails where it no longer follows: `repro claims --write` and `--check`.
"""

import html
import re
from pathlib import Path

import pandas as pd

from repro import files, pages
from repro.errors import ReproError
from repro.plots import VERDICT_MARKS
from repro.study import claims as ledger
from repro.study import verdicts
from repro.study.verdicts import WORDS, Study

BEGIN = "<!-- verdicts, written by `repro claims --write` -->"
END = "<!-- end of verdicts -->"


def render_verdicts(settled: pd.DataFrame, headline: str) -> str:
    """Markdown of the headline and of the verdicts: a row per paper, a column per family of claims.

    ``settled``: claims with their verdicts; ``headline``: a sentence, in which HTML tags are dropped.
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
    return f"{html.unescape(re.sub('<[^>]+>', '', headline))}\n\n{table}\n\n{len(settled)} claims: {key}."


def _count(claims: pd.DataFrame) -> str:
    words = claims["word"].value_counts()
    return "\u2002".join(f"{VERDICT_MARKS[word][1]} {words[word]}" for word in WORDS if word in words)


def save(path: Path | None = None) -> Path:
    """Put the verdicts of results/verdicts.csv into README.md."""
    path = path or files.root() / "README.md"
    text = path.read_text(encoding="utf-8")
    renewed = _renew(text, path)
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


def _renew(text: str, path: Path) -> str:
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise ReproError(f"{path.name} has no place for the verdicts, between {BEGIN} and {END}.")
    before, rest = text.split(BEGIN)
    return f"{before}{BEGIN}\n\n{_render_committed()}\n\n{END}{rest.split(END)[1]}"


def _render_committed() -> str:
    settled = ledger.load().join(verdicts.load().drop(columns="id"))
    return render_verdicts(settled, pages.describe_headline(settled, Study.load()))
