"""What the sources disagree on, and what each disagreement is worth: ``results/forensics.toml``.

An entry says what the paper, its earlier reproduction, the authors' code and this study do about one point.
A comparison names two evaluations of records, ``experiment/evaluation/metric``; its effect is the mean of
``a - b`` over images, ``a`` being what somebody else does and ``b`` what this study does. The evaluation is a
name in the record's metrics (:attr:`repro.study.experiments.Evaluation.name`), ``stage-3`` for a stage of
stages.csv, or ``gradient-zero-25`` for a kind of gradient and a noise level of gradients.csv.

What has no record yet is missing, with the command that measures it, and what no option of the study can measure
says why. Nothing is estimated. A comparison that changes several points at once names them (``joint``): its effect is
that of all of them, and none of theirs alone.
"""

import math
import re
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from repro import files
from repro.errors import ReproError
from repro.study import verdicts
from repro.study.records import Record, find_differences
from repro.study.statistics import Interval, compare
from repro.study.verdicts import CLASSICAL, Group, Study

METHODS = ("SADNet", "SSDN", "GradNet", "ScaoedNet", "Comparators")
MEASURED, WAITING, NO_EFFECT = "measured", "not measured", "nothing to measure"
STATES = (MEASURED, WAITING, NO_EFFECT)
UNITS = {"_db": "dB", "ssim": "SSIM", "ssim_3d": "SSIM", "_l1_255": "gray levels"}  # by the metric's ending


@dataclass(frozen=True)
class Column:
    """One value per image: a metric of one evaluation of an experiment."""

    experiment: str
    evaluation: str
    metric: str

    @classmethod
    def parse(cls, reference: str) -> "Column":
        """``experiment/evaluation/metric``; ValueError for anything else."""
        parts = reference.split("/")
        if len(parts) != 3 or not all(parts):
            raise ValueError(f"{reference!r} is not of the form experiment/evaluation/metric")
        column = cls(*parts)
        if not column.unit:
            raise ValueError(f"{column.metric} is no measure of quality")
        return column

    def __str__(self) -> str:
        return f"{self.experiment}/{self.evaluation}/{self.metric}"

    @property
    def unit(self) -> str:
        """dB, SSIM or gray levels; empty for what is none of them."""
        return next((unit for ending, unit in UNITS.items() if self.metric.endswith(ending)), "")

    def read(self, record: Record) -> pd.Series | None:
        """The values of one seed by image name, or None where the record lacks them."""
        kind, _, rest = self.evaluation.partition("-")
        if kind == "stage" and rest.isdigit():
            table = record.stages
            chosen = None if table is None else table[table["stage"] == int(rest)]
        elif kind == "gradient":
            table = record.gradients
            name, _, level = rest.rpartition("-")
            same = None if table is None else (table["gradient"] == name) & (table["sigma_255"] == float(level))
            chosen = None if table is None else table[same]
        else:
            chosen = record.metrics[record.metrics["evaluation"] == self.evaluation]
        if chosen is None or chosen.empty or self.metric not in chosen or chosen[self.metric].isna().any():
            return None
        return chosen.set_index("image")[self.metric].astype(float)


@dataclass(frozen=True)
class Comparison:
    """What somebody else does (``a``) against what this study does (``b``)."""

    change: str  # from b to a, in a few words
    a: Column
    b: Column
    differs: tuple[str, ...] = ()  # training settings, besides the network, in which the two runs may differ
    joint: tuple[str, ...] = ()  # ids of all points that it changes at once, where they are several
    ours_only: bool = False  # it changes our own recipe to nobody's: a sensitivity, no measurement of the disagreement


@dataclass(frozen=True)
class Disagreement:
    """One point. A source that says nothing about it has an empty text."""

    id: str
    method: str
    point: str
    ours: str
    paper: str = ""
    reproduction: str = ""
    code: str = ""
    comparisons: tuple[Comparison, ...] = ()
    commands: tuple[str, ...] = ()  # measure it where no experiment of the list does
    unmeasured: str = ""  # why an effect that there may be, or a part of it, cannot be measured here
    no_effect: str = ""  # why there is nothing to measure in a picture
    claims: tuple[str, ...] = ()  # ids of the ledger that speak of the same point
    printed: tuple[tuple[str, str], ...] = ()  # pairs of claim ids whose printed values differ


