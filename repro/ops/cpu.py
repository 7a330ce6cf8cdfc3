"""The fast CPU path of the deformable convolution: builds ``deform_conv.c`` once per user, hands it pointers.

Nothing here needs a compiler to be imported. The first use looks for one (``$CC``, ``cc``, ``gcc``, ``clang``, the
``ziglang`` wheel), builds in about two seconds and keeps the result in the user's cache, under a name that covers
source, flags, compiler and processor. Two processes that build at once write two temporary files and rename both to
the same name. Without a compiler :func:`available` is false, :func:`why` says so, and the caller takes a slower path.
"""

import atexit
import ctypes
import hashlib
import importlib.util
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from functools import cache as once
from pathlib import Path

import torch
from torch import Tensor

from repro import files
from repro.errors import ReproError

SOURCE = Path(__file__).with_name("deform_conv.c")
_DTYPES = {torch.float32: 0, torch.bfloat16: 1, torch.float64: 2}
_BLOCK_ELEMENTS = 1 << 16  # columns of one block: 256 KiB in float32, a fraction of any recent L2 cache


_NUMBERS = (  # the end of `job` in deform_conv.c, in its order
    "scratch_size", "images", "groups", "group_channels", "cp", "height", "width", "out_height", "out_width", "outputs",
    "kernel_h", "kernel_w", "stride_h", "stride_w", "padding_h", "padding_w", "dilation_h", "dilation_w",
    "block", "parts", "threads", "bands", "image", "need_input", "need_sampling", "need_weight",
)  # fmt: skip


class _Tensor(ctypes.Structure):
    _fields_ = [("data", ctypes.c_void_p)] + [(name, ctypes.c_int64) for name in ("dtype", "n", "c", "h", "w")]


class _Job(ctypes.Structure):
    _fields_ = (
        [(n, _Tensor) for n in ("input", "offset", "mask", "output", "grad_input", "grad_offset", "grad_mask")]
        + [(n, ctypes.c_void_p) for n in ("packed", "grad_packed", "panels", "bias", "grad_weight", "scratch")]
        + [(n, ctypes.c_int64) for n in _NUMBERS]
    )


# ------------------------------------------------------------------------------------------------------- building


def _compilers() -> list[list[str]]:
    named = [shlex.split(os.environ["CC"])] if os.environ.get("CC") else []
    found = [[path] for path in map(shutil.which, ("cc", "gcc", "clang")) if path]
    zig = [[sys.executable, "-m", "ziglang", "cc"]] if importlib.util.find_spec("ziglang") else []
    return named or found + zig


def _flags(real: str) -> list[str]:
    arm = platform.machine() in ("arm64", "aarch64")
    native = ["-mcpu=native"] if arm else ["-march=native", "-mprefer-vector-width=512"]
    # No -ffast-math: a NaN must stay a NaN. These two only promise that nobody reads errno or the exception flags.
    arithmetic = ["-fno-math-errno", "-fno-trapping-math", "-ffp-contract=fast"]
    return ["-O3", "-std=gnu11", *native, *arithmetic, "-Wno-psabi", "-fPIC", "-shared", f"-DREAL={real}"]


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line for line in lines if line.startswith(("flags", "Features")))
    except (OSError, StopIteration):
        return platform.processor()


@once
def _temporary() -> Path:
    """A folder of this process, where the cache cannot be written: a read-only home, a full disk."""
    folder = tempfile.TemporaryDirectory(prefix="repro-ops-")
    atexit.register(folder.cleanup)
    return Path(folder.name)


def _choose_place(name: str) -> Path:
    """Where a library is, or is to be built."""
    kept = files.cache() / "ops" / name
    if kept.exists():
        return kept
    try:
        files.require_writable(kept)
    except ReproError:
        return _temporary() / name
    return kept


