"""The one exception whose message is meant for a person at a terminal, and warnings that are."""

import sys
from collections.abc import Iterable
from difflib import get_close_matches

SUGGESTED = 5  # names in an error, at most, where some are near


class ReproError(Exception):
    """Something the user can mend: a missing file, a wrong name, a full disk. The message is one sentence."""


def unknown_name(kind: str, name: str, known: Iterable[str]) -> ReproError:
    """The error for a name that is none of ``known``: which it may have been, or else all that there are.

    It may have been one in other letters, one that begins with it, or one that is spelt alike.
    """
    known = list(known)
    wanted = name.casefold()
    begun = sorted((other for other in known if wanted and other.casefold().startswith(wanted)), key=len)
    if near := begun or get_close_matches(name, known):
        more = f" or another of {len(near)}" if len(near) > SUGGESTED else ""
        return ReproError(f"There is no {kind} {name!r}; did you mean {' or '.join(near[:SUGGESTED])}{more}?")
    return ReproError(f"There is no {kind} {name!r}; there are {', '.join(known) or 'none'}.")


def warn(sentence: str) -> None:
    """Say on stderr what is no error, but may surprise; ``sentence`` comes without its full stop."""
    print(f"Warning: {sentence}.", file=sys.stderr, flush=True)
