"""From claims and records to verdicts. The tolerances were fixed before any result was known, all but three
(:mod:`repro.study.gradnet`, :mod:`repro.study.scaoednet`); which rules were changed later, and to what effect, is said
in book/protocol.md.

A verdict is one of four words: reproduced, direction reproduced, not reproduced, not testable here. The
rules:

* A value at the paper's own budget, or from published weights, is reproduced within ``PSNR_DB``; one of a
  model trained here within ``PSNR_TRAINED_HERE_DB``. What is as published and misses that is not reproduced. A
  model trained at a *smaller* budget than the paper's can at best have its direction reproduced, however close its
  value is: above the classical method of the same column (BM3D, CBM3D) as the paper's is, or, in the ablation study,
  on the paper's side of the network without the parts under study. Where that side has per-image results here, the
  paired interval decides; elsewhere its published mean and the tolerance for models trained here. A paper's value that
  is itself below the classical method can be contradicted and not confirmed: there a weak network lies as well.
* An ordering is decided by the paired per-image difference: its 95 % bootstrap interval must exclude 0. Two
  networks of ours are compared only if they were trained by the same recipe. A lead over published weights that
  miss their own printed value must be larger than what they miss it by.
* Parameters are exact to the printed digit, or explained; FLOPs lie within ``FLOPS_RELATIVE``.
* What a document says about its own numbers is not reproduced where they contradict it; where they agree, nothing
  was measured, and the claim is not testable.
* A setting is looked up in the built network. A choice of the protocol has no outcome to reproduce; its
  verdict says what the study's own runs use.

Everything here is a function of claims.csv, experiments.toml and the records; ``results/verdicts.csv`` is its
result, and :func:`check` fails where the file no longer follows from them.
"""

import io
import itertools
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from repro import files
from repro.errors import ReproError
from repro.study import claims as ledger
from repro.study import comparators
from repro.study import experiments as listing
from repro.study import records as archive
from repro.study.experiments import Experiment
from repro.study.records import Record
from repro.study.statistics import Interval, bootstrap, bootstrap_average, compare

REPRODUCED = "reproduced"
DIRECTION = "direction reproduced"
NOT_REPRODUCED = "not reproduced"
NOT_TESTABLE = "not testable here"
WORDS = (REPRODUCED, DIRECTION, NOT_REPRODUCED, NOT_TESTABLE)

PSNR_DB = 0.05
PSNR_TRAINED_HERE_DB = 0.1
HINT = "a hint."  # what such a verdict ends with
FEW_TRAININGS = 5  # fewer do not say how far seeds scatter: an interval that draws two or three of them is too narrow
FLOPS_RELATIVE = 0.01
TIMES = "running times belong to the machine they were taken on"

CLASSICAL = {
    "rgb": "CBM3D",
    "gray": "BM3D",
}  # what a column is measured against when only its direction counts
METHODS = {"SADNet": "sadnet", "CBM3D": "bm3d", "BM3D": "bm3d", "CDnCNN-B": "dncnn"}  # others: lower case
# Data the sources print results on or train with, that their homes alone hand out.
CLOSED = {"DND": "dnd", "SIDD validation": "sidd", "SIDD benchmark": "sidd", "DIV2K": "div2k"}
REAL_TRAINING = ("sidd", "renoir")  # what SADNet's real-noise networks are trained on


@dataclass(frozen=True)
class Verdict:
    """What the study says about one claim. Numbers are None where there are none."""

    id: str
    word: str
    reason: str
    ours: float | None = None
    difference: float | None = None  # ours minus printed; for an ordering, first minus second
    tolerance: float | None = None
    low: float | None = None  # of the 95 % interval of the difference
    high: float | None = None
    budget: str = ""  # of our value; empty where nothing was trained
    evidence: str = ""  # records or code it rests on
    waits_for: str = ""  # the experiment of the list that would settle it
    command: str = ""  # redoes our value

    def __post_init__(self):
        if self.word not in WORDS:
            raise ValueError(f"A verdict is one of {', '.join(WORDS)}, not {self.word!r}.")


