"""The campaign on many machines: a job for every seed of every experiment whose record is missing.

    snakemake -n                                          what is missing of the budget `paper`
    snakemake --cores 2 --config budget=cpu threads=1     two jobs side by side on this machine
    snakemake --executor slurm --config gpus=8            on a cluster (book/rerun.md has the commands)

The list is results/experiments.toml, and `repro campaign --status` says what of it is missing: Snakemake has only its
answer. A job is `repro experiment NAME --seed K`, which goes on from the last checkpoint; a job that was killed is
finished by the next `snakemake`, with the same weights. Records that exist are no targets, so that no option of
Snakemake removes or repeats them. When the jobs are over, the study's verdicts are settled anew.

Settings (--config NAME=VALUE):

    budget       smoke, cpu, gpu or paper (paper, unless `only` is given)
    only         experiments, or patterns of names, with commas between them
    results      folder of records and weights (results)
    experiments  another list than results/experiments.toml
    gpus         GPUs of a run on each of its nodes (1 where runs of the budgets gpu or paper are meant, else none)
    nodes        nodes of a run (1)
    processes    processes of a run on each of its nodes, among which each batch is shared (one for each GPU)
    threads      processor cores of a job on each node (4 for each GPU, else 1); its arithmetic depends on it, in the
                 last bits
    retries      how often a job is started again by itself, which goes on where it was (0)
    minutes      time limit of a job for which the campaign has no estimate yet (1440)
    margin       time limit of a job in units of its estimate (1.5)
    repro        the study's command (.venv/bin/repro, or the one on the PATH)
"""

import json
import math
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

EVALUATION_MINUTES = 60  # beyond the campaign's estimate, which knows the network's share of an evaluation alone

SETTINGS = (
    "budget", "only", "results", "experiments", "gpus", "nodes", "processes", "threads", "retries", "minutes", "margin",
    "repro",
)  # fmt: skip
if unknown := sorted(config.keys() - set(SETTINGS)):
    raise WorkflowError(f"There is no setting {', '.join(unknown)}; known to --config are {', '.join(SETTINGS)}.")

ROOT = Path(workflow.basedir)
RESULTS = Path(config.get("results", ROOT / "results")).resolve()
if "repro" in config:
    REPRO = shutil.which(str(config["repro"]))
else:
    REPRO = shutil.which(ROOT / ".venv" / "bin" / "repro") or shutil.which("repro")
if REPRO is None:
    named = config.get("repro", "repro")
    raise WorkflowError(f"There is no command {named} here; name it with --config repro=/path/to/repro.")
ONLY = [name for name in str(config.get("only", "")).split(",") if name]
IN_STORAGE = workflow.storage_settings.default_storage_provider is not None
BUDGET = config.get("budget", None if ONLY else "paper")
PLACE = ["--results", RESULTS]
if "experiments" in config:
    PLACE += ["--experiments", Path(config["experiments"]).resolve()]


