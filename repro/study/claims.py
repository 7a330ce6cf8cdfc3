"""What the papers say: ``results/claims.csv``, one row per published number or testable statement.

Columns
-------
id             stable and readable, ``<source>-<place>-<what>``: ``001-t3-kodak24-50-sadnet``
source         the document that prints it: 000 (replication of SADNet), 001 (SADNet)
table          where in it: ``Table 3``, ``Section 4.3``, ``Figure 4``, ``Summary``
method         as printed, without "(ours)"; empty for facts about data
variant        what sets it apart from the method's plain form: an ablation state, a row of an architecture
               table, ``replication`` for what 000 measured itself, ``over RIDNet`` in an ordering
dataset        as printed (``BSD68`` in ``rgb`` is the catalogue's ``cbsd68``, see :func:`dataset_name`)
colour         ``rgb``, ``gray`` or empty
noise          ``awgn``, ``real`` or empty
sigma_255      standard deviation on the 0..255 scale, where there is one
metric         see below
value          as printed, in the printed unit (``4,321k`` is 4321 with unit ``k``); one entry is a word
unit           ``dB``, ``k``, ``G``, ``ms``, ``px``, ...; empty for pure numbers
approx         ``true`` where the source says "about"
attributed_to  the document or paper a copied number comes from; the source itself otherwise
note           how it is printed, blind or not, what contradicts it

Vocabulary of ``metric``
------------------------
outcomes       psnr, ssim, psnr_gain, psnr_loss, parameters, flops, time, training_time, gpu_memory,
               cpu_memory, clock, noise_map_l1, noise_map_psnr, size_ratio, time_ratio (how many times the
               other's)
statements     ordering: value +1, the method (or the first of ``a over b``) is the better one
               direction: value +1, the effect the note describes is there; value 0, there is no difference
architecture   modules, units, layers, copies,
               kernel, channels, channels_in, channels_out, input_channels, output_channels, stride, scales,
               dilation_rate, dilation_rates, compression_ratio, channel_ratio, leaky_slope, non_linearity,
               modulation_min, modulation_max, stages, blocks
protocol       epochs, patience, gradient_weight, probability, choices, estimate_factor, precision, workers,
               batch, patch, beta1, beta2, epsilon, learning_rate, learning_rate_factor, halve_every_steps,
               loss_norm, rotation, sigma_255, noise_levels, gpus, image_height, image_width, iterations,
               iterations_ratio, percentile
data           images, samples, patches, scenes, resolution, iso (and patch, where no method is named)
"""

from fnmatch import fnmatchcase
from pathlib import Path

import pandas as pd

from repro import files
from repro.errors import ReproError

COLUMNS = (
    "id", "source", "table", "method", "variant", "dataset", "colour", "noise", "sigma_255", "metric",
    "value", "unit", "approx", "attributed_to", "note",
)  # fmt: skip

OUTCOMES = {
    "psnr", "ssim", "psnr_gain", "psnr_loss", "parameters", "flops", "time", "training_time", "gpu_memory",
    "cpu_memory", "clock", "noise_map_l1", "noise_map_psnr", "size_ratio", "time_ratio",
}  # fmt: skip
STATEMENTS = {"ordering", "direction"}
ARCHITECTURE = {
    "kernel", "channels", "channels_in", "channels_out", "input_channels", "output_channels", "stride",
    "modules", "units", "layers", "copies",
    "scales", "dilation_rate", "dilation_rates", "compression_ratio", "channel_ratio", "leaky_slope",
    "non_linearity", "modulation_min", "modulation_max", "stages", "blocks",
}  # fmt: skip
PROTOCOL = {
    "epochs", "patience", "gradient_weight", "probability", "choices", "estimate_factor", "precision", "workers",
    "batch", "patch", "beta1", "beta2", "epsilon", "learning_rate", "learning_rate_factor",
    "halve_every_steps", "loss_norm", "rotation", "sigma_255", "noise_levels", "gpus", "image_height",
    "image_width", "iterations", "iterations_ratio", "percentile",
}  # fmt: skip
DATA = {"images", "samples", "patches", "scenes", "resolution", "iso"}
METRICS = OUTCOMES | STATEMENTS | ARCHITECTURE | PROTOCOL | DATA

