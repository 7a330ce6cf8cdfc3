"""One photograph and one method: with noise, denoised, what was removed, and where SADNet's kernels sample.

What the notebook ``gallery`` shows, as functions without widgets; :mod:`repro.gallery_controls` has those.
Photographs of one's own stay in memory: nothing here writes a file or opens a connection.
"""

import base64
import io
import time
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from math import isfinite
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from repro import offsets, plots, viewers, weights
from repro.data import catalog, noise
from repro.data.images import decode_picture, read_picture
from repro.errors import ReproError
from repro.evaluate import denoise
from repro.metrics import psnr_db
from repro.models.base import Denoiser
from repro.notebooks import choose_network
from repro.study import experiments
from repro.study.experiments import Experiment

SIDE_PX = 512  # longest side that is denoised: seconds and less than 2 GiB on two processor cores
LEAST_SIDE_PX = 32  # of a photograph in which an edge is looked for
SIGMA_255_MAX = 100.0
EMBEDDED = ("embedded-test", "embedded-train")  # those that no training saw first


class Photograph(NamedTuple):
    """A photograph to try a method on."""

    name: str
    pixels: Tensor  # float32 [C, H, W] in [0, 1], C = 1 or 3, no side longer than SIDE_PX
    extent: str  # its size in words, and what was cut off


@dataclass(frozen=True)
class Trial:
    """A photograph before and after a method. Tensors are float32 [C, H, W]."""

    photograph: Photograph
    method: str  # name of the weights; empty where the study has published none
    net: Denoiser
    sigma_255: float
    noisy: Tensor  # neither clipped nor rounded
    estimate: Tensor  # in [0, 1]
    clean: Tensor | None  # None where the photograph itself was taken as noisy
    seconds: float

    @cached_property
    def sampling(self) -> dict[int, tuple[np.ndarray, np.ndarray]] | None:
        """As :func:`repro.offsets.collect_sampling` gives it; None for a network whose kernels are not deformed."""
        if not (hasattr(self.net, "offsets") and self.net.sizes.rsab):
            return None
        image = self.noisy
        if len(image) != self.net.sizes.channels:  # as repro.denoise lets a network see an image of other colour
            image = image.expand(3, -1, -1) if len(image) == 1 else image.mean(0, keepdim=True)
        return offsets.collect_sampling(self.net, image)

    @property
    def visible(self) -> np.ndarray:
        """The photograph as clean as it is known, for looking at."""
        return (self.estimate if self.clean is None else self.clean).numpy()


# --- what there is to choose


def list_photographs() -> list[str]:
    """Names of the embedded photographs."""
    return [Path(path).stem for name in EMBEDDED for path in catalog.DATASETS[name].files]


def list_methods() -> dict[str, str]:
    """``{name: what it was trained for}`` of every weights file of the study, in the order of its experiments.

    A file goes by its experiment's name; further seeds of an experiment have theirs in the name.
    """
    names: dict[Path, str] = {}
    for name, path in weights.published().items():
        names.setdefault(path, name)
    listed = {experiment.name: experiment for experiment in experiments.load()}
    places = {name: place for place, name in enumerate(listed)}
    ordered = sorted(names.values(), key=lambda name: (places.get(_find_experiment(name), len(places)), name))
    return {name: _describe_method(name, listed) for name in ordered}


def choose_method() -> str:
    """The first SADNet for colour of :func:`list_methods`, else its first network; empty where there is none."""
    names = list(list_methods())
    for name in names:
        about = weights.describe(name)
        if about["model"] == "sadnet" and about["sizes"]["channels"] == 3:
            return name
    return names[0] if names else ""


def _describe_method(name: str, listed: dict[str, Experiment]) -> str:
    experiment = listed.get(_find_experiment(name))
    if experiment is not None and experiment.train is not None:
        return viewers.describe_training(experiment).partition(", ")[2].replace("`", "")
    return "not of a listed experiment"


def _find_experiment(name: str) -> str:
    """The experiment that a weights file says it is of; empty where it says nothing."""
    with suppress(ReproError):  # an authors' checkpoint
        return weights.describe(name).get("experiment", "")
    return ""


# --- photographs


