"""The deformable convolution as users meet it: function, module, choice of implementation, registration.

``deform_conv2d`` and ``DeformConv2d`` replace torchvision's of the same names. Underneath stands one
operator, ``torch.ops.repro.deform_conv2d``, with its gradient ``torch.ops.repro.deform_conv2d_backward``:
``torch.compile``, ``torch.export`` and autograd see the same graph whichever implementation runs it.

============ ==================================================== ========================================
name         what                                                 used for
============ ==================================================== ========================================
cuda         ``deform_conv.cu``, compiled at first use by NVRTC   CUDA tensors, first choice
cpu          ``deform_conv.c``, compiled at first use             CPU tensors, first choice
torchvision  torchvision's compiled operator                      where the first choice is not available
reference    plain PyTorch, :mod:`repro.ops.reference`            where neither is, and on other devices
============ ==================================================== ========================================

A slower one than the first choice is announced by one warning per process, with the reason. ``explain()``
tells what runs and why. The variable ``REPRO_DEFORM_CONV=name`` and ``with backend(name):`` decide otherwise.
"""

import math
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import cache
from importlib import import_module
from types import ModuleType

import torch
from torch import Tensor, nn

from repro.errors import ReproError

_MODULES = {
    "cuda": "repro.ops.cuda",
    "cpu": "repro.ops.cpu",
    "torchvision": "repro.ops.torchvision_kernel",
    "reference": "repro.ops.reference",
}
_VARIABLE = "REPRO_DEFORM_CONV"
_chosen = ""  # what `backend` sets; empty: the environment variable, or the best one available

# --- the function and the module ---


def deform_conv2d(
    input: Tensor,
    offset: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | tuple[int, int] = 1,
    padding: int | tuple[int, int] = 0,
    dilation: int | tuple[int, int] = 1,
    mask: Tensor | None = None,
) -> Tensor:
    """Deformable convolution: version 2 with a ``mask``, version 1 without. Takes what torchvision's takes.

    y(p) = sum over k of w_k · x(p + p_k + Δp_k) · Δm_k (Zhu et al., CVPR 2019, equation 1; SADNet paper,
    equation 3), x bilinear between pixels and zero outside the image; :mod:`repro.ops.reference` is that
    formula as code.

    Args:
        input: [N, C, H, W], float16, bfloat16, float32 or float64.
        offset: [N, 2·G·kh·kw, Ho, Wo] in pixels, any of these types; channels run over deform group, kernel
            row, kernel column, (dy, dx). Deform group g is for input channels g·C/G … (g + 1)·C/G - 1.
        weight: [O, C/groups, kh, kw], type of ``input``. The number of groups follows from its shape.
        bias: [O], type of ``input``.
        stride, padding, dilation: one number, or a pair (y, x).
        mask: [N, G·kh·kw, Ho, Wo], any of these types; factors as they are, no sigmoid is taken here.

    Returns:
        [N, O, Ho, Wo], type of ``input``, channels_last where ``input`` is. Ho = (H + 2·padding -
        dilation·(kh - 1) - 1) // stride + 1, and Wo likewise.

    Infinite and far offsets sample zero; where an offset is NaN, so is the output. At whole-number positions
    the gradient of ``offset`` is the right-hand derivative. There is no second derivative.

    Under autocast, ``input``, ``weight`` and ``bias`` take autocast's type and so does the result, while
    ``offset`` and ``mask`` keep theirs, and positions are computed in float32 at least: bfloat16 would place
    an offset of ten pixels on a grid of sixteenths. torchvision computes everything in float32 there.

    Raises:
        TypeError, ValueError: the message names the argument, and what it should have been.
        ReproError: an implementation was chosen by name that does not exist or cannot run.
    """
    tensors = {"input": input, "offset": offset, "weight": weight, "bias": bias, "mask": mask}
    for name, tensor in tensors.items():
        if not isinstance(tensor, Tensor) and not (tensor is None and name in ("bias", "mask")):
            raise TypeError(f"{name} must be a tensor, not {type(tensor).__name__}.")
    device = input.device.type
    if _casts(device):
        low = torch.get_autocast_dtype(device)
        input, weight, bias = (
            tensor.to(low) if tensor is not None and tensor.dtype != torch.float64 else tensor
            for tensor in (input, weight, bias)
        )
    geometry = _pair("stride", stride), _pair("padding", padding), _pair("dilation", dilation)
    return _forward(input, offset, weight, bias, mask, *geometry, _chosen)


