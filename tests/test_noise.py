"""Noise: its statistics, its conventions, and that evaluation noise is the same for everybody."""

import hashlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from repro.data.noise import (
    add_gaussian_noise,
    count_events,
    fixed_gaussian_noise,
    fixed_impulse_noise,
    fixed_poisson_noise,
    unit_noise,
)


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


# --- evaluation noise of the other families

FIXED = {
    fixed_gaussian_noise: st.floats(0, 100),
    fixed_poisson_noise: st.floats(0.5, 500),
    fixed_impulse_noise: st.floats(0, 1),
}


@pytest.mark.parametrize("make", FIXED, ids=lambda make: make.__name__)
@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_fixed_noise_is_a_function_of_image_name_level_and_seed(make, data):
    level, seed = data.draw(FIXED[make]), data.draw(st.integers(0, 5))
    height, width = data.draw(st.integers(1, 9)), data.draw(st.integers(1, 9))
    clean = torch.rand(3, height, width, generator=torch.Generator().manual_seed(seed))
    noisy = make(clean, "a", level, seed)
    torch.manual_seed(data.draw(st.integers(0, 99)))
    assert torch.equal(noisy, make(clean.clone(), "a", level, seed))
    assert (noisy.shape, noisy.dtype) == (clean.shape, clean.dtype)
    assert torch.equal(make(clean, "a", level, seed, clip=True), noisy.clamp(0, 1))
    stored = make(clean, "a", level, seed, round_8bit=True) * 255
    assert torch.equal(stored.round() / 255, stored / 255)


@pytest.mark.parametrize(("make", "level"), [(fixed_poisson_noise, 30), (fixed_impulse_noise, 0.5)])
@pytest.mark.parametrize("other", [("b", 1.0, 0), ("a", 1.01, 0), ("a", 1.0, 1)])
def test_other_names_levels_and_seeds_have_other_noise(make, level, other):
    clean = torch.full((3, 64, 64), 0.5)
    name, factor, seed = other
    one, two = make(clean, "a", level) - clean, make(clean, name, level * factor, seed) - clean
    assert abs(np.corrcoef(one.flatten(), two.flatten())[0, 1]) < 0.05


def test_fixed_noise_of_the_other_families_has_not_changed():
    poisson = [0, 1, 2, 4, 4, 9, 9, 6, 9, 9, 10, 10, 15, 18, 17, 15, 10, 31, 26, 25, 15, 24, 34, 30]
    impulse = [1, 0, 0, 0, 0, 1, 1, 0]  # all channels alike
    clean = torch.linspace(0, 1, 24).reshape(3, 2, 4)
    counts = (fixed_poisson_noise(clean, "kodim01", 30) * 30).flatten().tolist()
    assert counts == pytest.approx(poisson, abs=1e-4)
    replaced = fixed_impulse_noise(clean, "kodim01", 0.5) != clean
    assert replaced.int().flatten().tolist() == 3 * impulse


@settings(max_examples=30, deadline=None)
@given(st.floats(0, 400), st.lists(st.floats(1e-12, 1 - 1e-12), min_size=1, max_size=20))
def test_counts_are_the_inverse_of_the_poisson_distribution(mean, uniform):
    uniform = np.array(uniform)
    counts = count_events(np.full(len(uniform), mean), uniform)
    assert (stats.poisson.cdf(counts, mean) >= uniform * (1 - 1e-9)).all()
    assert ((counts == 0) | (stats.poisson.cdf(counts - 1, mean) <= uniform * (1 + 1e-9))).all()


def test_fixed_poisson_noise_counts():
    clean = (torch.rand(3, 120, 120, generator=torch.Generator().manual_seed(0)) * 255).round() / 255
    counts = fixed_poisson_noise(clean, "a", 30).double() * 30
    torch.testing.assert_close(counts.round(), counts, atol=1e-4, rtol=0)
    bright = (clean > 0.9) & (clean < 0.92)
    assert counts[bright].mean() == pytest.approx(0.91 * 30, rel=0.02)
    assert counts[bright].var() == pytest.approx(0.91 * 30, rel=0.1)
    assert not fixed_poisson_noise(torch.zeros(1, 9, 9), "a", 30).any()
    assert fixed_poisson_noise(torch.ones(1, 50, 50), "a", 5).max() > 1, "never clipped unless asked for"


def test_fixed_impulse_noise_replaces_whole_pixels():
    clean = torch.full((3, 200, 200), 0.5)
    changed = fixed_impulse_noise(clean, "a", 0.3) != clean
    assert torch.equal(changed.all(0), changed.any(0))
    assert changed.float().mean() == pytest.approx(0.3, abs=0.01)
    everything = fixed_impulse_noise(clean, "a", 1)
    assert stats.kstest(everything.flatten().numpy(), "uniform").pvalue > 1e-3
    assert torch.equal(fixed_impulse_noise(clean, "a", 0), clean)


@pytest.mark.parametrize(
    ("make", "level", "says"),
    [(fixed_poisson_noise, 0, "more than 0"), (fixed_poisson_noise, float("nan"), "more than 0"),
     (fixed_impulse_noise, 1.1, "between 0 and 1")],
)  # fmt: skip
def test_wrong_levels_of_the_other_families(make, level, says):
    with pytest.raises(ValueError, match=says):
        make(torch.zeros(3, 2, 2), "a", level)
