"""The notebook runs from top to bottom, with few particles."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parents[2] / "docs" / "lab.ipynb"


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_notebook(monkeypatch):
    monkeypatch.setenv("PARTICLES", "40")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    NotebookClient(notebook, timeout=60, kernel_name="python3").execute()
    texts = [o.get("text", "") for c in notebook.cells for o in c.get("outputs", [])]
    assert "holds" in "".join(texts)
