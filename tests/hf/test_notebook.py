"""The notebook for those who know `transformers` runs from top to bottom."""

from pathlib import Path

import nbformat
import pytest

pytest.importorskip("transformers")
pytest.importorskip("accelerate")

from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parents[2] / "docs" / "transformers.ipynb"


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_notebook(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    NotebookClient(notebook, timeout=120, kernel_name="python3").execute()
    texts = "".join(o.get("text", "") for c in notebook.cells for o in c.get("outputs", []))
    assert "model finds likelier: Ana walked" in texts, texts
    assert "tuned finds likelier: Ana swam" in texts, texts
