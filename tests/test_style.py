"""The code is as ruff wants it: one style, no dead names. No file holds what a merge left."""

import re
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize("command", [("check",), ("format", "--check")])
def test_ruff_finds_nothing(command):
    ruff = [sys.executable, "-m", "ruff", *command, "--no-cache", "."]
    done = subprocess.run(ruff, cwd=Path(__file__).parents[1], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_no_file_holds_what_a_merge_left():
    root = Path(__file__).parents[1]
    kinds = {".css", ".csv", ".ipynb", ".js", ".json", ".md", ".py", ".toml", ".yml", ".cu", ".c", ".h"}
    folders = (root / name for name in ("book", "notebooks", "repro", "results", "tests"))
    texts = [path for folder in folders for path in folder.rglob("*") if path.suffix in kinds]
    assert len(texts) > 100
    mark = re.compile(rb"^(<{7}|>{7})( |$)", re.MULTILINE)
    held = [path for path in (*texts, *root.glob("*.*")) if path.is_file() and mark.search(path.read_bytes())]
    assert held == []
