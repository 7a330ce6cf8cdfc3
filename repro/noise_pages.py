"""What the page on the noise models shows: every kind of noise on one crop, which runs use it, what clipping does."""

from collections.abc import Iterable
from html import escape
from pathlib import Path

import torch
from torch import Tensor

from repro import camera_noise, files, pages, plots
from repro.data import catalog, noise, realistic
from repro.data.training import corruption
from repro.models.gradnet import SIGMA_255_OF_003, fixed_pixelwise_noise
from repro.study import experiments
from repro.study.experiments import Evaluation, Experiment
from repro.train_config import TrainConfig

PHOTOGRAPH = "astronaut"  # of the set embedded-test
BOX_PX = (104, 164, 96, 96)  # top, left, height and width of the crop: a face and a black collar
SIGMA_255, DRAWN_255 = 25.0, (8.0, 64.0)  # DRAWN_255: the range of GradNet's slides
EVENTS, ALPHA = 30.0, 0.5
SEED = 0
MAP_GAIN = 8  # how much brighter than it is the noise map is shown

# The kinds in the order of the page; what each one's level is.
KINDS = {
    "Gaussian, one level": "σ in gray levels",
    "Gaussian, a level per patch": "range of σ in gray levels",
    "Gaussian, a level per value": "range of σ in gray levels",
    "Poisson": "counts λ of a white pixel",
    "impulse": "share α of the pixels",
    "signal-dependent": "ranges of √gain in units of [0, 1], and of σ in gray levels",
    "of cameras": "sets of pairs",
}
ONE, PER_PATCH, PER_VALUE, POISSON, IMPULSE, SIGNAL, CAMERAS = KINDS


def write_all(folder: Path) -> None:
    """Write the fragments, and the picture, into ``folder``."""
    fragments = {
        "noise_picture": describe_picture(folder),
        "noise_use": describe_use(experiments.load()),
        "noise_clipping": describe_clipping(),
        "noise_cameras": describe_cameras(),
    }
    for name, text in fragments.items():
        with files.write_atomically(folder / f"{name}.md") as path:
            path.write_text(text.strip() + "\n", encoding="utf-8")


# --- the same crop with each noise


def describe_picture(folder: Path) -> str:
    """The crop with every kind of noise that is drawn, and how strong each is on it."""
    images, captions = add_each_noise(read_crop())
    figure = plots.draw_gallery({name: image.numpy() for name, image in images.items()}, captions, columns=3)
    plots.save(figure, folder / "noise_models.png")
    alt = (
        "The same crop of a photograph without noise and with each noise of this page, in the order of the text below."
    )
    told = "; ".join(f"{name} ({caption})" if caption else name for name, caption in captions.items())
    return (
        f"```{{image}} _generated/noise_models.png\n:alt: {alt}\n```\n\n"
        "One crop of a photograph, with the same draw of the noise in every build of the book. Row by row, in brackets "
        f"the root mean square of the noise on this crop, and for the map its range: {told}."
    )


def read_crop() -> Tensor:
    """Part of an embedded photograph, [3, H, W] in [0, 1]."""
    top, left, height, width = BOX_PX
    clean = catalog.sample("embedded-test", PHOTOGRAPH).clean
    return clean[:, top : top + height, left : left + width].contiguous()


def add_each_noise(clean: Tensor) -> tuple[dict[str, Tensor], dict[str, str]]:
    """``{title: image}`` and ``{title: caption}``: [3, H, W] as each model makes it, and its strength as measured.

    The last image is the noise map of the one before it, brightened. The same pixels each time.
    """
    images = {"clean": clean, f"Gaussian, σ = {SIGMA_255:g}": noise.fixed_gaussian_noise(clean, PHOTOGRAPH, SIGMA_255)}
    corrupt = corruption(TrainConfig(sigma_255=DRAWN_255, steps=1))  # of which nothing but the noise is used
    for words, seed in (("a level drawn", SEED), ("another level drawn", SEED + 1)):
        images[f"Gaussian, {words}"] = corrupt(clean, torch.Generator().manual_seed(seed))
    images["Gaussian, a level per value"] = fixed_pixelwise_noise(clean, PHOTOGRAPH, SIGMA_255_OF_003, SEED, clip=True)
    images[f"Poisson, λ = {EVENTS:g}"] = noise.fixed_poisson_noise(clean, PHOTOGRAPH, EVENTS, SEED)
    images[f"impulse, α = {ALPHA:g}"] = noise.fixed_impulse_noise(clean, PHOTOGRAPH, ALPHA, SEED)
    noisy, noise_map = realistic.fixed_realistic_noise(clean, PHOTOGRAPH, SEED)
    images["signal-dependent"] = noisy
    captions = {name: f"{measure_255(image, clean):.0f} gray levels" for name, image in images.items()}
    captions["clean"] = ""
    darkest, brightest = (255 * float(value) for value in noise_map.aminmax())
    name = f"its noise map, times {MAP_GAIN}"
    images[name], captions[name] = MAP_GAIN * noise_map, f"{darkest:.0f} to {brightest:.0f} gray levels"
    return images, captions


def measure_255(noisy: Tensor, clean: Tensor) -> float:
    """Root mean square of the difference of two images in [0, 1], in gray levels of 0..255."""
    return 255 * float((noisy.double() - clean.double()).square().mean().sqrt())


