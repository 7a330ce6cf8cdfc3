"""The filters before deep learning: each does its work, is the same twice, and survives what breaks others."""

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import repro
from repro.cli import app
from repro.data import catalog
from repro.data.images import read_image, write_image
from repro.errors import ReproError
from repro.metrics import psnr_db
from repro.models import MODELS, model_class
from repro.models.gradnet import SIGMA_255_OF_003
from repro.weights import load

FILTERS = [name for name, (module, _) in MODELS.items() if module == "repro.models.classical"]
TOLD = [name for name in FILTERS if repro.build(name).needs_sigma]
SIGMA = 25 / 255


@pytest.fixture(scope="module")
def photograph():
    (sample,) = catalog.samples("embedded-train", "RGB", 1)
    return sample.clean[:, 100:132, 100:132]


@pytest.fixture(scope="module")
def noisy(photograph):
    return photograph + SIGMA * torch.randn(photograph.shape, generator=torch.Generator().manual_seed(0))


def run(net, image, sigma=SIGMA):
    return net(image[None], sigma=sigma)[0] if net.needs_sigma else net(image[None])[0]


def test_the_line_is_complete():
    assert set(FILTERS) == {"bm3d", "median", "adaptive-median", "contraharmonic", "wavelet", "dct", "nlm", "tv"}
    assert set(TOLD) == {"bm3d", "wavelet", "dct", "nlm", "tv"}
    assert all(sum(p.numel() for p in repro.build(name).parameters()) == 0 for name in FILTERS)


@pytest.mark.parametrize("name", FILTERS)
def test_removes_noise_and_is_the_same_twice(name, photograph, noisy):
    net = load(name)
    clean = run(net, noisy)
    gained = psnr_db(photograph, clean) - psnr_db(photograph, noisy)
    assert gained > {"adaptive-median": 0.3, "bm3d": 6}.get(name, 1)
    assert torch.equal(run(net, noisy), clean)
    assert clean.dtype == noisy.dtype


def test_bm3d_is_the_best_of_the_line(photograph, noisy):
    reached = {name: psnr_db(photograph, run(load(name), noisy)) for name in FILTERS}
    assert max(reached, key=reached.get) == "bm3d"


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", FILTERS)
def test_flat_one_coloured_and_tiny_images(name, channels):
    net = repro.build(name)
    colour = torch.tensor([0.1, 0.5, 0.9])[:channels, None, None]
    for flat in (torch.full((channels, 20, 17), 0.3), colour.expand(channels, 20, 17), torch.zeros(channels, 9, 9)):
        estimate = run(net, flat.contiguous())
        # The contraharmonic mean takes no values below 1/255.
        assert (estimate - flat).abs().max() < (0.005 if name == "contraharmonic" else 1e-4)
    for size in [(1, 1), (1, 9), (5, 3)]:
        estimate = run(net, torch.rand(channels, *size, generator=torch.Generator().manual_seed(1)))
        assert estimate.shape == (channels, *size) and estimate.isfinite().all()


@pytest.mark.parametrize("factor", [1.0, 5.0])
@pytest.mark.parametrize("name", sorted(TOLD))
def test_an_estimated_level_of_flat_and_tiny_images_is_a_number(name, factor):
    net = repro.build(name, noise="estimated", factor=factor)
    generator = torch.Generator().manual_seed(0)
    for _ in range(3):
        colour, texture = torch.rand(3, 1, 1, generator=generator), torch.rand(2, 18, 18, generator=generator)
        for flat in (colour, colour.expand(3, 20, 20).contiguous()):
            assert (run(net, flat) - flat).abs().max() < 1e-4
        assert run(net, torch.cat([texture, torch.zeros(1, 18, 18)])).isfinite().all(), "one channel without values"


def test_bm3d_of_a_gray_picture_in_colour_and_of_a_flat_corner(photograph):
    """What broke document 003's training: an opponent colour without any range."""
    net = repro.build("bm3d")
    gray = photograph.mean(0, keepdim=True)
    noise = SIGMA * torch.randn(gray.shape, generator=torch.Generator().manual_seed(0))
    in_colour = run(net, (gray + noise).expand(3, -1, -1).contiguous())
    assert psnr_db(gray.expand(3, -1, -1), in_colour) > psnr_db(gray, gray + noise) + 3
    corner = torch.full((3, 24, 24), 0.5)
    corner[:, :4, :4] = 0.6
    assert (run(net, corner) - corner).abs().max() < 0.1
    noise = SIGMA * torch.randn(corner.shape, generator=torch.Generator().manual_seed(0))
    assert psnr_db(corner, run(net, corner + noise)) > psnr_db(corner, corner + noise) + 6