@dataclass(frozen=True)
class Group:
    """The seeds of one experiment, taken together."""

    records: tuple[Record, ...]

    @property
    def first(self) -> Record:
        return self.records[0]

    @property
    def budget(self) -> str:
        return self.first["budget"] if self.trained else ""

    @property
    def trained(self) -> bool:
        return self.first["steps"] > 0

    @property
    def smaller(self) -> bool:
        """Whether it was trained, and less than its paper trains."""
        return self.trained and self.budget != "paper"

    def command(self, evaluation: str) -> str:
        """What measures the published network once more; where no weights are published, or the result is a mean over
        seeds, what trains it again."""
        if len(self.records) > 1 or not (files.results() / "weights" / f"{self.first.name}.safetensors").exists():
            return self.first["command"]
        about = next(e for e in self.first["evaluations"] if e["name"] == evaluation)
        parts = [f"repro evaluate --model {self.first.name} --data {about['dataset']}"]
        parts += [f"--sigma {about['sigma_255']:g}"] if about["sigma_255"] is not None else []
        # Options that are newer than a record are not in it.
        for option in ("events", "alpha", "pad"):
            parts += [f"--{option} {about[option]}"] if about.get(option) is not None else []
        if levels := about.get("levels_255"):
            parts += [f"--levels {levels[0]:g},{levels[1]:g}"]
        parts += [f"--repeats {about['repeats']}"] if about.get("repeats", 1) != 1 else []
        parts += [flag for key, flag in (("clip", "--clip"), ("round_8bit", "--round-8bit")) if about[key]]
        parts += [f"--crop-multiple {about['crop_multiple']}"] if about.get("crop_multiple") else []
        parts += [f"--patch {about['patch']}"] if about["patch"] else []
        parts += [f"--crop-side {about['crop_side']}"] if about.get("crop_side") else []
        parts += ["--ensemble"] if about.get("ensemble") else []
        parts += [f"--{option} {about[option]}" for option in ("seed", "limit") if about.get(option)]
        return " ".join(parts) if self.trained else self.first["command"]

    @property
    def names(self) -> str:
        return " ".join(record.name for record in self.records)

    def per_image(self, evaluation: str, metric: str = "psnr_db") -> pd.Series:
        """The mean over the seeds."""
        return self.per_seed(evaluation, metric).mean(axis=1, skipna=False)

    def per_seed(self, evaluation: str, metric: str = "psnr_db") -> pd.DataFrame:
        """A column for each seed that has the evaluation, by the record's name: an evaluation that came later may be
        missing of an older record. What :func:`~repro.study.statistics.compare` takes."""
        columns = {record.name: record.per_image(evaluation, metric) for record in self.records}
        return pd.concat({name: column for name, column in columns.items() if len(column)} or columns, axis=1)

    @cached_property
    def spread(self) -> tuple[float, str]:
        """How far its trainings are apart at most, which differ in nothing but the seed, in dB of the mean on the first
        test; and which experiment and test that are."""
        if not self.first["evaluations"]:  # it is measured in another way
            return 0.0, self.first["experiment"]
        test = self.first["evaluations"][0]["name"]
        means = self.per_seed(test).mean()
        return float(means.max() - means.min()), f"{self.first['experiment']} on {test}"

    def given_gradients(self, sigma_255: float, kind: str, metric: str = "psnr_db") -> pd.DataFrame:
        """The same of a GradNet that was given gradients of one kind at a noise level (:mod:`repro.gradients`); without
        columns where no seed has them."""
        columns = {}
        for record in self.records:
            if (table := record.gradients) is not None:
                chosen = table[(table["sigma_255"] == sigma_255) & (table["gradient"] == kind)]
                if len(chosen):
                    columns[record.name] = chosen.set_index("image")[metric].sort_index()
        return pd.concat(columns, axis=1) if columns else pd.DataFrame()

    def require_one_recipe(self) -> None:
        """Raise a ReproError where the seeds are not of one training: their mean would be of nothing."""
        for other in self.records[1:]:
            names = archive.find_differences(self.first.settings, other.settings)
            if names or self.first.settings.get("sizes") != other.settings.get("sizes"):
                raise ReproError(
                    f"{self.first.name} and {other.name} differ in {', '.join(names) or 'sizes'}: remove the record of "
                    "the older settings."
                )

    def same_recipe(self, other: "Group") -> bool:
        """Whether two trained groups differ in nothing but the network and the seed."""
        return not archive.find_differences(self.first.settings, other.first.settings)


