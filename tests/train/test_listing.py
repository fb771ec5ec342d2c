"""The list of runs, as they stand."""

import json
import os
from dataclasses import replace

import pytest

from sympformer import InputError
from sympformer.cli import main
from sympformer.errors import Stopped
from sympformer.files import locked
from sympformer.train import train
from sympformer.train.engine import DivergenceError
from sympformer.train.folder import LOCK, RunFolder
from sympformer.train.listing import listed
from sympformer.train.metrics import MetricsLog


@pytest.fixture
def runs(corpus, config, tmp_path):
    """One that is finished, one that is stopped after its first evaluation."""
    train(config, corpus, tmp_path / "a")
    stops = iter([0, 0, 0, 0, 15])
    with pytest.raises(Stopped):
        train(config, corpus, tmp_path / "deeper" / "b", stop=lambda: next(stops))
    return tmp_path


def test_what_is_known_of_each(runs):
    first, second = listed(runs)
    rows = RunFolder(runs / "a").metrics()
    losses = [row["valid_loss"] for row in rows if row["event"] == "eval"]
    assert (first.folder, first.state, first.step, first.steps) == (runs / "a", "finished", 6, 6)
    assert (first.valid_loss, first.best_loss) == (losses[-1], min(losses))
    assert first.loss == rows[-2]["loss"]
    assert first.go_on == ""
    assert (second.state, second.step) == ("stopped", 4)
    assert second.go_on == f"sympformer train --resume {runs / 'deeper' / 'b'}"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_one_that_is_running(runs):
    """In another process; a line that is half-written does not matter."""
    folder = runs / "deeper" / "b"
    ready, written = os.pipe()
    over, end = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(end)
        with locked(folder / LOCK, "it"), open(folder / "metrics.jsonl", "a") as file:
            file.write('{"event": "train", "step": 5, "loss"')
            file.flush()
            os.write(written, b"1")
            os.read(over, 1)
            os._exit(0)
    os.read(ready, 1)
    assert (listed(runs)[1].state, listed(runs)[1].go_on) == ("running", "")
    os.close(end)
    os.waitpid(child, 0)
    assert listed(runs)[1].state == "stopped"


def test_one_that_diverged(corpus, config, tmp_path, monkeypatch):
    config = replace(config, train=replace(config.train, learning_rate=1e-2))
    original = MetricsLog.record

    def wild(self, row):
        original(self, row)
        if row["step"] == 5 and row["event"] == "train":
            raise DivergenceError("training diverged at step 5: the loss is not finite")

    monkeypatch.setattr(MetricsLog, "record", wild)
    with pytest.raises(DivergenceError, match="go on from step 3"):
        train(config, corpus, tmp_path / "run")
    (run,) = listed(tmp_path)
    assert (run.state, run.step) == ("diverged", 5)
    assert run.go_on == f"sympformer train --resume {tmp_path / 'run'} --learning-rate 0.005"
    monkeypatch.undo()
    train(config, corpus, tmp_path / "run", resume=True)
    (run,) = listed(tmp_path)
    assert run.state == "finished"
    assert all(row["event"] != "diverged" for row in RunFolder(tmp_path / "run").metrics())


def test_the_command(runs, capsys):
    assert main(["runs", str(runs), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [run["state"] for run in found] == ["finished", "stopped"]
    assert main(["runs", str(runs)]) == 0
    shown = capsys.readouterr().out
    assert "4 of 6" in shown
    assert "2 runs below" in shown
    (runs / "a" / "config.toml").write_text("steps = ")
    main(["runs", str(runs), "--json"])
    assert json.loads(capsys.readouterr().out)[0]["state"] == "damaged"
    assert main(["runs", str(runs / "absent")]) == 2


def test_no_folder(tmp_path):
    with pytest.raises(InputError, match="no folder"):
        listed(tmp_path / "absent")
    assert listed(tmp_path) == []