def ask_campaign():
    """What the campaign says of every run that is meant: {(experiment, seed): row}."""
    command = [REPRO, "campaign", "--status", "--json", *PLACE]
    command += ["--budget", BUDGET] if BUDGET else []
    command += [word for name in ONLY for word in ("--only", name)]
    done = subprocess.run([str(word) for word in command], stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise WorkflowError("The campaign could not say what is missing; its reason stands above.")
    return {(row["experiment"], str(row["seed"])): row for row in json.loads(done.stdout)}


RUNS = ask_campaign()
MISSING = [run for run, row in RUNS.items() if row["state"] not in ("done", "outdated", "running")]
elsewhere = [f"{name} seed {seed}" for (name, seed), row in RUNS.items() if row["state"] == "running"]
if elsewhere and workflow.is_main_process:
    print(f"Left to the process that works on it: {', '.join(elsewhere)}.", file=sys.stderr)


def locate_record(experiment, seed):
    """The record; where Snakemake keeps files in a storage of its own (Kubernetes), a copy of it, which it may move."""
    place = f"runs/{experiment}/seed{seed}/record.json"
    return f"snakemake/{place}" if IN_STORAGE else f"{RESULTS}/{place}"


def limit_minutes(wildcards):
    left = RUNS[wildcards.experiment, wildcards.seed]["seconds_left"]
    if left is None:
        return int(config.get("minutes", 1440))
    return math.ceil(float(config.get("margin", 1.5)) * left / 60) + EVALUATION_MINUTES


NODES = int(config.get("nodes", 1))
GPUS = int(config.get("gpus", any(row["budget"] in ("gpu", "paper") for row in RUNS.values())))
PROCESSES = int(config.get("processes", max(1, GPUS)))
THREADS = int(config.get("threads", 4 * GPUS or 1))

# What schedulers are told of nodes and GPUs. The executor for SLURM reads `runtime`, `nodes` and `gpu`; a run on
# several nodes is an "MPI" job to it, whose command starts its tasks itself and whose GPUs are counted by node. The one
# for Kubernetes reads `gpu`, `gpu_manufacturer`, and `scale`, without which it sets no limits: GPUs need them.
NEEDS = {"nodes": NODES}
if NODES > 1:
    NEEDS |= {"tasks": NODES, "mpi": "srun"}
if GPUS and NODES > 1:
    NEEDS |= {"slurm_extra": f"--gpus-per-node={GPUS}"}
elif GPUS:
    NEEDS |= {"gpu": GPUS, "gpu_manufacturer": "nvidia", "scale": 0}

# What the command of a run begins with. On several nodes, each starts its processes; the shell runs on the first, where
# they find one another.
TORCHRUN = f"{shlex.quote(str(Path(REPRO).with_name('torchrun')))} --no-python --nproc-per-node={PROCESSES}"
if NODES > 1:
    LAUNCH = (
        f"srun --nodes={NODES} --ntasks={NODES} --ntasks-per-node=1 --cpus-per-task={THREADS} "
        f"{f'--gpus-per-node={GPUS} ' if GPUS else ''}{TORCHRUN} --nnodes={NODES} --rdzv-backend=c10d --rdzv-endpoint=\"$(hostname)\":29400 "
        '--rdzv-id="$SLURM_JOB_ID" '
    )
else:
    LAUNCH = f"{TORCHRUN} --standalone " if PROCESSES > 1 else ""


def write_command(wildcards, output):
    command = [REPRO, "experiment", wildcards.experiment, "--seed", wildcards.seed, *PLACE]
    line = LAUNCH + shlex.join(map(str, command))
    if IN_STORAGE:
        record = f"{RESULTS}/runs/{wildcards.experiment}/seed{wildcards.seed}/record.json"
        line += f" && cp {shlex.quote(record)} {shlex.quote(output[0])}"
    return line


rule all:
    input:
        [locate_record(*run) for run in MISSING],
    localrule: True


def list_needed(wildcards):
    """Records of missing runs whose weights this one begins from."""
    needs = RUNS[wildcards.experiment, wildcards.seed]["needs"]
    first = [next((run for run in RUNS if run[0] == name), None) for name in needs]  # a row begins from first seeds
    return [locate_record(*run) for run in first if run in MISSING]


rule experiment:
    input:
        list_needed,
    output:
        locate_record("{experiment}", "{seed}"),
    wildcard_constraints:
        experiment="[^/]+",
        seed="[0-9]+",
    threads: THREADS
    resources:
        runtime=limit_minutes,
        **NEEDS,
    retries: int(config.get("retries", 0))
    params:
        command=write_command,
    shell:
        "{params.command}"


def settle():
    """Renew the study's verdicts, by what is there now. Other results have none."""
    if RESULTS == ROOT / "results":
        subprocess.run([REPRO, "claims", "--write"])


onsuccess:
    settle()


onerror:
    settle()
