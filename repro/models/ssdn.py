"""SSDN, self-supervised denoising with a blind spot, and the baselines it is held against.

S. Laine, T. Karras, J. Lehtinen, T. Aila: High-Quality Self-Supervised Deep Image Denoising. NeurIPS 2019.
Reproduction: D. Jones, R. Crosland, J. Barrett, University of Southampton (document 002 of the study).
Baselines: Noise2Noise (Lehtinen et al., ICML 2018), Noise2Void (Krull et al., CVPR 2019).

The idea: a network that never sees the pixel it is asked about cannot learn to copy its noise, so the noisy
image itself can be the target. From the surroundings Omega of a pixel the network predicts what its clean
colour x may be, a normal distribution p(x | Omega) with mean mu_x and covariance S_x. The noise model
p(y | x) turns it into a distribution of the noisy value y, whose likelihood is the training loss: no clean
image is needed. At test time the pixel's own value comes back by Bayes' rule, p(x | y, Omega) ~ p(y | x)
p(x | Omega), and the mean of that posterior is the result.

The blind spot is made of four views. A U-Net whose every layer looks upward only is run on the image turned
by 0, 90, 180 and 270 degrees; moved down by one row each sees a half plane that ends just before the pixel.
Turned back, the four are joined by 1x1 convolutions.

Differences between paper, earlier reproduction and authors' code
-----------------------------------------------------------------
- Clipping. Paper: not said. Authors: noise is never clipped, in training or testing. The reproduction
  clipped at first and saw estimation fail completely.
- Precision. Authors: everything after the network in float64. Reproduction: float32 (``precision``).
- Last layer of the noise estimator. Paper: not said. Authors: all zeros (``zero_estimator``); the
  reproduction found training to fail otherwise.
- Constant unknown level. Authors: one number, 0 at first, which Adam moves by at most the learning rate per
  step: no hindrance in half a million steps. In a few thousand it cannot arrive, hence ``estimate_gain``.
- First estimate of an unknown level. Authors: 0.019, far below the noise. The likelihood sees the sum of noise
  and prior covariance only, so training first lets the prior have all the noise, and the regulariser needs
  many steps to bring it back. From above (``first_strength``) the noise has it all until the surroundings
  explain a part.
- Initialisation. Authors: normal, gain sqrt(2), 1 for the last layer. Reproduction: gain sqrt(2 / 1.01),
  that of a leaky ReLU of slope 0.1.
- Patches. Authors: neither turned nor mirrored, images without replacement. Here: eight orientations, with
  replacement, as for every method of the study; gradients clipped in norm, and the weights of every method
  averaged, which the paper does for Noise2Void.
- Regulariser of an unknown noise level. Authors: loss minus 0.1 times the standard deviation; not for impulse
  noise; and since their gray loss is twice the negative log-likelihood, it weighs half as much there.
- Images. Authors: padded to one square for the whole set by reflection, the noise added *afterwards*: what is
  reflected has noise of its own. The reproduction pads the noisy image. Here any size, and no padding shows a
  pixel its own copy: each view is padded in its own frame, below (where it does not look) and along its rows
  (a copy of a pixel stays in the row of that pixel, which its own result does not see).
- Gray images. Authors: the mean of the three channels. Here: BT.601 luma, as for every method of the study.
- A gradient that is not finite. Authors: the step is left out. Here: the run ends and says so.
- Training images. Authors: ImageNet. Here: BSD400, and DIV2K for as long as published.
- Noise2Void is not in the authors' code. The reproduction's takes as target an independent second draw of the
  noise, which is Noise2Noise on few pixels, and draws replacements from a window that begins at the image's
  corner (``n2v_port``).
- Poisson noise. Reproduction: (lambda x + Poisson(1)) / lambda, which does not depend on the signal.
- Size. Reproduction: "4x larger network". It has 1.15 times the parameters and 4.39 times the
  multiply-accumulates of the baseline.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from math import expm1, log, sqrt
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from repro.data import noise as noise_models
from repro.errors import ReproError
from repro.models.base import Denoiser, pad_to_multiple

SLOPE = 0.1  # of the leaky ReLU, everywhere
POOLINGS = 5
MULTIPLE = 2**POOLINGS
BAND = 64  # rows of an image that the last layers see at a time
DEVIATION_MIN = 1e-3  # of known Gaussian noise, of an estimate, and of the mean in Poisson noise
EPSILON = 1e-6  # keeps covariances invertible
DETERMINANT_MIN = 1e-9  # of impulse noise

# The keyword that tells a network of each family how strong the noise is.
KEYWORDS = {"gaussian": "sigma", "poisson": "events", "impulse": "alpha"}


@dataclass(frozen=True)
class NoiseSizes:
    """What both networks need to know of the noise. The defaults suit the authors' colour network."""

    channels: int = 3  # 3 colour, 1 gray
    width: int = 48  # features of the encoder; twice as many in the decoder
    noise: str = "gaussian"  # or "poisson", "impulse"
    # How strong the noise in training is: sigma_255 (gaussian), events lambda (poisson), alpha (impulse); a
    # number, or a range (low, high) from which each image draws its own. Needed by objectives that draw noise
    # themselves, and what a network that is told the level goes by when it is told nothing.
    level: float | tuple[float, float] | None = None
    anneal_steps: int | None = None  # length of training, for the exponent of impulse noise
    initialisation: str = "authors"  # or "port": gain sqrt(2 / 1.01)

    def __post_init__(self):
        if isinstance(self.level, list):  # where read from JSON
            object.__setattr__(self, "level", tuple(self.level))
        if self.channels not in (1, 3):
            raise ValueError(f"channels is 1 (gray) or 3 (colour), not {self.channels}.")
        if self.width < 1:
            raise ValueError("every size is at least 1.")
        if self.noise not in KEYWORDS:
            raise ValueError(f"noise is {' or '.join(KEYWORDS)}, not {self.noise!r}.")
        if self.initialisation not in ("authors", "port"):
            raise ValueError(f"initialisation is 'authors' or 'port', not {self.initialisation!r}.")
        if self.level is not None:
            low, high = self.level_range
            top = 1 if self.noise == "impulse" else float("inf")
            if not (0 <= low <= high <= top and (low > 0 or self.noise != "poisson")):
                raise ValueError(f"level = {self.level} is no strength of {self.noise} noise.")

    @property
    def level_range(self) -> tuple[float, float]:
        """(low, high) of the level; twice the same where it is fixed."""
        return self.level if isinstance(self.level, tuple) else (self.level, self.level)


