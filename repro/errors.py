"""The one exception whose message is meant for a person at a terminal."""

from collections.abc import Iterable
from difflib import get_close_matches


class ReproError(Exception):
    """Something the user can mend: a missing file, a wrong name, a full disk. The message is one sentence."""


def unknown_name(kind: str, name: str, known: Iterable[str]) -> ReproError:
    """The error for a name that is none of ``known``: which it may have been, or else all that there are."""
    known = list(known)
    if near := get_close_matches(name, known):
        return ReproError(f"There is no {kind} {name!r}; did you mean {' or '.join(near)}?")
    return ReproError(f"There is no {kind} {name!r}; there are {', '.join(known) or 'none'}.")
