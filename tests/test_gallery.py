"""The gallery notebook: what it computes, what its controls do, and the whole of it in JupyterLab in a browser."""

import base64
import io

import numpy as np
import pytest
import torch
from chromium import PROGRAM, Browser
from hypothesis import given, settings
from hypothesis import strategies as st
from lab import KERNELS, PICTURES, Lab
from PIL import Image

import repro
from repro import files, gallery, gallery_controls, weights
from repro.data import catalog, noise
from repro.data.images import write_image
from repro.errors import ReproError
from repro.gallery_controls import ADD, TAKE, Gallery
from repro.metrics import psnr_db


@pytest.fixture(autouse=True)
def small(monkeypatch, tmp_path_factory):
    """Small random networks in the place of the published ones: two seeds of a SADNet, one without deformation, gray,
    and one told the noise level."""
    folder, published = tmp_path_factory.mktemp("weights"), {}
    torch.manual_seed(0)
    networks = {
        "sadnet-colour-50": ("sadnet", {"width": 8, "offset_width": 8}, 0),
        "sadnet-colour-50-seed1": ("sadnet", {"width": 8, "offset_width": 8}, 1),
        "sadnet-gray-50": ("sadnet", {"width": 8, "offset_width": 8, "channels": 1}, 0),
        "sadnet-plain": ("sadnet", {"width": 8, "rsab": False, "transfer": False}, 0),
        "told": ("ffdnet", {"width": 8, "depth": 3}, 0),
    }
    for name, (model, sizes, seed) in networks.items():
        experiment = name.removesuffix("-seed1")
        about = {"experiment": experiment, "variant": "full", "seed": seed}
        published[name] = weights.save(repro.build(model, **sizes), folder / f"{name}.safetensors", about)
    monkeypatch.setattr(weights, "published", lambda: published)


def make_photograph(*shape: int, name: str = "photo.png") -> gallery.Photograph:
    return gallery.cut_photograph(name, torch.rand(shape, generator=torch.Generator().manual_seed(0)))


def read_address(address: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(address.removeprefix("data:image/png;base64,")))))


# --- what there is to choose


def test_methods_are_the_weights_files_with_the_study_s_names(small):
    methods = gallery.list_methods()
    assert set(methods) == set(weights.published())
    names = list(methods)
    assert names.index("sadnet-colour-50") < names.index("sadnet-gray-50"), "in the order of the experiments"
    assert set(names[-2:]) == {"sadnet-plain", "told"}, "files of no listed experiment last"
    assert methods["sadnet-colour-50"] == "trained for sigma 50 at the cpu budget, 10,000 steps"
    assert gallery.choose_method() == "sadnet-colour-50"


def test_without_weights_there_is_a_network_all_the_same(monkeypatch, tmp_path):
    monkeypatch.setattr(weights, "published", dict)
    monkeypatch.setenv("REPRO_RUNS", str(tmp_path))
    trial = gallery.try_method(make_photograph(3, 16, 16))
    assert gallery.list_methods() == {} and trial.method == ""
    assert "not the study's" in gallery.describe_trial(trial) and Gallery(trial).pictures.pictures


def test_embedded_photographs_go_by_name_and_own_ones_by_path(tmp_path):
    names = gallery.list_photographs()
    assert names[0] == "astronaut" and len(set(names)) == 10
    assert gallery.load_photograph("camera").pixels.shape == (1, 512, 512)
    write_image(tmp_path / "own.png", torch.zeros(3, 5, 7))
    own = gallery.load_photograph(tmp_path / "own.png")
    assert own.name == "own.png" and own.extent == "7 x 5 pixels"
    for wrong in ("", tmp_path, tmp_path / "nothing.png"):
        with pytest.raises(ReproError):
            gallery.load_photograph(wrong)


@given(st.integers(1, 1200), st.integers(1, 1200), st.sampled_from([1, 3]))
@settings(max_examples=30, deadline=None)
def test_of_a_large_photograph_the_middle_is_taken_as_it_is(height, width, channels):
    pixels = torch.arange(height * width, dtype=torch.float32).reshape(1, height, width).expand(channels, -1, -1)
    cut = gallery.cut_photograph("x", pixels).pixels
    assert cut.shape == (channels, min(height, 512), min(width, 512))
    top, left = divmod(int(cut[0, 0, 0]), width)
    assert torch.equal(cut, pixels[:, top : top + 512, left : left + 512])
    assert abs(2 * top + cut.shape[1] - height) <= 1 and abs(2 * left + cut.shape[2] - width) <= 1


