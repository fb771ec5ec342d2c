"""A user's own files, as `--import` runs them."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from sympformer.errors import InputError
from sympformer.imports import import_from


@pytest.mark.parametrize("line", ["raise SystemExit", "import sys; sys.exit(0)", "exit(3)"])
def test_a_file_that_ends_the_program_is_refused(line, tmp_path):
    """The command would end with it, without a word and perhaps with exit code 0."""
    path = tmp_path / "script.py"
    path.write_text(f"import os\n{line}\n")
    with pytest.raises(InputError, match=r"line 2 of .*SystemExit"):
        import_from(str(path))


def test_a_module_that_ends_the_program_is_refused(tmp_path, monkeypatch):
    (tmp_path / "ends_the_program.py").write_text("raise SystemExit\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(InputError, match="cannot be imported: SystemExit"):
        import_from("ends_the_program")


def run(code, folder):
    done = subprocess.run(
        [sys.executable, "-c", "from sympformer.imports import *\n" + code],
        capture_output=True,
        text=True,
        cwd=folder,
    )
    return done.stdout.strip().splitlines()[-1:], done.stderr.strip().splitlines()[-1:]


def test_neighbours_that_a_file_imports_are_remembered(tmp_path):
    """A change of a neighbour is a change of the file; asked for again, it is taken and said."""
    (tmp_path / "mine_main.py").write_text("import mine_helper\n")
    helper = tmp_path / "mine_helper.py"
    helper.write_text("print('ran')\n")
    code = "import_from('mine_main.py'); print([*imported().values()], '|', *imported())"
    (said,), _ = run(code, tmp_path)
    digests, files = said.split(" | ")
    needed = dict(zip(files.split(), ast.literal_eval(digests), strict=True))
    assert [Path(name).name for name in needed] == ["mine_main.py", "mine_helper.py"]
    again = f"import_again({needed!r}, 'the run'); print(len(imported()))"
    assert run(again, tmp_path) == (["2"], [])
    each = f"[import_from(name) for name in {list(needed)!r}]; print(len(imported()))"
    assert run(each, tmp_path) == (["2"], [])
    helper.write_text("print('ran')  # a comment\n")
    out, (error,) = run(again, tmp_path)
    assert out == []
    assert "mine_helper.py has changed since the run was made" in error
    out, (error,) = run(f"import_from('mine_main.py'); {again}", tmp_path)
    assert out == ["2"]
    assert error.endswith("and is taken as it is now")
