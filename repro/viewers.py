"""The two pictures of the book that answer to the reader: a comparison of methods, and the kernels under the
pointer.

Each function returns HTML that asks no other file and no other host. Its scripts and styles are
``book/_static/compare.js``, ``kernels.js`` and ``viewers.css``. Without scripts, and on paper, the same HTML
shows still pictures with the same numbers.

The kernels are stored once per ``PITCH_PX`` pixels and scale, in bytes: offsets in steps of ``STEP_CELLS``,
modulation in steps of 1 / ``MODULATION_STEPS``. The page computes from them what it says about a kernel, by the
formulas of :mod:`repro.offsets`.
"""

import base64
import io
import json
import re
import zlib
from collections.abc import Mapping
from fnmatch import fnmatch
from html import escape
from typing import NamedTuple

import numpy as np
from PIL import Image
from torch import Tensor

from repro import offsets, plots, weights
from repro.data import catalog, noise, realistic
from repro.evaluate import denoise
from repro.metrics import psnr_db
from repro.models import model_class
from repro.models.base import Denoiser
from repro.notebooks import choose_network
from repro.study import experiments
from repro.study.experiments import Experiment

PHOTOGRAPH = "astronaut"  # of embedded-test
BOX_PX = (0, 104, 256, 256)  # top, left, height, width: the face, a flag's stripes and smooth ground
LEVELS_255 = (50.0, 25.0)  # SADNet's most quoted noise first, then that of SSDN
SIGNAL_DEPENDENT = "signal-dependent noise"  # ScaoedNet's
PITCH_PX = 8  # between positions whose kernels are stored: every cell of the coarsest scale has one
STEP_CELLS = 1 / 16
MODULATION_STEPS = 31
REGIONS = ("", "smooth", "edge", "texture")

METHODS = {
    "SADNet": ("sadnet", "full"),
    "SSDN": ("ssdn", "known"),
    "N2C": ("unet", "N2C"),
    "N2N": ("unet", "N2N"),
    "N2V": ("unet", "N2V"),
    "GradNet": ("gradnet", "DnCNN*"),
    "GradNet, re-implemented": ("gradnet-impl", "DnCNN*"),
    "DnCNN": ("dncnn", "*"),
    "ScaoedNet": ("scaoednet", "*"),
}
"""What the comparison calls a method: its name in :func:`repro.build`, and a shell pattern of its variants. Of
those published, the first in the list of experiments stands for the method."""

BLIND = "DnCNN"  # of METHODS: stands beside networks for noise that depends on the signal, and is told nothing of it


# --- the comparison of methods


class Shown(NamedTuple):
    """One picture of the comparison."""

    name: str
    noise: str  # in words; empty for the clean photograph
    image: np.ndarray  # [C, H, W] in [0, 1]
    psnr_db: float  # infinite for the clean photograph
    remark: str


def show_comparison() -> str:
    """Two of many versions of a photograph under a divider: HTML, and a sentence that says what is seen."""
    shown = collect_versions()
    networks = dict.fromkeys((version.name, version.remark) for version in shown if version.remark)
    told = ((escape(name), re.sub("`(.*?)`", r"<code>\1</code>", escape(remark))) for name, remark in networks)
    items = "".join(f"<li>{name}: {remark}</li>" for name, remark in told)
    blind = any(version.noise == SIGNAL_DEPENDENT and version.name.startswith(BLIND) for version in shown)
    beside = f" For {SIGNAL_DEPENDENT} there is also {BLIND}, which was trained for Gaussian noise." if blind else ""
    return (
        f"{render_comparison(shown)}\n\nPart of a photograph that no training saw ({PHOTOGRAPH}, of those that come "
        "with scikit-image): noisy, after each published network that is for such noise, and clean."
        f"{beside} PSNR is that of this part, computed before the pictures were stored as JPEG; the noisy ones "
        "were cut to the visible range first, which raises theirs. The networks differ in "
        "how long they were trained and how wide they are, so the pictures do not rank the methods.\n\n"
        f"<details><summary>The networks behind the pictures</summary><ul>{items}</ul></details>"
    )


