"""The benchmark of the op: its arithmetic, and that one small run leaves a table that can be read back."""

import json

import pandas as pd
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from repro import benchmark
from repro.benchmark import Shape, bench_op


@pytest.mark.parametrize("backward", [False, True], ids=benchmark.PASSES)
def test_operations_of_a_convolution_are_torchs_count(backward):
    tensors = [torch.randn(2, 8, 5, 7), torch.randn(8, 8, 3, 3), torch.randn(8)]
    with FlopCounterMode(display=False) as counter:
        benchmark._call(benchmark._convolve, [t.requires_grad_() for t in tensors], benchmark.PASSES[backward])
    assert Shape(2, 8, 5, 7).operations(backward, deformable=False) == counter.get_total_flops()


def test_bytes_are_those_of_the_tensors():
    shape = Shape(2, 16, 5, 7)
    variants = benchmark._variants(shape, torch.float32, "cpu", with_reference=True)
    function, tensors = variants["reference", "contiguous"]
    arguments = sum(t.nbytes for t in tensors)
    output = function(*tensors).nbytes
    assert shape.bytes(False, 4) == arguments + output
    assert shape.bytes(True, 4) == arguments + output + 2 * arguments + output


def test_one_table_per_device(tmp_path, monkeypatch):
    monkeypatch.setattr(benchmark, "measure_speeds", lambda device, dtype: {"operations": 1e9, "bytes": 1e12})
    lines = []
    shape = Shape(1, 8, 6, 5)
    table = bench_op("cpu", rounds=3, shapes=[shape], with_reference=True, folder=tmp_path, echo=lines.append)
    (path,) = tmp_path.glob("op-cpu-*.csv")
    stored = pd.read_csv(path)
    assert len(stored) == len(table) and list(stored) == list(table)
    about = json.loads(path.with_suffix(".json").read_text())
    assert about["versions"]["torch"] and about["threads"] == torch.get_num_threads()
    assert set(stored.dtype) == {"float32", "bfloat16"} and set(stored["pass"]) == set(benchmark.PASSES)
    assert {"convolution", "reference"} < set(stored.implementation)
    assert (stored.ms > 0).all() and (stored.ms_lower_quartile <= stored.ms_upper_quartile).all()
    plain = stored[stored.implementation == "convolution"]
    assert (plain.convolution_ratio == 1).all()
    assert plain.floor_ms.to_numpy() == pytest.approx(
        [shape.operations(p != "forward", False) / 1e6 for p in plain["pass"]], rel=1e-4
    )
    theirs = stored[stored.implementation == "torchvision"]
    assert (theirs.torchvision_ratio == 1).all()
    ours = stored[(stored.implementation == "reference") & (stored["pass"] == "forward")].set_index("dtype")
    expected = theirs[theirs["pass"] == "forward"].set_index("dtype").ms / ours.ms
    pd.testing.assert_series_equal(ours.torchvision_ratio, expected, check_names=False, rtol=1e-3)
    assert any("torchvision_ratio" in line for line in lines)