@pytest.mark.parametrize("per_colour", [True, False])
def test_bm3ds_package_gives_the_noisy_image_back_where_it_is_told_a_map_of_levels(photograph, monkeypatch, per_colour):
    """As document 003's code tells it: the package takes an array for a power spectrum."""
    import bm3d

    low, high = (level / 255 for level in SIGMA_255_OF_003)
    generator = torch.Generator().manual_seed(0)
    levels = low + (high - low) * torch.rand(photograph.shape, generator=generator)
    noisy = (photograph + levels * torch.randn(photograph.shape, generator=generator)).clamp(0, 1)
    pixels, levels = (image.permute(1, 2, 0).double().numpy() for image in (noisy, levels))
    profile = bm3d.BM3DProfile()
    profile.num_threads = 1
    if not hasattr(np, "trapz"):  # NumPy 2.4 has it by its new name alone
        with pytest.raises(AttributeError, match="trapz"):
            bm3d.bm3d_rgb(pixels, levels, profile)
        monkeypatch.setattr(np, "trapz", np.trapezoid, raising=False)
    found = bm3d.bm3d_rgb(pixels, levels if per_colour else levels[:, :, 0], profile)
    found = torch.from_numpy(found).permute(2, 0, 1).float()
    assert psnr_db(photograph, found) == pytest.approx(psnr_db(photograph, noisy), abs=0.1)
    told = run(repro.build("bm3d"), noisy, float(np.sqrt(np.square(levels).mean())))
    assert psnr_db(photograph, told) > psnr_db(photograph, noisy) + 6, "told one level, it denoises"


@pytest.mark.slow
def test_bm3d_is_the_packages_own_where_that_works(noisy):
    import bm3d

    profile = bm3d.BM3DProfile()
    profile.num_threads = 1
    theirs = bm3d.bm3d_rgb(noisy.permute(1, 2, 0).double().numpy(), SIGMA, profile)
    ours = run(repro.build("bm3d"), noisy.double()).permute(1, 2, 0).numpy()
    assert np.abs(theirs - ours).max() < 2e-3  # single precision inside, and thresholds
    theirs = bm3d.bm3d(noisy[0].double().numpy(), SIGMA, profile)
    assert np.abs(theirs - run(repro.build("bm3d"), noisy[:1].double())[0].numpy()).max() < 1e-6


def test_bm3d_with_equal_variances_is_the_packages_conventional_mode_and_denoises_as_well(photograph, noisy):
    import bm3d

    gray, true = noisy[:1].double(), photograph[:1]
    exact, equal = (run(repro.build("bm3d", variances=kind), gray) for kind in ("exact", "equal"))
    assert (exact - equal).abs().max() > 1e-3
    assert psnr_db(true, equal.float()) == pytest.approx(psnr_db(true, exact.float()), abs=0.5)
    profile = bm3d.BM3DProfile()
    profile.num_threads, profile.nf = 1, 0
    assert np.abs(bm3d.bm3d(gray[0].numpy(), SIGMA, profile) - equal[0].numpy()).max() < 1e-6


@pytest.mark.parametrize("name", TOLD)
def test_levels_of_noise(name, noisy):
    net = repro.build(name)
    assert torch.equal(run(net, noisy, 0.0), noisy)
    assert run(net, noisy[:, :16, :16].contiguous(), 1.0).isfinite().all()
    for wrong in (1.5, -0.1, float("nan")):
        with pytest.raises(ReproError, match=r"\[0, 1\]"):
            run(net, noisy, wrong)
    with pytest.raises(ReproError, match="sigma"):
        net(noisy[None])
    with pytest.raises(ReproError, match="sigma"):
        repro.denoise(noisy, model=net)


def test_a_level_for_each_image_of_a_batch(noisy):
    net = repro.build("dct")
    both = net(torch.stack([noisy, noisy]), sigma=torch.tensor([0.05, SIGMA]))
    torch.testing.assert_close(both[0], run(net, noisy, 0.05))
    torch.testing.assert_close(both[1], run(net, noisy))


@pytest.mark.parametrize("name", FILTERS)
def test_what_a_filter_cannot_work_on_is_a_sentence(name, noisy):
    net = repro.build(name)
    for value in (float("nan"), float("inf")):
        broken = noisy.clone()
        broken[1, 3, 4] = value
        with pytest.raises(ReproError, match=f"{name} takes numbers"):
            run(net, broken)
    for wrong in (torch.full((3,), SIGMA), torch.full((2, 1, 1, 1), SIGMA), torch.full((0,), SIGMA)):
        with pytest.raises(ReproError, match="one for each of 2 images"):
            net(torch.stack([noisy, noisy]), sigma=wrong)
    empty = torch.empty(0, 3, 8, 9)
    assert run_batch(net, empty).shape == empty.shape


