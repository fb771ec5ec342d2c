"""Runs that pages are about: two models, two seeds each, and one that was stopped."""

import json
import shutil
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest

from sympformer.cli import main

FAST = [
    *("--n-layer", "2", "--n-head", "2", "--n-embd", "16", "--block-size", "32"),
    *("--train-tokens", "6000", "--valid-tokens", "2000", "--batch-size", "4"),
    *("--steps", "4", "--warmup", "2", "--eval-every", "2", "--eval-blocks", "8"),
]

PLAN = """
presets = ["gpt", "symp-exp-euler"]
seeds = [0, 1]

[hypothesis.momentum-helps]
entry = "symp-exp-euler"
against = "gpt"
"""


@pytest.fixture(scope="session")
def runs(tmp_path_factory):
    """A folder of finished runs, and beside it one whose run was stopped after two updates."""
    pytest.importorskip("plotly")
    out = tmp_path_factory.mktemp("page") / "runs"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SYMPFORMER_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
        plan = out.parent / "plan.toml"
        plan.write_text(PLAN)
        assert main(["compare", "--config", str(plan), "--out", str(out), *FAST]) == 0
    stopped = out.parent / "stopped"
    shutil.copytree(out / "symp-exp-euler-s0", stopped)
    (stopped / "summary.json").unlink()
    rows = (stopped / "metrics.jsonl").read_text().splitlines()
    kept = [row for row in rows if json.loads(row)["step"] <= 2]
    (stopped / "metrics.jsonl").write_text("\n".join(kept) + '\n{"event": "tr')  # half a line
    return out


@pytest.fixture(scope="session")
def page(runs, tmp_path_factory):
    """The page of the finished runs."""
    path = tmp_path_factory.mktemp("html") / "page.html"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SYMPFORMER_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
        assert main(["report", str(runs), "--html", str(path)]) == 0
    return path


@pytest.fixture(scope="session")
def browser(tmp_path_factory):
    """A headless browser; without one, tests that need it are skipped."""
    spec = spec_from_file_location("browser", Path(__file__).with_name("browser.py"))
    assert spec
    assert spec.loader
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    if module.CHROMIUM is None:
        pytest.skip("needs Chromium")
    browser = module.Browser(tmp_path_factory.mktemp("profile"))
    yield browser
    browser.close()
