"""Means with their uncertainty. Images are what is drawn, since pixels of one image are not independent; and
trainings, where there are several."""

from collections.abc import Sequence
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

    ``values``: one number per image, or [images, seeds]: a column for each training of the same network, drawn as
    well, then, independently of the images. None of them is NaN (ValueError). The same ``seed`` gives the same
    interval.
    """
    return _bootstrap([_to_columns(values)], draws, seed, level)


def compare(
    first: pd.Series | pd.DataFrame, second: pd.Series | pd.DataFrame, draws: int = DRAWS, seed: int = 0
) -> Interval:
    """Paired bootstrap of ``first - second``: one value per image name, or a column of them for each training.

    Both must be of the same images (ValueError otherwise). Pairing takes the large spread between images
    out of the comparison: what remains is the spread of the difference. Of several trainings (seeds) of a network
    one draw takes as many, with repetition; those of the two sides are drawn independently, except where both sides
    are of the same trainings, which stay paired.
    """
    if not first.index.is_unique or set(first.index) != set(second.index) or len(first) != len(second):
        raise ValueError("A paired comparison needs the same images on both sides.")
    first, second = pd.DataFrame(first), pd.DataFrame(second.reindex(first.index))
    one, other = _to_columns(first), _to_columns(second)
    if one.shape[1] == other.shape[1] == 1 or list(first.columns) == list(second.columns):
        return _bootstrap([one - other], draws, seed, LEVEL)
    return _bootstrap([one, -other], draws, seed, LEVEL)


def compare_trainings(first: ArrayLike, second: ArrayLike, draws: int = DRAWS, seed: int = 0) -> Interval:
    """Bootstrap of ``mean(first) - mean(second)`` where each has one number per training and no images are behind it,
    as for a point of a learning curve. Trainings of the two sides are drawn independently; the count is that of all.
    Without two of each side there are no bounds (NaN): of one training nothing can be drawn.
    """
    one, other = (_to_columns(values).reshape(1, -1) for values in (first, second))
    count, mean = one.size + other.size, float(one.mean() - other.mean())
    if min(one.size, other.size) < 2:
        return Interval(mean, float("nan"), float("nan"), count)
    random, image = np.random.default_rng(seed), np.zeros((draws, 1), int)
    means = sum(_draw_means(side, image, _draw_trainings(random, side.shape[1], draws)) for side in (one, -other))
    return Interval(mean, *_cut_tails(means, LEVEL), count)


def bootstrap_average(sets: Sequence[np.ndarray | pd.DataFrame], draws: int = DRAWS, seed: int = 0) -> Interval:
    """The interval of the mean of the means of several image sets, each [images] or [images, seeds].

    The images of each set are drawn by themselves; a draw of trainings is the same for all sets, whose columns must
    therefore be those of the same trainings in the same order (ValueError otherwise). The count is that of all images.
    """
    columns = [_to_columns(values) for values in sets]
    named = [list(values.columns) if isinstance(values, pd.DataFrame) else values.shape[1:] for values in sets]
    if any(one != named[0] for one in named):
        raise ValueError("An average over sets needs the same trainings in each of them.")
    count, mean = sum(map(len, columns)), float(np.mean([values.mean() for values in columns]))
    if min(map(len, columns)) < 2:
        return Interval(mean, float("nan"), float("nan"), count)
    random = np.random.default_rng(seed)
    chosen = _draw_trainings(random, columns[0].shape[1], draws)
    means = np.mean([_draw_means(values, _draw_images(random, len(values), draws), chosen) for values in columns], 0)
    return Interval(mean, *_cut_tails(means, LEVEL), count)


def _to_columns(values: ArrayLike) -> np.ndarray:
    """[images, seeds]"""
    values = np.asarray(values, np.float64)
    if np.isnan(values).any():
        raise ValueError("A value is missing; an interval over the rest would be of another set.")
    return values if values.ndim == 2 else values.reshape(-1, 1)


def _bootstrap(sides: list[np.ndarray], draws: int, seed: int, level: float) -> Interval:
    """Of the sum over ``sides`` of the means: the same images for all, for each trainings of its own."""
    count = len(sides[0])
    mean = float(sum(side.mean(1) for side in sides).mean()) if count else float("nan")
    if count < 2:
        return Interval(mean, float("nan"), float("nan"), count)
    random = np.random.default_rng(seed)
    images = _draw_images(random, count, draws)
    means = sum(_draw_means(side, images, _draw_trainings(random, side.shape[1], draws)) for side in sides)
    return Interval(mean, *_cut_tails(means, level), count)


def _draw_images(random: np.random.Generator, count: int, draws: int) -> np.ndarray:
    """[draws, count]"""
    return random.integers(count, size=(draws, count))


def _draw_trainings(random: np.random.Generator, trainings: int, draws: int) -> np.ndarray:
    """[trainings, draws]"""
    return random.integers(trainings, size=(trainings, draws)) if trainings > 1 else np.zeros((1, draws), int)


def _draw_means(values: np.ndarray, images: np.ndarray, trainings: np.ndarray) -> np.ndarray:
    """The mean of ``values`` [images, seeds] in each draw."""
    by_training = np.stack([column[images].mean(1) for column in values.T])  # [seeds, draws]
    return np.take_along_axis(by_training, trainings, 0).mean(0)


def _cut_tails(means: np.ndarray, level: float) -> tuple[float, float]:
    tail = 50 * (1 - level)
    low, high = np.percentile(means, [tail, 100 - tail])
    return float(low), float(high)


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
