"""Memory of the C library: freed tensors are kept for the next ones."""

import ctypes


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
