"""The measures of repro.offsets on synthetic kernels whose answer is known."""

import numpy as np
import pandas as pd
import pytest
import torch

from repro import offsets
from repro.data.catalog import Sample
from repro.data.noise import fixed_gaussian_noise

GROUPS, TAPS = 8, 9


def stripes(angle_deg: float, side: int = 96, period: float = 24.0) -> np.ndarray:
    """A photograph of soft parallel stripes that run at ``angle_deg`` from the x axis towards growing y."""
    y, x = np.mgrid[:side, :side]
    across = -np.sin(np.deg2rad(angle_deg)) * x + np.cos(np.deg2rad(angle_deg)) * y
    return np.repeat(0.5 + 0.4 * np.sin(2 * np.pi * across / period)[None], 3, axis=0)


def disc(side: int = 128) -> np.ndarray:
    """A bright disc: its edge runs in every direction."""
    y, x = np.mgrid[:side, :side] - (side - 1) / 2
    return np.repeat((1 / (1 + np.exp((np.hypot(y, x) - side / 3) / 1.5)))[None], 3, axis=0)


def stretch(axis: np.ndarray, factor: float = 3.0) -> np.ndarray:
    """Offsets [144, H, W] that stretch the plain kernel along the double-angle axes [H, W, 2]."""
    angle = np.arctan2(axis[..., 1], axis[..., 0]) / 2
    along = np.stack([np.sin(angle), np.cos(angle)])  # (y, x)
    plain = np.stack(np.meshgrid([-1, 0, 1], [-1, 0, 1], indexing="ij"), -1).reshape(TAPS, 2)
    projection = np.einsum("kc,chw->khw", plain, along)
    moved = (factor - 1) * projection[:, None] * along[None]
    return np.tile(moved[None], (GROUPS, 1, 1, 1, 1)).reshape(-1, *axis.shape[:2])


def ones(height: int, width: int) -> np.ndarray:
    return np.ones((GROUPS * TAPS, height, width))


def edge_row(clean, offset, mask=None, cell_px=1):
    mask = ones(*offset.shape[1:]) if mask is None else mask
    table = offsets.measure_image({cell_px: (offset, mask)}, clean)
    return table.set_index("region").loc["edge"]


def test_plain_kernel_is_isotropic_and_keeps_its_radius():
    spread = offsets.measure_spread(offsets.place_points(np.zeros((144, 4, 5))), ones(4, 5))
    assert spread.anisotropy == pytest.approx(0, abs=1e-12)
    assert spread.radius_cells == pytest.approx(offsets.PLAIN_RADIUS_CELLS)
    assert spread.shift_cells == pytest.approx(0, abs=1e-12)
    assert not spread.axis.any()


def test_points_are_ordered_as_torchvision_orders_them():
    offset = np.zeros((144, 1, 1))
    offset[2 * (1 * TAPS + 5)] = 0.25  # group 1, kernel row 1, column 2: dy
    offset[2 * (1 * TAPS + 5) + 1] = -0.5  # dx
    points = offsets.place_points(offset)
    assert points[TAPS + 5, :, 0, 0].tolist() == [0.25, 0.5]
    assert points[5, :, 0, 0].tolist() == [0.0, 1.0]
    with pytest.raises(ValueError, match="143 channels"):
        offsets.place_points(np.zeros((143, 1, 1)))


@pytest.mark.parametrize("angle_deg", [0, 30, 45, 90, 120, 170])
def test_axis_and_anisotropy_of_a_line_of_points(angle_deg):
    a = np.deg2rad(angle_deg)
    points = np.array([[-np.sin(a), -np.cos(a)], [0, 0], [np.sin(a), np.cos(a)]])[:, :, None, None]
    spread = offsets.measure_spread(points, np.ones((3, 1, 1)))
    assert spread.anisotropy[0, 0] == pytest.approx(1)
    assert spread.axis[0, 0] == pytest.approx([np.cos(2 * a), np.sin(2 * a)], abs=1e-9)


def test_stretching_by_three_gives_the_anisotropy_of_the_covariance():
    offset = stretch(np.broadcast_to([1.0, 0.0], (2, 2, 2)), 3.0)
    spread = offsets.measure_spread(offsets.place_points(offset), ones(2, 2))
    assert spread.anisotropy == pytest.approx((9 - 1) / (9 + 1))


def test_mask_selects_the_points():
    mask = np.zeros((GROUPS * TAPS, 1, 1))
    mask[[3, 5]] = 0.5  # middle row, left and right: a horizontal pair
    spread = offsets.measure_spread(offsets.place_points(np.zeros((144, 1, 1))), mask)
    assert spread.anisotropy[0, 0] == pytest.approx(1)
    assert spread.axis[0, 0] == pytest.approx([1, 0])
    assert spread.radius_cells[0, 0] == pytest.approx(1)


