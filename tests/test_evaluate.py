"""Denoising images of every kind and size, and measuring on a set."""

import json
import math
import os
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

import repro
from repro import weights
from repro.data.catalog import Sample
from repro.data.images import write_image
from repro.data.noise import fixed_gaussian_noise, fixed_impulse_noise, fixed_poisson_noise
from repro.errors import ReproError
from repro.evaluate import PIXELS_AT_ONCE, denoise, evaluate
from repro.metrics import psnr_db, ssim
from repro.models.base import Denoiser
from repro.models.ensemble import SelfEnsemble
from repro.models.gradnet import fixed_pixelwise_noise
from repro.models.sadnet import SADNet
from repro.study import experiments, records

SHARED = Path(os.environ.get("REPRO_SHARED") or Path(__file__).parents[2] / "shared")
GOLDEN = SHARED / "vectors" / "sadnet_8ch_colour.npz"


@dataclass(frozen=True)
class Channels:
    channels: int = 3


class Darken(Denoiser):
    """Subtracts sigma, or 0.1 where it is blind, and remembers what it was given."""

    name, Sizes = "darken", Channels

    def __init__(self, channels=3, needs_sigma=False):
        super().__init__()
        self.sizes, self.needs_sigma, self.seen = Channels(channels), needs_sigma, []

    def forward(self, noisy, sigma=0.1):
        self.require_image(noisy)
        self.seen.append((noisy.clone(), self.training))
        return noisy - sigma


@pytest.fixture(scope="module")
def sadnet():
    torch.manual_seed(0)
    return repro.build("sadnet", width=8, offset_width=8).eval()


def test_the_network_is_moved_to_the_device_and_back(monkeypatch):
    net, moves = Darken(), []
    monkeypatch.setattr(net, "to", lambda device: moves.append(str(device)) or net)
    sample = Sample("x", torch.full((3, 8, 8), 0.5), None)
    evaluate(net, [sample], sigma_255=10, device="cpu")
    assert moves == ["cpu", "cpu"]
    moves.clear()
    with pytest.raises(ReproError, match="The image x of"):
        evaluate(net, [Sample("x", torch.full((3, 8, 8), math.nan), None)], sigma_255=10, device="cpu")
    assert moves == ["cpu", "cpu"], "after an error, too"


# --- one image, of any kind


@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 1), (5, 7, 3), (1, 1), (1, 1, 3), (1, 9)])
@pytest.mark.parametrize("dtype", ["uint8", "float32", "float64", "float16"])
@pytest.mark.parametrize("channels", [1, 3])
def test_arrays_come_back_in_kind(shape, dtype, channels):
    image = np.full(shape, 204 if dtype == "uint8" else 0.8, dtype)
    before = image.copy()
    clean = denoise(image, Darken(channels))
    assert (type(clean), clean.shape, clean.dtype) == (np.ndarray, shape, np.dtype(dtype))
    if dtype == "uint8":
        assert (clean == 178).all() or (clean == 179).all()  # 204 - 25.5
    else:
        np.testing.assert_allclose(clean, 0.7, atol=1e-3)
    np.testing.assert_array_equal(image, before)


@pytest.mark.parametrize("shape", [(1, 5, 7), (3, 5, 7), (2, 3, 5, 7), (2, 1, 1, 1)])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("channels", [1, 3])
def test_tensors_come_back_in_kind(shape, dtype, channels):
    image = torch.full(shape, 204 if dtype == torch.uint8 else 0.8, dtype=dtype)
    clean = denoise(image, Darken(channels))
    assert (clean.shape, clean.dtype) == (image.shape, dtype)
    expected = 178.5 if dtype == torch.uint8 else 0.7
    torch.testing.assert_close(
        clean.double(), torch.full(shape, expected).double(), atol=0.51 if expected > 1 else 5e-3, rtol=0
    )


def test_the_result_is_the_networks_clipped(sadnet):
    noisy = torch.randn(2, 3, 21, 13) / 2 + 0.5
    with torch.no_grad():
        expected = sadnet(noisy).clamp(0, 1)
    torch.testing.assert_close(denoise(noisy, sadnet), expected, atol=1e-5, rtol=0)


