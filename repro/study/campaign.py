"""Runs what is missing of the experiments, the headline rows first, and publishes what it finishes.

It may be killed at any moment: training goes on from its checkpoint, an evaluation from the first image set
that has no file yet, and a record appears when everything it speaks of is in place. Two campaigns do not
disturb each other: one folder, one process.

:func:`run` goes down the list in one process. :func:`run_one` does one seed of one experiment, for a scheduler that
starts many of them side by side; there torchrun may start several processes, which share each training batch.
"""

import fcntl
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from pathlib import Path

import pandas as pd

from repro import files
from repro.errors import ReproError, unknown_name
from repro.study import experiments as listing
from repro.study import records
from repro.study.estimates import estimate_seconds_left, sum_evaluation_seconds
from repro.study.experiments import Evaluation, Experiment

WEIGHTS_LIMIT_MIB = 9  # what the repository carries per file
AGAIN_SECONDS = 10.0  # after which a campaign that has not heard the end of its hours is told again


class Stopped(ReproError):
    """The campaign was asked to stop, or its hours are over. The same command goes on from there."""


class _Asked(BaseException):
    """Raised by a signal wherever the program is. No ReproError: code that gets over one must not get over this."""


def status(results: Path | None = None, experiments: list[Experiment] | None = None) -> pd.DataFrame:
    """One row per experiment and seed: state, steps done, seconds spent and estimated to remain.

    ``state`` is ``done``, ``running`` (a process works on it now), ``interrupted`` (something of it is kept, a
    checkpoint or a measurement), ``waiting``, or ``outdated``: it has a record, but of other settings than the list
    names now. ``seconds`` are those of the training, ``seconds_training``, and those that the network took in the
    evaluations. ``seconds_left`` is what :mod:`repro.study.estimates` says, NaN where it says nothing.
    """
    results = results or files.results()
    experiments = experiments if experiments is not None else listing.load()
    rows = [_describe(experiment, seed, results) for experiment in experiments for seed in experiment.seeds]
    columns = ["experiment", "seed", "budget", "state", "steps", "seconds", "seconds_training"]
    frame = pd.DataFrame(rows, columns=[*columns, "steps_planned", "seconds_planned", "needs"])
    return frame.assign(seconds_left=estimate_seconds_left(frame, experiments, results))


def run(
    hours: float | None = None,
    budget: str | None = None,
    only: tuple[str, ...] = (),
    *,
    results: Path | None = None,
    experiments: list[Experiment] | None = None,
    say: Callable[[str], None] = print,
    renew_verdicts: bool = True,
) -> list[Path]:
    """Run what is missing, first seeds first and headline rows first, and return the folders of the records written.

    What is written under the repository's own results also renews its verdicts, unless ``renew_verdicts`` is false.

    ``hours`` ends the campaign cleanly; ``budget`` is the one whose experiments are run (the machine decides
    otherwise: ``gpu`` with an accelerator, else ``cpu``); ``only`` are names of experiments, of any budget, or shell
    patterns of names, of the machine's budget where they fit rows of several, run in the order given. Whatever the
    order, what an experiment needs is run before it. One that fails for a reason the user can mend (a data set that is
    not here) is said and passed over. Raises :class:`Stopped` on SIGINT, SIGTERM or at the end of the hours, and
    ReproError where any had failed, once nothing else is left to do or the hours are over, and at once where
    ``results`` cannot be written.
    """
    if _count_processes() > 1:
        raise ReproError("Several processes share one experiment, not a campaign: `repro experiment NAME` is theirs.")
    results = results or files.results()
    experiments = experiments if experiments is not None else listing.load()
    chosen = choose(experiments, budget, only)
    written, failed, missing = [], [], False
    with _saying_failures(failed, hours), _ending(hours):
        if renew_verdicts and results == files.results() and _list_due():
            _renew_verdicts(say)  # a campaign was killed between a record and its verdicts
        waiting = deque(_order(chosen, as_given=bool(only)))
        put_off: set[str] = set()
        while waiting:
            experiment, seed = waiting.popleft()
            state = _describe(experiment, seed, results)["state"]
            name = f"{experiment.name} seed {seed}"
            if state == "done":
                continue
            missing = True
            if state == "outdated":
                home = _home(results, experiment, seed)
                say(f"{name}: its record is of other settings than the list's; remove {home} to redo it.")
                continue
            if state == "running":
                say(f"{name}: another process works on it.")
                continue
            if elsewhere := _running_needs(experiment, experiments, results):
                needed = f"{', '.join(elsewhere)}, on which another process works"
                if name in put_off:
                    say(f"{name}: still waits for {needed}; the same command runs it afterwards.")
                    continue
                say(f"{name}: waits for {needed}; its turn comes last.")
                put_off.add(name)
                waiting.append((experiment, seed))
                continue
            _require_writable_results(experiment, seed, results)
            say(f"{name}: {experiment.why} [{state}]")
            try:
                began = time.monotonic()
                if renew_verdicts and results == files.results():
                    _note_due(experiment, seed)
                written.append(carry_out(experiment, seed, results, say))
                say(f"{name}: written to {written[-1]} after {time.monotonic() - began:,.0f} s")
                if renew_verdicts and results == files.results():
                    _renew_verdicts(say)
            except ReproError as error:
                if _is_interruption(error):
                    raise Stopped(str(error)) from error
                failed.append(name)
                say(f"{name}: {error}")
    if failed and not written:
        raise ReproError(f"Nothing could be finished; see above for {', '.join(failed)}.")
    if failed:
        count = len(written) + len(failed)
        raise ReproError(f"{len(failed)} of {count} runs failed; see above for {', '.join(failed)}.")
    if not missing:
        say("Nothing is missing.")
    return written


