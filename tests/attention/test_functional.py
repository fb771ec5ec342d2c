"""Attention as functions, against the formulas of their docstrings in dense matrices."""

import math

import pytest
import torch

import sympformer as sf
from sympformer.errors import InputError

CAUSALITIES = ["prefix", "joint"]
B, H, T, D, E = 2, 3, 7, 4, 5


def random(*shape):
    return torch.randn(*shape, dtype=torch.float64, requires_grad=True)


def seen(causality):
    """Which tokens each token sees, `(T, T)`, and how many, `(T, 1)`."""
    full = torch.ones(T, T, dtype=torch.float64)
    mask = full.tril() if causality == "prefix" else full
    return mask, mask.sum(-1, keepdim=True)


def kernel(q, k, causality, scale):
    """`exp(score)` of the visible tokens, and 0 elsewhere."""
    return (scale * q @ k.mT).exp() * seen(causality)[0]


def assert_same(got, expected, inputs):
    """Values and first derivatives of a random projection."""
    weights = [torch.randn_like(e) for e in expected]
    for g, e in zip(got, expected, strict=True):
        assert g.shape == e.shape
        torch.testing.assert_close(g, e)
    derivatives = [
        torch.autograd.grad(
            sum((w * r).sum() for w, r in zip(weights, results, strict=True)), inputs
        )
        for results in (got, expected)
    ]
    for g, e in zip(*derivatives, strict=True):
        torch.testing.assert_close(g, e)


@pytest.mark.parametrize("causality", CAUSALITIES)
@pytest.mark.parametrize("scale", [None, 0.8])
def test_softmax_attention(causality, scale):
    q, k, v = random(B, H, T, D), random(B, H, T, D), random(B, H, T, E)
    got = sf.attention.softmax_attention(q, k, v, scale=scale, causality=causality)
    K = kernel(q, k, causality, scale or 1 / math.sqrt(D))
    assert_same([got], [K / K.sum(-1, keepdim=True) @ v], [q, k, v])


@pytest.mark.parametrize("causality", CAUSALITIES)
@pytest.mark.parametrize("normalizer", ["prefix", "length"])
def test_softmax_momentum(causality, normalizer):
    q, k, v, pi = random(B, H, T, D), random(B, H, T, D), random(B, H, T, E), random(B, H, T, E)
    got = sf.attention.softmax_momentum(q, k, v, pi, causality=causality, normalizer=normalizer)
    K = kernel(q, k, causality, 1 / math.sqrt(D))
    a = K / K.sum(-1, keepdim=True)
    z = K.sum(-1, keepdim=True) / (T if normalizer == "length" else seen(causality)[1])
    s = (pi / z).square().sum(-1, keepdim=True)
    force = z * (a * (1 + (s + s.mT) / 2)) @ v
    assert_same(got, [pi / z, force], [q, k, v, pi])


@pytest.mark.parametrize("causality", CAUSALITIES)
def test_softmax_velocity(causality):
    q, k, qu, ku = (random(B, H, T, D) for _ in range(4))
    v, s, scale = random(B, H, T, E), random(B, 1, T, 1), 0.6
    got = sf.attention.softmax_velocity(q, k, v, qu, ku, s, scale=scale, causality=causality)
    K = kernel(q, k, causality, scale)
    a = K / K.sum(-1, keepdim=True)
    c = (a * scale * (qu @ k.mT + q @ ku.mT)).sum(-1, keepdim=True)
    pull = -(s * (a @ v) + a @ (s * v)) / 2
    assert_same(got, [a @ v, c, pull], [q, k, v, qu, ku, s])


@pytest.mark.parametrize("causality", CAUSALITIES)
@pytest.mark.parametrize("scale", [None, 0.8])
def test_linear_attention(causality, scale):
    q, k, v = random(B, H, T, D), random(B, H, T, D), random(B, H, T, E)
    got = sf.attention.linear_attention(q, k, v, scale=scale, causality=causality)
    mask, n = seen(causality)
    expected = (mask * (q @ k.mT)) @ v * (scale or 1 / math.sqrt(D)) / n
    assert_same([got], [expected], [q, k, v])


