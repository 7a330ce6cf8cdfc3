"""What the noise of cameras is like, measured on pairs: how strong, of what grain, and what an estimate makes of it.

The noise is the difference between a photograph and the clean image of its scene. Beside each photograph stands a
control: the same clean image with Gaussian noise of the same strength, clipped and rounded to 8 bits as a photograph
is. What is found in one and not in the other is due to the camera: to the way from sensor to file, with its
interpolation of colours, its smoothing and its JPEG.

``results/camera_noise.csv`` has one row per photograph of the sets :data:`PAIRS`; `repro data noise` writes it. Levels
are on the scale 0..255:

sigma_255               standard deviation of the noise about its mean, over all colours
estimate_255            what scikit-image estimates from the noisy photograph alone (:mod:`repro.models.classical`)
correlation_right       coefficient of correlation of the noise of a value and of that of its neighbour to the right
correlation_down        ... below
correlation_far         ... 16 pixels to the right, where only a fault of the clean image would show
correlation_colours     ... of red and green at the same pixel
control_*               the same of the control
"""

import re
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from torch import Tensor

from repro import files
from repro.data import catalog, noise
from repro.errors import ReproError
from repro.models.classical import estimate_noise

PAIRS = ("cc15", "nam25", "polyu", "sidd_samples")
FAR = 16  # pixels; twice the side of JPEG's blocks


class Setting(NamedTuple):
    """What a photograph of PolyU was taken of, with what. Photographs of one scene are crops of one."""

    sensor: str
    iso: str
    scene: str


def measure(noisy: Tensor, clean: Tensor, name: str) -> dict[str, float]:
    """Columns of the table for one photograph: two colour images [3, H, W] in [0, 1], at least 17 pixels wide.

    ``name`` decides the control's noise. Noise of one value throughout has no correlation: NaN.
    """
    if noisy.shape != clean.shape or noisy.shape[0] != 3 or noisy.shape[1] < 2 or noisy.shape[2] <= FAR:
        raise ValueError(
            f"A colour image and its clean one, more than {FAR} pixels wide, are of one shape, not "
            f"{list(noisy.shape)} and {list(clean.shape)}."
        )
    about = _describe(noisy, clean)
    control = noise.fixed_gaussian_noise(clean, name, about["sigma_255"], clip=True, round_8bit=True)
    return about | {f"control_{column}": value for column, value in _describe(control, clean).items()}


def _describe(noisy: Tensor, clean: Tensor) -> dict[str, float]:
    rest = (noisy.double() - clean.double()).numpy()
    rest -= rest.mean((1, 2), keepdims=True)
    return {
        "sigma_255": 255 * float(np.sqrt(np.square(rest).mean())),
        "estimate_255": 255 * estimate_noise(noisy.double().permute(1, 2, 0).numpy()),
        "correlation_right": _correlate(rest[:, :, :-1], rest[:, :, 1:]),
        "correlation_down": _correlate(rest[:, :-1], rest[:, 1:]),
        "correlation_far": _correlate(rest[:, :, :-FAR], rest[:, :, FAR:]),
        "correlation_colours": _correlate(rest[:1], rest[1:2]),
    }


def _correlate(one: np.ndarray, other: np.ndarray) -> float:
    """Mean over the channels [C, H, W] of the coefficient of correlation."""
    one, other = (side - side.mean((1, 2), keepdims=True) for side in (one, other))
    with np.errstate(invalid="ignore"):
        each = (one * other).sum((1, 2)) / np.sqrt(np.square(one).sum((1, 2)) * np.square(other).sum((1, 2)))
    return float(each.mean())


def measure_sets(names: tuple[str, ...] = PAIRS) -> pd.DataFrame:
    """The table of those sets, one row per photograph. A ReproError for a set that is not here, or has no pairs."""
    if alone := [name for name in names if not catalog.find(name).pairs]:
        raise ReproError(f"{alone[0]} has no noisy photographs beside its clean ones.")
    rows = [
        {"dataset": name, "image": sample.name} | measure(sample.noisy, sample.clean, sample.name)
        for name in names
        for sample in catalog.samples(name)
    ]
    return pd.DataFrame(rows)


def save(table: pd.DataFrame, path: Path | None = None) -> Path:
    """Write the table, to the sixth digit of each number."""
    path = path or files.results() / "camera_noise.csv"
    with files.write_atomically(path) as temporary:
        table.to_csv(temporary, index=False, float_format="%.6g", lineterminator="\n")
    return path


def load(path: Path | None = None) -> pd.DataFrame:
    """What was written last."""
    path = path or files.results() / "camera_noise.csv"
    try:
        return pd.read_csv(path, dtype={"image": str})  # names of some sets are numbers
    except (OSError, ValueError) as error:
        raise ReproError(f"Cannot read {path}: {error}.") from error


def read_setting(image: str) -> Setting:
    """Sensor, ISO and scene from a name of PolyU: camera, aperture, shutter speed, ISO, subject, number of the crop."""
    found = re.fullmatch(r"([^_]+)_[^_]+_[^_]+_(\d+)_(.+?)_+\d+", image)
    if found is None:
        raise ValueError(f"{image} is no name of PolyU.")
    return Setting(*found.groups())


def average_scenes(table: pd.DataFrame) -> pd.DataFrame:
    """Means over the crops of each scene of PolyU, with the columns ``sensor``, ``iso`` and ``scene``."""
    polyu = table[table["dataset"] == "polyu"]
    settings = pd.DataFrame([read_setting(image) for image in polyu["image"]], index=polyu.index)
    both = settings.join(polyu.drop(columns=["dataset", "image"]))
    return both.groupby(list(Setting._fields), as_index=False).mean()
