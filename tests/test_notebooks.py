"""Every notebook runs from top to bottom, and its stored outputs are the ones it gives."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = sorted((Path(__file__).parent.parent / "notebooks").glob("*.ipynb"))


def texts(notebook) -> list[str]:
    """Plain-text outputs of all cells; figures have none that says anything."""
    return [
        output.get("text", "") or output.get("data", {}).get("text/plain", "")
        for cell in notebook.cells
        if cell.cell_type == "code"
        for output in cell.outputs
        if output.output_type in ("stream", "execute_result")
    ]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_gives_its_stored_outputs(path):
    stored = nbformat.read(path, as_version=4)
    assert texts(stored), "a notebook is kept with its outputs"
    fresh = nbformat.from_dict(stored)
    NotebookClient(fresh, timeout=600, resources={"metadata": {"path": str(path.parent)}}).execute()
    assert texts(fresh) == texts(stored)
    assert path.stat().st_size < 200_000
