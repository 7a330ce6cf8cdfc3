import json

import pandas as pd
import pytest
import torch
from typer.testing import CliRunner

import repro
from repro import benchmark_cost, cli
from repro.benchmark_cost import bench_cost
from repro.errors import ReproError
from repro.study.costs import measure_cost


def test_one_table_per_device(tmp_path, monkeypatch):
    monkeypatch.setattr(benchmark_cost, "measure_memory_mib", lambda name, height, width, device: 1.0)
    lines = []
    arguments = {"networks": ("ridnet", "ffdnet"), "height": 12, "width": 16, "rounds": 3, "folder": tmp_path}
    table = bench_cost("cpu", **arguments, echo=lines.append)
    (path,) = tmp_path.glob("cost-cpu-*.csv")
    stored = pd.read_csv(path)
    assert list(stored) == list(table) and list(stored.network) == ["ridnet", "ffdnet"]
    assert list(stored.parameters) == [1_499_371, 852_108]
    assert (stored.seconds > 0).all() and (stored.rounds == 3).all()
    assert (stored.seconds_lower_quartile <= stored.seconds_upper_quartile).all()
    assert (stored.flops_g > stored.macs_g).all()
    assert json.loads(path.with_suffix(".json").read_text())["threads"] == torch.get_num_threads()


def test_networks_that_take_long_are_measured_less_often(tmp_path, monkeypatch):
    monkeypatch.setattr(benchmark_cost, "measure_memory_mib", lambda name, height, width, device: 1.0)
    monkeypatch.setattr(benchmark_cost, "SLOW_SECONDS", 0)
    arguments = {"networks": ("ffdnet",), "height": 8, "width": 8, "rounds": 5, "folder": tmp_path}
    assert list(bench_cost("cpu", **arguments, echo=str).rounds) == [benchmark_cost.FEW_ROUNDS]


@pytest.mark.slow
def test_memory_grows_with_the_image():
    small, large = (benchmark_cost.measure_memory_mib("ffdnet", side, side, "cpu") for side in (16, 512))
    # at half the size, one layer of 96 features in and one out, float32
    least = 2 * 96 * 256 * 256 * 4 / 2**20
    assert small < 0.5 * least < 0.9 * least < large


def test_matrix_products_are_counted_apart():
    net = repro.build("rnan", width=4, groups=2)
    cost = measure_cost(net, 6, 8)
    assert cost.products == 2 * 2 * (4 // 2) * (6 * 8) ** 2  # two blocks, two products, half the width
    assert not any("pairs_at_once" in vars(module) for module in net.modules())  # counted whole, run in portions
    assert measure_cost(repro.build("dncnn"), 6, 8).products == 0


def test_what_cannot_be_measured_is_said(tmp_path):
    with pytest.raises(ReproError, match="bm3d cannot be measured"):
        bench_cost("cpu", networks=("bm3d",), folder=tmp_path)


def test_the_command_is_there():
    assert "480x320" in CliRunner().invoke(cli.app, ["bench", "cost", "--help"]).output


def test_a_part_of_the_networks_stays_out_of_the_studys_table(monkeypatch):
    with pytest.raises(ReproError, match="--out"):
        bench_cost("cpu", networks=("ffdnet",))


@pytest.mark.parametrize("name", benchmark_cost.NETWORKS)
def test_every_network_of_the_list_is_counted(name):
    model, sizes = benchmark_cost.NETWORKS[name]
    cost = measure_cost(repro.build(model, **sizes), 16, 16)
    assert cost.flops > cost.macs > 0