@contextmanager
def _saying_failures(failed: list[str], hours: float | None) -> Iterator[None]:
    """An end of the hours within the block is an error of its own where something has ``failed`` by then."""
    began = time.monotonic()
    try:
        yield
    except Stopped as stopped:
        if failed and hours is not None and time.monotonic() - began >= hours * 3600 - 1:
            counted = f"{len(failed)} run{'s' if len(failed) > 1 else ''}"
            raise ReproError(
                f"The {hours:g} hours are over, and {counted} failed (see above for {', '.join(failed)}); the same "
                f"command goes on."
            ) from stopped
        raise


def _require_writable_results(experiment: Experiment, seed: int, results: Path) -> None:
    """Raise a ReproError where a record or its weights could not be written, before hours of work rather than after."""
    for folder in ("runs", "weights") if experiment.publishes(seed) else ("runs",):
        files.require_writable(results / folder / f"{experiment.name}-seed{seed}.safetensors")


def _order(experiments: list[Experiment], as_given: bool = False) -> list[tuple[Experiment, int]]:
    """(experiment, seed), the first seed of all before the second of any: a new row tells more than a new seed.

    Among equal seeds headline rows come first, unless the order is to stay ``as_given``; before a row comes what it
    needs of ``experiments``.
    """
    listed = {experiment.name: experiment for experiment in experiments}
    ordered: dict[str, Experiment] = {}

    def place(experiment: Experiment, above: tuple[str, ...] = ()) -> None:
        for name in experiment.needs:
            if name in listed and name not in (*above, experiment.name):  # rows that need each other have no order
                place(listed[name], (*above, experiment.name))
        ordered.setdefault(experiment.name, experiment)

    for experiment in experiments if as_given else sorted(experiments, key=lambda e: not e.headline):
        place(experiment)
    most = max((len(experiment.seeds) for experiment in experiments), default=0)
    return [(e, e.seeds[rank]) for rank in range(most) for e in ordered.values() if rank < len(e.seeds)]


def _running_needs(experiment: Experiment, experiments: list[Experiment], results: Path) -> list[str]:
    """What an experiment needs of those that another process is working on."""
    listed = {other.name: other for other in experiments}
    needs = [listed[name] for name in experiment.needs if name in listed]
    return [need.name for need in needs if _describe(need, need.seeds[0], results)["state"] == "running"]


def _renew_verdicts(say: Callable[[str], None]) -> None:
    """Settle all claims by the rules that stand in the files now: this process may have begun hours before them."""
    reason = ""
    try:
        with files.locked(files.runs() / ".verdicts"):  # a slower process must not save older ones
            due = _list_due()
            command = [sys.executable, "-m", "repro.cli", "claims", "--write"]
            done = subprocess.run(command, cwd=files.root(), capture_output=True, text=True)
            if done.returncode:
                reason = (done.stderr.strip().splitlines() or ["no reason was given"])[-1]
            else:
                for note in due:
                    note.unlink(missing_ok=True)
    except (ReproError, OSError) as error:
        reason = str(error)
    if reason:
        say(f"The verdicts could not be renewed ({reason}); the record is kept, and `repro claims --write` does it.")


