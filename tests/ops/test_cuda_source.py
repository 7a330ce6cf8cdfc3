"""``deform_conv.cu`` without a GPU: compiled for four architectures, and executed on the CPU.

Executed means: the very file, compiled as C++ behind ``cuda_shim.cpp`` (which gives it threads, barriers,
shuffles and shared memory as a GPU has them), driven by the host code that drives a GPU. Only the launcher
differs.
"""

import ctypes
import inspect
import os
import shutil
import subprocess
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings

from repro.errors import ReproError
from repro.ops import cuda, reference

HERE = Path(__file__).parent
VECTORS = Path(os.environ.get("REPRO_SHARED", HERE.parents[2] / "shared")) / "vectors"
CASES = sorted(VECTORS.glob("deform_*.npz"))
NAMES = ("input", "offset", "mask", "weight", "bias")
COMPILER = shutil.which("g++") or shutil.which("c++")
ALL = (True,) * 5
# Largest error, relative to the largest magnitude of the expected array. A unit in the last place is 1e-3 in
# float16 and 8e-3 in bfloat16; columns and products are rounded once each.
TOLERANCE = {torch.float64: 1e-10, torch.float32: 2e-5, torch.float16: 3e-3, torch.bfloat16: 2e-2}

needs_compiler = pytest.mark.skipif(COMPILER is None, reason="no C++ compiler to run the CUDA source with")


# --- compiled, without a GPU ---


def _nvrtc_missing() -> str:
    try:
        cuda.compile("sm_90")
    except ReproError as error:
        return str(error)
    return ""


@pytest.fixture(scope="module")
def nvrtc():
    if reason := _nvrtc_missing():
        if torch.version.cuda and "missing" not in reason:
            pytest.fail(reason)
        pytest.skip(reason)