@dataclass(frozen=True)
class Effect:
    """A measured comparison. ``interval`` is that of the mean of ``a - b``, paired by image."""

    comparison: Comparison
    interval: Interval
    first: Group
    second: Group

    @property
    def unit(self) -> str:
        return self.comparison.a.unit

    @property
    def same_network(self) -> bool:
        """Whether one network was scored in two ways, in one experiment or two; else there are two networks."""
        return _networks(self.first).keys() == _networks(self.second).keys()

    @property
    def ran_away(self) -> list[str]:
        """Those of its trainings in which sampling points ran away: their networks say little of the setting itself."""
        records = {record.name: record for group in (self.first, self.second) for record in group.records}
        return [name for name, record in records.items() if record.ran_away]

    @property
    def gave_back_noise(self) -> list[str]:
        """Those of its trainings that failed, so that their networks give back the noisy images."""
        records = {record.name: record for group in (self.first, self.second) for record in group.records}
        return [name for name, record in records.items() if record.gives_back_noise]

    @property
    def order(self) -> tuple[bool, float]:
        """What effects are sorted by: those that are told from 0 first, the larger ones before the others."""
        return self.interval.sign == 0, -abs(self.interval.mean)

    @property
    def tolerance(self) -> float:
        """What a verdict would let pass: of one network scored again, or of networks trained here."""
        return verdicts.PSNR_DB if self.same_network else verdicts.PSNR_TRAINED_HERE_DB

    @property
    def matters(self) -> bool:
        """Whether the effect has a sign and, in dB, exceeds what a verdict would let pass."""
        return self.interval.sign != 0 and (self.unit != "dB" or abs(self.interval.mean) > self.tolerance)

    @property
    def word(self) -> str:
        """The verdict on the effect: higher, lower, either of them within tolerance, or nothing to be told."""
        if math.isnan(self.interval.low):
            return "one image, no interval"
        if self.interval.sign == 0:
            return "not told from 0"
        side = "higher" if self.interval.sign > 0 else "lower"
        return side if self.matters else f"{side}, within tolerance"

    @property
    def runs(self) -> str:
        """What was compared: one network, or trainings of two and how long they took."""
        first, second = (len(group.records) for group in (self.first, self.second))
        if self.same_network:
            named = self.second.first["experiment"]
            return f"one network, {named}" if second == 1 else f"{named}, {second} trainings, each scored twice"
        if not (self.first.trained or self.second.trained):
            filters = {group.first["method"] for group in (self.first, self.second)} <= set(CLASSICAL)
            return "one filter with two settings" if filters else "two networks as published"
        steps = sorted({group.first["steps"] for group in (self.first, self.second)})
        length = " and ".join(f"{number:,}" for number in steps)
        if first == second == 1:
            return f"two trainings of {length} steps"
        return f"{_count(first)} against {_count(second)}, of {length} steps"


def _count(trainings: int) -> str:
    return f"the mean of {trainings} trainings" if trainings > 1 else "one training"


def _networks(group: Group) -> dict[str, Record]:
    """A group's records by the published files of their networks."""
    found = {}
    for record in group.records:
        weights = record["hyperparameters"].get("weights")
        name = weights["value"] if weights else f"{record['experiment']}-seed{record['seed']}"
        # A row may name weights without their seed, which is then the first.
        found[name if re.search(r"-seed\d+$", name) else f"{name}-seed0"] = record
    return found


def _share_networks(first: Group, second: Group) -> tuple[Group, Group]:
    """The two groups; where one was scored on some of the other's networks, both without the rest."""
    one, other = _networks(first), _networks(second)
    shared = [name for name in one if name in other]
    if len(shared) != min(len(one), len(other)):
        return first, second
    return Group(tuple(one[name] for name in shared)), Group(tuple(other[name] for name in shared))


