"""The scripts of this folder in a short form; SYMPFORMER_FAULTS=long runs them whole."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

LONG = os.environ.get("SYMPFORMER_FAULTS") == "long"

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


def script(name, *options):
    words = [sys.executable, str(Path(__file__).with_name(name)), *map(str, options)]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize(("kind", "every"), [("train", 20), ("compare", 120)])
def test_killed_at_file_operations(kind, every):
    """All file operations, in the long form."""
    assert "went on to equal weights" in script("kill.py", kind, "--every", 1 if LONG else every)


def test_killed_at_random_moments():
    assert "went on to equal" in script("kill.py", "train", "--random", 200 if LONG else 3)


def test_one_of_several_processes_is_killed():
    kills = ["--kills", 50 if LONG else 1]
    assert "went on to equal losses" in script("ranks.py", *kills)
    if LONG:
        script("ranks.py", "--parallel", "fsdp", *kills)


def test_damaged_files():
    assert "refused in one line" in script(
        "mutate.py", *(["--flips", 30] if LONG else ["--flips", 4, "--every", 60])
    )


def test_command_lines():
    short = ["--values", 1, "--every", 80]
    assert ", 0 wrong" in script("lines.py", *(["--values", 2] if LONG else short))


def test_values_in_files():
    short = ["--values", 1, "--every", 40]
    assert ", 0 wrong" in script("toml_values.py", *(["--values", 3] if LONG else short))


@pytest.mark.parametrize("kind", ["train", "compare"] if LONG else ["train"])
def test_full_disks(kind):
    short = ["--sizes", 2, "--every", 60]
    assert "lost nothing" in script("disk_full.py", kind, *([] if LONG else short))


def test_diverging_runs():
    assert "stopped with a good state kept" in script("diverge.py", "--runs", 40 if LONG else 2)