def _build(real: str) -> Path:
    """The compiled library for one precision; raises :class:`ReproError` with the reason when there is none.

    It is kept in the cache, or where that cannot be written, in a temporary folder until the process ends.
    """
    flags, failures = _flags(real), []
    for compiler in _compilers():
        key = "\0".join([SOURCE.read_text(), *flags, *compiler, _processor(), platform.machine()])
        library = _choose_place(f"deform_conv-{real}-{hashlib.sha256(key.encode()).hexdigest()[:16]}.so")
        if library.exists():
            return library
        try:
            if shutil.which(compiler[0]) is None:
                raise ReproError("there is no such program")
            with files.write_atomically(library) as temporary:
                subprocess.run(
                    [*compiler, *flags, str(SOURCE), "-o", str(temporary), "-lm", "-lpthread"],
                    check=True, capture_output=True, text=True, timeout=300, stdin=subprocess.DEVNULL,
                )  # fmt: skip
            return library
        except subprocess.CalledProcessError as error:
            lines = (error.stderr or "").strip().splitlines()
            failures.append(f"{compiler[0]} failed ({lines[0] if lines else error.returncode})")
        except (OSError, subprocess.TimeoutExpired, ReproError) as error:
            failures.append(f"{compiler[0]}: {error}")
    raise ReproError("; ".join(failures) or "no C compiler was found (cc, gcc, clang or the ziglang package)")


@once
def _library(real: str) -> ctypes.CDLL:
    library = ctypes.CDLL(str(_build(real)))
    for name in ("forward", "backward"):
        getattr(library, name).argtypes = [ctypes.POINTER(_Job)]
        getattr(library, name).restype = None
    try:  # torch loads its OpenMP runtime for the whole process; sharing its pool keeps two pools from fighting
        pool = ctypes.cast(ctypes.CDLL(None).GOMP_parallel, ctypes.c_void_p)
    except AttributeError:
        pool = None  # macOS, for example: the kernel then starts POSIX threads of its own
    library.use_openmp.argtypes = [ctypes.c_void_p]
    library.use_openmp(pool)
    return library


@once
def _failure() -> str:
    """Why the float32 library cannot be had; empty when it can."""
    try:
        _library("float")
    except (ReproError, OSError) as error:
        return str(error)
    return ""


def available() -> bool:
    """Whether the compiled kernel can be used (the first call may build it)."""
    return not _failure()


def why() -> str:
    """One sentence for `repro doctor`."""
    if _failure():
        return f"The compiled CPU kernel is not available: {_failure()}."
    return f"Compiled CPU kernel, {torch.get_num_threads()} threads ({_build('float')})."


# -------------------------------------------------------------------------------------------------------- calling


def _describe(t: Tensor | None, flat: bool = False) -> _Tensor:
    if t is None:
        return _Tensor()
    n, c, h, w = t.stride()
    return _Tensor(t.data_ptr(), _DTYPES[t.dtype], n, c, 0 if flat else h, w)


def _plain(t: Tensor, flat: bool = False) -> Tensor:
    """``t`` in a dtype the kernel reads and, where ``flat``, with one stride over all its positions."""
    if t.dtype not in _DTYPES:
        t = t.float()
    height, width = t.shape[2:]
    walks = t.stride(2) == width * t.stride(3) or height == 1
    if flat and width == 1 and height > 1:  # the stride of a single column says nothing
        return t.contiguous()
    return t if walks or not flat else t.contiguous()


