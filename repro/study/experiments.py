"""What is run to test the claims: ``results/experiments.toml``, one readable list, in the order of its worth.

A budget carries the recipe that its runs share; an experiment overrides what it is about. Fields of a run
that neither names keep the defaults of :class:`repro.train_config.TrainConfig`, where each has its origin. TOML
has no word for nothing: ``"none"`` stands for it.
"""

import dataclasses
import tomllib
from dataclasses import dataclass, field
from pathlib import Path

from repro import files
from repro.errors import ReproError, unknown_name
from repro.kinds import find_misfit
from repro.train_config import TrainConfig

BUDGETS = ("smoke", "cpu", "gpu", "paper")  # from small to large


@dataclass(frozen=True)
class Evaluation:
    """One image set under one protocol. The defaults are the study's: noise neither clipped nor rounded."""

    dataset: str
    sigma_255: float | None
    events: float | None = None  # instead of sigma: Poisson noise of so many counts per white pixel
    alpha: float | None = None  # instead of sigma: impulse noise on this share of pixels
    # Instead of sigma: Gaussian noise with a level of its own for every value, from the lower to the higher of the two,
    # as GradNet's reproduction trains. A list, as TOML and records have it.
    levels_255: list[float] | None = None
    clip: bool = False
    round_8bit: bool = False
    seed: int = 0  # of the evaluation noise
    repeats: int = 1  # independent draws of the noise per image, as SSDN's authors take 10 and 3
    pad: str | None = None  # "clean": reflect, then add noise, as SSDN's authors do; "noisy": the reverse
    crop_multiple: int | None = None  # crop to multiples of it at the top left, as SADNet's authors do
    patch: int | None = None  # feed the image in patches of this side, as the replication of SADNet does
    crop_side: int | None = None  # measure all crops of this side as well, of which GradNet's reproduction draws one
    ensemble: bool = False  # the mean over eight turned and mirrored versions of each image
    limit: int | None = None  # only the first images; for smoke runs

    @property
    def name(self) -> str:
        """Names the files of this evaluation and its column in the tables: ``kodak24-50-clipped-rounded``."""
        parts = [self.dataset]
        if self.sigma_255 is not None:
            parts.append(f"{self.sigma_255:g}")
        parts += [f"poisson{self.events:g}"] if self.events is not None else []
        parts += [f"impulse{self.alpha:g}"] if self.alpha is not None else []
        parts += ["levels" + "to".join(f"{level:g}" for level in self.levels_255)] if self.levels_255 else []
        parts += [word for flag, word in ((self.clip, "clipped"), (self.round_8bit, "rounded")) if flag]
        parts += [f"padded-{self.pad}"] if self.pad else []
        parts += [f"crop{self.crop_multiple}"] if self.crop_multiple else []
        parts += [f"patch{self.patch}"] if self.patch else []
        parts += ["ensemble"] if self.ensemble else []
        parts += [f"first{self.limit}"] if self.limit else []
        parts += [f"seed{self.seed}"] if self.seed else []
        parts += [f"x{self.repeats}"] if self.repeats != 1 else []
        return "-".join(parts)


@dataclass(frozen=True)
class Experiment:
    """One row of the list. It trains a network, or, with ``weights`` or for a classical method, only
    evaluates.
    """

    name: str
    method: str  # a name repro.build knows
    variant: str  # in the words of claims.csv; "full" is the published network
    colour: str
    sigma_255: float | None
    budget: str
    why: str
    data: str | None = None  # the training set
    seeds: tuple[int, ...] = (0,)
    claims: tuple[str, ...] = ()  # ids, or shell patterns of ids
    sizes: dict = field(default_factory=dict)  # arguments of repro.build
    train: dict | None = None  # fields of TrainConfig, the budget's included; None: nothing is trained
    weights: str | None = None  # published weights to evaluate instead of training
    evaluate: tuple[Evaluation, ...] = ()
    offsets: str | None = None  # a data set on whose images the sampling points are measured
    gradients: str | None = None  # a data set on whose images a GradNet is given gradients of every kind
    stages: str | None = None  # a data set on whose images every stage of a ScaoedNet is measured
    publish: bool = True  # whether its weights come with the study; False where the record says all that is asked
    headline: bool = False  # whether the study is asked for it first: the campaign begins with these rows

    def publishes(self, seed: int) -> bool:
        """Whether the weights of this seed come with the study: of the first seed only, for their size."""
        return self.train is not None and self.publish and seed == self.seeds[0]

    @property
    def needs(self) -> tuple[str, ...]:
        """Experiments whose weights this one measures or starts a part from."""
        named = (self.weights, self.sizes.get("naive_weights"))
        return tuple(name.removesuffix("-seed0") for name in named if name and not name.endswith("-published"))

    def train_config(self, seed: int) -> TrainConfig:
        """The :class:`repro.train_config.TrainConfig` of one seed."""
        if self.train is None:
            raise ReproError(f"The experiment {self.name} trains nothing.")
        known = {f.name for f in dataclasses.fields(TrainConfig)}
        if unknown := sorted(set(self.train) - known):
            raise ReproError(f"{self.name} sets {', '.join(unknown)}, which no training run has.")
        fixed = {"model": self.method, "sizes": dict(self.sizes), "data": self.data, "seed": seed}
        fixed |= {"colour": self.colour}
        # A network that is tried at no level of its own learns from the range that its recipe names.
        fixed |= {} if self.sigma_255 is None else {"sigma_255": self.sigma_255}
        return TrainConfig(**(self.train | fixed))