def test_colour_arrays_are_rgb_last(sadnet):
    noisy = torch.rand(3, 16, 24)
    as_array = denoise(noisy.permute(1, 2, 0).numpy(), sadnet)
    np.testing.assert_allclose(as_array, denoise(noisy, sadnet).permute(1, 2, 0).numpy(), atol=1e-5)


def test_a_gray_image_passes_a_colour_network_as_three_and_back_as_their_mean(sadnet):
    gray = torch.rand(1, 16, 16)
    with torch.no_grad():
        three = sadnet(gray.expand(1, 3, -1, -1))[0]
    assert not torch.allclose(three[0], three[1])
    torch.testing.assert_close(denoise(gray, sadnet), three.mean(0, keepdim=True).clamp(0, 1), atol=1e-5, rtol=0)
    net = Darken(3)
    denoise(gray, net)
    assert torch.equal(net.seen[0][0], gray.expand(1, 3, -1, -1))


def test_a_colour_image_passes_a_gray_network_channel_by_channel():
    colour = torch.rand(3, 8, 8)
    net = Darken(1)
    clean = denoise(colour, net)
    assert [seen.shape for seen, _ in net.seen] == [(1, 1, 8, 8)] * 3
    torch.testing.assert_close(clean, (colour - 0.1).clamp(0, 1))


def test_the_network_is_in_evaluation_mode_and_left_as_it_was():
    net = Darken().train()
    denoise(torch.rand(3, 4, 4), net)
    assert net.training
    assert not net.seen[0][1]


def test_sigma_is_passed_where_it_is_needed():
    image = torch.full((3, 4, 4), 0.8)
    torch.testing.assert_close(denoise(image, Darken(needs_sigma=True), sigma=0.2), image - 0.2)
    torch.testing.assert_close(denoise(image, Darken(), sigma=0.2), image - 0.1)
    with pytest.raises(ReproError, match="give sigma"):
        denoise(image, Darken(needs_sigma=True))
    with pytest.raises(ReproError, match=r"50 is not in \[0, 1\]"):
        denoise(image, Darken(needs_sigma=True), sigma=50)


def test_a_model_may_be_a_file(sadnet, tmp_path):
    path = weights.save(sadnet, tmp_path / "small.safetensors")
    image = torch.rand(3, 8, 8)
    assert torch.equal(denoise(image, path), denoise(image, sadnet))


def test_an_array_may_be_read_only_or_a_mirrored_view(recwarn):
    image = np.random.default_rng(0).random((4, 6, 3))
    image.setflags(write=False)
    clean = denoise(image[:, ::-1], Darken())
    np.testing.assert_allclose(clean, (image[:, ::-1] - 0.1).clip(0), atol=1e-6)
    assert not recwarn.list


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_an_image_with_values_that_are_no_numbers_is_refused(value):
    image = np.zeros((4, 4, 3), "float32")
    image[2, 1, 0] = value
    with pytest.raises(ReproError, match="no numbers"):
        denoise(image, Darken())


def test_a_float_image_on_the_scale_of_255_is_refused():
    with pytest.raises(ReproError, match=r"200 to 200; .* \[0, 1\]"):
        denoise(np.full((4, 4), 200.0), Darken())


@pytest.mark.parametrize(
    ("image", "error"),
    [
        (np.zeros((4, 4, 4)), ValueError),
        (np.zeros((0, 4, 3)), ValueError),
        (np.zeros((2, 4, 4, 3)), ValueError),
        (np.zeros((4, 4), "int32"), TypeError),
        (torch.zeros(4, 4), ValueError),
        (torch.zeros(2, 4, 4), ValueError),
        (torch.zeros(3, 4, 4, dtype=torch.long), TypeError),
        ([[0.5]], TypeError),
    ],
)
def test_what_is_no_image_is_refused(image, error):
    with pytest.raises(error, match="image"):
        denoise(image, Darken())


# --- tiles


def check_tiles(net, image, tile):
    whole = denoise(image, net, tile=0)
    tiled = denoise(image, net, tile=tile)
    assert (tiled - whole).abs().max() <= 1 / 255


def test_tiles_do_not_show_with_random_weights(sadnet):
    torch.manual_seed(1)
    check_tiles(sadnet, torch.rand(3, 203, 390), tile=64)


