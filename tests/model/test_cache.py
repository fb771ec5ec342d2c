"""The cache: buffers that grow in place, and never at another continuation's expense."""

import copy
import pickle

import pytest
import torch

import sympformer as sf
from sympformer import InputError
from sympformer.model import pad_left
from sympformer.model.cache import Buffer, Cache, Recorder


def tokens(start, n, rows=2):
    """Values that tell which token they are of."""
    return torch.arange(start, start + n, dtype=torch.float64).expand(rows, 3, n)[..., None].clone()


def extended(cache, start, n, **options):
    """One pass over n tokens with one growing entry: what it returns, and the new cache."""
    recorder = Recorder(cache, **options)
    whole = recorder.part("here").extend("entry", tokens(start, n))
    return whole, recorder.cache(n)


def storage(cache):
    return next(iter(cache.entries.values())).data.data_ptr()


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
        rooms.append(cache.entries["here.entry"].data.shape[-2])
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
    whole = recorder.part("here").extend("entry", tokens(2, 1).float())
    assert whole.dtype == torch.float64
    assert torch.equal(whole, tokens(0, 3))


def test_training_keeps_nothing(tiny):
    recorder = Recorder(None, keeps=False)
    recorder.part("here").extend("entry", tokens(0, 4))
    recorder.part("here").keep("state", tokens(0, 4))
    assert recorder.cache(4).entries == {}
    ids = torch.randint(0, 37, (2, 9))
    for preset in ("symp-r2", "linear-symp-r2", "symp-difference"):
        assert sf.build(tiny(preset))(ids, ids).cache is None


@pytest.mark.parametrize("preset", ["symp-r2", "linear-symp-r2"])
def test_training_with_a_loss_of_its_own_keeps_nothing_either(preset, tiny, monkeypatch):
    """A cache is made, by a second pass, only if it is read after all."""
    made, ids = [], torch.randint(0, 37, (2, 9))
    init = Recorder.__init__
    monkeypatch.setattr(
        Recorder, "__init__", lambda self, *a, **k: (made.append(1), init(self, *a, **k))[1]
    )
    model = sf.build(tiny(preset)).double()
    out = model(ids[:, :5])
    out.logits.sum().backward()
    assert not made
    rest = model(ids[:, 5:], cache=out.cache).logits
    torch.testing.assert_close(rest, model(ids, use_cache=False).logits[:, 5:])
    assert made
    assert model(ids, use_cache=False).cache is None
    assert model(ids, ids, use_cache=True).cache.length == 9
    model.eval()
    assert model(ids).cache.length == 9


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
        growing = [e for e in cache.entries.values() if isinstance(e, Buffer)]
        assert all(e.data.shape[-2] == 20 and e.filled == n for e in growing)
        assert bool(growing) == (tiny(preset).attention == "softmax")
        sizes.append([e.shape for e in cache.entries.values() if not isinstance(e, Buffer)])
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
        held = sum(
            e.data[..., 0, :].numel() for e in cache.entries.values() if isinstance(e, Buffer)
        )
        assert held == numbers * model.config.n_layer, preset


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("preset", ["gpt", "gpt-shift", "linear-gpt", "linear-symp-exp-euler"])
@torch.no_grad()
def test_a_cache_of_other_rows_is_refused(preset, rows, tiny):
    """A state of constant size was added to those of a single row, for every row of the cache."""
    model = sf.build(tiny(preset))
    cache = model(torch.zeros(2, 4, dtype=torch.long), use_cache=True).cache
    with pytest.raises(InputError, match=f"2 rows, the tokens are of {rows}"):
        model(torch.zeros(rows, 1, dtype=torch.long), cache=cache)


@pytest.mark.parametrize("preset", ["gpt", "linear-symp-r2"])
@torch.no_grad()
def test_a_copied_cache_is_of_the_same_model(preset, redrawn):
    model, ids = redrawn(preset), torch.randint(0, 37, (2, 9))
    cache, whole = model(ids[:, :5]).cache, model(ids).logits[:, 5:]
    torch.testing.assert_close(model(ids[:, 5:], cache=copy.deepcopy(cache)).logits, whole)
    twin, both = copy.deepcopy((model, cache))
    torch.testing.assert_close(twin(ids[:, 5:], cache=both).logits, whole)
    with pytest.raises(InputError, match="another model"):
        model(ids[:, 5:], cache=both)


@torch.no_grad()
def test_a_cache_of_another_model_is_refused(tiny):
    """Also of one of the same kind, of a copy, and of a view with more loops."""
    one, other = (sf.build(tiny("gpt")).eval() for _ in range(2))
    ids = torch.zeros(2, 4, dtype=torch.long)
    for stranger in (other, sf.build(tiny("symp-r2")), copy.deepcopy(one), one.with_loops(2)):
        with pytest.raises(InputError, match="another model"):
            stranger(ids, cache=one(ids).cache)
    assert one(ids, cache=one(ids).cache).cache.length == 8


