"""The pictures of the book that answer to the reader: their data, their HTML, and both of them in a browser."""

import base64
import dataclasses
import io
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
import yaml
from chromium import PROGRAM, Browser
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from repro import files, offsets, viewers, weights
from repro.data import catalog, noise, realistic
from repro.models import MODELS
from repro.study import experiments
from repro.viewers import Kernels, Shown

STATIC = files.root() / "book" / "_static"
SCRIPTS = ("compare.js", "kernels.js")
SIDE_PX = 64


def make_sampling(seed: int = 0, spread_cells: float = 0.5) -> dict[int, tuple[np.ndarray, np.ndarray]]:
    """Offsets and masks of 8 groups over a photograph of SIDE_PX, as the network gives them."""
    random = np.random.default_rng(seed)
    sampling = {}
    for cell_px in offsets.SCALES:
        cells = SIDE_PX // cell_px
        offset = random.normal(0, spread_cells, (144, cells, cells)).astype(np.float32)
        sampling[cell_px] = (offset, random.uniform(0.05, 0.95, (72, cells, cells)).astype(np.float32))
    return sampling


def make_photograph() -> np.ndarray:
    """A disc: edges of every direction, on smooth ground."""
    y, x = np.mgrid[:SIDE_PX, :SIDE_PX]
    disc = 0.2 + 0.6 / (1 + np.exp(np.hypot(y - 31.5, x - 31.5) - 18))
    return np.stack([disc, disc, 1 - disc]).astype(np.float32)


def make_versions() -> list[Shown]:
    clean = make_photograph()
    noisy = np.clip(clean + np.random.default_rng(0).normal(0, 0.2, clean.shape), 0, 1)
    return [
        Shown("noisy", "noise of sigma 50", noisy, 14.1, ""),
        Shown("SADNet", "noise of sigma 50", (clean + noisy) / 2, 20.2, "`a`, trained for sigma 50"),
        Shown("Scaoed<Net>", "noise of sigma 50", clean**2, 30.3, "`b`, trained for <all>"),
        Shown("clean", "", clean, float("inf"), ""),
    ]


# --- data


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 2**32), st.floats(0.01, 40))
def test_packing_errs_by_at_most_half_a_step(seed, spread_cells):
    kernels = viewers.collect_kernels(make_sampling(seed, spread_cells), make_photograph())
    packed = viewers.pack(kernels)
    restored = viewers.unpack(json.loads(json.dumps(packed)))
    for before, after, scale in zip(kernels, restored, packed["scales"], strict=True):
        longest = np.abs(before.offset).max()
        assert scale["step_cells"] == pytest.approx(max(1 / 16, longest / 127))
        # Half a step, and what float32 rounds an offset of this length by.
        assert np.abs(after.offset - before.offset).max() <= scale["step_cells"] / 2 + 1e-6 * max(longest, 1)
        assert np.abs(after.mask - before.mask).max() <= 0.5 / 31 + 1e-6
        assert np.abs(after.edge - before.edge).max() <= 0.5 / 127 + 1e-6
        assert np.array_equal(after.region, before.region) and after.cell_px == before.cell_px


def test_packing_changes_the_numbers_of_a_kernel_little():
    kernels = viewers.collect_kernels(make_sampling(), make_photograph())
    for before, after in zip(kernels, viewers.unpack(viewers.pack(kernels)), strict=True):
        exact, shown = (offsets.measure_spread(offsets.place_points(k.offset), k.mask) for k in (before, after))
        assert np.abs(exact.radius_cells - shown.radius_cells).max() < 0.02
        assert np.abs(exact.anisotropy - shown.anisotropy).max() < 0.02