def render_comparison(shown: list[Shown]) -> str:
    """HTML of :func:`show_comparison`: a noisy picture and a method's, at least, of one size."""
    noisy = next(version for version in shown if not version.remark and version.noise)
    alike = (version for version in shown if version.remark and version.noise == noisy.noise)
    best = max(alike, key=lambda version: version.psnr_db)
    items = "".join(
        f'<figure><img src="{_encode_jpeg(version.image)}" alt="{escape(_describe(version))}" '
        f'width="{version.image.shape[2]}" height="{version.image.shape[1]}" data-label="{escape(_label(version))}">'
        f"<figcaption>{escape(_label(version))}</figcaption></figure>"
        for version in shown
    )
    left, right = (_list_choices(shown, chosen) for chosen in (noisy, best))
    return (
        '<div class="viewer compare" data-viewer="compare"><div class="viewer-live" hidden>'
        '<div class="viewer-controls">'
        f'<label>left<select name="a">{left}</select></label><label>right<select name="b">{right}</select></label>'
        '<span class="viewer-buttons"><button type="button" name="in" aria-label="zoom in">+</button>'
        '<button type="button" name="out" aria-label="zoom out">−</button>'
        '<button type="button" name="whole">whole</button></span></div>'
        '<div class="compare-stage" role="slider" tabindex="0" aria-label="divider between the two pictures" '
        'aria-valuemin="0" aria-valuemax="100" aria-valuenow="50" aria-describedby="compare-help">'
        '<canvas aria-hidden="true"></canvas><span class="viewer-tag" data-side="a"></span>'
        '<span class="viewer-tag" data-side="b"></span><span class="compare-handle"></span></div>'
        '<p class="viewer-help" id="compare-help">Drag the line or press ← and →. Zoom with + and −, two '
        "fingers, or the wheel after a click; then drag, or press Shift and an arrow, to move about. 0 shows the whole "
        f'again.</p></div><div class="viewer-static compare-static">{items}</div></div>'
    )


def _list_choices(shown: list[Shown], chosen: Shown) -> str:
    groups: dict[str, str] = {}
    for number, version in enumerate(shown):
        group = version.noise or "without noise"
        selected = " selected" if version is chosen else ""
        option = f'<option value="{number}"{selected}>{escape(_label(version, of_noise=False))}</option>'
        groups[group] = groups.get(group, "") + option
    return "".join(f'<optgroup label="{group}">{options}</optgroup>' for group, options in groups.items())


def collect_versions() -> list[Shown]:
    """The photograph noisy, after every method that has a published network for that noise, and clean."""
    photograph = catalog.sample("embedded-test", PHOTOGRAPH).clean
    clean = _cut(photograph)
    shown: list[Shown] = []
    for level_255 in LEVELS_255:
        networks = find_networks(level_255)
        if not shown and not networks:  # before anything is published
            net, remark = choose_network()
            chosen = [("SADNet", net, remark.replace("**", "").rstrip("."))]
        elif {_name_method(*network) for network in networks.items()} <= {version.name for version in shown}:
            continue  # a second level is for methods that know no other
        else:
            chosen = _load_all(networks)
        noisy = _cut(noise.fixed_gaussian_noise(photograph, PHOTOGRAPH, level_255))
        shown += _show_all(chosen, f"noise of sigma {level_255:g}", noisy, clean, level_255)
    if networks := find_networks(None):
        noisy, noise_map = map(_cut, realistic.fixed_realistic_noise(photograph, PHOTOGRAPH))
        level_255 = 255 * float(noise_map.mean())
        networks |= {name: one for name, one in find_networks(level_255).items() if name == BLIND}
        shown += _show_all(_load_all(networks), SIGNAL_DEPENDENT, noisy, clean, level_255)
    return [*shown, Shown("clean", "", clean.numpy(), float("inf"), "")]


def find_networks(level_255: float | None) -> dict[str, Experiment]:
    """For each of :data:`METHODS` the experiment whose published colour network is for such noise (:func:`covers`)."""
    published, listed, found = weights.published(), experiments.load(), {}
    for name, (method, variants) in METHODS.items():
        for experiment in listed:
            fits = experiment.method == method and fnmatch(experiment.variant, variants)
            if fits and experiment.colour == "rgb" and experiment.name in published and covers(experiment, level_255):
                found[name] = experiment
                break
    return found


