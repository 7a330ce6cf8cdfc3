"""FFDNet, MemNet, RNAN and RIDNet: what their publications and their code fix."""

import os
import re
from ast import literal_eval
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

import repro
from repro import evaluate, weights
from repro.errors import ReproError
from repro.models import rnan
from repro.models.base import count_parameters
from repro.study.costs import measure_cost

SHARED = Path(os.environ.get("REPRO_SHARED") or Path(__file__).parents[2] / "shared")

SMALL = {
    "ffdnet": {"width": 4, "depth": 4},
    "memnet": {"width": 4, "blocks": 2, "units": 3},
    "rnan": {"width": 4, "groups": 3},
    "ridnet": {"width": 16},
}


def small(name, **sizes):
    """A small network in which no part is switched off, as a zero-initialised one would be."""
    torch.manual_seed(0)
    net = repro.build(name, **(SMALL[name] | sizes)).eval()
    for key, value in net.named_buffers():
        if key.endswith("running_mean"):
            torch.nn.init.uniform_(value, -0.2, 0.2)
        if key.endswith("running_var"):
            torch.nn.init.uniform_(value, 0.05, 0.2)
    for module in net.modules():
        if isinstance(module, rnan.NonLocal):
            torch.nn.init.normal_(module.back.weight)
    return net


def denoise(net, noisy):
    return net(noisy, sigma=0.1) if net.needs_sigma else net(noisy)


@pytest.mark.parametrize(
    ("name", "sizes", "count"),
    [
        ("ffdnet", {}, 852_108),
        ("ffdnet", {"channels": 1}, 485_316),
        ("memnet", {}, 2_907_782),
        ("rnan", {}, 8_959_555),
        ("ridnet", {}, 1_499_371),
    ],
)
def test_parameters(name, sizes, count):
    assert count_parameters(repro.build(name, **sizes)) == count


@pytest.mark.parametrize(
    ("name", "sizes", "flops", "macs"),
    [
        ("ffdnet", {}, None, 32.68),
        ("ffdnet", {"channels": 1}, None, 18.60),
        ("memnet", {}, 449.192, 444.078),
        ("rnan", {}, 1163.48, 991.750),
        ("ridnet", {}, 229.986, 229.543),
    ],
)
def test_operations_of_a_480x320_image(name, sizes, flops, macs):
    cost = measure_cost(repro.build(name, **sizes), 320, 480)
    assert cost.macs / 1e9 == pytest.approx(macs, abs=0.01)
    assert flops is None or cost.flops / 1e9 == pytest.approx(flops, abs=0.01)


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("size", [(1, 1), (1, 6), (7, 5)])
def test_any_size(name, size):
    noisy = torch.rand(2, 3, *size)
    clean = denoise(small(name), noisy)
    assert clean.shape == noisy.shape and clean.isfinite().all()


