"""Memory of the C library: freed tensors are kept for the next ones."""

import ctypes
import gc
import resource
import sys
from contextlib import suppress
from pathlib import Path


def keep_freed_memory() -> None:
    """Tell glibc, for the rest of this process, to reuse freed memory rather than hand it back to the kernel.

    Every training step and every image frees and asks again for tensors of tens of MiB. Fresh pages for them cost
    SADNet 110,000 page faults a step and 10 % of its time on a CPU, and far more on a virtual machine whose host hands
    out memory lazily. The price is that a process never shrinks.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:  # other C libraries do without
        trim_threshold, mmap_max = -1, -4  # names of glibc's malloc.h
        mallopt(trim_threshold, 2**31 - 1)
        mallopt(mmap_max, 0)


def begin_peak() -> None:
    """Forget the memory that this process took before: :func:`measure_peak_mib` counts from here.

    Freed memory goes back to the kernel once, or a large task would leave its peak to all that follow it. Where the
    kernel is no Linux, nothing is forgotten.
    """
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def measure_peak_mib() -> int:
    """Largest resident memory of this process since :func:`begin_peak`, in MiB."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) >> 10
    except (OSError, StopIteration):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> (20 if sys.platform == "darwin" else 10)
