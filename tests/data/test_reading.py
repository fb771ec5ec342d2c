import pytest

from sympformer.data import reading as module
from sympformer.data.reading import reading


@pytest.fixture
def clock(monkeypatch):
    """A clock that is set by hand."""

    class Clock:
        now = 0.0

    monkeypatch.setattr("time.monotonic", lambda: Clock.now)
    return Clock


def test_a_log_file_gets_a_line_a_minute_with_the_time_left(clock, capsys):
    with reading("encoding", 400_000_000) as advance:
        for second in range(130):
            clock.now = float(second)
            advance(1_000_000)
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "encoding: 61 MB read, 1.0 MB/s, 15% of 400 MB, 6 min left",
        "encoding: 121 MB read, 1.0 MB/s, 30% of 400 MB, 5 min left",
    ]


def test_an_unknown_length_has_no_time_left(clock, capsys):
    with reading("encoding", None) as advance:
        clock.now = 100.0
        advance(3_000_000)
    assert capsys.readouterr().err == "encoding: 3 MB read, 0.0 MB/s\n"


def test_nothing_is_shown_without_a_label(clock, capsys):
    with reading(None, 10) as advance:
        clock.now = 100.0
        advance(5)
    assert capsys.readouterr().err == ""


def test_a_terminal_gets_a_bar(monkeypatch, capsys):
    console = module.Console
    monkeypatch.setattr(module, "Console", lambda **kw: console(**kw, force_terminal=True))
    with reading("encoding", 10) as advance:
        advance(10)
    shown = capsys.readouterr().err
    assert "encoding" in shown
    assert "10/10 bytes" in shown