def test_the_extent_says_what_was_cut_off():
    assert gallery.cut_photograph("x", torch.zeros(3, 3648, 5472)).extent == (
        "the middle 512 x 512 pixels of 5472 x 3648, not scaled"
    )


# --- a method tried


def test_the_noise_is_that_of_the_study_and_the_estimate_that_of_the_package():
    clean = next(catalog.samples("embedded-test")).clean
    trial = gallery.try_method(gallery.load_photograph("astronaut"), "sadnet-colour-50", 25.0, seed=3)
    assert torch.equal(trial.noisy, noise.fixed_gaussian_noise(clean, "astronaut", 25.0, 3))
    assert torch.equal(trial.estimate, repro.denoise(trial.noisy, weights.load("sadnet-colour-50")))
    said = gallery.describe_trial(trial)
    assert f"{psnr_db(clean, trial.noisy):.2f} dB" in said and f"{psnr_db(clean, trial.estimate):.2f} dB" in said
    assert "not trained for this noise" in said
    assert "not trained" not in gallery.describe_trial(gallery.try_method(make_photograph(3, 8, 8)))


def test_a_photograph_taken_as_noisy_has_no_psnr():
    trial = gallery.try_method(make_photograph(3, 20, 30), add_noise=False)
    assert trial.clean is None and torch.equal(trial.noisy, trial.photograph.pixels)
    assert " dB" not in gallery.describe_trial(trial)
    assert not any("dB" in picture.caption for picture in gallery.list_pictures(trial))


def test_a_network_that_must_be_told_the_level_is_told_it():
    photograph = make_photograph(3, 20, 30)
    low, high = (gallery.try_method(photograph, "told", sigma, add_noise=False) for sigma in (5.0, 75.0))
    assert not torch.equal(low.estimate, high.estimate)
    assert "told sigma 75" in gallery.describe_trial(high)


@pytest.mark.parametrize("sigma_255", [-1.0, 101.0, float("nan")])
def test_impossible_levels_are_said(sigma_255):
    with pytest.raises(ReproError, match="sigma is a number from 0 to 100"):
        gallery.try_method(make_photograph(3, 4, 4), sigma_255=sigma_255)


@pytest.mark.parametrize("method", ["sadnet-colour-50", "sadnet-gray-50"])
@pytest.mark.parametrize("shape", [(3, 1, 1), (1, 1, 1), (3, 2, 40), (1, 33, 17)])
def test_any_size_and_colour_can_be_tried_and_looked_at(method, shape):
    trial = gallery.try_method(make_photograph(*shape), method)
    position = gallery.choose_position(trial)
    assert trial.estimate.shape == shape
    assert len(gallery.draw_pictures(trial).axes) == 3 and len(gallery.draw_kernels(trial, position).axes) == 4


# --- pictures


def test_pictures_show_what_they_say():
    trial = gallery.try_method(make_photograph(3, 30, 40))
    noisy, denoised, removed = gallery.list_pictures(trial)
    assert [noisy.title, denoised.title, removed.title] == ["noisy", "denoised", "removed"]
    assert np.array_equal(denoised.image, trial.estimate.numpy())
    gain = float(removed.caption.split("×")[1])
    expected = np.clip(0.5 + gain * (trial.noisy - trial.estimate).numpy(), 0, 1)
    assert np.abs(removed.image - expected).max() < 0.05
    assert all(picture.alt and picture.image.min() >= 0 and picture.image.max() <= 1 for picture in (noisy, removed))
    shown = read_address(gallery.encode_address(denoised.image))
    assert np.array_equal(shown, np.round(denoised.image.transpose(1, 2, 0) * 255))


def test_kernels_are_those_of_the_position_and_other_networks_have_none():
    trial = gallery.try_method(make_photograph(3, 40, 64))
    said = {gallery.describe_kernels(trial, position) for position in ((0, 0), (39, 63), (20, 30))}
    assert len({sentence.partition("points")[2] for sentence in said}) == 3
    with pytest.raises(ReproError, match="64 x 40"):
        gallery.draw_kernels(trial, (40, 0))
    plain = gallery.try_method(trial.photograph, "sadnet-plain")
    assert plain.sampling is None
    with pytest.raises(ReproError, match="choose a SADNet"):
        gallery.draw_kernels(plain, (0, 0))


