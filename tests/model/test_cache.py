"""The cache: buffers that grow in place, and never at another continuation's expense."""

import pytest
import torch

import sympformer as sf
from sympformer import InputError
from sympformer.model.cache import Buffer, Cache, Recorder


def tokens(start, n, rows=2):
    """Values that tell which token they are of."""
    return torch.arange(start, start + n, dtype=torch.float64).expand(rows, 3, n)[..., None].clone()


def extended(cache, start, n, **options):
    """One pass over n tokens with one growing entry: what it returns, and the new cache."""
    recorder = Recorder(cache, **options)
    whole = recorder.extend(tokens(start, n))
    return whole, recorder.cache(n)


def storage(cache):
    return cache.entries[0].data.data_ptr()


@torch.no_grad()
def test_tokens_are_written_in_place():
    _, cache = extended(Cache(capacity=20), 0, 5)
    first = storage(cache)
    for i in range(5, 20):
        whole, cache = extended(cache, i, 1)
        assert torch.equal(whole, tokens(0, i + 1))
        assert storage(cache) == first
    whole, cache = extended(cache, 20, 1)
    assert torch.equal(whole, tokens(0, 21))
    assert storage(cache) != first


@torch.no_grad()
def test_room_doubles_up_to_the_limit():
    cache, rooms = None, []
    for i in range(24):
        whole, cache = extended(cache, i, 1, limit=24)
        assert torch.equal(whole, tokens(0, i + 1))
        rooms.append(cache.entries[0].data.shape[-2])
    assert sorted(set(rooms)) == [1, 4, 10, 22, 24]


@torch.no_grad()
def test_one_prefix_is_continued_in_several_ways():
    """Whoever comes first writes in place; the others copy, also much later."""
    _, prefix = extended(Cache(capacity=30), 0, 5)
    a, cache_a = extended(prefix, 5, 2)
    b, cache_b = extended(prefix, 50, 3)
    assert storage(cache_a) == storage(prefix)
    assert storage(cache_b) != storage(prefix)
    a_more, _ = extended(cache_a, 7, 4)
    c, _ = extended(prefix, 70, 1)
    old = tokens(0, 5)
    assert torch.equal(a, tokens(0, 7))
    assert torch.equal(a_more, tokens(0, 11))
    assert torch.equal(b, torch.cat([old, tokens(50, 3)], dim=-2))
    assert torch.equal(c, torch.cat([old, tokens(70, 1)], dim=-2))


@pytest.mark.parametrize(
    "preset", ["gpt", "symp-h0", "symp-r2", "symp-exp-euler", "linear-symp-r2"]
)
def test_gradients_flow_through_a_cache(preset, tiny):
    """Where they are recorded nothing is written in place; the gradient is that of a full pass."""
    model = sf.build(tiny(preset)).double()
    ids = torch.randint(0, 37, (2, 9))
    table = model.inputs.usual.tokens.weight
    (expected,) = torch.autograd.grad(model(ids).logits[:, 4:].square().sum(), table)
    cache = model(ids[:, :4], cache=Cache(capacity=20)).cache
    logits = []
    for i in range(4, 9):
        out = model(ids[:, i : i + 1], cache=cache)
        cache = out.cache
        logits.append(out.logits)
    (got,) = torch.autograd.grad(torch.cat(logits, dim=1).square().sum(), table)
    torch.testing.assert_close(got, expected)


def test_a_cache_made_without_gradients_serves_where_they_are_recorded(tiny):
    model = sf.build(tiny("symp-exp-euler")).double()
    ids = torch.randint(0, 37, (2, 9))
    expected = model(ids).logits[:, 4:]
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            cache = model(ids[:, :4], cache=Cache(capacity=20)).cache
        torch.testing.assert_close(model(ids[:, 4:], cache=cache).logits, expected)
        with torch.no_grad():
            torch.testing.assert_close(model(ids[:, 4:], cache=cache).logits, expected)


@torch.no_grad()
def test_precision_may_change_between_passes():
    _, cache = extended(Cache(capacity=9), 0, 2)
    recorder = Recorder(cache)
    whole = recorder.extend(tokens(2, 1).float())
    assert whole.dtype == torch.float64
    assert torch.equal(whole, tokens(0, 3))


def test_training_keeps_nothing(tiny):
    recorder = Recorder(None, keeps=False)
    recorder.extend(tokens(0, 4))
    recorder.keep(tokens(0, 4))
    assert recorder.cache(4).entries == ()
    ids = torch.randint(0, 37, (2, 9))
    for preset in ("symp-r2", "linear-symp-r2", "symp-difference"):
        assert sf.build(tiny(preset))(ids, ids).cache is None


@torch.no_grad()
def test_targets_leave_the_room_of_a_cache_alone(tiny):
    """Scoring a continuation is no continuation: the next one may still write in place."""
    model = sf.build(tiny("gpt"))
    ids = torch.randint(0, 37, (2, 9))
    cache = model(ids[:, :4], cache=Cache(capacity=20)).cache
    model(ids[:, 4:], ids[:, 4:], cache=cache)
    after = model(ids[:, 4:], cache=cache).cache
    assert storage(after) == storage(cache)


@pytest.mark.parametrize("preset", sf.presets())
@torch.no_grad()
def test_what_a_cache_holds(preset, tiny):
    """Softmax: buffers with the room asked for; linear: states whose size is constant."""
    model = sf.build(tiny(preset))
    sizes = []
    for n in (1, 9):
        cache = model(torch.randint(0, 37, (2, n)), cache=Cache(capacity=20)).cache
        assert cache.length == n
        growing = [e for e in cache.entries if isinstance(e, Buffer)]
        assert all(e.data.shape[-2] == 20 and e.filled == n for e in growing)
        assert bool(growing) != preset.startswith("linear")
        sizes.append([e.shape for e in cache.entries if not isinstance(e, Buffer)])
    assert sizes[0] == sizes[1]


@pytest.mark.parametrize("length", [1, 9])
@torch.no_grad()
def test_numbers_a_token(length, tiny):
    """Of an acceleration a cache holds the speed, not the values that it weighs."""
    d, heads = 16, 2
    wanted = {
        "gpt": 2 * d,
        "symp-h0": 2 * d,
        "symp-exp-euler": 2 * d + heads,
        "symp-h1": 3 * d + 1,
        "symp-r2": 3 * d + 1,
    }
    for preset, numbers in wanted.items():
        model = sf.build(tiny(preset))
        cache = model(torch.randint(0, 37, (1, length)), cache=Cache(capacity=20)).cache
        held = sum(e.data[..., 0, :].numel() for e in cache.entries if isinstance(e, Buffer))
        assert held == numbers * model.config.n_layer, preset


@torch.no_grad()
def test_a_cache_of_other_rows_is_refused(tiny):
    model = sf.build(tiny("gpt"))
    cache = model(torch.zeros(2, 4, dtype=torch.long)).cache
    with pytest.raises(InputError, match="2 rows, the tokens are of 3"):
        model(torch.zeros(3, 1, dtype=torch.long), cache=cache)