def covers(experiment: Experiment, level_255: float | None) -> bool:
    """Whether an experiment trains for Gaussian noise of that level; for None, for noise that depends on the signal."""
    if level_255 is None:
        return _depends_on_signal(experiment)
    low, high = _trained_levels(experiment)
    return low <= level_255 <= high


def _load_all(networks: Mapping[str, Experiment]) -> list[tuple[str, Denoiser, str]]:
    """Label, network and description of the training of each."""
    return [
        (_name_method(name, experiment), weights.load(experiment.name), describe_training(experiment))
        for name, experiment in networks.items()
    ]


def _show_all(
    chosen: list[tuple[str, Denoiser, str]], told: str, noisy: Tensor, clean: Tensor, level_255: float
) -> list[Shown]:
    """A noisy picture [C, H, W], whose noise is ``told`` in words, and what each network makes of it."""
    visible = noisy.clamp(0, 1)
    shown = [Shown("noisy", told, visible.numpy(), psnr_db(clean, visible), "")]
    for name, net, remark in chosen:
        estimate = denoise(noisy, net, sigma=level_255 / 255 if net.needs_sigma else None)
        shown.append(Shown(name, told, estimate.numpy(), psnr_db(clean, estimate), remark))
    return shown


def _depends_on_signal(experiment: Experiment) -> bool:
    return (experiment.train or {}).get("loss", "").startswith("signal_dependent")


def _trained_levels(experiment: Experiment) -> tuple[float, float]:
    if _depends_on_signal(experiment):
        return 0, realistic.SIGMA_255_MAX  # the part of that noise which is the same everywhere
    level = experiment.sigma_255
    if level is None:
        level = (experiment.train or {}).get("sigma_255")
    if level is None:
        return float("inf"), float("-inf")
    return (level[0], level[1]) if isinstance(level, list | tuple) else (level, level)


def describe_training(experiment: Experiment) -> str:
    """Name, noise and budget of an experiment's training, in Markdown."""
    low, high = _trained_levels(experiment)
    if _depends_on_signal(experiment):
        noise_seen = "noise that depends on the signal"
    elif low == high:
        noise_seen = f"sigma {low:g}"
    else:
        noise_seen = f"sigma {low:g} to {high:g}"
    told = f"`{experiment.name}`, trained for {noise_seen} at the `{experiment.budget}` budget"
    width, published = _read_widths(experiment)
    narrow = f", {width} channels wide where {published} are published" if width < published else ""
    steps = (experiment.train or {}).get("steps")
    return told + (f", {steps:,} steps" if steps else "") + narrow


def _read_widths(experiment: Experiment) -> tuple[int, int]:
    """Width of an experiment's network, and of the published one."""
    published = model_class(experiment.method).Sizes().width
    return experiment.sizes.get("width", published), published


def _name_method(name: str, experiment: Experiment) -> str:
    """What a picture is labelled with: the method, and whether its network is narrower than the published one."""
    width, published = _read_widths(experiment)
    return f"{name} ({width}/{published} wide)" if width < published else name


def _label(version: Shown, of_noise: bool = True) -> str:
    parts = [version.name]
    parts += [version.noise.removeprefix("noise of ")] if version.noise and of_noise else []
    parts += [f"{version.psnr_db:.2f} dB"] if np.isfinite(version.psnr_db) else []
    return ", ".join(parts)


def _describe(version: Shown) -> str:
    if not version.noise:
        return f"The photograph {PHOTOGRAPH}, clean."
    state = "" if version.name == "noisy" else f" after {version.name}"
    return f"The photograph {PHOTOGRAPH} with {version.noise}{state}, {version.psnr_db:.2f} dB."


# --- the kernels under the pointer


class Kernels(NamedTuple):
    """Sampling points of one scale at a grid of positions of the photograph, with the structure there."""

    cell_px: int
    offset: np.ndarray  # [2K, rows, columns] in cells, (y, x) in turn
    mask: np.ndarray  # [K, rows, columns] in [0, 1]
    edge: np.ndarray  # [2, rows, columns] double-angle vector along the edge of the clean photograph
    region: np.ndarray  # [rows, columns] index into REGIONS