# --- the controls


@pytest.fixture
def controls() -> Gallery:
    return Gallery(gallery.try_method(make_photograph(3, 40, 64)), (10, 20))


def read_shown(controls: Gallery) -> tuple:
    return tuple(picture["address"] for picture in controls.pictures.pictures), controls.kernels.value


def test_a_click_and_the_sliders_move_the_same_position(controls):
    assert (controls.row.value, controls.column.value) == (10, 20)
    pictures, kernels = read_shown(controls)
    controls.pictures.position = [30, 5]
    assert (controls.row.value, controls.column.value) == (30, 5)
    assert read_shown(controls)[0] == pictures and read_shown(controls)[1] != kernels
    controls.column.value = 20
    controls.row.value = 10
    assert controls.pictures.position == [10, 20] and read_shown(controls) == (pictures, kernels)


def test_every_choice_changes_the_pictures(controls):
    seen = {read_shown(controls)}
    for control, value in (
        (controls.sigma_255, 20.0),
        (controls.method, "sadnet-gray-50"),
        (controls.noise, TAKE),
        (controls.method, "sadnet-plain"),
        (controls.photograph, "chelsea"),
    ):
        control.value = value
        assert "is-wrong" not in controls.status.value
        seen.add(read_shown(controls))
    assert len(seen) == 6
    assert controls.row.disabled and not controls.pictures.marked and "SADNet has" in controls.kernels.value


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [("note.png", b"Dear diary", "note.png is not an image"), ("empty.png", b"", "empty.png is empty")],
)
def test_what_is_no_photograph_is_said_in_one_sentence(controls, tmp_path, name, data, said):
    before = read_shown(controls)
    controls.upload._take(None, {"name": name, "bytes": len(data), "start": 0}, [memoryview(data)])
    assert said in controls.status.value and "is-wrong" in controls.status.value
    (tmp_path / name).write_bytes(data)
    controls.path.value = str(tmp_path / name)
    assert said in controls.status.value and "Traceback" not in controls.status.value
    assert read_shown(controls) == before and controls.photograph.value == "photo.png"


def test_a_file_arrives_in_pieces_and_one_too_large_is_refused(controls, tmp_path):
    write_image(tmp_path / "own <1>.png", torch.rand(3, 12, 9))
    data = (tmp_path / "own <1>.png").read_bytes()
    for start in range(0, len(data), 100):
        about = {"name": "own <1>.png", "bytes": len(data), "start": start}
        controls.upload._take(None, about, [memoryview(data[start : start + 100])])
    assert controls.photograph.value == "own <1>.png" and "9 x 12 pixels" in controls.status.value
    assert "own &lt;1&gt;.png" in controls.status.value
    controls.upload._take(None, {"name": "film.png", "bytes": 5_000_000_000, "start": -1}, [])
    assert "film.png has 5000 MB; 400 are the most" in controls.status.value


def test_whatever_fails_becomes_a_sentence_and_takes_the_pictures_away(controls, monkeypatch):
    def fail(*_):
        raise MemoryError("no room")

    monkeypatch.setattr(gallery, "try_method", fail)
    controls.sigma_255.value = 10
    assert "Unexpected MemoryError: no room" in controls.status.value
    assert controls.pictures.pictures == [] and controls.kernels.value == "" and controls.row.disabled
    monkeypatch.undo()


def test_controls_have_names_and_scripts_ask_for_nothing_elsewhere(controls):
    named = (controls.photograph, controls.path, controls.noise, controls.sigma_255, controls.method)
    assert all(control.description for control in (*named, controls.column, controls.row))
    assert controls.upload.label and controls.noise.options == (ADD, TAKE)
    for name in ("gallery_pictures.js", "gallery_upload.js", "gallery.css"):
        text = (gallery_controls.HERE / name).read_text(encoding="utf-8")
        assert not any(word in text for word in ("http", "fetch(", "import ", "@import", "url(")), name


# --- in JupyterLab