def _note_due(experiment: Experiment, seed: int) -> None:
    """Note that verdicts are to be renewed once this run has its record, whoever lives to see it."""
    note = files.runs() / ".verdicts-due" / experiment.name / str(seed)
    try:
        note.parent.mkdir(parents=True, exist_ok=True)
        note.touch()
    except OSError as error:
        raise ReproError(f"Cannot write {note}: {error.strerror}.") from error


def _list_due() -> list[Path]:
    """Notes of runs that have their record by now."""
    notes = (files.runs() / ".verdicts-due").glob("*/*")
    return [n for n in notes if (files.results() / "runs" / n.parent.name / f"seed{n.name}" / "record.json").exists()]


def run_one(
    name: str,
    seed: int = 0,
    *,
    results: Path | None = None,
    experiments: list[Experiment] | None = None,
    say: Callable[[str], None] = print,
) -> Path:
    """Carry out one seed of one experiment, of whatever budget; returns the folder of its record.

    One that is done is left as it is. Verdicts are left alone, since such jobs run side by side. Of the processes
    that torchrun starts, all train and the first alone evaluates and publishes; they must see the same
    ``$REPRO_RUNS``. Raises ReproError where a record of other settings is in the way, or another process works on
    the same, and :class:`Stopped` on SIGINT or SIGTERM.
    """
    results = results or files.results()
    experiment = listing.get(name, experiments)
    if seed not in experiment.seeds:
        listed = ", ".join(str(listed) for listed in experiment.seeds)
        raise ReproError(f"{name} is listed with seed {listed}, not {seed}.")
    home = _home(results, experiment, seed)
    state = _describe(experiment, seed, results)["state"]
    if state == "done":
        say(f"{name} seed {seed}: done already.")
        return home
    if state == "outdated":
        raise ReproError(f"{home} is a record of other settings than the list's; remove it to redo the run.")
    if _is_first_process():
        _require_writable_results(experiment, seed, results)
        if elsewhere := _running_needs(experiment, experiments or listing.load(), results):
            raise ReproError(
                f"{name} needs {', '.join(elsewhere)}, on which another process works; start it afterwards."
            )
    with _ending(None):
        try:
            if _is_first_process():
                say(f"{name} seed {seed}: {experiment.why} [{state}]")
                return carry_out(experiment, seed, results, say)
            if experiment.train is not None:
                _help_training(experiment, seed, results)
        except ReproError as error:
            if _is_interruption(error):
                raise Stopped(str(error)) from error
            raise
    return home


def _count_processes() -> int:
    return int(os.environ.get("WORLD_SIZE", 1))


def _is_first_process() -> bool:
    """Whether this process is alone, or the first of those that torchrun started."""
    return _count_processes() == 1 or int(os.environ["RANK"]) == 0


def _help_training(experiment: Experiment, seed: int, results: Path) -> None:
    from repro.train import train

    train(experiment.train_config(seed), _workplace(experiment, seed), results=results)


