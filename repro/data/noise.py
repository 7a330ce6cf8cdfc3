"""Additive white Gaussian noise, with every convention of the literature as a named option.

The papers compared in this study add the same noise and then disagree about what a noisy image is:

* neither clipped nor rounded: DnCNN, FFDNet, and the default here. Published averages of those two networks
  are reproduced to 0.02 dB by this convention alone;
* ``clip=True``: SADNet's authors while training. Values leave [0, 1] at dark and bright pixels and are cut
  off, so the noise is neither Gaussian nor of zero mean there;
* ``round_8bit=True``: an 8-bit file, clipped *and* rounded to k/255. SADNet's authors while testing.
"""

import hashlib

import numpy as np
import torch
from scipy.special import ndtri
from torch import Tensor


def add_gaussian_noise(
    clean: Tensor,
    sigma_255: float | Tensor,
    *,
    clip: bool = False,
    round_8bit: bool = False,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Return ``clean`` plus fresh noise of standard deviation ``sigma_255 / 255``, for training.

    ``clean`` is any floating-point tensor in [0, 1]; ``sigma_255`` a number, or a tensor that broadcasts to
    it (one level per image of a batch: shape [B, 1, 1, 1]). ``round_8bit`` implies ``clip``. Draws come from
    ``generator``, or from torch's global one. Raises ``TypeError`` for integer images and ``ValueError`` for
    a negative sigma.
    """
    _check(clean, sigma_255)
    noise = torch.randn(clean.shape, generator=generator, dtype=clean.dtype, device=clean.device)
    return _store(clean + noise * (sigma_255 / 255), clip, round_8bit)


def add_poisson_noise(clean: Tensor, events: float | Tensor, *, generator: torch.Generator | None = None) -> Tensor:
    """Return Poisson(events * clean) / events, for training: a white pixel counts ``events`` on average.

    Never clipped: bright pixels exceed 1. Arguments and draws as in :func:`add_gaussian_noise`; ``events`` must
    be more than 0.
    """
    _check(clean, 0)
    events = torch.as_tensor(events, dtype=clean.dtype, device=clean.device)
    if not bool((events > 0).all()):
        raise ValueError(f"events must be more than 0, got {events}")
    return torch.poisson(clean.clamp_min(0) * events, generator=generator) / events


def add_impulse_noise(clean: Tensor, alpha: float | Tensor, *, generator: torch.Generator | None = None) -> Tensor:
    """Return ``clean`` [..., C, H, W] with each pixel, all its channels together, replaced by a uniformly random
    colour with probability ``alpha``, for training.

    Arguments and draws as in :func:`add_gaussian_noise`; ``alpha`` lies in [0, 1], and as a tensor broadcasts to
    ``clean`` ([B, 1, 1, 1] for one share per image).
    """
    _check(clean, 0)
    if not bool(((torch.as_tensor(alpha) >= 0) & (torch.as_tensor(alpha) <= 1)).all()):
        raise ValueError(f"alpha must lie between 0 and 1, got {alpha}")
    like = {"generator": generator, "dtype": clean.dtype, "device": clean.device}
    chance = torch.rand((*clean.shape[:-3], 1, *clean.shape[-2:]), **like)
    return torch.where(chance < alpha, torch.rand(clean.shape, **like), clean)


def fixed_gaussian_noise(
    clean: Tensor,
    name: str,
    sigma_255: float,
    seed: int = 0,
    *,
    clip: bool = False,
    round_8bit: bool = False,
) -> Tensor:
    """Return ``clean`` plus the evaluation noise of the image called ``name``.

    The noise is a function of (name, sigma, seed) and the shape alone: not of the order of the images, of
    other images, of library versions or of the platform, so that every method and every machine denoises the
    same pixels. See :func:`unit_noise`. ``clean`` and the options are those of :func:`add_gaussian_noise`.
    """
    _check(clean, sigma_255)
    noise = torch.from_numpy(unit_noise(tuple(clean.shape), name, sigma_255, seed))
    noise = noise.to(device=clean.device, dtype=clean.dtype)
    return _store(clean + noise * (sigma_255 / 255), clip, round_8bit)


def unit_noise(shape: tuple[int, ...], name: str, sigma_255: float, seed: int = 0) -> np.ndarray:
    """Standard normal float32 numbers of ``shape``, filled in C order ([C, H, W]: channel by channel).

    The key of a Philox generator is the first 128 bits of the SHA-256 of ``"name|sigma|seed"`` (sigma as
    Python prints the float: ``25.0``). Its raw 64-bit words, which NumPy guarantees never to change, become
    uniform numbers (k + 1/2) / 2^53 and, through the inverse normal distribution, normal ones. NumPy's own
    ``standard_normal`` is shorter but may change with any NumPy release.
    """
    count = int(np.prod(shape, dtype=np.int64))
    uniform = uniform_numbers(count, f"{name}|{float(sigma_255)}|{int(seed)}")
    return ndtri(uniform).astype(np.float32).reshape(shape)


def uniform_numbers(count: int, text: str) -> np.ndarray:
    """float64 numbers, uniform in the open interval (0, 1): a function of ``text`` alone, on every platform."""
    key = np.frombuffer(hashlib.sha256(text.encode()).digest()[:16], dtype="<u8").astype(np.uint64)
    words = np.random.Philox(key=key).random_raw(count)
    return ((words >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53


def _store(noisy: Tensor, clip: bool, round_8bit: bool) -> Tensor:
    if round_8bit:
        return (noisy * 255).round().clamp(0, 255) / 255
    return noisy.clamp(0, 1) if clip else noisy


def _check(clean: Tensor, sigma_255: float | Tensor) -> None:
    if not clean.is_floating_point():
        raise TypeError(f"noise is added to floating-point images in [0, 1], got {clean.dtype}")
    if not bool((torch.as_tensor(sigma_255) >= 0).all()):  # written so that NaN fails too
        raise ValueError(f"sigma_255 must be 0 or more, got {sigma_255}")