def _size(group: Group) -> tuple[int, int]:
    """What groups are ordered by: budget, then steps."""
    return listing.BUDGETS.index(group.first["budget"]), group.first["steps"]


@dataclass(frozen=True)
class Study:
    """Everything verdicts follow from."""

    claims: pd.DataFrame
    experiments: list[Experiment]
    records: list[Record]
    camera_noise: pd.DataFrame | None = None  # what repro.camera_noise measured

    @classmethod
    def load(cls) -> "Study":
        """What is committed under results/."""
        from repro import camera_noise

        measured = camera_noise.load() if (files.results() / camera_noise.TABLE).exists() else None
        return cls(ledger.load(), listing.load(), archive.load(), measured)

    @cached_property
    def groups(self) -> list[Group]:
        """Published runs by experiment, the largest budget and the longest run first; smoke runs never
        count.
        """
        counted = [record for record in self.records if record["budget"] != "smoke"]
        grouped = itertools.groupby(counted, key=lambda record: record["experiment"])
        groups = [Group(tuple(records)) for _, records in grouped]
        for group in groups:
            group.require_one_recipe()
        return sorted(groups, key=_size, reverse=True)

    def find(self, method: str, variant: str, colour: str, dataset: str, sigma_255: float) -> list[Group]:
        """Groups of a method's variant that were evaluated at a noise level: of one size, those that were trained for
        that level come before those for several."""
        found = [
            group
            for group in self.groups
            if (group.first["method"], group.first["variant"], group.first["colour"]) == (method, variant, colour)
            and group.first["sigma_255"] in (sigma_255, None)
            and group.first.find_evaluation(dataset, sigma_255)
        ]
        place = {id(group): size for size, (_, alike) in enumerate(itertools.groupby(found, _size)) for group in alike}
        return sorted(found, key=lambda group: (place[id(group)], group.first["sigma_255"] is None))

    @cached_property
    def seed_spread(self) -> dict[str, tuple[float, str]]:
        """Method -> the largest :attr:`Group.spread` of its networks. A training that gave back the noisy images counts
        in the spread of its own network alone: it says nothing of how far those scatter that learned."""
        spreads: dict[str, tuple[float, str]] = {}
        for group in self.groups:
            learned = tuple(record for record in group.records if not record.gives_back_noise)
            if group.trained and len(learned) > 1:
                found = Group(learned).spread
                spreads[group.first["method"]] = max(found, spreads.get(group.first["method"], found))
        return spreads

    @cached_property
    def waiting(self) -> dict[str, str]:
        """Claim id -> of the experiments that test it and have no record yet, the first of the smallest budget."""
        done = {record["experiment"] for record in self.records}
        waiting: dict[str, str] = {}
        for experiment in sorted(self.experiments, key=lambda experiment: listing.BUDGETS.index(experiment.budget)):
            if experiment.budget != "smoke" and experiment.name not in done:
                for claim_id in ledger.match(self.claims, experiment.claims).index:
                    waiting.setdefault(claim_id, experiment.name)
        return waiting


def settle(claim: pd.Series, study: Study) -> Verdict:
    """The verdict on one claim (a row of :func:`repro.study.claims.load`)."""
    verdict = _settle(claim, study)
    if small := _find_hint(claim, verdict, study):
        verdict = replace(verdict, reason=f"{verdict.reason} {small}: {HINT}")
    if lost := [record.name for record in study.records if record.name in verdict.evidence.split() and record.ran_away]:
        verdict = replace(
            verdict, reason=f"{verdict.reason} In the training of {', '.join(lost)} sampling points ran away."
        )
    for group in study.groups:
        whole = group.trained and set(group.names.split()) <= set(verdict.evidence.split())
        if lost := [record.name for record in group.records if record.gives_back_noise] if whole else []:
            failed = f"{', '.join(lost)} gave back the noisy images"
            why = ": a training that failed counts." if len(lost) < len(group.records) else "."
            verdict = replace(verdict, reason=f"{verdict.reason} {failed}{why}")
    if verdict.word != NOT_TESTABLE and not verdict.command:  # it was computed just now, from no record
        return replace(verdict, command="repro claims --write")
    if verdict.command.startswith("repro campaign") and not verdict.waits_for:  # its record is not in the way there
        return replace(verdict, command=f"{verdict.command} --results again")
    return verdict


