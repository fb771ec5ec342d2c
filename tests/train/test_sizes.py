"""Sizes beyond memory are refused by an estimate, before anything is taken or written."""

from dataclasses import replace

import pytest

import sympformer as sf
from sympformer import InputError, machine
from sympformer.train import train
from sympformer.train.sizes import parameters, require_loops


@pytest.mark.parametrize("preset", ["gpt", "symp-r2", "symp-exp-euler", "linear-symp-r2"])
def test_the_count_is_that_of_the_model(tiny, preset):
    config = tiny(preset, n_layer=5)
    assert parameters(config) == pytest.approx(sf.build(config).num_parameters(), rel=0.01)


@pytest.mark.parametrize(
    ("model", "recipe", "part"),
    [
        ({"n_layer": 10**6}, {}, "parameters"),
        ({"n_layer": 10**6, "unique_layers": 2}, {}, "(activations|layers as objects)"),
        ({"n_embd": 2 * 10**6}, {}, "parameters"),
        ({"vocab_size": 10**11}, {}, "parameters"),
        ({}, {"accumulation": 10**8}, "batches of an update"),
        ({}, {"batch_size": 10**8}, "activations"),
    ],
)
def test_what_cannot_fit_is_refused(
    corpus, config, tiny, tmp_path, model, recipe, part, monkeypatch
):
    monkeypatch.setattr(machine, "free_memory", lambda device: 16 * 10**9)
    large = tiny("symp-h0", **{"vocab_size": 257, **model})
    own = replace(config, model=large, train=replace(config.train, **recipe))
    with pytest.raises(
        InputError, match=rf"at least [\d,.]+ GB.* for the {part}.*16.0 GB are free"
    ):
        train(own, corpus, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_matrix_beyond_counting(tiny):
    with pytest.raises(InputError, match="larger than any memory"):
        parameters(tiny("gpt", block_size=2**62))


def test_loops_without_end(tiny):
    config = tiny("symp-h0", n_layer=4, unique_layers=2)
    require_loops(config, 100)
    with pytest.raises(InputError, match="500,000 times the layers"):
        require_loops(config, 10**6)


def test_free_memory_is_said():
    free = machine.free_memory()
    assert free is None or free > 0
