"""The notebooks run from top to bottom on a real kernel, and are kept without what they print."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from traitlets.config import Config

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))
CELL_TIMEOUT_S = 1200  # of a cell that hangs; on a busy machine one may take minutes


def execute(notebook: Any, folder: Path) -> Any:
    """Run every cell on a kernel of this environment, on the loopback, in a folder that has nothing in it."""
    client = NotebookClient(
        copy.deepcopy(notebook),
        config=Config({"KernelManager": {"ip": "127.0.0.1"}}),
        timeout=CELL_TIMEOUT_S,
        startup_timeout=CELL_TIMEOUT_S,
        iopub_timeout=CELL_TIMEOUT_S,  # else what comes late is left out
        kernel_name="python3",
        resources={"metadata": {"path": str(folder)}},
    )
    return client.execute()


def printed(notebook: Any) -> list[int]:
    """The cells that hold outputs or a count."""
    code = [(i, cell) for i, cell in enumerate(notebook.cells) if cell.cell_type == "code"]
    return [i for i, cell in code if cell.outputs or cell.execution_count is not None]


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path: Path, tmp_path: Path) -> None:
    """No cell fails, no cell speaks on stderr, pictures are drawn, and nothing is left in the folder."""
    outputs = [
        output
        for cell in execute(nbformat.read(path, as_version=4), tmp_path).cells
        for output in cell.get("outputs", [])
    ]
    assert not [output.text for output in outputs if output.output_type == "stream" and output.name == "stderr"]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert not list(tmp_path.iterdir())


def test_a_failing_cell_is_told(tmp_path: Path) -> None:
    """The control: a cell that raises fails the run."""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1 / 0")])
    with pytest.raises(CellExecutionError, match="ZeroDivisionError"):
        execute(notebook, tmp_path)


def test_there_are_notebooks() -> None:
    """The tests of this file aren't empty."""
    assert NOTEBOOKS


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_outputs_are_stripped(path: Path) -> None:
    """A committed notebook holds neither outputs nor counts; one with either is caught (the control)."""
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert not printed(notebook), f"{path.name} holds outputs; clear them before committing"
    code = next(i for i, cell in enumerate(notebook.cells) if cell.cell_type == "code")
    for field, value in (("outputs", [nbformat.v4.new_output("stream", text="hi")]), ("execution_count", 1)):
        marked = copy.deepcopy(notebook)
        marked.cells[code][field] = value
        assert printed(marked) == [code]
