"""The package from outside: what it imports, what the README promises."""

import re
import subprocess
import sys
from pathlib import Path

import sympformer as sf

ROOT = Path(__file__).parents[1]


def test_import_is_light():
    """No optional package, plotting or statistics is imported before it is used."""
    heavy = ("matplotlib", "scipy", "tokenizers", "rich", "tyro", "transformers", "datasets")
    code = f"import sys, sympformer; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_ci_runs_the_test_command_of_the_readme():
    commands = re.findall(r"^python3 -m venv .*$", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert len(commands) == 2, "one command for the main job, one for the tests"
    assert commands[1] in (ROOT / ".ci/run").read_text().splitlines()


def test_version():
    import sympformer

    declared = re.search(r'^version = "(.*)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert declared
    assert declared[1] == sympformer.__version__


def test_only_public_names_are_shown():
    shown = {name for name in dir(sf) if not name.startswith("_")}
    assert shown == {*sf.__all__, "causality"}
