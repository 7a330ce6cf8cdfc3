"""The CUDA path of the deformable convolution: compiles ``deform_conv.cu`` at first use, multiplies.

Neither nvcc nor a host compiler is needed: NVRTC comes with torch's CUDA wheels, the ``cuda-core`` package
calls it and launches on torch's current stream. A compilation takes half a second per element type and is
kept in the user's cache, under a name that covers source, architecture and compiler.

Output = columns · weight. The columns, sampled by ``deform_conv.cu``, are made for so many positions at a
time that they fill at most ``COLUMN_BYTES``; the product is ``torch.mm``, so tensor cores and torch's TF32
setting apply. All work is queued; nothing waits for the device.

Under ``torch.use_deterministic_algorithms(True)`` the gradient of the input is summed in whole numbers, whose
sum does not depend on the order: the same bits every time, at less speed. All else always has one order.
"""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cache as once
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from repro import files
from repro.errors import ReproError

SOURCE = Path(__file__).with_name("deform_conv.cu")
COLUMN_BYTES = 256 << 20
_KINDS = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2, torch.float64: 3}
_THREADS, _SLOTS = 256, 640  # as in the source
_ENOUGH_BLOCKS = 1024  # several for each multiprocessor of the largest GPU
_INT_MAX = 2**31 - 1

# launch(kernel, dtype, vector, blocks, arguments): the tests give one that runs the same source on the CPU.
Launch = Callable[[str, torch.dtype, int, tuple[int, int], tuple[int, ...]], None]


# --- compilation ---


def compile(arch: str, dtype: torch.dtype = torch.float32, vector: int = 4, *, anew: bool = False) -> bytes:
    """Machine code (a cubin) of both kernels for ``arch`` ("sm_90"). Works without a GPU.

    ``vector`` is the number of channels a thread moves at once: a power of two up to 16 bytes. What an earlier process
    compiled is read from the cache, but not where ``anew`` is asked for. Raises ReproError where cuda-core or NVRTC is
    missing, or where NVRTC does not know the architecture.
    """
    core, nvrtc = _import("cuda.core"), _import("cuda.bindings.nvrtc")
    source = SOURCE.read_text()
    try:
        version = nvrtc.nvrtcVersion()[1:]
        key = repr((source, arch, dtype, vector, version))
        name = f"deform_conv-{arch}-{dtype}-{vector}-{hashlib.sha256(key.encode()).hexdigest()[:16]}.cubin"
        kept = files.cache() / "ops" / name
        if kept.exists() and not anew:
            return kept.read_bytes()
        macros = [("SCALAR", str(_KINDS[dtype])), ("VECTOR", str(vector))]
        options = core.ProgramOptions(name=SOURCE.name, arch=arch, std="c++17", define_macro=macros)
        code = bytes(core.Program(source, "c++", options).compile("cubin").code)
    except Exception as error:  # every package below has exceptions of its own, none of them public
        raise ReproError(f"NVRTC could not compile {SOURCE.name} for {arch}: {_first_line(error)}") from error
    with suppress(ReproError), files.write_atomically(kept) as temporary:
        temporary.write_bytes(code)  # where the cache cannot be written, the next process compiles again
    return code


def _import(name: str):
    try:
        return import_module(name)
    except ImportError as error:
        raise ReproError(f"The package cuda-core is missing or broken ({error}).") from error


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


@once
def _arch(device: int) -> str:
    major, minor = torch.cuda.get_device_capability(device)
    return f"sm_{major}{minor}"


@once
def _load(arch: str, dtype: torch.dtype, vector: int):
    """The two kernels by name; usable on every device of this architecture."""
    core = _import("cuda.core")

    def find(code: bytes) -> dict:
        library = core.ObjectCode.from_cubin(code, name=SOURCE.name)
        return {name: library.get_kernel(name) for name in ("sample_columns", "spread_gradients")}

    try:
        return find(compile(arch, dtype, vector))
    except ReproError:
        raise
    except Exception:  # a damaged file in the cache, for example
        return find(compile(arch, dtype, vector, anew=True))


@once
def _failure() -> str:
    """Why no kernel can run here; empty where one can."""
    if torch.version.cuda is None:
        return "this torch was built without CUDA"
    if not torch.cuda.is_available():
        return "torch finds no NVIDIA GPU"
    try:
        _load(_arch(torch.cuda.current_device()), torch.float32, 4)
    except ReproError as error:
        return str(error).rstrip(".")
    except Exception as error:  # the driver's refusal of the machine code, for example
        return f"the driver does not load the compiled kernel: {_first_line(error)}"
    return ""


