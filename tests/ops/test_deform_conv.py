"""The deformable convolution: every implementation against the same numbers, by the same test bodies."""

import copy
import doctest
import os
import subprocess
import sys
import warnings
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from torch.nn.functional import conv2d

from repro import ops
from repro.errors import ReproError
from repro.ops import cpu, deform_conv, reference

ROOT = Path(__file__).parents[2]
VECTORS = Path(os.environ.get("REPRO_SHARED", ROOT.parent / "shared")) / "vectors"
NAMES = ("input", "offset", "mask", "weight", "bias")

# Largest error allowed, relative to the largest magnitude of the expected array.
TOLERANCE = {torch.float64: 1e-10, torch.float32: 2e-5, torch.float16: 2e-3, torch.bfloat16: 1e-2}

IMPLEMENTATIONS = [
    pytest.param((device, name), id=f"{name}-on-{device}", marks=[pytest.mark.cuda] if device == "cuda" else [])
    for device, names in (
        ("cpu", ("cpu", "torchvision", "reference")),
        ("cuda", ("cuda", "torchvision", "reference")),
    )
    for name in names
]


@pytest.fixture(params=IMPLEMENTATIONS)
def device(request):
    """The device of one implementation, which is chosen for the test; skipped where it cannot run."""
    device, name = request.param
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("no NVIDIA GPU here")
    usable, reason = deform_conv._usable(name, device)
    if not usable:
        pytest.skip(f"{name} is not available: {reason}")
    with ops.backend(name):
        yield device


@pytest.fixture(autouse=True)
def _same_numbers_every_time():
    torch.manual_seed(20)


