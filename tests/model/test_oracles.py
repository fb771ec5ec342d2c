"""Oracles of models against the formulas of the theory."""

import math
from contextlib import suppress

import pytest
import torch
from torch.nn.utils import prune

import sympformer as sf
from sympformer import InputError
from sympformer.attention import naive
from sympformer.attention.past import NoPast
from sympformer.model.attentions import attention_oracle
from sympformer.model.layers import MLP

CAUSALITIES = ["prefix", "joint"]
D = 6


@pytest.fixture
def make(tiny):
    def make(preset, **options):
        c = tiny(preset, n_embd=D, **options)
        oracle = attention_oracle(c.attention, D, c.n_head, c.reads(), c.causality, c.options)
        oracle = oracle.double()
        for p in oracle.parameters():
            torch.nn.init.normal_(p, std=0.4)
        return oracle

    return make


def tokens(seed=0):
    return torch.randn(2, 9, D, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def softmax_matrices(oracle):
    """A and B."""
    A, L = oracle.matrices()
    return A, L @ L.T


def linear_matrices(oracle):
    """A and V."""
    L = oracle.factor()
    return oracle.scale * L @ L.T, oracle.energy()


@pytest.mark.parametrize("causality", CAUSALITIES)
def test_tied_softmax_is_the_theory_in_momentum_form(make, causality):
    oracle = make("symp-exp-euler", attention="tied-softmax", n_head=1, causality=causality)
    x, p = tokens(), tokens(1)
    A, B = softmax_matrices(oracle)
    torch.testing.assert_close(A, A.mT)
    assert torch.linalg.eigvalsh(B).min() > 0
    field = oracle(x, NoPast())
    velocity, force = naive.softmax_field(x, p, A, B, causality)
    torch.testing.assert_close(field.velocity(p), velocity)
    torch.testing.assert_close(field.force(p), force)


@pytest.mark.parametrize("causality", CAUSALITIES)
def test_tied_softmax_is_the_theory_in_velocity_form(make, causality):
    oracle = make("symp-r2", attention="tied-softmax", n_head=1, causality=causality)
    x, u = tokens(), tokens(1)
    field = oracle(x, NoPast())
    expected = naive.softmax_acceleration(x, u, *softmax_matrices(oracle), causality)
    torch.testing.assert_close(field.attention() - field.connection(u), expected)


@pytest.mark.parametrize("causality", CAUSALITIES)
def test_tied_linear_is_the_theory_in_momentum_form(make, causality):
    oracle = make("linear-symp-exp-euler", attention="tied-linear", n_head=1, causality=causality)
    x, y = tokens(), tokens(1)
    field = oracle(x, NoPast())
    A, V = linear_matrices(oracle)
    torch.testing.assert_close(V, V.mT)
    velocity, force = naive.linear_field(x, y, A, V, causality)
    torch.testing.assert_close(field.velocity(y), velocity)
    torch.testing.assert_close(field.force(y), force)
    torch.testing.assert_close(field.attention(), field.velocity(x @ V))


@pytest.mark.parametrize("causality", CAUSALITIES)
def test_tied_linear_is_the_theory_in_velocity_form(make, causality):
    """Up to λ V x, a map of each token by itself, which is left to the MLP."""
    options = {"attention": "tied-linear", "n_head": 1, "causality": causality, "ridge": 0.3}
    oracle = make("linear-symp-r2", **options)
    x, u = tokens(), tokens(1)
    field = oracle(x, NoPast())
    A, V = linear_matrices(oracle)
    expected = naive.linear_acceleration(x, u, A, V, 0.3, causality)
    got = field.attention() + 0.3 * x @ V - field.connection(u)
    torch.testing.assert_close(got, expected)


def test_free_linear_momentum_form_is_a_sum_over_heads(make):
    """Token by token from docs/linear.md, three heads of two features."""
    oracle = make("linear-symp-exp-euler", n_head=3)
    x, y = tokens(), tokens(1)
    field = oracle(x, NoPast())
    velocity, force = field.velocity(y), field.force(y)
    query, key = (w.unflatten(0, (3, 2)) for w in oracle.qk.weight.chunk(2))
    mobility = oracle.mobility.weight.unflatten(0, (3, 2))
    for i in range(9):
        expected_velocity, expected_force = torch.zeros(2, D), x[:, i] @ oracle.potential.weight.T
        for W_Q, W_K, U in zip(query, key, mobility, strict=True):
            S = sum(
                (x[:, j] @ W_K.T)[:, :, None] * (y[:, j] @ U.T)[:, None, :] for j in range(i + 1)
            ) / (math.sqrt(2) * (i + 1))
            expected_velocity = expected_velocity + ((x[:, i] @ W_Q.T)[:, None] @ S)[:, 0] @ U
            expected_force = expected_force - (S @ (y[:, i] @ U.T)[..., None])[..., 0] @ W_Q
        torch.testing.assert_close(velocity[:, i], expected_velocity)
        torch.testing.assert_close(force[:, i], expected_force)


def test_free_linear_attention_is_averaged_over_the_prefix(make):
    oracle = make("linear-gpt", n_head=2)
    x = tokens()
    q, k, v = (
        part.unflatten(-1, (2, 3)).transpose(1, 2)
        for part in (x @ oracle.qkv.weight.T).chunk(3, -1)
    )
    mean = (q @ k.mT / math.sqrt(3)).tril() @ v / torch.arange(1, 10)[:, None]
    expected = mean.transpose(1, 2).flatten(-2) @ oracle.out.weight.T
    torch.testing.assert_close(oracle(x, NoPast()).attention(), expected)


@pytest.mark.parametrize("preset", ["linear-gpt", "linear-symp-r2", "linear-symp-tao"])
def test_the_state_of_linear_attention_does_not_grow(preset, tiny):
    model = sf.build(tiny(preset))
    ids = torch.randint(0, 37, (2, 20))
    sizes = [
        {name: e.shape for name, e in model(ids[:, :n]).cache.entries.items()} for n in (1, 20)
    ]
    assert sizes[0] == sizes[1]


@pytest.mark.parametrize("preset", ["gpt", "yurii"])
def test_euler_splitting_adds_both_oracles_at_one_point(preset, tiny):
    model = sf.build(tiny(f"{preset}-euler")).double()
    block, past = model.blocks[0], NoPast()
    stream = model.inputs(torch.randint(0, 37, (2, 7)), past)
    part = block.attention
    at = part.norm(stream.x) if preset == "gpt" else part.look(stream.x, stream.p)
    both = part.oracle.attention(at, past).attention() + part.oracle.mlp(at)
    step = both if preset == "gpt" else part.norm_v(part.propose(stream.p, both))
    torch.testing.assert_close(block(stream).x, stream.x + step)


def test_rivals_are_yurii_with_one_change(tiny):
    """Polyak does not look ahead; triple momentum moves by ν v, with ν = 1 as YuriiFormer."""
    ids = torch.randint(0, 37, (2, 7))
    yurii, polyak, tmm = (sf.build(tiny(n)).double() for n in ("yurii", "polyak", "tmm"))
    state = yurii.state_dict()
    tmm.load_state_dict(state, strict=False)
    torch.testing.assert_close(tmm(ids).logits, yurii(ids).logits)
    with torch.no_grad():
        tmm.blocks[0].mlp.nu.raw.fill_(3.0)
    assert (tmm(ids).logits - yurii(ids).logits).abs().max() > 1e-5
    polyak.load_state_dict({k: v for k, v in state.items() if ".mu." not in k})
    with torch.no_grad():
        for name, p in yurii.named_parameters():
            if ".mu." in name:
                p.fill_(-1e3)
    torch.testing.assert_close(polyak(ids).logits, yurii(ids).logits)


class Adapter(torch.nn.Module):
    """A low-rank term beside a projection, whose matrix stays readable."""

    def __init__(self, base):
        super().__init__()
        self.base = base
        self.a = torch.nn.Parameter(0.1 * torch.randn(2, base.in_features))
        self.b = torch.nn.Parameter(torch.randn(base.out_features, 2))

    @property
    def weight(self):
        return self.base.weight

    def forward(self, x):
        return self.base(x) + x @ self.a.T @ self.b.T


@pytest.mark.parametrize("part", ["qkv", "qk", "out", "mobility", "potential", "expand"])
@pytest.mark.parametrize("preset", sf.presets())
@torch.no_grad()
def test_an_adapter_acts_in_every_product_or_is_refused(preset, part, tiny):
    """Its logits are those of the merged matrix: it is never passed by."""
    model, ids = sf.build(tiny(preset)).eval(), torch.randint(0, 37, (2, 9))
    parents = [m for m in model.modules() if isinstance(getattr(m, part, None), torch.nn.Linear)]
    places = [(parent, getattr(parent, part)) for parent in parents]
    for parent, base in places:
        setattr(parent, part, Adapter(base))
    adapters = [getattr(parent, part) for parent, _ in places]
    adapted = None
    with suppress(InputError):
        adapted = model(ids).logits
    if adapted is None:
        with pytest.raises(InputError, match="merge the adapter"):
            model(ids)
        return
    for (parent, base), adapter in zip(places, adapters, strict=True):
        base.weight += adapter.b @ adapter.a
        setattr(parent, part, base)
    torch.testing.assert_close(adapted, model(ids).logits, rtol=1e-4, atol=1e-5)


HOOKS = {
    "before": lambda m: m.register_forward_pre_hook(lambda _, args: (1.5 * args[0],)),
    "behind": lambda m: m.register_forward_hook(lambda _, args, out: 1.5 * out),
    "gradient": lambda m: m.register_full_backward_hook(lambda *_: None),
    "pruned": lambda m: prune.l1_unstructured(m, "weight", 0.4),
    "instance": lambda m: setattr(m, "forward", lambda x: 1.5 * torch.nn.Linear.forward(m, x)),
}


@pytest.mark.parametrize("hook", HOOKS)
@pytest.mark.parametrize(
    ("preset", "part"),
    [
        ("symp-r2", "qkv"),
        ("symp-r2", "out"),
        ("symp-exp-euler", "mobility"),
        ("linear-symp-h1", "qkv"),
        ("linear-symp-exp-euler", "potential"),
    ],
)
def test_what_acts_in_calls_only_is_refused_where_a_matrix_is_read(preset, part, hook, tiny):
    model, ids = sf.build(tiny(preset)), torch.randint(0, 37, (2, 9))
    parts = [m for name, m in model.named_modules() if name.endswith(f".{part}")]
    HOOKS[hook](parts[0])
    with pytest.raises(InputError, match="replaced or has hooks"):
        model(ids)


@pytest.mark.parametrize("preset", ["gpt", "gpt-untied"])
def test_an_adapter_of_the_table_is_refused(preset, tiny):
    """The head would pass it by."""
    model, ids = sf.build(tiny(preset)), torch.randint(0, 37, (2, 9))
    tables = model.inputs.usual
    tables.tokens = Doubled(tables.tokens)
    with pytest.raises(InputError, match="head would pass by"):
        model(ids)


class Doubled(torch.nn.Module):
    """A table and as much again, whose vectors stay readable."""

    def __init__(self, base):
        super().__init__()
        self.base = base

    @property
    def weight(self):
        return self.base.weight

    def forward(self, ids):
        return 2 * self.base(ids)


@pytest.mark.parametrize("preset", ["gpt", "symp-r2", "symp-exp-euler", "linear-gpt"])
def test_pruned_matrices_act_or_are_refused(preset, tiny):
    """Also after an update, when what was pruned is made anew."""
    model, ids = sf.build(tiny(preset)), torch.randint(0, 37, (2, 9))
    for name, module in model.named_modules():
        if name.endswith((".qkv", ".out")):
            prune.l1_unstructured(module, "weight", 0.4)
            with torch.no_grad():
                module.weight_orig.mul_(2)
    with suppress(InputError):
        pruned = model(ids).logits
        for name, module in model.named_modules():
            if name.endswith((".qkv", ".out")):
                prune.remove(module, "weight")
        torch.testing.assert_close(pruned, model(ids).logits)


@pytest.mark.parametrize("name", ["gpt", "symp-r2", "linear-symp-r2"])
def test_a_bias_acts_in_every_product_or_is_refused(name, tiny):
    model, ids = sf.build(tiny(name)), torch.zeros(1, 3, dtype=torch.int64)
    contract = next(part.contract for part in model.modules() if isinstance(part, MLP))
    before = model(ids).logits
    contract.bias = torch.nn.Parameter(torch.arange(float(contract.out_features)))
    assert not torch.allclose(model(ids).logits, before)
    projections = [p for n, p in model.named_modules() if n.endswith((".qkv", ".out"))]
    for projection in projections:
        projection.bias = torch.nn.Parameter(torch.ones(projection.out_features))
    if name == "gpt":
        model(ids)
    else:
        with pytest.raises(InputError, match="a projection has a bias"):
            model(ids)


@pytest.mark.parametrize("preset", ["symp-r2", "symp-exp-euler", "linear-symp-r2"])
def test_a_bias_of_the_outputs_is_a_constant_force(preset, tiny):
    """No metric turns it: the connection is the same."""
    c = tiny(preset, n_embd=D, bias=True)
    oracle = attention_oracle(
        c.attention, D, c.n_head, c.reads(), c.causality, c.options, c.bias
    ).double()
    for p in oracle.parameters():
        torch.nn.init.normal_(p, std=0.4)
    x, p = tokens(), tokens(1)

    def read():
        field = oracle(x, NoPast())
        if c.in_momentum_form:
            return field.force(p), field.velocity(p)
        return field.attention(), field.connection(p)

    moved, still = read()
    b = oracle.out.bias.detach().clone()
    torch.nn.init.zeros_(oracle.out.bias)
    plain, other = read()
    torch.testing.assert_close(moved, plain + b)
    torch.testing.assert_close(still, other)
