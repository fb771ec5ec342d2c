"""A user's own files, as `--import` runs them."""

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
