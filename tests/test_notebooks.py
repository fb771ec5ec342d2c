"""The notebooks run from top to bottom, quickly, and say what their pages say."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

DOCS = Path(__file__).parents[1] / "docs"
QUICK = {"PARTICLES": "40", "UPDATES": "12", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
NEEDED = {"transformers": ("transformers", "accelerate")}
SAID = {
    "first-model": ("CAUSAL", "read again: the same logits"),
    "inside": ("positions: (4, 1, 14, 32)", "the grammar"),
    "lab": ("holds",),
    "transformers": ("model finds likelier: Ana walked", "tuned finds likelier: Ana swam"),
}


def test_every_notebook_is_run():
    assert {path.stem for path in DOCS.glob("*.ipynb")} == set(SAID)


@pytest.mark.parametrize("name", SAID)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_notebook(name, monkeypatch):
    for module in NEEDED.get(name, ()):
        pytest.importorskip(module)
    for variable, value in QUICK.items():
        monkeypatch.setenv(variable, value)
    notebook = nbformat.read(DOCS / f"{name}.ipynb", as_version=4)
    NotebookClient(notebook, timeout=120, kernel_name="python3").execute()
    outputs = [o for c in notebook.cells for o in c.get("outputs", [])]
    said = "".join(o.get("text", "") for o in outputs)
    assert all(words in said for words in SAID[name]), said
