import os
from ast import literal_eval
from pathlib import Path

import pytest
import torch
from torch import nn

import repro
from repro import weights
from repro.errors import ReproError
from repro.models.base import count_parameters

SHARED = Path(os.environ.get("REPRO_SHARED") or Path(__file__).parents[2] / "shared")
SMALL = {"width": 4, "depth": 5}


@pytest.mark.parametrize(
    ("sizes", "count"),
    [
        ({}, 558_336),
        ({"bias": "first"}, 558_400),
        ({"bias": "all"}, 559_363),
        ({"channels": 1}, 556_032),
        ({"channels": 1, "bias": "all"}, 557_057),
        ({"depth": 20}, 669_312),
        ({"depth": 20, "bias": "all"}, 670_531),
        ({"depth": 20, "bias": "all", "batch_norm": False}, 668_227),
        ({"depth": 16, "bias": "all", "residual": False}, 522_307),
    ],
)
def test_parameters(sizes, count):
    assert count_parameters(repro.build("dncnn", **sizes)) == count


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (7, 5)])
@pytest.mark.parametrize("channels", [1, 3])
def test_any_size(size, channels):
    noisy = torch.rand(2, channels, *size)
    assert repro.build("dncnn", channels=channels, **SMALL).eval()(noisy).shape == noisy.shape


def settled(**sizes):
    """A network whose normalisation has statistics of its own, as a trained one has."""
    torch.manual_seed(0)
    net = repro.build("dncnn", **(SMALL | sizes)).eval()
    for layer in net.layers:
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.running_var, 0.01, 2)
            nn.init.normal_(layer.running_mean)
            nn.init.normal_(layer.bias)
    return net


@pytest.mark.parametrize("bias", ["none", "first", "all"])
def test_merging_the_normalisation_changes_nothing(bias):
    net = settled(bias=bias)
    noisy = torch.rand(1, 3, 9, 8)
    merged = net.merged()
    assert not any(isinstance(layer, nn.BatchNorm2d) for layer in merged.layers)
    torch.testing.assert_close(merged(noisy), net(noisy), rtol=1e-4, atol=1e-5)


def test_residual_and_direct_are_the_two_readings_of_the_same_layers():
    net, noisy = settled(), torch.rand(1, 3, 8, 8)
    direct = settled(residual=False)
    torch.testing.assert_close(net(noisy) + direct(noisy), noisy)


def test_scales_of_the_normalisation_keep_away_from_zero():
    torch.manual_seed(0)
    scales = torch.cat([m.weight for m in repro.build("dncnn").modules() if isinstance(m, nn.BatchNorm2d)])
    assert scales.abs().min() >= 0.025 and (scales < 0).any() and (scales > 0).any()


def test_weights_begin_with_the_variance_of_the_authors():
    torch.manual_seed(0)
    weights = torch.cat([m.weight.flatten() for m in repro.build("dncnn").modules() if isinstance(m, nn.Conv2d)])
    assert weights.std().item() == pytest.approx((2 / (9 * 64)) ** 0.5, rel=0.01)
    assert abs(weights.mean().item()) < 1e-3


def names(instance):
    path = SHARED / "vectors" / "upstream_names" / f"{instance}.txt"
    if not path.exists():
        pytest.skip(f"{path} is not here (set REPRO_SHARED to the folder with vectors/)")
    lines = [line.split("\t") for line in path.read_text().splitlines() if not line.startswith("#")]
    return {name: literal_eval(shape) for name, shape in lines}


@pytest.mark.parametrize(("colour", "channels"), [("gray", 1), ("colour", 3)])
def test_kair_names(colour, channels):
    shapes = names(f"kair_dncnn_{colour}_nc32_nb17")
    net = weights.from_upstream("dncnn", {name: torch.ones(shape) for name, shape in shapes.items()})
    assert (net.sizes.depth, net.sizes.width, net.sizes.channels, net.sizes.bias) == (17, 32, channels, "all")
    assert net.sizes.residual and net.sizes.epsilon == 1e-4
    assert {net.upstream_name(ours): tuple(value.shape) for ours, value in net.state_dict().items()} == shapes


def kair(net):
    return {net.upstream_name(name): value for name, value in net.state_dict().items()}


def ports(net):
    return {name.replace("layers.", "module.dncnn."): value for name, value in net.state_dict().items()}


def reimplementation(net):
    """The names of the network in GradNet's re-implementation."""
    last = len(net.layers) - 1
    renamed = {}
    for name, value in net.state_dict().items():
        _, place, kind = name.split(".")
        head = {0: "conv1", last: "conv_last"}.get(int(place), f"mid_layer.{int(place) - 2}")
        renamed[f"{head}.{kind}"] = value
    return renamed


CASES = [
    (kair, {"bias": "all"}),
    (kair, {"bias": "all", "batch_norm": False}),
    (ports, {"epsilon": 1e-5}),
    (ports, {"bias": "first", "channels": 1}),
    (reimplementation, {"bias": "all", "residual": False, "epsilon": 1e-5}),
]


@pytest.mark.parametrize(("naming", "sizes"), CASES)
def test_every_naming_gives_the_same_network(naming, sizes):
    net = settled(**sizes)
    again = weights.from_upstream("dncnn", naming(net))
    if net.sizes.batch_norm:
        assert again.sizes == net.sizes
    noisy = torch.rand(1, net.sizes.channels, 6, 5)
    assert torch.equal(again(noisy), net(noisy))


@pytest.mark.parametrize(("naming", "sizes"), CASES[::2])
def test_missing_and_surplus_names_are_named(naming, sizes):
    arrays = naming(settled(**sizes))
    for name in (next(iter(arrays)), list(arrays)[-1]):
        if not name.endswith("num_batches_tracked"):
            with pytest.raises(ReproError, match=name.removeprefix("module.")):
                weights.from_upstream("dncnn", {key: value for key, value in arrays.items() if key != name})
    with pytest.raises(ReproError, match=r"fc\.weight"):
        weights.from_upstream("dncnn", arrays | {"fc.weight": torch.zeros(1)})


def test_the_naive_denoiser_of_the_re_implementation_loads():
    path = SHARED / "weights" / "gradnet_dncnn" / "dncnn_nonres_state_dict.pt"
    if not path.exists():
        pytest.skip(f"{path} is not here (set REPRO_SHARED to the folder with weights/)")
    net = weights.load(path, "dncnn")
    assert (net.sizes.depth, net.sizes.bias, net.sizes.residual) == (16, "all", False)
    assert count_parameters(net) == 522_307
    torch.manual_seed(0)
    clean = torch.full((1, 3, 32, 32), 0.5)
    noisy = clean + 0.1 * torch.randn_like(clean)
    with torch.no_grad():
        assert (net(noisy) - clean).square().mean() < (noisy - clean).square().mean() / 5
