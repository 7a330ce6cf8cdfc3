"""What came out of a run, complete enough to redo it: ``results/runs/<experiment>/seed<k>/``.

record.json   what was run, with what, where, for how long, and the means of every evaluation (:data:`FIELDS`)
curve.csv     loss, learning rate and validation PSNR along the training
metrics.csv   one row per image and evaluation (columns of :func:`repro.evaluate.evaluate`, and ``evaluation``)
offsets.csv   where the experiment asks for it: one row per image, scale and region (:mod:`repro.offsets`)
gradients.csv where the experiment asks for it: one row per image, level and gradient (:mod:`repro.gradients`)
stages.csv    where the experiment asks for it: one row per image and stage (:mod:`repro.stages`)

``record.json`` is written last: a folder without one holds nothing finished.
"""

import json
import os
import platform
import subprocess
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import cache, cached_property
from importlib.metadata import version
from pathlib import Path

import pandas as pd

from repro import files
from repro.errors import ReproError
from repro.train_config import TrainConfig

GAIN_DB = 0.5  # what is nearer to the noisy image in PSNR gives it back
PARTS = ("naive_weights",)  # not settings: the checksum of a part that was trained before
# Field -> type. A hyper-parameter is {"value", "origin"}; None where the run was stopped by another budget.
FIELDS = {
    "experiment": str,
    "method": str,
    "variant": str,
    "colour": str,
    "sigma_255": (float, int, type(None)),
    "seed": int,
    "budget": str,
    "hyperparameters": dict,
    "commit": str,
    "versions": dict,
    "device": str,
    "threads": int,
    "started": str,
    "seconds": (float, int),
    "steps": int,
    "peak_memory_mib": (int, type(None)),  # of the training, or of what is measured instead; None where not known
    "parameters": int,
    "data": list,
    "evaluations": list,
    "command": str,
}
METRICS = ("psnr_noisy_db", "psnr_db", "psnr_rounded_db", "psnr_truncated_db", "ssim", "ssim_3d", "seconds")
PACKAGES = ("torch", "torchvision", "lightning-fabric", "numpy", "scikit-image", "pandas")


@dataclass(frozen=True)
class Record:
    """A published run. ``record["seed"]`` reads record.json; the tables beside it are read when asked for."""

    content: dict
    folder: Path

    def __getitem__(self, field: str):
        return self.content[field]

    @property
    def name(self) -> str:
        return f"{self['experiment']}-seed{self['seed']}"

    @cached_property
    def settings(self) -> dict:
        """Hyper-parameters by name. One that is newer than the record had its default there."""
        return _default_settings() | {name: entry["value"] for name, entry in self["hyperparameters"].items()}

    @cached_property
    def metrics(self) -> pd.DataFrame:
        """One row per evaluation and image."""
        return _read_table(self.folder / "metrics.csv")

    @cached_property
    def curve(self) -> pd.DataFrame | None:
        """The training curve, or None where nothing was trained."""
        return self._find_table("curve")

    @property
    def largest_offsets(self) -> pd.Series | None:
        """Of a SADNet the mean absolute offset of the scale where it is largest, by step of the training, in positions
        of that scale and on the photographs kept out of training; None without such a curve."""
        columns = [] if self.curve is None else [name for name in self.curve if name.startswith("offset_")]
        return self.curve.set_index("step")[columns].dropna().max(axis=1) if columns else None

    @property
    def ran_away(self) -> bool:
        """Whether sampling points ran away: a mean offset became larger than the side of the training patches. A point
        out there reads zeros wherever it moves, so that no gradient brings it back."""
        offsets = self.largest_offsets
        return offsets is not None and bool(offsets.max() > self.settings["patch"])

    @property
    def gives_back_noise(self) -> bool:
        """Whether the network returns noisy images nearly as they are: its first test draws noise, and it gains or
        loses less than :data:`GAIN_DB` there. So does a blind-spot network once its estimate of the level is 0."""
        return self.gain_db is not None and abs(self.gain_db) < GAIN_DB

    @property
    def gain_db(self) -> float | None:
        """By how much the PSNR of the network's images is above that of the noisy ones, the mean of its first test;
        None where that test draws no noise."""
        if self.metrics.empty or not {"psnr_noisy_db", "sigma_255"} <= set(self.metrics):
            return None
        first = self.metrics[self.metrics["evaluation"] == self.metrics["evaluation"].iloc[0]]
        return None if first["sigma_255"].isna().any() else float((first["psnr_db"] - first["psnr_noisy_db"]).mean())

    @cached_property
    def offsets(self) -> pd.DataFrame | None:
        """The sampling points per image, scale and region, or None where they were not measured."""
        return self._find_table("offsets")

    @cached_property
    def stages(self) -> pd.DataFrame | None:
        """Every stage's image and noise map, measured per image, or None where they were not."""
        return self._find_table("stages")

    @cached_property
    def gradients(self) -> pd.DataFrame | None:
        """A GradNet's results with gradients of every kind, per image, or None where they were not exchanged."""
        return self._find_table("gradients")

    def _find_table(self, name: str) -> pd.DataFrame | None:
        path = self.folder / f"{name}.csv"
        return _read_table(path) if path.exists() else None

    def find_evaluation(self, dataset: str, sigma_255: float | None) -> dict | None:
        """The first, that is the principal, evaluation on a data set at a noise level; None: its own noise."""
        named = self.list_evaluations(dataset, sigma_255)[:1]
        return next((evaluation for evaluation in self["evaluations"] if evaluation["name"] in named), None)

    def list_evaluations(self, dataset: str, sigma_255: float | None) -> list[str]:
        """Names of all evaluations on a data set at a noise level, the principal one first; None: its own noise."""
        others = ("events", "alpha", "levels_255")  # noise of another kind, which has no sigma either
        return [
            evaluation["name"]
            for evaluation in self["evaluations"]
            if (evaluation["dataset"], evaluation["sigma_255"]) == (dataset, sigma_255)
            and all(evaluation.get(kind) is None for kind in others)
        ]

    def per_image(self, evaluation: str, metric: str = "psnr_db") -> pd.Series:
        """One value per image name. A ReproError where the table has lost some."""
        chosen = self.metrics[self.metrics["evaluation"] == evaluation]
        for about in self["evaluations"]:
            if about["name"] == evaluation and len(chosen) != about["images"]:
                raise ReproError(
                    f"{self.folder / 'metrics.csv'} has {len(chosen)} images of {evaluation}, not {about['images']}."
                )
        return chosen.set_index("image")[metric].astype(float)


