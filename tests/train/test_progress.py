"""What is shown of a run."""

import pytest
from rich.console import Console

from sympformer.train.progress import Progress


@pytest.fixture
def clock(monkeypatch):
    class Clock:
        now = 0.0

    monkeypatch.setattr("time.monotonic", lambda: Clock.now)
    return Clock


def row(step, loss=2.0):
    return {"step": step, "loss": loss, "tokens": 100 * step, "seconds": float(step)}


def test_a_log_file_gets_a_line_a_minute(config, clock, capsys):
    progress = Progress(Console(stderr=True, width=200))
    progress.begin(config, 2)
    for step in (3, 4, 5):
        clock.now += 40
        progress.update(row(step))
    progress.end()
    (line,) = capsys.readouterr().err.splitlines()
    assert line == "symp-h0 (seed 0): step 4 of 6, loss 2.0000, 100 tokens/s, 1 min left"


def test_a_terminal_gets_a_bar_alone(config, clock, capsys):
    progress = Progress(Console(stderr=True, width=200, force_terminal=True))
    progress.begin(config, 0)
    clock.now = 100.0
    progress.update(row(3))
    progress.end()
    assert "min left" not in capsys.readouterr().err
