"""The one exception whose message is meant for a person at a terminal."""


class ReproError(Exception):
    """Something the user can mend: a missing file, a wrong name, a full disk. The message is one sentence."""
