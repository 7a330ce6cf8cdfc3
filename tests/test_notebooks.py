"""The notebooks as files: parameters, no outputs, and what each must begin and end with. None is executed
here."""

import ast
import re
from pathlib import Path

import nbformat
import papermill
import pytest

from repro import files, publish

NOTEBOOKS = sorted((files.root() / "notebooks").glob("*.ipynb"))
by_name = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def code_cells(path: Path) -> list:
    return [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]


def test_every_notebook_is_executed_for_the_book():
    assert {path.stem for path in NOTEBOOKS} == set(publish.NOTEBOOKS)


@by_name
def test_stored_without_outputs_and_valid(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    for cell in code_cells(path):
        assert not cell.outputs and cell.execution_count is None
    assert set(notebook.metadata) <= {"kernelspec", "language_info"}


@by_name
def test_size_and_shape(path):
    cells = nbformat.read(path, as_version=4).cells
    assert 10 <= len(cells) <= 25
    assert cells[0].source.startswith("# "), "one title"
    assert cells[-1].cell_type == "code" and "notebooks.say(" in cells[-1].source, "ends in one sentence"


@by_name
def test_one_parameters_cell_of_documented_plain_values(path):
    tagged = [cell for cell in code_cells(path) if "parameters" in cell.metadata.get("tags", [])]
    assert len(tagged) == 1
    body = ast.parse(tagged[0].source).body
    assert body and all(isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant) for node in body)
    named = [node.targets[0].id for node in body]
    assert list(papermill.inspect_notebook(str(path))) == named
    # The record at the top says each of them, and the page on re-running lists them.
    record = next(cell.source for cell in code_cells(path) if "describe_run" in cell.source)
    assert all(re.search(rf"\b{name}={name}\b", record) for name in named)
    listed = (files.root() / "book" / "rerun.md").read_text(encoding="utf-8")
    assert f"| `{path.stem}` |" in listed
    row = next(line for line in listed.splitlines() if line.startswith(f"| `{path.stem}` |"))
    assert [name.strip() for name in row.split("|")[3].split(",")] == named


@by_name
def test_the_record_is_the_first_output(path):
    cells = code_cells(path)
    shows = [
        cell for cell in cells if re.search(r"\b(notebooks|plots)\.(say|show|show_table|describe_run)\(", cell.source)
    ]
    assert "notebooks.describe_run(" in shows[0].source


@by_name
def test_every_picture_is_described(path):
    for cell in code_cells(path):
        for node in ast.walk(ast.parse(cell.source)):
            is_picture = isinstance(node, ast.Call) and ast.unparse(node.func) in (
                "plots.show",
                "plots.compare",
            )
            if is_picture:
                assert any(keyword.arg == "alt" for keyword in node.keywords), ast.unparse(node)[:80]


@by_name
def test_no_measured_value_is_typed(path):
    for cell in nbformat.read(path, as_version=4).cells:
        assert not re.search(r"\b\d\d\.\d\d?\s*dB", cell.source), cell.source