@pytest.mark.parametrize("arch", ["sm_75", "sm_80", "sm_90", "sm_100"])
@pytest.mark.parametrize("dtype", cuda._KINDS, ids=str)
def test_source_compiles(nvrtc, arch, dtype, tmp_path, monkeypatch):
    monkeypatch.setenv("REPRO_CACHE", str(tmp_path))
    code = cuda.compile(arch, dtype, 16 // dtype.itemsize)
    assert code[:4] == b"\x7fELF"
    assert b"sample_columns" in code and b"spread_gradients" in code


def test_compiled_code_is_kept(nvrtc, tmp_path, monkeypatch):
    monkeypatch.setenv("REPRO_CACHE", str(tmp_path))
    code = cuda.compile("sm_80")
    (kept,) = (tmp_path / "ops").iterdir()
    assert kept.read_bytes() == code
    kept.write_bytes(b"kept")  # what is there is what is used
    assert cuda.compile("sm_80") == b"kept"
    blocked = tmp_path / "file"
    blocked.touch()
    monkeypatch.setenv("REPRO_CACHE", str(blocked))  # nothing can be written there
    assert cuda.compile("sm_80") == code


def test_unknown_architecture_is_one_sentence(nvrtc, tmp_path, monkeypatch):
    monkeypatch.setenv("REPRO_CACHE", str(tmp_path))
    with pytest.raises(ReproError, match="sm_11") as caught:
        cuda.compile("sm_11")
    assert "\n" not in str(caught.value)


def test_a_damaged_file_of_the_cache_is_compiled_anew(monkeypatch):
    asked = []

    def compile(arch, dtype, vector, anew=False):
        asked.append(anew)
        return b"right" if anew else b"damaged"

    class ObjectCode:
        def __init__(self, code):
            self.code = code

        @classmethod
        def from_cubin(cls, code, name):
            return cls(code)

        def get_kernel(self, name):
            if self.code == b"damaged":
                raise RuntimeError("CUDA_ERROR_INVALID_IMAGE")
            return name

    monkeypatch.setattr(cuda, "compile", compile)
    monkeypatch.setattr(cuda, "_import", lambda name: SimpleNamespace(ObjectCode=ObjectCode))
    load = inspect.unwrap(cuda._load)
    assert load("sm_90", torch.float32, 4) == {name: name for name in ("sample_columns", "spread_gradients")}
    assert asked == [False, True]


def test_a_launch_sets_the_device_first_and_goes_to_the_current_stream(monkeypatch):
    """What a GPU would be asked, in order: a thread of autograd's starts without a context."""
    asked = []
    core = SimpleNamespace(
        Device=lambda index: SimpleNamespace(set_current=lambda: asked.append(("device", index))),
        Stream=SimpleNamespace(from_handle=lambda handle: ("stream", handle)),
        LEGACY_DEFAULT_STREAM="default",
        LaunchConfig=lambda grid, block: (grid, block),
        launch=lambda stream, config, kernel, *arguments: asked.append((stream, config, kernel, arguments)),
    )
    monkeypatch.setattr(cuda, "_import", lambda name: core)
    monkeypatch.setattr(cuda, "_stream", inspect.unwrap(cuda._stream))
    monkeypatch.setattr(cuda, "_arch", lambda device: f"sm_of_{device}")
    monkeypatch.setattr(cuda, "_load", lambda *key: {"sample_columns": ("kernel", *key)})
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    for handle, stream in ((7, ("stream", 7)), (0, "default")):
        asked.clear()
        monkeypatch.setattr(torch.cuda, "current_stream", lambda handle=handle: SimpleNamespace(cuda_stream=handle))
        cuda._launch("sample_columns", torch.float16, 8, (3, 2), (11, 12))
        kernel = ("kernel", "sm_of_1", torch.float16, 8)
        assert asked == [("device", 1), (stream, ((3, 2), 256), kernel, (11, 12))]


@pytest.mark.parametrize("shift", [0, 1, 4])
def test_pixels_begin_where_a_vector_may(shift):
    whole = torch.arange(2 * 5 * 6 * 8 + shift, dtype=torch.float32)[shift:]
    image = whole.view(2, 5, 6, 8).permute(0, 3, 1, 2)
    rows = cuda._rows(image)
    assert rows.data_ptr() % 16 == 0 and torch.equal(rows.permute(0, 3, 1, 2), image)
    assert (rows.data_ptr() == image.data_ptr()) == (shift % 4 == 0), "no copy without need"


def test_absence_is_explained():
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    assert not cuda.available()
    assert cuda.why().startswith("The CUDA kernel is not available: ")


# --- executed on a CPU ---


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("cuda_shim")


@cache
def shim(folder: Path, dtype: torch.dtype, vector: int) -> ctypes.CDLL:
    library = folder / f"{dtype}-{vector}.so"
    macros = [f'-DKERNELS="{cuda.SOURCE}"', f"-DSCALAR={cuda._KINDS[dtype]}", f"-DVECTOR={vector}"]
    # Fibers jump between stacks, which fortified longjmp takes for an error.
    flags = ["-std=c++17", "-O1", "-ffp-contract=off", "-fPIC", "-shared", "-U_FORTIFY_SOURCE"]
    subprocess.run([COMPILER, *flags, *macros, HERE / "cuda_shim.cpp", "-o", library], check=True)
    return ctypes.CDLL(str(library))


@pytest.fixture(params=[False, True], ids=["threads forward", "threads backward"])
def launch(request, folder):
    """The launcher that runs on the CPU; the order in which a block's threads run must not matter."""
    return launcher(folder, request.param)


def launcher(folder, backward=False):
    def run(kernel, dtype, vector, blocks, arguments):
        assert all(isinstance(value, int) and -(2**63) <= value < 2**63 for value in arguments)
        values = (ctypes.c_int64 * len(arguments))(*arguments)
        grid, library = map(ctypes.c_int64, blocks), shim(folder, dtype, vector)
        error = library.launch(kernel.encode(), *grid, values, len(values), int(backward))
        assert error == 0, ("", "no such kernel", "wrong number of arguments", "threads wait forever")[error]

    return run


# Small problems are cut into the smallest tiles. The other ways are reached by moving the thresholds: tiles
# as large as they get with all taps in one block; many launches, each of a few images or a part of one.
WAYS = {
    "spread": {},
    "large tiles": {"_ENOUGH_BLOCKS": 0},
    "parts": {"COLUMN_BYTES": 3000},
    "deterministic": {},
}


@pytest.fixture(params=WAYS)
def way(request, monkeypatch):
    for name, value in WAYS[request.param].items():
        monkeypatch.setattr(cuda, name, value)
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what torch asks for before it is deterministic
    with deterministic(request.param == "deterministic"):
        yield


def compute(launch, tensors, geometry, grad_output, needs=ALL):
    """Output and gradients in the order of NAMES."""
    input, offset, mask, weight, bias = tensors
    output = cuda._forward(launch, input, offset, mask, weight, bias, *geometry)
    return [output, *cuda._backward(launch, grad_output, input, offset, mask, weight, *geometry, needs)]


def expect(tensors, geometry, grad_output):
    input, offset, mask, weight, bias = (t if t is None else t.double() for t in tensors)
    output = reference.forward(input, offset, mask, weight, bias, *geometry)
    needs = (True, True, mask is not None, True, True)
    return [output, *reference.backward(grad_output.double(), input, offset, mask, weight, *geometry, needs)]


def assert_close(actual, expected, dtype):
    for name, ours, right in zip(("output", *NAMES), actual, expected, strict=True):
        if right is None:
            assert ours is None or name == "mask", name
            continue
        assert ours.shape == right.shape, name
        scale = max(right.abs().max().item(), 1e-30)
        error = (ours.double() - right.double()).abs().max().item() / scale
        assert error <= TOLERANCE[dtype], f"{name}: {error:.2e} of the largest magnitude"


def make(
    batch=2, channels=4, outputs=6, size=(5, 6), kernel=(3, 3), stride=(1, 1), padding=(1, 1),
    dilation=(1, 1), groups=1, deform_groups=2, spread=1.5, seed=0,
):  # fmt: skip
    """Random float64 arguments in the order of NAMES, geometry, gradient of the output."""
    generator = torch.Generator().manual_seed(seed)
    axes = zip(size, kernel, stride, padding, dilation, strict=True)
    out = [(n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, s, p, d in axes]
    taps = deform_groups * kernel[0] * kernel[1]

    def random(*shape):
        return torch.randn(shape, dtype=torch.float64, generator=generator)

    tensors = [
        random(batch, channels, *size),
        random(batch, 2 * taps, *out) * spread,
        random(batch, taps, *out).sigmoid(),
        random(outputs, channels // groups, *kernel),
        random(outputs),
    ]
    return tensors, (stride, padding, dilation), random(batch, outputs, *out)


@contextmanager
def deterministic(on=True):
    """Also fills what ``torch.empty`` returns with NaN, so that nothing can be left unwritten unnoticed."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(on)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


@needs_compiler
@pytest.mark.skipif(not CASES, reason=f"no golden arrays at {VECTORS}; set REPRO_SHARED")
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_golden_arrays(folder, way, path, dtype):
    arrays = {name: torch.from_numpy(array) for name, array in np.load(path).items()}
    conf = arrays["conf"].tolist()
    geometry = (tuple(conf[0:2]), tuple(conf[2:4]), tuple(conf[4:6]))
    tensors = [arrays[name].to(dtype) if name in arrays else None for name in NAMES]
    actual = compute(launcher(folder), tensors, geometry, arrays["grad_output"].to(dtype))
    expected = [arrays["output"], *(arrays.get(f"grad_{name}") for name in NAMES)]
    assert_close(actual, expected, dtype)


@needs_compiler
@pytest.mark.parametrize("dtype", cuda._KINDS, ids=str)
@pytest.mark.parametrize("channels", [4, 8, 16, 32], ids=lambda n: f"{n} channels")
def test_every_type_and_width(launch, channels, dtype):
    tensors, geometry, grad_output = make(channels=channels, deform_groups=2, size=(4, 5), batch=1)
    tensors, grad_output = [t.to(dtype) for t in tensors], grad_output.to(dtype)
    actual = compute(launch, tensors, geometry, grad_output)
    assert all(a.dtype == dtype for a in actual)
    assert_close(actual, expect(tensors, geometry, grad_output), dtype)


@needs_compiler
@pytest.mark.parametrize("input_type, other", [
    (torch.bfloat16, torch.float32), (torch.float32, torch.bfloat16), (torch.float16, torch.float64),
    (torch.float64, torch.float16),
], ids=str)  # fmt: skip
def test_offset_and_mask_of_another_type(folder, input_type, other):
    tensors, geometry, grad_output = make(channels=8, batch=1)
    types = (input_type, other, other, input_type, input_type)
    tensors, grad_output = [t.to(k) for t, k in zip(tensors, types, strict=True)], grad_output.to(input_type)
    actual = compute(launcher(folder), tensors, geometry, grad_output)
    assert [a.dtype for a in actual] == [input_type, *types]
    loosest = max((input_type, other), key=TOLERANCE.get)
    assert_close(actual, expect(tensors, geometry, grad_output), loosest)


@needs_compiler
@settings(max_examples=40, deadline=None, derandomize=True)
@given(data=st.data())
def test_random_shapes(folder, data):
    draw = data.draw
    pair = st.tuples(st.integers(1, 2), st.integers(1, 2))
    kernel = draw(st.tuples(st.integers(1, 3), st.integers(1, 3)), label="kernel")
    pairs = [(1, 1), (1, 3), (2, 1), (2, 3), (3, 2), (2, 2), (4, 1)]
    groups, deform_groups = draw(st.sampled_from(pairs), label="groups")
    channels = groups * deform_groups * draw(st.integers(1, 5), label="channels")
    dilation = draw(pair, label="dilation")
    size = tuple(d * (k - 1) + 1 + draw(st.integers(0, 4)) for d, k in zip(dilation, kernel, strict=True))
    tensors, geometry, grad_output = make(
        batch=draw(st.integers(1, 3), label="batch"),
        channels=channels,
        outputs=groups * draw(st.integers(1, 3), label="outputs"),
        size=size,
        kernel=kernel,
        stride=draw(pair, label="stride"),
        padding=draw(st.tuples(st.integers(0, 2), st.integers(0, 2)), label="padding"),
        dilation=dilation,
        groups=groups,
        deform_groups=deform_groups,
        spread=draw(st.sampled_from([0.3, 3.0]), label="spread"),
    )
    tensors[2] = tensors[2] if draw(st.booleans(), label="mask") else None
    tensors[4] = tensors[4] if draw(st.booleans(), label="bias") else None
    with pytest.MonkeyPatch.context() as patch, deterministic(draw(st.booleans(), label="deterministic")):
        patch.setattr(cuda, "COLUMN_BYTES", draw(st.sampled_from([1, 2000, 1 << 28]), label="column bytes"))
        patch.setattr(cuda, "_ENOUGH_BLOCKS", draw(st.sampled_from([0, 8, 1024]), label="blocks"))
        run = launcher(folder, draw(st.booleans(), label="threads backward"))
        actual = compute(run, tensors, geometry, grad_output)
    assert_close(actual, expect(tensors, geometry, grad_output), torch.float64)


@needs_compiler
@pytest.mark.parametrize(
    "channels, deform_groups, size",
    [
        pytest.param(70, 70, (2, 3), id="more groups than a tile holds"),
        pytest.param(300, 1, (2, 3), id="more channels than lanes take at once"),
        pytest.param(12, 3, (11, 13), id="more pairs of position and group than threads"),
    ],
)
def test_every_loop_goes_round(launch, monkeypatch, channels, deform_groups, size):
    monkeypatch.setattr(cuda, "_ENOUGH_BLOCKS", 0)
    tensors, geometry, grad_output = make(
        1, channels, 2, size, kernel=(1, 2), padding=(0, 0), deform_groups=deform_groups
    )
    expected = expect(tensors, geometry, grad_output)
    assert_close(compute(launch, tensors, geometry, grad_output), expected, torch.float64)
    tensors[1] = tensors[1].contiguous(memory_format=torch.channels_last)
    assert_close(compute(launch, tensors, geometry, grad_output), expected, torch.float64)


@needs_compiler
def test_layouts_and_strides(folder):
    tensors, geometry, grad_output = make(channels=8)
    tensors[1] = tensors[1][:1].expand(2, -1, -1, -1)
    expected = expect(tensors, geometry, grad_output)
    last = [t.contiguous(memory_format=torch.channels_last) if t.dim() == 4 else t for t in tensors]
    wide = [torch.stack([t, t], -1)[..., 0] for t in tensors]
    for variant in (tensors, last, wide, [last[0], tensors[1], last[2], *tensors[3:]]):
        assert_close(compute(launcher(folder), variant, geometry, grad_output), expected, torch.float64)
    grad_output = grad_output.contiguous(memory_format=torch.channels_last)
    actual = compute(launcher(folder), last, geometry, grad_output)
    assert_close(actual, expected, torch.float64)
    assert actual[2].is_contiguous(memory_format=torch.channels_last)


@needs_compiler
def test_far_infinite_and_nan_positions(folder):
    """Around the image lies NaN, which would show in the result if it were read."""
    tensors, geometry, grad_output = make(channels=4, size=(5, 6))
    frame = torch.full((200, *tensors[0].shape[2:], 4), torch.nan, dtype=torch.float64)
    frame[99:101] = tensors[0].permute(0, 2, 3, 1)
    tensors[0] = frame[99:101].permute(0, 3, 1, 2)
    offset = tensors[1]
    for place, value in enumerate((torch.inf, -torch.inf, 1e30, -1e30, 3e9, -3e9, 1e300, 6.5, -6.5)):
        offset.view(-1)[place * 37 :: 401] = value
    actual = compute(launcher(folder), tensors, geometry, grad_output)
    assert all(a.isfinite().all() for a in actual)
    assert_close(actual, expect(tensors, geometry, grad_output), torch.float64)

    offset[1, 3, 2, 4] = torch.nan
    output, grad_input, *_ = compute(launcher(folder), tensors, geometry, grad_output)
    assert output[1, :, 2, 4].isnan().all()
    assert output.isnan().sum() == output.shape[1]
    assert grad_input.isfinite().all()


@needs_compiler
def test_only_what_is_needed(folder):
    tensors, geometry, grad_output = make(channels=8)
    everything = compute(launcher(folder), tensors, geometry, grad_output)[1:]
    for only in range(5):
        needs = tuple(k == only for k in range(5))
        some = compute(launcher(folder), tensors, geometry, grad_output, needs)[1:]
        assert [s is not None for s in some] == list(needs)
        torch.testing.assert_close(some[only], everything[only])


@needs_compiler
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_deterministic_sum_does_not_depend_on_the_order(folder, dtype):
    """All positions hit the same few pixels; the two thread orders add them up differently."""
    tensors, geometry, grad_output = make(1, channels=8, size=(2, 2), padding=(6, 6), spread=9.0)
    tensors, grad_output = [t.to(dtype) for t in tensors], grad_output.to(dtype)
    tensors[1] = tensors[1].clamp(-7, 7)

    def gradients():
        orders = [compute(launcher(folder, order), tensors, geometry, grad_output) for order in (False, True)]
        return zip(*orders, strict=True)

    if dtype == torch.float32:
        assert not all(torch.equal(a, b) for a, b in gradients()), "the orders should matter by default"
    with deterministic():
        assert all(torch.equal(a, b) for a, b in gradients())


@needs_compiler
def test_deterministic_sum_passes_on_infinities(folder):
    tensors, geometry, grad_output = make(channels=4, batch=1)
    grad_output[0, 0, 0, 0] = torch.inf
    usual = compute(launcher(folder), tensors, geometry, grad_output)[1]
    with deterministic():
        exact = compute(launcher(folder), tensors, geometry, grad_output)[1]
    assert not usual.isfinite().all()
    torch.testing.assert_close(exact, usual, equal_nan=True)


@needs_compiler
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_shim_converts_half_precision_as_torch_does(folder, dtype):
    """A 1 x 1 kernel with weight one, and images of one pixel: every bit pattern goes through unchanged."""
    every = torch.arange(2**16, dtype=torch.int32).to(torch.int16).view(dtype).view(1, -1, 1, 1)
    weight, offset = torch.ones(1, 2**16, 1, 1, dtype=dtype), torch.zeros(1, 2, 1, 1)
    call = cuda._Call(launcher(folder), every, offset, None, weight, (1, 1), (0, 0), (1, 1))
    (chunk,) = call.chunks()
    torch.testing.assert_close(call.sample(chunk).view_as(every), every, rtol=0, atol=0, equal_nan=True)


# --- on a GPU ---


@pytest.fixture
def gpu():
    if not torch.cuda.is_available():
        pytest.skip("no NVIDIA GPU here")
    assert cuda.available(), cuda.why()


def on_gpu(tensors, geometry, grad_output):
    input, offset, mask, weight, bias, grad_output = (t if t is None else t.cuda() for t in (*tensors, grad_output))
    output = cuda.forward(input, offset, mask, weight, bias, *geometry)
    gradients = cuda.backward(grad_output, input, offset, mask, weight, *geometry, ALL)
    return [t if t is None else t.cpu() for t in (output, *gradients)]


@pytest.mark.cuda
@pytest.mark.parametrize("dtype", cuda._KINDS, ids=str)
@pytest.mark.parametrize("deform_groups", [1, 2, 8])
def test_gpu_agrees_with_the_reference(gpu, way, dtype, deform_groups):
    tensors, geometry, grad_output = make(3, 32, 16, (19, 23), deform_groups=deform_groups)
    tensors, grad_output = [t.to(dtype) for t in tensors], grad_output.to(dtype)
    assert_close(on_gpu(tensors, geometry, grad_output), expect(tensors, geometry, grad_output), dtype)


@pytest.mark.cuda
def test_gpu_gives_the_same_bits_twice(gpu, monkeypatch):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    tensors, geometry, grad_output = make(2, 16, 16, (8, 8), padding=(3, 3), spread=4.0)
    tensors, grad_output = [t.float() for t in tensors], grad_output.float()
    with deterministic():
        once, again = (on_gpu(tensors, geometry, grad_output) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(once, again, strict=True))


@pytest.mark.cuda
def test_gpu_runs_on_the_current_stream(gpu):
    tensors, geometry, _ = make(4, 64, 64, (64, 64), deform_groups=8)
    input, offset, mask, weight, bias = (t.float().cuda() for t in tensors)
    right = cuda.forward(input, offset, mask, weight, bias, *geometry)
    late = torch.full_like(input, torch.nan)
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(50_000_000)  # what ran on another stream would see the NaN
        late.copy_(input)
        output = cuda.forward(late, offset, mask, weight, bias, *geometry)
    stream.synchronize()
    torch.testing.assert_close(output, right)
