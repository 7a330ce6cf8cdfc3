"""The modulated deformable convolution in plain PyTorch, to be read beside its equation.

Zhu et al., "Deformable ConvNets v2: More Deformable, Better Results", CVPR 2019, equation 1; the SADNet paper
(Chang et al., ECCV 2020) repeats it as equation 3:

    y(p) = sum over k of  w_k · x(p + p_k + Δp_k) · Δm_k

p runs over the output positions, p_k over the taps of the kernel; Δp_k (``offset``) and Δm_k (``mask``) are
given for every p and k. x at a fractional position is bilinear in the four pixels around it, and a pixel
outside the image counts as zero. The derivative with respect to Δp_k is that of this formula with the floor
held fixed, hence the right-hand one-sided derivative where a position is a whole number.

Far and infinite offsets sample zero and have zero gradients. An offset that is not a number makes the outputs
that use it NaN, and adds nothing to the image's gradient.

It runs on any device and in float64; half precisions are computed in float32. Every other implementation is
tested against it.
"""

import torch
from torch import Tensor
from torch.nn.functional import pad


def deform_conv2d(
    input: Tensor,
    offset: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: tuple[int, int] = (1, 1),
    padding: tuple[int, int] = (0, 0),
    dilation: tuple[int, int] = (1, 1),
    mask: Tensor | None = None,
) -> Tensor:
    """Arguments and result as in :func:`repro.ops.deform_conv2d`; differentiable by autograd, checks nothing.

    Small enough for a pencil: the image 1 … 9, a 3x3 kernel with three weights that are not zero, no padding,
    hence one output. The top left tap is moved half a pixel right and reads (1 + 2) / 2 = 1.5. The centre
    is moved half a pixel down and right, reads (5 + 6 + 8 + 9) / 4 = 7, and its mask is 0.5. The bottom right
    tap is moved a quarter of a pixel down, where the image ends, and reads 0.75 · 9 + 0.25 · 0 = 6.75. With
    weights 1, 2, 3 and bias -0.75 the sum is 1 · 1.5 + 2 · 7 · 0.5 + 3 · 6.75 - 0.75 = 28.

    >>> image = torch.arange(1.0, 10.0).view(1, 1, 3, 3)
    >>> weight = torch.diag(torch.tensor([1.0, 2.0, 3.0])).view(1, 1, 3, 3)
    >>> offset, mask, bias = torch.zeros(1, 18, 1, 1), torch.ones(1, 9, 1, 1), torch.tensor([-0.75])
    >>> offset[0, 1] = offset[0, 8] = offset[0, 9] = 0.5  # channels 2k and 2k + 1 are (dy, dx) of tap k
    >>> offset[0, 16] = 0.25
    >>> mask[0, 4] = 0.5
    >>> deform_conv2d(image, offset, weight, bias, mask=mask).item()
    28.0
    """
    dtype = input.dtype
    input, offset, mask, weight, bias = _raise_precision(input, offset, mask, weight, bias)
    y, x = _positions(offset, weight, stride, padding, dilation)  # p + p_k + Δp_k
    index, share = _corners(input, y, x)
    sampled = (_pixels(input, index) * share.unsqueeze(3)).sum(0)  # x(p + p_k + Δp_k): [N, G, C/G, K, P]
    if mask is not None:
        sampled = sampled * mask.reshape(y.shape).unsqueeze(2)  # · Δm_k
    output = torch.einsum("gok,ngkp->ngop", *_by_group(weight, sampled)).flatten(1, 2)  # the sum of w_k · …
    if bias is not None:
        output = output + bias[:, None]
    return output.unflatten(-1, offset.shape[2:]).to(dtype)


