import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from sympformer.errors import InputError
from sympformer.study import load_results, print_table, write_report


def test_a_report_is_five_files(write_run, tmp_path: Path):
    results = load_results([write_run("gpt"), write_run("yurii", final=1.9)])
    paths = write_report(results, tmp_path / "report")
    assert [path.name for path in paths] == [
        "table.md",
        "table.tex",
        "results.json",
        "loss.png",
        "loss.svg",
    ]
    assert set((tmp_path / "report").iterdir()) == set(paths)
    assert json.loads(paths[2].read_text())["presets"][1]["preset"] == "yurii"


def test_nothing_is_written_without_the_baseline(write_run, tmp_path: Path):
    results = load_results([write_run("yurii")])
    with pytest.raises(InputError, match="baseline"):
        write_report(results, tmp_path / "report")
    assert not (tmp_path / "report").exists()


@pytest.mark.parametrize("terminal", [True, False])
def test_the_table_is_printed_for_terminals_and_pipes(write_run, terminal: bool):
    results = load_results([write_run("gpt"), write_run("yurii", final=1.9)])
    stream = io.StringIO()
    print_table(results, console=Console(file=stream, force_terminal=terminal, width=120))
    assert "1.9000" in stream.getvalue()
    assert stream.getvalue().startswith("| model |") is not terminal
