"""A machine without a compiler is told so in one line."""

import os
import subprocess
import sys

from sympformer.compiler import require_compiler

CODE = "from sympformer.compiler import require_compiler; require_compiler('cpu')"


def test_a_missing_compiler_is_told_in_one_line(tmp_path):
    """In a process of its own: torch looks for compilers once."""
    settings = {"CXX": str(tmp_path / "none"), "TORCHINDUCTOR_CACHE_DIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", CODE], env={**os.environ, **settings}, capture_output=True, text=True
    )
    last = done.stderr.strip().splitlines()[-1]
    assert done.returncode == 1
    assert last.startswith("sympformer.errors.InputError: torch.compile does not work here")
    assert "C++ compiler" in last


def test_a_compiler_that_is_there_is_no_error():
    require_compiler("cpu")
