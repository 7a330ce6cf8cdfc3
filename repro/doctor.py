"""What ``repro doctor`` says about this machine: what there is, what is missing, and what that means."""

import os
import platform
import shutil
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from repro import __version__, files
from repro.errors import ReproError


def examine() -> Iterator[tuple[str, str]]:
    """Pairs (subject, finding), in the order of printing. A finding may have several lines. Raises nothing:
    what is broken is a finding.
    """
    yield "repro", f"{__version__} in {files.root()}"
    yield "Python", f"{platform.python_version()} ({sys.executable}), {platform.platform()}"
    try:
        import torch
    except Exception as error:  # a broken installation fails in many ways
        yield "torch", f"cannot be imported ({_first_line(error)}): nothing of the study runs"
        return
    yield (
        "torch",
        f"{torch.__version__}" + (f", CUDA {torch.version.cuda}" if torch.version.cuda else ", no CUDA"),
    )
    yield "torchvision", _examine_torchvision()
    yield "devices", "\n".join(_devices())
    yield "threads", f"{torch.get_num_threads()} of {os.cpu_count()} processors"
    yield "compiler", _compiler()
    yield "deform_conv2d", "\n".join(_explanations())
    yield "cache", f"{files.cache()}, {_free(files.cache())}"
    yield "results", f"{files.results()}, {_free(files.results())}"
    yield "data sets", "\n".join(_data_sets())
    yield "weights", _weights()


def _examine_torchvision() -> str:
    try:
        import torchvision
        from torchvision.extension import _has_ops

        compiled = "" if _has_ops() else ", without its compiled operators: not used"
        return torchvision.__version__ + compiled
    except Exception as error:  # as for torch; nothing here depends on torchvision
        return f"cannot be imported ({_first_line(error)}): not used"


def _devices() -> Iterator[str]:
    import torch

    from repro.timing import name_processor

    yield f"cpu: {name_processor()}"
    for index in range(torch.cuda.device_count()):
        gpu = torch.cuda.get_device_properties(index)
        yield f"cuda:{index}: {gpu.name}, {gpu.total_memory / 2**30:.0f} GiB, sm_{gpu.major}{gpu.minor}"
    if not torch.cuda.device_count():
        yield "cuda: none"
    if torch.backends.mps.is_available():
        yield "mps: available, not used"


def _compiler() -> str:
    if os.environ.get("CC"):
        return f"{os.environ['CC']} (from CC)"
    if path := shutil.which("cc") or shutil.which("gcc") or shutil.which("clang"):
        return path
    try:
        return f"ziglang {version('ziglang')}, a compiler in a Python package"
    except PackageNotFoundError:
        return "none: install gcc, clang or the Python package ziglang for a fast op on the CPU"


def _explanations() -> Iterator[str]:
    import torch

    from repro import ops

    for device in ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",):
        try:
            yield ops.explain(device)
        except ReproError as error:
            yield f"{device}: {error}"


def _data_sets() -> Iterator[str]:
    from repro.data import catalog

    mirror = os.environ.get("REPRO_DATA")
    yield f"mirror: {mirror}" if mirror else "mirror: none (REPRO_DATA is not set)"
    try:
        found = {name: catalog.locate(name) for name in catalog.DATASETS}
    except (ReproError, OSError) as error:
        yield _reason(error)
        return
    yield f"here: {', '.join(name for name, where in found.items() if where)}"
    yield f"not here: {', '.join(name for name, where in found.items() if not where) or 'none'}"


def _weights() -> str:
    from repro import published, weights

    try:
        own = ", ".join(weights.published()) or "none published yet"
    except OSError as error:
        own = _reason(error)
    try:
        here = [name for name, source in published.SOURCES.items() if published.locate(source)]
    except (ReproError, OSError) as error:
        return f"{own}\n{_reason(error)}"
    return f"{own}\nby other authors, at hand: {', '.join(here) or 'none'} (REPRO_WEIGHTS names a mirror)"


def _free(path: Path) -> str:
    while not os.path.exists(path):  # pathlib's raises where a folder above may not be looked into
        path = path.parent
    writable = "" if os.access(path, os.W_OK) else ", not writable"
    return f"{shutil.disk_usage(path).free / 1e9:.0f} GB free{writable}"


def _reason(error: ReproError | OSError) -> str:
    return f"{error.filename}: {error.strerror}" if isinstance(error, OSError) else str(error)


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