class DeformConv2d(nn.Module):
    """torchvision's module: holds weight and bias, is given offsets and mask. Same arguments, same start.

    ``forward(input, offset, mask=None)``: shapes as in :func:`deform_conv2d`.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] = 0,
        dilation: int | tuple[int, int] = 1,
        groups: int = 1,
        bias: bool = True,
    ):
        super().__init__()
        for name, channels in (("in_channels", in_channels), ("out_channels", out_channels)):
            if channels % groups:
                raise ValueError(f"{name} must be divisible by groups = {groups}, not {channels}.")
        self.in_channels, self.out_channels, self.groups = in_channels, out_channels, groups
        self.kernel_size = tuple(_pair("kernel_size", kernel_size))
        self.stride, self.padding = tuple(_pair("stride", stride)), tuple(_pair("padding", padding))
        self.dilation = tuple(_pair("dilation", dilation))
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels // groups, *self.kernel_size))
        self.bias = nn.Parameter(torch.empty(out_channels)) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Uniform in ± 1 / sqrt(fan in), weight and bias: what torch's own convolutions start from."""
        nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        if self.bias is not None:
            bound = 1 / math.sqrt(self.weight[0].numel())
            nn.init.uniform_(self.bias, -bound, bound)

    def forward(self, input: Tensor, offset: Tensor, mask: Tensor | None = None) -> Tensor:
        geometry = self.stride, self.padding, self.dilation
        return deform_conv2d(input, offset, self.weight, self.bias, *geometry, mask=mask)

    def extra_repr(self) -> str:
        text = f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}"
        text += f", padding={self.padding}" if self.padding != (0, 0) else ""
        text += f", dilation={self.dilation}" if self.dilation != (1, 1) else ""
        text += f", groups={self.groups}" if self.groups != 1 else ""
        return text + (", bias=False" if self.bias is None else "")


# --- which implementation runs ---


@contextmanager
def backend(name: str) -> Iterator[None]:
    """Within the block every call runs on the implementation ``name``, in this whole process.

    A backward pass uses the one that its forward pass was called under. Raises ReproError for an unknown name
    at once, and for one that is not available, or not made for the tensors' device, at the call.
    """
    global _chosen
    _check_name(name, "backend(...)")
    before, _chosen = _chosen, name
    try:
        yield
    finally:
        _chosen = before


def explain(device: str | torch.device = "cpu") -> str:
    """Which implementation runs for tensors on ``device``, and why: a line for it and one per candidate."""
    kind = torch.device(device).type
    name, source = _request(_chosen)
    if name:
        ok, _ = _usable(name, kind)
        lines = [f"{kind} tensors: {name} {'runs' if ok else 'cannot run'}, chosen by {source}."]
    else:
        lines = [f"{kind} tensors: {_best(kind)[0]} runs, the fastest one available."]
    for candidate in dict.fromkeys((*_candidates(kind), *filter(None, [name]))):
        ok, reason = _usable(candidate, kind)
        lines.append(f"  {candidate}: {'available' if ok else 'not available'}. {reason}")
    return "\n".join(lines)


def _candidates(kind: str) -> tuple[str, ...]:
    """Names that can run on a device of this kind, fastest first."""
    own = (kind,) if kind in ("cpu", "cuda") else ()
    return (*own, "torchvision", "reference")


@cache
def _usable(name: str, kind: str) -> tuple[bool, str]:
    """Whether implementation ``name`` runs on devices of this kind, and the sentence that says why."""
    if name not in _candidates(kind):
        return False, f"The implementation {name!r} does not run on {kind} tensors."
    module = _module(name)
    arguments = (kind,) if name == "torchvision" else ()
    return module.available(*arguments), module.why(*arguments)


def _best(kind: str) -> tuple[str, str]:
    """The fastest available implementation, and why no faster one is (empty where it is the first choice)."""
    reasons = []
    for name in _candidates(kind):
        ok, reason = _usable(name, kind)
        if ok:
            break
        reasons.append(f"{name}: {reason}")
    return name, " ".join(reasons)


@cache
def _automatic(kind: str) -> ModuleType:
    name, missed = _best(kind)
    if missed:
        warnings.warn(
            f"Deformable convolutions of {kind} tensors run on {name!r}: correct, but slow. {missed}",
            RuntimeWarning,
            stacklevel=2,
        )
    return _module(name)


def _select(requested: str, kind: str) -> ModuleType:
    name, source = _request(requested)
    if not name:
        return _automatic(kind)
    ok, reason = _usable(name, kind)
    if not ok:
        raise ReproError(f"The deformable convolution {name!r}, chosen by {source}, cannot run: {reason}")
    return _module(name)


def _request(requested: str) -> tuple[str, str]:
    """The name asked for, and by what; empty where nobody asked."""
    if requested:
        return requested, "backend(...)"
    name = os.environ.get(_VARIABLE, "")
    if name:
        _check_name(name, _VARIABLE)
    return name, _VARIABLE