def load_photograph(name: str | Path) -> Photograph:
    """An embedded photograph by its name, or a file by its path. Raises :class:`ReproError`."""
    if name in list_photographs():
        for collection in EMBEDDED:
            for sample in catalog.samples(collection, colour=None):
                if sample.name == name:
                    return cut_photograph(sample.name, sample.clean)
    if not str(name).strip():
        raise ReproError("Name an embedded photograph or the path of a file.")
    path = Path(name).expanduser()
    return cut_photograph(path.name, read_picture(path).pixels)


def decode_photograph(name: str, data: bytes) -> Photograph:
    """A photograph from the bytes of its file, which is called ``name``. Raises :class:`ReproError`."""
    return cut_photograph(name, decode_picture(data, name).pixels)


def cut_photograph(name: str, pixels: Tensor) -> Photograph:
    """The middle of ``pixels`` [C, H, W], with no side longer than ``SIDE_PX``; scaling would change the noise."""
    height, width = pixels.shape[1:]
    top, left = (max(side - SIDE_PX, 0) // 2 for side in (height, width))
    middle = pixels[:, top : top + SIDE_PX, left : left + SIDE_PX].clone()
    extent = f"{middle.shape[2]} x {middle.shape[1]} pixels"
    if middle.shape != pixels.shape:
        extent = f"the middle {extent} of {width} x {height}, not scaled"
    return Photograph(name, middle, extent)


# --- a method tried


def try_method(
    photograph: Photograph, method: str = "", sigma_255: float = 50.0, add_noise: bool = True, seed: int = 0
) -> Trial:
    """Denoise a photograph.

    ``method``: a name of :func:`list_methods` or a weights file; empty: that of :func:`choose_method`, or, where
    the study has published nothing, what :func:`repro.notebooks.choose_network` takes.
    ``add_noise``: the evaluation noise of the study of standard deviation ``sigma_255``, which is then the clean
    photograph's alone; else the photograph is taken as noisy, and a network that must be told a level is told
    ``sigma_255``. Raises :class:`ReproError` for a level outside 0 to ``SIGMA_255_MAX``, and for weights that are
    missing or cannot be used.
    """
    if not 0 <= sigma_255 <= SIGMA_255_MAX:  # NaN fails too
        raise ReproError(f"sigma is a number from 0 to {SIGMA_255_MAX:g}, not {sigma_255:g}.")
    method = method or choose_method()
    net = weights.load(method) if method else choose_network()[0]
    pixels, noisy = photograph.pixels, photograph.pixels
    if add_noise:
        noisy = noise.fixed_gaussian_noise(pixels, Path(photograph.name).stem, sigma_255, seed)
    start = time.monotonic()
    estimate = denoise(noisy, net, sigma=sigma_255 / 255 if net.needs_sigma else None)
    seconds = time.monotonic() - start
    return Trial(photograph, method, net, sigma_255, noisy, estimate, pixels if add_noise else None, seconds)


def describe_trial(trial: Trial) -> str:
    """What was done and how good the result is, in plain sentences."""
    name, extent = trial.photograph.name, trial.photograph.extent
    listed = {experiment.name: experiment for experiment in experiments.load()}
    method = "a network that is not the study's"
    if trial.method:
        method = f"{trial.method} ({_describe_method(trial.method, listed)})"
    if trial.clean is None:
        told = f", which was told sigma {trial.sigma_255:g}" if trial.net.needs_sigma else ""
        return (
            f"{name}, {extent}, taken as noisy; after {method}{told}, in {trial.seconds:.1f} s. What is clean is not "
            "known, so there is no PSNR."
        )
    before, after = (_decibels(psnr_db(trial.clean, image)) for image in (trial.noisy, trial.estimate))
    experiment = listed.get(_find_experiment(trial.method))
    fits = experiment is None or viewers.covers(experiment, trial.sigma_255)
    return (
        f"{name}, {extent}, with noise of sigma {trial.sigma_255:g}: {before}; after {method}: {after}, in "
        f"{trial.seconds:.1f} s.{'' if fits else ' It was not trained for this noise.'}"
    )


def _decibels(psnr: float) -> str:
    return f"{psnr:.2f} dB" if isfinite(psnr) else "the same to the last bit"


# --- pictures


class Picture(NamedTuple):
    """One picture of a trial."""

    title: str
    image: np.ndarray  # [C, H, W] in [0, 1]
    caption: str
    alt: str


def list_pictures(trial: Trial) -> list[Picture]:
    """The photograph noisy, denoised, and what was removed: their difference about a middle gray."""
    name = trial.photograph.name
    psnr = ["", ""]
    if trial.clean is not None:
        psnr = [_decibels(psnr_db(trial.clean, image)) for image in (trial.noisy, trial.estimate)]
    noisy, estimate = (image.numpy() for image in (trial.noisy.clamp(0, 1), trial.estimate))
    removed = trial.noisy.numpy() - estimate
    # One difference in a hundred may leave the scale. Eightfold at most: more would show what rounding does.
    gain = float(0.5 / max(np.quantile(np.abs(removed), 0.99), 1 / 16))
    return [
        Picture("noisy", noisy, psnr[0], f"{name}, noisy. {psnr[0]}".strip()),
        Picture("denoised", estimate, psnr[1], f"{name}, denoised. {psnr[1]}".strip()),
        Picture(
            "removed",
            np.clip(0.5 + gain * removed, 0, 1),
            f"difference × {gain:.1f}",
            f"What the method removed from {name}: noisy minus denoised, times {gain:.1f}, about a middle gray.",
        ),
    ]


def draw_pictures(trial: Trial) -> Figure:
    """The pictures of :func:`list_pictures` side by side."""
    pictures = list_pictures(trial)
    captions = {picture.title: picture.caption for picture in pictures}
    return plots.draw_gallery({picture.title: picture.image for picture in pictures}, captions, columns=3)


def choose_position(trial: Trial) -> tuple[int, int]:
    """(y, x) in pixels of a clear edge of the photograph, or of its middle where it has none."""
    height, width = trial.visible.shape[1:]
    positions = {}
    if min(height, width) >= LEAST_SIDE_PX:
        positions = offsets.choose_positions(trial.visible, margin_px=min(56, min(height, width) // 4))
    return positions.get("edge", (height // 2, width // 2))


def draw_kernels(trial: Trial, position: tuple[int, int]) -> Figure:
    """SADNet's sampling points at ``position`` (y, x), in pixels, at the four scales.

    Raises :class:`ReproError` for a network whose kernels are not deformed, and for a position that is not in the
    photograph.
    """
    _require_kernels(trial, position)
    y, x = position
    return plots.draw_kernels(trial.visible, trial.sampling, {f"x {x}, y {y}": position})


def describe_kernels(trial: Trial, position: tuple[int, int]) -> str:
    """How far the sampling points at ``position`` reach, in one sentence. Errors as in :func:`draw_kernels`."""
    _require_kernels(trial, position)
    y, x = position
    spreads = []
    for cell_px, (offset, mask) in trial.sampling.items():
        row, column = (min(at // cell_px, cells - 1) for at, cells in zip(position, mask.shape[1:], strict=True))
        here = np.s_[:, row : row + 1, column : column + 1]
        spread = offsets.measure_spread(offsets.place_points(offset[here]), mask[here])
        spreads.append(f"{spread.radius_cells[0, 0] * cell_px:.1f} px at scale {int(np.log2(cell_px)) + 1}")
    return f"At x {x}, y {y} the sampling points lie on average {', '.join(spreads)} from the position."


def _require_kernels(trial: Trial, position: tuple[int, int]) -> None:
    if trial.sampling is None:
        raise ReproError(f"{trial.method or trial.net.name} has no deformed kernels to show: choose a SADNet.")
    height, width = trial.noisy.shape[1:]
    y, x = position
    if not (0 <= y < height and 0 <= x < width):
        raise ReproError(f"x {x}, y {y} is not in the photograph, which has {width} x {height} pixels.")


def encode_address(image: np.ndarray) -> str:
    """A data address of a PNG of [C, H, W] in [0, 1]."""
    pixels = np.round(np.clip(image, 0, 1) * 255).astype(np.uint8)
    pixels = pixels[0] if len(pixels) == 1 else np.ascontiguousarray(pixels.transpose(1, 2, 0))
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "png", compress_level=1)  # noise does not compress: do not try long
    return wrap_png(buffer.getvalue())


def wrap_png(data: bytes) -> str:
    """A data address of the bytes of a PNG."""
    return "data:image/png;base64," + base64.b64encode(data).decode()
