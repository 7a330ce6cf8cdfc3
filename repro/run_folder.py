"""The folder of a run: whose it is, whether the run is finished, and what a kill left in it.

``config.json``, ``checkpoint.safetensors`` (and the one before it), ``curve.csv``, and at the end
``weights.safetensors`` and ``summary.json``.
"""

import csv
import json
from dataclasses import asdict, fields
from itertools import takewhile
from pathlib import Path

from repro.checkpoint import NAME as CHECKPOINT
from repro.checkpoint import newest_checkpoint
from repro.errors import ReproError, warn
from repro.files import write_atomically
from repro.train_config import NEWER_SETTINGS, TrainConfig
from repro.weights import load

WEIGHTS, SUMMARY = "weights.safetensors", "summary.json"


def require_no_others_files(folder: Path) -> None:
    """Raise a ReproError where the folder has files by the names that a run writes, and they are of no run.

    Files by other names are nobody's business.
    """
    written = ("config.json", "curve.csv", SUMMARY, "[!.]*.safetensors")
    held = [path.name for pattern in written for path in folder.glob(pattern)]
    if not held or _read_settings(folder) is not None:
        return
    if held[0] == "config.json":
        raise ReproError(f"{folder} holds a config.json that is of no run; choose another folder.")
    raise ReproError(f"{folder} holds {held[0]} and no readable config.json; choose another folder.")


def _read_settings(folder: Path) -> dict | None:
    """What the config.json of a run says; None where there is none, or one that no run has written."""
    try:
        found = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    named = {f.name for f in fields(TrainConfig)} - NEWER_SETTINGS
    return found if isinstance(found, dict) and named <= found.keys() else None


def _holds_weights(folder: Path) -> bool:
    """Whether there is more to lose than a configuration and a curve: the first attempt had a typing error, perhaps."""
    return any(folder.glob("[!.]*.safetensors"))


def require_same_settings(folder: Path, config: TrainConfig) -> None:
    """Raise a ReproError where the folder has checkpoints or weights of a run with other settings."""
    if not _holds_weights(folder):
        return
    ours, theirs = json.loads(json.dumps(asdict(config))), _read_settings(folder) or {}
    theirs = json.loads(json.dumps(asdict(TrainConfig(steps=1)))) | theirs  # what it is older than had its default
    different = [name for name in {**ours, **theirs} if ours.get(name) != theirs.get(name)]
    if different:
        there = ", ".join(f"{name} {theirs.get(name)!r} instead of {ours.get(name)!r}" for name in different)
        raise ReproError(f"{folder} holds a run with other settings ({there}); choose another folder.")


def is_finished(folder: Path, speaks: bool) -> bool:
    """Whether final weights and summary are there, and the weights are whole.

    Damaged ones are said, by the one that ``speaks``; a ReproError where no checkpoint is there to write them anew
    from: who began anew would train for hours unasked.
    """
    path = folder / WEIGHTS
    if not (path.exists() and (folder / SUMMARY).exists()):  # the last that is written
        return False
    try:
        load(path)
    except ReproError as error:
        if newest_checkpoint(folder) is None:
            raise ReproError(
                f"{str(error).removesuffix('.')}, and no checkpoint is there to write it anew from; delete it to train "
                f"again, or choose another folder."
            ) from error
        if speaks:
            warn(f"{str(error).removesuffix('.')}; it is written anew from the newest checkpoint")
        return False
    return True


def sweep_up(folder: Path) -> None:
    """Remove what a kill left half-written."""
    for name in (CHECKPOINT, "config.json", "curve.csv", SUMMARY, WEIGHTS):  # what is written here, and nobody else's
        for leftover in folder.glob(f".{Path(name).stem}-{8 * '?'}{Path(name).suffix}"):
            leftover.unlink()


def claim(folder: Path, config: TrainConfig) -> None:
    """Make the folder this run's."""
    sweep_up(folder)
    if not _holds_weights(folder):
        write_json(folder / "config.json", json.loads(json.dumps(asdict(config))))


def append(path: Path, row: dict) -> None:
    new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, list(row), lineterminator="\n")
        if new:
            writer.writeheader()
        writer.writerow(row)


def truncate(path: Path, step: int) -> None:
    """Drop the rows after ``step``, and all from one on that was not written as a whole; where the run begins, the
    file."""
    if not path.exists():
        return
    header, *rows = path.read_text().splitlines(keepends=True) or [""]
    if step == 0 or not header.endswith("\n"):
        path.unlink()
        return
    whole = takewhile(lambda row: row.endswith("\n") and row.split(",")[0].isdigit(), rows)
    kept = [row for row in whole if int(row.split(",")[0]) <= step]
    if kept != rows:
        with write_atomically(path) as temporary:
            temporary.write_text("".join([header, *kept]))


def write_json(path: Path, content: dict) -> None:
    with write_atomically(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n")