def available() -> bool:
    """Whether the kernels can run: a GPU, cuda-core and NVRTC are here (the first call compiles)."""
    return not _failure()


def why() -> str:
    """One sentence for `repro doctor`."""
    if _failure():
        return f"The CUDA kernel is not available: {_failure()}."
    device = torch.cuda.current_device()
    return f"CUDA kernel compiled by NVRTC for {_arch(device)} ({torch.cuda.get_device_name(device)})."


def _launch(kernel: str, dtype: torch.dtype, vector: int, blocks: tuple[int, int], arguments: tuple[int, ...]) -> None:
    core = _import("cuda.core")
    device = torch.cuda.current_device()
    core.Device(device).set_current()  # a fresh thread, such as autograd's, starts without a context
    stream = _stream(torch.cuda.current_stream().cuda_stream)
    config = core.LaunchConfig(grid=blocks, block=_THREADS)
    core.launch(stream, config, _load(_arch(device), dtype, vector)[kernel], *arguments)


@once
def _stream(handle: int):
    core = _import("cuda.core")
    return core.Stream.from_handle(handle) if handle else core.LEGACY_DEFAULT_STREAM


# --- geometry ---


class _Geometry(NamedTuple):
    """The numbers that both kernels take, in their order; their meaning stands in the source."""

    positions: int
    first: int
    height: int
    width: int
    channels: int
    out_width: int
    out_plane: int
    kernel_width: int
    taps: int
    stride_y: int
    stride_x: int
    padding_y: int
    padding_x: int
    dilation_y: int
    dilation_x: int
    deform_groups: int
    conv_channels: int
    offset_kind: int
    offset_channel: int
    offset_pixel: int
    mask_kind: int
    mask_channel: int
    mask_pixel: int
    tile_positions: int
    tile_groups: int
    block_taps: int
    lanes: int


class _Chunk(NamedTuple):
    """Output positions that are worked on at a time: of several whole images, or of a part of one."""

    image: int
    images: int
    first: int
    positions: int