@dataclass(frozen=True)
class Gap:
    """A comparison without its records: which experiments it waits for, or why it cannot be made."""

    comparison: Comparison
    waits_for: tuple[str, ...] = ()
    reason: str = ""

    @property
    def command(self) -> str:
        """Runs what is missing; empty where running would not help."""
        return f"repro campaign {' '.join(f'--only {name}' for name in self.waits_for)}" if self.waits_for else ""


@dataclass(frozen=True)
class Finding:
    """A disagreement with what is known of its effects."""

    disagreement: Disagreement
    effects: tuple[Effect, ...] = ()
    gaps: tuple[Gap, ...] = ()
    printed: tuple[float, ...] = ()  # differences of the printed values, a - b

    @property
    def state(self) -> str:
        if any(not effect.comparison.ours_only for effect in self.effects):
            return MEASURED
        entry = self.disagreement
        return WAITING if entry.comparisons or entry.commands or entry.unmeasured else NO_EFFECT

    @property
    def can_be_run(self) -> bool:
        """Whether some command measures what is not measured yet."""
        return bool(self.disagreement.commands) or any(gap.command for gap in self.gaps)

    @property
    def order(self) -> tuple[bool, float]:
        """What disagreements are sorted by: the :attr:`Effect.order` of its first effect in dB; one without comes last
        of those that are measured."""
        return min(
            (e.order for e in self.effects if e.unit == "dB" and not e.comparison.ours_only), default=(True, 0.0)
        )


def load(path: str | Path | None = None) -> list[Disagreement]:
    """The entries in the file's order. A ReproError says which one is wrong, and how."""
    path = Path(path) if path else files.results() / "forensics.toml"
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ReproError(f"Cannot read the disagreements in {path}: {error}.") from error
    rows = content.get("disagreement", [])
    if not isinstance(rows, list):
        raise ReproError(f"{path.name}: each disagreement begins with [[disagreement]], in two brackets.")
    entries = [_read(row, path.name) for row in rows]
    names = [entry.id for entry in entries]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ReproError(f"{path.name}: the id {twice[0]!r} occurs twice.")
    for entry in entries:
        for comparison in entry.comparisons:
            if unknown := set(comparison.joint) - set(names):
                raise ReproError(f"{path.name}: {entry.id} speaks of the point {min(unknown)!r}, which is not listed.")
            if len(set(comparison.joint)) == 1:
                raise ReproError(f"{path.name}: {entry.id} has a joint effect of a single point.")
    return entries


def _read(row: dict, file: str) -> Disagreement:
    if not isinstance(row, dict):
        raise ReproError(f"{file}: {row!r} is no disagreement; each is a table [[disagreement]].")
    name = row.get("id", "without an id")
    try:
        comparisons = tuple(
            Comparison(
                entry.pop("change"), Column.parse(entry.pop("a")), Column.parse(entry.pop("b")),
                **{key: tuple(value) if isinstance(value, list) else value for key, value in entry.items()},
            )
            for entry in map(dict, row.get("comparison", []))
        )  # fmt: skip
        settings = {key: value for key, value in row.items() if key != "comparison"}
        settings |= {key: tuple(row[key]) for key in ("commands", "claims") if key in row}
        settings["printed"] = tuple((pair["a"], pair["b"]) for pair in row.get("printed", []))
        entry = Disagreement(**settings, comparisons=comparisons)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ReproError(f"{file}: {name} is not complete or has a surplus entry ({error}).") from error
    if entry.method not in METHODS:
        raise ReproError(f"{file}: {name} has no method of {', '.join(METHODS)}.")
    if not (entry.paper or entry.reproduction or entry.code):
        raise ReproError(f"{file}: {name} has no source that says anything.")
    if bool(entry.no_effect) == bool(entry.comparisons or entry.commands or entry.unmeasured):
        raise ReproError(
            f"{file}: {name} needs what measures it or why nothing can, or the reason why there is no effect, and not "
            "both."
        )
    told = entry.commands or entry.unmeasured or entry.no_effect
    if not told and all(comparison.ours_only for comparison in entry.comparisons):
        raise ReproError(
            f"{file}: {name} measures nobody's way; it needs what measures the sources', or why nothing can."
        )
    for comparison in entry.comparisons:
        if comparison.a.unit != comparison.b.unit:
            raise ReproError(f"{file}: {name} compares {comparison.a.unit} with {comparison.b.unit}.")
        if comparison.a == comparison.b:
            raise ReproError(f"{file}: {name} compares {comparison.a} with itself.")
    return entry


