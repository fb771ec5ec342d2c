import io
import json
import tarfile
from pathlib import Path

import pytest
from rich.console import Console

from sympformer.errors import InputError
from sympformer.study import load_results, print_table, write_archive, write_report


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


def test_an_archive_is_a_folder_of_runs_without_weights(write_run, tmp_path: Path):
    for name in ("gpt", "yurii"):
        run = write_run(name, command="/opt/bin/sympformer compare --text /home/me/a.txt")
        for other in ("environment.json", "model.safetensors"):
            (run / other).write_text('{"text": "/home/me/a.txt"}')
    (write_run("symp-r2") / "summary.json").unlink()
    archive = tmp_path / "kept" / "study.tar.xz"
    assert write_archive(tmp_path, archive) == 2
    before = archive.read_bytes()
    write_archive(tmp_path, archive)
    assert archive.read_bytes() == before
    with tarfile.open(archive) as opened:
        opened.extractall(tmp_path / "again", filter="data")
    kept = load_results(tmp_path / "again")
    for one, other in zip(
        kept, load_results([tmp_path / "gpt-s0", tmp_path / "yurii-s0"]), strict=True
    ):
        assert (one.preset, one.final_loss) == (other.preset, other.final_loss)
        assert one.curve.loss.tolist() == other.curve.loss.tolist()
    files = sorted(path.name for path in (tmp_path / "again" / "gpt-s0").iterdir())
    assert (tmp_path / "again" / "gpt-s0" / "environment.json").read_text() == '{"text": "a.txt"}'
    assert kept[0].command == "sympformer compare --text a.txt"
    assert files == ["config.toml", "environment.json", "metrics.jsonl", "summary.json"]
    with pytest.raises(InputError, match="no finished run"):
        write_archive(tmp_path / "symp-r2-s0", archive)


@pytest.mark.parametrize("terminal", [True, False])
def test_the_table_is_printed_for_terminals_and_pipes(write_run, terminal: bool):
    results = load_results([write_run("gpt"), write_run("yurii", final=1.9)])
    stream = io.StringIO()
    print_table(results, console=Console(file=stream, force_terminal=terminal, width=120))
    assert "1.9000" in stream.getvalue()
    assert stream.getvalue().startswith("| model |") is not terminal