def _find_hint(claim: pd.Series, verdict: Verdict, study: Study) -> str:
    """Where a statement holds, or fails beyond chance, by so little that other seeds might undo it: how little that is,
    and how often the network was trained that was trained least; else nothing. So little is what lies within the
    tolerance, or within what two trainings of a network of a compared method differ by (:attr:`Study.seed_spread`). See
    :data:`FEW_TRAININGS`."""
    compared = set(verdict.evidence.split())
    if verdict.word not in (DIRECTION, NOT_REPRODUCED) or claim["metric"] not in ledger.STATEMENTS or len(compared) < 2:
        return ""
    if None in (verdict.difference, verdict.low, verdict.high) or " dB" not in verdict.reason:
        return ""
    groups = [group for group in study.groups if set(group.names.split()) <= compared]
    return _tell_hint(verdict.difference, verdict.low, verdict.high, groups, study)


def describe_hint(paired: Interval, groups: list[Group], study: Study) -> str:
    """The same of a printed value that a paired difference decides, as the end of a sentence; or nothing."""
    small = _tell_hint(paired.mean, paired.low, paired.high, groups, study)
    return f". {small}: {HINT.rstrip('.')}" if small else ""


def _tell_hint(mean: float, low: float, high: float, groups: list[Group], study: Study) -> str:
    if low <= 0 <= high or math.isnan(low):
        return ""
    trained = [group for group in groups if group.trained]
    least = min((len(group.records) for group in trained), default=FEW_TRAININGS)
    if least >= FEW_TRAININGS:
        return ""
    times, difference = "once" if least == 1 else f"{least} times", round(abs(mean), 2)
    if difference <= PSNR_TRAINED_HERE_DB:
        return f"Not more than {PSNR_TRAINED_HERE_DB:g} dB, by a network that was trained {times}"
    spread, name = max(max(group.spread, study.seed_spread.get(group.first["method"], (0.0, ""))) for group in trained)
    if difference <= round(spread, 2):
        return f"Not more than the {spread:.2f} dB between trainings of {name}, by a network that was trained {times}"
    return ""


def _settle(claim: pd.Series, study: Study) -> Verdict:
    from repro.study import gradnet, sadnet, scaoednet, ssdn  # which use this module

    own = {"000": sadnet, "001": sadnet, "002": ssdn, "003": gradnet, "004": scaoednet}[claim["source"]]
    if verdict := own.settle(claim, study):
        return verdict
    metric = claim["metric"]
    if metric in ("psnr", "ssim"):
        return _settle_quality(claim, study)
    if metric == "time":
        return untested(claim, study, TIMES, waits=False)
    if metric in ledger.PROTOCOL and claim["method"]:
        return _settle_protocol(claim, study)
    if metric in ledger.DATA | ledger.PROTOCOL:
        return _settle_data(claim, study)
    return untested(claim, study, "it depends on the authors' machine, which is not here")


def settle_all(study: Study) -> pd.DataFrame:
    """All verdicts, one row per claim in the ledger's order, columns as the fields of :class:`Verdict`."""
    verdicts = [settle(claim, study) for _, claim in study.claims.iterrows()]
    frame = pd.DataFrame([asdict(verdict) for verdict in verdicts], columns=[f.name for f in fields(Verdict)])
    return frame.set_index("id", drop=False)


def load(path: str | Path | None = None) -> pd.DataFrame:
    """The committed verdicts, indexed by id."""
    path = Path(path) if path else files.results() / "verdicts.csv"
    try:
        frame = pd.read_csv(path, keep_default_na=False, na_values={column: [""] for column in NUMBERS})
    except (OSError, ValueError) as error:
        raise ReproError(f"Cannot read the verdicts in {path}: {error}.") from error
    return frame.set_index("id", drop=False)


def save(verdicts: pd.DataFrame, path: str | Path | None = None) -> Path:
    """Write results/verdicts.csv."""
    path = Path(path) if path else files.results() / "verdicts.csv"
    with files.write_atomically(path) as temporary:
        temporary.write_text(_to_csv(verdicts), encoding="utf-8")
    return path


