"""The Snakefile, by the Snakemake of `make cluster`: it runs what the campaign calls missing, and a killed job is
finished, by the same run or by the next, with the same bits."""

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from safetensors.torch import load_file

from repro import files

HOME = files.root() / ".venv-cluster" / "bin" / "snakemake"
SNAKEMAKE = str(HOME) if HOME.exists() else shutil.which("snakemake")

needs_snakemake = pytest.mark.skipif(SNAKEMAKE is None, reason="Snakemake is not installed: make cluster")

STEPS = 40
LIST = f"""
[budget.smoke]
steps = {STEPS}
patch = 32
batch = 4
warmup_steps = 5
validation_images = 1
validate_every = {STEPS}
checkpoint_every = 5
log_every = 5

[[experiment]]
name = "small-sadnet"
why = "Killed in the middle."
method = "sadnet"
variant = "full"
colour = "rgb"
sigma_255 = 50
data = "embedded-train"
budget = "smoke"
sizes = {{ width = 8, offset_width = 8 }}
evaluate = [{{ dataset = "embedded-test", limit = 1 }}]

[[experiment]]
name = "small-dncnn"
why = "Goes on beside it."
method = "dncnn"
variant = "full"
colour = "rgb"
sigma_255 = 50
data = "embedded-train"
budget = "smoke"
sizes = {{ depth = 3, width = 8 }}
evaluate = [{{ dataset = "embedded-test", limit = 1 }}]
"""
NAMES = {"small-sadnet", "small-dncnn"}


class Workflow:
    """A Snakemake of its own: working directory, results, unfinished runs."""

    def __init__(self, folder: Path, **settings):
        self.folder, self.results, self.runs = folder, folder / "results", folder / "unfinished"
        folder.mkdir()
        (folder / "list.toml").write_text(LIST)
        self.repro = Path(sys.executable).with_name("repro")
        settings = {"budget": "smoke", "results": self.results, "experiments": folder / "list.toml"} | settings
        settings = {"repro": self.repro} | settings
        self.command = [SNAKEMAKE, "--snakefile", files.root() / "Snakefile", "--directory", folder, "--nocolor"]
        self.command += ["--cores", "2", "--config", *(f"{name}={value}" for name, value in settings.items())]
        self.environment = os.environ | {"REPRO_RUNS": str(self.runs)}

    def start(self, *options) -> subprocess.Popen:
        command = [*map(str, self.command), *options]
        return subprocess.Popen(
            command, env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    def run(self, *options) -> tuple[int, str]:
        process = self.start(*options)
        said, _ = process.communicate(timeout=900)
        return process.returncode, said

    def planned(self) -> set[str]:
        """The experiments of a dry run."""
        code, said = self.run("--dry-run")
        assert code == 0, said
        return set(re.findall(r"wildcards: experiment=([^,]+), seed=0", said))

    def missing(self) -> set[str]:
        """The experiments that the campaign's status calls missing."""
        command = [self.repro, "campaign", "--status", "--json", "--results", self.results]
        command += ["--experiments", self.folder / "list.toml"]
        done = subprocess.run(command, env=self.environment, stdout=subprocess.PIPE, check=True)
        return {row["experiment"] for row in json.loads(done.stdout) if row["state"] not in ("done", "outdated")}

    def curve(self, name: str) -> list[dict]:
        rows = csv.DictReader((self.results / "runs" / name / "seed0" / "curve.csv").open())
        return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]

    def weights(self, name: str) -> dict:
        return load_file(self.results / "weights" / f"{name}-seed0.safetensors")


