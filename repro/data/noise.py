"""Noise of three families: additive white Gaussian, with every convention of the literature as a named option,
and, for SSDN, Poisson and impulse noise.

The papers compared in this study add the same noise and then disagree about what a noisy image is:

* neither clipped nor rounded: DnCNN, FFDNet, and the default here. Published averages of those two networks
  are reproduced to 0.02 dB by this convention alone;
* ``clip=True``: SADNet's authors while training. Values leave [0, 1] at dark and bright pixels and are cut
  off, so the noise is neither Gaussian nor of zero mean there;
* ``round_8bit=True``: an 8-bit file, clipped *and* rounded to k/255. SADNet's authors while testing.

``add_*`` draw fresh noise, for training. ``fixed_*`` make the noise of an evaluation: a function of (name, strength,
seed) and the shape alone, so that every method and every machine denoises the same pixels.
"""

import hashlib

import numpy as np
import torch
from scipy.special import ndtri, pdtr
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
    require_floats(clean, sigma_255)
    noise = torch.randn(clean.shape, generator=generator, dtype=clean.dtype, device=clean.device)
    return keep_range(clean + noise * (sigma_255 / 255), clip, round_8bit)


def add_poisson_noise(clean: Tensor, events: float | Tensor, *, generator: torch.Generator | None = None) -> Tensor:
    """Return Poisson(events * clean) / events, for training: a white pixel counts ``events`` on average.

    Never clipped: bright pixels exceed 1. Arguments and draws as in :func:`add_gaussian_noise`; ``events`` must
    be more than 0.
    """
    require_floats(clean, 0)
    events = torch.as_tensor(events, dtype=clean.dtype, device=clean.device)
    _check_events(events)
    return torch.poisson(clean.clamp_min(0) * events, generator=generator) / events


def add_impulse_noise(clean: Tensor, alpha: float | Tensor, *, generator: torch.Generator | None = None) -> Tensor:
    """Return ``clean`` [..., C, H, W] with each pixel, all its channels together, replaced by a uniformly random
    colour with probability ``alpha``, for training.

    Arguments and draws as in :func:`add_gaussian_noise`; ``alpha`` lies in [0, 1], and as a tensor broadcasts to
    ``clean`` ([B, 1, 1, 1] for one share per image).
    """
    require_floats(clean, 0)
    _check_alpha(alpha)
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
    require_floats(clean, sigma_255)
    noise = torch.from_numpy(unit_noise(tuple(clean.shape), name, sigma_255, seed))
    noise = noise.to(device=clean.device, dtype=clean.dtype)
    return keep_range(clean + noise * (sigma_255 / 255), clip, round_8bit)


def fixed_poisson_noise(
    clean: Tensor,
    name: str,
    events: float,
    seed: int = 0,
    *,
    clip: bool = False,
    round_8bit: bool = False,
) -> Tensor:
    """Return Poisson(events * clean) / events as the evaluation noise of the image called ``name``.

    A fixed uniform number per value (key ``"name|poisson events|seed"``) goes through the inverse of the Poisson
    distribution of that value's mean. Arguments otherwise as in :func:`fixed_gaussian_noise`, errors as in
    :func:`add_poisson_noise`; neither clipped nor rounded unless asked for.
    """
    require_floats(clean, 0)
    _check_events(events)
    uniform = uniform_numbers(clean.numel(), f"{name}|poisson {float(events)}|{int(seed)}")
    mean = clean.detach().double().cpu().clamp_min(0).flatten().numpy() * events
    counts = torch.from_numpy(count_events(mean, uniform)).reshape(clean.shape)
    return keep_range((counts / events).to(device=clean.device, dtype=clean.dtype), clip, round_8bit)


def count_events(mean: np.ndarray, uniform: np.ndarray) -> np.ndarray:
    """The smallest counts k with P(X <= k) >= uniform, X of these means: the inverse of the Poisson distribution.

    Both are flat arrays of one length, the means 0 or more. Value by value, since a photograph has 256 of them: six
    times as fast as ``scipy.stats.poisson.ppf``.
    """
    counts = np.empty(len(mean))
    values, kind = np.unique(mean, return_inverse=True)
    places = np.split(np.argsort(kind, kind="stable"), np.cumsum(np.bincount(kind))[:-1])
    for value, place in zip(values, places, strict=True):
        reach = int(12 * value**0.5 + 40)  # beyond it lies less than float64 has between 1 and its neighbour
        low = max(int(value) - reach, 0)
        counts[place] = low + np.searchsorted(pdtr(np.arange(low, int(value) + reach), value), uniform[place])
    return counts


def fixed_impulse_noise(
    clean: Tensor,
    name: str,
    alpha: float,
    seed: int = 0,
    *,
    clip: bool = False,
    round_8bit: bool = False,
) -> Tensor:
    """Return ``clean`` [C, H, W] with the evaluation noise of :func:`add_impulse_noise` for the image ``name``.

    Uniform numbers (key ``"name|impulse alpha|seed"``) are first H * W chances, then the C * H * W new values.
    Clipping changes nothing here; rounding does. Errors as in :func:`add_impulse_noise`.
    """
    require_floats(clean, 0)
    _check_alpha(alpha)
    channels, height, width = clean.shape
    uniform = uniform_numbers((1 + channels) * height * width, f"{name}|impulse {float(alpha)}|{int(seed)}")
    uniform = torch.from_numpy(uniform).reshape(1 + channels, height, width).to(clean.device)
    return keep_range(torch.where(uniform[:1] < alpha, uniform[1:].to(clean.dtype), clean), clip, round_8bit)


# The evaluation noise of each family, by the keyword that names its level.
FIXED = {"sigma": fixed_gaussian_noise, "events": fixed_poisson_noise, "alpha": fixed_impulse_noise}


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


def keep_range(noisy: Tensor, clip: bool, round_8bit: bool) -> Tensor:
    """``noisy`` as it is, clipped to [0, 1], or clipped and rounded to 8 bits."""
    if round_8bit:
        return (noisy * 255).round().clamp(0, 255) / 255
    return noisy.clamp(0, 1) if clip else noisy


def require_floats(clean: Tensor, sigma_255: float | Tensor) -> None:
    """TypeError for an image of whole numbers, ValueError for a level that is below 0 or none."""
    if not clean.is_floating_point():
        raise TypeError(f"noise is added to floating-point images in [0, 1], got {clean.dtype}")
    if not bool((torch.as_tensor(sigma_255) >= 0).all()):  # written so that NaN fails too
        raise ValueError(f"sigma_255 must be 0 or more, got {sigma_255}")


def _check_events(events: float | Tensor) -> None:
    if not bool((torch.as_tensor(events) > 0).all()):
        raise ValueError(f"events must be more than 0, got {events}")


def _check_alpha(alpha: float | Tensor) -> None:
    if not bool(((torch.as_tensor(alpha) >= 0) & (torch.as_tensor(alpha) <= 1)).all()):
        raise ValueError(f"alpha must lie between 0 and 1, got {alpha}")