def check(study: Study | None = None, path: str | Path | None = None) -> int:
    """Number of verdicts, all of which follow from claims and records; else a ReproError naming the first."""
    path = Path(path) if path else files.results() / "verdicts.csv"
    now = _to_csv(settle_all(study or Study.load()))
    then = path.read_text(encoding="utf-8") if path.exists() else ""
    if now == then:
        return now.count("\n") - 1
    for line, committed in itertools.zip_longest(now.splitlines()[1:], then.splitlines()[1:], fillvalue=""):
        if line != committed:
            name = (line or committed).split(",")[0]
            raise ReproError(
                f"{path.name} does not follow from claims and records any more, first at {name}: "
                f"`repro claims --write` settles all claims anew."
            )
    raise ReproError(f"{path.name} has other columns than verdicts have: `repro claims --write` renews it.")


NUMBERS = ("ours", "difference", "tolerance", "low", "high")


def _to_csv(verdicts: pd.DataFrame) -> str:
    text = io.StringIO()
    # Four digits after the point: a bootstrap bound differs in the sixteenth between two builds of NumPy.
    rounded = verdicts.assign(**{c: pd.to_numeric(verdicts[c]).round(4) for c in NUMBERS})
    rounded.to_csv(text, index=False, lineterminator="\n")
    return text.getvalue()


# --- image quality ---------------------------------------------------------------------------------------


def _settle_quality(claim: pd.Series, study: Study) -> Verdict:
    dataset, sigma = ledger.dataset_name(claim), claim["sigma_255"]
    sigma = None if math.isnan(sigma) else sigma
    groups = study.find(_method(claim), _variant(claim), claim["colour"], dataset, sigma) if dataset else []
    if claim["metric"] == "psnr" and groups:
        if claim["table"] == "Table 1":  # the states of the ablation study belong together
            groups.sort(key=lambda group: group.smaller and _find_counterpart(claim, group, study) is None)
            if groups[0].smaller and _find_counterpart(claim, groups[0], study) is None:
                beside = "full network" if _variant(claim) == "none" else "network without the three parts"
                return untested(claim, study, f"the {beside}, trained by the same recipe, is not here to compare with")
        return judge_value(claim, groups[0], groups[0].first.find_evaluation(dataset, sigma)["name"], study)
    untold = f"no tolerance was fixed for {claim['metric'].upper()}"
    if groups:
        evaluation = groups[0].first.find_evaluation(dataset, sigma)["name"]
        ours = float(groups[0].per_image(evaluation, claim["metric"]).mean())
        facts = {"ours": ours, "difference": ours - claim["number"], "budget": groups[0].budget}
        facts |= {"evidence": groups[0].names, "command": groups[0].command(evaluation)}
        return replace(untested(claim, study, untold, waits=False), **facts)
    waits = claim["metric"] == "psnr"  # of the other measures no experiment can say more
    reason = why_not(claim, claim["method"])
    return untested(claim, study, reason if waits or claim["id"] not in study.waiting else untold, waits)


def judge_value(claim: pd.Series, group: Group, evaluation: str, study: Study) -> Verdict:
    """A printed PSNR against ours."""
    facts = hold_against(claim, group, group.per_seed(evaluation)) | {"command": group.command(evaluation)}
    near = describe_difference(facts)
    if not group.smaller:
        if within(facts["difference"], facts["tolerance"]):
            return Verdict(claim["id"], REPRODUCED, f"{near}.", **facts)
        about = next(e for e in group.first["evaluations"] if e["name"] == evaluation)
        weights = group.first["hyperparameters"].get("weights", {}).get("value", "")
        because = comparators.explain_difference(claim, weights, about) + _describe_equal_variances(
            claim, evaluation, study
        )
        near += f" ({because})" if because else ""
        return Verdict(claim["id"], NOT_REPRODUCED, f"{near}{describe_real_training(claim, group)}.", **facts)
    word, why = judge_direction(claim, group, evaluation, study)
    near = f"At the {group.budget} budget {near}{describe_real_training(claim, group)}"
    return Verdict(claim["id"], word, f"{near}; {why}.", **facts)


def _describe_equal_variances(claim: pd.Series, evaluation: str, study: Study) -> str:
    """What BM3D gives as in its paper of 2007, where that was measured, too: as printed rows may have been made."""
    for group in study.groups if claim["method"] in CLASSICAL.values() else ():
        about = group.first["method"], group.first["variant"], group.first["colour"]
        if about == ("bm3d", "equal variances", claim["colour"]) and evaluation in {
            e["name"] for e in group.first["evaluations"]
        }:
            ours = float(group.per_image(evaluation).mean())
            return f"; with equal variances, as in its paper of 2007, it is {ours:.2f} dB"
    return ""


