import pytest
import torch

import repro
from repro import evaluate
from repro.models import pd

SMALL = {"width": 4, "depth": 3, "estimator_depth": 2}


def small(**sizes):
    torch.manual_seed(0)
    net = repro.build("pd", **(SMALL | sizes)).eval()
    for array in net.parameters():
        torch.nn.init.normal_(array, std=0.2)
    return net


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("size", [(1, 1), (7, 4)])
@pytest.mark.parametrize("channels", [1, 3])
def test_any_size(stride, size, channels):
    noisy = torch.rand(2, channels, *size)
    assert small(stride=stride, channels=channels)(noisy).shape == noisy.shape


def test_small_images_are_every_second_row_and_column():
    image = torch.arange(2 * 3 * 4 * 6.0).view(2, 3, 4, 6)
    small_images = pd.to_small_images(image, 2)
    for place, (row, column) in enumerate([(0, 0), (0, 1), (1, 0), (1, 1)]):
        assert torch.equal(small_images[:, place], image[..., row::2, column::2])
    assert torch.equal(pd.from_small_images(small_images, 2), image)


def test_a_network_that_finds_nothing_changes_nothing():
    net, noisy = small(stride=2), torch.rand(1, 3, 5, 6)
    with torch.no_grad():
        net.denoiser[-1].weight.zero_()
        torch.testing.assert_close(net(noisy), noisy)


def test_noisy_pixels_are_put_back_one_small_image_at_a_time(monkeypatch):
    net, noisy, seen = small(stride=2), torch.rand(1, 3, 4, 4), []

    def halve(image):
        seen.append(image)
        return image / 2

    monkeypatch.setattr(net, "denoise_once", halve)
    net(noisy)
    assert seen[0].shape == (1, 4, 3, 2, 2) and len(seen) == 5
    for place, image in enumerate(seen[1:]):
        kept = pd.to_small_images(image, 2) / pd.to_small_images(noisy, 2)
        expected = torch.full((4,), 0.5)
        expected[place] = 1
        torch.testing.assert_close(kept.mean((0, 2, 3, 4)), expected)


@pytest.mark.parametrize("stride", [1, 2])
def test_tiles_give_exactly_what_the_whole_does(stride):
    net, noisy = small(stride=stride), torch.rand(1, 3, 6, 80)
    with torch.no_grad():
        tiled = evaluate._run_in_tiles(net, noisy, 8)
        torch.testing.assert_close(tiled, net(noisy))
        net.halo = 0
        assert not torch.allclose(evaluate._run_in_tiles(net, noisy, 8), tiled)