@pytest.mark.skipif(PROGRAM is None, reason="no chromium here")
@pytest.mark.slow
def test_the_notebook_in_jupyterlab(tmp_path):
    write_image(tmp_path / "own.png", torch.rand(3, 64, 96))
    write_image(tmp_path / "large.png", torch.rand(3, 80, 50_000))
    assert (tmp_path / "large.png").stat().st_size > 10 * 2**20, "more than a message may have"
    (tmp_path / "note.png").write_text("Dear diary")
    (tmp_path / "lab").mkdir()
    with Lab(tmp_path / "lab") as lab, Browser(tmp_path / "profile") as browser:
        lab.add(files.root() / "notebooks" / "gallery.ipynb")
        lab.run_all(browser, "gallery", KERNELS)

        def read_pictures() -> list[str]:
            return browser.run(f"[...document.querySelectorAll('{PICTURES}')].map((one) => one.src)")

        def await_status(text: str) -> None:
            browser.wait_for(f"document.querySelector('.gallery-status').textContent.includes({text!r})")

        def upload(name: str) -> None:
            field = browser.send("Runtime.evaluate", expression="document.querySelector('.gallery-upload input')")
            browser.send("DOM.setFileInputFiles", files=[str(tmp_path / name)], objectId=field["result"]["objectId"])

        def choose(description: str, label: str) -> None:
            browser.run(
                "(() => { const one = [...document.querySelectorAll('.widget-dropdown')].find((one) => "
                f"one.textContent.includes({description!r})).querySelector('select'); one.selectedIndex = "
                f"[...one.options].findIndex((option) => option.text.startsWith({label!r})); "
                "one.dispatchEvent(new Event('change', {bubbles: true})); })()"
            )

        def read_slider(description: str) -> int:
            return int(
                browser.run(
                    "[...document.querySelectorAll('.widget-slider')].find((one) => "
                    f"one.textContent.includes({description!r})).querySelector('.widget-readout').textContent"
                )
            )

        await_status("astronaut")
        seen = [read_pictures()]
        assert len(seen[0]) == 3 and all(address.startswith("data:image/png") for address in seen[0])
        upload("note.png")
        await_status("note.png is not an image")
        assert read_pictures() == seen[0]
        upload("large.png")
        await_status("large.png, the middle 512 x 80 pixels of 50000 x 80")
        upload("own.png")
        await_status("own.png, 96 x 64 pixels")
        seen.append(read_pictures())

        def await_kernels() -> str:
            """The kernels of the pixel that the sliders name, once they are drawn."""
            place = f"x {read_slider('pixel, x')}, y {read_slider('pixel, y')} "
            browser.wait_for(f"document.querySelector('{KERNELS}').alt.includes({place!r})")
            return browser.run(f"document.querySelector('{KERNELS}').src")

        drawn = {await_kernels()}
        for kind in ("mousePressed", "mouseReleased"):
            browser.move(PICTURES, 29.8 / 96, 38.8 / 64, kind, button="left", clickCount=1)
        browser.wait_for(f"document.querySelector('{KERNELS}').alt.includes('x 29, y 38 ')")
        assert (read_slider("pixel, x"), read_slider("pixel, y")) == (29, 38)
        drawn.add(await_kernels())
        browser.run(
            "[...document.querySelectorAll('.widget-slider')].find((one) => one.textContent.includes('pixel, x'))"
            ".querySelector('.noUi-handle').focus()"
        )
        browser.press("ArrowRight")
        browser.wait_for(f"document.querySelector('{KERNELS}').alt.includes('x 30, y 38 ')")
        drawn.add(await_kernels())
        assert len(drawn) == 3

        others = [name for name in gallery_methods() if not name.startswith("sadnet")]
        if others:
            choose("method", others[-1])
            await_status(f"after {others[-1]} ")
            seen.append(read_pictures())
            browser.wait_for(f"!document.querySelector('{KERNELS}')")
        assert len({tuple(pictures) for pictures in seen}) == len(seen)

        wrong = "[data-mime-type='application/vnd.jupyter.stderr'], [data-mime-type='application/vnd.jupyter.error']"
        assert browser.run(f"[...document.querySelectorAll({wrong!r})].map((one) => one.textContent)") == []
        own = (lab.address, lab.address.replace("http", "ws", 1), "data:", "blob:")
        assert [address for address in browser.requested if not address.startswith(own)] == []


def gallery_methods() -> list[str]:
    """What the notebook finds, whose program does not share this one's small networks."""
    return [path.stem.partition("-seed")[0] for path in sorted((files.results() / "weights").glob("*.safetensors"))]
