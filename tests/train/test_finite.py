"""Updates that are not finite: skipped as often as is allowed, counted; the scale of float16."""

import json
import math
from dataclasses import replace

import pytest
import torch

import sympformer as sf
from sympformer.data import Loader
from sympformer.train import TrainConfig, train
from sympformer.train.engine import DivergenceError, Engine
from sympformer.train.finite import FIRST_SCALE, OVERFLOWS, PATIENCE, Finite
from sympformer.train.loop import Run

NAN = float("nan")


def test_updates_are_skipped_in_a_row_and_then_stop():
    finite = Finite(TrainConfig(skip_nonfinite=2))
    applied = [finite.applies(i, loss, {}) for i, loss in enumerate([1, NAN, NAN, 1, NAN, NAN])]
    assert applied == [True, False, False, True, False, False]
    assert finite.skipped == 4
    words = "step 6: the gradient of the weights not finite, nor in the 2 updates before it"
    with pytest.raises(DivergenceError, match=words):
        finite.applies(6, 1.0, {"weights": math.inf, "scalars": 1.0})


def test_without_the_option_the_first_stops():
    with pytest.raises(DivergenceError, match="the loss not finite; the update was not applied"):
        Finite(TrainConfig()).applies(0, NAN, {"weights": 1.0})


def test_the_scale_of_float16_halves_and_doubles():
    finite = Finite(TrainConfig(dtype="float16"))
    assert (finite.scale, finite.allowed) == (FIRST_SCALE, OVERFLOWS)
    assert not finite.applies(0, 1.0, {"weights": math.inf})
    assert finite.scale == FIRST_SCALE / 2
    other = Finite(TrainConfig(dtype="float16"))
    other.load_state_dict(finite.state_dict())
    for step in range(PATIENCE):
        assert other.scale == FIRST_SCALE / 2
        assert other.applies(step, 1.0, {"weights": 1.0})
    assert (other.scale, other.skipped) == (FIRST_SCALE, 1)


def test_a_run_counts_what_it_skips(corpus, config, tmp_path, monkeypatch):
    """Two updates in a row: their rows say so, and they change no weight."""
    whole = Run.update

    def update(self):
        factor = NAN if self.engine.step in (1, 2) else 1
        handle = self.model.norm.weight.register_hook(lambda g: g * factor)
        before = [p.detach().clone() for p in self.model.parameters()]
        row = whole(self)
        handle.remove()
        same = all(map(torch.equal, before, self.model.parameters()))
        assert same == (row["event"] == "skip")
        return row

    monkeypatch.setattr(Run, "update", update)
    allowing = [replace(config, train=replace(config.train, skip_nonfinite=n)) for n in (1, 2)]
    summary = train(allowing[1], corpus, tmp_path / "run")
    assert (summary["skipped"], summary["steps"], summary["tokens"]) == (2, 6, 4 * 4 * 24)
    rows = [json.loads(r) for r in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [(r["step"], r["skipped"]) for r in rows if r["event"] == "skip"] == [(2, 1), (3, 2)]
    with pytest.raises(DivergenceError, match=r"diverged at step 2: .* in the 1 updates before"):
        train(allowing[0], corpus, tmp_path / "one")


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_lower_precision_is_near_to_float32(corpus, config, dtype):
    """Weights, moments and gradients stay in float32; the scale changes nothing but overflows."""
    found = {}
    for kind in ("float32", dtype):
        torch.manual_seed(0)
        recipe = replace(config.train, dtype=kind)
        engine = Engine(sf.build(config.model), Loader(corpus.train, 24, 4, 0), recipe)
        found[kind] = [engine.update() for _ in range(6)]
        assert {p.dtype for p in engine.model.parameters()} == {torch.float32}
        moments = engine.state_dict()["optimizer"].values()
        assert {value.dtype for states in moments for value in states.values()} == {torch.float32}
    assert engine.finite.scale == (FIRST_SCALE if dtype == "float16" else 1)
    for a, b in zip(found["float32"], found[dtype], strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=0.02)
        assert a["grad_norm"] == pytest.approx(b["grad_norm"], rel=0.1)