def hold_against(claim: pd.Series, group: Group, *values: pd.DataFrame) -> dict:
    """Facts for a verdict on a printed PSNR. ``values`` are ours per image and seed; where the printed value is the
    mean of the means of several sets, one frame for each, of which the trainings count that have all sets."""
    shared = [name for name in values[0].columns if all(name in frame for frame in values)]
    values = tuple(frame[shared] for frame in values)
    ours = float(np.mean([frame.to_numpy().mean() for frame in values]))
    tolerance = PSNR_TRAINED_HERE_DB if group.smaller else PSNR_DB
    facts = {"ours": ours, "difference": ours - claim["number"], "tolerance": tolerance}
    facts |= {"budget": group.budget, "evidence": " ".join(map(str, shared))}
    differences = [frame - claim["number"] for frame in values]
    interval = bootstrap(differences[0]) if len(values) == 1 else bootstrap_average(differences)
    return facts | {"low": interval.low, "high": interval.high}


def describe_difference(facts: dict) -> str:
    """``29.04 dB, 0.60 dB below the printed value``; with a third digit where two would be the tolerance itself."""
    difference = facts["difference"]
    side = "above" if difference >= 0 else "below"
    close = not within(difference, facts["tolerance"]) and within(round(difference, 2), facts["tolerance"])
    digits = 3 if close else 2
    trainings = len(facts["evidence"].split())
    mean = f" as the mean of {trainings} trainings" if trainings > 1 else ""
    return f"{facts['ours']:.{digits}f} dB{mean}, {abs(difference):.{digits}f} dB {side} the printed value"


def judge_side(
    claim: pd.Series, ours: float, classical: pd.Series, images: tuple[pd.DataFrame, pd.DataFrame] | None = None
) -> tuple[str, str]:
    """What a network trained at a smaller budget says of a printed value, by a classical method's, and words for it.

    ``classical`` is that method's claim of the same column. ``images`` are our values and the method's, image by image,
    where both were measured here: their paired interval decides, else the printed mean. A printed value *above* the
    classical method holds in direction where ours is above it, too. One *below* it could not fail that test, since what
    has learned little lies there whatever it is; it can only be contradicted, by ours above.
    """
    name, above = classical["method"], claim["number"] > classical["number"]
    if images is not None:
        paired = compare(*images)
        side = paired.sign
        where = f"{paired.signed()} dB against {name}, which has {images[1].to_numpy().mean():.2f} dB here"
    else:
        margin = ours - classical["number"]
        side = math.copysign(1, margin) if abs(margin) > PSNR_TRAINED_HERE_DB else 0
        where = f"{abs(margin):.2f} dB {'above' if margin >= 0 else 'below'} the printed {name}"
    if above:
        return DIRECTION if side > 0 else NOT_REPRODUCED, where
    if side > 0:
        return NOT_REPRODUCED, f"{where}, below which the printed value lies"
    return NOT_TESTABLE, f"{where}; the printed value, too, lies below {name}, but so does whatever has learned little"


def judge_by_own_numbers(claim: pd.Series, holds: bool, reason: str) -> Verdict:
    """A statement about numbers that its document prints. If they contradict it, it cannot be reproduced; that they
    agree with it says nothing about what would be measured, and nothing is measured here."""
    if holds:
        return Verdict(claim["id"], NOT_TESTABLE, f"{reason} The document agrees with itself; here it is not measured.")
    return Verdict(claim["id"], NOT_REPRODUCED, reason, evidence="claims.csv")


