"""The language model's contract: output, loss, cache, generation, bad input."""

import math

import pytest
import torch
import torch.nn.functional as F

import sympformer as sf
from sympformer import InputError


@pytest.fixture
def model(tiny):
    return sf.build(tiny("symp-r2")).double().eval()


@pytest.fixture
def tokens():
    return torch.randint(0, 37, (2, 11))


def test_output(model, tokens):
    out = model(tokens)
    assert out.logits.shape == (2, 11, 37)
    assert out.loss is None
    assert out.cache.length == 11


def test_loss_is_the_mean_over_counted_targets_in_nats(model, tokens):
    targets = tokens.roll(-1, 1)
    targets[0, :4] = -100
    loss = model(tokens, targets).loss
    log_p = model(tokens).logits.log_softmax(-1)
    counted = [
        -log_p[b, t, targets[b, t]] for b in range(2) for t in range(11) if targets[b, t] >= 0
    ]
    torch.testing.assert_close(loss, torch.stack(counted).mean())


def test_logits_are_made_when_they_are_read(model, tokens):
    out = model(tokens, tokens.roll(-1, 1))
    assert out._logits is None
    assert out.logits is out.logits
    torch.testing.assert_close(out.last_logits, out.logits[:, -1])
    torch.testing.assert_close(out.logits, model(tokens).logits)


def test_logits_are_differentiable_if_the_pass_was(model, tokens):
    out = model(tokens, tokens.roll(-1, 1))
    with torch.no_grad():
        out.logits  # noqa: B018  reading them first where no gradient is asked for changes nothing
    other = F.cross_entropy(out.logits.flatten(0, 1), tokens.roll(-1, 1).flatten())
    table = model.inputs.usual.tokens.weight
    torch.testing.assert_close(
        *(torch.autograd.grad(value, table, retain_graph=True)[0] for value in (out.loss, other))
    )
    with torch.no_grad():
        out = model(tokens)
    assert not out.logits.requires_grad
    with torch.inference_mode():
        out = model(tokens)
    assert not out.last_logits.requires_grad


def test_logits_keep_the_precision_of_the_pass(tiny, tokens):
    model = sf.build(tiny("gpt"))
    with torch.autocast("cpu", torch.bfloat16):
        out = model(tokens, tokens.roll(-1, 1))
    assert out.logits.dtype == torch.bfloat16
    assert out.loss.dtype == torch.float32


def test_a_compiled_pass_has_one_graph(tiny, tokens):
    model = sf.build(tiny("gpt", n_layer=1))
    targets = tokens.roll(-1, 1)
    expected = torch.autograd.grad(model(tokens, targets).loss, list(model.parameters()))
    out = torch.compile(model, fullgraph=True, backend="aot_eager")(tokens, targets)
    found = torch.autograd.grad(out.loss, list(model.parameters()))
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(out.logits, model(tokens).logits)


def test_fresh_models_are_near_uniform(tiny, tokens):
    for name in sf.presets():
        loss = sf.build(tiny(name))(tokens, tokens.roll(-1, 1)).loss
        assert abs(loss.item() - math.log(37)) < 0.3, name


def test_a_cache_stays_valid(model, tokens):
    """One prefix can be continued twice."""
    cache = model(tokens[:, :6]).cache
    first = model(tokens[:, 6:9], cache=cache).logits
    model(tokens[:, 7:10], cache=cache)
    torch.testing.assert_close(model(tokens[:, 6:9], cache=cache).logits, first, rtol=0, atol=0)


def test_greedy_generation_is_the_argmax_of_full_passes(model, tokens):
    got = model.generate(tokens, max_new_tokens=8)
    expected = tokens
    for _ in range(8):
        expected = torch.cat([expected, model(expected).logits[:, -1:].argmax(-1)], dim=1)
    assert got.tolist() == expected.tolist()


