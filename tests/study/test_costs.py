import pytest
import torch
from torch import nn

import repro
from repro.ops import DeformConv2d
from repro.study.costs import measure_cost


def test_convolution_by_hand():
    # 6 x 8 outputs of 5 channels, each from 3 channels x 3 x 3
    cost = measure_cost(nn.Conv2d(3, 5, 3, padding=1), 6, 8, channels=3)
    assert cost.macs == 6 * 8 * 5 * 27
    assert cost.flops == cost.macs + 6 * 8 * 5
    assert cost.parameters == 5 * 27 + 5


def test_groups_stride_and_missing_bias():
    cost = measure_cost(nn.Conv2d(4, 8, 2, stride=2, groups=2, bias=False), 6, 8, channels=4)
    assert cost.macs == cost.flops == 3 * 4 * 8 * (2 * 4)


def test_transposed_convolution_counts_four_times_at_stride_two():
    cost = measure_cost(nn.ConvTranspose2d(4, 2, 2, stride=2, bias=False), 3, 5, channels=4)
    assert cost.macs == 3 * 5 * 4 * (2 * 4)  # every input value meets the 2 x 2 kernel of every output channel
    assert cost.flops == 6 * 10 * 2 * (4 * 4) == 4 * cost.macs


def test_normalisation_and_pooling():
    net = nn.Sequential(nn.BatchNorm2d(3), nn.ReLU(), nn.AdaptiveAvgPool2d(1))
    cost = measure_cost(net, 4, 4, channels=3)
    assert (cost.flops, cost.macs) == (4 * 48 + 48, 0)


def test_a_deformable_convolution_counts_as_an_ordinary_one():
    class Deformed(nn.Module):
        def __init__(self):
            super().__init__()
            self.deform = DeformConv2d(2, 4, 3, padding=1)

        def forward(self, x):
            offset = x.new_zeros(1, 18, *x.shape[-2:])
            return self.deform(x, offset, x.new_ones(1, 9, *x.shape[-2:]))

    ordinary = measure_cost(nn.Conv2d(2, 4, 3, padding=1), 5, 7, channels=2)
    assert measure_cost(Deformed(), 5, 7, channels=2) == ordinary


def test_a_dncnn_of_17_layers_has_the_published_cost():
    layers = [nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.ReLU()]
    for _ in range(15):
        layers += [nn.Conv2d(64, 64, 3, padding=1, bias=False), nn.BatchNorm2d(64), nn.ReLU()]
    net = nn.Sequential(*layers, nn.Conv2d(64, 3, 3, padding=1, bias=False))
    cost = measure_cost(net, 320, 480, channels=3)
    assert cost.parameters == 558_336
    assert cost.flops / 1e9 == pytest.approx(86.055, abs=5e-4)  # the paper prints 86.1
    assert cost.macs / 1e9 == pytest.approx(85.4655, abs=1e-4)


def test_sadnet_has_the_published_cost():
    cost = measure_cost(repro.build("sadnet"), 320, 480)
    assert cost.parameters == 4_234_723
    assert cost.flops / 1e9 == pytest.approx(50.0788, abs=5e-5)  # the paper prints 50.1
    assert cost.macs / 1e9 == pytest.approx(47.119, abs=5e-4)


def test_the_network_is_left_as_it_was():
    net = repro.build("sadnet", width=8).train()
    before = net.state_dict()["first.weight"].clone()
    measure_cost(net, 16, 16)
    assert net.training
    assert torch.equal(net.state_dict()["first.weight"], before)
    assert not any(module._forward_hooks for module in net.modules())


@pytest.mark.parametrize("naive", [{"naive": "bm3d"}, {"naive": "dncnn", "naive_sizes": {"depth": 3, "width": 4}}])
def test_a_naive_denoiser_inside_is_counted_for_its_convolutions(naive):
    """BM3D has none, and wants values, which a count does without; DnCNN's add to what the network has."""
    sizes = {"width": 4, "units": 1, "modules": 1}
    net = repro.build("gradnet-impl", **sizes, **naive)
    plain = measure_cost(repro.build("gradnet-impl", **sizes), 16, 16)
    inside = measure_cost(net.naive, 16, 16).macs if naive["naive"] == "dncnn" else 0
    assert measure_cost(net, 16, 16).macs == plain.macs + inside
    assert "forward" not in vars(net.naive)
