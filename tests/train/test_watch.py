"""Trackers are told what is in the metrics, and end no run."""

import json
import sys
from typing import ClassVar

import pytest
from rich.console import Console

from sympformer import InputError
from sympformer.train import watch as module
from sympformer.train.loop import train
from sympformer.train.watch import Watched, numbers


class Told:
    """A tracker that remembers; it may fail."""

    made: ClassVar[list["Told"]] = []
    fails = False

    def __init__(self, where, label, config, step):
        self.where, self.label, self.config, self.begun = where, label, config, step
        self.rows, self.ended = [], False
        self.made.append(self)

    def log(self, step, values):
        self.rows.append((step, dict(values)))
        if self.fails:
            raise OSError("no\nnetwork")

    def end(self):
        self.ended = True


@pytest.fixture
def told(monkeypatch):
    monkeypatch.setitem(module.TRACKERS, "told", Told)
    monkeypatch.setattr(module, "require", lambda *_: None)
    monkeypatch.setattr(Told, "made", [])
    return Told


def watched(folder, *names):
    return Watched(Console(stderr=True, width=200), names, folder)


def test_it_is_told_every_row(told, corpus, config, tmp_path):
    train(config, corpus, tmp_path / "run", progress=watched(tmp_path, "told"))
    (tracker,) = told.made
    assert tracker.ended
    assert (tracker.label, tracker.begun) == ("symp-h0-lr0.003-s0", 0)
    json.dumps(tracker.config)
    rows = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert [step for step, _ in tracker.rows] == [row["step"] for row in rows]
    for (_, values), row in zip(tracker.rows, rows, strict=True):
        kind = row["event"]
        name = {"train": "loss", "eval": "valid_loss"}[kind]
        assert values[f"{kind}/{name}"] == row[name]
        if kind == "eval":
            assert {n: v for n, v in values.items() if n.startswith("scalars/")} == {
                f"scalars/{n}": v for n, v in row["scalars"].items()
            }


def test_one_that_fails_ends_no_run(told, corpus, config, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(told, "fails", True)
    summary = train(config, corpus, tmp_path / "run", progress=watched(tmp_path, "told"))
    assert summary["steps"] == 6
    assert len(told.made[0].rows) == 1
    said = [line for line in capsys.readouterr().err.splitlines() if "told has failed" in line]
    assert len(said) == 1
    assert "(OSError: no network): it is told nothing more" in said[0]


def test_numbers_of_a_row():
    row = {"event": "eval", "step": 3, "loss": 1.5, "sample": "text", "scalars": {"a.h_x": 0.3}}
    assert numbers(row, "eval") == {"eval/loss": 1.5, "scalars/a.h_x": 0.3}


@pytest.mark.parametrize("name", list(module.TRACKERS))
def test_a_missing_package_is_asked_for_by_name(name, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(InputError, match=rf"--watch {name} needs {name}.*sympformer\[{name}\]"):
        watched(tmp_path, name)


def test_an_unknown_tracker(tmp_path):
    with pytest.raises(InputError, match="unknown tracker 'wandbb': did you mean 'wandb'"):
        watched(tmp_path, "wandbb")


def test_tensorboard_itself(corpus, config, tmp_path):
    pytest.importorskip("tensorboard")
    train(config, corpus, tmp_path / "run", progress=watched(tmp_path / "run", "tensorboard"))
    name = "tensorboard.backend.event_processing.event_accumulator"
    (folder,) = (tmp_path / "run" / "tensorboard").iterdir()
    events = pytest.importorskip(name).EventAccumulator(str(folder))
    events.Reload()
    assert [event.step for event in events.Scalars("train/loss")] == [1, 2, 3, 4, 5, 6]
    assert [event.step for event in events.Scalars("eval/valid_loss")] == [3, 6]
    assert "scalars/blocks.1.attention.beta" in events.Tags()["scalars"]


def test_trackio_itself(corpus, config, tmp_path, monkeypatch):
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    pytest.importorskip("trackio")
    train(config, corpus, tmp_path / "run", progress=watched(tmp_path / "run", "trackio"))
    assert list((tmp_path / "trackio").glob("*.db"))


def test_wandb_itself_offline(corpus, config, tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.delenv("WANDB_MODE", raising=False)
    train(config, corpus, tmp_path / "run", progress=watched(tmp_path / "run", "wandb"))
    assert list((tmp_path / "run" / "wandb").glob("offline-run-*"))
