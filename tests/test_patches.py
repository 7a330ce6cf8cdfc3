"""Training patches: a function of seed and step, fair over positions and symmetries, with the noise asked for."""

from collections import Counter
from itertools import islice

import pytest
import torch

from repro.data.noise import add_gaussian_noise
from repro.data.patches import Patches
from repro.errors import ReproError
from repro.train import TrainConfig, corruption


def untouched(clean, generator):
    return clean


def gaussian(clean, generator):
    return add_gaussian_noise(clean, 25, generator=generator)


def photographs(*sizes, channels=3):
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randint(0, 256, (channels, height, width), dtype=torch.uint8, generator=generator)
        for height, width in sizes
    ]


IMAGES = photographs((40, 60), (50, 33))


def same(first, second):
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_a_batch_depends_on_seed_and_step_alone():
    patches = Patches(IMAGES, 16, 4, seed=3, corrupt=gaussian)
    forwards = [patches.batch(step) for step in range(6)]
    torch.manual_seed(99)  # torch's global generator has no part in it
    backwards = [Patches(IMAGES, 16, 4, 3, gaussian).batch(step) for step in reversed(range(6))][::-1]
    assert all(map(same, forwards, backwards))
    assert not any(same(forwards[0], other) for other in forwards[1:])
    assert not same(forwards[0], Patches(IMAGES, 16, 4, seed=4, corrupt=gaussian).batch(0))


@pytest.mark.parametrize("workers", [1, 3])
def test_working_ahead_changes_nothing(workers):
    patches = Patches(IMAGES, 16, 4, 0, gaussian)
    ahead = list(islice(patches.batches(5, workers=workers), 9))
    assert all(same(batch, patches.batch(5 + k)) for k, batch in enumerate(ahead))


def test_an_error_in_the_background_is_raised_in_front():
    def broken(clean, generator):
        raise RuntimeError("no noise today")

    with pytest.raises(RuntimeError, match="no noise today"):
        next(Patches(IMAGES, 16, 4, 0, broken).batches(0))


def test_processes_share_one_batch():
    whole = Patches(IMAGES, 16, 6, 0, gaussian).batch(7)
    parts = [Patches(IMAGES, 16, 6, 0, gaussian, part=(rank, 3)).batch(7) for rank in range(3)]
    assert same(whole, [torch.cat(tensors) for tensors in zip(*parts, strict=True)])
    with pytest.raises(ReproError, match="6 cannot be shared equally by 4"):
        Patches(IMAGES, 16, 6, 0, gaussian, part=(0, 4))


def test_every_position_and_symmetry_is_equally_likely():
    """Pixels are numbered, so that the corners of a crop say where it was cut and how it was turned."""
    # 3 x 2 and 1 x 4 positions of a 2 x 2 window: 10 in all, times 8 symmetries
    images = [torch.arange(12, dtype=torch.uint8).view(1, 4, 3), 100 + torch.arange(10).view(1, 2, 5).byte()]
    patches = Patches(images, 2, 50, 0, untouched)
    seen = Counter()
    for step in range(80):
        _, clean = patches.batch(step)
        seen.update(tuple(patch.flatten().tolist()) for patch in (clean * 255).round().int())
    windows = {
        tuple(turned.flatten().tolist())
        for image in images
        for window in image[0].unfold(0, 2, 1).unfold(1, 2, 1).flatten(0, 1)
        for square in (window, window.flip(1))
        for turned in (square.rot90(k) for k in range(4))
    }
    assert set(seen) == windows and len(windows) == 80
    expected = 4000 / 80
    chi_squared = sum((count - expected) ** 2 / expected for count in seen.values())
    assert chi_squared < 79 + 5 * (2 * 79) ** 0.5  # five standard deviations of its distribution


def test_values_are_the_photograph_s():
    noisy, clean = Patches(IMAGES, 33, 8, 0, untouched).batch(0)
    assert noisy.shape == (8, 3, 33, 33) and noisy.dtype == clean.dtype == torch.float32
    assert torch.equal(noisy, clean)
    assert torch.equal((clean * 255).round() / 255, clean)


@pytest.mark.parametrize(
    ("options", "low", "high"),
    [
        ({"sigma_255": 25}, 25, 25),
        ({"sigma_255": (5.0, 55.0)}, 5, 55),
        ({"sigma_255": [5.0, 55.0]}, 5, 55),  # as JSON has it
    ],
)
def test_noise_is_the_configuration_s(options, low, high):
    corrupt = corruption(TrainConfig(steps=1, **options))
    noisy, clean = Patches(photographs((80, 80)), 64, 40, 0, corrupt).batch(0)
    sigmas = 255 * (noisy - clean).std(dim=(1, 2, 3))
    tolerance = 4 / (2 * 3 * 64 * 64) ** 0.5  # four standard errors of a standard deviation
    assert sigmas.min() > low * (1 - tolerance) and sigmas.max() < high * (1 + tolerance)
    if low < high:
        assert sigmas.min() < low + 10 and sigmas.max() > high - 10
        assert abs(sigmas.mean() - (low + high) / 2) < 10


def test_noise_conventions():
    def batch(**options):
        return Patches(IMAGES, 32, 4, 0, corruption(TrainConfig(steps=1, **options))).batch(0)[0]

    plain, clipped, rounded = batch(), batch(clip=True), batch(round_8bit=True)
    assert plain.min() < 0 and plain.max() > 1
    assert torch.equal(clipped, plain.clamp(0, 1))
    assert torch.equal(rounded, (clipped * 255).round() / 255)


def test_what_cannot_be_cut_is_said():
    with pytest.raises(ReproError, match="64 x 64 cannot be cut from an image of 33 x 50 pixels"):
        Patches(photographs((80, 80), (50, 33)), 64, 4, 0, untouched)
    with pytest.raises(ReproError, match="without images"):
        Patches([], 64, 4, 0, untouched)
