import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sympformer.data.loader import Loader, valid_blocks
from sympformer.errors import InputError

SIZES = {
    "length": st.integers(2, 200),
    "block_size": st.integers(1, 20),
    "batch_size": st.integers(1, 5),
    "seed": st.integers(0, 1000),
}


def stream(length):
    """A stream in which the token is its position."""
    return np.arange(length, dtype=np.uint16)


def take(loader, batches):
    return [next(loader) for _ in range(batches)]


def starts(batches):
    return [row[0].item() for inputs, _ in batches for row in inputs]


def assert_same(first, second):
    assert len(first) == len(second)
    for (inputs, targets), (other_inputs, other_targets) in zip(first, second, strict=True):
        assert torch.equal(inputs, other_inputs)
        assert torch.equal(targets, other_targets)


def epochs(loader, count):
    """Starts of the blocks of each of the first epochs; `loader` gives one block at a time."""
    result = [[] for _ in range(count + 1)]
    while loader.epoch < count:
        inputs, targets = next(loader)
        assert torch.equal(inputs, inputs[0, 0] + torch.arange(loader.block_size)[None])
        assert torch.equal(targets, inputs + 1)
        result[loader.epoch].append(inputs[0, 0].item())
    return result[:count]


@given(length=st.integers(2, 200), block_size=st.integers(1, 20), seed=st.integers(0, 1000))
@settings(deadline=None, max_examples=60)
def test_each_epoch_visits_every_block_once(length, block_size, seed):
    if length <= block_size:
        return
    for starts in epochs(Loader(stream(length), block_size, 1, seed), 3):
        offset = min(starts)
        assert offset < block_size
        assert sorted(starts) == list(range(offset, length - block_size, block_size))


@given(**SIZES)
@settings(deadline=None, max_examples=60)
def test_batches_go_on_into_the_next_epoch(length, block_size, batch_size, seed):
    if length <= block_size:
        return
    one, many = (Loader(stream(length), block_size, n, seed) for n in (1, batch_size))
    assert starts(take(one, 4 * batch_size)) == starts(take(many, 4))


@given(
    block_size=st.integers(1, 8),
    blocks=st.integers(1, 30),
    seed=st.integers(0, 1000),
    world=st.integers(1, 4),
    each=st.integers(1, 4),
)
@settings(deadline=None, max_examples=60)
def test_ranks_share_what_one_rank_would_see(block_size, blocks, seed, world, each):
    tokens = stream(block_size * blocks + 1)
    ranks = [Loader(tokens, block_size, each, seed, rank, world) for rank in range(world)]
    alone = Loader(tokens, block_size, each * world, seed)
    for _ in range(5):
        parts = [next(rank) for rank in ranks]
        whole = next(alone)
        for part in (0, 1):
            assert torch.equal(torch.cat([p[part] for p in parts]), whole[part])
        assert len({str(rank.state_dict()) for rank in [*ranks, alone]}) == 1


@given(**SIZES, before=st.integers(0, 12))
@settings(deadline=None, max_examples=60)
def test_resuming_gives_the_batches_of_one_go(length, block_size, batch_size, seed, before):
    if length <= block_size:
        return
    tokens = stream(length)
    loader = Loader(tokens, block_size, batch_size, seed)
    take(loader, before)
    state = loader.state_dict()
    resumed = Loader(tokens, block_size, batch_size, seed)
    take(resumed, 3)
    resumed.load_state_dict(state)
    assert_same(take(loader, 6), take(resumed, 6))


def test_resuming_with_other_ranks_goes_on_with_the_next_blocks():
    tokens = stream(1001)
    whole = starts(take(Loader(tokens, 10, 1, 0), 20))
    first = Loader(tokens, 10, 4, 0)
    seen = starts(take(first, 2))
    pair = [Loader(tokens, 10, 3, 0, rank, 2) for rank in (0, 1)]
    for loader in pair:
        loader.load_state_dict(first.state_dict())
    for _ in range(2):
        seen += starts([next(loader) for loader in pair])
    assert seen == whole