# --- which runs use which


def describe_use(listed: Iterable[Experiment]) -> str:
    """How many experiments of the list are trained on each kind of noise, at which levels, and measured on it."""
    levels, trained, measured = {kind: set() for kind in KINDS}, dict.fromkeys(KINDS, 0), dict.fromkeys(KINDS, 0)
    for entry in listed:
        learned = [] if entry.train is None else list_training_noise(entry.train_config(entry.seeds[0]))
        for kind, level in learned:
            trained[kind] += 1
            levels[kind].add(level)
        for kind in {name_noise(evaluation) for evaluation in entry.evaluate} | ({SIGNAL} if entry.stages else set()):
            measured[kind] += 1
    columns = {
        "noise": list(KINDS),
        "level": [escape(level) for level in KINDS.values()],
        "in training": [escape("; ".join(sorted(levels[kind], key=_by_number))) or "–" for kind in KINDS],
        "trained on it": [f"{trained[kind]}" for kind in KINDS],
        "measured on it": [f"{measured[kind]}" for kind in KINDS],
    }
    return pages.render_rows(
        "Experiments of the study's list by the noise that they learn from and are tried on", columns
    )


def list_training_noise(config: TrainConfig) -> list[tuple[str, str]]:
    """Kind and level of the noise that a run learns from: two where a part of each batch is cut from pairs."""
    found = [] if config.pairs is None else [(CAMERAS, config.pairs)]
    return found if config.pairs_in_batch == config.batch else [*found, _name_drawn(config)]


def _name_drawn(config: TrainConfig) -> tuple[str, str]:
    if config.loss.startswith("signal_dependent"):
        return SIGNAL, f"{_span(0, realistic.ROOT_GAIN_MAX)} and {_span(0, realistic.SIGMA_255_MAX)}"
    if config.loss.startswith("pixelwise"):
        return PER_VALUE, _span(*SIGMA_255_OF_003)
    family, level = config.sizes.get("noise", "gaussian"), config.sizes.get("level")
    low, high = config.sigma_range if level is None else level if isinstance(level, list | tuple) else (level, level)
    kinds = {"poisson": POISSON, "impulse": IMPULSE, "gaussian": ONE if low == high else PER_PATCH}
    return kinds[family], _span(low, high)


def name_noise(evaluation: Evaluation) -> str:
    """The kind of noise of a test set: that of its photographs where none is added."""
    if evaluation.events is not None:
        return POISSON
    if evaluation.alpha is not None:
        return IMPULSE
    if evaluation.levels_255 is not None:
        return PER_VALUE
    return CAMERAS if evaluation.sigma_255 is None else ONE


def _span(low: float, high: float) -> str:
    return f"{low:g}" if low == high else f"{low:g} to {high:g}"


def _by_number(level: str) -> tuple[float, str]:
    first = level.split()[0]
    return (float(first) if first.replace(".", "", 1).isdigit() else 0.0), level


# --- clipping, cameras


def describe_clipping(levels_255: tuple[float, ...] = (25.0, 50.0), dark_255: float = 26.0) -> str:
    """What clipping and rounding do to Gaussian noise on an embedded photograph."""
    clean = catalog.sample("embedded-test", PHOTOGRAPH).clean
    dark = clean < dark_255 / 255
    told = []
    for level in levels_255:
        free, clipped, rounded = (
            noise.fixed_gaussian_noise(clean, PHOTOGRAPH, level, clip=clip, round_8bit=round_8bit)
            for clip, round_8bit in ((False, False), (True, False), (True, True))
        )
        share = float((free != clipped).double().mean())
        means = [255 * float((image - clean)[dark].double().mean()) for image in (free, clipped)]
        told.append(
            f"At sigma {level:g} clipping changes {share:.0%} of the values. It moves the mean of the noise on values "
            f"darker than {dark_255:g} from {means[0]:+.1f} to {means[1]:+.1f} gray levels, and the root mean square "
            f"over all values from {measure_255(free, clean):.1f} to {measure_255(clipped, clean):.1f}; with rounding, "
            f"the latter is {measure_255(rounded, clean):.1f}."
        )
    return f"Measured on the whole photograph from which the crop above is taken. {' '.join(told)}"


def describe_cameras() -> str:
    """How strong the noise of the measured photographs is, and how it differs from noise that is drawn."""
    table = camera_noise.load()
    scenes = camera_noise.average_scenes(table)
    by_set = scenes.groupby("dataset").mean(numeric_only=True)
    neighbours, control = (
        by_set[[f"{prefix}correlation_right", f"{prefix}correlation_down"]].mean(axis=1) for prefix in ("", "control_")
    )
    return (
        f"{len(table)} photographs of {len(by_set)} sets were measured, {len(scenes)} groups by what their "
        f"names tell of set, camera, ISO and scene. The mean strength of a set is {by_set['sigma_255'].min():.1f} to "
        f"{by_set['sigma_255'].max():.1f} gray levels. The noise of neighbouring values has a "
        f"correlation of {neighbours.min():.2f} to {neighbours.max():.2f}, that of red and green at the "
        f"same pixel one of {by_set['correlation_colours'].min():.2f} to "
        f"{by_set['correlation_colours'].max():.2f}. In drawn noise of the same strength the correlation of neighbours "
        f"is {control.abs().max():.2f} at most."
    )
