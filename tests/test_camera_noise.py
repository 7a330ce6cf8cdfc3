"""The noise of cameras: measures that are known beforehand, and the committed table."""

from zlib import crc32

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.ndimage import uniform_filter

from repro import camera_noise, gradient_pages
from repro.data import catalog
from repro.errors import ReproError
from repro.study import claims, verdicts
from repro.study.verdicts import DIRECTION, NOT_REPRODUCED, NOT_TESTABLE, Study

SIDE = 128
LEDGER = claims.load()


def measure(rest: np.ndarray) -> dict[str, float]:
    """Of noise [3, H, W] in units of [0, 1] on a gray image."""
    clean = torch.full((3, SIDE, SIDE), 0.5)
    return camera_noise.measure(clean + torch.from_numpy(rest).float(), clean, "made up")


def draw(scale: float = 0.02) -> np.ndarray:
    return scale * np.random.default_rng(0).normal(size=(3, SIDE, SIDE))


def test_white_noise_is_told_its_strength_and_no_correlation():
    found = measure(draw())
    assert found["sigma_255"] == pytest.approx(255 * 0.02, rel=0.02)
    assert found["estimate_255"] == pytest.approx(found["sigma_255"], rel=0.03)
    for way in ("right", "down", "far", "colours"):
        assert abs(found[f"correlation_{way}"]) < 0.03


def test_a_mean_of_two_neighbours_is_correlated_by_a_half_in_one_direction():
    white = draw()
    found = measure((white + np.roll(white, 1, 2)) / np.sqrt(2))
    assert found["correlation_right"] == pytest.approx(0.5, abs=0.03)
    assert abs(found["correlation_down"]) < 0.03 and abs(found["correlation_far"]) < 0.03


def test_the_estimate_undershoots_where_noise_is_smooth():
    found = measure(3 * uniform_filter(draw(), (0, 3, 3), mode="wrap"))
    assert found["estimate_255"] < 0.5 * found["sigma_255"]
    assert found["control_estimate_255"] == pytest.approx(found["control_sigma_255"], rel=0.05)
    assert found["control_sigma_255"] == pytest.approx(found["sigma_255"], rel=0.02)


def test_colours_that_share_their_noise_are_correlated():
    shared = np.repeat(draw()[:1], 3, 0)
    assert measure(shared)["correlation_colours"] == pytest.approx(1)


def test_a_brighter_photograph_is_no_noisier():
    assert measure(draw() + 0.1)["sigma_255"] == pytest.approx(measure(draw())["sigma_255"], rel=1e-4)


def test_images_that_do_not_belong_together_are_refused():
    for noisy, clean in (((3, 20, 20), (3, 20, 21)), ((1, 20, 20), (1, 20, 20)), ((3, 20, 16), (3, 20, 16))):
        with pytest.raises(ValueError, match="of one shape"):
            camera_noise.measure(torch.zeros(noisy), torch.zeros(clean), "x")
    with pytest.raises(ReproError, match="no noisy photographs"):
        camera_noise.measure_sets(("embedded-test",))


def test_grain_is_what_shuffling_takes_away_and_the_spectrum_keeps():
    found = measure(3 * uniform_filter(draw(), (0, 3, 3), mode="wrap"))
    assert found["shuffled_estimate_255"] == pytest.approx(found["sigma_255"], rel=0.05)
    assert found["spectrum_estimate_255"] == pytest.approx(found["estimate_255"], rel=0.15)


