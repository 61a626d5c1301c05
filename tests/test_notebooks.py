"""Notebooks run from top to bottom, and their stored outputs are the ones they give.

The CDNOW story takes minutes, because it fits five times: its cells are run with given parameters,
and its stored numbers are held against those of the quickstart, which is run in full.
"""

from __future__ import annotations

import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

PLACE = Path(__file__).parent.parent / "notebooks"
SLOW = ("cdnow_story",)
NOTEBOOKS = sorted(path for path in PLACE.glob("*.ipynb") if path.stem not in SLOW)
FIXED = {
    "extends": str(PLACE.parent / "configs" / "cdnow.yaml"),
    "models": {
        "purchases": {"fixed": {"r": 0.243, "alpha": 4.414, "a": 0.793, "b": 2.426}},
        "spend": {"fixed": {"p": 6.25, "q": 3.74, "gamma": 15.44}},
    },
}


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


def test_cells_of_the_story_run_with_given_parameters(tmp_path, monkeypatch):
    notebook = nbformat.read(PLACE / "cdnow_story.ipynb", as_version=4)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    line = 'config = "../configs/cdnow.yaml"'
    assert sum(line in cell.source for cell in cells) == 1
    plug_in = '"../configs/cdnow_plug_in.yaml"'
    assert sum(plug_in in cell.source for cell in cells) == 1
    (tmp_path / "notebooks").mkdir()
    monkeypatch.chdir(tmp_path / "notebooks")
    names = {"FIXED": FIXED}
    for cell in cells:
        source = cell.source.replace(line, "config = FIXED").replace(plug_in, "FIXED")
        source = source.replace("%matplotlib inline", "")
        exec(compile(source, "cdnow_story", "exec"), names)
    assert (tmp_path / "runs" / "cdnow-story" / "history.html").exists()
    assert names["bridge"].summary["level"] == "point"


def test_the_story_is_kept_with_outputs_that_agree():
    path = PLACE / "cdnow_story.ipynb"
    notebook = nbformat.read(path, as_version=4)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert not [o for cell in cells for o in cell.outputs if o.output_type == "error"]
    assert path.stat().st_size < 300_000
    stored = texts(notebook)
    (quick,) = re.findall(r"expected\s+([\d,]+)", texts(nbformat.read(PLACE / "quickstart.ipynb", 4))[0])
    lines = dict(re.findall(r"^  (\S.*?)\s{2,}([\u2212\d,]+)\s", stored[0], flags=re.M))
    value = {name: float(text.replace(",", "").replace("\u2212", "-")) for name, text in lines.items()}
    assert lines["Opening, as published"] == quick
    ends = ("Opening, as published", "Opening, restated", "Closing")
    moved = sum(number for name, number in value.items() if name not in ends)
    # Each of the lines is rounded to a dollar.
    assert value["Closing"] - value[ends[0]] == pytest.approx(moved, abs=0.5 * len(value))
    said = next(text for text in stored if "Equity of existing customers" in text)
    assert f"USD\u00a0{quick}" in said
    assert f"to {lines['Closing']} " in said
    prose = " ".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    for number in re.findall(r"USD (\d[\d,]*\d)", prose):
        assert any(number in text for text in stored), number
