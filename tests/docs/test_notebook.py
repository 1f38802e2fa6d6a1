"""The notebook runs from top to bottom, on a small run."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from tests.pipeline.whole_run import finish

NOTEBOOK = Path(__file__).parents[2] / "docs" / "notebooks" / "first_run.ipynb"


@pytest.mark.slow
@pytest.mark.ray
def test_the_notebook_runs(tmp_path, monkeypatch):
    run = tmp_path / "runs" / "mine"
    finish(run)
    monkeypatch.setenv("FT2RAY_RUN", str(run))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells), "it is kept without outputs"
    NotebookClient(notebook, timeout=600, kernel_name="python3").execute(cwd=str(NOTEBOOK.parent))
    shown = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert sum("video/mp4" in str(output) for output in shown) == 2
    text = "".join(output.get("text", "") for output in shown)
    assert "{'mn': " in text and "base {" in text and "tlpo {" in text