@cache
def _default_settings() -> dict:
    """Fields of :class:`repro.train_config.TrainConfig` with their defaults, as a record would have them."""
    settings = json.loads(json.dumps(asdict(TrainConfig(steps=1))))
    return {name: value for name, value in settings.items() if name != "steps"}  # which has none


def find_differences(first: dict, second: dict, but: Iterable[str] = ()) -> list[str]:
    """Names of the settings (:attr:`Record.settings`) in which two runs differ, the network, the seed and ``but``
    aside."""
    names = (first.keys() | second.keys()) - {"model", "sizes", *PARTS, "seed", *but}
    return sorted(name for name in names if first.get(name) != second.get(name))


def validate(content: dict, where: str = "The record") -> None:
    """Raise a ReproError for a missing or surplus field, a wrong type, or a hyper-parameter without an
    origin.
    """
    if missing := sorted(set(FIELDS) - set(content)):
        raise ReproError(f"{where} lacks {', '.join(missing)}.")
    if surplus := sorted(set(content) - set(FIELDS)):
        raise ReproError(f"{where} has {', '.join(surplus)}, which no record has.")
    for field, kind in FIELDS.items():
        if not isinstance(content[field], kind):
            raise ReproError(f"{where} has {field} = {content[field]!r}, which is of the wrong type.")
    for name, entry in content["hyperparameters"].items():
        if set(entry) != {"value", "origin"} or not entry["origin"]:
            raise ReproError(f"{where} does not say where its {name} comes from.")
    for evaluation in content["evaluations"]:
        if missing := sorted({"name", "dataset", "sigma_255", "images", *METRICS} - set(evaluation)):
            raise ReproError(f"{where} has an evaluation that lacks {', '.join(missing)}.")


def write(content: dict, folder: Path) -> Path:
    """Write ``folder/record.json``, validated, atomically."""
    path = Path(folder) / "record.json"
    validate(content, str(path))
    with files.write_atomically(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return path


def read(path: str | Path) -> Record:
    """A record from its folder or its record.json."""
    path = Path(path)
    path = path / "record.json" if path.is_dir() else path
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ReproError(f"Cannot read the record {path}: {error}.") from error
    validate(content, str(path))
    return Record(content, path.parent)


def load(folder: str | Path | None = None) -> list[Record]:
    """All published records, by experiment and seed."""
    folder = Path(folder) if folder else files.results() / "runs"
    found = [read(path) for path in folder.glob("*/seed*/record.json")]
    return sorted(found, key=lambda record: (record["experiment"], record["seed"]))


def redo(record: Record) -> TrainConfig:
    """The :class:`repro.train_config.TrainConfig` that repeats a record's training.

    A ReproError for a record whose settings this version does not know any more: it names the commit that does.
    """
    noted = {name: entry["value"] for name, entry in record["hyperparameters"].items()}
    settings = {name: value for name, value in noted.items() if name not in PARTS}
    try:
        return TrainConfig(**settings)
    except TypeError as error:
        commit = record["commit"]
        raise ReproError(f"{record.name} was trained by commit {commit}, whose settings differ: {error}.") from error


def summarise(metrics: pd.DataFrame) -> dict:
    """Number of images and mean of each metric, rounded to what its noise leaves meaningful."""
    means = {metric: round(float(metrics[metric].mean()), 4) for metric in METRICS}
    return {"images": len(metrics), **means}


def describe_environment() -> dict:
    """Commit, library versions, device and threads of this process."""
    import torch

    return {
        "commit": describe_commit(),
        "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else name_cpu(),
        "threads": torch.get_num_threads(),
    }


@cache
def describe_commit() -> str:
    """The repository's commit, followed by ``+changes`` if a file of the package differs from it.

    Asked once: what a process runs is what it began with, whatever is committed meanwhile.
    """
    git = ["git", "-C", str(files.root())]
    try:
        commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
        changed = subprocess.run(
            [*git, "status", "--porcelain", "--", "repro"], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return "not a repository"
    return commit.stdout.strip() + ("+changes" if changed.stdout.strip() else "")


def name_cpu() -> str:
    """The processor's name and the number of cores this process may use."""
    from repro.timing import name_processor  # torch is not needed to read a record

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{name_processor()}, {cores} cores"


def names_accelerator(device: str) -> bool:
    """Whether what a record or a benchmark calls its device is a GPU and no processor."""
    return not (device.endswith((" core", " cores")) or device.startswith("cpu "))


def _read_table(path: Path) -> pd.DataFrame:
    try:
        return pd.read_csv(path, dtype={"image": str})  # names of BSD are numbers
    except (OSError, ValueError) as error:
        raise ReproError(f"Cannot read {path}: {error}.") from error