def measure(comparison: Comparison, study: Study) -> Effect | Gap:
    """The effect of a comparison, or what is missing for it.

    Raises ReproError where the two sides are not of the same images.
    """
    groups = {group.first["experiment"]: group for group in study.groups}
    sides = (comparison.a, comparison.b)
    if missing := tuple(dict.fromkeys(side.experiment for side in sides if side.experiment not in groups)):
        return Gap(comparison, missing)
    first, second = _share_networks(*(groups[side.experiment] for side in sides))
    if surplus := _foreign_settings(first, second, comparison.differs):
        return Gap(comparison, reason=f"the two runs also differ in {', '.join(surplus)}")
    values = []
    for side, group in zip(sides, (first, second), strict=True):
        columns = {name: side.read(record) for name, record in _networks(group).items()}
        if any(column is None for column in columns.values()):
            return Gap(comparison, reason=f"the record of {side.experiment} has no {side.evaluation} {side.metric}")
        values.append(pd.concat(columns, axis=1))
    try:
        interval = compare(*values)
    except ValueError as error:
        raise ReproError(f"{comparison.a} and {comparison.b}: {error}") from error
    return Effect(comparison, interval, first, second)


def _foreign_settings(first: Group, second: Group, allowed: tuple[str, ...]) -> list[str]:
    """Training settings in which two groups differ, beyond the network, the seed and those allowed."""
    if not (first.trained and second.trained) or _networks(first).keys() == _networks(second).keys():
        return []
    return find_differences(first.first.settings, second.first.settings, allowed)


def find(study: Study, entries: list[Disagreement] | None = None) -> list[Finding]:
    """Every disagreement with its effects: the largest that is told from 0 first, then those whose effect is not, then
    those that wait for a command, then those that cannot be measured here, then those without an effect."""
    findings = []
    for entry in load() if entries is None else entries:
        results = [measure(comparison, study) for comparison in entry.comparisons]
        effects = tuple(result for result in results if isinstance(result, Effect))
        gaps = tuple(result for result in results if isinstance(result, Gap))
        printed = tuple(_subtract_printed(pair, entry, study) for pair in entry.printed)
        findings.append(Finding(entry, effects, gaps, printed))
    return sorted(findings, key=lambda f: (STATES.index(f.state), *f.order, f.state == WAITING and not f.can_be_run))


def list_joint(point: str, entries: Iterable[Disagreement]) -> list[tuple[Disagreement, Comparison]]:
    """The comparisons told at other points that change this one (an id) together with others."""
    return [
        (entry, comparison)
        for entry in entries
        for comparison in entry.comparisons
        if entry.id != point and point in comparison.joint
    ]


def _subtract_printed(pair: tuple[str, str], entry: Disagreement, study: Study) -> float:
    if unknown := [name for name in pair if name not in study.claims.index]:
        raise ReproError(f"{entry.id} speaks of the claim {unknown[0]!r}, which is not in the ledger.")
    first, second = (study.claims.loc[name, "number"] for name in pair)
    return float(first - second)


def list_effects(findings: list[Finding], unit: str = "dB") -> list[tuple[Disagreement, Effect]]:
    """Every measured effect of somebody's way once, with the first disagreement that it speaks of, in the order of
    :attr:`Effect.order`."""
    seen: dict[tuple[Column, Column], tuple[Disagreement, Effect]] = {}
    for finding in findings:
        for effect in finding.effects:
            if effect.unit == unit and not effect.comparison.ours_only:
                key = effect.comparison.a, effect.comparison.b
                seen.setdefault(key, (finding.disagreement, effect))
    return sorted(seen.values(), key=lambda pair: pair[1].order)
