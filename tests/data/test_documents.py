import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sympformer.data.documents import IGNORED, apart, taken
from sympformer.data.loader import Loader, valid_blocks

EOS = 0


def batch(rows, length, seed, often):
    ids = torch.randint(1, 50, (rows, length), generator=torch.Generator().manual_seed(seed))
    return ids.masked_fill(torch.rand(rows, length) < often, EOS)


@given(st.integers(1, 5), st.integers(1, 40), st.integers(0, 99), st.sampled_from([0, 0.05, 0.5]))
@settings(deadline=None, max_examples=60)
def test_every_token_is_in_one_row_with_its_document_alone(rows, length, seed, often):
    ids = batch(rows, length, seed, often)
    places = apart(ids, EOS)
    found = torch.cat([p[p >= 0] for p in places])
    assert sorted(found.tolist()) == list(range(ids.numel()))
    for pass_ in places:
        assert pass_.numel() <= ids.numel()
        assert (pass_[:, 0] >= 0).all()
        for row in pass_:
            own = row[row >= 0]
            assert (row[len(own) :] == -1).all(), "evened out on the right"
            assert torch.equal(own, own[0] + torch.arange(len(own)))
            assert own[0] // length == own[-1] // length, "of one row of the batch"
            assert own[0] % length == 0 or ids.flatten()[own[0]] == EOS
            assert (ids.flatten()[own[1:]] != EOS).all()


def test_documents_of_similar_length_share_a_pass():
    ids = torch.ones(2, 8, dtype=torch.int64)
    ids[0, [2, 4, 6]] = EOS
    assert [tuple(places.shape) for places in apart(ids, EOS)] == [(2, 8), (3, 2)]


def test_what_is_taken():
    values = torch.tensor([[5, 6], [7, 8]])
    places = torch.tensor([[3, 0, -1]])
    assert taken(values, places, IGNORED).tolist() == [[8, 5, IGNORED]]


def stream(tokens=400, often=0.1):
    ids = np.random.default_rng(0).integers(1, 50, tokens).astype(np.uint16)
    ids[np.random.default_rng(1).random(tokens) < often] = EOS
    return ids


def pairs(passes):
    """All (input, target) that count."""
    both = [(i[t != IGNORED].tolist(), t[t != IGNORED].tolist()) for i, t in passes]
    return sorted((i, t) for inputs, targets in both for i, t in zip(inputs, targets, strict=True))


def test_a_loader_gives_the_same_targets_apart():
    packed, split = Loader(stream(), 20, 4, 0), Loader(stream(), 20, 4, 0, eos=EOS)
    for _ in range(12):
        passes = split.passes()
        assert len(passes) > 1
        assert pairs(passes) == pairs(packed.passes())
        assert split.state_dict() == packed.state_dict()


def test_validation_blocks_know_the_positions_of_their_targets():
    tokens = stream()
    blocks = list(valid_blocks(tokens, 20, 4, eos=EOS))
    for _, targets, positions in blocks:
        assert targets[targets != IGNORED].tolist() == tokens[positions].tolist()
    whole = np.concatenate([p.ravel() for _, _, p in valid_blocks(tokens, 20, 4)])
    assert sorted(np.concatenate([p for *_, p in blocks])) == sorted(whole)


@pytest.mark.parametrize("often", [0.0, 1.0])
def test_one_document_and_many_empty_ones(often):
    ids = torch.full((3, 5), EOS) if often else torch.ones(3, 5, dtype=torch.int64)
    (places,) = apart(ids, EOS)
    assert places.shape == ((15, 1) if often else (3, 5))