def carry_out(experiment: Experiment, seed: int, results: Path, say: Callable[[str], None] = print) -> Path:
    """Train (or resume), evaluate, measure and publish one seed; returns the folder of its record."""
    from repro import devices
    from repro.allocator import begin_peak, keep_freed_memory
    from repro.evaluate import evaluate

    keep_freed_memory()
    begin_peak()
    folder, device = _workplace(experiment, seed), devices.choose()
    if experiment.budget == "gpu" and device == "cpu":  # its few minutes would be called a training on a GPU
        raise ReproError(f"{experiment.name} ends by the clock of a GPU, and there is none here that torch can use.")
    with _working_in(folder):
        if (home := _home(results, experiment, seed)).joinpath("record.json").exists():
            return home  # another process was faster
        _note_environment(folder)
        _forget_other_network(experiment, folder, results)
        net, summary = _obtain_network(experiment, seed, folder, results)
        tables = []
        for evaluation in experiment.evaluate:
            path = _claim_evaluation(folder, evaluation)
            if not path.exists():
                say(f"{experiment.name} seed {seed}: evaluating {evaluation.name}")
                journal = path.with_suffix(".journal")  # an interruption costs one image, not a set
                _write_table(evaluate(net, **asdict(evaluation), device=device, journal=journal), path)
            tables.append(pd.read_csv(path, dtype={"image": str}).assign(evaluation=evaluation.name))
        for kind, (what, measure) in MEASURES.items():
            dataset = getattr(experiment, kind)
            path = folder / _name_measure(kind, dataset)
            if dataset and not path.exists():
                say(f"{experiment.name} seed {seed}: {what} on {dataset}")
                _write_table(measure(net.to(device), experiment), path)
                net.to("cpu")
        home = _publish(experiment, seed, folder, results, net, summary, tables)
        if experiment.train is not None and not experiment.publishes(seed):
            kept = _keep_weights(_small_weights(folder), folder.with_suffix(".safetensors"))
            say(f"{experiment.name} seed {seed}: the weights stay in {kept}")
        # All that is left are checkpoints. Where folders are shared between machines, they cannot be removed before the
        # lock is let go, and under their name somebody else may work by then.
        left = folder.with_name(f".{folder.name}-done-{os.getpid()}")
        with suppress(OSError):  # what cannot be removed costs space alone
            folder.rename(left)
    shutil.rmtree(left, ignore_errors=True)
    return home


def _keep_weights(path: Path, target: Path) -> Path:
    """Move weights that are not published to ``target``, and beside it where other weights are kept there already: a
    run that is repeated into other results is not that run."""
    if target.exists() and (checksum := files.sha256(path)) != files.sha256(target):
        target = target.with_stem(f"{target.stem}-{checksum[:8]}")
    return path.replace(target)


def _claim_evaluation(folder: Path, evaluation: Evaluation) -> Path:
    """The table of an evaluation. What an interrupted run measured of the same name with other options is removed."""
    path = folder / f"evaluation-{evaluation.name}.csv"
    noted, note = json.dumps(asdict(evaluation)), path.with_suffix(".json")
    if note.exists() and note.read_text(encoding="utf-8") != noted:
        for stale in (path, path.with_suffix(".journal")):
            stale.unlink(missing_ok=True)
    with files.write_atomically(note) as temporary:
        temporary.write_text(noted, encoding="utf-8")
    return path


def _forget_other_network(experiment: Experiment, folder: Path, results: Path) -> None:
    """Remove evaluations of an interrupted run whose row named other weights or sizes then."""
    if experiment.train is None:  # of trained ones the weights tell
        _keep_measurements_of(json.dumps(_describe_network(experiment, results)), folder)


def _keep_measurements_of(noted: str, folder: Path) -> None:
    """Remove what an interrupted run measured of another network than the one that is ``noted``, and that network as it
    would have been published."""
    path = folder / "network.json"
    if path.exists() and path.read_text(encoding="utf-8") != noted:
        measured = [table for kind in MEASURES for table in folder.glob(_name_measure(kind, "*"))]
        for stale in (*folder.glob("evaluation-*"), *measured, _small_weights(folder)):
            stale.unlink(missing_ok=True)
    with files.write_atomically(path) as temporary:
        temporary.write_text(noted, encoding="utf-8")


def _obtain_network(experiment: Experiment, seed: int, folder: Path, results: Path):
    """The network to be measured, and the summary of its training (empty where nothing is trained).

    A trained network is measured as it is published, in float16: whoever loads the published file finds the
    record's numbers.
    """
    import torch

    import repro
    from repro import weights

    if experiment.train is None:
        if experiment.weights is None:
            net = repro.build(experiment.method, **experiment.sizes)
            if next(net.parameters(), None) is not None:
                raise ReproError(f"{experiment.name} names neither weights nor data to train on.")
        else:
            net = weights.load(experiment.weights, results=results)
        return net, {"hyperparameters": _describe_network(experiment, results)}
    from repro.train import train

    trained = train(experiment.train_config(seed), folder, results=results)
    _keep_measurements_of(json.dumps({"trained": files.sha256(trained)}), folder)
    summary = json.loads((folder / "summary.json").read_text())
    published = _small_weights(folder)
    if not published.exists():
        about = {"experiment": experiment.name, "variant": experiment.variant, "colour": experiment.colour}
        about |= {"sigma_255": experiment.sigma_255, "data": experiment.data, "budget": experiment.budget}
        about |= {"seed": seed, "steps": summary["steps"], "commit": records.describe_commit()}
        weights.save(repro.load(trained), published, about, dtype=torch.float16)
    return repro.load(published), summary


