"""The line of filters before deep learning: what document 003 begins with, and what the papers compare with.

Median filters, the contraharmonic mean, wavelet shrinkage, sliding-window DCT, non-local means, total variation
and BM3D. None of them is trained: each is its formula and a few constants from its source, and the same input
gives the same bits each time. Where a library keeps a good version, it does the work.

- D. L. Donoho, I. M. Johnstone, G. Kerkyacharian, D. Picard: Wavelet Shrinkage: Asymptopia? JRSS B, 1995;
  S. G. Chang, B. Yu, M. Vetterli: Adaptive Wavelet Thresholding. IEEE TIP 9(9), 2000 (BayesShrink).
- K. Egiazarian, J. Astola, M. Helsingius, P. Kuosmanen: Adaptive Denoising and Lossy Compression of Images in
  Transform Domain. Journal of Electronic Imaging 8(3), 1999.
- A. Buades, B. Coll, J.-M. Morel: A Non-Local Algorithm for Image Denoising. CVPR 2005.
- L. Rudin, S. Osher, E. Fatemi: Nonlinear Total Variation Based Noise Removal Algorithms. Physica D, 1992;
  A. Chambolle: An Algorithm for Total Variation Minimization. JMIV, 2004.
- K. Dabov, A. Foi, V. Katkovnik, K. Egiazarian: Image Denoising by Sparse 3-D Transform-Domain Collaborative
  Filtering. IEEE TIP 16(8), 2007; for colour ICIP 2007; in the version of Y. Mäkinen, L. Azzari, A. Foi:
  Collaborative Filtering of Correlated Noise. IEEE TIP 29, 2020. What the version of 2020 adds is the variance of
  each coefficient of a stack as it is, also where blocks of the stack overlap and so share their noise. That of
  2007 takes the same variance for all of them, which is several times as quick: ``variances="equal"`` here, the
  package's own mode for that. Thresholds and all else stay those of the package.

BM3D comes from its authors' ``bm3d`` package, whose licence allows non-commercial use only and asks for a
reference to the authors wherever results are made public. Nothing of it is part of this project. Departures:
one thread, since with more of them sums are taken in a different order each time; and a colour transform that
survives flat patches. The package scales each of its three opponent colours to [0, 1], which divides 0 by 0
where one of them is constant: in a gray picture, in an evenly coloured patch. Document 003 drew new patches
until none was like that. Here a range is never taken smaller than the noise in it; other patches give what the
package gives.
"""

import math
import warnings
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage
from scipy.fft import dct
from torch import Tensor

from repro.errors import ReproError
from repro.models.base import Denoiser

# Filters under names of their own, for whoever chooses by name: name -> filter, sizes. "times-5" is 003's remedy for
# real noise.
PRESETS: dict[str, tuple[str, dict]] = {
    "cbm3d": ("bm3d", {}),  # what BM3D is called in colour
    **{f"{name}-estimated": (name, {"noise": "estimated"}) for name in ("bm3d", "wavelet", "dct", "nlm", "tv")},
    "bm3d-estimated-times-5": ("bm3d", {"noise": "estimated", "factor": 5.0}),
}


@dataclass(frozen=True)
class Sizes:
    """What every filter has."""

    channels: int = 3  # of the images of an evaluation; an image of 1 or 3 channels is taken in any case

    def __post_init__(self):
        if self.channels not in (1, 3):
            raise ValueError("channels is 1 or 3.")


@dataclass(frozen=True)
class NoiseSizes(Sizes):
    """What a filter has that must know the noise level."""

    noise: str = "told"  # by the keyword sigma; or "estimated" from each image, by scikit-image
    factor: float = 1.0  # times the estimate; 003 takes 5 for real noise, since "it normally undershoots"

    def __post_init__(self):
        super().__post_init__()
        if self.noise not in ("told", "estimated"):
            raise ValueError(f"noise is 'told' or 'estimated', not {self.noise!r}.")
        if not 0 < self.factor < math.inf:
            raise ValueError("factor is a number above 0.")