@dataclass(frozen=True)
class UNetSizes(NoiseSizes):
    """The baseline: N2C, N2N and N2V differ in their objective only."""

    outputs: int | None = None  # None: as many as channels; 1: SSDN's estimator of the noise level
    zero_last: bool = False  # whether the last layer starts from zeros


@dataclass(frozen=True)
class SSDNSizes(NoiseSizes):
    """What may vary. The defaults are the authors' network for Gaussian noise of known level."""

    covariance: str = "full"  # of the prior; "diagonal"; "none": the mean alone, the ablation "mu only"
    parameter: str = "known"  # the noise level; "constant": unknown, one for all; "variable": one per image
    precision: str = "float64"  # of all that follows the network; the port: "float32"
    regulariser: float = 0.1  # how much larger noise estimates are favoured
    zero_estimator: bool = True  # last layer of the estimator starts from zeros
    estimate_gain: float = 1.0  # how many times the constant level's parameter counts: what lets short runs arrive
    first_strength: float | None = None  # what an unknown level begins from; None: the authors' 0.019

    def __post_init__(self):
        super().__post_init__()
        known = {
            "covariance": ("full", "diagonal", "none"),
            "parameter": ("known", "constant", "variable"),
            "precision": ("float64", "float32"),
        }
        for name, words in known.items():
            if getattr(self, name) not in words:
                raise ValueError(f"{name} is {' or '.join(words)}, not {getattr(self, name)!r}.")
        if not 0 < self.estimate_gain < float("inf"):
            raise ValueError(f"estimate_gain is more than 0, not {self.estimate_gain}.")
        if self.first_strength is not None and not DEVIATION_MIN < self.first_strength <= 1:
            raise ValueError(f"first_strength is more than {DEVIATION_MIN} and at most 1, not {self.first_strength}.")
        if self.noise == "impulse" and self.channels == 1 and self.covariance != "none":
            raise ValueError("impulse noise has a posterior for colour images only.")

    @property
    def outputs(self) -> int:
        """Means, then entries of the covariance's root: 3 + 6, 3 + 3 or 3; gray 1 + 1 or 1."""
        entries = {"full": self.channels * (self.channels + 1) // 2, "diagonal": self.channels, "none": 0}
        return self.channels + entries[self.covariance]


def activate(x: Tensor) -> Tensor:
    return F.leaky_relu(x, SLOPE)


class UpwardConv2d(nn.Conv2d):
    """A 3x3 convolution that sees its own row and the two above: a row of the result depends on no row below.

    The same as one row of zeros on top, an ordinary convolution, and the last row dropped.
    """

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(F.pad(x, (1, 1, 2, 0)), self.weight, self.bias)


def shift_down(x: Tensor) -> Tensor:
    """Zeros become the first row, the last row is lost."""
    return F.pad(x[..., :-1, :], (0, 0, 1, 0))


class Trunk(nn.Module):
    """The U-Net up to its last 3x3 convolution, [N, C, H, W] -> [N, 2 width, H, W], sides multiples of 32.

    ``upward``: every layer looks upward, so that row r of the result depends on rows 0 to r of the image.
    """

    def __init__(self, channels: int, width: int, upward: bool):
        super().__init__()
        self.upward = upward
        inputs = [channels] + 6 * [width]
        self.enc = nn.ModuleList(self._conv(c, width) for c in inputs)  # enc0 to enc6
        inputs = [2 * width, 3 * width, 3 * width, 3 * width, 2 * width + channels]
        self.dec_a = nn.ModuleList(self._conv(c, 2 * width) for c in inputs)  # dec5a to dec1a
        self.dec_b = nn.ModuleList(self._conv(2 * width, 2 * width) for _ in inputs)

    def _conv(self, channels_in: int, channels_out: int) -> nn.Conv2d:
        if self.upward:
            return UpwardConv2d(channels_in, channels_out, 3)
        return nn.Conv2d(channels_in, channels_out, 3, padding=1)

    def _pool(self, x: Tensor) -> Tensor:
        # Moved down by one row first, or else the upper pixel of each pair would see the lower.
        return F.max_pool2d(shift_down(x) if self.upward else x, 2)

    def forward(self, x: Tensor) -> Tensor:
        # The weights decide on the layout. On a CPU these widths run twice as fast without channels_last.
        skips = [x := x.contiguous()]
        x = activate(self.enc[0](x))
        for conv in self.enc[1:6]:
            x = self._pool(activate(conv(x)))  # [N, width, H / 2^k, W / 2^k]
            skips.append(x)
        x = activate(self.enc[6](skips.pop()))
        for conv_a, conv_b in zip(self.dec_a, self.dec_b, strict=True):
            x = F.interpolate(x, scale_factor=2, mode="nearest")
            x = activate(conv_a(torch.cat([x, skips.pop()], 1)))
            x = activate(conv_b(x))
        return x


class Tail(nn.Module):
    """Three 1x1 convolutions, the last one linear."""

    def __init__(self, channels: int, width: int, outputs: int):
        super().__init__()
        self.nin_a = nn.Conv2d(channels, channels, 1)
        self.nin_b = nn.Conv2d(channels, 2 * width, 1)
        self.nin_c = nn.Conv2d(2 * width, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.nin_c(activate(self.nin_b(activate(self.nin_a(x)))))


class UNet(Denoiser):
    """The baseline network, which sees every pixel: ``net(noisy) -> clean``, blind to the noise level."""

    name = "unet"
    Sizes = UNetSizes
    halo = 128  # measured with random weights: what lies further away changed nothing by more than 1/255
    alignment = MULTIPLE

    def __init__(self, sizes: UNetSizes):
        super().__init__()
        self.sizes = sizes
        self.trunk = Trunk(sizes.channels, sizes.width, upward=False)
        self.tail = Tail(2 * sizes.width, sizes.width, sizes.outputs or sizes.channels)
        initialise(self, sizes.initialisation)
        if sizes.zero_last:
            nn.init.zeros_(self.tail.nin_c.weight)

    def forward(self, noisy: Tensor) -> Tensor:
        self.require_image(noisy)
        height, width = noisy.shape[-2:]
        return self.tail(self.trunk(pad_to_multiple(noisy, MULTIPLE))[..., :height, :width])

    @classmethod
    def upstream_sizes(cls, arrays: dict[str, Tensor]) -> dict:
        """The sizes that a state dict of the port shows."""
        sizes = _upstream_sizes(arrays)
        if sizes.get("outputs") == sizes.get("channels"):
            sizes.pop("outputs", None)
        return sizes

    @classmethod
    def upstream_name(cls, name: str) -> str:
        """What the port calls a parameter of this network."""
        return _upstream_name(name)

    def upstream_aliases(self) -> dict[str, str]:
        """Second names in a state dict of the port."""
        return dict(UPSTREAM_ALIASES)


class Prior(NamedTuple):
    """What the network believes before it sees a pixel: raw statistics, and how strong it holds the noise.

    ``statistics`` [B, outputs, H, W]; ``strength`` [B, 1, 1] or [1, 1, 1]: the standard deviation (gaussian),
    1 / lambda (poisson), alpha (impulse); None where only the mean is predicted.
    """

    statistics: Tensor
    strength: Tensor | None


class SSDN(Denoiser):
    """The blind-spot network with its posterior mean.

    ``net(noisy, sigma=...) -> clean`` for a known level: ``sigma`` is the standard deviation of Gaussian
    noise in units of the [0, 1] range; a network for Poisson noise takes ``events`` (lambda) instead, one for
    impulse noise ``alpha`` (the share of replaced pixels); each a number or a tensor [B]. Where the level is
    unknown, or only the mean is asked for, ``net(noisy)``. A missing, negative or foreign level is a
    ReproError.
    """

    name = "ssdn"
    Sizes = SSDNSizes
    halo = 320  # exact: no view reaches further; it is this far because all layers look the same way
    alignment = MULTIPLE

    def __init__(self, sizes: SSDNSizes):
        super().__init__()
        self.sizes = sizes
        self.trunk = Trunk(sizes.channels, sizes.width, upward=True)
        self.tail = Tail(8 * sizes.width, sizes.width, sizes.outputs)
        initialise(self, sizes.initialisation)
        self.estimator = None
        if sizes.parameter == "variable" and sizes.covariance != "none":
            self.estimator = UNet(
                UNetSizes(
                    channels=sizes.channels,
                    width=sizes.width,
                    outputs=1,
                    zero_last=sizes.zero_estimator,
                    initialisation=sizes.initialisation,
                )
            )
        if sizes.parameter == "constant" and sizes.covariance != "none":
            self.estimate = nn.Parameter(torch.zeros(()))
        if sizes.first_strength is not None:
            self._begin_estimate_from(sizes.first_strength)

    @torch.no_grad()
    def _begin_estimate_from(self, strength: float) -> None:
        value = 4 + log(expm1(strength - DEVIATION_MIN))  # what _as_strength undoes
        if self.estimator is not None:
            self.estimator.tail.nin_c.bias.fill_(value)
        elif self.sizes.parameter == "constant" and self.sizes.covariance != "none":
            self.estimate.fill_(value / self.sizes.estimate_gain)

    @property
    def is_told(self) -> bool:
        """Whether somebody must say how strong the noise is."""
        return self.sizes.parameter == "known" and self.sizes.covariance != "none"

    @property
    def needs_sigma(self) -> bool:
        return self.is_told and self.sizes.noise == "gaussian"

    def forward(
        self,
        noisy: Tensor,
        sigma: float | Tensor | None = None,
        *,
        events: float | Tensor | None = None,
        alpha: float | Tensor | None = None,
        strength: Tensor | None = None,
        prior: bool = False,
    ) -> Tensor | Prior:
        """The posterior mean [B, C, H, W]; with ``prior``, the :class:`Prior` it follows from instead. ``strength``
        is what :meth:`look_over` found in a larger image, of which this one is a part."""
        self.require_image(noisy)
        given = {"sigma": sigma, "events": events, "alpha": alpha}
        found = self._find_strength(noisy, given) if strength is None else strength
        believed = Prior(self._look_around(noisy), found)
        return believed if prior else posterior_mean(noisy, believed, self.sizes).to(noisy.dtype)

    def look_over(self, tiles: Iterable[tuple[Tensor, tuple]]) -> dict[str, Tensor]:
        """The level of the noise of the whole image, where it is estimated from the image."""
        if self.estimator is None:
            return {}
        total, pixels = 0.0, 0
        for window, tile in tiles:
            part = self.estimator(window)[tile]
            total, pixels = total + part.sum((1, 2, 3)), pixels + part.shape[-2] * part.shape[-1]
        return {"strength": _as_strength(total / pixels)}

    def _look_around(self, noisy: Tensor) -> Tensor:
        """The raw statistics [B, outputs, H, W] of every pixel, none of which sees itself."""
        views: dict[int, Tensor] = {}
        # Two by two in training, of equal shape whatever the shape of the image; else one by one, for half the memory.
        for together in ((0, 2), (1, 3)) if torch.is_grad_enabled() else ((0,), (1,), (2,), (3,)):
            turned = torch.cat([noisy.rot90(k, (2, 3)) for k in together])
            height, width = turned.shape[-2:]
            above = shift_down(self.trunk(pad_to_multiple(turned, MULTIPLE))[..., :height, :width])
            views |= zip(together, above.chunk(len(together)), strict=True)
        upright = [views[k].rot90(-k, (2, 3)) for k in range(4)]
        # The tail looks at one pixel at a time: in bands, its wide layers take little memory.
        rows = noisy.shape[2] if torch.is_grad_enabled() else BAND
        tops = range(0, noisy.shape[2], rows)
        return torch.cat([self.tail(torch.cat([v[:, :, top : top + rows] for v in upright], 1)) for top in tops], 2)

    def _find_strength(self, noisy: Tensor, given: dict[str, float | Tensor | None]) -> Tensor | None:
        """How strong the noise is taken to be (:class:`Prior`); it is never passed to the network."""
        family, keyword = self.sizes.noise, KEYWORDS[self.sizes.noise]
        for other, value in given.items():
            if value is not None and other != keyword:
                raise ReproError(f"This {self.name} is for {family} noise, which has {keyword}, not {other}.")
        if not self.is_told and given[keyword] is not None:
            why = "uses no noise model" if self.sizes.covariance == "none" else "estimates the noise itself"
            raise ReproError(f"This {self.name} {why}: it takes no {keyword}.")
        if self.sizes.covariance == "none":
            return None
        if self.sizes.parameter == "constant":
            return _as_strength(self.sizes.estimate_gain * self.estimate.reshape(1))
        if self.sizes.parameter == "variable":
            return _as_strength(self.estimator(noisy).mean((1, 2, 3)))
        level = given[keyword]
        if level is None:
            low, high = self.sizes.level_range
            if low is None or low != high:
                raise ReproError(f"{self.name} must be told the noise level: give {keyword}.")
            level = low / 255 if family == "gaussian" else low
        level = torch.as_tensor(level, dtype=torch.float64)
        if family == "poisson":
            level = 1 / level
        top = 1 if family == "impulse" else float("inf")
        if level.dim() > 1 or not bool(((level >= 0) & (level <= top) & level.isfinite()).all()):
            allowed = {"gaussian": "0 or more", "poisson": "more than 0", "impulse": "from 0 to 1"}[family]
            raise ReproError(f"{keyword} of {family} noise is {allowed}, one number or one per image, not {level}.")
        if level.numel() not in (1, len(noisy)):
            raise ReproError(f"There are {level.numel()} values of {keyword} for {len(noisy)} images.")
        return level.to(noisy.device).reshape(-1, 1, 1)

    @classmethod
    def upstream_sizes(cls, arrays: dict[str, Tensor]) -> dict:
        """The sizes that a state dict of the port shows; the noise family and what is known of it leave no
        trace."""
        sizes = _upstream_sizes(arrays)
        channels = sizes.get("channels", 3)
        entries = sizes.pop("outputs", 9) - channels
        sizes["covariance"] = {0: "none", 3: "diagonal"}.get(entries, "full")  # gray has 1: the same either way
        return sizes

    @classmethod
    def upstream_name(cls, name: str) -> str:
        """What the port calls a parameter of this network."""
        return _upstream_name(name)

    def upstream_aliases(self) -> dict[str, str]:
        """Second names in a state dict of the port."""
        return dict(UPSTREAM_ALIASES)


def _as_strength(v: Tensor) -> Tensor:
    """An estimate [B] as a strength [B, 1, 1]: positive, and small (:data:`FIRST_STRENGTH`) where v is 0."""
    return (F.softplus(v.double() - 4) + DEVIATION_MIN).reshape(-1, 1, 1)


FIRST_STRENGTH = _as_strength(torch.zeros(1, device="cpu")).item()  # 0.019, 4.9 gray levels: where the authors' begin


# --- noise model and prior: what follows the network, in float64 -----------------------------------------------------


class Symmetric(NamedTuple):
    """Symmetric 3x3 matrices, one per pixel, as their six entries [B, H, W]."""

    xx: Tensor
    xy: Tensor
    xz: Tensor
    yy: Tensor
    yz: Tensor
    zz: Tensor

    def plus(self, x: Tensor | float, y: Tensor | float, z: Tensor | float) -> "Symmetric":
        """With x, y and z added on the diagonal."""
        return self._replace(xx=self.xx + x, yy=self.yy + y, zz=self.zz + z)

    def cofactors(self) -> "Symmetric":
        return Symmetric(
            xx=self.yy * self.zz - self.yz * self.yz,
            xy=self.xz * self.yz - self.xy * self.zz,
            xz=self.xy * self.yz - self.xz * self.yy,
            yy=self.xx * self.zz - self.xz * self.xz,
            yz=self.xy * self.xz - self.xx * self.yz,
            zz=self.xx * self.yy - self.xy * self.xy,
        )

    def determinant(self) -> Tensor:
        cofactors = self.cofactors()
        return self.xx * cofactors.xx + self.xy * cofactors.xy + self.xz * cofactors.xz

    def inverse(self) -> "Symmetric":
        cofactors = self.cofactors()
        determinant = self.xx * cofactors.xx + self.xy * cofactors.xy + self.xz * cofactors.xz
        return Symmetric(*(cofactor / determinant for cofactor in cofactors))

    def times(self, vector: Tensor) -> Tensor:
        """The product with [B, 3, H, W]."""
        x, y, z = vector.unbind(1)
        rows = (
            self.xx * x + self.xy * y + self.xz * z,
            self.xy * x + self.yy * y + self.yz * z,
            self.xz * x + self.yz * y + self.zz * z,
        )
        return torch.stack(rows, 1)


def split_statistics(statistics: Tensor, sizes: SSDNSizes) -> tuple[Tensor, Symmetric | Tensor | None]:
    """Mean [B, C, H, W] and covariance of the prior: :class:`Symmetric` in colour, the variance [B, 1, H, W] in
    gray, None where only the mean is predicted.

    Colour: A A^T of an upper triangular A, which the network gives row by row.
    """
    statistics = statistics.to(getattr(torch, sizes.precision))
    mean, a = statistics.split([sizes.channels, sizes.outputs - sizes.channels], 1)
    if sizes.covariance == "none":
        return mean, None
    if sizes.channels == 1:
        return mean, a.square()
    if sizes.covariance == "diagonal":
        xx, yy, zz = a.square().unbind(1)
        none = torch.zeros_like(xx)
        return mean, Symmetric(xx, none, none, yy, none, zz)
    a0, a1, a2, a3, a4, a5 = a.unbind(1)
    return mean, Symmetric(
        xx=a0 * a0 + a1 * a1 + a2 * a2,
        xy=a1 * a3 + a2 * a4,
        xz=a2 * a5,
        yy=a3 * a3 + a4 * a4,
        yz=a4 * a5,
        zz=a5 * a5,
    )


def noise_deviation(mean: Tensor, strength: Tensor, noise: str) -> Tensor:
    """Standard deviation of the noise, [B, C, H, W]: the same everywhere, or, for Poisson noise, by the
    predicted mean, through which gradients flow."""
    strength = strength.to(mean.dtype)[:, None]
    if noise == "poisson":
        return (mean.clamp_min(DEVIATION_MIN) * strength).sqrt()
    return strength.clamp_min(DEVIATION_MIN).expand_as(mean)


def posterior_mean(noisy: Tensor, prior: Prior, sizes: SSDNSizes) -> Tensor:
    """E[x | y, Omega] of every pixel, [B, C, H, W] in ``sizes.precision``: the clean estimate."""
    mean, covariance = split_statistics(prior.statistics, sizes)
    if covariance is None:
        return mean
    y = noisy.to(mean.dtype)
    if sizes.noise == "impulse":
        # Either the pixel was replaced by a uniform colour (density 1) and says nothing, or it is clean.
        kept = (1 - prior.strength.to(mean.dtype)) * normal_density(y - mean, covariance.plus(*3 * [EPSILON]))
        replaced = prior.strength.to(mean.dtype).expand_as(kept)
        total = (replaced + kept)[:, None]
        mixed = (replaced[:, None] * mean + kept[:, None] * y) / total
        # With alpha = 0 nothing is replaced, and the density of an unlikely colour may be 0 to a computer.
        return mixed.where(total > 0, y)
    variance = noise_deviation(mean, prior.strength, sizes.noise).square()
    if sizes.channels == 1:
        return (y * covariance + mean * variance) / (covariance + variance)
    return join_guess_and_pixel(y, mean, covariance, variance)


def join_guess_and_pixel(y: Tensor, mean: Tensor, covariance: Symmetric, variance: Tensor) -> Tensor:
    """Mean [B, 3, H, W] of the posterior in colour: prior N(mean, covariance), noise of ``variance``."""
    prior_precision = covariance.plus(*3 * [EPSILON]).inverse()
    noise_precision = 1 / (variance + EPSILON)
    precision = prior_precision.plus(*noise_precision.unbind(1)).plus(*3 * [EPSILON])
    return precision.inverse().times(prior_precision.times(mean) + noise_precision * y)


def negative_log_likelihood(noisy: Tensor, prior: Prior, sizes: SSDNSizes) -> Tensor:
    """The loss: how unlikely the noisy image is under prior and noise model, a mean over pixels and batch.

    Up to constants. As in the authors' code it is twice that in gray and for impulse noise, and unknown
    Gaussian or Poisson noise is drawn towards larger levels by ``sizes.regulariser``.
    """
    mean, covariance = split_statistics(prior.statistics, sizes)
    y = noisy.to(mean.dtype)
    if sizes.noise == "impulse":
        mean, covariance = impulse_moments(mean, covariance.plus(*3 * [EPSILON]), prior.strength.to(mean.dtype))
        return (_distance(y - mean, covariance) + covariance.determinant().clamp_min(DETERMINANT_MIN).log()).mean()
    deviation = noise_deviation(mean, prior.strength, sizes.noise)
    variance = deviation.square()
    if sizes.channels == 1:
        spread = covariance + variance
        loss = ((y - mean).square() / spread + spread.log()).mean()
    else:
        loss = measure_surprise(y, mean, covariance, variance).mean()
    if sizes.parameter != "known":
        loss = loss - sizes.regulariser * deviation.mean()
    return loss


def measure_surprise(y: Tensor, mean: Tensor, covariance: Symmetric, variance: Tensor) -> Tensor:
    """Minus the log-likelihood [B, H, W] of noisy colours, up to a constant."""
    spread = covariance.plus(*variance.unbind(1))
    # max(determinant, 0), as the authors write it; noise keeps it above 1e-18.
    return (_distance(y - mean, spread) + spread.determinant().clamp_min(0).log()) / 2


def impulse_moments(mean: Tensor, covariance: Symmetric, alpha: Tensor) -> tuple[Tensor, Symmetric]:
    """Mean [B, 3, H, W] and covariance of a pixel that impulse noise replaces with probability ``alpha``.

    A mixture of the prior and of the uniform colour (mean 1/2, variance 1/12 per channel); ``alpha`` [B, 1, 1].
    """
    x, y, z = mean.unbind(1)
    mixed = alpha[:, None] / 2 + (1 - alpha[:, None]) * mean
    mx, my, mz = mixed.unbind(1)

    def mix(cov: Tensor, first: Tensor, second: Tensor, m_first: Tensor, m_second: Tensor, own: float) -> Tensor:
        """The second moments of both parts, mixed, minus the product of the mixed means."""
        return alpha * (1 / 4 + own) + (1 - alpha) * (cov + first * second) - m_first * m_second

    return mixed, Symmetric(
        xx=mix(covariance.xx, x, x, mx, mx, 1 / 12),
        xy=mix(covariance.xy, x, y, mx, my, 0),
        xz=mix(covariance.xz, x, z, mx, mz, 0),
        yy=mix(covariance.yy, y, y, my, my, 1 / 12),
        yz=mix(covariance.yz, y, z, my, mz, 0),
        zz=mix(covariance.zz, z, z, mz, mz, 1 / 12),
    )


def normal_density(difference: Tensor, covariance: Symmetric) -> Tensor:
    """Density [B, H, W] of a 3-D normal distribution at ``difference`` [B, 3, H, W] from its mean."""
    determinant = covariance.determinant().clamp_min(DETERMINANT_MIN)
    return (-_distance(difference, covariance) / 2).exp() / ((2 * torch.pi) ** 3 * determinant).sqrt()


def _distance(difference: Tensor, covariance: Symmetric) -> Tensor:
    """The squared Mahalanobis distance d^T S^-1 d, [B, H, W]."""
    return (difference * covariance.inverse().times(difference)).sum(1)


# --- objectives: `loss = "name"` of repro.train ----------------------------------------------------------------------


def blindspot(net: nn.Module, noisy: Tensor, clean: Tensor, step: int) -> Tensor:
    """SSDN: minus the log-likelihood of the noisy image; for the mean alone, its squared distance. No clean
    image is used, except to draw noise of other kinds than the training loop's from it."""
    sizes = net.sizes
    noisy, level = draw_noise(noisy, clean, sizes)
    if sizes.covariance == "none":
        return _power_loss(net(noisy), noisy, sizes, step)
    if sizes.parameter == "known" and not level:
        raise ReproError("Training with a known noise level needs it among the sizes of the network: level=25, say.")
    prior = net(noisy, prior=True, **(level if sizes.parameter == "known" else {}))
    return negative_log_likelihood(noisy, prior, sizes)


def n2c(net: nn.Module, noisy: Tensor, clean: Tensor, step: int) -> Tensor:
    """Noise2Clean: noisy to clean, squared."""
    return F.mse_loss(net(draw_noise(noisy, clean, net.sizes)[0]), clean)


def n2n(net: nn.Module, noisy: Tensor, clean: Tensor, step: int) -> Tensor:
    """Noise2Noise: noisy to a second, independent draw of the noise on the same patch.

    Squared; for impulse noise, whose mean is not the clean image, |d|^p with p falling from 2 to 1/2 over
    ``anneal_steps``, so that at the end the most frequent value is learned.
    """
    noisy, level = draw_noise(noisy, clean, net.sizes)
    target = draw_second(clean, net.sizes, level)
    return _power_loss(net(noisy), target, net.sizes, step)


def n2v(net: nn.Module, noisy: Tensor, clean: Tensor, step: int) -> Tensor:
    """Noise2Void in the form of its paper: some pixels are hidden behind a neighbour, and the network learns to
    predict their own noisy value, squared, there only."""
    noisy, _ = draw_noise(noisy, clean, net.sizes)
    hidden, masked = hide_pixels(noisy)
    return F.mse_loss(*(_pick(image, masked) for image in (net(hidden), noisy)))


def n2v_port(net: nn.Module, noisy: Tensor, clean: Tensor, step: int) -> Tensor:
    """Noise2Void in the form the reproduction's code has: the same places for the whole batch, replaced from
    anywhere between the image's corner and the next row and column, and the target an independent second draw
    of the noise. That is Noise2Noise at one pixel in 64.

    Two departures. The code's loss looks at the places with rows and columns exchanged, so mostly at pixels that were
    not replaced; here it looks at those that were. And the code sums over them, where here is their mean."""
    noisy, level = draw_noise(noisy, clean, net.sizes)
    target = draw_second(clean, net.sizes, level)
    hidden, masked = hide_pixels(noisy, as_port=True)
    return F.mse_loss(*(_pick(image, masked) for image in (net(hidden), target)))


OBJECTIVES = (blindspot, n2c, n2n, n2v, n2v_port)
BOX = 8  # one hidden pixel in each box of 8 x 8: 1.56 %, 64 of a patch of 64 x 64
RADIUS = 2  # of the neighbourhood, 5 x 5


def hide_pixels(noisy: Tensor, as_port: bool = False) -> tuple[Tensor, Tensor]:
    """``noisy`` [B, C, H, W] with one pixel of each box replaced by another, and where: indices [B, boxes] into
    H * W.

    The replacement is drawn evenly from the 5x5 neighbourhood without the pixel itself, as far as the image goes.
    ``as_port``: from the rows 0 to r + 1 and columns 0 to c + 1 without row r and column c, at the same places
    for the whole batch.
    """
    batch, channels, height, width = noisy.shape
    if min(height, width) < 2:
        raise ReproError(f"Noise2Void needs patches of 2 x 2 pixels and more, not {height} x {width}.")
    device = noisy.device
    tops, lefts = torch.arange(0, height, BOX, device=device), torch.arange(0, width, BOX, device=device)
    count = (1 if as_port else batch, len(tops), len(lefts))

    def draw(low: Tensor, high: Tensor) -> Tensor:  # whole numbers, low to high inclusive
        return low + (torch.rand(count, device=device) * (high - low + 1)).long().minimum(high - low)

    tops, lefts = tops[:, None].expand(count), lefts.expand(count)
    row = draw(tops, (tops + BOX - 1).clamp_max(height - 1))
    column = draw(lefts, (lefts + BOX - 1).clamp_max(width - 1))
    if as_port:
        # One fewer row and column to draw from; from the pixel's own on, the next is meant.
        other_row = draw(torch.zeros_like(row), (row + 1).clamp_max(height - 1) - 1)
        other_column = draw(torch.zeros_like(column), (column + 1).clamp_max(width - 1) - 1)
        other_row, other_column = other_row + (other_row >= row), other_column + (other_column >= column)
    else:
        top, left = (row - RADIUS).clamp_min(0), (column - RADIUS).clamp_min(0)
        across = (column + RADIUS).clamp_max(width - 1) - left + 1
        down = (row + RADIUS).clamp_max(height - 1) - top + 1
        place = draw(torch.zeros_like(row), down * across - 2)
        place = place + (place >= (row - top) * across + column - left)
        other_row, other_column = top + place // across, left + place % across
    masked, source = (
        places.reshape(count[0], -1).expand(batch, -1)
        for places in (row * width + column, other_row * width + other_column)
    )
    hidden = noisy.flatten(2).scatter(2, masked[:, None].expand(-1, channels, -1), _pick(noisy, source))
    return hidden.view(noisy.shape), masked


def _pick(image: Tensor, places: Tensor) -> Tensor:
    """The pixels [B, C, n] of [B, C, H, W] at ``places`` [B, n]."""
    return image.flatten(2).gather(2, places[:, None].expand(-1, image.shape[1], -1))


def draw_noise(noisy: Tensor, clean: Tensor, sizes: NoiseSizes) -> tuple[Tensor, dict[str, Tensor | float]]:
    """The noisy images to train on, and their level as the keyword argument of the network.

    What the training loop made is used wherever it is Gaussian noise of one level, or of a level nobody asks
    for; any other noise is drawn here, never clipped, on the device. The level is empty where it is not known.
    """
    if sizes.noise == "gaussian" and (sizes.level is None or sizes.level_range[0] == sizes.level_range[1]):
        return noisy, {} if sizes.level is None else {"sigma": sizes.level_range[0] / 255}
    if sizes.level is None:
        raise ReproError(f"Training for {sizes.noise} noise needs its level among the sizes of the network.")
    low, high = sizes.level_range
    level = low + (high - low) * torch.rand(len(clean), device=clean.device)
    if sizes.noise == "gaussian":
        level = level / 255
    level = {KEYWORDS[sizes.noise]: level}
    return draw_second(clean, sizes, level), level


def draw_second(clean: Tensor, sizes: NoiseSizes, level: dict[str, Tensor | float]) -> Tensor:
    """Fresh noise of ``level`` (from :func:`draw_noise`) on ``clean``."""
    if not level:
        raise ReproError("A second draw of the noise needs its level among the sizes of the network: level=25, say.")
    (value,) = level.values()
    each = torch.as_tensor(value, dtype=clean.dtype, device=clean.device).reshape(-1, 1, 1, 1)
    if sizes.noise == "poisson":
        return noise_models.add_poisson_noise(clean, each)
    if sizes.noise == "impulse":
        return noise_models.add_impulse_noise(clean, each)
    return noise_models.add_gaussian_noise(clean, each * 255)


def _power_loss(estimate: Tensor, target: Tensor, sizes: NoiseSizes, step: int) -> Tensor:
    """|d|^2; for impulse noise (|d| + 1e-8)^p, p = max(1/2, 2 - 2 step / anneal_steps)."""
    if sizes.noise != "impulse":
        return F.mse_loss(estimate, target)
    if not sizes.anneal_steps:
        raise ReproError("Impulse noise needs anneal_steps, the length of training, among the sizes of the network.")
    power = max(0.5, 2 - 2 * step / sizes.anneal_steps)
    return ((estimate - target).abs() + 1e-8).pow(power).mean()


def check_training(
    sizes: NoiseSizes, loss: str, sigma_range_255: tuple[float, float], clip: bool, steps: int | None
) -> None:
    """A ReproError where the training loop's noise, or its length, is not what the objective ``loss`` goes by.

    ``clip``: whether the loop's noise is clipped, as rounding to 8 bits does, too. ``steps``: None where a
    clock ends the training.
    """
    if steps and sizes.anneal_steps not in (None, steps):
        raise ReproError(
            f"anneal_steps = {sizes.anneal_steps} is the length of training, which is {steps} steps here: the exponent "
            "of impulse noise would end elsewhere."
        )
    draws = loss in (objective.__name__ for objective in OBJECTIVES)  # the losses of every network draw nothing
    if sizes.noise != "gaussian" and not draws:
        others = ", ".join(objective.__name__ for objective in OBJECTIVES)
        raise ReproError(
            f"The loss {loss} sees the training loop's Gaussian noise, and the network is for {sizes.noise} noise, "
            f"which is drawn by {others}."
        )
    if loss == blindspot.__name__ and not isinstance(sizes, SSDNSizes):
        others = ", ".join(objective.__name__ for objective in OBJECTIVES if objective is not blindspot)
        raise ReproError(f"The loss {loss} is for networks that do not see the pixel itself; a unet has {others}.")
    if sizes.level is None:
        return
    drawn_here = draws and (sizes.noise != "gaussian" or sizes.level_range[0] != sizes.level_range[1])
    if not drawn_here and sizes.level_range != sigma_range_255:
        told, trained = (
            f"{low:g}" if low == high else f"{low:g} to {high:g}" for low, high in (sizes.level_range, sigma_range_255)
        )
        raise ReproError(f"The network is told of noise of level {told}, and would be trained on {trained}.")
    if clip and (drawn_here or loss in ("n2n", "n2v_port")):
        raise ReproError(f"The objective {loss} draws noise of its own here, which is never clipped.")


# --- initialisation, names -------------------------------------------------------------------------------------------


def initialise(net: nn.Module, initialisation: str) -> None:
    """He et al.'s normal weights for layers with an activation, gain 1 for the last, zero biases."""
    gain = {"authors": sqrt(2), "port": sqrt(2 / (1 + SLOPE**2))}[initialisation]
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            fan_in = module.weight[0].numel()
            nn.init.normal_(module.weight, std=(1 if module is net.tail.nin_c else gain) / sqrt(fan_in))
            nn.init.zeros_(module.bias)


# Names here and names in the port, whose last layer is registered twice.
UPSTREAM_NAMES = (
    (r"^trunk\.enc\.0\.", lambda found: "encode_block_1.0."),
    (r"^trunk\.enc\.1\.", lambda found: "encode_block_1.2."),
    (r"^trunk\.enc\.(\d)\.", lambda found: f"encode_block_{found[1]}.0."),
    (r"^trunk\.dec_a\.(\d)\.", lambda found: f"decode_block_{5 - int(found[1])}.0."),
    (r"^trunk\.dec_b\.(\d)\.", lambda found: f"decode_block_{5 - int(found[1])}.2."),
    (r"^tail\.nin_a\.", lambda found: "output_block.0."),
    (r"^tail\.nin_b\.", lambda found: "output_block.2."),
    (r"^tail\.nin_c\.", lambda found: "output_conv."),
)
UPSTREAM_ALIASES = {f"output_block.4.{kind}": f"output_conv.{kind}" for kind in ("weight", "bias")}


def _upstream_name(name: str) -> str:
    for ours, theirs in UPSTREAM_NAMES:
        name, replaced = re.subn(ours, theirs, name)
        if replaced:
            break
    return name


def _upstream_sizes(arrays: dict[str, Tensor]) -> dict:
    sizes = {}
    if "encode_block_1.0.weight" in arrays:
        sizes["width"], sizes["channels"] = arrays["encode_block_1.0.weight"].shape[:2]
    for name in ("output_conv.weight", "output_block.4.weight"):
        if name in arrays:
            sizes["outputs"] = arrays[name].shape[0]
    return sizes