def _name_network(experiment: Experiment) -> dict:
    """What is measured without training: sizes of a method, or the name of published weights."""
    if experiment.weights is not None:
        return {"weights": experiment.weights}
    return {"sizes": json.loads(json.dumps(experiment.sizes))}


def _describe_network(experiment: Experiment, results: Path) -> dict[str, dict]:
    """The same as a record says it."""
    if experiment.weights is not None:
        return {"weights": _describe_weights(experiment.weights, results)}
    return {name: {"value": value, "origin": "the experiment"} for name, value in _name_network(experiment).items()}


def _describe_weights(name: str, results: Path) -> dict[str, str]:
    """Which published weights were measured, and where they come from."""
    from repro import weights
    from repro.published import SOURCES

    if name not in SOURCES:
        return {"value": name, "origin": f"this study, tensors of SHA-256 {weights.describe(name, results)['sha256']}"}
    source = SOURCES[name]
    where = f"{source.repository}@{source.commit[:7]} {source.path or source.file}"
    return {"value": name, "origin": f"{where}, SHA-256 {source.sha256}"}


def _small_weights(folder: Path) -> Path:
    return folder / "weights-float16.safetensors"


def _measure_offsets(net, experiment: Experiment) -> pd.DataFrame:
    """One row per image, scale and region, in noise of the level the network was trained for, not clipped."""
    from repro import offsets
    from repro.data import catalog

    colour = "L" if experiment.colour == "gray" else "RGB"
    return offsets.measure(net, catalog.samples(experiment.offsets, colour), experiment.sigma_255)


def _measure_stages(net, experiment: Experiment) -> pd.DataFrame:
    """One row per image and stage, in known signal-dependent noise."""
    from repro import stages
    from repro.data import catalog

    colour = "L" if experiment.colour == "gray" else "RGB"
    return stages.measure(net, experiment.stages, catalog.samples(experiment.stages, colour))


def _measure_gradients(net, experiment: Experiment) -> pd.DataFrame:
    """One row per image, noise level and kind of gradient."""
    from repro import gradients
    from repro.data import catalog

    return gradients.measure(net, catalog.samples(experiment.gradients, "RGB"))


# What is measured beside the quality of images: field of the experiment and name of the table -> words, function.
MEASURES = {
    "offsets": ("measuring the sampling points", _measure_offsets),
    "stages": ("measuring the stages", _measure_stages),
    "gradients": ("exchanging gradients", _measure_gradients),
}


def _name_measure(kind: str, dataset: str | None) -> str:
    """A table of an unfinished run: of another set it is another table."""
    return f"{kind}-{dataset}.csv"


def _publish(experiment, seed, folder, results, net, summary, tables) -> Path:
    from repro.allocator import measure_peak_mib
    from repro.data import catalog

    home = _home(results, experiment, seed)
    home.mkdir(parents=True, exist_ok=True)
    environment = json.loads((folder / "environment.json").read_text())
    metrics = pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=["evaluation"])
    evaluations = [
        {"name": e.name, **asdict(e), **records.summarise(metrics[metrics["evaluation"] == e.name])}
        for e in experiment.evaluate
    ]
    used = {experiment.data: None} if experiment.data else {}
    used |= dict.fromkeys(e.dataset for e in experiment.evaluate)
    used |= dict.fromkeys(dataset for kind in MEASURES if (dataset := getattr(experiment, kind)))
    used |= {pairs: None} if (pairs := (experiment.train or {}).get("pairs")) else {}
    sets = [catalog.find(name) for name in used]
    content = {
        "experiment": experiment.name,
        "method": experiment.method,
        "variant": experiment.variant,
        "colour": experiment.colour,
        "sigma_255": experiment.sigma_255,
        "seed": seed,
        "budget": experiment.budget,
        "hyperparameters": summary.get("hyperparameters", {}),
        "commit": environment["commit"],
        "versions": environment["versions"],
        "device": _describe_device(environment["device"], summary.get("processes", 1)),
        "threads": summary.get("threads", environment["threads"]),
        "started": summary.get("started", environment["started"]),
        "seconds": summary.get("seconds", 0.0),
        "steps": summary.get("steps", 0),
        "peak_memory_mib": summary.get("peak_memory_mib") or measure_peak_mib(),
        "parameters": sum(p.numel() for p in net.parameters()),
        "data": [
            {"name": s.name, "images": s.images or len(catalog.paths(s.name)), "sha256": catalog.identify(s.name)}
            for s in sets
        ],
        "evaluations": evaluations,
        "command": f"repro campaign --only {experiment.name}",
    }
    copies = {folder / "curve.csv": home / "curve.csv"}
    copies |= {folder / _name_measure(kind, getattr(experiment, kind)): home / f"{kind}.csv" for kind in MEASURES}
    if experiment.publishes(seed):
        if _small_weights(folder).stat().st_size > WEIGHTS_LIMIT_MIB << 20:
            raise ReproError(f"The weights of {experiment.name} take more than {WEIGHTS_LIMIT_MIB} MiB.")
        target = results / "weights" / f"{experiment.name}-seed{seed}.safetensors"
        copies = {_small_weights(folder): target} | copies
    for source, target in copies.items():
        if source.exists():
            with files.write_atomically(target) as temporary:
                shutil.copyfile(source, temporary)
    _write_table(metrics, home / "metrics.csv")
    records.write(content, home)
    return home


