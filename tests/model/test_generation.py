"""Generation: cached, streamed, and in batches padded on the left."""

import pytest
import torch

import sympformer as sf
from sympformer import InputError
from sympformer.model.cache import Buffer, Cache
from sympformer.model.generation import pad_left

VARIANTS = [
    *((name, {}) for name in sf.presets()),
    ("symp-r2", {"initial_momentum": "difference", "tie_embeddings": False, "lookahead": True}),
    ("symp-exp-euler", {"heads": "averaged"}),
    ("symp-exp-euler", {"attention": "tied-softmax", "n_head": 1}),
    ("linear-symp-r2", {"attention": "tied-linear", "n_head": 1}),
    ("gpt", {"injection": True}),
]


def label(variant):
    name, overrides = variant
    return "-".join([name, *(f"{k}={v}" for k, v in overrides.items())])


@pytest.fixture
def model(redrawn):
    return redrawn("symp-r2")


@pytest.fixture
def tokens():
    return torch.randint(0, 37, (2, 11))


@pytest.mark.parametrize("variant", VARIANTS, ids=label)
def test_a_padded_row_is_continued_as_it_would_be_alone(variant, redrawn):
    name, overrides = variant
    model = redrawn(name, **overrides)
    prompts = [torch.randint(0, 37, (n,)).tolist() for n in (7, 1, 4)]
    tokens, mask = pad_left(prompts, fill=36)
    padding = (~mask).sum(1)
    got = model.generate(tokens, 6, attention_mask=mask)
    out = model(got, cache=Cache(padding=padding))
    # The other way round: prefill within the padding, then one more piece.
    first = model(got[:, :2], cache=Cache(padding=padding, capacity=13))
    pieces = torch.cat([first.logits, model(got[:, 2:], cache=first.cache).logits], dim=1)
    for row, prompt in enumerate(prompts):
        alone = model.generate(torch.tensor([prompt]), 6)
        n = padding[row]
        assert got[row, n:].tolist() == alone[0].tolist()
        expected = model(alone).logits[0]
        torch.testing.assert_close(out.logits[row, n:], expected, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(pieces[row, n:], expected, rtol=1e-9, atol=1e-9)
    held = [e.data if isinstance(e, Buffer) else e for e in out.cache.entries.values()]
    assert all(e.isfinite().all() for e in held), "what padding computes is unused, but a number"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("preset", ["gpt", "symp-r2", "symp-exp-euler", "linear-symp-r2"])
def test_padding_is_hidden_from_scores_of_any_size(preset, dtype, redrawn):
    """Other tokens in the padding change nothing at all, in low precision and at scores of 1e3."""
    model = redrawn(preset).float()
    for block in model.blocks:
        oracle = block.attention.oracle
        (oracle.qk if hasattr(oracle, "qk") else oracle.qkv).weight.mul_(20)
    mask = torch.arange(12) >= torch.tensor([[9], [0], [3]])
    tokens = torch.randint(0, 37, (3, 12))
    other = torch.where(mask, tokens, (tokens + 5) % 37)
    cache = Cache(padding=(~mask).sum(1))
    with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        one, two = (model(t, cache=cache).logits for t in (tokens, other))
    assert one.isfinite().all()
    assert torch.equal(one[mask], two[mask])


def test_streaming_yields_what_generate_returns(model, tokens):
    for options in (
        {},
        {"temperature": 1.5, "seed": 3},
        {"temperature": 0.7, "top_k": 5, "seed": 1},
    ):
        pieces = list(model.stream(tokens, 8, **options))
        assert [p.shape for p in pieces] == [(2, 1)] * 8
        whole = model.generate(tokens, 8, **options)
        assert torch.cat([tokens, *pieces], dim=1).tolist() == whole.tolist()


def test_streaming_leaves_gradients_on_between_tokens(model, tokens):
    for _ in model.stream(tokens, 2):
        assert torch.is_grad_enabled()


def test_generated_ids_can_be_trained_on(tiny):
    model = sf.build(tiny("gpt"))
    ids = model.generate(torch.zeros(1, 3, dtype=torch.long), 4)
    model(ids[:, :-1], ids[:, 1:]).loss.backward()


def test_generation_ends_when_every_row_has(model, tokens):
    whole = model.generate(tokens, 8)
    for stop in {*whole[:, 11:14].flatten().tolist(), 0}:
        got = model.generate(tokens, 8, stop=stop)
        ends = [row.index(stop) if stop in row else 7 for row in whole[:, 11:].tolist()]
        assert got.shape[1] == 11 + max(ends) + 1
        for row, end in enumerate(ends):
            assert got[row, : 12 + end].tolist() == whole[row, : 12 + end].tolist()
            assert (got[row, 12 + end :] == stop).all()


def test_sampling_follows_the_distribution(model):
    """At temperature 2, of many rows that are alike, as many as the logits say."""
    tokens = torch.zeros(4000, 1, dtype=torch.long)
    new = model.generate(tokens, 1, temperature=2.0, seed=0)[:, 1]
    expected = (model(tokens[:1]).logits[0, -1] / 2).softmax(-1)
    got = torch.bincount(new, minlength=37) / 4000
    error = (expected * (1 - expected) / 4000).sqrt()
    assert ((got - expected).abs() < 5 * error + 1e-3).all()


def test_pad_left():
    tokens, mask = pad_left([[5], [1, 2, 3]], fill=9)
    assert tokens.tolist() == [[9, 9, 5], [1, 2, 3]]
    assert mask.tolist() == [[False, False, True], [True, True, True]]


@pytest.mark.parametrize(
    ("mask", "says"),
    [
        ([[1, 1, 0], [1, 1, 1]], "on the left"),
        ([[1, 0, 1], [1, 1, 1]], "on the left"),
        ([[0, 0, 0], [1, 1, 1]], "on the left"),
        ([[1, 1], [1, 1]], "as the tokens"),
    ],
)
def test_bad_masks(model, mask, says):
    with pytest.raises(InputError, match=says):
        model.stream(torch.zeros(2, 3, dtype=torch.long), 2, attention_mask=torch.tensor(mask))


@pytest.mark.parametrize("prompts", [[], [[1], []]])
def test_empty_prompts(prompts):
    with pytest.raises(InputError, match="at least one token"):
        pad_left(prompts)


@pytest.mark.parametrize("preset", ["linear-symp-h1", "gated-delta-symp", "gpt"])
def test_without_positions_there_is_no_end(preset, redrawn):
    model = redrawn(preset, positions="none", block_size=8)
    tokens = torch.randint(0, 37, (2, 5))
    expected = model.with_block_size(64).generate(tokens, 40)
    assert torch.equal(model.generate(tokens, 40, slide=True), expected)
    with pytest.raises(InputError, match="let the block slide"):
        model.generate(tokens, 40)


@pytest.mark.parametrize("preset", ["gpt", "symp-r2", "linear-symp-h1"])
@pytest.mark.parametrize("length", [1, 7, 8, 9, 21])
def test_a_block_slides_by_half(preset, length, redrawn):
    """As if each full block were cut to its last half, and read as a text of its own."""
    model = redrawn(preset, block_size=8)
    text = torch.randint(0, 37, (2, length))
    expected, window = text, text
    for _ in range(20):
        if window.shape[1] > 8:
            window = window[:, -8:][:, -4:]
        new = model(window).last_logits.argmax(-1, keepdim=True)
        expected, window = torch.cat([expected, new], 1), torch.cat([window, new], 1)
    assert torch.equal(model.generate(text, 20, slide=True), expected)


def test_a_padded_row_slides_as_the_others(redrawn):
    """The block of a batch is full at once; what padding is in its last half stays padding."""
    model = redrawn("symp-r2", block_size=8)
    tokens, mask = pad_left([[1, 2, 3, 4, 5, 6, 7], [3, 5]])
    out = model.generate(tokens, 9, attention_mask=mask, slide=True)
    window, left = out[1:, 5:9], model.generate(torch.tensor([[3, 5]]), 2)
    assert torch.equal(window[0, :2], torch.tensor([3, 5]))
    assert torch.equal(window, left)  # tokens 8 and 9 came from the text before it slid
    assert torch.equal(out[1, 9:11], model.generate(window[:, -4:], 2)[0, 4:])
