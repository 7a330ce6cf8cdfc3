"""The resume state of a training run: tensors and a few facts in one safetensors file, with a checksum.

Two generations are kept, ``checkpoint.safetensors`` and ``checkpoint-previous.safetensors``: if the newest
turns out to be damaged, the run goes back to the one before.
"""

import hashlib
import json
from pathlib import Path

import safetensors.torch
from torch import Tensor

from repro.errors import ReproError, warn
from repro.files import write_atomically
from repro.weights import checksum

NAME = "checkpoint.safetensors"


def write_checkpoint(folder: Path, tensors: dict[str, Tensor], facts: dict) -> None:
    """Write tensors and facts (whatever JSON can hold); what was the newest becomes the previous one.

    A kill at any moment leaves at least one whole checkpoint. A full disk raises ``ReproError`` and leaves
    the old.
    """
    path = folder / NAME
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    text = json.dumps(facts)
    content = safetensors.torch.save(tensors, {"facts": text, "sha256": _seal(tensors, text)})
    with write_atomically(path) as temporary:
        temporary.write_bytes(content)
        if path.exists() and _is_intact(path):  # a damaged one would take the place of a good one
            path.replace(previous(path))


def read_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict]:
    """Tensors and facts of one file. ``ValueError`` says how it is damaged."""
    try:
        with safetensors.safe_open(path, "pt") as opened:
            metadata = opened.metadata()
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 (not a mapping)
        intact = metadata["sha256"] == _seal(tensors, metadata["facts"])
    except (safetensors.SafetensorError, KeyError, TypeError) as error:
        raise ValueError(str(error)) from error
    if not intact:
        raise ValueError("its checksum does not fit")
    return tensors, json.loads(metadata["facts"])


def _is_intact(path: Path) -> bool:
    try:
        read_checkpoint(path)
    except (OSError, ValueError):
        return False
    return True


def newest_checkpoint(folder: Path) -> tuple[dict[str, Tensor], dict] | None:
    """The newest undamaged checkpoint in ``folder``, or None where there is none at all.

    A damaged one is passed over with a warning. Where nothing else is left, a ``ReproError``: who began anew would
    write over what may be mended.
    """
    damaged = []
    for path in (folder / NAME, previous(folder / NAME)):
        try:
            found = read_checkpoint(path)
        except FileNotFoundError:
            continue
        except ValueError as error:
            damaged.append(f"{path} is damaged ({error})")
            continue
        for sentence in damaged:
            warn(f"{sentence}; an earlier state is used")
        return found
    if damaged:
        raise ReproError(f"{' and '.join(damaged)}; to begin anew, delete what is damaged or choose another folder.")
    return None


def previous(path: Path) -> Path:
    """Where the generation before ``path`` is kept."""
    return path.with_stem(path.stem + "-previous")


def _seal(tensors: dict[str, Tensor], text: str) -> str:
    return hashlib.sha256(f"{checksum(tensors)} {text}".encode()).hexdigest()
