"""The notebooks as they are committed. `python notebooks/run.py --quick`, in CI, executes them."""

import ast
import json
import re
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
LARGEST = 600_000  # bytes of a file, outputs included

each = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def cells(path, kind):
    return [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == kind]


def source(cell):
    return "".join(cell["source"])


@each
def test_outputs_are_of_one_complete_run(path):
    code = cells(path, "code")
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell["outputs"]]
    assert any("image/jpeg" in output.get("data", {}) for output in outputs), "no picture"
    assert not [output for output in outputs if output["output_type"] == "error"]
    assert not [output for output in outputs if output.get("name") == "stderr"], "warnings are shown"


@each
def test_it_is_small_and_names_no_machine(path):
    assert path.stat().st_size < LARGEST
    text = path.read_text()
    assert not re.search(r"/(home|root|tmp|usr|work|Users)/", text)
    metadata = json.loads(text)["metadata"]
    assert set(metadata) == {"kernelspec", "language_info"}, "written by notebooks/run.py?"


@each
def test_its_code_is_python_and_its_cells_are_a_screen(path):
    for cell in cells(path, "code"):
        ast.parse(source(cell))  # no magics: it also runs as a script
        assert source(cell).count("\n") < 60
    assert source(cells(path, "markdown")[0]).startswith("# "), "a title first"


@each
def test_it_has_a_quick_mode(path):
    assert any("JAXPLAIN_QUICK" in source(cell) for cell in cells(path, "code"))


def test_they_are_numbered_and_introduced():
    assert [path.name[:2] for path in NOTEBOOKS] == [f"{n}_" for n in range(1, len(NOTEBOOKS) + 1)]
    readme = (FOLDER / "README.md").read_text()
    for path in NOTEBOOKS:
        assert f"]({path.name})" in readme
