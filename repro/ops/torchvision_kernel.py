"""torchvision's deformable convolution behind the interface of the other implementations.

Imported when asked for, never before: a torchvision whose compiled part does not load fails in its own
import, or imports and lacks the operator. Both count as "not available" here, with the reason.

Three repairs around it. Offsets far outside are brought near first, since its kernel turns them into integers
(undefined for infinities) and reads outside the image for NaN; a NaN is passed on through the mask instead.
Half precisions and mixed types are computed in float32. Its CUDA backward adds in an arbitrary order, so that
under ``torch.use_deterministic_algorithms`` the reference's takes its place.
"""

from functools import cache

import torch
from torch import Tensor

from repro.ops import reference


@cache
def _problem() -> str:
    try:
        import torchvision
    except Exception as error:  # a broken wheel raises what it likes: RuntimeError, OSError, AttributeError
        first_line = str(error).strip().split("\n")[0]
        return f"import torchvision fails ({type(error).__name__}: {first_line})"
    for name in ("deform_conv2d", "_deform_conv2d_backward"):
        if not torch._C._dispatch_has_kernel_for_dispatch_key(f"torchvision::{name}", "CPU"):
            return f"torchvision {torchvision.__version__} is installed without its compiled operators"
    return ""


def available(device: str = "cpu") -> bool:
    return not _problem() and _has_kernel(device)


def why(device: str = "cpu") -> str:
    if problem := _problem():
        return f"{problem}."
    import torchvision

    found = "has" if _has_kernel(device) else "has no"
    return f"torchvision {torchvision.__version__} {found} a kernel for {device} tensors."


def _has_kernel(device: str) -> bool:
    return torch._C._dispatch_has_kernel_for_dispatch_key("torchvision::deform_conv2d", device.upper())


def forward(input, offset, mask, weight, bias, stride, padding, dilation) -> Tensor:
    dtype = input.dtype
    arguments = _arguments(input, offset, mask, weight, bias, stride, padding, dilation)
    return torch.ops.torchvision.deform_conv2d(*arguments).to(dtype)


def backward(grad_output, input, offset, mask, weight, stride, padding, dilation, needs):
    if grad_output.is_cuda and torch.are_deterministic_algorithms_enabled():
        return reference.backward(grad_output, input, offset, mask, weight, stride, padding, dilation, needs)
    dtypes = [t if t is None else t.dtype for t in (input, offset, mask, weight, weight)]
    arguments = _arguments(input, offset, mask, weight, None, stride, padding, dilation)
    grad_output = grad_output.to(arguments[0].dtype).contiguous()
    grads = torch.ops.torchvision._deform_conv2d_backward(grad_output, *arguments)
    in_order = (grads[0], grads[2], grads[3], grads[1], grads[4])
    return tuple(grad.to(dtype) if need else None for grad, dtype, need in zip(in_order, dtypes, needs, strict=True))


def _arguments(input, offset, mask, weight, bias, stride, padding, dilation) -> list:
    """Arguments in the order of torchvision's operator, in one precision, every offset a harmless number."""
    input, offset, mask, weight, bias = reference._raise_precision(input, offset, mask, weight, bias)
    _, channels, height, width = input.shape
    taps = weight.shape[2] * weight.shape[3]
    groups = offset.shape[1] // (2 * taps)
    # From every output place, this far is outside on every side.
    far = 2.0 * (height + width + sum(padding) + sum(dilation) * taps + sum(stride) * sum(offset.shape[2:]))
    if mask is None:
        mask = torch.ones_like(offset[:, ::2])
    not_a_number = offset.isnan().unflatten(1, (groups * taps, 2)).any(2)
    mask = mask.masked_fill(not_a_number, torch.nan)
    offset = offset.nan_to_num(nan=far, posinf=far, neginf=-far).clamp(-far, far)
    if bias is None:
        bias = weight.new_zeros(len(weight))
    return [
        *(tensor.contiguous() for tensor in (input, weight, offset, mask, bias)),
        *stride, *padding, *dilation, channels // weight.shape[1], groups, True,
    ]  # fmt: skip