def test_kernels_are_those_of_the_cells_under_the_middles():
    sampling = {}
    for cell_px in offsets.SCALES:
        cells = SIDE_PX // cell_px
        rows, columns = np.mgrid[:cells, :cells].astype(np.float32)
        sampling[cell_px] = (np.stack([rows, columns] * 72), np.ones((72, cells, cells)))
    for scale in viewers.collect_kernels(sampling, make_photograph()):
        middle = np.arange(SIDE_PX // 8) * 8 + 4
        assert np.array_equal(scale.offset[0, :, 0], middle // scale.cell_px)
        assert np.array_equal(scale.offset[1, 0], middle // scale.cell_px)


def test_a_disc_has_edges_along_its_rim_and_smooth_ground():
    scale = viewers.collect_kernels(make_sampling(), make_photograph())[-1]
    edges = np.argwhere(scale.region == viewers.REGIONS.index("edge"))
    assert len(edges) > 3
    for row, column in edges:
        around = np.arctan2(row * 8 + 4 - 31.5, column * 8 + 4 - 31.5) + np.pi / 2  # the rim's direction there
        assert scale.edge[:, row, column] @ [np.cos(2 * around), np.sin(2 * around)] > 0.9
    assert (scale.region == viewers.REGIONS.index("smooth")).sum() > 3


def test_methods_are_known_and_the_first_published_network_for_that_noise_stands_for_each(monkeypatch):
    assert {method for method, _ in viewers.METHODS.values()} <= set(MODELS)
    listed = experiments.load()
    assert all(any(experiment.method == method for experiment in listed) for method, _ in viewers.METHODS.values())
    monkeypatch.setattr(weights, "published", dict)
    assert viewers.find_networks(50.0) == {}
    everything = {experiment.name: None for experiment in listed}
    monkeypatch.setattr(weights, "published", lambda: everything)
    found = viewers.find_networks(50.0)
    first = next(one for one in listed if one.method == "sadnet" and one.sigma_255 == 50)
    assert found["SADNet"] == first
    assert "SSDN" not in found and viewers.find_networks(25.0)["SSDN"].sigma_255 == 25
    assert all(experiment.colour == "rgb" for experiment in found.values())
    del everything[first.name]
    assert viewers.find_networks(50.0)["SADNet"] not in (None, first)


def test_each_of_the_four_methods_has_a_noise_that_its_network_is_for(monkeypatch):
    everything = {experiment.name: None for experiment in experiments.load()}
    monkeypatch.setattr(weights, "published", lambda: everything)
    found = [viewers.find_networks(level) for level in (*viewers.LEVELS_255, None)]
    assert set(found[0]) >= {"SADNet", "GradNet"} and "SSDN" in found[1]
    assert found[2] and all(one.train["loss"].startswith("signal_dependent") for one in found[2].values())
    assert set(found[2]) == {"ScaoedNet"}


SMALL_PX = (40, 200, 48, 48)  # of the photograph: parts of the face


@pytest.fixture(scope="module")
def shown_small() -> list[Shown]:
    """The comparison with what is published, of a small part of the photograph."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(viewers, "BOX_PX", SMALL_PX)
        return viewers.collect_versions()


@pytest.mark.slow
def test_the_comparison_has_every_method_whose_network_is_published(shown_small):
    names = {version.name.partition(" (")[0] for version in shown_small}
    methods = {weights.describe(name)["model"] for name in weights.published()}
    for name, (method, _) in viewers.METHODS.items():
        if name in ("SADNet", "SSDN", "GradNet", "ScaoedNet") and method in methods:
            assert name in names
    for told in {version.noise for version in shown_small} - {""}:
        first, *others = (version for version in shown_small if version.noise == told)
        assert first.name == "noisy" and others and all(version.remark for version in others)
    assert [version.name for version in shown_small if not version.noise] == ["clean"]


@pytest.mark.slow
def test_pictures_are_what_the_networks_compute_and_psnr_is_that_of_the_pictures(shown_small):
    top, left, height, width = SMALL_PX
    clean = catalog.sample("embedded-test", viewers.PHOTOGRAPH).clean
    noisy = {f"noise of sigma {level:g}": noise.fixed_gaussian_noise(clean, "astronaut", level) for level in (50, 25)}
    noisy["signal-dependent noise"], _ = realistic.fixed_realistic_noise(clean, "astronaut", seed=0)
    clean, *cut = (image[:, top : top + height, left : left + width] for image in (clean, *noisy.values()))
    noisy = dict(zip(noisy, cut, strict=True))
    for version in shown_small[:-1]:
        expected = noisy[version.noise]
        if version.remark:
            net = weights.load(re.match("`(.*?)`", version.remark)[1])
            level = re.search("sigma (.*)", version.noise)
            with torch.no_grad():
                told = {"sigma": float(level[1]) / 255} if net.needs_sigma else {}
                expected = net(expected[None], **told)[0]
        expected = expected.clamp(0, 1).numpy()
        assert np.abs(version.image - expected).max() < 1e-5, version.name
        mean_square = float(np.mean((expected - clean.numpy()).astype(np.float64) ** 2))
        assert version.psnr_db == pytest.approx(-10 * np.log10(mean_square), abs=1e-3)
    assert np.array_equal(shown_small[-1].image, clean.numpy())


def test_stored_pictures_are_those_that_were_shown():
    versions = make_versions()
    pictures = _Reader(viewers.render_comparison(versions)).of("img")
    for number, (version, picture) in enumerate(zip(versions, pictures, strict=True)):
        jpeg = io.BytesIO(base64.b64decode(picture["src"].partition("base64,")[2]))
        stored = np.asarray(Image.open(jpeg), np.float32).transpose(2, 0, 1) / 255
        apart = [float(np.abs(stored - other.image).mean()) for other in versions]
        assert np.argmin(apart) == number and min(apart) < 0.03
        assert version.noise in picture["alt"] and (version.name in picture["alt"] or version.name == "noisy")


def test_training_is_described_from_the_list():
    first = next(one for one in experiments.load() if one.name == "sadnet-colour-50")
    told = "`sadnet-colour-50`, trained for sigma 50 at the `cpu` budget, 10,000 steps"
    assert viewers.describe_training(first) == told
    assert viewers._name_method("SADNet", first) == "SADNet"
    narrow = dataclasses.replace(first, sizes={"width": 16})
    assert viewers.describe_training(narrow) == f"{told}, 16 channels wide where 32 are published"
    assert viewers._name_method("SADNet", narrow) == "SADNet (16/32 wide)"
    ranged = dataclasses.replace(first, sigma_255=None, train={"sigma_255": [8, 64]})
    assert "trained for sigma 8 to 64" in viewers.describe_training(ranged)


# --- HTML


class _Reader(HTMLParser):
    """Tags in their order, and whether each that opens is closed."""

    empty = ("img", "input", "br")

    def __init__(self, html):
        super().__init__()
        self.found, self._open, self.labelled = [], [], []
        self.feed(html)
        assert not self._open, self._open

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))
        if tag in ("select", "input") and "label" in self._open:
            self.labelled.append(tag)
        if tag not in self.empty:
            self._open.append(tag)

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def of(self, tag):
        return [attributes for name, attributes in self.found if name == tag]


RENDERED = {
    "compare": lambda: viewers.render_comparison(make_versions()),
    "kernels": lambda: viewers.render_kernels(make_sampling(), make_photograph()),
}
both = pytest.mark.parametrize("name", RENDERED)


@both
def test_html_describes_its_pictures_and_labels_its_controls(name):
    html = RENDERED[name]()
    reader = _Reader(html)
    assert all(picture["alt"].strip() for picture in reader.of("img"))
    assert len(reader.labelled) == len(reader.of("select"))
    identifiers = {attributes["id"] for _, attributes in reader.found if "id" in attributes}
    for _, attributes in reader.found:
        if attributes.get("tabindex") == "0":
            assert attributes["aria-label"] and attributes["role"] in ("slider", "application")
        assert set(attributes.get("aria-describedby", "").split()) <= identifiers
    texts = re.findall(r"<button([^>]*)>([^<]*)</button>", html)
    assert texts and all("aria-label" in attributes or text.isalnum() for attributes, text in texts)
    assert all(one.get("aria-label") or one.get("aria-hidden") == "true" for one in reader.of("canvas"))


@both
def test_html_shows_still_pictures_until_a_script_makes_it_live(name):
    html = RENDERED[name]()
    live, still = html.index('class="viewer-live" hidden'), html.index('class="viewer-static')
    assert live < still and "<img" in html[still:] and "<img" not in html[live:still]
    style = (STATIC / "viewers.css").read_text(encoding="utf-8")
    paper = style[style.index("@media print") :]
    assert ".viewer-live { display: none !important; }" in paper and ".viewer-static { display: block; }" in paper


@both
def test_html_asks_for_nothing_elsewhere_and_is_one_markdown_block(name):
    html = RENDERED[name]()
    assert all(picture["src"].startswith("data:image/") for picture in _Reader(html).of("img"))
    assert not re.search(r"https?:|[\"'(]//", html)
    assert "\n\n" not in html, "a blank line would end the block of HTML"


def test_scripts_and_style_ask_for_nothing_and_are_loaded():
    config = yaml.safe_load((files.root() / "_config.yml").read_text())["sphinx"]["config"]
    assert "viewers.css" in config["html_css_files"]
    assert set(SCRIPTS) <= {entry[0] for entry in config["html_js_files"]}
    for name in (*SCRIPTS, "viewers.css"):
        text = (STATIC / name).read_text(encoding="utf-8")
        assert not re.search(r"https?:|[\"'(]//|fetch\(|XMLHttpRequest|import\b|@import|url\(", text), name


def test_comparison_shows_every_number_and_escapes_names():
    html = viewers.render_comparison(make_versions())
    assert "Scaoed<Net>" not in html and "Scaoed&lt;Net&gt;, sigma 50, 30.30 dB" in html
    assert [len(re.findall(rf"\b{number} dB</option>", html)) for number in ("14.10", "20.20", "30.30")] == [2, 2, 2]
    chosen = re.findall(r'<option value="(\d)" selected>', html)
    assert chosen == ["0", "2"], "the noisy one on the left, the best on the right"
    other = [*make_versions(), make_versions()[2]._replace(noise="noise of sigma 25", psnr_db=40.0)]
    assert re.findall(r'<option value="(\d)" selected>', viewers.render_comparison(other)) == ["0", "2"], "same noise"


# --- in a browser

needs_chromium = pytest.mark.skipif(PROGRAM is None, reason="no chromium here")


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    browser = Browser(tmp_path_factory.mktemp("profile"))
    yield browser
    browser.close()


def open_page(browser, folder, name, width=1000):
    scripts = "".join(f"<script>{(STATIC / script).read_text(encoding='utf-8')}</script>" for script in SCRIPTS)
    style = (STATIC / "viewers.css").read_text(encoding="utf-8")
    page = folder / f"{name}.html"
    page.write_text(
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{name}</title><style>{style}</style>{scripts}'
        f'<body onkeydown="window.escaped = event.key"><main style="max-width: 700px">{RENDERED[name]()}</main></body>',
        encoding="utf-8",
    )
    browser.errors.clear()
    browser.requested.clear()
    browser.resize(width, 900)
    browser.open(page)
    browser.wait_for(f"document.querySelector('.{name}.is-live canvas').width > 100")
    browser.settle()


def drawing(browser, selector):
    return browser.run(f"document.querySelector('{selector}').toDataURL()")


def assert_quiet(browser):
    assert browser.errors == []
    assert all(address.startswith(("file:", "data:", "blob:")) for address in browser.requested)


@needs_chromium
@pytest.mark.slow
def test_comparison_follows_keys_mouse_wheel_fingers_and_choices(browser, tmp_path):
    open_page(browser, tmp_path, "compare")
    stage, canvas = ".compare-stage", ".compare-stage canvas"
    assert browser.run("getComputedStyle(document.querySelector('.viewer-static')).display") == "none"
    seen = {drawing(browser, canvas)}

    def changes(action, *arguments, **named):
        action(*arguments, **named)
        browser.settle()
        now = drawing(browser, canvas)
        assert now not in seen, (action.__name__, arguments)
        seen.add(now)

    def divider():
        return int(browser.run(f"document.querySelector('{stage}').getAttribute('aria-valuenow')"))

    browser.run(f"document.querySelector('{stage}').focus()")
    changes(browser.press, "ArrowLeft")
    assert divider() == 48
    assert browser.run("window.escaped === undefined"), "the theme would turn the page"
    changes(browser.drag, stage, (0.48, 0.5), (0.3, 0.5))
    assert divider() == 30
    changes(browser.press, "+")
    changes(browser.press, "ArrowRight", shift=True)
    changes(browser.drag, stage, (0.7, 0.5), (0.8, 0.6))
    assert divider() == 30, "enlarged, a drag away from the divider moves the photograph"
    changes(browser.move, stage, 0.6, 0.4, "mouseWheel", deltaX=0, deltaY=-300)
    browser.touch(stage, "touchStart", (0.5, 0.5), (0.6, 0.5))
    changes(browser.touch, stage, "touchMove", (0.4, 0.5), (0.8, 0.5))
    browser.touch(stage, "touchEnd")
    browser.press("0")
    assert "enlarged 1.0 times" in browser.run(f"document.querySelector('{stage}').getAttribute('aria-valuetext')")
    choose = "(() => { const one = document.querySelector('select[name=b]'); one.value = '3'; "
    changes(browser.run, choose + "one.dispatchEvent(new Event('input')); })()")
    assert browser.run("document.querySelector('[data-side=b]').textContent") == "clean"
    browser.send("Emulation.setEmulatedMedia", media="print")
    parts = "[...document.querySelectorAll('.viewer-live, .viewer-static')]"
    assert browser.run(f"{parts}.map((one) => getComputedStyle(one).display)") == ["none", "grid"]
    browser.send("Emulation.setEmulatedMedia", media="")
    assert_quiet(browser)


def swipe(browser, selector, start, end):
    """One finger over the screen, from and to shares of an element's sides as they are before the page scrolls."""
    left, top, width, height = browser.run(
        f"(() => {{ const box = document.querySelector('{selector}').getBoundingClientRect(); "
        "return [box.left, box.top, box.width, box.height]; })()"
    )
    for step in range(11):
        x, y = (a + (b - a) * step / 10 for a, b in zip(start, end, strict=True))
        finger = {"x": left + x * width, "y": top + y * height, "id": 0}
        browser.send("Input.dispatchTouchEvent", type="touchMove" if step else "touchStart", touchPoints=[finger])
        browser.settle()
    browser.send("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])
    browser.settle()


@needs_chromium
@pytest.mark.slow
def test_one_finger_moves_the_divider_across_and_scrolls_the_page_up_and_down(browser, tmp_path):
    open_page(browser, tmp_path, "compare", width=390)
    browser.run("document.body.style.paddingBottom = '3000px'")
    stage, canvas = ".compare-stage", ".compare-stage canvas"
    divider = f"Number(document.querySelector('{stage}').getAttribute('aria-valuenow'))"
    before = drawing(browser, canvas)
    swipe(browser, stage, (0.5, 0.5), (0.25, 0.5))
    assert browser.run(divider) == 25 and drawing(browser, canvas) != before, "by its handle"
    swipe(browser, stage, (0.7, 0.3), (0.8, 0.34))
    assert browser.run(divider) == 80, "to a finger elsewhere"
    assert browser.run("scrollY") == 0, "across, the page stays"

    for start, end in (((0.3, 0.8), (0.3, 0.2)), ((0.6, 0.8), (0.5, 0.2))):
        browser.run("scrollTo({ top: 0, behavior: 'instant' })")
        browser.settle()
        swipe(browser, stage, start, end)
        browser.wait_for("scrollY > 100")
        assert browser.run(divider) == 80, "a page that scrolls does not move the divider"

    browser.run("scrollTo({ top: 0, behavior: 'instant' })")
    browser.press("+")  # the picture has the focus since it was touched
    before = drawing(browser, canvas)
    swipe(browser, stage, (0.3, 0.8), (0.3, 0.2))
    assert drawing(browser, canvas) != before and browser.run(divider) == 80, "enlarged, the photograph moves"
    assert browser.run("scrollY") == 0
    assert_quiet(browser)


@needs_chromium
@pytest.mark.slow
@pytest.mark.parametrize("width", [1000, 390])
def test_kernels_follow_pointer_and_keys_and_their_numbers_are_those_of_the_study(browser, tmp_path, width):
    open_page(browser, tmp_path, "kernels", width)
    photograph, zoom = ".kernels-photo", '[data-cell="8"] canvas'
    stored: list[Kernels] = viewers.unpack(viewers.pack(viewers.collect_kernels(make_sampling(), make_photograph())))

    def check_numbers(row, column):
        for scale in stored:
            spread = offsets.measure_spread(offsets.place_points(scale.offset), scale.mask)
            edge = scale.edge[:, row, column]
            alignment = f"{float(spread.axis[row, column] @ edge):.2f}" if edge.any() else "–"
            expected = [
                f"{spread.radius_cells[row, column] * scale.cell_px:.2f}",
                f"{spread.anisotropy[row, column]:.2f}",
                alignment.replace("-0.00", "0.00").replace("-", "−"),
                viewers.REGIONS[scale.region[row, column]] or "between",
            ]
            cells = f"[...document.querySelectorAll('tr[data-cell=\"{scale.cell_px}\"] td')]"
            shown = browser.run(f"{cells}.map((one) => one.textContent)")
            assert shown == expected, (scale.cell_px, row, column)

    pictures = set()
    for row, column in ((1, 1), (3, 2), (5, 6)):
        browser.move(photograph, (column + 0.5) / 8, (row + 0.5) / 8)
        check_numbers(row, column)
        pictures |= {drawing(browser, photograph), drawing(browser, zoom)}
    assert len(pictures) == 6
    browser.press("1")
    assert drawing(browser, photograph) not in pictures, "under the mouse, keys need no click"
    browser.run(f"document.querySelector('{photograph}').focus()")
    browser.press("ArrowUp")
    check_numbers(4, 6)
    browser.press("ArrowLeft", shift=True)
    check_numbers(4, 2)
    before = drawing(browser, photograph)
    browser.press("4")
    assert drawing(browser, photograph) != before
    assert browser.run("document.querySelector('button[data-cell=\"8\"]').getAttribute('aria-pressed')") == "true"
    assert browser.run("window.escaped === undefined")
    browser.touch(photograph, "touchStart", (0.1, 0.9))
    check_numbers(7, 0)
    browser.touch(photograph, "touchMove", (0.9, 0.1))
    check_numbers(0, 7)
    browser.touch(photograph, "touchEnd")
    browser.wait_for("document.querySelector('.viewer-status').textContent.includes('scale 4')")
    assert browser.run("document.documentElement.scrollWidth <= innerWidth"), "nothing sticks out sideways"
    assert_quiet(browser)


def test_a_network_for_signal_dependent_noise_is_not_shown_on_strong_gaussian_noise():
    listed = {experiment.name: experiment for experiment in experiments.load()}
    assert not viewers.covers(listed["scaoednet-stages-3"], 25)
    assert viewers.covers(listed["sadnet-colour-50"], 50) and not viewers.covers(listed["sadnet-colour-50"], 25)