def make(
    batch=2, channels=4, outputs=6, size=(5, 6), kernel=(3, 3), stride=(1, 1), padding=(1, 1),
    dilation=(1, 1), groups=1, deform_groups=2, spread=1.5, dtype=torch.float64, device="cpu",
):  # fmt: skip
    """Random arguments (input, offset, mask, weight, bias) and the geometry (stride, padding, dilation)."""
    out = [
        (n + 2 * p - d * (k - 1) - 1) // s + 1
        for n, k, s, p, d in zip(size, kernel, stride, padding, dilation, strict=True)
    ]
    taps = deform_groups * kernel[0] * kernel[1]
    tensors = (
        torch.randn(batch, channels, *size, dtype=torch.float64),
        torch.randn(batch, 2 * taps, *out, dtype=torch.float64) * spread,
        torch.rand(batch, taps, *out, dtype=torch.float64),
        torch.randn(outputs, channels // groups, *kernel, dtype=torch.float64),
        torch.randn(outputs, dtype=torch.float64),
    )
    return [t.to(device, dtype) for t in tensors], (stride, padding, dilation)


def call(tensors, geometry, function=ops.deform_conv2d):
    input, offset, mask, weight, bias = tensors
    return function(input, offset, weight, bias, *geometry, mask)


def run(tensors, geometry, grad_output=None, function=ops.deform_conv2d):
    """Output and the gradients of those arguments that are not None, in the order of NAMES."""
    leaves = [t if t is None else t.detach().requires_grad_() for t in tensors]
    output = call(leaves, geometry, function)
    if grad_output is None:
        generator = torch.Generator().manual_seed(5)
        grad_output = torch.randn(output.shape, generator=generator, dtype=torch.float64).to(output)
    given = [leaf for leaf in leaves if leaf is not None]
    return [output.detach(), *torch.autograd.grad(output, given, grad_output)]


def assert_close(actual, expected, dtype=None, names=("output", *NAMES)):
    assert len(actual) == len(expected)
    for name, ours, right in zip(names, actual, expected, strict=False):
        assert ours.shape == right.shape, name
        ours, right = ours.double().cpu(), right.double().cpu()
        scale = max(right.abs().max().item(), 1e-30) if right.numel() else 1.0
        error = (ours - right).abs().max().item() / scale if right.numel() else 0.0
        assert error <= TOLERANCE[dtype or torch.float64], f"{name}: {error:.2e} of the largest magnitude"


# --- values and gradients ---


def golden_cases():
    return sorted(VECTORS.glob("deform_*.npz"))


def test_golden_arrays_are_complete():
    if not VECTORS.exists():
        pytest.skip(f"no golden arrays at {VECTORS}; set REPRO_SHARED to the folder that holds vectors/")
    assert len(golden_cases()) == 16


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("path", golden_cases(), ids=lambda path: path.stem)
def test_golden_arrays(device, path, dtype):
    arrays = {name: torch.from_numpy(array) for name, array in np.load(path).items()}
    conf = arrays["conf"].tolist()
    geometry = (tuple(conf[0:2]), tuple(conf[2:4]), tuple(conf[4:6]))
    present = [name for name in NAMES if name in arrays]
    tensors = [arrays[name].to(device, dtype) if name in arrays else None for name in NAMES]
    actual = run(tensors, geometry, arrays["grad_output"].to(device, dtype))
    expected = [arrays["output"], *(arrays[f"grad_{name}"] for name in present)]
    assert_close(actual, expected, dtype, ("output", *present))


# The golden arrays' settings, for machines without the files: torchvision's function makes arrays again.
SETTINGS = {
    "one group": dict(size=(7, 9), deform_groups=1),
    "two groups": dict(size=(8, 8)),
    "eight groups": dict(channels=16, outputs=16, size=(9, 7), deform_groups=8),
    "stride 2": dict(channels=16, outputs=8, size=(11, 13), stride=(2, 2), deform_groups=8),
    "dilation 2": dict(channels=8, outputs=4, size=(10, 9), padding=(2, 2), dilation=(2, 2)),
    "stride 2, dilation 2": dict(
        channels=3, outputs=5, size=(12, 11), stride=(2, 2), padding=(2, 2), dilation=(2, 2), deform_groups=1
    ),
    "no padding": dict(channels=6, size=(8, 10), padding=(0, 0)),
    "far": dict(channels=8, outputs=8, size=(8, 8), deform_groups=8, spread=12.0),
    "convolution groups": dict(channels=8, groups=2, size=(7, 8)),
    "asymmetric": dict(size=(11, 13), kernel=(3, 5), stride=(2, 1), padding=(1, 2), dilation=(1, 2), outputs=3),
    "one output": dict(channels=2, outputs=2, size=(3, 3), padding=(0, 0), deform_groups=1),
    "tiny": dict(channels=16, outputs=16, size=(2, 2), deform_groups=8, spread=2.0),
    "whole numbers": dict(size=(8, 7)),
    "whole numbers, no mask": dict(size=(6, 7), spread=4.0),
}


def make_setting(name, device="cpu", dtype=torch.float64):
    tensors, geometry = make(**SETTINGS[name], device=device, dtype=dtype)
    if "whole" in name:
        tensors[1] = tensors[1].round()
    if "no mask" in name:
        tensors[2] = None
    return tensors, geometry


@pytest.mark.parametrize("name", SETTINGS)
def test_reference_equals_torchvision(name):
    torchvision_ops = pytest.importorskip("torchvision.ops", exc_type=Exception)
    tensors, geometry = make_setting(name)
    expected = run(tensors, geometry, function=torchvision_ops.deform_conv2d)
    assert_close(run(tensors, geometry, function=reference.deform_conv2d), expected)


@pytest.mark.parametrize("name", SETTINGS)
def test_equals_reference(device, name):
    tensors, geometry = make_setting(name, device)
    expected = run([t if t is None else t.cpu() for t in tensors], geometry, function=reference.deform_conv2d)
    assert_close(run(tensors, geometry), expected)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_example_for_a_pencil(device, dtype):
    """The example in the docstring of :mod:`repro.ops.reference`, with its gradients.

    Image 1 2 3 / 4 5 6 / 7 8 9, weights 1, 2, 3 on the diagonal, bias -0.75, one output. Top left reads
    (1 + 2) / 2 = 1.5; the centre (5 + 6 + 8 + 9) / 4 = 7 with mask 0.5; bottom right 0.75 · 9 = 6.75.
    Output: 1.5 + 2 · 7 · 0.5 + 3 · 6.75 - 0.75 = 28.

    d/d offset: centre down 2 · 0.5 · ((8 + 9) / 2 - (5 + 6) / 2) = 3, right (6 + 9) / 2 - (5 + 8) / 2 = 1.
    Top left stands on row 0, so that its derivative downwards is one-sided, (4 + 5) / 2 - (1 + 2) / 2 = 3; to
    the right it is 2 - 1 = 1. Bottom right: 3 · (0 - 9) = -27 down; it stands on the last column, so that to
    the right it is 3 · 0.75 · (0 - 9) = -20.25.
    d/d mask: 1 · 1.5, 2 · 7, 3 · 6.75. d/d weight: what every tap reads, times its mask.
    d/d image: 0.5 at 1 and at 2; 2 · 0.5 / 4 = 0.25 at 5, 6 and 8; 0.25 + 3 · 0.75 = 2.5 at 9.
    """
    image = torch.arange(1.0, 10.0).view(1, 1, 3, 3)
    weight = torch.diag(torch.tensor([1.0, 2.0, 3.0])).view(1, 1, 3, 3)
    offset, mask = torch.zeros(1, 18, 1, 1), torch.ones(1, 9, 1, 1)
    offset[0, [1, 8, 9, 16], 0, 0] = torch.tensor([0.5, 0.5, 0.5, 0.25])
    mask[0, 4] = 0.5
    tensors = [t.to(device, dtype) for t in (image, offset, mask, weight, torch.tensor([-0.75]))]
    output, grad_image, grad_offset, grad_mask, grad_weight, grad_bias = run(
        tensors, (1, 0, 1), torch.ones(1, 1, 1, 1, device=device, dtype=dtype)
    )
    assert output.item() == 28.0
    assert grad_image.flatten().tolist() == [0.5, 0.5, 0, 0, 0.25, 0.25, 0, 0.25, 2.5]
    assert grad_offset.view(9, 2)[[0, 4, 8]].tolist() == [[3, 1], [3, 1], [-27, -20.25]]
    assert grad_mask.view(9)[[0, 4, 8]].tolist() == [1.5, 14, 20.25]
    assert grad_weight.view(9)[[0, 1, 2, 4, 8]].tolist() == [1.5, 2, 3, 3.5, 6.75]
    assert grad_bias.item() == 1


def test_example_in_the_docstring():
    assert doctest.testmod(reference).attempted >= 7
    assert doctest.testmod(reference).failed == 0


@pytest.mark.parametrize("masked", [True, False], ids=["mask", "no mask"])
@pytest.mark.parametrize("groups", [1, 2])
def test_gradcheck(device, groups, masked):
    tensors, geometry = make(batch=1, outputs=2, size=(2, 3), groups=groups, device=device)
    # Finite differences must not step over a whole number, where the derivative jumps.
    tensors[1] = tensors[1].floor() + 0.1 + 0.8 * torch.rand_like(tensors[1])
    tensors = [t.requires_grad_() for t in tensors]
    if masked:
        assert torch.autograd.gradcheck(lambda *t: call(t, geometry), tensors)
    else:
        input, offset, _, weight, bias = tensors
        assert torch.autograd.gradcheck(lambda i, o, w: call((i, o, None, w, bias), geometry), (input, offset, weight))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("groups", [1, 4])
def test_zero_offsets_are_a_convolution(device, groups, dtype):
    tensors, geometry = make(
        channels=8, outputs=8, size=(9, 8), stride=(2, 1), padding=(2, 1), dilation=(2, 1), groups=groups,
        deform_groups=4, dtype=dtype, device=device,
    )  # fmt: skip
    tensors[1].zero_()
    tensors[2].fill_(1)
    output, grad_input, _, _, grad_weight, grad_bias = run(tensors, geometry)

    def convolve(input, offset, weight, bias, stride, padding, dilation, mask):
        return conv2d(input, weight, bias, stride, padding, dilation, groups) + 0 * (offset.sum() + mask.sum())

    expected = run(tensors, geometry, function=convolve)
    assert_close([output, grad_input, grad_weight, grad_bias], [expected[i] for i in (0, 1, 4, 5)], dtype)


@st.composite
def arguments(draw):
    """Any geometry that the op allows, up to sizes at which a test is still quick."""
    number = st.integers
    groups, deform_groups = draw(st.sampled_from([1, 1, 2, 3])), draw(st.sampled_from([1, 2, 3, 8]))
    kernel = draw(st.tuples(number(1, 4), number(1, 4)))
    padding, dilation = (
        draw(st.tuples(number(0, 3), number(0, 3))),
        draw(st.tuples(number(1, 3), number(1, 3))),
    )
    least = [max(1, d * (k - 1) + 1 - 2 * p) for k, p, d in zip(kernel, padding, dilation, strict=True)]
    return dict(
        batch=draw(number(1, 3)),
        channels=int(np.lcm(groups, deform_groups)) * draw(number(1, 3)),
        outputs=groups * draw(number(1, 5)),
        size=tuple(n + draw(number(0, 7)) for n in least),
        kernel=kernel,
        stride=draw(st.tuples(number(1, 3), number(1, 3))),
        padding=padding,
        dilation=dilation,
        groups=groups,
        deform_groups=deform_groups,
        spread=draw(st.sampled_from([0.3, 2.0, 20.0])),
    )


@settings(max_examples=40, deadline=None, database=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(arguments(), st.booleans(), st.booleans(), st.sampled_from([0, 1, 2]), st.integers(0, 2**31))
def test_any_geometry(device, sizes, masked, biased, rounding, seed):
    torch.manual_seed(seed)
    tensors, geometry = make(**sizes)
    tensors[1] = (tensors[1], tensors[1].round(), (tensors[1] * 2).round() / 2)[rounding]
    tensors[2], tensors[4] = tensors[2] if masked else None, tensors[4] if biased else None
    expected = run(tensors, geometry, function=reference.deform_conv2d)
    assert_close(run([t if t is None else t.to(device) for t in tensors], geometry), expected)


@pytest.mark.parametrize("wanted", NAMES)
def test_one_gradient_at_a_time(device, wanted):
    tensors, geometry = make(device=device)
    everything = dict(zip(NAMES, run(tensors, geometry)[1:], strict=True))
    leaves = {name: t.requires_grad_(name == wanted) for name, t in zip(NAMES, tensors, strict=True)}
    output = call(leaves.values(), geometry)
    generator = torch.Generator().manual_seed(5)
    output.backward(torch.randn(output.shape, generator=generator, dtype=torch.float64).to(device))
    assert_close([leaves[wanted].grad], [everything[wanted]], names=[wanted])
    assert all(leaf.grad is None for name, leaf in leaves.items() if name != wanted)


def test_closed_form_of_the_reference_equals_its_autograd():
    tensors, geometry = make()
    output = call(tensors, geometry, reference.deform_conv2d)
    grad_output = torch.randn_like(output)
    input, offset, mask, weight, _ = tensors
    closed = reference.backward(grad_output, input, offset, mask, weight, *geometry, needs=(True,) * 5)
    automatic = run(tensors, geometry, grad_output, reference.deform_conv2d)
    assert_close(closed, automatic[1:], names=NAMES)


# --- layouts, sizes, types ---


def test_strided_and_expanded_arguments(device):
    (input, offset, mask, weight, bias), geometry = make(size=(6, 7), device=device)
    wide = torch.zeros(2, 4, 12, 8, device=device, dtype=input.dtype)
    wide[:, :, ::2, 1:] = input
    tensors = [
        wide[:, :, ::2, 1:],
        offset[:1].expand(2, -1, -1, -1),
        mask.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2),
        weight.transpose(2, 3).contiguous().transpose(2, 3),
        bias[:1].expand(6),
    ]
    assert not any(t.is_contiguous() for t in tensors)
    expected = run([t.contiguous() for t in tensors], geometry)
    assert_close(run(tensors, geometry), expected)
    ones = torch.ones(1, 1, 1, 1, device=device, dtype=input.dtype)
    flat = run(tensors, geometry, ones.expand(expected[0].shape))
    assert_close(flat, run(tensors, geometry, ones.repeat(expected[0].shape)))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_channels_last_stays_channels_last(device, dtype):
    (input, offset, mask, weight, bias), geometry = make(size=(6, 7), dtype=dtype, device=device)
    last = [t.to(memory_format=torch.channels_last) for t in (input, offset, mask, weight)]
    plain, actual = run((input, offset, mask, weight, bias), geometry), run((*last, bias), geometry)
    assert_close(actual, plain, dtype)
    assert all(t.is_contiguous() for t in plain)
    assert all(t.is_contiguous(memory_format=torch.channels_last) for t in actual[:-1])
    mixed = run((last[0], offset, mask, weight, bias), geometry)
    assert mixed[0].is_contiguous(memory_format=torch.channels_last) and mixed[2].is_contiguous()


@pytest.mark.parametrize("last", [False, True], ids=["contiguous", "channels-last"])
def test_batch_of_none(device, last):
    tensors, geometry = make(batch=0, device=device)
    if last:
        tensors[0] = tensors[0].to(memory_format=torch.channels_last)
    output, *grads = run(tensors, geometry)
    assert output.shape == (0, 6, 5, 6)
    assert [g.shape for g in grads] == [t.shape for t in tensors]
    assert all(not g.any() for g in grads)


def test_batch_of_65(device):
    tensors, geometry = make(batch=65, size=(4, 3), device=device)
    whole = run(tensors, geometry)[0]
    for part in (slice(0, 33), slice(33, 65)):
        input, offset, mask, weight, bias = tensors
        piece = call((input[part], offset[part], mask[part], weight, bias), geometry)
        assert_close([whole[part]], [piece])
    assert_close(run(tensors, geometry), run([t.cpu() for t in tensors], geometry, function=reference.deform_conv2d))


@pytest.mark.parametrize("kernel", [(1, 1), (3, 3), (5, 4)], ids=str)
def test_image_of_one_pixel(device, kernel):
    sizes = dict(size=(1, 1), kernel=kernel, padding=(kernel[0] // 2, kernel[1] // 2), spread=0.6)
    tensors, geometry = make(**sizes, device=device)
    expected = run([t.cpu() for t in tensors], geometry, function=reference.deform_conv2d)
    assert_close(run(tensors, geometry), expected)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_offsets_that_are_no_place(device, dtype):
    tensors, geometry = make(batch=1, size=(6, 7), dtype=dtype, device=device)
    input, offset, mask, weight, bias = tensors
    largest = torch.finfo(dtype).max
    far = [float("inf"), -float("inf"), largest, -largest, 2.0**31, -(2.0**31), 2.0**63, 1e6, -1e6]
    taps = [(2 * index + index % 2, index % 6, index % 7) for index in range(len(far))]
    removed = mask.clone()
    for value, (channel, y, x) in zip(far, taps, strict=True):
        offset[0, channel, y, x] = value
        removed[0, channel // 2, y, x] = 0
    expected = run((input, torch.where(offset.abs() < 1e5, offset, 0), removed, weight, bias), geometry)
    actual = run(tensors, geometry)
    for index in (0, 1, 4, 5):  # a sample of zero, and no gradient through it
        assert_close([actual[index]], [expected[index]], dtype)
    assert_close([actual[2]], [expected[2]], dtype)
    assert all(actual[2][0, channel, y, x] == 0 for channel, y, x in taps)

    offset[0, 3, 0, 0] = offset[0, 34, 5, 6] = float("nan")
    output, grad_input, *_ = run(tensors, geometry)
    assert output.isnan().any(1)[0].nonzero().tolist() == [[0, 0], [5, 6]]
    assert output.isnan().any(1).equal(output.isnan().all(1))
    assert grad_input.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_sums_in_float32(device, dtype):
    """Against float64 on the same rounded numbers only the rounding of the result may remain."""
    tensors, geometry = make(channels=32, outputs=16, size=(12, 11), deform_groups=8, spread=0.5, device=device)
    tensors = [t.to(dtype) for t in tensors]
    signs = call(tensors, geometry).sign()
    actual = run(tensors, geometry, signs)
    exact = [t.double().cpu() for t in tensors]
    expected = run(exact, geometry, signs.double().cpu(), reference.deform_conv2d)
    assert {t.dtype for t in actual} == {dtype}
    size = expected[0].abs()
    error = (actual[0].double().cpu() - expected[0]).abs() / (size + 0.01 * size.max())
    assert error.max() < torch.finfo(dtype).eps
    assert_close(actual, expected, dtype)


def test_offsets_keep_their_type(device):
    """A bfloat16 image is sampled where the float32 offsets say, not where bfloat16 would round them to."""
    (input, offset, mask, weight, bias), geometry = make(size=(4, 200), spread=40, device=device)
    offset = offset.float()
    offset[:, ::2] /= 40
    arguments = [input.bfloat16(), offset, mask.float(), weight.bfloat16(), bias.bfloat16()]
    grad_output = torch.randn(2, 6, 4, 200, device=device).bfloat16()
    actual = run(arguments, geometry, grad_output)
    assert [t.dtype for t in actual] == [torch.bfloat16] * 2 + [torch.float32] * 2 + [torch.bfloat16] * 2
    exact = [t.double().cpu() for t in arguments]
    expected = run(exact, geometry, grad_output.double().cpu(), reference.deform_conv2d)
    assert_close(actual, expected, torch.bfloat16)
    exact[1] = exact[1].bfloat16().double()
    lost = (call(exact, geometry, reference.deform_conv2d) - expected[0]).abs().max()
    assert (actual[0].double().cpu() - expected[0]).abs().max() < 0.1 * lost


def test_same_bits_twice(device, monkeypatch):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # torch's deterministic mode wants it on CUDA
    tensors, geometry = make(batch=3, channels=16, outputs=8, size=(21, 19), dtype=torch.float32, device=device)
    before, threads = torch.are_deterministic_algorithms_enabled(), torch.get_num_threads()
    torch.use_deterministic_algorithms(True)
    torch.set_num_threads(2)
    try:
        first, *others = (run(tensors, geometry) for _ in range(3))
        assert all(a.equal(b) for other in others for a, b in zip(first, other, strict=True))
    finally:
        torch.use_deterministic_algorithms(before)
        torch.set_num_threads(threads)


# --- what torch expects of an operator ---


@pytest.mark.parametrize("last", [False, True], ids=["contiguous", "channels-last"])
@pytest.mark.parametrize("masked", [True, False], ids=["mask", "no mask"])
def test_opcheck(device, masked, last):
    (input, offset, mask, weight, bias), geometry = make(device=device)
    if last:
        input, offset, weight = (t.to(memory_format=torch.channels_last) for t in (input, offset, weight))
    mask, bias = (mask, bias) if masked else (None, None)
    pairs, name = [list(pair) for pair in geometry], deform_conv._chosen
    grad_output = torch.randn(2, 6, 5, 6, device=device, dtype=torch.float64)
    needs = [True, True, True, not masked, masked]
    backward = (grad_output, input, offset, weight, mask, *pairs, needs, name)
    torch.library.opcheck(torch.ops.repro.deform_conv2d_backward.default, backward)
    leaves = [t if t is None else t.clone().requires_grad_() for t in (input, offset, weight, bias, mask)]
    torch.library.opcheck(torch.ops.repro.deform_conv2d.default, (*leaves, *pairs, name))


@pytest.mark.parametrize("compiler", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
@pytest.mark.parametrize("last", [False, True], ids=["contiguous", "channels-last"])
def test_compile(device, compiler, last):
    tensors, geometry = make(dtype=torch.float32, device=device)
    if last:
        tensors[0] = tensors[0].to(memory_format=torch.channels_last)

    def smooth(*arguments):
        return ops.deform_conv2d(*arguments).sin()

    torch.compiler.reset()
    compiled = torch.compile(smooth, fullgraph=True, backend=compiler)
    assert_close(run(tensors, geometry, function=compiled), run(tensors, geometry, function=smooth), torch.float32)


def test_compile_with_changing_shapes_and_autocast(device):
    def low(*arguments):
        with torch.autocast(device, dtype=torch.bfloat16):
            return ops.deform_conv2d(*arguments)

    torch.compiler.reset()
    compiled = torch.compile(low, fullgraph=True, backend="aot_eager", dynamic=True)
    for batch, size in ((2, (5, 6)), (3, (9, 7))):
        tensors, geometry = make(batch=batch, size=size, dtype=torch.float32, device=device)
        actual, expected = run(tensors, geometry, function=compiled), run(tensors, geometry, function=low)
        assert actual[0].dtype == torch.bfloat16
        assert_close(actual, expected, torch.float32)


class Block(torch.nn.Module):
    """As in SADNet: one convolution makes offsets and mask."""

    def __init__(self):
        super().__init__()
        self.sampling = torch.nn.Conv2d(4, 54, 3, padding=1)
        self.convolution = ops.DeformConv2d(4, 6, 3, padding=1)

    def forward(self, x):
        sampling = self.sampling(x)
        return self.convolution(x, sampling[:, :36], sampling[:, 36:].sigmoid())


def test_export(device):
    block = Block().to(device)
    dynamic = {0: torch.export.Dim("batch", min=1, max=64), 2: torch.export.Dim("height", min=3, max=99)}
    program = torch.export.export(block, (torch.randn(2, 4, 8, 9, device=device),), dynamic_shapes=(dynamic,))
    assert "torch.ops.repro.deform_conv2d.default" in program.graph_module.code
    image = torch.randn(3, 4, 17, 9, device=device)
    assert program.module()(image).equal(block(image))


def test_autocast(device):
    tensors, geometry = make(dtype=torch.float32, device=device)
    with torch.autocast(device, dtype=torch.bfloat16):
        actual = run(tensors, geometry)
    assert [t.dtype for t in actual] == [torch.bfloat16] + [torch.float32] * 5
    input, offset, mask, weight, bias = tensors
    low = run((input.bfloat16(), offset, mask, weight.bfloat16(), bias.bfloat16()), geometry)
    assert all(a.equal(b.to(a.dtype)) for a, b in zip(actual, low, strict=True))
    with torch.autocast(device, dtype=torch.bfloat16):
        assert call([t.double() for t in tensors], geometry).dtype == torch.float64  # as torch's own operators


def test_no_second_derivative(device):
    tensors, geometry = make(device=device)
    leaves = [t.requires_grad_() for t in tensors]
    (first,) = torch.autograd.grad(call(leaves, geometry).pow(2).sum(), leaves[0], create_graph=True)
    with pytest.raises(RuntimeError, match="no second derivative"):
        first.sum().backward()


def test_gradient_of_a_channel_slice_is_channels_last():
    """SADNet's offsets are a slice of a channels-last tensor; a gradient in another layout would be copied twice."""
    whole = torch.randn(1, 27, 5, 6).contiguous(memory_format=torch.channels_last).requires_grad_()
    offset, mask = whole.split([18, 9], 1)
    offset.register_hook(lambda grad: layouts.append(grad.stride(1)))
    layouts = []
    out = ops.deform_conv2d(torch.randn(1, 4, 5, 6), offset, torch.randn(4, 4, 3, 3), padding=1, mask=mask)
    out.sum().backward()
    assert layouts == [1]


def test_module_is_torchvisions():
    torchvision_ops = pytest.importorskip("torchvision.ops", exc_type=Exception)
    for arguments in (
        dict(kernel_size=3),
        dict(kernel_size=(3, 5), stride=(2, 1), padding=1, dilation=2, groups=2),
    ):
        for bias in (True, False):
            torch.manual_seed(3)
            theirs = torchvision_ops.DeformConv2d(4, 6, **arguments, bias=bias)
            torch.manual_seed(3)
            ours = ops.DeformConv2d(4, 6, **arguments, bias=bias)
            assert repr(ours) == repr(theirs)
            assert ours.state_dict().keys() == theirs.state_dict().keys()
            assert all(ours.state_dict()[key].equal(value) for key, value in theirs.state_dict().items())
            ours.load_state_dict(theirs.state_dict())
            image = torch.randn(1, 4, 9, 12)
            k = ours.kernel_size
            size = theirs(image, *_sampling(theirs, image)).shape
            assert copy.deepcopy(ours)(image, *_sampling(ours, image)).shape == size
            assert k == theirs.kernel_size
    with pytest.raises(ValueError, match="out_channels must be divisible by groups = 4, not 6"):
        ops.DeformConv2d(4, 6, 3, groups=4)


def _sampling(module, image):
    plain = conv2d(image, module.weight, None, module.stride, module.padding, module.dilation, module.groups)
    taps = module.kernel_size[0] * module.kernel_size[1]
    return torch.zeros(1, 2 * taps, *plain.shape[2:]), torch.ones(1, taps, *plain.shape[2:])


# --- wrong arguments ---

WRONG = {
    "3 dimensions": (lambda t: {"input": t["input"][0]}, ValueError, r"input .*\[N, C, H, W\].*\[4, 5, 6\]"),
    "no pixels": (
        lambda t: {"input": t["input"][:, :, :0]},
        ValueError,
        r"input must have at least one pixel",
    ),
    "integers": (
        lambda t: {"input": t["input"].long()},
        TypeError,
        r"input must be a real floating-point .*int64",
    ),
    "complex": (lambda t: {"offset": t["offset"] * 1j}, TypeError, r"offset must be a real floating-point"),
    "an array": (
        lambda t: {"offset": t["offset"].numpy()},
        TypeError,
        r"offset must be a tensor, not ndarray",
    ),
    "no offset": (lambda t: {"offset": None}, TypeError, r"offset must be a tensor, not NoneType"),
    "weight type": (lambda t: {"weight": t["weight"].float()}, TypeError, r"weight .*float64, not .*float32"),
    "bias type": (lambda t: {"bias": t["bias"].half()}, TypeError, r"bias .*float64, not .*float16"),
    "bias size": (lambda t: {"bias": t["bias"][:5]}, ValueError, r"bias must have shape \[6\], not \[5\]"),
    "channels": (
        lambda t: {"weight": t["weight"][:, :3]},
        ValueError,
        r"weight .*C = 4 channels; 3 .*not divide",
    ),
    "outputs": (
        lambda t: {"weight": t["weight"][:5, :2]},
        ValueError,
        r"weight .*multiple of 2 output.*not 5",
    ),
    "no weight": (lambda t: {"weight": t["weight"][:0]}, ValueError, r"weight must not be empty"),
    "offset channels": (lambda t: {"offset": t["offset"][:, :35]}, ValueError, r"offset .*2·G·3·3.* not 35"),
    "offset size": (
        lambda t: {"offset": t["offset"][:, :, 1:]},
        ValueError,
        r"offset must have shape \[2, 36, 5, 6\], not \[2, 36, 4, 6\]",
    ),
    "offset batch": (
        lambda t: {"offset": t["offset"][:1]},
        ValueError,
        r"offset must have shape \[2, 36, 5, 6\]",
    ),
    "mask size": (
        lambda t: {"mask": t["mask"][:, :9]},
        ValueError,
        r"mask must have shape \[2, 18, 5, 6\], not \[2, 9, 5, 6\]",
    ),
    "device": (
        lambda t: {"mask": t["mask"].to("meta")},
        ValueError,
        r"mask must be on the device .*cpu, not meta",
    ),
    "stride": (lambda t: {"stride": 0}, ValueError, r"stride must be at least 1, not \(0, 0\)"),
    "padding": (lambda t: {"padding": (0, -1)}, ValueError, r"padding must be at least 0, not \(0, -1\)"),
    "dilation": (lambda t: {"dilation": (1, 2, 3)}, ValueError, r"dilation must be one number or a pair"),
    "too small": (
        lambda t: {"dilation": 9},
        ValueError,
        r"input of 5 x 6 pixels is smaller than the kernel of 3 x 3",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_arguments(name):
    change, error, message = WRONG[name]
    tensors, _ = make()
    arguments = {**dict(zip(NAMES, tensors, strict=True)), "padding": 1}
    ops.deform_conv2d(**arguments)
    with pytest.raises(error, match=message):
        ops.deform_conv2d(**{**arguments, **change(arguments)})


# --- the choice of implementation ---


def test_backend_chooses_and_restores():
    tensors, geometry = make(dtype=torch.float32)
    with ops.backend("reference"):
        assert ops.explain().startswith("cpu tensors: reference runs, chosen by backend(...).")
        leaves = [t.requires_grad_() for t in tensors]
        output = call(leaves, geometry)
        with ops.backend("torchvision"):
            assert deform_conv._chosen == "torchvision"
        assert deform_conv._chosen == "reference"
    assert deform_conv._chosen == ""
    output.sum().backward()
    expected = run(tensors, geometry, torch.ones_like(output), reference.deform_conv2d)
    assert_close([leaf.grad for leaf in leaves], expected[1:], torch.float32, NAMES)


def test_unknown_and_impossible_choices(monkeypatch):
    with pytest.raises(ReproError, match=r"no implementation: 'fast'\. There are: cuda, cpu, torchvision, ref"):
        ops.backend("fast").__enter__()
    tensors, geometry = make()
    with (
        ops.backend("cuda"),
        pytest.raises(ReproError, match=r"'cuda', chosen by backend.* does not run on cpu"),
    ):
        call(tensors, geometry)
    monkeypatch.setenv("REPRO_DEFORM_CONV", "fast")
    with pytest.raises(ReproError, match=r"REPRO_DEFORM_CONV names no implementation: 'fast'"):
        call(tensors, geometry)
    monkeypatch.setenv("REPRO_DEFORM_CONV", "reference")
    assert "reference runs, chosen by REPRO_DEFORM_CONV" in ops.explain("cpu")
    with ops.backend("torchvision"):
        assert "backend(...)" in ops.explain("cpu")


def test_explain_names_every_candidate():
    lines = ops.explain("cuda").splitlines()
    assert lines[0].startswith("cuda tensors: ")
    assert [line.split(":")[0].strip() for line in lines[1:]] == ["cuda", "torchvision", "reference"]
    assert [line.split(":")[0].strip() for line in ops.explain("mps").splitlines()[1:]] == [
        "torchvision",
        "reference",
    ]


def test_slower_path_warns_once(monkeypatch):
    monkeypatch.setattr(deform_conv, "_usable", lambda name, kind: (name == "reference", f"{name} is away."))
    deform_conv._automatic.cache_clear()
    try:
        tensors, geometry = make()
        with pytest.warns(RuntimeWarning, match=r"run on 'reference'.*cpu: cpu is away.*torchvision is away"):
            call(tensors, geometry)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            call(tensors, geometry)
    finally:
        deform_conv._automatic.cache_clear()


CHILD = """
import sys, warnings
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    import torch
    from repro import ops
    from repro.ops import reference
    assert "torchvision" not in sys.modules
    torch.manual_seed(0)
    x, w, m = torch.randn(2, 4, 6, 7), torch.randn(3, 4, 3, 3), torch.rand(2, 18, 6, 7)
    o = torch.randn(2, 36, 6, 7)
    for _ in range(2):
        torch.testing.assert_close(
            ops.deform_conv2d(x, o, w, None, 1, 1, 1, m),
            reference.deform_conv2d(x, o, w, None, (1, 1), (1, 1), (1, 1), m),
        )
    module = ops.DeformConv2d(4, 3, 3, padding=1)
    module(x, o.requires_grad_(), m).sum().backward()
about = [str(w.message) for w in caught if "eformable" in str(w.message)]
"""


def run_child(code, **environment):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    environment.pop("REPRO_DEFORM_CONV", None)
    done = subprocess.run(
        [sys.executable, "-c", CHILD + code],
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def broken_torchvision(tmp_path):
    package = tmp_path / "torchvision"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('operator torchvision::nms does not exist')")
    return os.pathsep.join([str(tmp_path), str(ROOT)])


def without_compiler(folder):
    return {"CC": str(folder / "no-cc"), "PATH": "", "REPRO_CACHE": str(folder)}


def test_no_compiler(tmp_path):
    pytest.importorskip("torchvision", exc_type=Exception)
    output = run_child("print(len(about), about[0])", **without_compiler(tmp_path))
    assert output.startswith("1 Deformable convolutions of cpu tensors run on 'torchvision'")
    assert "no-cc" in output  # the reason


def test_broken_torchvision_and_no_compiler(tmp_path, broken_torchvision):
    code = """
from repro.errors import ReproError
try:
    with ops.backend("torchvision"):
        module(x, o, m)
except ReproError as error:
    print(error)
print(len(about), about[0])
print(ops.explain())
"""
    output = run_child(code, PYTHONPATH=broken_torchvision, **without_compiler(tmp_path))
    assert "'torchvision', chosen by backend(...), cannot run: import torchvision fails (RuntimeError" in output
    assert "1 Deformable convolutions of cpu tensors run on 'reference'" in output
    assert "operator torchvision::nms does not exist" in output.split("\n1 ")[1]
    assert "torchvision: not available." in output


@pytest.mark.skipif(not deform_conv._usable("cpu", "cpu")[0], reason="no compiled CPU kernel here")
def test_fast_path_leaves_torchvision_alone(broken_torchvision):
    code = "assert not about and 'torchvision' not in sys.modules; print(ops.explain())"
    output = run_child(code, PYTHONPATH=broken_torchvision)
    assert output.startswith("cpu tensors: cpu runs, the fastest") and "torchvision: not available." in output


@pytest.mark.slow
@pytest.mark.skipif(not deform_conv._usable("cpu", "cpu")[0], reason="no compiled CPU kernel here")
def test_two_processes_build_at_once(tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "REPRO_CACHE": str(tmp_path)}
    code = [sys.executable, "-c", CHILD + "assert not about, about"]
    both = [subprocess.Popen(code, env=environment, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    errors = [process.communicate(timeout=300)[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], errors
    assert [path.suffix for path in (tmp_path / "ops").iterdir() if path.is_file()] == [".so"]


def test_an_image_too_large_for_the_kernels_counters_is_refused():
    """Nothing of this size is held: every tensor is one number, seen again and again."""
    side, groups = 16_384, 8
    image = torch.zeros(1).expand(1, 8, side, side)
    offset, weight = torch.zeros(1, 2 * groups, 2, 2), torch.zeros(1, 8, 1, 1)
    with pytest.raises(ValueError, match=r"fewer than 2\^31 pixels"):
        cpu._Call(image, offset, None, weight, (side - 1,) * 2, (0, 0), (1, 1), (2, 2))


@pytest.mark.parametrize("wrong", [1.0, "same", (1, 0.5), None])
def test_what_is_no_whole_number_is_a_type_error(wrong):
    given = torch.rand(1, 2, 5, 5), torch.zeros(1, 18, 5, 5), torch.rand(2, 2, 3, 3)
    with pytest.raises(TypeError, match="padding must be a whole number"):
        ops.deform_conv2d(*given, padding=wrong)


@pytest.mark.skipif(not deform_conv._usable("cpu", "cpu")[0], reason="no compiled CPU kernel here")
def test_a_cache_that_cannot_be_written_costs_no_speed(tmp_path):
    """The library is built for this process alone, and goes with it."""
    (tmp_path / "plain").touch()
    code = "from repro.ops import cpu; assert not about, about; print(cpu._build('float'), cpu._build('float'))"
    first, second = run_child(code, REPRO_CACHE=str(tmp_path / "plain"), TMPDIR=str(tmp_path)).split()
    assert first == second and str(tmp_path) in first and "repro-ops-" in first
    assert [path.name for path in tmp_path.iterdir()] == ["plain"]