def judge_direction(claim: pd.Series, group: Group, evaluation: str, study: Study) -> tuple[str, str]:
    """The word that ours deserves by what its table compares the printed value with, and a sentence that says so.

    That is the classical method of the same column; in the ablation study (Table 1) it is the network with
    none of the three parts, or, for that one, the full network.
    """
    counterpart = _find_counterpart(claim, group, study) if claim["table"] == "Table 1" else None
    if counterpart is not None:
        name = counterpart.first["variant"]
        printed = ledger.find(study.claims, source="001", table="Table 1", variant=name)["number"].iloc[0]
        paired = compare(group.per_seed(evaluation), counterpart.per_seed(evaluation))
        side = math.copysign(1, claim["number"] - printed)
        beside = "the full network" if name == "full" else f"the state {name!r}"
        word = DIRECTION if paired.sign == side else NOT_REPRODUCED
        hint = describe_hint(paired, [group, counterpart], study)
        return word, f"{paired.signed()} dB against {beside}, image by image{hint}"
    classical = CLASSICAL[claim["colour"]]
    column = ledger.find(
        study.claims, source="001", method=classical, dataset=claim["dataset"], colour=claim["colour"],
        sigma_255=claim["sigma_255"], metric="psnr", noise=claim["noise"],
    )  # fmt: skip
    if column.empty:
        return NOT_TESTABLE, "there is no classical method beside it to compare with"
    dataset, sigma = ledger.dataset_name(claim), None if math.isnan(claim["sigma_255"]) else claim["sigma_255"]
    ours, images, hint = group.per_seed(evaluation), None, ""
    for other in study.find("bm3d", "full", claim["colour"], dataset, sigma):
        if images is None and other.first.find_evaluation(dataset, sigma)["name"] == evaluation:
            images = ours, other.per_seed(evaluation)
            hint = describe_hint(compare(*images), [group, other], study)
    word, why = judge_side(claim, float(ours.to_numpy().mean()), column.iloc[0], images)
    return word, why if word == NOT_TESTABLE else why + hint


def describe_real_training(claim: pd.Series, group: Group) -> str:
    """What a SADNet for real noise was trained on here, for its paper's was trained on other photographs."""
    if not group.trained or claim["noise"] != "real":
        return ""
    pairs = group.first["hyperparameters"].get("pairs", {"value": None})["value"]
    here = f"on pairs of {pairs}" if pairs else "without real noise"
    return f", trained {here}, not on {' and '.join(name.upper() for name in REAL_TRAINING)}"


def _find_counterpart(claim: pd.Series, group: Group, study: Study) -> Group | None:
    """The ablation state that a Table 1 cell is held against, trained by the same recipe."""
    name = "full" if claim["variant"] == "none" else "none"
    others = study.find("sadnet", name, claim["colour"], ledger.dataset_name(claim), claim["sigma_255"])
    return next((other for other in others if group.same_recipe(other)), None)


# --- orderings ------------------------------------------------------------------------------------------


def pair_up(
    firsts: list[Group], seconds: list[Group], dataset: str, sigma_255: float | None
) -> Iterator[tuple[Group, Group, str]]:
    """Pairs of groups, with an evaluation that both have: in the order in which the first one lists its own."""
    for first in firsts:
        for evaluation in first.first.list_evaluations(dataset, sigma_255):
            for second in seconds:
                if evaluation in second.first.list_evaluations(dataset, sigma_255):
                    yield first, second, evaluation


def judge_ordering(claim: pd.Series, first: Group, second: Group, evaluation: str, metric: str = "psnr_db") -> Verdict:
    """Whether the first is better than the second, image by image."""
    paired = compare(first.per_seed(evaluation, metric), second.per_seed(evaluation, metric))
    smaller = first.smaller or second.smaller
    facts = {
        "difference": paired.mean, "low": paired.low, "high": paired.high,
        "command": first.command(evaluation),
        "budget": first.budget or second.budget, "evidence": f"{first.names} {second.names}",
    }  # fmt: skip
    at = f" at the {facts['budget']} budget" if smaller else ""
    shown = f"{paired.signed()} dB"
    if metric == "ssim":
        shown = f"{paired.mean:+.4f} [{paired.low:+.4f}, {paired.high:+.4f}]"
    return by_sign(claim, paired, smaller, f"{shown}{at}", facts)


def withhold_empty_lead(verdict: Verdict, second: Group, evaluation: str) -> Verdict:
    """A lead over a network that leaves photographs worse than they were taken is none."""
    gained = compare(second.per_seed(evaluation), second.per_seed(evaluation, "psnr_noisy_db"))
    if verdict.word not in (REPRODUCED, DIRECTION) or gained.sign >= 0:
        return verdict
    told = f"{verdict.reason} But the other is {gained.signed()} dB against no denoising at all."
    return replace(verdict, word=NOT_TESTABLE, reason=told)