class _Call:
    """What forward and backward share: the tensors in the order the kernels read, sizes, launching."""

    def __init__(self, launch: Launch, input, offset, mask, weight, stride, padding, dilation):
        self.launch, self.dtype = launch, input.dtype
        self.real = torch.float64 if input.dtype == torch.float64 else torch.float32
        self.pixels = _rows(input)  # [N, H, W, C]
        self.offset, self.mask = _settle(offset), None if mask is None else _settle(mask)
        self.images, self.height, self.width, self.channels = self.pixels.shape
        self.outputs, conv_channels, kernel_height, kernel_width = weight.shape
        self.groups, self.taps = self.channels // conv_channels, kernel_height * kernel_width
        self.out_size = offset.shape[2:]
        self.plane = self.out_size.numel()
        deform_groups = offset.shape[1] // (2 * self.taps)
        group_channels = self.channels // deform_groups
        self.vector = _vector(input.dtype, group_channels, conv_channels)
        # [groups, outputs of a group, taps · channels of a group], the order of the columns
        matrix = weight.reshape(self.groups, self.outputs // self.groups, conv_channels, self.taps)
        self.matrix = matrix.transpose(2, 3).flatten(2)
        if max(self.height * self.width, self.plane) > _INT_MAX:
            raise ValueError("input must have fewer than 2^31 pixels in an image, and so must the output.")
        vectors = group_channels // self.vector
        tile_groups = min(deform_groups, 64)
        offset_steps, mask_steps = _steps(self.offset), (0, 0) if mask is None else _steps(self.mask)
        self.geometry = _Geometry(
            positions=0, first=0, height=self.height, width=self.width, channels=self.channels,
            out_width=self.out_size[1], out_plane=self.plane, kernel_width=kernel_width, taps=self.taps,
            stride_y=stride[0], stride_x=stride[1], padding_y=padding[0], padding_x=padding[1],
            dilation_y=dilation[0], dilation_x=dilation[1],
            deform_groups=deform_groups, conv_channels=conv_channels,
            offset_kind=_KINDS[offset.dtype], offset_channel=offset_steps[0], offset_pixel=offset_steps[1],
            mask_kind=0 if mask is None else _KINDS[mask.dtype],
            mask_channel=mask_steps[0], mask_pixel=mask_steps[1],
            tile_positions=min(_power_of_two(_SLOTS // (tile_groups | 1)), _THREADS),
            tile_groups=tile_groups, block_taps=self.taps, lanes=min(_power_of_two(vectors), 32),
        )  # fmt: skip

    def chunks(self) -> Iterator[_Chunk]:
        """All output positions, in pieces whose columns stay below COLUMN_BYTES."""
        row_bytes = self.channels * self.taps * self.pixels.element_size()
        most = min(max(COLUMN_BYTES // row_bytes, 1), _INT_MAX - self.plane)
        if most >= self.plane:
            step = most // self.plane
            for image in range(0, self.images, step):
                images = min(step, self.images - image)
                yield _Chunk(image, images, 0, images * self.plane)
        else:
            for image in range(self.images):
                for first in range(0, self.plane, most):
                    yield _Chunk(image, 1, first, min(most, self.plane - first))

    def rows(self, chunk: _Chunk) -> slice:
        """The chunk's place among the positions of all images."""
        start = chunk.image * self.plane + chunk.first
        return slice(start, start + chunk.positions)

    def columns(self, chunk: _Chunk) -> Tensor:
        return self.pixels.new_empty(chunk.positions, self.channels * self.taps)

    def sample(self, chunk: _Chunk) -> Tensor:
        """Columns of one chunk: [positions, groups · taps · channels of a group]."""
        columns = self.columns(chunk)
        self.run("sample_columns", chunk, *self.sources(chunk), columns.data_ptr())
        return columns

    def sources(self, chunk: _Chunk) -> tuple[int, int, int]:
        return tuple(_address(tensor, chunk.image) for tensor in (self.pixels, self.offset, self.mask))

    def run(self, kernel: str, chunk: _Chunk, *arguments: int) -> None:
        """Launches with tiles small enough, and taps spread over blocks, to keep a large GPU busy."""
        tile, taps = self.geometry.tile_positions, self.taps
        if -(-chunk.positions // tile) < _ENOUGH_BLOCKS:
            taps = 1
        while tile > 16 and -(-chunk.positions // tile) * -(-self.taps // taps) < _ENOUGH_BLOCKS:
            tile //= 2
        geometry = self.geometry._replace(
            positions=chunk.positions, first=chunk.first, tile_positions=tile, block_taps=taps
        )
        blocks = -(-chunk.positions // tile), -(-self.taps // taps)
        self.launch(kernel, self.dtype, self.vector, blocks, (*arguments, *geometry))


def _rows(t: Tensor) -> Tensor:
    """[N, C, H, W] as contiguous [N, H, W, C]; no copy where it is channels_last and begins where a vector may."""
    rows = t.permute(0, 2, 3, 1).contiguous()
    return rows if rows.data_ptr() % 16 == 0 else rows.clone()


def _settle(t: Tensor) -> Tensor:
    """Offset or mask in one of the two layouts that the kernels read."""
    return t if t.is_contiguous() or t.is_contiguous(memory_format=torch.channels_last) else t.contiguous()


def _steps(t: Tensor) -> tuple[int, int]:
    """Elements between neighbouring channels, and between neighbouring pixels."""
    return (t.shape[2] * t.shape[3], 1) if t.is_contiguous() else (1, t.shape[1])


def _like(t: Tensor) -> Tensor:
    """An empty tensor that `_steps` describes as it does ``t``."""
    layout = torch.contiguous_format if t.is_contiguous() else torch.channels_last
    return torch.empty(t.shape, dtype=t.dtype, device=t.device, memory_format=layout)


def _address(t: Tensor | None, image: int) -> int:
    return 0 if t is None else t.data_ptr() + image * t[0].numel() * t.element_size()


def _vector(dtype: torch.dtype, *channels: int) -> int:
    """Channels per access: at most 16 bytes, and a divisor of each number in ``channels``."""
    vector = 16 // dtype.itemsize
    while any(count % vector for count in channels):
        vector //= 2
    return vector


def _power_of_two(limit: int) -> int:
    """The largest one not above ``limit``."""
    return 1 << (limit.bit_length() - 1)


# --- forward, backward ---


def forward(input, offset, mask, weight, bias, stride, padding, dilation) -> Tensor:
    """Shapes as in :func:`repro.ops.deform_conv2d`; geometry in pairs (y, x). No autograd inside.

    The result is laid out channels_last. ``offset`` and ``mask`` may be of another floating type than
    ``input``; sums are kept in float32 (float64 for float64).
    """
    with torch.cuda.device(input.device):
        return _forward(_launch, input, offset, mask, weight, bias, stride, padding, dilation)


def backward(grad_output, input, offset, mask, weight, stride, padding, dilation, needs) -> tuple[Tensor | None, ...]:
    """Gradients of input, offset, mask, weight and bias, each in its tensor's type; None where not needed."""
    with torch.cuda.device(input.device):
        return _backward(_launch, grad_output, input, offset, mask, weight, stride, padding, dilation, needs)


@torch.no_grad()
def _forward(launch: Launch, input, offset, mask, weight, bias, stride, padding, dilation) -> Tensor:
    call = _Call(launch, input, offset, mask, weight, stride, padding, dilation)
    output = input.new_empty(call.images * call.plane, call.outputs)
    for chunk in call.chunks():
        columns, target = call.sample(chunk), output[call.rows(chunk)]
        if call.groups > 1:
            product = torch.bmm(_split(columns, call.groups), call.matrix.mT)  # [groups, positions, outputs]
            target.view(len(target), call.groups, -1).copy_(product.transpose(0, 1))
        elif bias is None:
            torch.mm(columns, call.matrix[0].mT, out=target)
        else:
            torch.addmm(bias, columns, call.matrix[0].mT, out=target)
    if bias is not None and call.groups > 1:
        output += bias
    return output.view(call.images, *call.out_size, call.outputs).permute(0, 3, 1, 2)


@torch.no_grad()
def _backward(
    launch: Launch, grad_output, input, offset, mask, weight, stride, padding, dilation, needs
) -> tuple[Tensor | None, ...]:
    need_input, need_offset, need_mask, need_weight, need_bias = needs
    need_mask = need_mask and mask is not None
    call = _Call(launch, input, offset, mask, weight, stride, padding, dilation)
    grad_rows = _rows(grad_output).view(call.images * call.plane, call.outputs)
    grad_pixels = torch.zeros_like(call.pixels, dtype=call.real) if need_input else None
    grad_offset = _like(call.offset) if need_offset else None
    grad_mask = _like(call.mask) if need_mask else None
    grad_matrix = torch.zeros_like(call.matrix, dtype=call.real) if need_weight else None
    exact = need_input and torch.are_deterministic_algorithms_enabled()
    for chunk in call.chunks() if need_input or need_offset or need_mask or need_weight else ():
        part = grad_rows[call.rows(chunk)]
        if need_input or need_offset or need_mask:
            columns = _grad_columns(call, part)
            fixed, scale = _whole_numbers(call, chunk, columns) if exact else (None, None)
            call.run(
                "spread_gradients", chunk, *call.sources(chunk), columns.data_ptr(), int(need_weight),
                *(_address(grad, chunk.image) for grad in (grad_offset, grad_mask, grad_pixels)),
                *(0 if t is None else t.data_ptr() for t in (fixed, scale)),
            )  # fmt: skip
            if exact:
                images = slice(chunk.image, chunk.image + chunk.images)
                grad_pixels[images] += (fixed.double() / scale).to(call.real)
        else:
            columns = call.sample(chunk)
        if need_weight:
            grad_matrix += torch.bmm(_split(part, call.groups).mT, _split(columns, call.groups))
    grad_weight = grad_bias = None
    if need_weight:
        by_tap = grad_matrix.unflatten(2, (call.taps, -1))  # [groups, outputs, taps, channels]
        grad_weight = by_tap.transpose(2, 3).reshape(weight.shape).to(weight.dtype)
    if need_bias:
        grad_bias = grad_rows.sum(0, dtype=call.real).to(weight.dtype)
    grad_input = grad_pixels.permute(0, 3, 1, 2).to(input.dtype) if need_input else None
    return grad_input, grad_offset, grad_mask, grad_weight, grad_bias


def _split(rows: Tensor, groups: int) -> Tensor:
    """[positions, groups · n] as [groups, positions, n]: a view."""
    return rows.view(len(rows), groups, -1).transpose(0, 1)


def _grad_columns(call: _Call, part: Tensor) -> Tensor:
    """The gradient of a chunk's columns, [positions, groups · taps · channels of a group]."""
    if call.groups == 1:
        return torch.mm(part, call.matrix[0])
    return torch.bmm(_split(part, call.groups), call.matrix).transpose(0, 1).flatten(1)


def _whole_numbers(call: _Call, chunk: _Chunk, columns: Tensor) -> tuple[Tensor, Tensor]:
    """A 64-bit sum per pixel and channel, and how many units make one.

    A pixel takes at most one corner of each tap and position of its image, none larger than the largest
    gradient times the largest mask value: at this scale the sum cannot overflow, and its resolution is 2^-61
    of that bound.
    """
    bound = _largest(columns)
    if call.mask is not None:
        bound = bound * _largest(call.mask)
    most = call.taps * min(chunk.positions, call.plane)
    scale = 2.0**61 / (bound * most).clamp(min=1e-200)
    size = (chunk.images, *call.pixels.shape[1:])
    return torch.zeros(size, dtype=torch.int64, device=columns.device), scale


def _largest(t: Tensor) -> Tensor:
    """The largest finite magnitude, float64, on the device."""
    return torch.where(t.isfinite(), t, 0).abs().amax().double()