def test_tiles_do_not_show_with_offsets_of_several_pixels():
    if not GOLDEN.exists():
        pytest.skip(f"{GOLDEN} is not here (set REPRO_SHARED to the folder with vectors/)")
    arrays = {name[3:]: array for name, array in np.load(GOLDEN).items() if name.startswith("sd/")}
    net = weights.from_upstream("sadnet", arrays, dilations=(1, 2, 4, 8))
    noisy = torch.rand(1, 3, 160, 416, generator=torch.Generator().manual_seed(0))
    assert max(offset.abs().max() for offset, _ in net.offsets(noisy)) > 2
    check_tiles(net, noisy, tile=100)


def test_a_halo_that_is_too_small_shows(sadnet):
    """The tests above would notice: without surroundings tiles differ by more than 1/255."""
    noisy = torch.rand(3, 64, 128, generator=torch.Generator().manual_seed(0))
    whole = denoise(noisy, sadnet, tile=0)

    class Narrow(SADNet):
        halo = 8

    narrow = Narrow(sadnet.sizes)
    narrow.load_state_dict(sadnet.state_dict())
    assert (denoise(noisy, narrow, tile=64) - whole).abs().max() > 1 / 255


@pytest.mark.parametrize("name", ["sadnet", "ssdn", "unet"])
def test_tiles_of_turned_views_do_not_show_where_strides_do_not_divide_the_image(sadnet, name):
    """Turned and mirrored views, SSDN's own or those of a self-ensemble, count their strides from the image's end."""
    torch.manual_seed(0)
    net = sadnet if name == "sadnet" else repro.build(name, width=4).eval()
    net = net if name == "ssdn" else SelfEnsemble(net)
    width = net.halo + 180
    for size in ((21, width), (width, 21)):
        noisy = torch.rand(3, *size, generator=torch.Generator().manual_seed(0))
        whole, tiled = (denoise(noisy, net, sigma=0.1, tile=tile) for tile in (0, 64))
        assert (tiled - whole).abs().max() <= 1 / 255


@pytest.mark.parametrize("size", [(1, 100), (33, 34), (32, 64), (65, 96)])
@pytest.mark.parametrize("tile", [1, 32, 40])
def test_tiles_cover_every_pixel_once(size, tile):
    class Local(Darken):
        halo = 16

    image = torch.rand(3, *size)
    net = Local()
    assert torch.equal(denoise(image, net, tile=tile), (image - 0.1).clamp(0, 1))
    for seen, _ in net.seen:
        assert max(seen.shape[-2:]) <= max(tile, 8) + 2 * 16 + max(length % 8 for length in size)


def test_large_images_are_tiled_without_being_asked():
    class Counting(Darken):
        def forward(self, noisy, sigma=0.1):
            assert noisy.shape[-2] * noisy.shape[-1] <= PIXELS_AT_ONCE
            return super().forward(noisy, sigma)

    net = Counting()
    denoise(torch.zeros(3, 1500, 1007), net)
    assert len(net.seen) > 1


class Blur(Denoiser):
    """A network that says it looks at the whole image, and looks 8 pixels far."""

    name, Sizes = "blur", Channels
    halo = None

    def __init__(self):
        super().__init__()
        self.sizes = Channels()

    def forward(self, noisy):
        return torch.nn.functional.avg_pool2d(noisy, 17, stride=1, padding=8)


def test_tiles_of_a_network_that_looks_at_the_whole_see_surroundings():
    image = torch.rand(3, 70, 90)
    torch.testing.assert_close(denoise(image, Blur(), tile=32), denoise(image, Blur(), tile=0))


def test_a_filter_that_looks_at_the_whole_image_takes_more_of_it_at_once():
    """Filters take a few copies of the image, networks hundreds of maps."""
    image, net = torch.rand(3, 900, 900), repro.build("wavelet")
    assert net.halo is None and image[0].numel() > PIXELS_AT_ONCE
    assert denoise(image, net, sigma=0.1).shape == image.shape
    with pytest.raises(ReproError, match="looks at the image as a whole"):
        denoise(image, Blur())


