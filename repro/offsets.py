"""What the learned kernels of SADNet do: where they sample, how far, and whether along the edges.

The paper says (section 4.2, Figure 4) that the sampling points lie about uniformly in smooth regions, extend
along the edge near an edge, and reach farther at coarse scales. It shows a picture. Here each part becomes a
number.

At one position p of one scale, the modulated deformable convolution reads the points p + p_k + dp_k (p_k the
nine places of the 3x3 kernel, dp_k the learned offset) with modulation m_k, in every deform group. Those
points, weighted by their modulation and taken over all groups, have a mean, a covariance, and a mean distance
from p. The covariance has a principal axis (the direction in which the points are spread widest) and an
anisotropy (l1 - l2) / (l1 + l2) in [0, 1], l1 >= l2 its eigenvalues: 0 for the plain 3x3 kernel, 1 for points
on a line.

Axes have no sign: 10 and 190 degrees are one axis. They are therefore kept as double-angle vectors
(cos 2a, sin 2a), a measured from the x axis towards growing y. In this form the inner product of two axes is
cos 2(a - b): 1 parallel, 0 at 45 degrees or unrelated, -1 perpendicular, and averages mean what they should.

Coordinates are (y, x) in cells of the scale: one cell of scale s is s pixels of the photograph.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from scipy.ndimage import map_coordinates, maximum_filter, minimum_filter, uniform_filter
from skimage.feature import structure_tensor

from repro.data.catalog import Sample
from repro.data.noise import fixed_gaussian_noise
from repro.models.sadnet import SADNet
from repro.study.statistics import bootstrap

SCALES = (8, 4, 2, 1)  # pixels per cell, coarse to fine; the paper numbers these scales 4, 3, 2, 1
FEWEST_BLOCKS = 5  # photographs, or blocks of them, that an interval needs
PLAIN_RADIUS_CELLS = (4 + 4 * 2**0.5) / 9  # mean distance of a plain 3x3 kernel's points from its centre


class Spread(NamedTuple):
    """Sampling points of each position, summed up. All float64 arrays over the H x W cells of one scale."""

    axis: np.ndarray  # [H, W, 2] unit double-angle vector of the principal axis, 0 where there is none
    anisotropy: np.ndarray  # [H, W] in [0, 1]
    radius_cells: np.ndarray  # [H, W] mean distance from the position, not from the points' own mean
    shift_cells: np.ndarray  # [H, W] distance between the position and the mean of its points


class Structure(NamedTuple):
    """What the clean photograph shows at each cell: its edge direction and how clear and strong that is."""

    edge: np.ndarray  # [H, W, 2] unit double-angle vector along the edge, 0 where there is none
    coherence: np.ndarray  # [H, W] in [0, 1]: 1 a straight edge, 0 no direction
    strength: np.ndarray  # [H, W] root mean square gradient, per cell


@dataclass(frozen=True)
class Regions:
    """How positions are sorted. Quantiles are taken within one photograph at one scale."""

    smooth_below: float = 0.30  # quantile of strength; near a third of most photographs is sky, wall or blur
    edge_above: float = 0.85  # quantile of strength
    edge_coherence: float = 0.70  # one clear direction
    texture_above: float = 0.70  # quantile of strength
    texture_coherence: float = 0.40  # at most: strong, but without one direction
    margin_cells: int = 2  # zero padding disturbs the offsets at the border
    integration_cells: float = 1.0  # standard deviation of the structure tensor's window


def place_points(offset: np.ndarray, kernel: int = 3, dilation: int = 1) -> np.ndarray:
    """Where each tap samples, relative to its position.

    ``offset``: [2 * groups * kernel**2, H, W] in the order (group, kernel row, kernel column, (dy, dx)), as
    torchvision and SADNet order it. Returns [groups * kernel**2, 2, H, W], the (y, x) of p_k + dp_k in cells.
    """
    channels, height, width = offset.shape
    taps = kernel**2
    if channels % (2 * taps):
        raise ValueError(f"offset has {channels} channels; a {kernel}x{kernel} kernel needs a multiple of {2 * taps}")
    reach = (np.arange(kernel) - (kernel - 1) / 2) * dilation
    plain = np.stack(np.meshgrid(reach, reach, indexing="ij"), -1).reshape(taps, 2).astype(offset.dtype)
    moved = offset.reshape(-1, taps, 2, height, width)
    return (moved + plain[None, :, :, None, None]).reshape(-1, 2, height, width)


def measure_spread(points: np.ndarray, mask: np.ndarray) -> Spread:
    """Mask-weighted shape of the sampling points.

    ``points``: [K, 2, H, W] from :func:`place_points`; ``mask``: [K, H, W], not negative. A position whose
    whole mask is zero samples nothing: its axis is 0 and its anisotropy, radius and shift are NaN.
    """
    if points.shape[:1] + points.shape[2:] != mask.shape:
        raise ValueError(f"mask has shape {mask.shape}; expected {points.shape[:1] + points.shape[2:]}")
    # One point after the other: for a photograph of 768x512 all points at once would take gigabytes.
    moments = np.zeros((7, *mask.shape[1:]))
    for (y, x), weight in zip(points, mask, strict=True):
        moments += weight * np.stack([np.ones_like(y), y, x, y * y, y * x, x * x, np.hypot(y, x)])
    total = moments[0]
    with np.errstate(invalid="ignore", divide="ignore"):
        mean_y, mean_x, yy, xy, xx, radius = moments[1:] / total
    yy, xy, xx = yy - mean_y**2, xy - mean_y * mean_x, xx - mean_x**2
    axis, anisotropy = _split(xx - yy, 2 * xy, xx + yy)
    return Spread(axis, np.where(total > 0, anisotropy, np.nan), radius, np.hypot(mean_y, mean_x))


def average_cells(clean: np.ndarray, cell_px: int) -> np.ndarray:
    """Mean gray value of each cell: [C, H, W] to [ceil(H / cell_px), ceil(W / cell_px)].

    Sides that are no multiple of ``cell_px`` are extended by repeating the last row and column.
    """
    gray = np.asarray(clean, np.float64).mean(0)
    height, width = gray.shape
    gray = np.pad(gray, ((0, -height % cell_px), (0, -width % cell_px)), mode="edge")
    return gray.reshape(gray.shape[0] // cell_px, cell_px, -1, cell_px).mean((1, 3))


def find_structure(clean: np.ndarray, cell_px: int, integration_cells: float = 1.0) -> Structure:
    """Structure tensor of the clean photograph, averaged to the cells of one scale.

    ``clean``: [C, H, W] in [0, 1].
    """
    gray = average_cells(clean, cell_px)
    yy, xy, xx = structure_tensor(gray, sigma=integration_cells, mode="nearest", order="rc")
    axis, coherence = _split(yy - xx, -2 * xy, xx + yy)  # the gradient's axis turned by 90 degrees: both signs change
    return Structure(axis, coherence, np.sqrt(xx + yy))


def sort_regions(structure: Structure, regions: Regions = Regions()) -> dict[str, np.ndarray]:
    """Boolean [H, W] maps of the smooth, edge and texture positions of one photograph at one scale."""
    inside = np.zeros(structure.strength.shape, bool)
    margin = regions.margin_cells
    inside[margin : inside.shape[0] - margin, margin : inside.shape[1] - margin] = True
    if not inside.any():
        return {name: inside for name in ("smooth", "edge", "texture")}
    strength, coherence = structure.strength, structure.coherence
    levels = [regions.smooth_below, regions.texture_above, regions.edge_above]
    low, middle, high = np.quantile(strength[inside], levels)
    uneven = inside & (strength > 0)
    return {
        "smooth": inside & (strength <= low),
        "edge": uneven & (strength >= high) & (coherence >= regions.edge_coherence),
        "texture": uneven & (strength >= middle) & (coherence <= regions.texture_coherence),
    }


def choose_positions(clean: np.ndarray, cell_px: int = 4, margin_px: int = 56) -> dict[str, tuple[int, int]]:
    """One clear example each of a smooth place, an edge and a texture: ``{region: (y, x) in pixels}``.

    ``clean``: [C, H, W] in [0, 1]. Very dark and very bright places are passed over, for the sake of the
    picture.
    """
    structure = find_structure(clean, cell_px)
    gray = average_cells(clean, cell_px)
    visible = (minimum_filter(gray, 7) > 0.12) & (maximum_filter(gray, 7) < 0.92)
    around = uniform_filter(structure.strength, 9)
    score = {
        "smooth": -around,
        "edge": structure.strength * structure.coherence,
        "texture": around * (1 - uniform_filter(structure.coherence, 9)),
    }
    chosen = {}
    for region, where in sort_regions(structure, Regions(margin_cells=margin_px // cell_px)).items():
        allowed = where & visible if (where & visible).any() else where
        if allowed.any():
            best = np.where(allowed, score[region], -np.inf).argmax()
            row, column = np.unravel_index(best, gray.shape)
            chosen[region] = (int(row) * cell_px + cell_px // 2, int(column) * cell_px + cell_px // 2)
    return chosen


def align(axis: np.ndarray, edge: np.ndarray) -> tuple[float, float]:
    """Mean alignment of N axes with N edges ([N, 2] each), and what it is after shuffling the axes between
    positions.

    The second number is the mean over *all* permutations, which is the product of the means. It is not 0
    where a photograph has a preferred direction and the kernels a fixed one: that part owes nothing to
    adaptation.
    """
    if not len(axis):
        return float("nan"), float("nan")
    return float((axis * edge).sum(1).mean()), float(axis.mean(0) @ edge.mean(0))


def contrast(gray: np.ndarray, points: np.ndarray, mask: np.ndarray, chosen: np.ndarray) -> tuple[float, float]:
    """How much what the chosen positions sample differs from what they stand on, and the same after
    shuffling.

    Mask-weighted mean of |gray(p + p_k + dp_k) - gray(p)| over the positions ``chosen`` ([H, W] boolean) of
    ``gray`` [H, W], which is the clean photograph; ``points`` [K, 2, H, W] and ``mask`` [K, H, W]. In the
    second number each position samples with the points and mask of another chosen position.
    """
    here = np.argwhere(chosen).T.astype(np.float64)  # [2, N]
    if here.shape[1] < 2:
        return float("nan"), float("nan")
    points, mask = points[:, :, chosen], mask[:, chosen]  # [K, 2, N], [K, N]
    results = []
    for order in (slice(None), np.random.default_rng(0).permutation(here.shape[1])):
        at = here[:, None] + points[:, :, order].swapaxes(0, 1)  # [2, K, N]
        sampled = map_coordinates(gray, at, order=1, mode="nearest")
        weight = mask[:, order]
        difference = (weight * np.abs(sampled - gray[chosen])).sum(0) / weight.sum(0)
        results.append(_mean(difference))
    return results[0], results[1]


def collect_sampling(net: SADNet, noisy: torch.Tensor) -> dict[int, tuple[np.ndarray, np.ndarray]]:
    """Offsets and masks of one photograph at the four scales: ``{pixels per cell: (offset, mask)}``, coarse
    to fine.

    ``net``: a SADNet with spatial-adaptive blocks, on any device; ``noisy``: [C, H, W] in [0, 1]. Cells that
    lie wholly in the network's padding are left out.
    """
    height, width = noisy.shape[-2:]
    device, sampling = next(net.parameters()).device, {}
    for cell_px, fields in zip(SCALES, net.offsets(noisy[None].to(device)), strict=True):
        rows, columns = -(-height // cell_px), -(-width // cell_px)
        offset, mask = (field[0, :, :rows, :columns].float().cpu().numpy() for field in fields)
        sampling[cell_px] = (offset, mask)
    return sampling


def measure_image(
    sampling: Mapping[int, tuple[np.ndarray, np.ndarray]],
    clean: np.ndarray,
    *,
    regions: Regions = Regions(),
    block_px: int | None = None,
) -> pd.DataFrame:
    """How the kernels of one photograph lie: one row per block, scale and region.

    ``sampling``: ``{pixels per cell: (offset [2K, H, W], mask [K, H, W])}``; ``clean``: [C, H, W] in [0, 1].
    ``block_px`` (a multiple of the largest cell) cuts the photograph into squares, whole ones only; regions
    are sorted over the whole photograph all the same. None: one block. Columns: see the dictionary below;
    ``alignment`` and ``contrast`` are NaN where a region has fewer than two positions.
    """
    rows = []
    for cell_px, (offset, mask) in sampling.items():
        points, gray = place_points(offset), average_cells(clean, cell_px)
        spread = measure_spread(points, mask)
        structure = find_structure(clean, cell_px, regions.integration_cells)
        if structure.strength.shape != spread.anisotropy.shape:
            raise ValueError(
                f"offsets have {spread.anisotropy.shape} cells of {cell_px} px; "
                f"the photograph has {structure.strength.shape}"
            )
        sorted_regions = sort_regions(structure, regions)
        for block, here in enumerate(_blocks(gray.shape, block_px and block_px // cell_px)):
            for region, everywhere in sorted_regions.items():
                chosen = np.zeros_like(everywhere)
                chosen[here] = everywhere[here]
                aligned, aligned_shuffled = align(spread.axis[chosen], structure.edge[chosen])
                sampled, sampled_shuffled = contrast(gray, points, mask, chosen)
                rows.append(
                    {
                        "block": block,
                        "cell_px": cell_px,
                        "region": region,
                        "positions": int(chosen.sum()),
                        "alignment": aligned,
                        "alignment_shuffled": aligned_shuffled,
                        "contrast": sampled,
                        "contrast_shuffled": sampled_shuffled,
                        "anisotropy": _mean(spread.anisotropy[chosen]),
                        "shift_px": _mean(spread.shift_cells[chosen]) * cell_px,
                        "radius_cells": _mean(spread.radius_cells[chosen]),
                        "radius_px": _mean(spread.radius_cells[chosen]) * cell_px,
                    }
                )
    return pd.DataFrame(rows)


def _blocks(shape: tuple[int, int], side: int | None) -> list[tuple[slice, slice]]:
    if side is None:
        return [(slice(None), slice(None))]
    return [
        (slice(top, top + side), slice(left, left + side))
        for top in range(0, shape[0] - side + 1, side)
        for left in range(0, shape[1] - side + 1, side)
    ]


def measure(
    net: SADNet,
    samples: Iterable[Sample],
    sigma_255: float,
    *,
    seed: int = 0,
    regions: Regions = Regions(),
    block_px: int | None = None,
) -> pd.DataFrame:
    """:func:`measure_image` for every photograph, with the evaluation noise of the study (unclipped), and its
    name."""
    tables = []
    for sample in samples:
        noisy = fixed_gaussian_noise(sample.clean, sample.name, sigma_255, seed)
        table = measure_image(collect_sampling(net, noisy), sample.clean.numpy(), regions=regions, block_px=block_px)
        tables.append(table.assign(image=sample.name))
    if not tables:
        raise ValueError("no photographs to measure")
    return pd.concat(tables, ignore_index=True)


CLAIMS = {
    "even where smooth": "001-direction-kernels-uniform-in-smooth-regions",
    "along edges": "001-direction-kernels-extend-along-edges",
    "on similar texture": "001-direction-samples-on-similar-texture",
    "farther when coarse": "001-direction-coarse-scale-reaches-further",
    "near when fine": "001-direction-fine-scale-stays-near",
}
"""Statements of :func:`summarise` and the rows of ``results/claims.csv`` that they test."""
QUANTITIES = {
    "even where smooth": "Anisotropy (0 to 1) in smooth regions minus that at edges",
    "along edges": "Alignment with the edge (-1 to 1) minus that of shuffled offsets",
    "on similar texture": "Contrast of what is sampled at edges (gray levels of 1) minus that of shuffled offsets",
    "farther when coarse": (
        "Mean radius in pixels minus that of the next finer scale, half of which is by construction, so that this can "
        "hardly fail"
    ),
    "near when fine": "Mean radius in pixels minus that of a plain kernel one scale coarser",
}
"""What :func:`summarise` gives for each of them."""
UNMEASURED = {
    "even where smooth": "But the sentence is about even textures, too, and does not say which are: half of it is not "
    "tested.",
}
"""The part of a sentence that nothing here measures."""
PREDICTED = {
    "even where smooth": -1,
    "along edges": +1,
    "on similar texture": -1,
    "farther when coarse": +1,
    "farther than plain": +1,
    "near when fine": -1,
}
"""On which side of 0 it lies where the sentence holds."""


def summarise(*tables: pd.DataFrame) -> pd.DataFrame:
    """What the paper states about its kernels, as differences with intervals.

    ``tables``: rows of :func:`measure`, one table for each training of the same network; the intervals are over pairs
    of image and block (positions are not drawn: neighbours share their pixels), and over trainings where there are
    several. Returns one row per statement and scale: claim, cell_px, mean, low, high, blocks, holds, own. ``holds``:
    the 95 % interval lies wholly on the side of 0 that the paper's sentence predicts. ``own`` is the mean of the
    first of the two values that the difference is of.

    * ``even where smooth``: anisotropy in smooth regions minus that at edges. Below 0.
    * ``along edges``: alignment at edges minus the shuffled one. Above 0; and the alignment itself must be, or the
      kernels lie no more along an edge than across it.
    * ``on similar texture``: contrast of what is sampled at edges, minus the shuffled one. Below 0.
    * ``farther when coarse``: mean radius in pixels minus that of the next finer scale. Above 0. Cells of a
      coarser scale are twice as wide by construction, so this can hardly fail. Hence a harder question that
      the paper does not ask:
    * ``farther than plain``: mean radius minus that of the plain 3x3 kernel at the same scale. Above 0.
    * ``near when fine``: mean radius at the finest scale, minus that of a plain kernel one scale coarser.
      Below 0.
    """
    trainings = [_pair_blocks(table) for table in tables]
    rows = []
    for statement, cell in trainings[0]:
        pairs = [training[statement, cell] for training in trainings]
        own = pd.concat([own for own, _ in pairs], axis=1, keys=range(len(pairs))).dropna()
        difference = pd.concat([own - other for own, other in pairs], axis=1, keys=range(len(pairs))).dropna()
        mean, low, high, count = bootstrap(difference)
        if count < FEWEST_BLOCKS:
            low = high = float("nan")
        holds = low > 0 if PREDICTED[statement] > 0 else high < 0
        if statement == "along edges":
            holds = holds and bootstrap(own).low > 0
        rows.append((statement, int(cell), mean, low, high, count, bool(holds), float(own.to_numpy().mean())))
    return pd.DataFrame(rows, columns=["claim", "cell_px", "mean", "low", "high", "blocks", "holds", "own"])


def _pair_blocks(table: pd.DataFrame) -> dict[tuple[str, int], tuple[pd.Series, pd.Series | float]]:
    """(statement, scale) -> the two values that a statement compares, for every pair of image and block."""
    wide = table.pivot(index=["image", "block"], columns=["cell_px", "region"])
    cells = sorted(table["cell_px"].unique(), reverse=True)
    radius = {}
    for cell in cells:
        positions = wide["positions"][cell]
        radius[cell] = (wide["radius_px"][cell] * positions).sum(axis=1) / positions.sum(axis=1)
    pairs: dict[tuple[str, int], tuple[pd.Series, pd.Series | float]] = {}
    for cell in cells:
        edge, smooth = (
            {name: wide[name][cell][region] for name in wide.columns.levels[0]} for region in ("edge", "smooth")
        )
        pairs["even where smooth", cell] = smooth["anisotropy"], edge["anisotropy"]
        pairs["along edges", cell] = edge["alignment"], edge["alignment_shuffled"]
        pairs["on similar texture", cell] = edge["contrast"], edge["contrast_shuffled"]
        pairs["farther than plain", cell] = radius[cell], PLAIN_RADIUS_CELLS * cell
    for cell, finer in pairwise(cells):
        pairs["farther when coarse", cell] = radius[cell], radius[finer]
    pairs["near when fine", cells[-1]] = radius[cells[-1]], 2 * PLAIN_RADIUS_CELLS * cells[-1]
    return pairs


def _split(real: np.ndarray, imaginary: np.ndarray, trace: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Unit double-angle vector and ratio (l1 - l2) / (l1 + l2) of symmetric 2x2 matrices with this trace."""
    length = np.hypot(real, imaginary)
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = np.where(trace > 0, length / trace, 0.0)
        # Rounding leaves a meaningless direction where the two eigenvalues are equal.
        unit = np.where(ratio > 1e-9, np.stack([real, imaginary]) / length, 0.0)
    return np.moveaxis(unit, 0, -1), np.minimum(ratio, 1.0)


def _mean(values: np.ndarray) -> float:
    values = values[np.isfinite(values)]
    return float(values.mean()) if len(values) else float("nan")