def load(path: str | Path | None = None) -> list[Experiment]:
    """The list in its order. A ReproError says which row is wrong, and how."""
    path = Path(path) if path else files.results() / "experiments.toml"
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ReproError(f"Cannot read the experiments in {path}: {error}.") from error
    recipes, rows = content.get("budget", {}), content.get("experiment", [])
    if not (isinstance(recipes, dict) and isinstance(rows, list) and all(isinstance(row, dict) for row in rows)):
        raise ReproError(f"{path.name}: budgets are tables such as [budget.cpu], experiments are [[experiment]].")
    if unknown := sorted(set(recipes) - set(BUDGETS)):
        raise ReproError(f"{path.name}: there is no budget {unknown[0]!r}; choose from {', '.join(BUDGETS)}.")
    experiments = [_read(row, recipes, path.name) for row in rows]
    names = [experiment.name for experiment in experiments]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ReproError(f"{path.name}: the name {twice[0]!r} occurs twice.")
    return experiments


def get(name: str, experiments: list[Experiment] | None = None) -> Experiment:
    """The experiment of that name; a ReproError lists the names otherwise."""
    experiments = load() if experiments is None else experiments
    for experiment in experiments:
        if experiment.name == name:
            return experiment
    raise unknown_name("experiment", name, [experiment.name for experiment in experiments])


def _read(row: dict, recipes: dict, file: str) -> Experiment:
    name = row.get("name", "without a name")
    try:
        # A row without a training set trains nothing, whatever its budget's recipe says.
        trains = "data" in row
        if "train" in row and not trains:
            raise ReproError(f"{file}: {name} says how to train and names no data to train on.")
        recipe = {**recipes.get(row["budget"], {}), **row.get("train", {})}
        train = {key: None if value == "none" else value for key, value in recipe.items()} if trains else None
        row = {"sigma_255": None, **row}
        evaluations = [_read_evaluation(e, row["sigma_255"]) for e in row.get("evaluate", [])]
        settings = row | {key: tuple(row[key]) for key in ("seeds", "claims") if isinstance(row.get(key), list)}
        experiment = Experiment(**(settings | {"train": train, "evaluate": tuple(evaluations)}))
    except (AttributeError, KeyError, TypeError) as error:
        raise ReproError(f"{file}: {name} is not complete or has a surplus entry ({error}).") from error
    for part in (experiment, *evaluations):
        if misfit := find_misfit(type(part), vars(part)):
            raise ReproError(f"{file}: {name} has {misfit}.")
    for key in ("steps", "seconds"):
        if isinstance((train or {}).get(key), bool | str | list | dict):
            raise ReproError(f"{file}: {name} trains for {key} = {train[key]!r}, which is no number.")
    if len(set(experiment.seeds)) < max(1, len(experiment.seeds)):
        raise ReproError(f"{file}: {name} needs one seed or more, each named once.")
    for evaluation in experiment.evaluate:
        levels = (evaluation.sigma_255, evaluation.events, evaluation.alpha, evaluation.levels_255)
        if sum(level is not None for level in levels) > 1:
            raise ReproError(f"{file}: {name} evaluates {evaluation.dataset} under more than one kind of noise.")
    if experiment.budget not in BUDGETS:
        raise ReproError(f"{file}: {name} has no budget of {', '.join(BUDGETS)}.")
    seen = {experiment.data, (train or {}).get("pairs")} - {None}
    for evaluation in experiment.evaluate:
        if evaluation.dataset in seen:
            raise ReproError(f"{file}: {name} would be tested on {evaluation.dataset}, on which it is trained.")
    if len({e.name for e in experiment.evaluate}) < len(experiment.evaluate):
        raise ReproError(f"{file}: {name} evaluates the same thing twice.")
    return experiment


def _read_evaluation(settings: dict, sigma_255: float | None) -> Evaluation:
    """An evaluation at the row's own noise level unless it names another, or noise of another kind."""
    other = settings.keys() & {"events", "alpha", "levels_255"}
    return Evaluation(**{"sigma_255": None if other else sigma_255, **settings})