class Filter(Denoiser):
    """A denoiser without weights, for gray and colour images alike."""

    weightless = True
    alignment = 1
    halo = 64
    smallest = 1  # images with a shorter side are mirrored up to it

    def __init__(self, sizes: Sizes | None = None):
        super().__init__()
        self.sizes = sizes or self.Sizes()
        self.needs_sigma = getattr(self.sizes, "noise", None) == "told"
        if getattr(self.sizes, "noise", None) == "estimated":
            self.halo = None  # the level is one of the whole image

    def require_image(self, noisy: Tensor) -> None:
        if noisy.dim() != 4 or noisy.shape[1] not in (1, 3) or 0 in noisy.shape[2:]:
            raise ValueError(f"{self.name} takes images [B, 1 or 3, H, W] with H, W >= 1, not {list(noisy.shape)}.")
        if not noisy.isfinite().all():  # which a window or a transform would spread
            raise ReproError(f"{self.name} takes numbers: the image has NaN or infinite values.")

    @torch.no_grad()
    def forward(self, noisy: Tensor, *, sigma=None) -> Tensor:
        """Denoise [B, 1 or 3, H, W], image by image. ``sigma`` in units of [0, 1]: a number, or a tensor [B]."""
        self.require_image(noisy)
        levels = self._list_levels(len(noisy), sigma)
        if not len(noisy):
            return noisy.clone()
        images = noisy.detach().double().cpu()
        clean = [
            self._filter_one(image.permute(1, 2, 0).numpy(), level) for image, level in zip(images, levels, strict=True)
        ]
        return torch.stack(clean).to(noisy)

    def _list_levels(self, count: int, sigma) -> list[float]:
        """The level of each of ``count`` images; 0 where nothing is said of it, and nothing need be."""
        if sigma is None:
            if self.needs_sigma:
                raise ReproError(f"{self.name} must be told the noise level: {advise(self.name)}.")
            return [0.0] * count
        levels = torch.as_tensor(sigma).double().cpu()
        if levels.dim() > 1 or (levels.dim() and len(levels) not in (1, count)):
            raise ReproError(f"sigma is a number, or one for each of {count} images, not {list(levels.shape)} of them.")
        levels = levels.expand(count).tolist()
        if not all(0 <= level <= 1 for level in levels):
            raise ReproError(f"sigma = {max(levels, key=abs):g} is not in [0, 1].")
        return levels

    def _filter_one(self, image: np.ndarray, sigma: float) -> Tensor:
        height, width = image.shape[:2]
        estimated = getattr(self.sizes, "noise", None) == "estimated"
        sigma = self._measure_noise(image) if estimated else sigma
        if (self.needs_sigma or estimated) and sigma == 0:
            clean = image
        else:
            grown = [(0, max(self.smallest - side, 0)) for side in (height, width)]
            clean = self.filter(np.pad(image, [*grown, (0, 0)], mode="symmetric"), sigma)[:height, :width]
        return torch.from_numpy(np.ascontiguousarray(clean)).permute(2, 0, 1)

    def _measure_noise(self, image: np.ndarray) -> float:
        return min(self.sizes.factor * estimate_noise(image), 1.0)

    def filter(self, image: np.ndarray, sigma: float) -> np.ndarray:
        """The method itself: float64 [H, W, 1 or 3] to the same, ``sigma`` > 0 in units of [0, 1]."""
        raise NotImplementedError


def advise(name: str, keyword: str = "sigma") -> str:
    """What to do where the denoiser ``name`` must be told the noise level and is not."""
    preset = f"{name}-estimated"
    return f"give {keyword}, or take {preset}, which estimates it" if preset in PRESETS else f"give {keyword}"


def estimate_noise(image: np.ndarray) -> float:
    """Standard deviation of the noise in [H, W, C], in its units: mean over the channels of scikit-image's estimate.

    That comes from the median absolute value of the finest diagonal wavelet coefficients (D. Donoho, I. Johnstone:
    Ideal Spatial Adaptation by Wavelet Shrinkage. Biometrika 81(3), 1994). Nothing but the noisy image goes into it.
    A channel without any such coefficient, of one value throughout, has no noise.
    """
    from skimage.restoration import estimate_sigma

    padded = np.pad(image, [*((0, max(16 - side, 0)) for side in image.shape[:2]), (0, 0)], mode="symmetric")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a last axis of length 1
        return float(np.mean(np.nan_to_num(estimate_sigma(padded, channel_axis=-1))))


# --- windows of ranks and means -----------------------------------------------------------------------------


@dataclass(frozen=True)
class WindowSizes(Sizes):
    window: int = 3  # side in pixels, odd

    def __post_init__(self):
        super().__post_init__()
        if self.window < 1 or self.window % 2 == 0:
            raise ValueError("window is odd, and at least 1.")


class Median(Filter):
    """The middle value of a window, channel by channel."""

    name = "median"
    Sizes = WindowSizes

    def filter(self, image, sigma):
        side = self.sizes.window
        return ndimage.median_filter(image, size=(side, side, 1), mode="reflect")