def test_eight_bits_are_rounded_not_cut():
    image = np.full((4, 4, 3), 100, np.uint8)
    for gray_levels, expected in ((0.4, 100), (0.6, 99), (1.4, 99)):
        assert (denoise(image, Darken(needs_sigma=True), sigma=gray_levels / 255) == expected).all()


@pytest.mark.slow
def test_one_tile_of_the_full_network_leaves_room_in_4_gib():
    """4 GiB less a 20-megapixel colour photograph in float32 four times over: read, given, denoised,
    written."""
    script = (
        "import resource, torch, repro; from repro.evaluate import PIXELS_AT_ONCE, denoise;"
        "side = int(PIXELS_AT_ONCE**0.5);"
        "denoise(torch.rand(3, side, side), repro.build('sadnet'), tile=0);"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[1],
    )
    assert int(done.stdout) * 1024 < 4 * 2**30 - 4 * 20e6 * 3 * 4


# --- a set of images


def photograph(name, height=40, width=27, channels=3):
    rows, columns = torch.meshgrid(torch.arange(height) / 9, torch.arange(width) / 7, indexing="ij")
    clean = torch.stack([0.5 + 0.45 * torch.sin(rows + c) * torch.cos(columns) for c in range(channels)])
    return Sample(name, (clean * 255).round() / 255)


def test_columns_and_values():
    sample = photograph("stripes")
    net = Darken()
    table = evaluate(net, [sample], 25, seed=3)
    noise_columns = ["sigma_255", "noise_clipped", "noise_rounded", "noise_seed"]
    psnr_columns = ["psnr_noisy_db", "psnr_db", "psnr_rounded_db", "psnr_truncated_db"]
    assert list(table.columns) == (
        ["dataset", "image", "height", "width", *noise_columns, *psnr_columns, "ssim", "ssim_3d", "seconds"]
    )
    row = table.iloc[0]
    noisy = fixed_gaussian_noise(sample.clean, "stripes", 25, 3)
    assert torch.equal(net.seen[0][0][0], noisy), "the network sees the fixed noise, unclipped"
    clean, estimate = sample.clean, (noisy - 0.1).clamp(0, 1)
    assert (row["image"], row["height"], row["width"], row["noise_seed"]) == ("stripes", 40, 27, 3)
    assert not row["noise_clipped"]
    assert not row["noise_rounded"]
    assert row["psnr_noisy_db"] == pytest.approx(psnr_db(clean, noisy))
    assert row["psnr_db"] == pytest.approx(psnr_db(clean, estimate))
    assert row["psnr_rounded_db"] == pytest.approx(psnr_db(clean, estimate, "rounded"))
    assert row["psnr_truncated_db"] == pytest.approx(psnr_db(clean, estimate, "truncated"))
    assert row["ssim"] == pytest.approx(ssim(clean, estimate))
    assert row["ssim_3d"] == pytest.approx(ssim(clean, estimate, "3d"))
    assert row["seconds"] > 0


@pytest.mark.parametrize(("clip", "round_8bit"), [(False, False), (True, False), (False, True)])
def test_noise_conventions_reach_the_network(clip, round_8bit):
    net = Darken()
    table = evaluate(net, [photograph("stripes")], 70, clip=clip, round_8bit=round_8bit)
    seen = net.seen[0][0]
    assert bool(((seen >= 0) & (seen <= 1)).all()) == (clip or round_8bit)
    assert torch.equal((seen * 255).round() / 255, seen) == round_8bit
    assert table["noise_clipped"].item() == (clip or round_8bit)
    assert table["noise_rounded"].item() == round_8bit


def test_rows_do_not_depend_on_the_rest_of_the_set():
    samples = [photograph("one"), photograph("two", 30, 50)]
    both = evaluate(Darken(), samples, 50).drop(columns="seconds")
    alone = evaluate(Darken(), samples[1:], 50).drop(columns="seconds")
    assert both.iloc[1].to_dict() == alone.iloc[0].to_dict()
    assert len(evaluate(Darken(), samples, 50, limit=1)) == 1


def test_cropping_keeps_the_noise_of_the_whole_image():
    sample, net = photograph("stripes"), Darken()
    table = evaluate(net, [sample], 50, crop_multiple=8)
    assert torch.equal(net.seen[0][0][0], fixed_gaussian_noise(sample.clean, "stripes", 50)[:, :40, :24])
    assert (table["height"].item(), table["width"].item()) == (40, 24)


