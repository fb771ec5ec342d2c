"""The code blocks of the pages run, in order, as a file of the reader's own would."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[1] / "docs"


def blocks(page):
    return re.findall(r"```python\n(.*?)```", (DOCS / page).read_text(encoding="utf-8"), re.S)


@pytest.mark.parametrize("page", ["blocks.md", "extending.md"])
def test_python_blocks(page, tmp_path):
    file = tmp_path / "page.py"
    file.write_text("\n".join(blocks(page)), encoding="utf-8")
    done = subprocess.run([sys.executable, str(file)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def command(*arguments, cwd):
    words = [sys.executable, "-m", "sympformer", *map(str, arguments)]
    return subprocess.run(words, capture_output=True, text=True, cwd=cwd)


def test_the_file_of_the_page_is_imported_and_recorded(tmp_path):
    """Trained, resumed, evaluated; refused when it is gone or has changed."""
    file = tmp_path / "mine.py"
    file.write_text(
        "\n".join(b for b in blocks("extending.md") if "check_" not in b), encoding="utf-8"
    )
    sizes = "--n-layer 1 --n-head 1 --n-embd 16 --block-size 16 --batch-size 2 --steps 2 "
    sizes += "--warmup 0 --eval-every 1 --eval-blocks 2 --train-tokens 3000 --valid-tokens 400"
    done = command(
        "train", "mine", "--import", "mine.py", *sizes.split(), "--out", "run", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert "sharpness = 6.0" in (tmp_path / "run" / "config.toml").read_text()
    assert command("eval", "run", cwd=tmp_path).returncode == 0
    (tmp_path / "moved.py").write_text(file.read_text())
    file.write_text(file.read_text() + "\nprint('it runs')\n")
    changed = command("eval", "run", cwd=tmp_path)
    assert changed.returncode == 2
    assert "has changed since" in changed.stderr
    assert "it runs" not in changed.stdout
    moved = command("eval", "run", "--import", "moved.py", cwd=tmp_path)
    assert moved.returncode == 0, moved.stderr
    file.unlink()
    gone = command("eval", "run", cwd=tmp_path)
    assert gone.returncode == 2
    assert "does not exist" in gone.stderr
    assert "Traceback" not in changed.stderr + gone.stderr


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("1 / 0", "line 1 of .*mine.py: ZeroDivisionError"),
        ("def", "line 1 of .*mine.py: SyntaxError"),
        (
            "import sympformer as sf\nsf.register_preset('gpt', sf.Preset('mine', {}))",
            "line 2 of .*mine.py: .*'gpt' already",
        ),
    ],
)
def test_a_file_that_fails_is_named_with_its_line(code, says, tmp_path):
    (tmp_path / "mine.py").write_text(code)
    done = command("presets", "--import", "mine.py", cwd=tmp_path)
    assert done.returncode == 2
    assert re.search(says, done.stderr)
    assert "Traceback" not in done.stderr
    missing = command("presets", "--import", cwd=tmp_path)
    assert (missing.returncode, "needs a FILE.py" in missing.stderr) == (2, True)