def by_sign(claim: pd.Series, interval: Interval, smaller: bool, what: str, facts: dict) -> Verdict:
    if interval.sign == claim["number"]:
        return Verdict(claim["id"], DIRECTION if smaller else REPRODUCED, f"{what}.", **facts)
    if math.isnan(interval.low):
        return Verdict(
            claim["id"], NOT_TESTABLE, f"{interval.mean:+.2f}, of one image, which has no interval.", **facts
        )
    why = "the interval contains 0" if interval.sign == 0 else "the other way round"
    return Verdict(claim["id"], NOT_REPRODUCED, f"{what}: {why}.", **facts)


# --- settings and data -----------------------------------------------------------------------------------


def _settle_protocol(claim: pd.Series, study: Study) -> Verdict:
    from repro.study.settings import FIELDS

    reason = "it is a choice, not an outcome"
    if claim["metric"] in FIELDS:
        used: dict[str, list[str]] = {}
        method = _method(claim)
        forms = (method, f"{method}-impl")
        own = [e for e in study.experiments if e.method in forms and e.sizes.get("body") != "dncnn"]
        for experiment in sorted(own, key=lambda experiment: listing.BUDGETS.index(experiment.budget)):
            if experiment.train is not None and experiment.budget != "smoke":
                value = FIELDS[claim["metric"]](experiment.train_config(experiment.seeds[0]))
                if value is not None:
                    budgets = used.setdefault(f"{value:g}", [])
                    budgets += [experiment.budget] if experiment.budget not in budgets else []
        told = "; ".join(f"{value} ({', '.join(budgets)})" for value, budgets in used.items())
        reason += f". The list's runs of {claim['method']}, by budget: {told}" if told else ""
    return untested(claim, study, reason, waits=False)


def _settle_data(claim: pd.Series, study: Study) -> Verdict:
    from repro.data import catalog

    if claim["dataset"] == "Nam" and claim["variant"] + claim["metric"] in (
        "patches",
        "heightpatch",
        "widthpatch",
    ):
        entry = catalog.find("nam25")
        (size,) = entry.sizes
        width, height = map(int, size.split("x"))
        ours = {"patches": entry.images, "heightpatch": height, "widthpatch": width}[claim["variant"] + claim["metric"]]
        word = REPRODUCED if ours == claim["number"] else NOT_REPRODUCED
        return Verdict(claim["id"], word, f"The data set has {ours}.", ours=ours, evidence="repro.data.catalog")
    if claim["dataset"] in CLOSED:
        return untested(claim, study, catalog.find(CLOSED[claim["dataset"]]).obtain, waits=False)
    if claim["metric"] in ledger.DATA:
        return untested(claim, study, "only the patches of this set are at hand, not its images", waits=False)
    return untested(claim, study, "it is a choice, not an outcome", waits=False)


# --- why not ---------------------------------------------------------------------------------------------


def untested(claim: pd.Series, study: Study, reason: str, waits: bool = True) -> Verdict:
    waits_for = study.waiting.get(claim["id"], "") if waits else ""
    if waits_for:
        reason = f"it waits for the experiment {waits_for}"
    command = f"repro campaign --only {waits_for}" if waits_for else ""
    sentence = reason[0].upper() + reason[1:].rstrip(".") + "."
    return Verdict(claim["id"], NOT_TESTABLE, sentence, waits_for=waits_for, command=command)


def why_not(claim: pd.Series, method: str) -> str:
    from repro.data import catalog

    if claim["dataset"] in CLOSED:
        return f"{claim['dataset']}: {catalog.find(CLOSED[claim['dataset']]).obtain}"
    if claim["noise"] == "real" and method == "SADNet":
        closed = " and ".join(catalog.find(name).name.upper() for name in REAL_TRAINING)
        return f"the network for real noise is trained on {closed}, which their homes alone hand out"
    if method != "SADNet":
        return comparators.explain_claim(claim)
    return "no experiment of the list measures it"


def _method(claim: pd.Series) -> str:
    return METHODS.get(claim["method"], claim["method"].lower())


def _variant(claim: pd.Series) -> str:
    return claim["variant"] or "full"


def within(difference: float, tolerance: float) -> bool:
    return abs(difference) <= tolerance + 1e-9  # 29.69 - 29.64 is a little more than 0.05 to a computer