def test_patches_are_seen_one_by_one_and_averaged():
    sample, net = photograph("stripes", 40, 33), Darken()
    row = evaluate(net, [sample], 50, patch=16).iloc[0]
    noisy = fixed_gaussian_noise(sample.clean, "stripes", 50)
    corners = [(y, x) for y in (0, 16) for x in (0, 16)]
    patches = [noisy[:, y : y + 16, x : x + 16] for y, x in corners]
    assert torch.equal(net.seen[0][0], torch.stack(patches))
    truths = [sample.clean[:, y : y + 16, x : x + 16] for y, x in corners]
    values = [psnr_db(c, (n - 0.1).clamp(0, 1)) for c, n in zip(truths, patches, strict=True)]
    assert row["psnr_db"] == pytest.approx(np.mean(values))
    assembled = psnr_db(sample.clean[:, :32, :32], (noisy[:, :32, :32] - 0.1).clamp(0, 1))
    assert row["psnr_assembled_db"] == pytest.approx(assembled)


@pytest.mark.parametrize("patch", [None, 16])
def test_measuring_shows_a_network_no_more_pixels_at_once_than_denoising(sadnet, patch, monkeypatch):
    sample, pixels, shapes = photograph("large", 80, 1200), 288**2, []
    expected = evaluate(sadnet, [sample], 50, patch=patch).iloc[0]
    monkeypatch.setattr("repro.evaluate.PIXELS_AT_ONCE", pixels)
    with sadnet.register_forward_pre_hook(lambda net, inputs: shapes.append(inputs[0].shape)):
        row = evaluate(sadnet, [sample], 50, patch=patch).iloc[0]
    assert len(shapes) > 1 and all(math.prod(shape) <= 3 * pixels for shape in shapes)
    assert row["psnr_db"] == pytest.approx(expected["psnr_db"], abs=1e-3)


def test_measuring_shows_a_network_with_global_means_the_whole_image(monkeypatch):
    shapes = []
    monkeypatch.setattr("repro.evaluate.PIXELS_AT_ONCE", 100)
    net = Blur()
    with net.register_forward_pre_hook(lambda net, inputs: shapes.append(tuple(inputs[0].shape))):
        evaluate(net, [photograph("large", 40, 33)], 50)
    assert shapes == [(1, 3, 40, 33)]


def test_all_crops_are_measured_beside_the_whole():
    sample = photograph("stripes", 40, 33)
    row, usual = (evaluate(Darken(), [sample], 50, **option).iloc[0] for option in ({"crop_side": 16}, {}))
    estimate = (fixed_gaussian_noise(sample.clean, "stripes", 50) - 0.1).clamp(0, 1)
    places = [np.s_[:, y : y + 16, x : x + 16] for y in range(25) for x in range(18)]
    values = [psnr_db(sample.clean[place], estimate[place], "truncated") for place in places]
    assert row["psnr_crop_db"] == pytest.approx(np.mean(values))
    assert row["psnr_crop_std_db"] == pytest.approx(np.std(values))
    assert row["psnr_db"] == usual["psnr_db"] and "psnr_crop_db" not in usual
    with pytest.raises(ReproError, match="one by one"):
        evaluate(Darken(), [sample], 50, crop_side=16, patch=16)


def test_real_noise_is_the_sets_own():
    sample = photograph("scene")
    with pytest.raises(ReproError, match="sigma_255"):
        evaluate(Darken(), [sample], None)
    net = Darken()
    noisy = (sample.clean + 0.05).clamp(0, 1)
    row = evaluate(net, [Sample("scene", sample.clean, noisy)], None).iloc[0]
    assert torch.equal(net.seen[0][0][0], noisy)
    assert row["psnr_noisy_db"] == pytest.approx(psnr_db(sample.clean, noisy))


def test_a_gray_network_gets_luma_from_the_catalogue():
    net = Darken(1)
    table = evaluate(net, "embedded-test", 25, limit=1)
    assert net.seen[0][0].shape[1] == 1
    assert table["dataset"].item() == "embedded-test"