@pytest.mark.parametrize("name", SMALL)
def test_images_of_a_batch_do_not_mix(name):
    net, noisy = small(name), torch.rand(2, 3, 6, 8)
    torch.testing.assert_close(denoise(net, noisy)[1:], denoise(net, noisy[1:]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["ffdnet", "memnet"])
def test_tiles_give_exactly_what_the_whole_does(name):
    net, noisy = small(name), torch.rand(1, 3, 6, 60)
    with torch.no_grad():
        tiled = evaluate._run_in_tiles(net, noisy, 8, sigma=0.1)
        torch.testing.assert_close(tiled, denoise(net, noisy))
        net.halo = 0  # too little: the test can tell
        assert not torch.allclose(evaluate._run_in_tiles(net, noisy, 8, sigma=0.1), tiled)


@pytest.mark.parametrize("name", ["ridnet", "rnan"])
def test_what_looks_at_the_whole_image_says_so(name, monkeypatch):
    """What changes far away changes the result here, so that tiles are another result and must be asked for."""
    net, noisy = small(name), torch.rand(1, 3, 6, 60)
    far = noisy.clone()
    far[..., 50:] = 0
    assert not torch.equal(denoise(net, noisy)[..., :4], denoise(net, far)[..., :4])
    monkeypatch.setattr(evaluate, "PIXELS_AT_ONCE", 100)
    with pytest.raises(ReproError, match="as a whole"):
        repro.denoise(noisy, net)


# --- single facts


def test_ffdnet_takes_one_level_per_image():
    net, noisy = small("ffdnet"), torch.rand(2, 3, 4, 6)
    both = net(noisy, sigma=torch.tensor([0.1, 0.3]))
    torch.testing.assert_close(both[1:], net(noisy[1:], sigma=0.3))
    assert not torch.allclose(both[0], net(noisy, sigma=0.3)[0])


def test_ffdnet_pads_odd_sides_by_repetition():
    net, noisy = small("ffdnet"), torch.rand(1, 3, 5, 3)
    padded = F.pad(noisy, (0, 1, 0, 1), mode="replicate")
    torch.testing.assert_close(net(noisy, sigma=0.1), net(padded, sigma=0.1)[..., :5, :3])


def test_ffdnet_orders_the_half_size_images_along_the_rows():
    net = repro.build("ffdnet", channels=1, depth=2, width=4).eval()
    with torch.no_grad():
        for array in net.parameters():
            array.zero_()
        for place in range(4):  # two layers that hand the four images on, times 1, 2, 3, 4
            net.layers[0].weight[place, place, 1, 1] = 1
            net.layers[2].weight[place, place, 1, 1] = place + 1
        assert net(torch.ones(1, 1, 2, 2), sigma=0.0).flatten().tolist() == [1, 2, 3, 4]


def test_rnan_normalises_over_the_queries():
    block = rnan.NonLocal(4)
    torch.nn.init.normal_(block.back.weight)
    x = torch.rand(1, 4, 3, 2)
    queries, keys, values = (f(x).flatten(2)[0] for f in (block.theta, block.phi, block.g))
    likeness = torch.einsum("cq,ck->qk", queries, keys).exp()
    taken = torch.einsum("qk,ck->cq", likeness / likeness.sum(0, keepdim=True), values)
    torch.testing.assert_close(block(x), block.back(taken.view(1, 2, 3, 2)) + x)


def test_rnan_in_portions_is_rnan_at_once(monkeypatch):
    net, noisy = small("rnan"), torch.rand(2, 3, 6, 8)
    at_once = net(noisy)
    monkeypatch.setattr(rnan, "PAIRS_AT_ONCE", 500)  # 5 of 48 keys at a time
    torch.testing.assert_close(net(noisy), at_once)


@pytest.mark.parametrize("name", ["rnan", "ridnet"])
def test_values_go_to_255_inside(name):
    net, noisy = small(name), torch.rand(1, 3, 4, 4)
    plain = repro.build(name, **(SMALL[name] | {"value_range": 1})).eval()
    plain.load_state_dict(net.state_dict())
    torch.testing.assert_close(net(noisy), plain(255 * noisy) / 255)


def test_ridnet_adds_the_mean_and_the_input():
    net = small("ridnet")
    with torch.no_grad():
        net.tail.weight.zero_()
        net.tail.bias.zero_()
        shift = net(torch.zeros(1, 3, 2, 2))[0, :, 0, 0]
    torch.testing.assert_close(shift, torch.tensor([0.4488, 0.4371, 0.4040]))


def test_ridnet_is_for_colour():
    with pytest.raises(ReproError, match="colour"):
        repro.build("ridnet", channels=1)


# --- the authors' names


def names(instance):
    path = SHARED / "vectors" / "upstream_names" / f"{instance}.txt"
    if not path.exists():
        pytest.skip(f"{path} is not here (set REPRO_SHARED to the folder with vectors/)")
    lines = [line.split("\t") for line in path.read_text().splitlines() if not line.startswith("#")]
    return {name: literal_eval(shape) for name, shape in lines}


@pytest.mark.parametrize(
    ("name", "instance", "sizes"),
    [
        ("ffdnet", "kair_ffdnet_gray_nc32_nb15", {"channels": 1, "depth": 15, "width": 32}),
        ("ffdnet", "kair_ffdnet_colour_nc48_nb12", {"channels": 3, "depth": 12, "width": 48}),
        ("rnan", "rnan_nfeats8_groups10", {"channels": 3, "width": 8, "groups": 10, "value_range": 255}),
        ("ridnet", "ridnet_nfeats32_range255", {"channels": 3, "width": 32, "value_range": 255}),
    ],
)
def test_upstream_names_are_the_authors(name, instance, sizes):
    shapes = names(instance)
    net = weights.from_upstream(name, {key: torch.ones(shape) for key, shape in shapes.items()})
    assert {key: getattr(net.sizes, key) for key in sizes} == sizes
    assert {net.upstream_name(ours): tuple(value.shape) for ours, value in net.state_dict().items()} == shapes


def upstream(net):
    return {net.upstream_name(name): value.clone() for name, value in net.state_dict().items()}


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("ffdnet", {}),
        ("ffdnet", {"channels": 1, "depth": 5}),
        ("memnet", {}),
        ("memnet", {"channels": 1, "blocks": 1}),
        ("rnan", {}),
        ("rnan", {"channels": 1, "groups": 2}),
        ("ridnet", {}),
        ("ridnet", {"value_range": 1.0}),
    ],
)
def test_sizes_are_inferred(name, sizes):
    net = small(name, **sizes)
    again = weights.from_upstream(name, upstream(net))
    assert again.sizes == net.sizes
    noisy = torch.rand(1, net.sizes.channels, 4, 6)
    assert torch.equal(denoise(again, noisy), denoise(net, noisy))


@pytest.mark.parametrize("name", SMALL)
def test_missing_and_surplus_names_are_named(name):
    arrays = upstream(small(name))
    counted = [key for key in arrays if not key.endswith("num_batches_tracked")]
    for key in counted[:: max(1, len(counted) // 5)]:
        with pytest.raises(ReproError, match=re.escape(key)):
            weights.from_upstream(name, {other: value for other, value in arrays.items() if other != key})
    with pytest.raises(ReproError, match=r"has fc\.weight"):
        weights.from_upstream(name, arrays | {"fc.weight": torch.zeros(1)})