def test_noise_in_few_places_is_not_what_its_spectrum_says():
    """Of the same power at every frequency: strong in a corner, or weak everywhere. A median sees the first only."""
    rest = np.zeros((3, SIDE, SIDE))
    rest[:, : SIDE // 4] = draw(0.04)[:, : SIDE // 4]
    found = measure(rest)
    assert found["estimate_255"] < 0.1 * found["sigma_255"]
    assert found["spectrum_estimate_255"] == pytest.approx(found["sigma_255"], rel=0.05)


def test_a_name_tells_sensor_iso_and_scene_where_it_can():
    told = camera_noise.read_setting("polyu", "Canon600D_3-5_125_1600_waterhouse_10")
    assert told == ("Canon600D", "1600", "waterhouse")
    assert camera_noise.read_setting("cc15", "d800_iso3200_1") == ("NikonD800", "3200", "d800_iso3200_1")
    assert camera_noise.read_setting("nam25", "07") == ("", "", "07")


def test_crops_of_a_scene_are_one_row():
    scenes = camera_noise.average_scenes(camera_noise.load())
    counts = scenes["dataset"].value_counts()
    assert (counts["cc15"], counts["nam25"], counts["sidd_samples"]) == (15, 25, 5) and counts["polyu"] < 40
    assert scenes.loc[scenes["dataset"] == "polyu", "sensor"].nunique() == 5


def test_the_table_is_written_and_read(tmp_path):
    table = camera_noise.load()
    again = camera_noise.load(camera_noise.save(table, tmp_path / "noise.csv"))
    pd.testing.assert_frame_equal(table, again)
    with pytest.raises(ReproError, match="Cannot read"):
        camera_noise.load(tmp_path / "absent.csv")


def test_the_committed_table_is_what_is_measured():
    table = camera_noise.load().set_index(["dataset", "image"])
    counts = {name: len(rows) for name, rows in table.groupby("dataset")}
    assert counts == {name: catalog.find(name).images for name in camera_noise.PAIRS}
    if catalog.locate("cc15") is None:
        pytest.skip("cc15 is not here; REPRO_DATA names a mirror")
    sample = next(catalog.samples("cc15", limit=1))
    found = camera_noise.measure(sample.noisy, sample.clean, sample.name)
    assert found == pytest.approx(dict(table.loc["cc15", sample.name]), rel=1e-4, abs=1e-4)


# --- what follows from it -------------------------------------------------------------------------------------

GRAIN, SENSORS, UNDERSHOOTS = (
    f"003-direction-{end}" for end in ("real-noise-covariance", "real-noise-sensors", "estimate-undershoots")
)


def settle(claim_id: str, table: pd.DataFrame | None) -> verdicts.Verdict:
    return verdicts.settle(LEDGER.loc[claim_id], Study(LEDGER, [], [], table))


def test_without_a_table_nothing_is_said():
    assert {settle(name, None).word for name in (GRAIN, SENSORS, UNDERSHOOTS)} == {NOT_TESTABLE}


def test_one_set_without_grain_refutes_the_statement():
    table = camera_noise.load()
    assert settle(GRAIN, table).word == DIRECTION, "other photographs than those of the slides"
    here = table["dataset"] == "nam25"
    for way in ("right", "down"):
        table.loc[here, f"correlation_{way}"] = table.loc[here, f"control_correlation_{way}"]
    assert settle(GRAIN, table).word == NOT_REPRODUCED


def test_one_set_that_is_estimated_right_refutes_the_statement():
    table = camera_noise.load()
    assert settle(UNDERSHOOTS, table).word == DIRECTION
    table.loc[table["dataset"] == "sidd_samples", "estimate_255"] = 40
    assert settle(UNDERSHOOTS, table).word == NOT_REPRODUCED


def test_cameras_differ_where_both_strength_and_grain_do():
    table = camera_noise.load()
    polyu = table["dataset"] == "polyu"
    settings = table.loc[polyu, "image"].map(lambda name: camera_noise.read_setting("polyu", name))
    sensors = settings.map(lambda setting: setting.sensor).astype("category").cat.codes
    scenes = settings.map(lambda setting: crc32(setting.scene.encode()) % 97)
    alike, apart = table.copy(), table.copy()
    for column in ("sigma_255", "correlation_right", "correlation_down"):
        alike.loc[polyu, column] = 1 + scenes / 97
        apart.loc[polyu, column] = 1 + sensors + scenes / 1e4
    assert settle(SENSORS, apart).word == DIRECTION
    assert settle(SENSORS, apart.assign(sigma_255=alike["sigma_255"])).word == NOT_REPRODUCED
    assert settle(SENSORS, alike).word == NOT_REPRODUCED


def test_the_page_compares_a_sensor_with_itself():
    study = Study(LEDGER, [], [], camera_noise.load())
    text = gradient_pages.describe_camera_noise(study)
    assert text.count("<tr><td>") == len(camera_noise.PAIRS) and "for the same Nikon D800 it is" in text
    assert "Not measured yet" in gradient_pages.describe_camera_noise(Study(LEDGER, [], []))
