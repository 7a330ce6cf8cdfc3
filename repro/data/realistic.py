"""Signal-dependent noise with random parameters, and the map of its standard deviation.

A sensor counts photons, so bright pixels are noisier than dark ones; reading the count adds noise of its own:

    noisy = gain * Poisson(clean / gain) + sigma / 255 * normal,    variance = gain * clean + (sigma / 255)^2

The ranges from which ``gain`` and ``sigma`` are drawn are those of CBDNet (Guo et al., CVPR 2019), which
ScaoedNet's tables compare with: the square root of the gain uniform in [0, 0.16], sigma / 255 uniform in
[0, 0.06]. CBDNet applies them before the camera's tone curve and lets demosaicking and JPEG follow; here the
noise is added to the picture as it is, and each value is noisy on its own. So it is realistic in its
strength and in its dependence on brightness, and not in its colour or grain. ScaoedNet's sources do not say
what its authors did.
"""

import torch
from scipy.special import ndtri
from torch import Tensor

from repro.data.noise import count_events, uniform_numbers

ROOT_GAIN_MAX = 0.16
SIGMA_255_MAX = 0.06 * 255
GAIN_MIN = 1e-6  # below it there is no photon noise to speak of, and a Poisson number of 1e6 is as good as certain


def draw_parameters(batch: int, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
    """(gain, sigma_255), each [B, 1, 1, 1], at random; from torch's global generator unless given one."""
    root_gain, sigma = torch.rand(2, batch, 1, 1, 1, generator=generator)
    return (ROOT_GAIN_MAX * root_gain).square(), SIGMA_255_MAX * sigma


def add_poisson_gaussian_noise(
    clean: Tensor,
    gain: float | Tensor,
    sigma_255: float | Tensor,
    *,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Return ``clean``, floating point in [0, 1], with fresh noise, neither clipped nor rounded.

    ``gain`` is what one photon adds to the value, ``sigma_255`` the standard deviation of the rest on the
    scale 0..255: numbers, or tensors that broadcast to ``clean``. ValueError where one is negative.
    """
    _check(gain, sigma_255)
    gain = torch.as_tensor(gain, dtype=clean.dtype, device=clean.device)
    photons = torch.poisson(clean.clamp(min=0) / gain.clamp(min=GAIN_MIN), generator=generator)
    counted = torch.where(gain >= GAIN_MIN, photons * gain, clean)
    normal = torch.randn(clean.shape, generator=generator, dtype=clean.dtype, device=clean.device)
    return counted + normal * (sigma_255 / 255)


def noise_map(clean: Tensor, gain: float | Tensor, sigma_255: float | Tensor) -> Tensor:
    """Standard deviation of that noise at each position, [..., 1, H, W] in units of [0, 1].

    Over the colour channels: the square root of their mean variance.
    """
    _check(gain, sigma_255)
    return (gain * clean.mean(-3, keepdim=True) + (sigma_255 / 255) ** 2).sqrt()


def fixed_realistic_noise(clean: Tensor, name: str, seed: int = 0) -> tuple[Tensor, Tensor]:
    """(noisy, noise map) of the image ``name``, [C, H, W] and [1, H, W], for evaluation.

    Parameters and noise are a function of (name, seed) and the shape alone, as those of
    :func:`repro.data.noise.fixed_gaussian_noise` are, by the same generator.
    """
    shape = tuple(clean.shape)
    numbers = uniform_numbers(2 + 2 * clean.numel(), f"{name}|realistic|{int(seed)}")
    gain, sigma_255 = max((ROOT_GAIN_MAX * numbers[0]) ** 2, GAIN_MIN), SIGMA_255_MAX * numbers[1]
    for_photons, for_reading = numbers[2:].reshape(2, *shape)
    photons = count_events(clean.double().clamp_min(0).flatten().numpy() / gain, for_photons.ravel()).reshape(shape)
    noisy = gain * photons + sigma_255 / 255 * ndtri(for_reading)
    return torch.from_numpy(noisy).to(clean.dtype), noise_map(clean, gain, sigma_255)


def measure_noise_map(noisy: Tensor, clean: Tensor) -> Tensor:
    """The map of noise that is equally strong everywhere, from the noise itself: [B, 1, H, W], constant.

    Of ``n`` values the standard deviation is known to 1 / sqrt(2 n): 0.6 % for a colour patch of 64 x 64.
    """
    sigma = (noisy - clean).square().mean((1, 2, 3), keepdim=True).sqrt()
    return sigma.expand(-1, 1, *clean.shape[-2:])


def _check(gain: float | Tensor, sigma_255: float | Tensor) -> None:
    for name, value in (("gain", gain), ("sigma_255", sigma_255)):
        if not bool((torch.as_tensor(value) >= 0).all()):
            raise ValueError(f"{name} must be 0 or more, got {value}")
