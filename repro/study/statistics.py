"""Means with their uncertainty. Images are what is drawn: pixels of one image are not independent."""

from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

LEVEL = 0.95
DRAWS = 10_000


class Interval(NamedTuple):
    """A mean and its bootstrap interval. ``low`` and ``high`` are NaN for fewer than two values."""

    mean: float
    low: float
    high: float
    count: int

    @property
    def sign(self) -> int:
        """+1 or -1 where the whole interval lies above or below 0, else 0."""
        return int(self.low > 0) - int(self.high < 0)

    def signed(self) -> str:
        """``+0.12 [+0.05, +0.19]``: a difference with its interval."""
        return f"{self.mean:+.2f} [{self.low:+.2f}, {self.high:+.2f}]"


def bootstrap(values: ArrayLike, draws: int = DRAWS, seed: int = 0, level: float = LEVEL) -> Interval:
    """Percentile bootstrap interval of a mean.

    ``values``: one number per image, none of them NaN (ValueError). The same seed gives the same interval.
    """
    values = np.asarray(values, np.float64).ravel()
    if np.isnan(values).any():
        raise ValueError("A value is missing; an interval over the rest would be of another set.")
    if len(values) < 2:
        mean = float(values.mean()) if len(values) else float("nan")
        return Interval(mean, float("nan"), float("nan"), len(values))
    drawn = np.random.default_rng(seed).integers(len(values), size=(draws, len(values)))
    tail = 50 * (1 - level)
    low, high = np.percentile(values[drawn].mean(1), [tail, 100 - tail])
    return Interval(float(values.mean()), float(low), float(high), len(values))


def compare(first: pd.Series, second: pd.Series, draws: int = DRAWS, seed: int = 0) -> Interval:
    """Paired bootstrap of ``first - second``, two series with one value per image name.

    Both must be of the same images (ValueError otherwise). Pairing takes the large spread between images
    out of the comparison: what remains is the spread of the difference.
    """
    if not first.index.is_unique or set(first.index) != set(second.index) or len(first) != len(second):
        raise ValueError("A paired comparison needs the same images on both sides.")
    return bootstrap((first - second.reindex(first.index)).to_numpy(), draws, seed)


def permute(values: ArrayLike, labels: ArrayLike, strata: ArrayLike, draws: int = DRAWS, seed: int = 0) -> float:
    """Probability that labels which mean nothing are as far apart as these are, by permuting them within strata.

    ``values``, ``labels``, ``strata``: one entry per item. How far labels are apart is the sum over the labels of their
    squared mean deviation from the stratum's mean, times their number. Below 0.05, the labels mean something. The same
    seed gives the same probability; without a stratum that has two labels it is 1.
    """
    deviation = pd.Series(np.asarray(values, np.float64))
    if deviation.isna().any():
        raise ValueError("A value is missing.")
    _, stratum = np.unique(np.asarray(strata), return_inverse=True)
    deviation = (deviation - deviation.groupby(stratum).transform("mean")).to_numpy()
    names, label = np.unique(np.asarray(labels), return_inverse=True)

    def spread(label: np.ndarray) -> float:
        return float((np.bincount(label, deviation, len(names)) ** 2 / np.bincount(label)).sum())

    places = [np.flatnonzero(stratum == one) for one in range(stratum.max() + 1)]
    random, found, as_far = np.random.default_rng(seed), spread(label), 0
    for _ in range(draws):
        drawn = label.copy()
        for place in places:
            drawn[place] = random.permutation(drawn[place])
        as_far += spread(drawn) >= found - 1e-12 * abs(found)
    return (1 + as_far) / (1 + draws)