def test_zero_mask_is_not_a_number_rather_than_a_kernel():
    spread = offsets.measure_spread(offsets.place_points(np.zeros((144, 1, 1))), np.zeros((72, 1, 1)))
    assert np.isnan(spread.anisotropy[0, 0]) and np.isnan(spread.radius_cells[0, 0])
    assert not spread.axis.any()


@pytest.mark.parametrize("angle_deg", [0, 30, 90, 135])
@pytest.mark.parametrize("cell_px", [1, 2])
def test_edge_direction_of_stripes(angle_deg, cell_px):
    structure = offsets.find_structure(stripes(angle_deg), cell_px)
    inner = (slice(8, -8), slice(8, -8))
    expected = np.array([np.cos(2 * np.deg2rad(angle_deg)), np.sin(2 * np.deg2rad(angle_deg))])
    assert (structure.edge[inner] @ expected).min() > 0.99
    assert structure.coherence[inner].min() > 0.9


def test_flat_photograph_has_no_edges():
    structure = offsets.find_structure(np.full((3, 20, 20), 0.5), 1)
    assert not structure.strength.any() and not structure.edge.any()
    assert not offsets.sort_regions(structure)["edge"].any()


def test_chosen_positions_are_what_they_are_called():
    clean = disc(256) * 0.6 + 0.2
    noise = np.random.default_rng(0).uniform(-0.2, 0.2, (1, 50, 50))
    clean[:, 100:150, 100:150] += noise  # a texture in the middle of the disc
    chosen = offsets.choose_positions(clean, margin_px=16)
    y, x = chosen["edge"]
    assert abs(np.hypot(y - 127.5, x - 127.5) - 256 / 3) < 8
    y, x = chosen["texture"]
    assert 96 <= y < 154 and 96 <= x < 154
    y, x = chosen["smooth"]
    assert clean[0, y - 4 : y + 5, x - 4 : x + 5].std() < 0.01


def test_kernels_along_across_and_unrelated_to_the_edge():
    clean = disc()
    edge = offsets.find_structure(clean, 1).edge
    along = edge_row(clean, stretch(edge))
    assert along.alignment > 0.999
    assert abs(along.alignment_shuffled) < 0.05
    across = edge_row(clean, stretch(-edge))
    assert across.alignment < -0.999
    angle = np.random.default_rng(0).uniform(0, 2 * np.pi, edge.shape[:2])
    unrelated = edge_row(clean, stretch(np.stack([np.cos(angle), np.sin(angle)], -1)))
    assert abs(unrelated.alignment) < 0.1
    still = edge_row(clean, np.zeros((144, *edge.shape[:2])))
    assert still.alignment == 0 and still.anisotropy == pytest.approx(0, abs=1e-12)


def test_shuffled_alignment_is_the_mean_over_permutations():
    random = np.random.default_rng(1)
    angles = random.uniform(0, 1.5, (2, 40))  # a preferred direction, so that the answer is not 0
    axis, edge = (np.stack([np.cos(a), np.sin(a)], -1) for a in angles)
    shuffles = [(random.permutation(axis) * edge).sum(1).mean() for _ in range(4000)]
    assert offsets.align(axis, edge)[1] == pytest.approx(np.mean(shuffles), abs=3e-3)


def test_a_fixed_kernel_on_one_sided_photograph_is_not_called_adaptive():
    clean = stripes(0)
    row = edge_row(clean, stretch(np.broadcast_to([1.0, 0.0], (96, 96, 2))))
    assert row.alignment > 0.99
    assert row.alignment_shuffled == pytest.approx(row.alignment, abs=1e-6)


