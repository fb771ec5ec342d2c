"""The engine: one update, its state, and stopping before damage."""

import copy
from dataclasses import replace

import pytest
import torch

import sympformer as sf
from sympformer import InputError
from sympformer.data import Loader
from sympformer.train.engine import DivergenceError, Engine
from sympformer.train.optimizer import parameter_groups


@pytest.fixture
def make(corpus, config):
    """A function that makes an engine; its weights are the same every time."""

    def engine(rank: int = 0, world_size: int = 1, **changes) -> Engine:
        torch.manual_seed(0)
        t = replace(config.train, **changes)
        loader = Loader(
            corpus.train, config.model.block_size, t.batch_size, t.data_seed, rank, world_size
        )
        return Engine(sf.build(config.model), loader, t)

    return engine


def weights(engine):
    return [p.detach().clone() for p in engine.model.parameters()]


def test_an_engine_goes_on_from_a_state(make):
    engine, other = make(), make()
    engine.update()
    state = copy.deepcopy(engine.state_dict())
    assert set(state) == {*("model", "optimizer", "finite", "loader", "step", "tokens", "seconds")}
    other.load_state_dict({**state, "corpus": "of somebody else"})
    assert (other.step, other.seconds, other.tokens) == (1, engine.seconds, 4 * 24)
    rows = [e.update() for e in (engine, other)]
    assert [rows[0][name] == rows[1][name] for name in ("loss", "lr", "grad_norm")] == [True] * 3
    assert all(map(torch.equal, weights(engine), weights(other)))


def test_a_state_of_other_batches_is_refused_whole(make):
    engine, other = make(), make(data_seed=1)
    engine.update()
    before = weights(other)
    with pytest.raises(InputError, match="seed was 0, now it is 1"):
        other.load_state_dict(engine.state_dict())
    assert all(map(torch.equal, before, weights(other)))


def test_accumulation_is_one_large_batch(make):
    rows = [make(batch_size=4).update(), make(batch_size=2, accumulation=2).update()]
    assert rows[0]["loss"] == pytest.approx(rows[1]["loss"], rel=1e-5)
    assert rows[0]["grad_norm"] == pytest.approx(rows[1]["grad_norm"], rel=1e-4)


def test_an_update_reads_the_device_once(make, monkeypatch):
    """On an accelerator every reading of a number waits for all that was asked of it."""
    engine, readings = make(accumulation=2), []
    engine.update()  # the optimizer makes its state
    monkeypatch.setattr(engine.model, "_check", lambda *_: None)  # ids are read on the CPU only

    def watched(name):
        method = getattr(torch.Tensor, name)
        return lambda self, *given: readings.append(name) or method(self, *given)

    for name in ("tolist", "item", "cpu", "numpy", "__bool__", "__float__", "__int__"):
        monkeypatch.setattr(torch.Tensor, name, watched(name))
    engine.update()
    assert readings == ["tolist"]


@pytest.mark.parametrize("group", ["embeddings", "scalars", "weights"])
def test_a_gradient_that_is_not_finite_is_named_and_not_applied(make, group):
    engine = make()
    engine.update()
    parameter_groups(engine.model)[group][0].register_hook(lambda g: g * float("nan"))
    before = weights(engine)
    with pytest.raises(DivergenceError, match=f"step 1: the gradient of the {group} not finite"):
        engine.update()
    assert all(map(torch.equal, before, weights(engine)))
    assert engine.step == 1


def test_a_loss_that_is_not_finite_is_named_and_not_applied(make):
    engine = make()
    with torch.no_grad():
        engine.model.norm.weight[0] = float("inf")
    before = weights(engine)
    with pytest.raises(DivergenceError, match="step 0: the loss and the gradient of the"):
        engine.update()
    assert all(map(torch.equal, before, weights(engine)))