def test_sampling_is_repeatable_and_obeys_top_k(model, tokens):
    one = model.generate(tokens, 8, temperature=1.5, seed=3)
    assert one.tolist() == model.generate(tokens, 8, temperature=1.5, seed=3).tolist()
    assert one.tolist() != model.generate(tokens, 8, temperature=1.5, seed=4).tolist()
    greedy = model.generate(tokens, 8)
    assert model.generate(tokens, 8, temperature=1.5, top_k=1, seed=3).tolist() == greedy.tolist()


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda m: m(torch.tensor([[1, 37]])), "outside the vocabulary"),
        (lambda m: m(torch.tensor([[-1, 3]])), "outside the vocabulary"),
        (lambda m: m(torch.zeros(1, 25, dtype=torch.long)), "block size of 24"),
        (lambda m: m(torch.zeros(1, 0, dtype=torch.long)), "each at least 1"),
        (lambda m: m.generate(torch.zeros(1, 0, dtype=torch.long), 3), "time ≥ 1"),
        (lambda m: m.generate(torch.zeros(1, 20, dtype=torch.long), 9), "block size of 24"),
        (
            lambda m: m.generate(torch.zeros(1, 2, dtype=torch.long), 3, temperature=-1),
            "temperature",
        ),
        (lambda m: m.generate(torch.zeros(1, 2, dtype=torch.long), 3, top_k=0), "top_k"),
    ],
)
def test_bad_input(model, call, says):
    with pytest.raises(InputError, match=says):
        call(model)


def test_a_cache_counts_towards_the_block_size(model):
    cache = model(torch.zeros(1, 20, dtype=torch.long)).cache
    with pytest.raises(InputError, match="block size"):
        model(torch.zeros(1, 5, dtype=torch.long), cache=cache)


def heads(x, h):
    return x.unflatten(-1, (h, -1)).transpose(-3, -2)


def attention(block, x, h=2):
    """Causal multi-head attention, written out."""
    q, k, v = (heads(part, h) for part in (x @ block.oracle.qkv.weight.T).chunk(3, -1))
    scores = q @ k.mT / math.sqrt(q.shape[-1])
    hidden = torch.ones_like(scores, dtype=torch.bool).triu(1)
    out = scores.masked_fill(hidden, -math.inf).softmax(-1) @ v
    return out.transpose(-3, -2).flatten(-2) @ block.oracle.out.weight.T


def mlp(block, x):
    return F.gelu(x @ block.oracle.expand.weight.T) @ block.oracle.contract.weight.T


def norm(layer, x):
    return F.layer_norm(x, x.shape[-1:], layer.weight)


def test_gpt_is_gpt(tiny, tokens):
    """The composition against a GPT written out in a few lines."""
    m = sf.build(tiny("gpt")).double()
    table = m.inputs.usual
    x = table.tokens.weight[tokens] + table.positions.weight[:11]
    for b in m.blocks:
        x = x + attention(b.attention, norm(b.attention.norm, x))
        x = x + mlp(b.mlp, norm(b.mlp.norm, x))
    torch.testing.assert_close(m(tokens).logits, norm(m.norm, x) @ table.tokens.weight.T)


def test_yurii_is_the_published_block(tiny, tokens):
    """V' = LN_v(β v + γ O(LN(x + μ v))), x' = x + v', for attention and then for the MLP."""
    m = sf.build(tiny("yurii")).double()
    table, velocity = m.inputs.usual, m.inputs.momentum
    x = table.tokens.weight[tokens] + table.positions.weight[:11]
    v = velocity.tokens.weight[tokens] + velocity.positions.weight[:11]
    for b in m.blocks:
        for part, oracle in ((b.attention, attention), (b.mlp, mlp)):
            look = norm(part.norm_x, x + torch.sigmoid(part.mu.raw) * v)
            beta, gamma = torch.sigmoid(part.beta.raw), F.softplus(part.gamma.raw)
            assert math.isclose(beta.item(), 0.9, rel_tol=1e-6)
            assert math.isclose(gamma.item(), 1.0, rel_tol=1e-6)
            v = norm(part.norm_v, beta * v + gamma * oracle(part, look))
            x = x + v
    torch.testing.assert_close(m(tokens).logits, norm(m.norm, x) @ table.tokens.weight.T)


@pytest.mark.parametrize("shape", [(9, 2), (1, 18), (18,), (2, 8)])
def test_targets_of_another_shape_are_refused(shape, tiny):
    """Transposed ones have as many elements: their loss was that of other tokens, in silence."""
    ids = torch.zeros(2, 9, dtype=torch.long)
    with pytest.raises(InputError, match=r"targets must be \(2, 9\)"):
        sf.build(tiny("gpt"))(ids, torch.zeros(shape, dtype=torch.long))


@pytest.mark.parametrize("shape", [(0, 4), (2, 0), (0, 0), (4,)])
def test_no_tokens_are_refused(shape, tiny):
    with pytest.raises(InputError, match="each at least 1"):
        sf.build(tiny("gpt"))(torch.zeros(shape, dtype=torch.long))