def test_resuming_another_stream_is_refused():
    state = Loader(stream(100), 10, 2, seed=1).state_dict()
    for other in (
        Loader(stream(101), 10, 2, seed=1),
        Loader(stream(100), 9, 2, seed=1),
        Loader(stream(100), 10, 2, seed=2),
    ):
        with pytest.raises(InputError, match="cannot resume"):
            other.load_state_dict(state)


def test_a_negative_seed_is_refused():
    with pytest.raises(InputError, match="data seed"):
        Loader(stream(100), 10, 2, seed=-1)


def test_epochs_shift_and_shuffle():
    first = epochs(Loader(stream(1000), 10, 1, seed=0), 4)
    assert len({min(starts) for starts in first}) > 1
    assert len({str(np.argsort(starts)) for starts in first}) == 4
    assert all(starts != sorted(starts) for starts in first)
    assert epochs(Loader(stream(1000), 10, 1, seed=1), 4) != first


def test_every_token_becomes_a_target_in_time():
    loader = Loader(stream(95), 10, 8, seed=0)
    targets = {t for _, batch in take(loader, 100) for t in batch.flatten().tolist()}
    assert targets == set(range(1, 95))


def test_batches_do_not_depend_on_the_global_random_state():
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002
    first = take(Loader(stream(500), 10, 4, seed=3), 5)
    torch.manual_seed(1)
    np.random.seed(1)  # noqa: NPY002
    assert_same(first, take(Loader(stream(500), 10, 4, seed=3), 5))


@pytest.mark.parametrize("dtype", [np.uint16, np.uint32])
def test_batches_are_contiguous_int64(dtype):
    tokens = np.full(50, np.iinfo(dtype).max, dtype=dtype)
    for batch in (next(Loader(tokens, 10, 3, seed=0)), next(valid_blocks(tokens, 10, 3))[:2]):
        for part in batch:
            assert part.shape == (3, 10)
            assert part.dtype == torch.int64
            assert part.is_contiguous()
            assert (part == np.iinfo(dtype).max).all()


def test_a_stream_shorter_than_a_block_is_refused():
    next(Loader(stream(11), 10, 1, seed=0))
    next(valid_blocks(stream(11), 10, 1))
    message = "the text has 10 tokens, but a block of 10 needs 11"
    with pytest.raises(InputError, match=message):
        Loader(stream(10), 10, 1, seed=0)
    with pytest.raises(InputError, match=message):
        next(valid_blocks(stream(10), 10, 1))


@given(length=st.integers(2, 300), block_size=st.integers(1, 20), batch_size=st.integers(1, 7))
@settings(deadline=None, max_examples=60)
def test_all_validation_blocks_once_in_order(length, block_size, batch_size):
    if length <= block_size:
        return
    tokens = stream(length)[::-1].copy()
    batches = list(valid_blocks(tokens, block_size, batch_size))
    positions = np.concatenate([p for *_, p in batches]).ravel()
    targets = torch.cat([t for _, t, _ in batches]).flatten()
    inputs = torch.cat([i for i, _, _ in batches]).flatten()
    blocks = (length - 1) // block_size
    assert positions.tolist() == list(range(1, blocks * block_size + 1))
    assert targets.tolist() == tokens[positions].tolist()
    assert inputs.tolist() == tokens[positions - 1].tolist()
    assert all(len(i) == batch_size for i, _, _ in batches[:-1])


def test_some_validation_blocks_are_spread_over_the_stream():
    first = [i[:, 0].tolist() for i, _, _ in valid_blocks(stream(1001), 10, 2, max_blocks=5)]
    assert first == [[0, 200], [400, 600], [800]]
    assert len(list(valid_blocks(stream(101), 10, 1, max_blocks=99))) == 10
