"""The two ways to install the study give the same versions."""

import re
import tomllib
from importlib.metadata import version
from pathlib import Path

from packaging.markers import Marker

ROOT = Path(__file__).parents[1]


def pins(lines):
    """``{name: version}`` of the lines that apply to Python 3.11, which environment.yml asks for."""
    found = {}
    for line in lines:
        requirement, _, marker = line.partition(";")
        name, _, pin = requirement.strip().partition("==")
        if not marker.strip() or Marker(marker.strip()).evaluate({"python_full_version": "3.11.9"}):
            found[name.lower()] = pin
    return found


def lock():
    return pins((ROOT / "requirements.lock").read_text().splitlines())


def conda():
    lines = (ROOT / "environment.yml").read_text().splitlines()
    return pins(line.strip("- ") for line in lines if "==" in line.partition(";")[0])


def direct():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = project["dependencies"] + project["optional-dependencies"]["test"]
    return {re.split(r"[><=; \[]", entry)[0].lower() for entry in wanted}


def test_conda_pins_equal_the_lock():
    assert conda() and all(lock()[name] == pin for name, pin in conda().items())


def test_conda_names_every_direct_dependency():
    assert set(conda()) >= {name for name in direct() if name in lock()}


def test_lock_is_what_is_installed():
    shared = {name: pin for name, pin in conda().items() if name in ("torch", "torchvision", "jupyter-book")}
    assert {name: version(name) for name in shared} == shared