@dataclass(frozen=True)
class AdaptiveMedianSizes(WindowSizes):
    window: int = 7  # the largest


class AdaptiveMedian(Filter):
    """The median of the smallest window that shows one, and only where the pixel is an extreme of it.

    H. Hwang, R. A. Haddad: Adaptive Median Filters: New Algorithms and Results. IEEE TIP 4(4), 1995. Made for
    impulses: it leaves most of Gaussian noise as it is.
    """

    name = "adaptive-median"
    Sizes = AdaptiveMedianSizes

    def filter(self, image, sigma):
        clean, waiting = image.copy(), np.ones(image.shape, bool)
        for side in range(3, self.sizes.window + 1, 2):
            window = {"size": (side, side, 1), "mode": "reflect"}
            low, high = ndimage.minimum_filter(image, **window), ndimage.maximum_filter(image, **window)
            middle = ndimage.median_filter(image, **window)
            settled = waiting & (low < middle) & (middle < high)
            extreme = (image <= low) | (image >= high)
            clean[settled & extreme] = middle[settled & extreme]
            waiting &= ~settled
            if side + 2 > self.sizes.window:
                clean[waiting] = middle[waiting]
        return clean


@dataclass(frozen=True)
class ContraharmonicSizes(WindowSizes):
    order: float = 1.0  # above 0 it removes dark impulses, below 0 bright ones, at 0 it is the mean


class Contraharmonic(Filter):
    """Sum of z^(Q+1) over the sum of z^Q in a window. Q other than 0 brightens or darkens Gaussian noise.

    Values are first brought into [1/255, 1]: powers of numbers that are not positive have no mean.
    """

    name = "contraharmonic"
    Sizes = ContraharmonicSizes

    def filter(self, image, sigma):
        side, order = self.sizes.window, self.sizes.order
        z = image.clip(1 / 255, 1)
        above, below = (ndimage.uniform_filter(z**q, size=(side, side, 1), mode="reflect") for q in (order + 1, order))
        return above / below


# --- transforms ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class WaveletSizes(NoiseSizes):
    rule: str = "BayesShrink"  # or "VisuShrink", the universal threshold of Donoho and Johnstone
    wavelet: str = "db1"

    def __post_init__(self):
        super().__post_init__()
        if self.rule not in ("BayesShrink", "VisuShrink"):
            raise ValueError(f"rule is 'BayesShrink' or 'VisuShrink', not {self.rule!r}.")


class Wavelet(Filter):
    """Soft thresholds for wavelet coefficients (scikit-image), each channel by itself."""

    name = "wavelet"
    Sizes = WaveletSizes
    halo = None  # thresholds follow from all coefficients of a scale
    smallest = 16

    def filter(self, image, sigma):
        from skimage.restoration import denoise_wavelet

        return np.stack(
            [
                denoise_wavelet(
                    channel, sigma=sigma, wavelet=self.sizes.wavelet, method=self.sizes.rule, rescale_sigma=False
                )
                for channel in np.moveaxis(image, 2, 0)
            ],
            axis=2,
        )


@dataclass(frozen=True)
class DCTSizes(NoiseSizes):
    block: int = 8  # side of the window
    threshold: float = 2.7  # in standard deviations of the noise; BM3D's for its first stage

    def __post_init__(self):
        super().__post_init__()
        if self.block < 2:
            raise ValueError("block is at least 2.")


class SlidingDCT(Filter):
    """Every 8x8 window, one pixel apart: DCT, small coefficients to 0, back; the mean of all estimates.

    Colours are first decorrelated by an orthonormal DCT over the three channels. The coefficient of a window's
    mean is kept in any case.
    """

    name = "dct"
    Sizes = DCTSizes

    def filter(self, image, sigma):
        block, height, width = self.sizes.block, *image.shape[:2]
        colours = dct(np.eye(image.shape[2]), axis=0, norm="ortho")
        planes = torch.from_numpy(np.moveaxis(image @ colours.T, 2, 0).copy())[:, None]  # [C, 1, H, W]
        margin = block - 1  # every pixel lies in block^2 windows
        index = [np.pad(np.arange(side), margin, mode="symmetric") for side in (height, width)]
        padded = planes[:, :, torch.from_numpy(index[0])][:, :, :, torch.from_numpy(index[1])]
        rows = torch.from_numpy(dct(np.eye(block), axis=0, norm="ortho"))
        basis = torch.einsum("ui,vj->uvij", rows, rows).reshape(block**2, 1, block, block)
        clean = torch.empty_like(planes)
        for plane, target in zip(padded, clean, strict=True):  # one by one: 64 coefficients a pixel
            coefficients = F.conv2d(plane[None], basis)
            small = coefficients.abs() < self.sizes.threshold * sigma
            small[:, 0] = False
            estimates = F.conv_transpose2d(coefficients.masked_fill_(small, 0), basis)
            target.copy_(estimates[0, :, margin : margin + height, margin : margin + width] / block**2)
        return np.moveaxis(clean[:, 0].numpy(), 0, 2) @ colours


