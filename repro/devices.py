"""Where networks run: the one rule for commands, training and campaigns."""

import re

import torch

from repro.errors import ReproError


def choose(name: str = "auto") -> str:
    """The device called ``name``: "cpu", "cuda", "cuda:1", or "auto": cuda where there is one, else cpu, never mps.

    Raises :class:`ReproError` for another name, and for a device that is not there.
    """
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if not re.fullmatch(r"cpu|cuda(:\d+)?", name):
        raise ReproError(f"There is no device {name!r}; choose cpu, cuda or auto.")
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:  # AssertionError: a torch without CUDA
        raise ReproError(f"There is no device {name!r} here: {str(error).splitlines()[0].rstrip('.')}.") from None
    return name
