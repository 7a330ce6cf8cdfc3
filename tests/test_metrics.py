"""PSNR and SSIM against definitions written out."""

import math

import numpy as np
import pytest
import torch

from repro.metrics import psnr_db, psnr_of_crops_db, ssim


def photograph_and_estimate(channels, height=17, width=14):
    rng = np.random.default_rng(channels)
    rows, columns = np.mgrid[:height, :width] / 20
    clean = np.stack([(0.5 + 0.4 * np.sin(3 * rows + c) * np.cos(4 * columns)) for c in range(channels)])
    return clean, np.clip(clean + rng.normal(0, 0.1, clean.shape), 0, 1)


def test_psnr_of_a_known_error():
    clean = torch.full((3, 5, 7), 0.5)
    assert psnr_db(clean, clean + 0.1) == pytest.approx(20, abs=1e-5)
    assert psnr_db(clean.numpy(), clean.numpy()) == math.inf


def test_psnr_is_over_all_channels_not_their_mean():
    clean = np.zeros((2, 4, 4))
    estimate = clean + np.array([0.1, 0.2]).reshape(2, 1, 1)
    assert psnr_db(clean, estimate) == pytest.approx(-10 * math.log10((0.01 + 0.04) / 2))


@pytest.mark.parametrize(("convention", "error_255"), [("float", 0.6), ("rounded", 1.0), ("truncated", 0.0)])
def test_psnr_conventions(convention, error_255):
    """An error of 0.6 gray levels: rounding makes it one, truncating makes it none."""
    clean = np.full((1, 8, 8), 100 / 255)
    estimate = np.full((1, 8, 8), 100.6 / 255)
    expected = math.inf if error_255 == 0 else -20 * math.log10(error_255 / 255)
    assert psnr_db(clean, estimate, convention) == pytest.approx(expected)


@pytest.mark.parametrize("channels", [1, 3])
def test_every_crop_is_measured_as_if_alone(channels):
    clean, estimate = photograph_and_estimate(channels)
    crops = psnr_of_crops_db(clean, estimate, 6)
    assert crops.shape == (12, 9)
    for y, x in ((0, 0), (11, 8), (3, 7)):
        inside = np.s_[:, y : y + 6, x : x + 6]
        assert crops[y, x] == pytest.approx(psnr_db(clean[inside], estimate[inside], "truncated"), abs=1e-6)


def test_a_crop_is_no_larger_than_its_image():
    clean, estimate = photograph_and_estimate(3)
    assert psnr_of_crops_db(clean, estimate, 99).item() == pytest.approx(psnr_db(clean, estimate, "truncated"))
    assert np.isposinf(psnr_of_crops_db(clean, clean, 5)).all()


def test_crops_that_are_equal_have_no_error_whatever_the_sums_leave_of_it():
    clean, estimate = photograph_and_estimate(3, 64, 64)
    clean[:, 20:, 20:] = estimate[:, 20:, 20:] = 1.0
    with np.errstate(invalid="raise"):
        crops = psnr_of_crops_db(clean, estimate, 8)
    assert np.isposinf(crops[20:, 20:]).all() and np.isfinite(crops[:12, :12]).all()
    with pytest.raises(ValueError, match="side"):
        psnr_of_crops_db(clean, estimate, 0)


@pytest.mark.parametrize("convention", ["rounded", "truncated"])
def test_an_8_bit_image_is_its_own_8_bit_version(convention):
    """In float32 as well, where 255 (k / 255) may fall short of k."""
    levels = (torch.arange(256, dtype=torch.float32) / 255).reshape(1, 16, 16)
    exact = np.arange(256).reshape(1, 16, 16) / 255
    assert psnr_db(levels, exact, convention) == math.inf
    assert psnr_db(levels, exact.clip(1 / 255, 1), convention) == pytest.approx(-10 * math.log10((1 / 255) ** 2 / 256))


def test_8_bit_conventions_clip():
    assert psnr_db(np.ones((1, 2, 2)), np.full((1, 2, 2), 1.5), "rounded") == math.inf


def gaussian_window(dimensions):
    taps = np.exp(-(np.arange(-5, 6) ** 2) / (2 * 1.5**2))
    window = taps
    for _ in range(dimensions - 1):
        window = np.multiply.outer(window, taps)
    return window / window.sum()


def similarity(a, b, window):
    """SSIM of one window's content, by its definition."""
    mean_a, mean_b = (window * a).sum(), (window * b).sum()
    var_a, var_b = (window * (a - mean_a) ** 2).sum(), (window * (b - mean_b) ** 2).sum()
    covariance = (window * (a - mean_a) * (b - mean_b)).sum()
    numerator = (2 * mean_a * mean_b + 0.01**2) * (2 * covariance + 0.03**2)
    return numerator / ((mean_a**2 + mean_b**2 + 0.01**2) * (var_a + var_b + 0.03**2))


@pytest.mark.parametrize("channels", [1, 3])
def test_ssim_2d_by_brute_force(channels):
    clean, estimate = photograph_and_estimate(channels)
    window = gaussian_window(2)
    values = [
        similarity(c[i : i + 11, j : j + 11], e[i : i + 11, j : j + 11], window)
        for c, e in zip(clean, estimate, strict=True)
        for i in range(17 - 10)
        for j in range(14 - 10)
    ]
    assert ssim(clean, estimate) == pytest.approx(np.mean(values), abs=1e-12)


@pytest.mark.parametrize("channels", [1, 3])
def test_ssim_3d_by_brute_force(channels):
    clean, estimate = photograph_and_estimate(channels)
    window = gaussian_window(3)
    padded_c, padded_e = (np.pad(image, 5, mode="edge") for image in (clean, estimate))
    values = [
        similarity(padded_c[c : c + 11, i : i + 11, j : j + 11], padded_e[c : c + 11, i : i + 11, j : j + 11], window)
        for c in range(channels)
        for i in range(17)
        for j in range(14)
    ]
    assert ssim(clean, estimate, "3d") == pytest.approx(np.mean(values), abs=1e-12)


@pytest.mark.parametrize("window", ["2d", "3d"])
def test_ssim_of_equal_images_is_one(window):
    clean, _ = photograph_and_estimate(3)
    assert ssim(torch.from_numpy(clean), clean, window) == pytest.approx(1)
    assert ssim(clean[0], clean[0], window) == pytest.approx(1)


def test_what_cannot_be_compared_is_said():
    image = np.zeros((3, 16, 16))
    with pytest.raises(ValueError, match="compared"):
        psnr_db(image, image[:, :8])
    with pytest.raises(ValueError, match="compared"):
        psnr_db(image[None], image[None])
    with pytest.raises(ValueError, match="truncated"):
        psnr_db(image, image, "floored")
    with pytest.raises(ValueError, match="3d"):
        ssim(image, image, "4d")
    with pytest.raises(ValueError, match="11 pixels"):
        ssim(image[:, :10], image[:, :10])
