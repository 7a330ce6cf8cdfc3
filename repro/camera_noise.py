"""What the noise of cameras is like, measured on pairs: how strong, of what grain, and what an estimate makes of it.

The noise is the difference between a photograph and the clean image of its scene. Beside each photograph stands a
control: the same clean image with Gaussian noise of the same strength, clipped and rounded to 8 bits as a photograph
is. What is found in one and not in the other comes with the photograph: from the way from sensor to file, with its
interpolation of colours, its smoothing and its JPEG, or from a clean image that is not quite that of the scene.

``results/camera_noise.csv`` has one row per photograph of the sets :data:`PAIRS`; `repro data noise` writes it. Levels
are on the scale 0..255:

sigma_255               standard deviation of the noise about its mean, over all colours
estimate_255            what scikit-image estimates from the noisy photograph alone (:mod:`repro.models.classical`)
correlation_right       coefficient of correlation of the noise of a value and of that of its neighbour to the right
correlation_down        ... below
correlation_far         ... 16 pixels to the right, where only a fault of the clean image would show
correlation_colours     ... of red and green at the same pixel
control_*               the same of the control
shuffled_estimate_255   the estimate where the values of the noise have changed places: as strong, and without any grain
spectrum_estimate_255   ... where Gaussian noise of the same spectrum stands in its place: of the same grain, and of the
                        same strength everywhere, which that of a photograph is not
"""

import re
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.special import ndtri
from torch import Tensor

from repro import files
from repro.data import catalog, noise
from repro.errors import ReproError
from repro.models.classical import estimate_noise

TABLE = "camera_noise.csv"  # in results/
PAIRS = ("cc15", "nam25", "polyu", "sidd_samples")
FAR = 16  # pixels; twice the side of JPEG's blocks


class Setting(NamedTuple):
    """What a photograph was taken with, and of what, as far as its name tells. Several may be crops of one scene."""

    sensor: str
    iso: str
    scene: str


# How names tell it. PolyU: camera, aperture, shutter speed, ISO, subject, crop. CC15: camera, ISO, number.
NAMES = {
    "polyu": re.compile(r"(?P<sensor>[^_]+)_[^_]+_[^_]+_(?P<iso>\d+)_(?P<scene>.+?)_+\d+"),
    "cc15": re.compile(r"(?P<sensor>[^_]+)_iso(?P<iso>\d+)_\d+"),
}
SENSORS = {"5dmark3": "Canon5D3", "d600": "NikonD600", "d800": "NikonD800"}  # CC15's words, in PolyU's


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
    about |= {f"control_{column}": value for column, value in _describe(control, clean).items()}
    rest = (noisy.double() - clean.double()).numpy()
    for kind, other in (("shuffled", _shuffle(rest, name)), ("spectrum", _keep_spectrum(rest, name))):
        replaced = (clean.double().numpy() + other).clip(0, 1)
        about[f"{kind}_estimate_255"] = _estimate_255((replaced * 255).round() / 255)
    return about


def _shuffle(rest: np.ndarray, name: str) -> np.ndarray:
    """The same values at other places, the three colours of a pixel together."""
    order = np.argsort(noise.uniform_numbers(rest[0].size, f"{name}|shuffled"), kind="stable")
    return rest.reshape(3, -1)[:, order].reshape(rest.shape)


def _keep_spectrum(rest: np.ndarray, name: str) -> np.ndarray:
    """Gaussian noise whose power at each frequency is expected to be that of ``rest``, each colour by itself."""
    numbers = noise.uniform_numbers(rest.size, f"{name}|spectrum").reshape(rest.shape)
    white = np.fft.fft2(ndtri(numbers)) / np.sqrt(rest[0].size)
    return np.fft.ifft2(white * np.abs(np.fft.fft2(rest))).real


def _estimate_255(image: np.ndarray) -> float:
    return 255 * estimate_noise(np.moveaxis(image, 0, 2))


def _describe(noisy: Tensor, clean: Tensor) -> dict[str, float]:
    rest = (noisy.double() - clean.double()).numpy()
    rest -= rest.mean((1, 2), keepdims=True)
    return {
        "sigma_255": 255 * float(np.sqrt(np.square(rest).mean())),
        "estimate_255": _estimate_255(noisy.double().numpy()),
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
    path = path or files.results() / TABLE
    with files.write_atomically(path) as temporary:
        table.to_csv(temporary, index=False, float_format="%.6g", lineterminator="\n")
    return path


def load(path: Path | None = None) -> pd.DataFrame:
    """What was written last."""
    path = path or files.results() / TABLE
    try:
        return pd.read_csv(path, dtype={"image": str})  # names of some sets are numbers
    except (OSError, ValueError) as error:
        raise ReproError(f"Cannot read {path}: {error}.") from error


def read_setting(dataset: str, image: str) -> Setting:
    """Sensor, ISO and scene from the name of a photograph: empty, and the photograph itself, where it tells none."""
    found = NAMES[dataset].fullmatch(image) if dataset in NAMES else None
    if found is None:
        return Setting("", "", image)
    told = found.groupdict()
    return Setting(SENSORS.get(told["sensor"], told["sensor"]), told["iso"], told.get("scene", image))


def average_scenes(table: pd.DataFrame) -> pd.DataFrame:
    """Means over the photographs of each scene, which are not independent, with the columns of :class:`Setting`."""
    settings = pd.DataFrame(
        [read_setting(row.dataset, row.image) for row in table.itertuples()], index=table.index, columns=Setting._fields
    )
    both = settings.join(table.drop(columns="image"))
    return both.groupby(["dataset", *Setting._fields], as_index=False).mean()
