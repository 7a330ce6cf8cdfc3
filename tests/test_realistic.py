"""Signal-dependent noise: its variance, its map, its reproducibility."""

import pytest
import torch

from repro.data import realistic


def test_variance_is_what_the_map_says():
    """Four brightnesses, 250,000 values each."""
    levels = torch.tensor([0.0, 0.1, 0.5, 1.0])
    clean = levels.reshape(4, 1, 1, 1).expand(4, 1, 500, 500)
    noisy = realistic.add_poisson_gaussian_noise(clean, 0.01, 10.0, generator=torch.Generator().manual_seed(0))
    sigma = realistic.noise_map(clean, 0.01, 10.0)[:, 0, 0, 0]
    torch.testing.assert_close(sigma.square(), 0.01 * levels + (10 / 255) ** 2)
    torch.testing.assert_close((noisy - clean).std((1, 2, 3)), sigma, rtol=0.005, atol=0)
    torch.testing.assert_close(noisy.mean((1, 2, 3)), levels, rtol=0, atol=1e-3)


def test_photons_are_counted():
    """Without reading noise every value is a whole number of photons."""
    clean = torch.rand(3, 20, 20, generator=torch.Generator().manual_seed(0))
    photons = realistic.add_poisson_gaussian_noise(clean, 0.02, 0.0) / 0.02
    torch.testing.assert_close(photons, photons.round(), atol=1e-4, rtol=0)


def test_the_map_is_the_mean_variance_of_the_channels():
    clean = torch.tensor([0.0, 0.3, 0.6]).reshape(3, 1, 1)
    assert realistic.noise_map(clean, 0.1, 0.0).item() == pytest.approx(0.03**0.5)


def test_no_noise_is_no_noise():
    clean = torch.rand(2, 3, 8, 8)
    gain = torch.tensor([0.0, 0.02]).reshape(2, 1, 1, 1)
    noisy = realistic.add_poisson_gaussian_noise(clean, gain, 0.0)
    assert torch.equal(noisy[0], clean[0])
    assert not torch.equal(noisy[1], clean[1])


def test_parameters_fill_their_ranges():
    gain, sigma_255 = realistic.draw_parameters(2000, torch.Generator().manual_seed(0))
    assert gain.shape == sigma_255.shape == (2000, 1, 1, 1)
    assert 0 <= gain.min() < 1e-4 < 0.0250 < gain.max() <= 0.16**2
    assert 0 <= sigma_255.min() < 0.1 < 15.2 < sigma_255.max() <= 15.3
    assert gain.sqrt().mean() == pytest.approx(0.08, rel=0.05)


def test_evaluation_noise_depends_on_name_and_seed_alone():
    clean = torch.rand(3, 200, 200, generator=torch.Generator().manual_seed(1))
    noisy, noise_map = realistic.fixed_realistic_noise(clean, "kodim01")
    again, _ = realistic.fixed_realistic_noise(clean, "kodim01")
    assert torch.equal(noisy, again)
    assert noisy.dtype == torch.float32
    for other in (("kodim02", 0), ("kodim01", 1)):
        assert not torch.equal(noisy, realistic.fixed_realistic_noise(clean, *other)[0])
    assert noise_map.shape == (1, 200, 200)
    ratio = (noisy - clean).square().mean() / noise_map.square().mean()
    assert ratio.sqrt() == pytest.approx(1, abs=0.01)
    assert (noisy - clean).mean().abs() < 4 * noise_map.mean() / clean.numel() ** 0.5


def test_black_stays_without_photons():
    noisy, _ = realistic.fixed_realistic_noise(torch.zeros(1, 64, 64), "black")
    assert noisy.isfinite().all()
    assert noisy.mean().abs() < 0.01


def test_uniform_noise_is_measured():
    clean = torch.rand(2, 3, 64, 64)
    sigma = torch.tensor([0.1, 0.2]).reshape(2, 1, 1, 1)
    noise_map = realistic.measure_noise_map(clean + sigma * torch.randn(2, 3, 64, 64), clean)
    assert noise_map.shape == (2, 1, 64, 64)
    torch.testing.assert_close(noise_map[:, 0, 0, 0], sigma.flatten(), rtol=0.03, atol=0)


@pytest.mark.parametrize(("gain", "sigma_255"), [(-1e-3, 5.0), (1e-3, -5.0), (float("nan"), 5.0)])
def test_impossible_strengths_are_refused(gain, sigma_255):
    with pytest.raises(ValueError, match="0 or more"):
        realistic.add_poisson_gaussian_noise(torch.rand(3, 4, 4), gain, sigma_255)