def collect_kernels(
    sampling: Mapping[int, tuple[np.ndarray, np.ndarray]], clean: np.ndarray, pitch_px: int = PITCH_PX
) -> list[Kernels]:
    """The kernels of a photograph at the middles of squares of ``pitch_px``, coarse to fine.

    ``sampling``: as :func:`repro.offsets.collect_sampling` gives it; ``clean``: [C, H, W] in [0, 1]. Only whole
    squares have a position.
    """
    rows, columns = (np.arange(side // pitch_px) * pitch_px + pitch_px // 2 for side in clean.shape[1:])
    kernels = []
    for cell_px, (offset, mask) in sampling.items():
        at = np.ix_(rows // cell_px, columns // cell_px)
        structure = offsets.find_structure(clean, cell_px)
        region = np.zeros(structure.strength.shape, np.uint8)
        for name, where in offsets.sort_regions(structure).items():
            region[where] = REGIONS.index(name)
        edge = np.moveaxis(structure.edge[at], -1, 0)
        kernels.append(Kernels(cell_px, offset[:, *at], mask[:, *at], edge, region[at]))
    return kernels


def pack(kernels: list[Kernels], pitch_px: int = PITCH_PX) -> dict:
    """What the page reads: a header that JSON can hold, with the arrays as deflated bytes in base64.

    Per scale, in this order: offsets (int8, in steps that the header names), modulation (uint8), edges (int8, in
    steps of 1/127), regions (uint8). An offset is off by at most half a step, and the step is ``STEP_CELLS``
    unless the longest offset would not fit; modulation by at most 1 / (2 * ``MODULATION_STEPS``).
    """
    scales, data = [], []
    for scale in kernels:
        step = max(STEP_CELLS, float(np.abs(scale.offset).max()) / 127)
        scales.append({"cell_px": scale.cell_px, "step_cells": step})
        data += [
            np.round(scale.offset / step).astype(np.int8),
            np.round(scale.mask * MODULATION_STEPS).astype(np.uint8),
            np.round(scale.edge * 127).astype(np.int8),
            scale.region.astype(np.uint8),
        ]
    taps, rows, columns = kernels[0].mask.shape
    deflated = zlib.compress(b"".join(array.tobytes() for array in data), 9)
    return {
        "pitch_px": pitch_px,
        "rows": rows,
        "columns": columns,
        "points": taps,
        "modulation_steps": MODULATION_STEPS,
        "regions": list(REGIONS),
        "scales": scales,
        "data": base64.b64encode(deflated).decode(),
    }


def unpack(packed: dict) -> list[Kernels]:
    """The inverse of :func:`pack`, as the page does it: the tests compare the two."""
    rest = zlib.decompress(base64.b64decode(packed["data"]))
    rows, columns, points = packed["rows"], packed["columns"], packed["points"]

    def take(kind: type, planes: int) -> np.ndarray:
        nonlocal rest
        count = planes * rows * columns
        array, rest = np.frombuffer(rest[:count], kind).reshape(planes, rows, columns), rest[count:]
        return array

    kernels = []
    for scale in packed["scales"]:
        offset = take(np.int8, 2 * points) * scale["step_cells"]
        mask = take(np.uint8, points) / packed["modulation_steps"]
        kernels.append(Kernels(scale["cell_px"], offset, mask, take(np.int8, 2) / 127, take(np.uint8, 1)[0]))
    return kernels


def show_kernels(sigma_255: float = LEVELS_255[0]) -> str:
    """A photograph with SADNet's sampling points at the pointer, at the four scales: HTML, and what it shows."""
    net, remark = choose_network()
    photograph = catalog.sample("embedded-test", PHOTOGRAPH).clean
    noisy = _cut(noise.fixed_gaussian_noise(photograph, PHOTOGRAPH, sigma_255))
    clean = _cut(photograph).numpy()
    sampling = offsets.collect_sampling(net, noisy)
    return (
        f"{render_kernels(sampling, clean)}\n\nThe network saw this part of the photograph with noise of sigma "
        f"{sigma_255:g}; the page shows it clean. {remark}"
    )


def render_kernels(sampling: Mapping[int, tuple[np.ndarray, np.ndarray]], clean: np.ndarray) -> str:
    """HTML of :func:`show_kernels` for any photograph ``clean`` [C, H, W] and its ``sampling``."""
    packed = pack(collect_kernels(sampling, clean))
    positions = offsets.choose_positions(clean, margin_px=min(56, min(clean.shape[1:]) // 4))
    still = plots.encode_png(plots.draw_kernels(clean, sampling, positions), 200)
    still = base64.b64encode(still).decode()
    names = {cell_px: f"scale {int(np.log2(cell_px)) + 1}" for cell_px in sampling}
    ordered = sorted(names)
    buttons = "".join(
        f'<button type="button" data-cell="{cell_px}" aria-pressed="false">{names[cell_px][6:]}</button>'
        for cell_px in ordered
    )
    zooms = "".join(
        f'<figure data-cell="{cell_px}"><canvas role="img" aria-label="{names[cell_px]}: sampling points around the '
        f'position"></canvas><figcaption>{names[cell_px]}, {cell_px} px a cell</figcaption></figure>'
        for cell_px in ordered
    )
    rows = "".join(
        f'<tr data-cell="{cell_px}"><th scope="row">{names[cell_px]}</th>'
        + "".join(f'<td data-number="{number}"></td>' for number in ("radius_px", "anisotropy", "alignment", "region"))
        + "</tr>"
        for cell_px in ordered
    )
    head = "".join(
        f'<th scope="col">{name}</th>' for name in ("", "spread, px", "anisotropy", "alignment with the edge", "place")
    )
    return (
        '<div class="viewer kernels" data-viewer="kernels"><div class="viewer-live" hidden>'
        '<div class="viewer-controls"><span class="viewer-buttons" role="group" aria-label="scale drawn over the '
        f'photograph"><span aria-hidden="true">scale</span>{buttons}</span></div>'
        '<div class="kernels-panes"><canvas class="kernels-photo" tabindex="0" role="application" '
        f'aria-label="The photograph {PHOTOGRAPH}; arrow keys move the position, 1 to 4 choose the scale" '
        f'aria-describedby="kernels-help kernels-status"></canvas><div class="kernels-zooms">{zooms}</div></div>'
        '<p class="viewer-help" id="kernels-help">Move over the photograph, drag on it, or press the arrow keys; '
        "a click holds the position, 1 to 4 choose the scale whose points lie over the photograph. A dot is a sampling "
        "point, the larger and more solid the larger its modulation; hollow squares are the plain 3x3 kernel. The line "
        "is the direction in which the points are spread widest, the dashed line that of the edge, where there is "
        "one.</p>"
        f'<div class="study-table"><table class="study"><caption>At this position</caption><thead><tr>{head}</tr>'
        f'</thead><tbody>{rows}</tbody></table></div><p class="viewer-status" id="kernels-status" role="status"></p>'
        '</div><div class="viewer-static">'
        f'<img class="kernels-still" src="data:image/png;base64,{still}" alt="Sampling points of the learned kernels '
        f'over {PHOTOGRAPH}, for a smooth place, an edge and a texture, at the four scales from coarse to fine."></div>'
        f'<img class="kernels-ground" src="{_encode_jpeg(clean)}" alt="The photograph {PHOTOGRAPH}, clean." hidden>'
        f'<script type="application/json">{json.dumps(packed)}</script></div>'
    )


# --- both


def _cut(image: Tensor) -> Tensor:
    top, left, height, width = BOX_PX
    return image[:, top : top + height, left : left + width]


def _encode_jpeg(image: np.ndarray, quality: int = 90) -> str:
    """A data address of [3, H, W] in [0, 1]. Colours at full resolution: halving it would smooth colour noise."""
    pixels = np.round(np.clip(image, 0, 1) * 255).astype(np.uint8).transpose(1, 2, 0)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "jpeg", quality=quality, subsampling=0)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
