"""What defines a run of training, where each setting comes from, and the learning rate that follows from it.

>>> config = TrainConfig(model="sadnet", data="bsd400", sigma_255=50, steps=14_000)
>>> learning_rate(config, step=7_000)     # halfway down the cosine
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, fields

from repro.errors import ReproError
from repro.kinds import find_misfit


def _field(default, origin: str):
    return field(default=default, metadata={"origin": origin})


# What the sources of a network print, or their code sets. A run whose field has this value has it from there.
SSDN_CODE = (
    "SSDN, authors' code",
    {"patch": 256, "batch": 4, "lr": 3e-4, "schedule": "ramps", "betas": (0.9, 0.99), "eps": 1e-8, "weight_decay": 0.0,
     "clip": False, "round_8bit": False, "clip_norm": None, "ema_decay": None, "warmup_steps": 0},
)  # fmt: skip
SOURCES: dict[str, tuple[str, dict[str, object]]] = {
    "sadnet": (
        "SADNet, paper or authors' code",
        {"data": "div2k", "clip": True, "round_8bit": False, "patch": 128, "batch": 16, "steps": 960_000, "lr": 1e-4,
         "schedule": "step", "warmup_steps": 0, "halve_every_steps": 300_000, "betas": (0.9, 0.999), "eps": 1e-8,
         "weight_decay": 0.0, "clip_norm": None, "ema_decay": None, "loss": "l2"},
    ),
    "ssdn": SSDN_CODE,
    "unet": SSDN_CODE,
    "gradnet": (
        "GradNet, authors' code",
        {"patch": 80, "batch": 48, "lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.0, "clip": False,
         "round_8bit": False, "clip_norm": None, "ema_decay": None, "loss": "consistency_sum", "schedule": "plateau",
         "plateau_factor": 0.2, "plateau_patience": 20},
    ),
    "gradnet-impl": (
        "slides on GradNet and their code",
        {"patch": 80, "batch": 48, "lr": 1e-3, "sigma_255": (8, 64), "clip": True, "round_8bit": False,
         "clip_norm": None, "ema_decay": None, "loss": "consistency", "schedule": "plateau", "plateau_factor": 0.2,
         "plateau_patience": 10},
    ),
    "dncnn": (
        "slides on GradNet and their code",
        {"patch": 80, "batch": 128, "lr": 1e-3, "sigma_255": (8, 64), "clip": True, "round_8bit": False,
         "clip_norm": None, "ema_decay": None, "loss": "l2", "schedule": "plateau", "plateau_factor": 0.1,
         "plateau_patience": 5},
    ),
}  # fmt: skip


# The same where what is learned is pairs, noise of cameras.
SOURCES_OF_PAIRS = {"sadnet": {"loss": "l1"}}

# Which the config.json of an older run lacks.
NEWER_SETTINGS = {"pairs", "pairs_share", "plateau_factor", "plateau_patience"}

# Whether a setting is possible, and which are.
RANGES: dict[str, tuple[Callable, str]] = {
    "lr": (lambda value: 0 < value < math.inf, "more than 0"),
    "eps": (lambda value: 0 < value < math.inf, "more than 0"),
    "betas": (lambda value: all(0 <= beta < 1 for beta in value), "two numbers from 0 to less than 1"),
    "weight_decay": (lambda value: 0 <= value < math.inf, "0 or more"),
    "clip_norm": (lambda value: value > 0, "more than 0, or left out"),
    "warmup_steps": (lambda value: value >= 0, "0 or more"),
    "halve_every_steps": (lambda value: value >= 1, "at least 1"),
    "plateau_factor": (lambda value: 0 < value < 1, "between 0 and 1"),
    "plateau_patience": (lambda value: value >= 1, "at least 1"),
    "steps": (lambda value: value >= 1, "at least 1"),
    "seconds": (lambda value: 0 < value < math.inf, "more than 0"),
    "seed": (lambda value: 0 <= value < 2**63, "from 0 to 2^63 - 1"),
}


@dataclass(frozen=True)
class TrainConfig:
    """What defines a run. The defaults are the study's recipe for a small budget, not the papers'.

    ``sigma_255`` is one value or a range (low, high) from which each patch draws its own. ``steps`` and
    ``seconds`` are budgets; whichever ends first ends the run. ``loss`` is "l2", "l1", or the name of a
    function ``objective(net, noisy, clean, step) -> loss`` in the module that defines the network. One that can
    learn from ``pairs`` takes the keyword ``real`` too, [B], true where the noise of a sample is a camera's. One with
    terms of interest takes ``terms``, a dict, and notes there what the module names in ``TERMS``: columns of the curve.
    Where the module has ``check_training(sizes, loss, sigma_range_255, clip, steps)``, it may refuse a configuration;
    in ``IMPLIED_SIZES`` a loss may give sizes another default; and where it has ``estimate_in_training(net, noisy,
    clean, sigma)``, that is what validation measures.
    """

    model: str = _field("sadnet", "the experiment")
    sizes: dict = field(default_factory=dict, metadata={"origin": "the experiment"})
    data: str = _field("bsd400", "chosen here: photographs that are in no test set")
    pairs: str | None = _field(None, "the experiment")
    pairs_share: float = _field(0.5, "chosen here: as many real as synthetic samples; read only with pairs")
    colour: str = _field("rgb", "the experiment")
    sigma_255: float | tuple[float, float] = _field(50.0, "the experiment")
    clip: bool = _field(False, "the study's default: noise is what it is")
    round_8bit: bool = _field(False, "the study's default")
    patch: int = _field(64, "chosen here: more steps per hour")
    batch: int = _field(16, "the study's default, SADNet's")
    steps: int | None = _field(None, "the budget")
    seconds: float | None = _field(None, "the budget")
    lr: float = _field(6e-4, "chosen here for short runs")
    schedule: str = _field("cosine", "chosen here for short runs")
    warmup_steps: int = _field(200, "chosen here, for the higher rate")
    halve_every_steps: int = _field(300_000, "SADNet section 4.1 (60 epochs in the code); for the schedule in steps")
    plateau_factor: float = _field(0.2, "slides on GradNet and its authors' code; for the schedule plateau")
    plateau_patience: int = _field(10, "slides on GradNet, where a validation ends an epoch; for the schedule plateau")
    betas: tuple[float, float] = _field((0.9, 0.99), "chosen here for short runs")
    eps: float = _field(1e-8, "the study's default, PyTorch's")
    weight_decay: float = _field(0.0, "the study's default: none")
    clip_norm: float | None = _field(1.0, "chosen here, for the higher rate")
    ema_decay: float | None = _field(0.999, "chosen here: weight averaging")
    precision: str = _field("32", "chosen here: bf16 is faster on GPUs and CPUs with AMX only")
    loss: str = _field("l2", "the study's default, SADNet's for synthetic noise (section 3.4)")
    seed: int = _field(0, "the experiment")
    validation_images: int = _field(8, "chosen here: kept out of training")
    validate_every: int = _field(500, "chosen here")
    checkpoint_every: int = _field(500, "chosen here")
    log_every: int = _field(50, "chosen here")
    channels_last: bool = _field(True, "chosen here: faster")

    def __post_init__(self):
        for name in ("betas", "sigma_255"):  # JSON and TOML know lists only
            if isinstance(getattr(self, name), list):
                object.__setattr__(self, name, tuple(getattr(self, name)))
        if misfit := find_misfit(type(self), asdict(self)):
            raise ReproError(f"These settings do not make a run: {misfit}.")
        known = {"colour": ("rgb", "gray"), "schedule": tuple(SCHEDULES), "precision": ("32", "bf16")}
        for name, words in known.items():
            if getattr(self, name) not in words:
                raise ReproError(f"{name} is {getattr(self, name)!r}; it can be {' or '.join(words)}.")
        if not (self.steps or self.seconds):
            raise ReproError("A run needs a budget: steps, seconds, or both.")
        low, high = self.sigma_range
        if not 0 <= low <= high < math.inf:
            raise ReproError(f"sigma_255 is {self.sigma_255}; it is a level from 0 up, or a range of such.")
        if self.ema_decay is not None and not 0 < self.ema_decay < 1:
            raise ReproError(f"ema_decay is {self.ema_decay}; it lies between 0 and 1, or is left out.")
        counts = ("patch", "batch", "validation_images", "validate_every", "checkpoint_every", "log_every")
        for name in counts:
            if getattr(self, name) < 1:
                raise ReproError(f"{name} is {getattr(self, name)}; it must be at least 1.")
        for name, (fits, allowed) in RANGES.items():
            value = getattr(self, name)
            if value is not None and not fits(value):
                raise ReproError(f"{name} is {value}; it must be {allowed}.")
        if self.pairs is not None and not (
            0 < self.pairs_share <= 1 and math.isclose(self.pairs_in_batch, self.pairs_share * self.batch)
        ):
            raise ReproError(
                f"pairs_share is {self.pairs_share}; it lies above 0, is 1 at most, and of a batch of {self.batch} "
                f"makes a whole number."
            )

    @property
    def pairs_in_batch(self) -> int:
        """How many samples of each batch are cut from pairs."""
        return 0 if self.pairs is None else round(self.pairs_share * self.batch)

    @property
    def sigma_range(self) -> tuple[float, float]:
        """(low, high) of the noise level; twice the same where it is fixed."""
        return self.sigma_255 if isinstance(self.sigma_255, tuple) else (self.sigma_255, self.sigma_255)

    def hyperparameters(self) -> dict[str, dict]:
        """Every field as ``{name: {"value", "origin"}}``, for a record."""
        return {f.name: {"value": getattr(self, f.name), "origin": self._origin(f)} for f in fields(self)}

    def _origin(self, f) -> str:
        value = getattr(self, f.name)
        if f.name == "sigma_255" and self.loss.startswith("signal_dependent"):
            return "of validation alone, at its middle: this loss draws noise of its own (repro.data.realistic)"
        source, published = SOURCES.get(self.model, ("", {}))
        if self.pairs is not None:
            published = published | SOURCES_OF_PAIRS.get(self.model, {})
        unused = f.name.startswith("plateau_") and self.schedule != "plateau"
        if f.name in published and value == published[f.name] and not unused:
            return source
        default = {} if f.name == "sizes" else f.default
        return f.metadata["origin"] if value == default else "chosen for this experiment"


# Schedules map a step, a position in [0, 1] of the budget, and the PSNR of each validation so far to a factor of the
# learning rate.
SCHEDULES: dict[str, Callable[[TrainConfig, int, float, Sequence[float]], float]] = {
    "cosine": lambda config, step, position, validated: (1 + math.cos(math.pi * position)) / 2,
    "step": lambda config, step, position, validated: 0.5 ** (step // config.halve_every_steps),
    "constant": lambda config, step, position, validated: 1.0,
    # SSDN's code: a cosine up over the first 10 %, a squared one down over the last 30 %.
    "ramps": lambda config, step, position, validated: (
        (1 - math.cos(math.pi * min(position / 0.1, 1)))
        / 2
        * ((1 + math.cos(math.pi * max((position - 0.7) / 0.3, 0))) / 2) ** 2
    ),
    # GradNet's code and slides.
    "plateau": lambda config, step, position, validated: (
        config.plateau_factor ** count_plateaus(validated, config.plateau_patience)
    ),
}


def count_plateaus(validated: Sequence[float], patience: int) -> int:
    """How often ``patience`` values in a row were none above the largest before; after each time it counts anew."""
    largest, stagnant, plateaus = -math.inf, 0, 0
    for value in validated:
        stagnant = 0 if value > largest else stagnant + 1
        largest = max(largest, value)
        if stagnant == patience:
            stagnant, plateaus = 0, plateaus + 1
    return plateaus


def learning_rate(config: TrainConfig, step: int, seconds: float = 0.0, validated: Sequence[float] = ()) -> float:
    """Learning rate of the update number ``step`` (from 0), ``seconds`` into the run, after validations of a PSNR of
    ``validated`` dB.

    The position in the budget is the larger of the two shares that are used up, so that a run that stops by
    the clock has also gone through its whole schedule.
    """
    warm_up = min(1.0, (step + 1) / config.warmup_steps) if config.warmup_steps else 1.0
    return config.lr * warm_up * SCHEDULES[config.schedule](config, step, position(config, step, seconds), validated)


def position(config: TrainConfig, step: int, seconds: float) -> float:
    return min(1.0, max(step / (config.steps or math.inf), seconds / (config.seconds or math.inf)))
