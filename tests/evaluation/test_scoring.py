"""The loss of every token: against the model's own, in windows, whatever the batch."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import sympformer as sf
from sympformer.errors import InputError
from sympformer.evaluation import score


def model_of(tiny, preset="symp-r2", **options):
    torch.manual_seed(0)
    return sf.build(tiny(preset, **options)).double()


def ids(*lengths):
    random = np.random.default_rng(0)
    return [random.integers(37, size=n) for n in lengths]


@torch.no_grad()
def plain(model, sequence):
    """Losses of one sequence that fits, by the logits of one pass."""
    tokens = torch.from_numpy(sequence)
    logits = model.eval()(tokens[None, :-1]).logits[0]
    return F.cross_entropy(logits.float(), tokens[1:], reduction="none"), logits.argmax(-1)


@pytest.mark.parametrize("preset", ["gpt", "symp-r2", "gated-delta-symp"])
@pytest.mark.parametrize("batch_size", [1, 3, 50])
def test_sequences_that_fit(tiny, preset, batch_size):
    model, sequences = model_of(tiny, preset), ids(17, 2, 9, 5)
    for sequence, found in zip(
        sequences, score(model, sequences, batch_size=batch_size), strict=True
    ):
        nats, likeliest = plain(model, sequence)
        torch.testing.assert_close(
            torch.from_numpy(found.nats), nats.double(), rtol=1e-5, atol=1e-6
        )
        assert (found.first == (likeliest == torch.from_numpy(sequence[1:])).numpy()).all()
        assert found.seen.tolist() == list(range(1, len(sequence)))


@pytest.mark.parametrize(("context", "stride"), [(8, 4), (8, 8), (8, 1), (5, 2), (1, 1)])
def test_windows(tiny, context, stride):
    """Every target once, with at least `context - stride` tokens before it, by its own window."""
    model, (sequence,) = model_of(tiny), ids(30)
    (found,) = score(model, [sequence], context=context, stride=stride)
    expected, seen, done = np.zeros(29), np.zeros(29, int), min(29, context)
    expected[:done], seen[:done] = plain(model, sequence[: done + 1])[0], np.arange(done) + 1
    while done < 29:
        end = min(29, done + stride)
        nats = plain(model, sequence[end - context : end + 1])[0]
        expected[done:end] = nats[done - end :]
        seen[done:end] = context - np.arange(end - done)[::-1]
        done = end
    np.testing.assert_allclose(found.nats, expected, rtol=1e-5, atol=1e-6)
    assert found.seen.tolist() == seen.tolist()
    assert (found.seen[context:] > context - stride).all()


def test_a_model_without_positions_reads_any_length(tiny):
    model, sequences = model_of(tiny, "deltanet", positions="none", block_size=8), ids(40)
    (whole,) = score(model, sequences, context=64)
    assert whole.seen.tolist() == list(range(1, 40))
    with pytest.raises(InputError, match="learned positions for 16 tokens"):
        score(model_of(tiny, block_size=16), sequences, context=64)


def test_the_mode_is_left_as_it_was(tiny):
    model = model_of(tiny).train()
    score(model, ids(5))
    assert model.training


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"context": 0}, "context must be at least 1"),
        ({"context": 8, "stride": 9}, "stride 1 to the context, not 8 and 9"),
        ({"stride": 0}, "not 32 and 0"),
    ],
)
def test_what_makes_no_sense(tiny, options, message):
    with pytest.raises(InputError, match=message):
        score(model_of(tiny, block_size=32), ids(9), **options)


def test_a_sequence_without_a_target(tiny):
    with pytest.raises(InputError, match="sequence 1 has fewer than two"):
        score(model_of(tiny), ids(9, 1))


def test_predictions_that_are_no_numbers(tiny):
    """They would compare as wrong, and count as an accuracy of 0."""
    model = model_of(tiny)
    torch.nn.init.constant_(model.norm.weight, float("nan"))
    with pytest.raises(InputError, match="not numbers"):
        score(model, ids(5))