class _Call:
    """Everything the two passes share: sizes, the job structure, buffers that live until the kernel returns."""

    def __init__(self, input, offset, mask, weight, stride, padding, dilation, out_size):
        self.real = torch.float64 if input.dtype == torch.float64 else torch.float32
        self.lanes = 64 // self.real.itemsize
        self.outputs, per_conv_group, self.kernel_h, self.kernel_w = weight.shape
        self.taps = self.kernel_h * self.kernel_w
        self.groups = offset.shape[1] // (2 * self.taps)
        images, channels, height, width = input.shape
        self.conv_groups = channels // per_conv_group
        self.group_channels = channels // self.groups
        self.cp = -(-self.group_channels // 4) * 4
        self.columns = self.groups * self.taps * self.cp
        if self.groups * (height + 3) * (width + 2) >= 2**31:  # the kernel's place of a pixel has 32 bits
            raise ValueError("input must have fewer than 2^31 pixels in an image, times the number of deform groups.")
        self.packed_size = self.groups * (height + 3) * (width + 2) * self.cp
        self.weight, self.channels = weight, channels
        self.threads = torch.get_num_threads()
        self.kept = [_plain(input), _plain(offset, True), None if mask is None else _plain(mask, True)]
        positions = out_size[0] * out_size[1]
        fits = max(_BLOCK_ELEMENTS // self.columns, 1)
        block = min(-(-fits // 24) * 24, 192, -(-positions // 24) * 24)
        self.job = _Job(
            input=_describe(self.kept[0]), offset=_describe(self.kept[1], True), mask=_describe(self.kept[2], True),
            images=images, groups=self.groups, group_channels=self.group_channels, cp=self.cp,
            height=height, width=width, out_height=out_size[0], out_width=out_size[1], outputs=self.outputs,
            kernel_h=self.kernel_h, kernel_w=self.kernel_w, stride_h=stride[0], stride_w=stride[1],
            padding_h=padding[0], padding_w=padding[1], dilation_h=dilation[0], dilation_w=dilation[1],
            block=block, threads=self.threads,
        )  # fmt: skip
        self.job.packed = self.buffer(images * self.packed_size)
        taps = -(-self.groups * self.taps // 16) * 16
        self.plan_size = 11 * taps + 3 * block * self.groups * self.taps + 32

    def buffer(self, size: int, zero: bool = False) -> int:
        """The address of ``size`` numbers that stay alive as long as this call."""
        self.kept.append((torch.zeros if zero else torch.empty)(max(size, 1), dtype=self.real))
        return self.kept[-1].data_ptr()

    def scratch(self, parts: int, size: int) -> None:
        size = -(-(self.plan_size + size) // 16) * 16
        self.job.parts, self.job.scratch_size = parts, size
        self.job.scratch = self.buffer(parts * size)

    def matrix(self) -> Tensor:
        """The weights as [outputs, columns]; convolution groups become blocks of a matrix with zeros elsewhere."""
        w = self.weight.to(self.real)
        if self.conv_groups > 1:
            dense = w.new_zeros(self.outputs, self.channels, self.kernel_h, self.kernel_w)
            for rows, columns in self.blocks():
                dense[rows, columns] = w[rows]
            w = dense
        w = w.reshape(self.outputs, self.groups, self.group_channels, self.taps).transpose(2, 3)
        w = torch.nn.functional.pad(w, (0, self.cp - self.group_channels))
        return w.reshape(self.outputs, self.columns)

    def unmatrix(self, w: Tensor) -> Tensor:
        """The inverse of :meth:`matrix`, for the gradient of the weights."""
        w = w.reshape(self.outputs, self.groups, self.taps, self.cp)[..., : self.group_channels]
        w = w.transpose(2, 3).reshape(self.outputs, self.channels, self.kernel_h, self.kernel_w)
        if self.conv_groups > 1:
            w = torch.cat([w[rows, columns] for rows, columns in self.blocks()])
        return w.to(self.weight.dtype)

    def blocks(self):
        rows, columns = self.outputs // self.conv_groups, self.channels // self.conv_groups
        return [
            (slice(g * rows, (g + 1) * rows), slice(g * columns, (g + 1) * columns)) for g in range(self.conv_groups)
        ]

    def panels(self, matrix: Tensor, width: int) -> None:
        """``matrix`` [depth, n], cut in panels of ``width`` columns, each contiguous, the last padded with zeros."""
        depth, n = matrix.shape
        count = -(-n // width)
        buffer = (torch.empty if n == count * width else torch.zeros)(count, depth, width, dtype=self.real)
        whole = n // width
        if whole:
            buffer[:whole].copy_(matrix[:, : whole * width].reshape(depth, whole, width).transpose(0, 1))
        if whole < count:
            buffer[whole, :, : n - whole * width].copy_(matrix[:, whole * width :])
        self.kept.append(buffer)
        self.job.panels = buffer.data_ptr()

    def run(self, name: str) -> None:
        getattr(_library("double" if self.real == torch.float64 else "float"), name)(ctypes.byref(self.job))


def _like(t: Tensor, dtype: torch.dtype) -> Tensor:
    """Memory for a result shaped like ``t``, channels-last where ``t`` is."""
    last = t.stride(1) == 1 and t.shape[1] > 1
    return torch.empty(t.shape, dtype=dtype, memory_format=torch.channels_last if last else torch.contiguous_format)


def _writable(dtype: torch.dtype) -> torch.dtype:
    return dtype if dtype in _DTYPES else torch.float32


def forward(
    input: Tensor,
    offset: Tensor,
    mask: Tensor | None,
    weight: Tensor,
    bias: Tensor | None,
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
) -> Tensor:
    """The output [N, O, Ho, Wo] in the dtype of ``input``, channels-last where ``input`` is. Checks nothing."""
    out_h, out_w = offset.shape[2:]
    result = torch.empty(
        (input.shape[0], weight.shape[0], out_h, out_w),
        dtype=_writable(input.dtype),
        memory_format=torch.channels_last if input.stride(1) == 1 and input.shape[1] > 1 else torch.contiguous_format,
    )
    if result.numel() == 0:
        return result.to(input.dtype)
    call = _Call(input, offset, mask, weight, stride, padding, dilation, (out_h, out_w))
    wide = -(-call.outputs // (2 * call.lanes)) * 2 * call.lanes
    padded = torch.zeros(wide, dtype=call.real)
    if bias is not None:
        padded[: call.outputs] = bias
    call.kept.append(padded)
    call.job.bias = padded.data_ptr()
    call.panels(call.matrix().t(), 2 * call.lanes)
    call.job.output = _describe(result, True)
    blocks = call.job.images * -(-out_h * out_w // call.job.block)
    call.scratch(min(4 * call.threads, blocks), call.job.block * (call.columns + wide))
    call.run("forward")
    return result.to(input.dtype)


def backward(
    grad_output: Tensor,
    input: Tensor,
    offset: Tensor,
    mask: Tensor | None,
    weight: Tensor,
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
    needs: tuple[bool, bool, bool, bool, bool] = (True,) * 5,
) -> tuple[Tensor | None, ...]:
    """Gradients of input, offset, mask, weight and bias; ``None`` for those that ``needs`` does not ask for."""
    out_h, out_w = offset.shape[2:]
    need_input, need_offset, need_mask, need_weight, need_bias = needs
    need_mask = need_mask and mask is not None
    grad_bias = grad_output.sum((0, 2, 3)) if need_bias else None
    if not (need_input or need_offset or need_mask or need_weight):
        return None, None, None, None, grad_bias
    grad_input = _like(input, _writable(input.dtype))
    grad_offset = _like(offset, _writable(offset.dtype))
    grad_mask = None if mask is None else _like(mask, _writable(mask.dtype))
    if grad_output.numel() == 0 or input.numel() == 0:
        grad_weight = torch.zeros_like(weight)
        for t in (grad_input, grad_offset, grad_mask):
            if t is not None:
                t.zero_()
    else:
        call = _Call(input, offset, mask, weight, stride, padding, dilation, (out_h, out_w))
        job, threads = call.job, call.threads
        # Whole images where they divide well among the threads; otherwise every image is shared, at the price of one
        # copy of its gradient per thread.
        shared = job.images % threads != 0 and job.images < 4 * threads
        job.bands = threads if shared else 1
        parts = threads if shared else min(threads, job.images)
        tall = -(-call.outputs // 8) * 8
        pitch = -(-call.columns // (3 * call.lanes)) * 3 * call.lanes
        call.panels(call.matrix(), 3 * call.lanes)
        job.grad_packed = call.buffer(parts * call.packed_size)
        gradient = torch.zeros(parts, tall, pitch, dtype=call.real)
        job.grad_weight = gradient.data_ptr()
        grad = _plain(grad_output, True)
        job.output, job.grad_input = _describe(grad, True), _describe(grad_input)
        job.grad_offset, job.grad_mask = _describe(grad_offset, True), _describe(grad_mask, True)
        job.need_input, job.need_sampling, job.need_weight = need_input, need_offset or need_mask, need_weight
        taps = call.groups * call.taps
        call.scratch(parts, job.block * (2 * pitch + tall + 3 * taps) + 4 * taps + 32)
        call.run("backward")
        grad_weight = call.unmatrix(gradient.sum(0)[: call.outputs, : call.columns]) if need_weight else None
    return (
        grad_input.to(input.dtype) if need_input else None,
        grad_offset.to(offset.dtype) if need_offset else None,
        grad_mask.to(mask.dtype) if need_mask else None,
        grad_weight if need_weight else None,
        grad_bias,
    )