def _check_name(name: str, source: str) -> None:
    if name not in _MODULES:
        raise ReproError(f"{source} names no implementation: {name!r}. There are: {', '.join(_MODULES)}.")


def _module(name: str) -> ModuleType:
    return import_module(_MODULES[name])


# --- the operator and its gradient ---
# Both return fresh tensors in the memory format of the tensor they belong to, as their fake versions promise.


def _register(name: str):
    """Make a function the operator ``torch.ops.repro.<name>``, for all devices.

    ``torch.library.custom_op`` would do the same, and import all of torch.compile at the first call: two seconds.
    """

    def decorate(function):
        torch.library.define(f"repro::{name}", torch.library.infer_schema(function, mutates_args=()))
        torch.library.impl(f"repro::{name}", "default")(function)
        return getattr(torch.ops.repro, name)

    return decorate


@_register("deform_conv2d")
def _forward(
    input: Tensor,
    offset: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    mask: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    implementation: str,
) -> Tensor:
    shape = _check(input, offset, weight, bias, mask, stride, padding, dilation)
    if 0 in shape:
        return input.new_empty(shape).contiguous(memory_format=_format(input))
    run = _select(implementation, input.device.type)
    with _without_autocast(input):
        output = run.forward(input, offset, mask, weight, bias, tuple(stride), tuple(padding), tuple(dilation))
    return output.contiguous(memory_format=_format(input))


@torch.library.register_fake("repro::deform_conv2d")
def _(input, offset, weight, bias, mask, stride, padding, dilation, implementation):
    shape = _check(input, offset, weight, bias, mask, stride, padding, dilation)
    return input.new_empty(shape).to(memory_format=_format(input))


@_register("deform_conv2d_backward")
def _backward(
    grad_output: Tensor,
    input: Tensor,
    offset: Tensor,
    weight: Tensor,
    mask: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    needs: Sequence[bool],
    implementation: str,
) -> list[Tensor]:
    """Gradients of those of (input, offset, weight, bias, mask) that ``needs`` marks, in this order."""
    shape = _check(input, offset, weight, None, mask, stride, padding, dilation)
    if grad_output.shape != shape or grad_output.dtype != input.dtype:
        raise ValueError(
            f"grad_output must have shape {list(shape)} and type {input.dtype}, "
            f"not {list(grad_output.shape)} and {grad_output.dtype}."
        )
    owners = _owners(input, offset, weight, mask)
    if 0 in shape:
        grads = [torch.zeros(owner[0], dtype=owner[1], device=input.device) for owner in owners]
    else:
        run = _select(implementation, input.device.type)
        need_input, need_offset, need_weight, need_bias, need_mask = needs
        with _without_autocast(input):
            grad_input, grad_offset, grad_mask, grad_weight, grad_bias = run.backward(
                grad_output, input, offset, mask, weight, tuple(stride), tuple(padding), tuple(dilation),
                needs=(need_input, need_offset, need_mask, need_weight, need_bias),
            )  # fmt: skip
        grads = [grad_input, grad_offset, grad_weight, grad_bias, grad_mask]
    return [
        grad.contiguous(memory_format=owner[2]) for grad, owner, need in zip(grads, owners, needs, strict=True) if need
    ]


@torch.library.register_fake("repro::deform_conv2d_backward")
def _(grad_output, input, offset, weight, mask, stride, padding, dilation, needs, implementation):
    return [
        input.new_empty(shape, dtype=dtype).to(memory_format=layout)
        for (shape, dtype, layout), need in zip(_owners(input, offset, weight, mask), needs, strict=True)
        if need
    ]


def _casts(device: str) -> bool:
    """Whether autocast is on; a device that has none ("meta") cannot be asked."""
    return torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)


def _without_autocast(tensor: Tensor):
    """The types are settled by now: what an implementation computes inside must not be cast once more."""
    kind = tensor.device.type
    return torch.autocast(kind, enabled=False) if _casts(kind) else nullcontext()


def _owners(input, offset, weight, mask) -> list[tuple]:
    """Shape, type and memory format of the five gradients."""
    owners = [(t.shape, t.dtype, _format(t)) for t in (input, offset, weight)]
    owners.append((weight.shape[:1], weight.dtype, torch.contiguous_format))
    owners.append(owners[1] if mask is None else (mask.shape, mask.dtype, _format(mask)))
    return owners


def _remember(ctx, inputs, output):
    input, offset, weight, _, mask, *ctx.geometry, ctx.implementation = inputs
    ctx.save_for_backward(input, offset, weight, mask)


def _differentiate(ctx, grad_output):
    needs = list(ctx.needs_input_grad[:5])
    grads = iter(
        _backward(grad_output, *ctx.saved_tensors, *ctx.geometry, needs, ctx.implementation) if any(needs) else ()
    )
    return (*(next(grads) if need else None for need in needs), None, None, None, None)