@torch.no_grad()
def test_entries_have_names(tiny):
    ids = torch.zeros(2, 4, dtype=torch.long)
    names = sf.build(tiny("symp-r2")).eval()(ids).cache.entries.keys()
    parts = ("key", "value", "turning", "speed")
    assert set(names) == {f"blocks.{i}.{part}" for i in range(2) for part in parts}
    twice = sf.build(tiny("symp-strang", n_layer=1)).eval()(ids).cache.entries.keys()
    assert {"blocks.0.0.key", "blocks.0.1.key"} <= set(twice)


@pytest.mark.parametrize("preset", sf.presets())
@torch.no_grad()
def test_rows_can_be_selected(preset, redrawn):
    """In any order and number, as beams are; the cache that was stays valid."""
    model, ids = redrawn(preset), torch.randint(0, 37, (3, 9))
    rows = torch.tensor([2, 0, 0, 1])
    cache = model(ids[:, :5]).cache
    got = model(ids[rows, 5:], cache=cache.select(rows)).logits
    torch.testing.assert_close(got, model(ids[rows]).logits[:, 5:])
    torch.testing.assert_close(model(ids[:, 5:], cache=cache).logits, model(ids).logits[:, 5:])
    with pytest.raises(InputError, match="rows must be from 0 to 2"):
        cache.select([3])


@torch.no_grad()
def test_rows_are_selected_with_their_padding(redrawn):
    model = redrawn("symp-r2")
    ids, mask = pad_left([[1, 2, 3, 4], [5, 6]])
    cache = model(ids, attention_mask=mask).cache.select([1])
    new = torch.tensor([[7]])
    expected = model(torch.tensor([[5, 6, 7]])).logits[:, -1]
    torch.testing.assert_close(model(new, cache=cache).logits[:, -1], expected)


@pytest.mark.parametrize("preset", ["gpt", "symp-r2", "symp-exp-euler", "symp-tao"])
@torch.no_grad()
def test_a_cache_can_be_cropped(preset, redrawn):
    """Going on behind it is going on behind the shorter text; the longer one stays valid."""
    model, ids = redrawn(preset), torch.randint(0, 37, (2, 9))
    cache = model(ids, cache=Cache(capacity=20)).cache
    other = torch.randint(0, 37, (2, 3))
    short = cache.crop(4)
    expected = model(torch.cat([ids[:, :4], other], 1)).logits[:, 4:]
    torch.testing.assert_close(model(other, cache=short).logits, expected)
    assert cache.crop(9).length == 9
    torch.testing.assert_close(
        model(other, cache=cache).logits, model(torch.cat([ids, other], 1)).logits[:, 9:]
    )
    assert model(ids, cache=cache.crop(0)).cache.length == 9
    with pytest.raises(InputError, match="cannot be cropped to 10"):
        cache.crop(10)


@pytest.mark.parametrize("preset", ["linear-gpt", "gpt-shift"])
@torch.no_grad()
def test_a_state_cannot_be_cropped(preset, tiny):
    cache = sf.build(tiny(preset)).eval()(torch.zeros(2, 4, dtype=torch.long)).cache
    assert cache.crop(4).length == 4
    with pytest.raises(InputError, match="one state of all 4 tokens"):
        cache.crop(3)


@pytest.mark.parametrize("preset", ["gpt", "symp-r2", "linear-symp-exp-euler", "symp-difference"])
def test_padding_in_a_pass(preset, redrawn):
    """Rows are what they are alone; padding counts for no loss; a mask must fit the cache."""
    model, (ids, mask) = redrawn(preset), pad_left([[1, 2, 3, 4, 5], [6, 7, 8]])
    alone = model(ids[1:, 2:])
    out = model(ids, attention_mask=mask)
    torch.testing.assert_close(out.logits[1:, 2:], alone.logits)
    loss = model(ids, ids, attention_mask=mask).loss
    rows = [model(ids[:1], ids[:1]).loss * 5, model(ids[1:, 2:], ids[1:, 2:]).loss * 3]
    torch.testing.assert_close(loss, sum(rows) / 8)
    new, more = torch.tensor([[3], [4]]), torch.ones(2, 1, dtype=torch.bool)
    expected = model(new, cache=out.cache).logits
    for given in (more, torch.cat([mask, more], 1)):
        got = model(new, cache=out.cache, attention_mask=given).logits
        torch.testing.assert_close(got, expected)
    for wrong in (torch.ones(2, 6), torch.zeros(2, 1), torch.ones(2, 3)):
        with pytest.raises(InputError, match="contradicts the cache"):
            model(new, cache=out.cache, attention_mask=wrong)
    with pytest.raises(InputError, match="0 on the left"):
        model(ids, attention_mask=mask.flip(1))


