"""The Snakefile, where Snakemake is installed (book/rerun.md says how): it runs what the campaign calls missing, and
a killed job is finished by the next start, with the same bits."""

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

needs_snakemake = pytest.mark.skipif(SNAKEMAKE is None, reason="snakemake is not installed; book/rerun.md says how")

LIST = """
[budget.smoke]
steps = 80
patch = 32
batch = 4
warmup_steps = 5
validation_images = 1
validate_every = 40
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
sizes = { width = 8, offset_width = 8 }
evaluate = [{ dataset = "embedded-test", limit = 1 }]

[[experiment]]
name = "small-dncnn"
why = "Goes on beside it."
method = "dncnn"
variant = "full"
colour = "rgb"
sigma_255 = 50
data = "embedded-train"
budget = "smoke"
sizes = { depth = 3, width = 8 }
evaluate = [{ dataset = "embedded-test", limit = 1 }]
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
        settings |= {"repro": self.repro}
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


def test_the_lock_of_the_cluster_names_what_it_needs():
    wanted = tomllib.loads((files.root() / "pyproject.toml").read_text())["dependency-groups"]["cluster"]
    locked = dict(
        line.split("==")
        for line in (files.root() / "requirements-cluster.lock").read_text().splitlines()
        if not line.startswith("#")
    )
    for requirement in map(Requirement, wanted):
        assert requirement.specifier.contains(locked[requirement.name])


@pytest.mark.slow
@needs_snakemake
def test_a_killed_job_is_finished_by_the_next_start(tmp_path):
    whole, killed = Workflow(tmp_path / "whole"), Workflow(tmp_path / "killed")
    assert whole.planned() == whole.missing() == NAMES
    code, said = whole.run()
    assert code == 0, said
    assert whole.planned() == whole.missing() == set()

    process = killed.start()
    curve = killed.runs / "small-sadnet" / "seed0" / "curve.csv"
    while not (curve.exists() and len(curve.read_text().splitlines()) > 3):
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.01)
    os.kill(find_process("experiment", "small-sadnet", str(killed.results)), signal.SIGKILL)
    said, _ = process.communicate(timeout=900)
    assert process.returncode != 0, said
    assert killed.planned() == killed.missing() == {"small-sadnet"}  # its neighbour was not disturbed
    steps = int(curve.read_text().splitlines()[-1].split(",")[0])
    assert 0 < steps < 80

    code, said = killed.run()
    assert code == 0, said
    assert "[interrupted]" in said
    assert killed.planned() == killed.missing() == set()
    for name in NAMES:
        ours, theirs = killed.weights(name), whole.weights(name)
        assert ours.keys() == theirs.keys()
        assert all((ours[key] == theirs[key]).all() for key in ours), name
        assert killed.curve(name) == whole.curve(name)  # losses to the last digit, so the float32 run is the same


@pytest.mark.slow
@needs_snakemake
def test_processes_of_a_job_share_its_batches(tmp_path):
    """Two processes, started by torchrun within the job, on the CPU."""
    alone = Workflow(tmp_path / "alone", only="small-sadnet")
    shared = Workflow(tmp_path / "shared", only="small-sadnet", processes=2)
    for workflow in (alone, shared):
        code, said = workflow.run()
        assert code == 0, said
    record = json.loads((shared.results / "runs" / "small-sadnet" / "seed0" / "record.json").read_text())
    assert record["device"].startswith("2 x ")
    for ours, theirs in zip(shared.curve("small-sadnet"), alone.curve("small-sadnet"), strict=True):
        assert float(ours["loss"]) == pytest.approx(float(theirs["loss"]), rel=1e-3)
