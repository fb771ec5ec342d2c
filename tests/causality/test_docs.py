"""The examples of docs/audit.md run as they stand."""

import importlib.util
import re
from pathlib import Path

import sympformer as sf
from sympformer.cli import main

PAGE = Path(__file__).parents[2] / "docs" / "audit.md"
TEXT = PAGE.read_text("utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)


def test_every_block_runs():
    names: dict[str, object] = {}
    for block in BLOCKS:
        if "transformers" in block and importlib.util.find_spec("transformers") is None:
            continue
        exec(compile(block, str(PAGE), "exec"), names)


def test_the_file(tmp_path, capsys):
    (block,) = (block for block in BLOCKS if block.startswith("# models.py"))
    file = tmp_path / "models.py"
    file.write_text(block)
    assert main(["audit", f"{file}:make"]) == 0
    assert "not made: cache" in capsys.readouterr().out


def test_the_shown_report_has_the_rows_of_today():
    (shown,) = re.findall(r"^```text\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
    config = sf.ModelConfig.preset("symp-h0", vocab_size=64, block_size=32, n_layer=2, n_embd=16)
    today = str(sf.audit(sf.build(config)))
    number = re.compile(r"\d\.\de[+-]\d\d")
    assert number.sub("x", shown.rstrip()) == number.sub("x", today)