@torch.no_grad()
def test_a_mask_selects_rows(redrawn):
    model = redrawn("gpt")
    cache = model(torch.randint(37, (3, 5))).cache
    for mask in ([True, False, True], torch.tensor([True, False, True])):
        chosen = cache.select(mask)
        assert chosen.rows == 2
        for name, entry in cache.select([0, 2]).entries.items():
            assert torch.equal(chosen.entries[name].data, entry.data)
    assert cache.select([]).rows == 0


@pytest.mark.parametrize(
    "rows", [[True], [0.0, 1.0], [[0, 1]], slice(0, 1), 1, "1", None, [0, "1"]], ids=repr
)
def test_what_names_no_rows_is_refused(rows, tiny):
    cache = sf.build(tiny("gpt")).eval()(torch.randint(37, (2, 5))).cache
    with pytest.raises(InputError, match=r"rows must|mask of rows") as caught:
        cache.select(rows)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("length", [5.0, True, "1", None])
def test_a_cache_is_cropped_to_a_whole_number(length, tiny):
    cache = sf.build(tiny("gpt")).eval()(torch.randint(37, (2, 5))).cache
    with pytest.raises(InputError, match="whole number"):
        cache.crop(length)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"cache": ()}, "cache must be"),
        ({"cache": {}}, "cache must be"),
        ({"attention_mask": [[1, 1, 1]]}, "must be a tensor"),
        ({"attention_mask": torch.tensor([[0, 1, 2]])}, "0 .* and 1 .* only"),
    ],
)
def test_what_is_no_cache_and_no_mask_is_refused(options, says, tiny):
    model, ids = sf.build(tiny("gpt")).eval(), torch.randint(37, (1, 3))
    with pytest.raises(InputError, match=says):
        model(ids, **options)
    if "cache" not in options:
        with pytest.raises(InputError, match=says):
            model.generate(ids, 1, **options)


@pytest.mark.parametrize("preset", ["gpt", "linear-gpt"])
def test_a_cache_is_shown_in_a_line(preset, tiny):
    cache = sf.build(tiny(preset)).eval()(torch.randint(37, (2, 5))).cache
    assert repr(cache).startswith("Cache(5 tokens, 2 rows, ")
    assert len(repr(cache)) < 60


def test_a_pickled_cache_is_of_no_model(tiny):
    model, ids = sf.build(tiny("gpt")).eval(), torch.randint(37, (2, 5))
    with pytest.raises(InputError, match="another model"):
        model(ids[:, :1], cache=pickle.loads(pickle.dumps(model(ids).cache)))


def test_bytes_are_those_of_the_tokens_held(tiny):
    """Keys and values of softmax attention grow with the text, a linear state does not."""
    grown = [sf.build(tiny("gpt")).eval()(torch.zeros(1, n, dtype=torch.int64)) for n in (5, 20)]
    assert [out.cache.nbytes for out in grown] == [2 * 2 * 16 * 4 * n for n in (5, 20)]
    model = sf.build(tiny("linear-gpt")).eval()
    constant = [model(torch.zeros(1, n, dtype=torch.int64)).cache.nbytes for n in (5, 20)]
    assert constant[0] == constant[1] > 0


@pytest.mark.parametrize(
    "name", ["gpt", "symp-r2", "linear-symp-r2", "linear-symp-ab2", "linear-gpt"]
)
@torch.no_grad()
def test_a_cache_of_weights_in_another_dtype_is_refused(name, tiny):
    model, ids = sf.build(tiny(name)).eval(), torch.zeros(2, 3, dtype=torch.int64)
    cache = model(ids).cache
    with torch.autocast("cpu", torch.bfloat16):  # the weights are the same
        model(ids, cache=cache)
    model.double()
    with pytest.raises(InputError, match=r"in torch\.float32, which are in torch\.float64 now"):
        model(ids, cache=cache)


@pytest.mark.parametrize(
    "name", ["gpt", "symp-r2", "linear-gpt", "linear-symp-r2", "linear-symp-ab2"]
)
@pytest.mark.parametrize("rows", [1, 3])
@torch.no_grad()
def test_a_block_refuses_a_cache_of_other_rows(name, rows):
    block = sf.Block.preset(name, 16, 2)
    recorder = Recorder(None)
    block(torch.randn(2, 4, 16), past=recorder.part("block"))
    recorder = Recorder(recorder.cache(4))
    with pytest.raises(InputError, match=f"of 2 rows, the tokens are of {rows}"):
        block(torch.randn(rows, 4, 16), past=recorder.part("block"))