SOURCES = {
    "000": "Mentesh et al., replication of SADNet",
    "001": "Chang et al., SADNet, ECCV 2020",
    "002": "replication report of SSDN",
    "003": "slides, re-implementation of GradNet",
    "004": "slides, ScaoedNet",
}

# Papers that the sources copy numbers from, and that are no source of their own here.
CITED = {"ssdn": "Laine et al., SSDN, NeurIPS 2019", "gradnet": "Liu et al., GradNet, CVPRW 2020"}

# Printed name and colour -> name in repro.data.catalog. The sets that are missing here cannot be had freely.
DATASETS = {
    ("Kodak24", "rgb"): "kodak24",
    ("Kodak24", "gray"): "kodak24",
    ("BSD68", "rgb"): "cbsd68",
    ("BSD68", "gray"): "bsd68",
    ("Nam", "rgb"): "nam25",
    ("KODAK", "rgb"): "kodak24",
    ("BSD300", "rgb"): "bsd300test",
}


def load(path: str | Path | None = None) -> pd.DataFrame:
    """All claims, indexed by id, in the file's order.

    Every column is text as printed but two: ``sigma_255`` and ``number`` (``value`` as a float) are floats,
    NaN where there is none. A file that breaks a rule of this module is a ReproError that names the first
    row.
    """
    path = Path(path) if path else files.results() / "claims.csv"
    try:
        frame = pd.read_csv(path, dtype=str, keep_default_na=False)
    except (OSError, ValueError) as error:
        raise ReproError(f"Cannot read the claims in {path}: {error}.") from error
    validate(frame)
    frame["sigma_255"] = pd.to_numeric(frame["sigma_255"], errors="coerce")
    frame["number"] = pd.to_numeric(frame["value"], errors="coerce")
    frame["approx"] = frame["approx"] == "true"
    return frame.set_index("id", drop=False)


def validate(frame: pd.DataFrame) -> None:
    """Raise a ReproError for the first broken rule: columns, unique ids, known words, numbers that are
    numbers.
    """
    if tuple(frame.columns) != COLUMNS:
        raise ReproError(f"claims.csv has columns {', '.join(frame.columns)}; expected {', '.join(COLUMNS)}.")
    number = pd.to_numeric(frame["value"], errors="coerce")
    rules = {
        "an id that occurs twice": frame["id"].duplicated(),
        "an id that does not begin with its source": [
            not i.startswith(f"{s}-") for i, s in zip(frame["id"], frame["source"], strict=True)
        ],
        "an unknown source": ~frame["source"].isin(SOURCES),
        "an unknown document in attributed_to": ~frame["attributed_to"].isin([*SOURCES, *CITED]),
        "an unknown metric": ~frame["metric"].isin(METRICS),
        "an unknown colour": ~frame["colour"].isin(["", "rgb", "gray"]),
        "a sigma_255 that is no number": pd.to_numeric(frame["sigma_255"], errors="coerce").isna()
        & (frame["sigma_255"] != ""),
        "a value that is no number": number.isna() & (frame["metric"] != "non_linearity"),
        "an ordering other than +1 and -1": ~number.isin([1, -1]) & (frame["metric"] == "ordering"),
        "an approx other than true and false": ~frame["approx"].isin(["true", "false"]),
    }
    for rule, broken in rules.items():
        if any(broken):
            first = frame["id"][pd.Series(broken, index=frame.index)].iloc[0]
            raise ReproError(f"claims.csv: {first} has {rule}.")


def find(frame: pd.DataFrame, **fields) -> pd.DataFrame:
    """The claims whose fields equal the given ones: ``find(claims, table="Table 3", method="SADNet")``."""
    chosen = pd.Series(True, index=frame.index)
    for name, wanted in fields.items():
        chosen &= frame[name].isin(wanted if isinstance(wanted, list | tuple | set) else [wanted])
    return frame[chosen]


def match(frame: pd.DataFrame, patterns: list[str] | tuple[str, ...]) -> pd.DataFrame:
    """The claims whose id fits one of the shell patterns (``001-t3-kodak24-*-sadnet``)."""
    return frame[[any(fnmatchcase(i, pattern) for pattern in patterns) for i in frame["id"]]]


def dataset_name(claim) -> str | None:
    """The catalogue's name of a claim's data set, or None where the study cannot have it."""
    return DATASETS.get((claim["dataset"], claim["colour"]))