def test_seconds_are_those_of_the_network(monkeypatch):
    """A clock that goes on by 2 s in the network and by 100 s in everything else."""
    clock = SimpleNamespace(now=0.0)

    class Slow(Darken):
        def forward(self, noisy, sigma=0.1):
            clock.now += 2
            return super().forward(noisy, sigma)

    monkeypatch.setattr("repro.evaluate.time.perf_counter", lambda: clock.now)
    table = evaluate(Slow(), [photograph("one"), photograph("two")], 25, repeats=3)
    assert table["seconds"].tolist() == [2, 2]


def test_progress_is_told_each_row():
    rows = []
    table = evaluate(Darken(), [photograph("one"), photograph("two")], 25, progress=rows.append)
    assert [row["image"] for row in rows] == list(table["image"]) == ["one", "two"]


@pytest.mark.parametrize("cut", [0, 9], ids=["whole lines", "last line cut off"])
def test_a_journal_goes_on_where_it_was_interrupted(tmp_path, cut):
    samples, journal, net = [photograph(name) for name in ("one", "two", "three")], tmp_path / "journal", Darken()

    def stop(row):
        if row["image"] == "two":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate(net, samples, 25, journal=journal, progress=stop)
    written = journal.read_bytes()
    journal.write_bytes(written[: len(written) - cut])
    net.seen.clear()
    resumed = evaluate(net, samples, 25, journal=journal)
    assert len(net.seen) == (1 if cut == 0 else 2)
    whole = evaluate(net, samples, 25)
    pd.testing.assert_frame_equal(resumed.drop(columns="seconds"), whole.drop(columns="seconds"))
    net.seen.clear()
    pd.testing.assert_frame_equal(evaluate(net, samples, 25, journal=journal), resumed)
    assert not net.seen


def test_images_too_small_for_ssim_are_still_measured():
    row = evaluate(Darken(), [photograph("dot", 3, 2)], 25).iloc[0]
    assert math.isnan(row["ssim"])
    assert math.isfinite(row["psnr_db"])


def test_a_network_that_needs_sigma_is_told_in_units_of_the_range():
    net = Darken(needs_sigma=True)
    sample = photograph("stripes")
    row = evaluate(net, [sample], 51).iloc[0]
    noisy = fixed_gaussian_noise(sample.clean, "stripes", 51)
    assert row["psnr_db"] == pytest.approx(psnr_db(sample.clean, (noisy - 0.2).clamp(0, 1)))


# --- noise of other families, repeats, padding


class Told(Darken):
    """For Poisson noise: returns what it is told, as an image."""

    def __init__(self, noise="poisson", is_told=True):
        super().__init__()
        self.is_told, self.told = is_told, []
        self.sizes = SimpleNamespace(channels=3, noise=noise)

    def forward(self, noisy, **level):
        self.told.append(level)
        return noisy


@pytest.mark.parametrize(
    ("family", "level", "make"),
    [("poisson", {"events": 30}, fixed_poisson_noise), ("impulse", {"alpha": 0.5}, fixed_impulse_noise)],
)
def test_noise_of_other_families_reaches_a_network_that_is_told_of_it(family, level, make):
    net, sample = Told(family), photograph("stripes")
    table = evaluate(net, [sample], **level, seed=2)
    assert net.told == [level]
    row = table.iloc[0]
    noisy = make(sample.clean, "stripes", *level.values(), 2)
    assert row["psnr_noisy_db"] == pytest.approx(psnr_db(sample.clean, noisy))
    assert row[next(iter(level))] == next(iter(level.values()))
    assert table["sigma_255"].isna().all()
    blind = Told(family, is_told=False)
    evaluate(blind, [sample], **level)
    denoise(sample.clean, blind, **level)
    assert blind.told == [{}, {}]
    denoise(sample.clean, net, **level)
    assert net.told[-1] == level