def _describe_device(device: str, processes: int) -> str:
    return device if processes == 1 else f"{processes} x {device}"


def _note_environment(folder: Path) -> None:
    """Write down where a run began. A later commit or device it went on with is added to it."""
    path = folder / "environment.json"
    now = records.describe_environment()
    if not path.exists():
        noted = {"started": datetime.now(UTC).isoformat(timespec="seconds"), **now}
        if (folder / "summary.json").exists():  # it was trained before, and not by a campaign
            summary = json.loads((folder / "summary.json").read_text())
            noted |= {field: summary[field] for field in ("device", "versions") if field in summary}
    else:
        noted = json.loads(path.read_text())
        for field in ("commit", "device"):
            if now[field] not in noted[field].split(", then "):
                noted[field] += f", then {now[field]}"
    with files.write_atomically(path) as temporary:
        temporary.write_text(json.dumps(noted, indent=1) + "\n")


def _describe(experiment: Experiment, seed: int, results: Path) -> dict:
    try:
        return _look_at(experiment, seed, results)
    except FileNotFoundError:  # another process has just finished the run, and removed what it no longer needs
        return _look_at(experiment, seed, results)


def _look_at(experiment: Experiment, seed: int, results: Path) -> dict:
    row = {"experiment": experiment.name, "seed": seed, "budget": experiment.budget, "state": "waiting"}
    row |= {"steps": 0, "seconds": 0.0, "seconds_training": 0.0, "steps_planned": 0, "seconds_planned": 0.0}
    row |= {"needs": list(experiment.needs)}
    if experiment.train is not None:
        row["steps_planned"] = experiment.train.get("steps") or 0
        row["seconds_planned"] = float(experiment.train.get("seconds") or 0)
    home = _home(results, experiment, seed)
    if (home / "record.json").exists():
        record = records.read(home)
        row |= {"steps": record["steps"], "seconds_training": float(record["seconds"])}
        row["seconds"] = row["seconds_training"] + sum_evaluation_seconds(record)
        row["state"] = "done" if _is_current(record, experiment, seed, results) else "outdated"
        return row
    folder = _workplace(experiment, seed)
    if _is_locked(folder):
        row["state"] = "running"
    elif _is_begun(folder):
        row["state"] = "interrupted"
    else:
        return row
    curve = folder / "curve.csv"
    if curve.exists() and (last := _last_row(curve)):
        row |= {"steps": int(last[0]), "seconds_training": float(last[1])}
    row["seconds"] = row["seconds_training"] + _sum_evaluation_seconds(folder)
    return row


def _is_begun(folder: Path) -> bool:
    """Whether an unfinished run has something to go on from: a checkpoint, or a table or journal of a measurement.

    A curve without a checkpoint is none: the training begins anew.
    """
    kept = (path for pattern in ("safetensors", "csv", "journal") for path in folder.glob(f"[!.]*.{pattern}"))
    return (folder / "environment.json").exists() and any(path.name != "curve.csv" for path in kept)