def run_batch(net, images, sigma=SIGMA):
    return net(images, sigma=sigma) if net.needs_sigma else net(images)


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("cbm3d", {}), ("bm3d-estimated", {"noise": "estimated"}), ("tv-estimated", {"noise": "estimated"}),
        ("bm3d-estimated-times-5", {"noise": "estimated", "factor": 5.0}),
    ],
)  # fmt: skip
def test_filters_with_sizes_go_by_names_of_their_own(name, sizes):
    net = load(name)
    assert net.sizes == repro.build(name.partition("-")[0].removeprefix("c"), **sizes).sizes
    assert net.needs_sigma == ("noise" not in sizes) and not net.training
    assert load(name, net.name).sizes == net.sizes
    with pytest.raises(ReproError):
        load(name, "sadnet")


@pytest.mark.parametrize("name", TOLD)
def test_who_does_not_know_the_level_is_told_what_estimates_it(name, noisy):
    for attempt in (lambda net: net(noisy[None]), lambda net: repro.denoise(noisy, model=net)):
        with pytest.raises(ReproError, match=f"give sigma, or take {name}-estimated"):
            attempt(repro.build(name))
    assert not load(f"{name}-estimated").needs_sigma


@pytest.mark.slow
def test_estimated_noise_and_document_003s_factor(photograph, noisy):
    blind, bold = repro.build("bm3d", noise="estimated"), repro.build("bm3d", noise="estimated", factor=5.0)
    assert not blind.needs_sigma
    told = psnr_db(photograph, run(repro.build("bm3d"), noisy))
    assert abs(psnr_db(photograph, run(blind, noisy)) - told) < 1
    assert psnr_db(photograph, run(bold, noisy)) < told - 1  # five times the true level smooths details away


@pytest.mark.parametrize("name", FILTERS)
def test_more_channels_than_colours_are_refused(name):
    with pytest.raises(ValueError, match="1 or 3"):
        run(repro.build(name), torch.rand(5, 8, 8))
    with pytest.raises(ReproError):
        repro.build(name, channels=4)


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("median", {"window": 4}), ("wavelet", {"rule": "SureShrink"}), ("dct", {"block": 1}),
        ("bm3d", {"noise": "guessed"}), ("bm3d", {"factor": 0}), ("bm3d", {"window": 3}),
        ("bm3d", {"variances": "none"}),
    ],
)  # fmt: skip
def test_impossible_settings(name, sizes):
    with pytest.raises(ReproError):
        repro.build(name, **sizes)


def test_by_hand():
    image = torch.zeros(1, 1, 5, 5)
    image[..., 2, 2] = 1
    assert repro.build("median")(image).eq(0).all()
    assert repro.build("adaptive-median")(image).eq(0).all()
    ramp = torch.arange(25.0).view(1, 1, 5, 5) / 24
    assert repro.build("adaptive-median")(ramp)[..., 1:-1, 1:-1].equal(ramp[..., 1:-1, 1:-1])  # no pixel is an extreme
    window = torch.tensor([0.2, 0.2, 0.2, 0.2, 0.8, 0.2, 0.2, 0.2, 0.2]).view(1, 1, 3, 3)
    expected = (8 * 0.04 + 0.64) / (8 * 0.2 + 0.8)
    assert repro.build("contraharmonic")(window)[0, 0, 1, 1].item() == pytest.approx(expected)


def test_gray_images_stay_gray_through_denoise(noisy):
    gray = noisy[:1]
    expected = run(repro.build("dct"), gray).clamp(0, 1)
    torch.testing.assert_close(repro.denoise(gray, model="dct", sigma=SIGMA), expected)


def test_from_the_command_line(tmp_path, noisy):
    write_image(tmp_path / "in.png", noisy.clamp(0, 1))
    command = ["denoise", str(tmp_path / "in.png"), str(tmp_path / "out.png"), "--model", "bm3d"]
    result = CliRunner().invoke(app, [*command, "--sigma", "25"])
    assert result.exit_code == 0, result.output
    given = read_image(tmp_path / "in.png")
    expected = repro.denoise(given, model="bm3d", sigma=SIGMA)
    assert (read_image(tmp_path / "out.png") - expected).abs().max() <= 0.5 / 255 + 1e-6
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 1 and "give sigma, or take bm3d-estimated" in result.stderr
    assert model_class("bm3d").weightless


@pytest.mark.parametrize("model", ["cbm3d", "bm3d-estimated", "bm3d-estimated-times-5"])
def test_bm3d_by_each_of_its_names_from_the_command_line(tmp_path, noisy, model):
    write_image(tmp_path / "in.png", noisy.clamp(0, 1))
    level = {"sigma": SIGMA} if model == "cbm3d" else {}
    command = ["denoise", str(tmp_path / "in.png"), str(tmp_path / "out.png"), "--model", model]
    result = CliRunner().invoke(app, [*command, *(["--sigma", "25"] if level else [])])
    assert result.exit_code == 0, result.output
    sizes = {} if level else {"noise": "estimated", "factor": 5.0 if model.endswith("5") else 1.0}
    expected = repro.denoise(read_image(tmp_path / "in.png"), model=repro.build("bm3d", **sizes), **level)
    assert (read_image(tmp_path / "out.png") - expected).abs().max() <= 0.5 / 255 + 1e-6