@pytest.mark.parametrize(("clip", "round_8bit"), [(False, False), (True, False), (False, True)])
def test_a_level_for_every_value_reaches_the_network(clip, round_8bit):
    net, sample = Darken(), photograph("stripes")
    row = evaluate(net, [sample], levels_255=(8.16, 63.75), seed=2, clip=clip, round_8bit=round_8bit).iloc[0]
    noisy = fixed_pixelwise_noise(sample.clean, "stripes", (8.16, 63.75), 2, clip=clip, round_8bit=round_8bit)
    assert torch.equal(net.seen[0][0][0], noisy)
    assert row["psnr_noisy_db"] == pytest.approx(psnr_db(sample.clean, noisy))
    assert (row["levels_255"], row["sigma_255"]) == ("8.16 to 63.75", None)
    assert (row["noise_clipped"], row["noise_rounded"]) == (clip or round_8bit, round_8bit)


def test_an_evaluation_with_a_level_for_every_value_is_named_and_kept_apart_in_a_record(tmp_path):
    """As a list in TOML has it, through a record and back; older records know nothing of it."""
    listed = tmp_path / "list.toml"
    listed.write_text(
        '[[experiment]]\nname = "a"\nwhy = "."\nmethod = "median"\nvariant = "full"\ncolour = "rgb"\n'
        'sigma_255 = 25\nbudget = "cpu"\nevaluate = [{ dataset = "kodak24" },\n'
        '  { dataset = "kodak24", levels_255 = [8.16, 63.75], clip = true }]\n'
    )
    (row,) = experiments.load(listed)
    assert [each.name for each in row.evaluate] == ["kodak24-25", "kodak24-levels8.16to63.75-clipped"]
    assert row.evaluate[1].sigma_255 is None
    kept = [{"name": each.name} | json.loads(json.dumps(asdict(each))) for each in reversed(row.evaluate)]
    assert kept == [{"name": each.name} | asdict(each) for each in reversed(row.evaluate)]
    record = records.Record({"evaluations": kept}, tmp_path)
    assert record.find_evaluation("kodak24", 25)["name"] == "kodak24-25"
    assert record.find_evaluation("kodak24", None) is None, "it is no noise of the set's own"
    assert experiments.Evaluation("kodak24", 25).levels_255 is None
    text = listed.read_text()
    for wrong in ("levels_255 = [8.16, 63.75], sigma_255 = 25", "levels_255 = [8.16, 63.75], alpha = 0.5"):
        listed.write_text(text.replace("levels_255 = [8.16, 63.75]", wrong))
        with pytest.raises(ReproError, match="more than one kind"):
            experiments.load(listed)


@pytest.mark.parametrize(
    ("net", "given", "says"),
    [
        (Told(), {"sigma_255": 25}, "trained for poisson noise, which has events: it knows nothing of gaussian"),
        (Told(), {"alpha": 0.5}, "nothing of impulse noise"),
        (Darken(), {"events": 30}, "trained for gaussian noise"),
        (Told(), {}, "give events"),
        (Told(), {"events": 0}, "events is more than 0"),
        (Told(), {"events": -1}, "events is more than 0"),
        (Told("impulse"), {"alpha": 1.5}, "alpha is from 0 to 1"),
        (Darken(), {"sigma_255": -1}, "sigma_255 is 0 or more"),
        (Darken(), {"sigma_255": math.nan}, "sigma_255 is 0 or more"),
        (Darken(needs_sigma=True), {}, "give sigma"),
        (Darken(), {"sigma_255": 25, "alpha": 0.5}, "of one kind"),
        (Darken(), {"sigma_255": 25, "levels_255": (8, 64)}, "of one kind"),
        (Darken(), {"levels_255": (64, 8)}, "the lower one first"),
        (Darken(), {"levels_255": (-1, 8)}, "0 or more"),
        (Darken(), {"levels_255": (8, math.inf)}, "0 or more"),
        (Darken(), {"levels_255": (8,)}, "two noise levels"),
        (Darken(needs_sigma=True), {"levels_255": (8, 64)}, "every value has its own"),
        (Told(), {"levels_255": (8, 64)}, "every value has its own"),
        (Told(is_told=False), {"levels_255": (8, 64)}, "nothing of gaussian noise"),
        (Darken(), {"sigma_255": 25, "repeats": 0}, "repeats = 0"),
        (Darken(), {"repeats": 2}, "a set's own noise once"),
        (Darken(), {"sigma_255": 25, "pad": "both"}, "pad = 'both'"),
        (Darken(), {"sigma_255": 25, "pad": "noisy", "patch": 16}, "patches are not padded"),
        (Darken(), {"pad": "clean"}, "none to be added"),
    ],
)
def test_what_cannot_be_evaluated_is_a_sentence(net, given, says):
    with pytest.raises(ReproError, match=says):
        evaluate(net, [photograph("stripes")], **given)


