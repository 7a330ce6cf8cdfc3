"""PSNR and SSIM, each in the variants that the literature does not tell apart.

Images are [C, H, W] or [H, W], tensors or arrays, in [0, 1] (that is the data range, always). Values are
not clipped here: clip an estimate first, as a file would. All arithmetic is float64.
"""

import numpy as np
from numpy.typing import ArrayLike
from scipy.ndimage import gaussian_filter
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torch import Tensor

PSNR_CONVENTIONS = ("float", "rounded", "truncated")
SSIM_WINDOWS = ("2d", "3d")
WINDOW = 11  # taps of the SSIM window in each direction, Gaussian of standard deviation 1.5
_GAUSSIAN = {"sigma": 1.5, "truncate": 3.5}  # radius int(3.5 * 1.5 + 0.5) = 5, hence 11 taps
_C1, _C2 = 0.01**2, 0.03**2  # for a data range of 1


def psnr_db(clean: Tensor | ArrayLike, estimate: Tensor | ArrayLike, convention: str = "float") -> float:
    """Peak signal-to-noise ratio in dB over all pixels and channels; infinite for equal images.

    ``convention``: "float" compares the values as they are; "rounded" first rounds both images to 8 bits,
    as a file of the result would hold them; "truncated" cuts both down to 8 bits, as SADNet's first public
    code does (``uint8`` of 255 times the value) and as the files that its present code saves.
    """
    clean, estimate = _pair(clean, estimate)
    if convention == "rounded":
        clean, estimate = (np.round(_as_8bit_scale(image)) / 255 for image in (clean, estimate))
    elif convention == "truncated":
        # k / 255 in float32, times 255, may fall short of k by 1e-5: that is k, not k - 1.
        clean, estimate = (np.floor(_as_8bit_scale(image) + 1e-4) / 255 for image in (clean, estimate))
    elif convention != "float":
        raise ValueError(f"convention is one of {', '.join(PSNR_CONVENTIONS)}, not {convention!r}.")
    with np.errstate(divide="ignore"):  # equal images
        return float(peak_signal_noise_ratio(clean, estimate, data_range=1))


def psnr_of_crops_db(clean: Tensor | ArrayLike, estimate: Tensor | ArrayLike, side: int) -> np.ndarray:
    """PSNR in dB, truncated to 8 bits, of every square crop of ``side`` pixels: [H - side + 1, W - side + 1].

    A test on one random crop of an image, as the slides about GradNet have it, draws one of these. A side of the image
    that is shorter than ``side`` is taken as it is; a ``side`` below 1 is a ValueError.
    """
    if side < 1:
        raise ValueError(f"A crop has a side of 1 pixel or more, not {side}.")
    clean, estimate = (np.floor(_as_8bit_scale(image) + 1e-4) for image in _pair(clean, estimate))
    squared = np.square(clean - estimate).mean(0)  # whole numbers / channels: their sums are exact enough to difference
    height, width = (min(side, length) for length in squared.shape)
    sums = np.pad(squared.cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    inside = sums[height:, width:] - sums[:-height, width:] - sums[height:, :-width] + sums[:-height, :-width]
    with np.errstate(divide="ignore"):
        return 10 * np.log10(255**2 * height * width / np.abs(inside.round(3)))  # where equal, -0 is 0, too


def ssim(clean: Tensor | ArrayLike, estimate: Tensor | ArrayLike, window: str = "2d") -> float:
    """Structural similarity with the Gaussian window of Wang et al. (2004): 11 taps, standard deviation
    1.5.

    ``window``: "2d" is the usual one: each channel on its own over the positions at which the window fits
    into the image, then the mean over channels. "3d" is that of SADNet's present code: the window extends
    over the channels as well (11 x 11 x 11 over height, width and channel), outside the image the border
    value is repeated, in all three directions, and every position counts. Both use the population
    covariance. For a gray image the two differ at the border only. An image with a side below 11 is a
    ValueError.
    """
    clean, estimate = _pair(clean, estimate)
    if min(clean.shape[-2:]) < WINDOW:
        raise ValueError(f"SSIM needs sides of at least {WINDOW} pixels, not {list(clean.shape[-2:])}.")
    if window == "2d":
        return float(
            structural_similarity(
                clean,
                estimate,
                data_range=1,
                gaussian_weights=True,
                sigma=_GAUSSIAN["sigma"],
                use_sample_covariance=False,
                channel_axis=0,
            )
        )
    if window != "3d":
        raise ValueError(f"window is one of {', '.join(SSIM_WINDOWS)}, not {window!r}.")

    def local_mean(image: np.ndarray) -> np.ndarray:
        return gaussian_filter(image, mode="nearest", **_GAUSSIAN)  # separable: 3 x 11 taps, not 1331

    mean_c, mean_e = local_mean(clean), local_mean(estimate)
    var_c = local_mean(clean * clean) - mean_c**2
    var_e = local_mean(estimate * estimate) - mean_e**2
    covariance = local_mean(clean * estimate) - mean_c * mean_e
    similarity = (2 * mean_c * mean_e + _C1) * (2 * covariance + _C2)
    similarity /= (mean_c**2 + mean_e**2 + _C1) * (var_c + var_e + _C2)
    return float(similarity.mean())


def _pair(clean: Tensor | ArrayLike, estimate: Tensor | ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Both as float64 [C, H, W]."""
    clean, estimate = (
        np.asarray(image.detach().cpu() if isinstance(image, Tensor) else image, dtype=np.float64)
        for image in (clean, estimate)
    )
    if clean.shape != estimate.shape or clean.ndim not in (2, 3):
        raise ValueError(f"Two images [C, H, W] or [H, W] are compared, not {clean.shape} and {estimate.shape}.")
    return (clean, estimate) if clean.ndim == 3 else (clean[None], estimate[None])


def _as_8bit_scale(image: np.ndarray) -> np.ndarray:
    return np.clip(image, 0, 1) * 255