def _refuse(ctx, *gradients):
    raise RuntimeError("The deformable convolution has no second derivative.")


torch.library.register_autograd("repro::deform_conv2d", _differentiate, setup_context=_remember)
torch.library.register_autograd("repro::deform_conv2d_backward", _refuse)


def _format(tensor: Tensor) -> torch.memory_format:
    """channels_last where channels lie innermost, as in torch's own convolution; in a slice of channels too."""
    innermost = tensor.shape[1] > 1 and tensor.stride(1) == 1 and not tensor.is_contiguous()
    return torch.channels_last if innermost else torch.contiguous_format


# --- checks ---

_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def _pair(name: str, value: int | Sequence[int]) -> list[int]:
    pair = list(value) if isinstance(value, (tuple, list)) else [value, value]
    if len(pair) != 2:
        raise ValueError(f"{name} must be one number or a pair (y, x), not {value!r}.")
    if not all(hasattr(number, "__index__") for number in pair):
        raise TypeError(f"{name} must be a whole number or a pair of them, not {value!r}.")
    return pair


def _check(input, offset, weight, bias, mask, stride, padding, dilation) -> torch.Size:
    """Refuse what no implementation could answer; return the output's shape."""
    tensors = {"input": input, "offset": offset, "weight": weight, "bias": bias, "mask": mask}
    for name, tensor in tensors.items():
        if tensor is None:
            continue
        if tensor.ndim != (1 if name == "bias" else 4):
            meaning = {"input": "[N, C, H, W]", "weight": "[O, C/groups, kh, kw]", "bias": "[O]"}
            expected = meaning.get(name, "[N, channels, Ho, Wo]")
            raise ValueError(f"{name} must have the dimensions {expected}, not shape {list(tensor.shape)}.")
        if tensor.dtype not in _FLOATS:
            raise TypeError(f"{name} must be a real floating-point tensor, not {tensor.dtype}.")
        if name in ("weight", "bias") and tensor.dtype != input.dtype:
            raise TypeError(f"{name} must have the type of input, {input.dtype}, not {tensor.dtype}.")
        if tensor.device != input.device:
            raise ValueError(f"{name} must be on the device of input, {input.device}, not {tensor.device}.")
    for name, pair, least in (("stride", stride, 1), ("padding", padding, 0), ("dilation", dilation, 1)):
        if min(pair) < least:
            raise ValueError(f"{name} must be at least {least}, not {tuple(pair)}.")

    batch, channels, *image = input.shape
    if min(image) < 1:
        raise ValueError(f"input must have at least one pixel, but has shape {list(input.shape)}.")
    filters, group_channels, *kernel = weight.shape
    if 0 in weight.shape:
        raise ValueError(f"weight must not be empty, but has shape {list(weight.shape)}.")
    groups = channels // group_channels
    if not groups or channels % group_channels:
        raise ValueError(
            f"weight must have the shape [O, C/groups, kh, kw] for an input of C = {channels} channels; "
            f"{group_channels} of its shape {list(weight.shape)} does not divide C."
        )
    if filters % groups:
        raise ValueError(
            f"weight must have a multiple of {groups} output channels ({groups} groups, as input has "
            f"{channels} channels and weight {group_channels}), not {filters}."
        )
    outputs = [
        (size + 2 * pad - step * (taps - 1) - 1) // jump + 1
        for size, pad, step, taps, jump in zip(image, padding, dilation, kernel, stride, strict=True)
    ]
    if min(outputs) < 1:
        raise ValueError(
            f"input of {image[0]} x {image[1]} pixels is smaller than the kernel of {kernel[0]} x "
            f"{kernel[1]} taps with padding {tuple(padding)} and dilation {tuple(dilation)}."
        )
    taps = kernel[0] * kernel[1]
    deform_groups = offset.shape[1] // (2 * taps)
    if not deform_groups or offset.shape[1] % (2 * taps) or channels % deform_groups:
        raise ValueError(
            f"offset must have 2·G·{kernel[0]}·{kernel[1]} channels, where the number of deform groups G "
            f"divides the input's {channels} channels, not {offset.shape[1]}."
        )
    if bias is not None and bias.shape != (filters,):
        raise ValueError(f"bias must have shape {[filters]}, not {list(bias.shape)}.")
    for name, tensor, width in (
        ("offset", offset, 2 * deform_groups * taps),
        ("mask", mask, deform_groups * taps),
    ):
        expected = (batch, width, *outputs)
        if tensor is not None and tuple(tensor.shape) != expected:
            raise ValueError(f"{name} must have shape {list(expected)}, not {list(tensor.shape)}.")
    return torch.Size((batch, filters, *outputs))