def find_process(*words: str) -> int:
    """The process of the study's command with these words, not the shell that started it."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            arguments = path.read_bytes().decode().split("\0")
        except OSError:  # it has ended meanwhile
            continue
        if set(words) <= set(arguments):
            return int(path.parent.name)
    raise LookupError(f"No process has the words {words}.")


def find_states(name: str, said: str) -> list[str]:
    """What the campaign called an experiment at each of its starts."""
    return re.findall(rf"\] {name} seed 0: .* \[(\w+)\]", said)


def test_the_lock_of_the_cluster_names_what_it_needs():
    wanted = tomllib.loads((files.root() / "pyproject.toml").read_text())["dependency-groups"]["cluster"]
    locked = dict(
        line.split("==")
        for line in (files.root() / "requirements-cluster.lock").read_text().splitlines()
        if not line.startswith("#")
    )
    for requirement in map(Requirement, wanted):
        assert requirement.specifier.contains(locked[requirement.name])


@needs_snakemake
@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"bugdet": "cpu"}, "There is no setting bugdet; known to --config are budget, only, results,"),
        ({"repro": "/nonexistent/repro"}, "There is no command /nonexistent/repro here"),
    ],
)
def test_a_setting_that_is_unknown_or_names_no_command_is_refused(settings, sentence, tmp_path):
    code, said = Workflow(tmp_path / "wrong", **settings).run("--dry-run")
    assert code != 0 and sentence in said


RUN = "{repro} experiment small-sadnet --seed 0 --results {results} --experiments {list}"
TORCHRUN = "{torchrun} --no-python --nproc-per-node=8"
STORAGE = ("--default-storage-provider", "fs", "--default-storage-prefix", "/study")


@needs_snakemake
@pytest.mark.parametrize(
    ("settings", "options", "resources", "command"),
    [
        ({}, (), {"nodes": "1"}, RUN),
        ({"gpus": 8}, (), {"gpu": "8", "gpu_manufacturer": "nvidia", "scale": "0"}, f"{TORCHRUN} --standalone {RUN}"),
        (
            {"gpus": 8, "nodes": 2},
            (),
            {"nodes": "2", "tasks": "2", "mpi": "srun", "slurm_extra": "--gpus-per-node=8"},
            "srun --nodes=2 --ntasks=2 --ntasks-per-node=1 --cpus-per-task=32 --gpus-per-node=8 "
            f'{TORCHRUN} --nnodes=2 --rdzv-backend=c10d --rdzv-endpoint="$(hostname)":29400 '
            f'--rdzv-id="$SLURM_JOB_ID" {RUN}',
        ),
        (  # in pods the record is copied to where Snakemake's storage finds it
            {"gpus": 1},
            STORAGE,
            {"gpu": "1", "scale": "0"},
            f"{RUN} && cp {{record}} .snakemake/storage/fs/study/snakemake/runs/small-sadnet/seed0/record.json",
        ),
    ],
    ids=["one process", "a node of GPUs", "two nodes of GPUs", "pods"],
)
def test_what_a_scheduler_is_told_of_a_run(settings, options, resources, command, tmp_path):
    """Planned and not run: there is no cluster here."""
    planned = Workflow(tmp_path / "planned", **settings)
    code, said = planned.run("--dry-run", "--printshellcmds", *options)
    assert code == 0, said
    (job,) = re.findall(r"wildcards: experiment=small-sadnet, .*?\nShell command: .*?\n", said, re.DOTALL)
    told = dict(re.findall(r"(\w+)=([^,\n]+)", job.partition("resources: ")[2].partition("\n")[0]))
    assert told.items() >= resources.items() and ("gpu" in resources) == ("gpu" in told)
    places = {"repro": planned.repro, "torchrun": planned.repro.with_name("torchrun"), "results": planned.results}
    places |= {"list": planned.folder / "list.toml", "record": planned.results / "runs/small-sadnet/seed0/record.json"}
    assert job.partition("Shell command: ")[2].strip() == command.format(**places)


def test_every_setting_of_the_snakefile_is_explained_at_its_top():
    text = (files.root() / "Snakefile").read_text()
    explained = re.findall(r"^    (\w+)  ", text.split('"""')[1].partition("Settings (")[2], re.MULTILINE)
    (known,) = re.findall(r"^SETTINGS = \((.*?)^\)", text, re.MULTILINE | re.DOTALL)
    assert sorted(re.findall(r'"(\w+)"', known)) == sorted(explained)
    assert set(re.findall(r'config(?:\.get\(|\[)"(\w+)"', text)) == set(explained)


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Workflow:
    """A run that nobody disturbs: both jobs, side by side."""
    workflow = Workflow(tmp_path_factory.mktemp("snakemake") / "whole")
    assert workflow.planned() == workflow.missing() == NAMES
    code, said = workflow.run()
    assert code == 0, said
    assert "Execute 2 jobs" in said
    assert workflow.planned() == workflow.missing() == set()
    return workflow


def kill_a_job(workflow: Workflow, run: subprocess.Popen) -> None:
    """SIGKILL for the training of small-sadnet, after some of its steps."""
    curve = workflow.runs / "small-sadnet" / "seed0" / "curve.csv"
    while not (curve.exists() and len(curve.read_text().splitlines()) > 3):
        assert run.poll() is None, run.communicate()[0]
        time.sleep(0.01)
    os.kill(find_process("experiment", "small-sadnet", str(workflow.results)), signal.SIGKILL)
    steps = int(curve.read_text().splitlines()[-1].split(",")[0])
    assert 0 < steps < STEPS


def run_and_kill_a_job(workflow: Workflow) -> tuple[int, str]:
    """A run in the middle of which one job is killed."""
    process = workflow.start()
    kill_a_job(workflow, process)
    said, _ = process.communicate(timeout=900)
    return process.returncode, said


def assert_same_networks(ours: Workflow, theirs: Workflow) -> None:
    for name in NAMES:
        weights, expected = ours.weights(name), theirs.weights(name)
        assert weights.keys() == expected.keys()
        assert all((weights[key] == expected[key]).all() for key in expected), name
        assert ours.curve(name) == theirs.curve(name)  # losses to the last digit, so the float32 run is the same


@pytest.mark.slow
@needs_snakemake
def test_a_killed_job_is_finished_by_the_next_start(whole, tmp_path):
    killed = Workflow(tmp_path / "killed")
    code, said = run_and_kill_a_job(killed)
    assert code != 0, said
    assert killed.planned() == killed.missing() == {"small-sadnet"}  # its neighbour was not disturbed

    code, said = killed.run()
    assert code == 0, said
    assert find_states("small-sadnet", said) == ["interrupted"]
    assert killed.planned() == killed.missing() == set()
    assert_same_networks(killed, whole)


@pytest.mark.slow
@needs_snakemake
def test_a_run_with_retries_completes_although_a_job_is_killed(whole, tmp_path):
    killed = Workflow(tmp_path / "killed", retries=1)
    code, said = run_and_kill_a_job(killed)
    assert code == 0, said
    assert find_states("small-sadnet", said) == ["waiting", "interrupted"]
    assert find_states("small-dncnn", said) == ["waiting"]
    assert killed.planned() == killed.missing() == set()
    assert_same_networks(killed, whole)


@pytest.mark.slow
@needs_snakemake
def test_processes_of_a_job_share_its_batches(whole, tmp_path):
    """Two processes, started by torchrun within the job, on the CPU."""
    shared = Workflow(tmp_path / "shared", only="small-sadnet", processes=2)
    code, said = shared.run()
    assert code == 0, said
    record = json.loads((shared.results / "runs" / "small-sadnet" / "seed0" / "record.json").read_text())
    assert record["device"].startswith("2 x ")
    for ours, theirs in zip(shared.curve("small-sadnet"), whole.curve("small-sadnet"), strict=True):
        assert float(ours["loss"]) == pytest.approx(float(theirs["loss"]), rel=1e-3)
