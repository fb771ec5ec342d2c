"""The live table of a comparison."""

import io
import json
import re

import pytest
from rich.console import Console

from sympformer.study.board import Board
from sympformer.train import RunConfig, TrainConfig
from sympformer.train.progress import Progress
from sympformer.train.records import signed


@pytest.fixture
def clock(monkeypatch):
    class Clock:
        now = 0.0

    monkeypatch.setattr("time.monotonic", lambda: Clock.now)
    return Clock


@pytest.fixture
def configs(tiny):
    """Two models, two seeds, ten updates."""
    return [
        RunConfig(name, tiny(name), train=TrainConfig(steps=10, seed=seed), name=name)
        for seed in (0, 1)
        for name in ("gpt", "symp-r2")
    ]


def terminal():
    return Console(file=io.StringIO(), force_terminal=True, width=90)


def shown(board):
    """Rows of the table as it is now."""
    console = Console(file=io.StringIO(), width=90)
    console.print(board.table())
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


def train(progress, clock, config, losses, seconds=6.0):
    """Two updates of five steps each, each measured."""
    progress.begin(config, 0)
    for step, loss in zip((5, 10), losses, strict=True):
        clock.now += seconds
        progress.update({"step": step, "loss": loss, "tokens": 10 * step, "seconds": 1.0})
        progress.evaluated({"step": step, "valid_loss": loss, "tokens": 10 * step, "seconds": 1.0})
    progress.end()


def test_who_leads_and_the_time_that_is_left(configs, clock, tmp_path):
    board = Board(terminal(), configs, tmp_path)
    progress = Progress(terminal(), board)
    assert shown(board)[-1] == "valid: as last measured, nats a token; - left in all"
    train(progress, clock, configs[0], (3.0, 2.0))  # 1.2 s an update
    rows = shown(board)
    assert rows[1].split() == ["gpt", "leads", "10/20", "1/2", "2.900", "2.000", "12", "s"]
    assert rows[2].split() == ["symp-r2", "0/20", "0/2", "-", "-", "24", "s"]
    assert rows[-1].endswith("36 s left in all")
    train(progress, clock, configs[1], (1.5, 1.0), seconds=60.0)
    rows = shown(board)
    assert [row.split()[0] for row in rows[1:3]] == ["symp-r2", "gpt"]
    assert "leads" in rows[1]
    assert rows[1].split()[-2:] == ["2", "min"]
    assert rows[-1].startswith("valid: mean of 1 seed,")


def test_seeds_that_others_lack_do_not_count(configs, clock, tmp_path):
    board = Board(terminal(), configs, tmp_path)
    progress = Progress(terminal(), board)
    for config, loss in zip(configs[:3], (2.0, 1.9, 1.0), strict=True):
        train(progress, clock, config, (3.0, loss))
    assert board.ranked() == [("symp-r2", 1.9), ("gpt", 2.0)]


def test_what_the_folder_holds_is_there_from_the_beginning(configs, tmp_path):
    run = tmp_path / "gpt-s0"
    run.mkdir()
    configs[0].save(run / "config.toml")
    summary = signed({"steps": 10, "final_loss": 1.25})
    (run / "summary.json").write_text(json.dumps(summary))
    assert Board(terminal(), configs, tmp_path).ranked() == [("gpt", 1.25), ("symp-r2", None)]


def test_a_terminal_gets_the_table_and_a_log_file_its_lines(configs, clock, tmp_path):
    for is_terminal in (True, False):
        console = Console(file=io.StringIO(), force_terminal=is_terminal, width=90)
        board = Board(console, configs, tmp_path)
        with board:
            train(Progress(console, board), clock, configs[0], (3.0, 2.0), seconds=61.0)
        said = re.sub(r"\x1b\[[0-9;?]*\w", "", console.file.getvalue())
        assert ("gpt  leads" in said) is is_terminal
        assert ("gpt (seed 0): step 5 of 10, loss 3.0000" in said) is not is_terminal