def _sum_evaluation_seconds(folder: Path) -> float:
    """What the network took so far in the evaluations of an unfinished run, those of half a set included."""
    done = {path.stem: pd.read_csv(path).to_dict("records") for path in folder.glob("evaluation-*.csv")}
    for journal in folder.glob("evaluation-*.journal"):
        rows = done.setdefault(journal.stem, [])
        for line in [] if rows else journal.read_text(encoding="utf-8").splitlines():
            with suppress(ValueError):  # a line that is being written, or was cut off by a kill
                rows.append(json.loads(line))
    return float(sum(row["seconds"] * row.get("draws", 1) for rows in done.values() for row in rows))


def _is_current(record: records.Record, experiment: Experiment, seed: int, results: Path) -> bool:
    """Whether a record is of the settings and evaluations that the list names now, and of the weights of now."""
    asked = {evaluation.name: asdict(evaluation) for evaluation in experiment.evaluate}
    usual = asdict(Evaluation("", None))  # an option that is newer than the record had its default there
    done = {e["name"]: {name: e.get(name, usual[name]) for name in usual} for e in record["evaluations"]}
    if done != asked:
        return False
    used = {entry["name"] for entry in record["data"]}
    for kind in MEASURES:
        dataset = getattr(experiment, kind)
        if dataset and not (dataset in used and (record.folder / f"{kind}.csv").exists()):
            return False
    about = ("method", "variant", "colour", "sigma_255", "budget")
    if any(record[name] != getattr(experiment, name) for name in about):
        return False
    then = record["hyperparameters"]
    if experiment.train is None:  # a record without one of them is older than the note of it
        noted = _name_network(experiment)
        same = all(then[name]["value"] == noted[name] for name in noted.keys() & then.keys())
        return same and _has_weights_of_now(experiment.weights, then.get("weights", {}).get("origin"), results)
    now = {name: entry["value"] for name, entry in experiment.train_config(seed).hyperparameters().items()}
    now, then = json.loads(json.dumps(now)), record.settings
    # How often a run reports does not shape it, but where its rate waits for validations.
    names = now.keys() - {"checkpoint_every", "log_every"}
    names -= set() if now["schedule"] == "plateau" else {"validate_every"}
    if not all(now[name] == then.get(name) for name in names):
        return False
    return _has_weights_of_now(experiment.sizes.get("naive_weights"), then.get("naive_weights"), results)


def _has_weights_of_now(name: str | None, noted: str | None, results: Path) -> bool:
    """Whether the weights that a record notes, by the checksum of their tensors, are those that go by ``name`` now.

    True where there is nothing to compare: no note in an older record, or no such weights here.
    """
    from repro import weights
    from repro.published import SOURCES

    checksum = re.search(r"[0-9a-f]{64}", noted or "")
    if name is None or checksum is None or name in SOURCES:  # other authors' are pinned by a checksum of their own
        return True
    try:
        stored = weights.describe(name, results)["sha256"]  # of float16; as part of a network, they are float32
        return checksum[0] in (stored, weights.checksum(weights.load(name, results=results).state_dict()))
    except ReproError:
        return True


def choose(experiments: list[Experiment], budget: str | None = None, only: tuple[str, ...] = ()) -> list[Experiment]:
    """The experiments that ``budget`` and ``only`` mean, as :func:`run` takes them."""
    chosen = {}
    for pattern in only:
        found = [e for e in experiments if fnmatchcase(e.name, pattern) and budget in (None, e.budget)]
        if not found:
            raise unknown_name("experiment", pattern, [e.name for e in experiments if budget in (None, e.budget)])
        if budget is None and len({e.budget for e in found}) > 1:  # 'sadnet-*' does not ask for weeks of training
            fits = _budget_of_machine()
            found = [e for e in found if e.budget == fits] or found
        chosen |= {e.name: e for e in found if e.name not in chosen}
    if chosen:
        return list(chosen.values())
    budget = budget or _budget_of_machine()
    if budget not in listing.BUDGETS:
        raise unknown_name("budget", budget, listing.BUDGETS)
    return [e for e in experiments if e.budget == budget]


def _budget_of_machine() -> str:
    import torch

    return "gpu" if torch.cuda.is_available() else "cpu"


def _is_interruption(error: ReproError) -> bool:
    from repro.train import Interrupted

    return isinstance(error, Interrupted)