def _positions(offset, weight, stride, padding, dilation) -> tuple[Tensor, Tensor]:
    """Where each tap reads, rows and columns: [N, deform groups G, taps K, output places P] each."""
    (batch, channels, *outputs), kernel = offset.shape, weight.shape[2:]

    def grid(counts, steps, starts):
        axes = zip(counts, steps, starts, strict=True)
        return torch.cartesian_prod(*(torch.arange(n).to(offset) * step - start for n, step, start in axes))

    fixed = grid(outputs, stride, padding) + grid(kernel, dilation, (0, 0)).unsqueeze(1)  # p + p_k: [K, P, 2]
    moves = offset.reshape(batch, channels // (2 * len(fixed)), len(fixed), 2, fixed.shape[1])
    return fixed[..., 0] + moves[:, :, :, 0], fixed[..., 1] + moves[:, :, :, 1]


def _corners(input: Tensor, y: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """Four neighbours: places in the framed image (see `_pixels`), bilinear shares; [4, N, G, K, P] each."""
    height, width = input.shape[2:]
    # Further than a pixel outside nothing changes any more: the clamp makes every position a valid place.
    y, x = y.clamp(-2, height + 1), x.clamp(-2, width + 1)
    top, left = y.detach().floor(), x.detach().floor()
    down, right = y - top, x - left
    first = (top.nan_to_num(-2).long() + 2) * (width + 5) + left.nan_to_num(-2).long() + 2
    index = torch.stack([first, first + 1, first + width + 5, first + width + 6])
    share = torch.stack([(1 - down) * (1 - right), (1 - down) * right, down * (1 - right), down * right])
    return index, share


def _pixels(input: Tensor, index: Tensor) -> Tensor:
    """The image at ``index``, [4, N, G, C/G, K, P]; a frame of zeros takes it to -2 … H + 2, -2 … W + 2."""
    _, batch, groups, taps, places = index.shape
    channels = input.shape[1] // groups
    framed = pad(input, (2, 3, 2, 3)).reshape(batch, groups, channels, -1)
    where = index.flatten(-2).unsqueeze(3).expand(-1, -1, -1, channels, -1)
    return torch.stack([framed.gather(-1, corner) for corner in where]).unflatten(-1, (taps, places))


def _by_group(weight: Tensor, sampled: Tensor) -> tuple[Tensor, Tensor]:
    """Weight [g, O/g, C/g · K] and samples [N, g, C/g · K, P] of the g convolution groups."""
    batch, deform_groups, channels, _, places = sampled.shape
    groups = deform_groups * channels // weight.shape[1]
    matrix = weight.reshape(groups, len(weight) // groups, weight[0].numel())
    return matrix, sampled.reshape(batch, groups, matrix.shape[2], places)


def _raise_precision(*tensors: Tensor | None) -> list[Tensor | None]:
    dtype = torch.float32
    for tensor in tensors:
        dtype = dtype if tensor is None else torch.promote_types(dtype, tensor.dtype)
    return [tensor if tensor is None else tensor.to(dtype) for tensor in tensors]


def available() -> bool:
    return True


def why() -> str:
    return "Plain PyTorch runs wherever torch runs."


def forward(input, offset, mask, weight, bias, stride, padding, dilation) -> Tensor:
    """The interface that all implementations share: no autograd inside, geometry in pairs (y, x)."""
    return deform_conv2d(input, offset, weight, bias, stride, padding, dilation, mask)


def backward(grad_output, input, offset, mask, weight, stride, padding, dilation, needs):
    """Gradients of input, offset, mask, weight and bias in closed form; None where ``needs`` says False.

    Written out because a registered operator runs below autograd, where differentiating `deform_conv2d` would
    record nothing. A test holds the two against each other.
    """
    dtypes = [t if t is None else t.dtype for t in (input, offset, mask, weight, weight)]
    grad_output, input, offset, mask, weight = _raise_precision(grad_output, input, offset, mask, weight)
    y, x = _positions(offset, weight, stride, padding, dilation)
    index, share = _corners(input, y, x)
    pixels = _pixels(input, index)
    sampled = (pixels * share.unsqueeze(3)).sum(0)
    modulation = torch.ones_like(y) if mask is None else mask.reshape(y.shape)
    matrix, columns = _by_group(weight, sampled * modulation.unsqueeze(2))
    rows = grad_output.reshape(len(input), *matrix.shape[:2], columns.shape[-1])
    grad_sampled = torch.einsum("gok,ngop->ngkp", matrix, rows).reshape(sampled.shape)  # before the mask

    grad_input = grad_offset = grad_mask = grad_weight = grad_bias = None
    if needs[0]:
        framed = torch.zeros_like(pad(input, (2, 3, 2, 3)), memory_format=torch.contiguous_format)
        flat = framed.view(*sampled.shape[:3], framed.shape[2] * framed.shape[3])
        for place, part in zip(index, share * modulation, strict=True):
            where = place.flatten(-2).unsqueeze(2).expand(-1, -1, sampled.shape[2], -1)
            flat.scatter_add_(-1, where, (part.unsqueeze(2) * grad_sampled).flatten(-2))
        grad_input = framed[:, :, 2:-3, 2:-3].contiguous()
    if needs[1]:
        # A share's derivative in y is plus or minus its factor in x: differences of pixels remain.
        v00, v01, v10, v11 = (pixels * grad_sampled).sum(3)
        down, right = share[2] + share[3], share[1] + share[3]
        grad_y = (v10 - v00) * (1 - right) + (v11 - v01) * right
        grad_x = (v01 - v00) * (1 - down) + (v11 - v10) * down
        grad_offset = torch.stack([grad_y * modulation, grad_x * modulation], 3).reshape(offset.shape)
    if needs[2]:
        grad_mask = (grad_sampled * sampled).sum(2).reshape(mask.shape)
    if needs[3]:
        grad_weight = torch.einsum("ngop,ngkp->gok", rows, columns).reshape(weight.shape)
    if needs[4]:
        grad_bias = rows.sum((0, 3)).flatten()
    gradients = (grad_input, grad_offset, grad_mask, grad_weight, grad_bias)
    return tuple(g if g is None else g.to(dtype) for g, dtype in zip(gradients, dtypes, strict=True))
