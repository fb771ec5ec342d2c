"""The code blocks of the pages run, in order, as a file of the reader's own would.

A block behind `<!-- needs NAME -->` runs where there is such a module, or such a name in
the package (`sf.NAME`).
"""

import hashlib
import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import sympformer as sf

PAGES = [
    *("audit.md", "blocks.md", "export.md", "extending.md", "huggingface.md", "report.md"),
    *("schemes.md", "tasks.md"),
]
"""Those that may register something: a process of its own each."""
PLAIN = ["citations.md", "concepts-flows.md", "start.md", "../README.md"]
ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
BLOCK = re.compile(r"^(?:<!-- needs (\S+) -->\n)?```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def text(page):
    return (DOCS / page).read_text(encoding="utf-8")


def there_is(needed):
    if needed.startswith("sf."):
        return hasattr(sf, needed.removeprefix("sf."))
    return importlib.util.find_spec(needed) is not None


def blocks(page):
    return [code for needed, code in BLOCK.findall(text(page)) if not needed or there_is(needed)]


def package():
    """The digest of every file of the package."""
    files = (path for path in (ROOT / "src").rglob("*") if "__pycache__" not in path.parts)
    return {f: hashlib.sha256(f.read_bytes()).digest() for f in files if f.is_file()}


def test_every_page_with_code_runs():
    pages = {path.name for path in DOCS.glob("*.md") if BLOCK.search(text(path.name))}
    assert {*pages, "../README.md"} == {*PAGES, *PLAIN}


@pytest.mark.parametrize("page", PLAIN)
def test_python_blocks_that_register_nothing(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tables = {**sf.model.PRESETS}, {**sf.dynamics.SCHEMES}
    exec(compile("\n".join(blocks(page)), page, "exec"), {"__name__": "__main__"})
    assert tables == (sf.model.PRESETS, sf.dynamics.SCHEMES)


@pytest.mark.parametrize("page", PAGES)
def test_python_blocks(page, tmp_path):
    """In a process of its own, without a change to any file of the package."""
    (tmp_path / "page.py").write_text("\n".join(blocks(page)), encoding="utf-8")
    before = package()
    done = subprocess.run([sys.executable, "page.py"], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert package() == before


def test_blocks_are_left_out_where_something_is_missing(monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "text", lambda page: PAGE)
    assert blocks("page.md") == ["first\n", "third\n"]


PAGE = """
```python
first
```
<!-- needs no_such_module -->
```python
second
```
<!-- needs sf.build -->
```python
third
```
<!-- needs sf.no_such_name -->
```python
fourth
```
"""


def test_the_file_of_the_audit(tmp_path):
    (block,) = (block for block in blocks("audit.md") if block.startswith("# models.py"))
    (tmp_path / "models.py").write_text(block)
    done = command("audit", "models.py:make", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "not made: cache" in done.stdout


def test_the_report_that_is_shown_has_the_rows_of_today():
    (shown,) = re.findall(r"^```text\n(.*?)^```$", text("audit.md"), re.MULTILINE | re.DOTALL)
    config = sf.ModelConfig.preset("symp-h0", vocab_size=64, block_size=32, n_layer=2, n_embd=16)
    today = str(sf.audit(sf.build(config)))
    number = re.compile(r"\d\.\de[+-]\d\d")
    assert number.sub("x", shown.rstrip()) == number.sub("x", today)


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
    taken = command("eval", "run", "--import", "mine.py", cwd=tmp_path)
    assert taken.returncode == 0, taken.stderr
    assert "and is taken as it is now" in taken.stderr
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert [Path(name).name for name in summary["imports"]] == ["mine.py"]
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