@contextmanager
def _ending(hours: float | None) -> Iterator[None]:
    """Within the block SIGINT and SIGTERM raise :class:`Stopped`, and SIGTERM comes by itself after
    ``hours``.

    Training has its own handlers, which first write a checkpoint. Where the exception is lost, as one is that meets a
    finaliser, SIGTERM comes again.
    """
    if threading.current_thread() is not threading.main_thread():
        if hours is not None:
            raise ReproError("A campaign with a limit in hours must run in the main thread.")
        yield
        return
    if hours is not None and not hours > 0:
        raise Stopped("There is no time for a campaign; nothing was begun.")

    asked: list[int] = []
    left = threading.Event()

    def stop(number, frame):
        asked.append(number)
        raise _Asked

    def end() -> None:
        before, wait = -1, hours * 3600
        while not left.wait(wait) and len(asked) != before:  # else training took it, and is about to end
            before, wait = len(asked), AGAIN_SECONDS
            os.kill(os.getpid(), signal.SIGTERM)

    signals = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.getsignal(number) for number in signals}
    try:
        for number in signals:
            signal.signal(number, stop)
        if hours is not None and hours * 3600 < threading.TIMEOUT_MAX:  # more is no limit
            threading.Thread(target=end, daemon=True).start()
        yield
    except _Asked:
        raise Stopped("The campaign was stopped; the same command goes on from there.") from None
    finally:
        left.set()
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _working_in(folder: Path) -> Iterator[None]:
    """One campaign per folder. What the system refuses is a ReproError, so that a campaign can pass it over."""
    try:
        with files.locked(folder / ".campaign", f"Another campaign works in {folder}."):
            yield
    except OSError as error:
        raise ReproError(f"Cannot write {error.filename or folder}: {error.strerror or error}.") from error


def _is_locked(folder: Path) -> bool:
    path = folder / ".campaign"
    if not path.exists():
        return False
    with path.open("r") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:  # a file system without locks: who wants to work there is told
            return False
    return False


def _last_row(curve: Path) -> list[str]:
    rows = [line for line in curve.read_text().splitlines(keepends=True)[1:] if line.endswith("\n")]
    return rows[-1].split(",") if rows else []


def _workplace(experiment: Experiment, seed: int) -> Path:
    return files.runs() / experiment.name / f"seed{seed}"


def _home(results: Path, experiment: Experiment, seed: int) -> Path:
    return results / "runs" / experiment.name / f"seed{seed}"


def _write_table(table: pd.DataFrame, path: Path) -> None:
    with files.write_atomically(path) as temporary:
        table.to_csv(temporary, index=False, float_format="%.6g", lineterminator="\n")


def format_status(frame: pd.DataFrame) -> str:
    """The status as text: one line per run, then the sums."""

    def clock(seconds: float) -> str:
        if pd.isna(seconds) or not seconds:
            return "?" if seconds else "-"
        return f"{seconds // 3600:.0f}:{seconds % 3600 // 60:02.0f}"

    lines = [f"{'experiment':<28} seed budget {'state':<12} {'steps':>8} {'spent':>6} {'left':>6}"]
    for row in frame.itertuples():
        lines.append(
            f"{row.experiment:<28} {row.seed:>4} {row.budget:<6} {row.state:<12} {row.steps:>8} "
            f"{clock(row.seconds):>6} {clock(row.seconds_left):>6}"
        )
    counts = ", ".join(f"{count} {state}" for state, count in frame["state"].value_counts().items())
    lines.append(f"{counts}; {frame['seconds'].sum() / 3600:.1f} h spent.")
    paper = frame["budget"] == "paper"
    left = [_format_left(part, name) for part, name in ((frame[~paper], ""), (frame[paper], " at the paper's budget"))]
    lines.append("; ".join(filter(None, left)).capitalize() + ".")
    return "\n".join(lines)


def _format_left(frame: pd.DataFrame, what: str) -> str:
    """The sum of the estimates, and how many open runs have none; empty where nothing is listed."""
    if not len(frame):
        return ""
    without = int(frame["seconds_left"].isna().sum())
    if without == len(frame):
        return f"no estimate of what is left{what}"
    missing = f", and there is no estimate for {without} run{'s' if without > 1 else ''}" if without else ""
    return f"about {frame['seconds_left'].sum() / 3600:,.1f} h left{what}{missing}"