def test_radius_is_reported_in_pixels_of_the_photograph():
    clean = stripes(20)
    table = offsets.measure_image(
        {s: (np.zeros((144, 96 // s, 96 // s)), ones(96 // s, 96 // s)) for s in (8, 1)}, clean
    )
    radius = table.groupby("cell_px").radius_px.mean()
    assert radius[8] == pytest.approx(8 * radius[1])


def test_odd_sides_and_wrong_sides():
    clean = stripes(20)[:, :93, :90]
    assert offsets.find_structure(clean, 8).strength.shape == (12, 12)
    with pytest.raises(ValueError, match="12"):
        offsets.measure_image({8: (np.zeros((144, 11, 12)), ones(11, 12))}, clean)


def test_blocks_share_out_the_positions():
    clean = disc(96)
    sampling = {s: (np.zeros((144, 96 // s, 96 // s)), ones(96 // s, 96 // s)) for s in (8, 1)}
    whole = offsets.measure_image(sampling, clean)
    blocks = offsets.measure_image(sampling, clean, block_px=32)
    assert set(blocks.block) == set(range(9))
    keys = ["cell_px", "region"]
    assert blocks.groupby(keys).positions.sum().equals(whole.groupby(keys).positions.sum())


def test_contrast_is_low_on_one_side_of_the_edge():
    gray = np.zeros((12, 12))
    gray[:, 6:] = 1
    chosen = np.zeros((12, 12), bool)
    chosen[2:10, 5:7] = True
    offset = np.zeros((144, 12, 12))
    assert offsets.contrast(gray, offsets.place_points(offset), ones(12, 12), chosen)[0] == pytest.approx(1 / 3)
    offset[1::2, :, 5], offset[1::2, :, 6] = -1, 1  # each column moves away from the edge
    own, other = offsets.contrast(gray, offsets.place_points(offset), ones(12, 12), chosen)
    assert own == 0
    assert 0.2 < other < 0.5  # half of the positions get the points of the other side: 2/3 of those cross


def synthetic_table(factor_at_edges: float, turned: bool = False) -> pd.DataFrame:
    """Six discs of different size; kernels stretched along (or across) the edge where there is one."""
    frames = []
    for number in range(6):
        clean = np.roll(disc(64 + 16 * number), number, axis=2)
        sampling = {}
        for cell_px in (2, 1):
            structure = offsets.find_structure(clean, cell_px)
            near = structure.strength > np.quantile(structure.strength, 0.7)
            axis = -structure.edge if turned else structure.edge
            offset = stretch(axis, factor_at_edges) * near
            sampling[cell_px] = (offset, ones(*near.shape))
        frames.append(offsets.measure_image(sampling, clean).assign(image=f"disc{number}"))
    return pd.concat(frames)


def test_summary_holds_for_kernels_that_do_what_the_paper_says_and_not_for_others():
    good = offsets.summarise(synthetic_table(2.0)).set_index(["claim", "cell_px"])
    assert good.holds.all()
    assert good.loc[("along edges", 1), "mean"] > 0.9
    turned = offsets.summarise(synthetic_table(2.0, turned=True)).set_index(["claim", "cell_px"])
    assert not turned.loc["along edges"].holds.any()
    plain = offsets.summarise(synthetic_table(1.0)).set_index(["claim", "cell_px"])
    assert not plain.loc["along edges"].holds.any()
    assert not plain.loc["even where smooth"].holds.any()
    assert not plain.loc["farther than plain"].holds.any()
    assert plain.loc[("farther when coarse", 2), "holds"]


def test_what_one_training_shows_and_another_does_not_does_not_hold():
    good, turned = synthetic_table(2.0), synthetic_table(2.0, turned=True)
    alone, twice, both = (
        offsets.summarise(*tables).set_index(["claim", "cell_px"]) for tables in ([good], [good, good], [good, turned])
    )
    pd.testing.assert_frame_equal(alone[["mean", "blocks", "own"]], twice[["mean", "blocks", "own"]])
    assert twice.holds.all()
    along = both.loc["along edges"]
    assert not along.holds.any() and (along["low"] < 0).all() and (along["high"] > 0).all()
    means = [offsets.summarise(table).set_index(["claim", "cell_px"])["mean"] for table in (good, turned)]
    pd.testing.assert_series_equal(both["mean"], (means[0] + means[1]) / 2)


def test_kernels_that_lie_across_the_edge_hold_nothing_however_the_shuffled_ones_lie():
    table = synthetic_table(2.0)
    table["alignment"], table["alignment_shuffled"] = -0.01, -0.02
    rows = offsets.summarise(table).set_index("claim").loc["along edges"]
    assert (rows["low"] > 0).all() and (rows["own"] < 0).all() and not rows["holds"].any()


def test_the_network_is_shown_the_noisy_photograph(monkeypatch):
    seen = []

    def collect(net, noisy):
        seen.append(noisy)
        return {1: (np.zeros((144, 96, 96)), ones(96, 96))}

    monkeypatch.setattr(offsets, "collect_sampling", collect)
    sample = Sample("disc", torch.from_numpy(disc(96)).float(), None)
    table = offsets.measure(None, [sample], 50.0, seed=3)
    assert torch.equal(seen[0], fixed_gaussian_noise(sample.clean, "disc", 50.0, 3))
    assert seen[0].min() < 0 and set(table["image"]) == {"disc"}, "it is not clipped"


def test_few_photographs_give_no_interval():
    table = synthetic_table(2.0)
    few = offsets.summarise(table[table.image.isin(["disc0", "disc1"])])
    assert few["mean"].notna().all() and few["low"].isna().all() and not few.holds.any()