# --- similar patches, flat regions ----------------------------------------------------------------------------


@dataclass(frozen=True)
class NLMSizes(NoiseSizes):
    patch: int = 7  # side of what is compared
    distance: int = 11  # how far a patch is looked for, in pixels: a window of 23
    strength: float = 0.6  # h over sigma, as scikit-image advises for its fast algorithm


class NonLocalMeans(Filter):
    """Means over pixels whose surroundings look alike (scikit-image, fast algorithm)."""

    name = "nlm"
    Sizes = NLMSizes
    smallest = 8

    def filter(self, image, sigma):
        from skimage.restoration import denoise_nl_means

        about = {"patch_size": self.sizes.patch, "patch_distance": self.sizes.distance, "fast_mode": True}
        return denoise_nl_means(image, h=self.sizes.strength * sigma, sigma=sigma, channel_axis=-1, **about).reshape(
            image.shape
        )


@dataclass(frozen=True)
class TVSizes(NoiseSizes):
    strength: float = 1.0  # weight of the total variation over sigma; chosen here, on photographs of no test set
    iterations: int = 200


class TotalVariation(Filter):
    """The image of least total variation near the noisy one (Chambolle's algorithm, scikit-image)."""

    name = "tv"
    Sizes = TVSizes
    halo = None  # one minimum of the whole image
    smallest = 2

    def filter(self, image, sigma):
        from skimage.restoration import denoise_tv_chambolle

        weight = self.sizes.strength * sigma
        return denoise_tv_chambolle(image, weight, eps=1e-4, max_num_iter=self.sizes.iterations, channel_axis=-1)


# --- BM3D -----------------------------------------------------------------------------------------------------

OPPONENT = np.array([[1 / 3, 1 / 3, 1 / 3], [1 / 2, 0, -1 / 2], [1 / 4, -1 / 2, 1 / 4]])  # Dabov et al., ICIP 2007


@dataclass(frozen=True)
class BM3DSizes(NoiseSizes):
    variances: str = "exact"  # of a stack's coefficients (2020); or "equal" (as in 2007), several times as quick

    def __post_init__(self):
        super().__post_init__()
        if self.variances not in ("exact", "equal"):
            raise ValueError(f"variances is 'exact' or 'equal', not {self.variances!r}.")


class BM3D(Filter):
    """Block matching and 3-D filtering: stacks of similar blocks, shrunk in a transform of all three axes.

    A colour image is CBM3D: blocks are matched in the luminance alone.
    """

    name = "bm3d"
    Sizes = BM3DSizes
    smallest = 16

    def filter(self, image, sigma):
        if image.shape[2] == 1:
            return self._run([image[:, :, 0]], [sigma])
        colours = image @ OPPONENT.T
        level = sigma * np.sqrt((OPPONENT**2).sum(1))  # of the noise in each opponent colour
        low, high = colours.min((0, 1)), colours.max((0, 1))
        scale = np.maximum(high - low, level)
        clean = self._run(np.moveaxis((colours - low) / scale, 2, 0), level / scale)
        return (clean * scale + low) @ np.linalg.inv(OPPONENT).T

    def _run(self, planes, levels) -> np.ndarray:
        """BM3D of planes [H, W], stacked along a last axis. Blocks are matched in the first that is not constant."""
        import bm3d

        profile = bm3d.BM3DProfile()
        profile.num_threads = 1
        if self.sizes.variances == "equal":
            profile.nf = 0  # what the package calls its conventional mode
        stages = bm3d.BM3DStages.ALL_STAGES
        clean, matches = [], (True, True)
        for plane, level in zip(planes, levels, strict=True):
            if np.ptp(plane) > 0:
                try:
                    found = bm3d.bm3d(plane, float(level), profile, stages, matches)
                except ValueError as error:
                    if "unpack" not in str(error):
                        raise
                    found = np.full_like(plane, plane.mean())  # it gives up where its first stage leaves one value
                plane, matches = found if isinstance(found, tuple) else (found, matches)
            clean.append(plane)
        return np.stack(clean, 2)
