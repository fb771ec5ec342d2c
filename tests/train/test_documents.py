"""Documents that share a block and do not see one another."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import sympformer as sf
from sympformer import InputError
from sympformer.data.documents import IGNORED
from sympformer.data.loader import valid_blocks
from sympformer.train import DataConfig, evaluate, train
from sympformer.train.config import RunConfig
from sympformer.train.examples import examples


@pytest.fixture
def told(corpus, config):
    """A corpus with documents of 3 to 30 tokens, and a config that keeps them apart."""
    ends = np.random.default_rng(2).integers(3, 30, size=400).cumsum()
    arrays = {"train": corpus.train.copy(), "valid": corpus.valid.copy()}
    for array in arrays.values():
        array[ends[ends < len(array)]] = corpus.tokenizer.eos
    masked = replace(config, data=DataConfig(document_mask=True))
    return replace(corpus, **arrays, digest="told"), masked


@torch.no_grad()
def test_evaluation_is_the_mean_over_all_targets(told):
    corpus, config = told
    model, eos = sf.build(config.model), corpus.tokenizer.eos
    found = examples(corpus, config).evaluate(model)
    total = count = 0
    for inputs, targets, _ in valid_blocks(corpus.valid, 24, 4, 8):
        for row, wanted in zip(inputs, targets, strict=True):
            starts = sorted({0, *(row == eos).nonzero().flatten().tolist()})
            for start, end in zip(starts, [*starts[1:], 24], strict=True):
                loss = model(row[None, start:end], wanted[None, start:end]).loss
                total, count = total + loss.item() * (end - start), count + end - start
    assert found.tokens == count == 8 * 24
    assert found.loss == pytest.approx(total / count, rel=1e-5)
    assert found.floor == pytest.approx(np.log(2), rel=1e-5)
    packed = evaluate(model, valid_blocks(corpus.valid, 24, 4, 8))
    assert packed.loss != pytest.approx(found.loss, rel=1e-4)


def test_a_run_counts_every_target_and_resumes_exactly(told, tmp_path):
    corpus, config = told
    whole = train(config, corpus, tmp_path / "whole")
    assert whole["tokens"] == 6 * 4 * 24
    stops = iter([0, 0, 0, 15])
    with pytest.raises(sf.errors.Stopped):
        train(config, corpus, tmp_path / "torn", stop=lambda: next(stops))
    resumed = train(config, corpus, tmp_path / "torn", resume=True)
    assert resumed["final_loss"] == whole["final_loss"]
    packed = replace(config, data=DataConfig())
    other = train(packed, corpus, tmp_path / "packed")
    assert other["final_loss"] != whole["final_loss"]
    assert other["tokens"] == whole["tokens"]


def test_where_it_is_refused(config, tiny):
    data = DataConfig(document_mask=True)
    with pytest.raises(InputError, match="causality = 'joint' would see"):
        RunConfig("gpt", tiny("gpt", causality="joint"), data)
    with pytest.raises(InputError, match="leave out compile"):
        replace(config, data=data, train=replace(config.train, compile=True))
    with pytest.raises(InputError, match="document_mask has no effect on task"):
        DataConfig(task="parity", document_mask=True)


def test_targets_that_do_not_count_are_those_of_the_engine():
    from sympformer.model.loss import IGNORED as OF_MODELS

    assert IGNORED == OF_MODELS
