"""Noise: its statistics, its conventions, and that evaluation noise is the same for everybody."""

import hashlib

import numpy as np
import pytest
import torch
from scipy import stats

from repro.data.noise import add_gaussian_noise, fixed_gaussian_noise, unit_noise


def test_fixed_noise_has_not_changed():
    # Golden values: another noise would make the records of the study incomparable with new ones.
    noise = unit_noise((3, 37, 41), "kodim01", 50.0, seed=0)
    assert noise.dtype == np.float32
    rounded = np.round(noise.astype(np.float64), 5)  # the last bit is the platform's, the noise is not
    assert (
        hashlib.sha256(rounded.astype("<f8").tobytes()).hexdigest()
        == "6b8417e8afeb4f740c4d4c54f9baa7a5cbf8593659b010dcd40fc2ea6cd60086"
    )
    assert noise[0, 0, :4].tolist() == pytest.approx([-0.542301, -1.754891, 0.413425, -1.465336], abs=1e-6)


def test_unit_noise_is_standard_normal():
    noise = unit_noise((1_000_000,), "a", 25, 0).astype(np.float64)
    assert abs(noise.mean()) < 4e-3 and abs(noise.std() - 1) < 3e-3
    assert stats.kstest(noise, "norm").pvalue > 1e-3
    assert abs(np.corrcoef(noise[:-1], noise[1:])[0, 1]) < 4e-3
    assert np.isfinite(noise).all() and np.abs(noise).max() > 4


@pytest.mark.parametrize("other", [("b", 25, 0), ("a", 25.5, 0), ("a", 25, 1)])
def test_fixed_noise_depends_on_name_sigma_and_seed(other):
    reference, different = unit_noise((20_000,), "a", 25, 0), unit_noise((20_000,), *other)
    assert abs(np.corrcoef(reference, different)[0, 1]) < 0.03


def test_fixed_noise_depends_on_nothing_else():
    clean = torch.rand(3, 16, 20)
    torch.manual_seed(1)
    first = fixed_gaussian_noise(clean, "a", 25)
    torch.manual_seed(2)
    fixed_gaussian_noise(clean, "another image in between", 25)
    assert torch.equal(first, fixed_gaussian_noise(clean, "a", 25.0))
    noise = (fixed_gaussian_noise(torch.zeros(3, 16, 20), "a", 25)).double()
    assert torch.allclose(first.double() - clean.double(), noise, atol=1e-7)


def test_fresh_noise_has_the_level_asked_for():
    clean = torch.full((2, 3, 128, 128), 0.5)
    noisy = add_gaussian_noise(clean, 25, generator=torch.Generator().manual_seed(0))
    assert (noisy - clean).std() * 255 == pytest.approx(25, rel=0.02)
    assert (noisy - clean).mean() * 255 == pytest.approx(0, abs=0.4)
    again = add_gaussian_noise(clean, 25, generator=torch.Generator().manual_seed(0))
    assert torch.equal(noisy, again)
    levels = torch.tensor([10.0, 60.0]).view(2, 1, 1, 1)
    noise = add_gaussian_noise(clean, levels) - clean
    assert (noise[0].std() * 255).item() == pytest.approx(10, rel=0.03)
    assert (noise[1].std() * 255).item() == pytest.approx(60, rel=0.03)


def test_conventions():
    clean = torch.linspace(0, 1, 3 * 64 * 64).reshape(3, 64, 64)
    plain = fixed_gaussian_noise(clean, "a", 50)
    assert plain.min() < 0 and plain.max() > 1, "unclipped by default"
    assert torch.equal(fixed_gaussian_noise(clean, "a", 50, clip=True), plain.clamp(0, 1))
    rounded = fixed_gaussian_noise(clean, "a", 50, round_8bit=True)
    assert torch.equal(rounded, (plain.clamp(0, 1) * 255).round() / 255)
    fresh = add_gaussian_noise(clean, 50, round_8bit=True)
    assert torch.equal((fresh * 255).round() / 255, fresh) and fresh.min() >= 0 and fresh.max() <= 1
    assert torch.equal(add_gaussian_noise(clean, 0), clean)


def test_double_precision_and_batches_keep_their_type():
    clean = torch.rand(2, 1, 5, 6, dtype=torch.float64)
    for noisy in (add_gaussian_noise(clean, 5), fixed_gaussian_noise(clean, "a", 5)):
        assert noisy.dtype == torch.float64 and noisy.shape == clean.shape


@pytest.mark.parametrize("sigma", [-1, float("nan")])
def test_wrong_arguments(sigma):
    with pytest.raises(ValueError, match="sigma_255 must be 0 or more"):
        add_gaussian_noise(torch.zeros(1, 2, 2), sigma)
    with pytest.raises(TypeError, match="floating-point"):
        fixed_gaussian_noise(torch.zeros(1, 2, 2, dtype=torch.uint8), "a", 5)
