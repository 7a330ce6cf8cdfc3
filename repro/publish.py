"""`make book`: run the notebooks of the book, write the pages' numbers from the results, build the HTML.

The notebooks are executed with papermill into ``results/notebooks``, each appearing only when all of its
cells ran. What prose pages quote is written to ``book/_generated`` by :mod:`repro.pages`. Then Jupyter Book
builds ``_build/html`` with warnings as errors. Should a notebook fail, the book of the last time stays as it
is.
"""

import argparse
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import papermill
from nbclient.exceptions import DeadKernelError
from papermill.exceptions import PapermillExecutionError
from traitlets.config import Config

from repro import files, forensic_pages, noise_pages, pages, rerun_pages, status_pages
from repro.errors import ReproError
from repro.study.verdicts import Study

# In this order: where no trained network is published, the later ones use the one that the first trains.
NOTEBOOKS = ("first_look", "gallery", "offsets", "operator", "tables", "train", "evaluate")


def main(arguments: list[str] | None = None) -> int:
    """Run from the command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m repro.publish", description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="*", choices=NOTEBOOKS, metavar="NAME", help="run these alone")
    names = parser.parse_args(arguments).only
    try:
        page = publish(NOTEBOOKS if names is None else names)
    except ReproError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    print(f"The book: {page}")
    return 0


def publish(names: tuple[str, ...] | list[str] = NOTEBOOKS) -> Path:
    """Execute the notebooks ``names``, build the book from all, and return the path of its first page."""
    start = time.monotonic()

    def say(text: str) -> None:
        seconds = int(time.monotonic() - start)
        print(f"[{seconds // 60}:{seconds % 60:02d}] {text}", flush=True)

    _share_the_machine()
    for number, name in enumerate(names, 1):
        say(f"notebook {number} of {len(names)}: {name}")
        execute(name, files.results() / "notebooks" / f"{name}.ipynb")
    say("writing the numbers of the prose pages, building the HTML")
    page = build()
    say("done")
    return page


def execute(name: str, output: Path, **values: object) -> Path:
    """Run ``notebooks/<name>.ipynb`` with the parameters ``values`` into ``output``, and return its path.

    Raises :class:`ReproError` that names the cell and the error; the copy that failed is kept in
    ``_build/failed``.
    """
    files.require_writable(output)
    failed = files.root() / "_build" / "failed" / output.name
    failed.parent.mkdir(parents=True, exist_ok=True)
    running = failed.with_name(f"{failed.stem}-{os.getpid()}.ipynb")  # others may run the same notebook
    try:
        papermill.execute_notebook(
            str(files.root() / "notebooks" / f"{name}.ipynb"),
            str(running),
            values,
            kernel_name="python3",
            progress_bar=False,
            cwd=str(files.root()),
            config=Config({"KernelManager": {"transport_encryption": "auto"}}),  # without it kernels warn of listeners
            store_widget_state=False,  # a page that holds widgets asks other hosts for the scripts that draw them
        )
    except PapermillExecutionError as error:
        running.replace(failed)
        number, line = _find_failed_cell(failed)
        raise ReproError(
            f"The notebook {name} failed in cell {number} ({line}): "
            f"{error.ename}: {str(error.evalue).rstrip('.?')}. See {failed}."
        ) from None
    except DeadKernelError:
        running.replace(failed)
        raise ReproError(
            f"The kernel of the notebook {name} died, as it does where memory runs out. See {failed}."
        ) from None
    except BaseException:
        running.unlink(missing_ok=True)
        raise
    _forget_paths(running)
    with files.write_atomically(output) as temporary:  # which may be on another, smaller disk
        shutil.copyfile(running, temporary)
    running.unlink()
    return output


def _forget_paths(notebook: Path) -> None:
    """Take this machine's folders out of what papermill notes in a notebook: its pages are published with it."""
    content = nbformat.read(notebook, as_version=4)
    for name in ("input_path", "output_path"):
        content.metadata.get("papermill", {}).pop(name, None)
    nbformat.write(content, notebook)


def build() -> Path:
    """Build ``_build/html`` from the executed notebooks and the prose with its numbers; warnings are errors."""
    missing = [name for name in NOTEBOOKS if not (files.results() / "notebooks" / f"{name}.ipynb").exists()]
    if missing:
        raise ReproError(f"Not executed yet: {', '.join(missing)}; `make book` does it.")
    write_fragments(files.root() / "book" / "_generated")
    command = [sys.executable, "-c", "from jupyter_book.cli.main import main; main()", "build", "."]
    log = files.root() / "_build" / "book.log"
    log.parent.mkdir(exist_ok=True)
    with log.open("w") as stream:
        done = subprocess.run(
            [*command, "-n", "-W", "--keep-going"],
            cwd=files.root(),
            stdout=stream,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PYTHONUTF8": "1"},
        )
    if done.returncode:
        told = [line for line in log.read_text().splitlines() if "WARNING" in line or "ERROR" in line]
        raise ReproError("\n".join(["The book was built with faults:", *told[:20], f"All of it: {log}"]))
    return files.root() / "_build" / "html" / "index.html"


def write_fragments(folder: Path) -> None:
    """Write into ``folder`` what the prose pages include, numbers from claims, records and verdicts.

    What an earlier build wrote there is removed first, so that no page can include what nothing writes any more.
    """
    for left in folder.glob("*.md"):
        left.unlink()
    study = Study.load()
    settled = pages.join_verdicts(study)
    pages.write_all(folder, study, settled)
    forensic_pages.write_all(folder, study, settled)
    status_pages.write_all(folder, NOTEBOOKS)
    rerun_pages.write_all(folder)
    noise_pages.write_all(folder)


def _share_the_machine() -> None:
    """Let the notebooks use the processor cores that are free now, and wait without spinning.

    Threads that spin for one another while something else computes make the live chapter fifty times slower.
    """
    free = (os.cpu_count() or 1) - round(os.getloadavg()[0])
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, free)))
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def _find_failed_cell(path: Path) -> tuple[int, str]:
    """Number (from 1, in the executed copy) and first line of the cell that raised."""
    for number, cell in enumerate(nbformat.read(path, as_version=4).cells, 1):
        if any(output.get("output_type") == "error" for output in cell.get("outputs", [])):
            return number, cell.source.strip().splitlines()[0]
    return 0, "none"


if __name__ == "__main__":
    sys.exit(main())