@pytest.mark.parametrize("causality", CAUSALITIES)
def test_linear_momentum(causality):
    q, k, pi, scale = random(B, H, T, D), random(B, H, T, D), random(B, H, T, E), 0.7
    got = sf.attention.linear_momentum(q, k, pi, scale=scale, causality=causality)
    mask, n = seen(causality)
    velocity = (mask * (q @ k.mT)) @ pi * scale / n
    repulsion = (mask * (pi @ pi.mT)) @ k * scale / n
    assert_same(got, [velocity, repulsion], [q, k, pi])


@pytest.mark.parametrize("causality", CAUSALITIES)
def test_linear_metric(causality):
    k, ku, u, g = random(B, H, T, D), random(B, H, T, D), random(B, H, T, E), random(B, H, T, E)
    scale, ridge = 0.7, 0.4
    metric = sf.attention.linear_metric(k, ku, u, ridge=ridge, scale=scale, causality=causality)
    mask, n = seen(causality)
    K, turn = scale * mask * (k @ k.mT) / n, scale * mask * (ku @ k.mT + k @ ku.mT) / n
    pi = torch.linalg.solve(K + ridge * torch.eye(T, dtype=K.dtype), u)
    repulsion = scale * mask * (pi @ pi.mT) / n @ k
    connection = K @ g - turn @ pi + ridge * g
    got = [metric.pi, metric.repulsion(), metric.connection(g)]
    assert_same(got, [pi, repulsion, connection], [k, ku, u, g])


FUNCTIONS = {
    "softmax_attention": ("q", "k", "v"),
    "softmax_momentum": ("q", "k", "v", "pi"),
    "softmax_velocity": ("q", "k", "v", "qu", "ku", "s"),
    "linear_attention": ("q", "k", "v"),
    "linear_momentum": ("q", "k", "pi"),
    "linear_metric": ("k", "ku", "u"),
}


def call(name, options=None, **changed):
    arguments = {n: torch.randn(B, H, T, D) for n in FUNCTIONS[name]}
    if "s" in arguments:
        arguments["s"] = torch.randn(B, 1, T, 1)
    options = ({"ridge": 0.1} if name == "linear_metric" else {}) | (options or {})
    return getattr(sf.attention, name)(**arguments | changed, **options)


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("causality", ["causal", "Prefix", True, None])
def test_an_unknown_causality_is_refused(name, causality):
    call(name)
    with pytest.raises(InputError, match="causality"):
        call(name, {"causality": causality})


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("scale", ["1", math.nan, torch.ones(())])
def test_a_scale_is_a_number(name, scale):
    with pytest.raises(InputError, match="scale must be"):
        call(name, {"scale": scale})


def test_other_options_are_checked():
    with pytest.raises(InputError, match="normalizer"):
        call("softmax_momentum", {"normalizer": "foo"})
    with pytest.raises(InputError, match="ridge must be greater than 0"):
        call("linear_metric", {"ridge": 0.0})


@pytest.mark.parametrize(
    ("name", "argument"), [(name, a) for name, arguments in FUNCTIONS.items() for a in arguments]
)
@pytest.mark.parametrize("axis", range(4))
def test_shapes_that_do_not_fit_are_refused(name, argument, axis):
    shape = [B, 1, T, 1] if argument == "s" else [B, H, T, D]
    shape[axis] += 1
    if axis == 3 and argument in ("v", "pi", "u") and name != "softmax_momentum":
        call(name, **{argument: torch.randn(shape)})  # a width of its own
        return
    with pytest.raises(InputError, match="must be"):
        call(name, **{argument: torch.randn(shape)})


def test_arguments_are_tensors_of_one_real_type_with_four_axes():
    for wrong in (torch.ones(B, H, T, D, dtype=torch.int64), [1.0], torch.randn(T, D)):
        with pytest.raises(InputError, match="k must be"):
            call("softmax_attention", k=wrong)
    with pytest.raises(InputError, match="one type"):
        call("linear_attention", v=torch.randn(B, H, T, D, dtype=torch.float64))


def test_fewer_queries_are_those_of_the_newest_tokens():
    q, k, v = random(B, H, T, D), random(B, H, T, D), random(B, H, T, E)
    whole = sf.attention.softmax_attention(q, k, v)
    torch.testing.assert_close(sf.attention.softmax_attention(q[:, :, -3:], k, v), whole[:, :, -3:])