@pytest.mark.parametrize("broken", ["clean", "noisy"])
def test_an_image_with_values_that_are_no_numbers_is_named(broken):
    images = {"clean": torch.rand(3, 8, 8), "noisy": torch.rand(3, 8, 8)}
    images[broken][0, 1, 2] = math.nan
    with pytest.raises(ReproError, match="The image dot of samples has values that are no numbers"):
        evaluate(Darken(), [Sample("dot", **images)])


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (33, 1)])
@pytest.mark.parametrize("pad", [None, "clean", "noisy"])
def test_images_of_side_1_are_measured(size, pad):
    row = evaluate(Darken(), [photograph("line", *size)], 25, pad=pad).iloc[0]
    assert math.isfinite(row["psnr_db"])


def test_repeats_are_independent_draws_averaged_image_by_image():
    samples = [photograph("one"), photograph("two")]
    net = Darken()
    table = evaluate(net, samples, 25, seed=4, repeats=3)
    each = [evaluate(Darken(), samples, 25, seed=4 + k) for k in range(3)]
    assert table["draws"].tolist() == [3, 3]
    assert len({float(seen.sum()) for seen, _ in net.seen}) == 6
    values = np.array([one["psnr_db"] for one in each])
    assert table["psnr_db"].tolist() == pytest.approx(values.mean(0).tolist())
    assert table["psnr_std_db"].tolist() == pytest.approx(values.std(0, ddof=1).tolist())
    assert "draws" not in evaluate(Darken(), samples, 25, repeats=1).columns


def test_padding_before_and_after_the_noise():
    sample = photograph("stripes")  # 40 x 27
    seen = {}
    for pad in (None, "clean", "noisy"):
        net = Darken()
        row = evaluate(net, [sample], 25, pad=pad).iloc[0]
        seen[pad] = net.seen[0][0][0]
        assert (row["height"], row["width"]) == (40, 27)
        inside = (seen[pad][:, :40, :27] - 0.1).clamp(0, 1)
        assert row["psnr_db"] == pytest.approx(psnr_db(sample.clean, inside))
    assert seen["clean"].shape == seen["noisy"].shape == (3, 64, 32)
    assert all(torch.equal(image[:, :40, :27], seen[None]) for image in seen.values()), "the same noise inside"
    assert torch.equal(seen["noisy"][:, 40], seen["noisy"][:, 38]), "the border repeats the noise"
    fresh = seen["clean"][:, 40] - seen["clean"][:, 38]
    assert fresh.std() * 255 == pytest.approx(25 * 2**0.5, rel=0.25), "or has its own, on the same clean row"


def test_the_border_that_is_added_has_other_noise_in_every_draw():
    net = Darken()
    evaluate(net, [photograph("stripes")], 25, pad="clean", repeats=2)
    (first, _), (second, _) = net.seen
    assert not torch.equal(first[..., 40:, :], second[..., 40:, :])


def test_filters_take_noise_of_every_family():
    table = evaluate(repro.build("median"), [photograph("stripes")], alpha=0.1)
    assert table["psnr_db"].item() > table["psnr_noisy_db"].item()


def test_a_folder_is_named_by_a_path_or_by_a_word(tmp_path):
    write_image(tmp_path / "one.png", torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(0)))
    net = repro.build("median")
    by_path, by_word = (evaluate(net, place, sigma_255=25) for place in (tmp_path, str(tmp_path)))
    pd.testing.assert_frame_equal(by_path.drop(columns="seconds"), by_word.drop(columns="seconds"))


def test_noise_of_a_level_for_every_value_is_for_floats_alone():
    with pytest.raises(TypeError, match="floating-point"):
        fixed_pixelwise_noise(torch.zeros(3, 4, 4, dtype=torch.uint8), "name", (8, 64))
    with pytest.raises(ValueError, match="0 or more"):
        fixed_pixelwise_noise(torch.zeros(3, 4, 4), "name", (-8, 64))
