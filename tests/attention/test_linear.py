"""Linear attention: the formulas against their theory, and every form against the formulas."""

import pytest
import torch
from torch.func import jvp

from sympformer import lab
from sympformer.attention import naive
from sympformer.attention.linear import LinearField, SteinMetric
from sympformer.attention.prefix_sums import masked, recurrent
from sympformer.model.cache import Recorder

CAUSALITIES = ["prefix", "joint"]


def random(*shape, seed=0, dtype=torch.float64):
    return torch.randn(
        *shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    ).to(dtype)


def problem(n=7, d=3, seed=0):
    """Positions, momenta, a positive definite A and a symmetric V."""
    x, y, R, S = (random(*s, seed=4 * seed + i) for i, s in enumerate([(n, d)] * 2 + [(d, d)] * 2))
    return x, y, R @ R.T / d + torch.eye(d), S + S.T


def test_joint_field_is_hamiltonian():
    x, y, A, V = problem()
    inputs = x.requires_grad_(), y.requires_grad_()
    H = ((x @ A @ x.T) * (y @ y.T)).sum() / (2 * len(x)) - (x @ V * x).sum() / 2
    dx, dy = torch.autograd.grad(H, inputs)
    velocity, force = naive.linear_field(x, y, A, V)
    torch.testing.assert_close(velocity, dy)
    torch.testing.assert_close(force, -dx)


def test_prefix_field_row_by_row():
    x, y, A, V = problem()
    velocity, force = naive.linear_field(x, y, A, V, causality="prefix")
    for i in range(len(x)):
        S = x[: i + 1].T @ y[: i + 1]
        torch.testing.assert_close(velocity[i], x[i] @ A @ S / (i + 1))
        torch.testing.assert_close(force[i], V @ x[i] - A @ S @ y[i] / (i + 1))


@pytest.mark.parametrize("causality", CAUSALITIES)
def test_the_lab_has_the_same_field(causality):
    x, y, A, V = problem()
    for mine, theirs in zip(
        naive.linear_field(x, y, A, V, causality),
        lab.linear_field(x, y, A, V, causality),
        strict=True,
    ):
        torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize("causality", CAUSALITIES)
@pytest.mark.parametrize("ridge", [0.0, 0.3])
@pytest.mark.parametrize("seed", range(3))
def test_velocity_form_is_the_same_flow(causality, ridge, seed):
    """The derivative of u = (K/n + λ) y along (L) is the velocity form's right-hand side."""
    x, y, A, V = problem(n=3, d=5, seed=seed)  # fewer tokens than features: K is definite

    def u(x, y):
        return naive.linear_field(x, y, A, V, causality)[0] + ridge * y

    flow = naive.linear_field(x, y, A, V, causality)
    velocity, du = jvp(u, (x, y), (flow[0] + ridge * y, flow[1]))[:2]
    got = naive.linear_acceleration(x, velocity, A, V, ridge, causality)
    torch.testing.assert_close(got, du, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("causality", CAUSALITIES)
def test_the_ridge_vanishes_in_the_limit(causality):
    """λ → 0 gives the acceleration of (L) itself, linearly in λ."""
    x, y, A, V = problem(n=3, d=5)

    def u(x, y):
        return naive.linear_field(x, y, A, V, causality)[0]

    velocity, exact = jvp(u, (x, y), naive.linear_field(x, y, A, V, causality))[:2]
    errors = [
        (naive.linear_acceleration(x, velocity, A, V, ridge, causality) - exact).abs().max().item()
        for ridge in (1e-4, 1e-6, 1e-8)
    ]
    assert errors[2] < 1e-4 * exact.abs().max()
    assert errors[0] / errors[1] == pytest.approx(100, rel=0.05)
    assert errors[1] / errors[2] == pytest.approx(100, rel=0.05)


@pytest.mark.parametrize("causality", CAUSALITIES)
@pytest.mark.parametrize("length", [1, 2, 5, 33])
def test_recurrent_form_is_the_masked_form(causality, length):
    inputs = [
        t.requires_grad_()
        for t in (
            *(random(2, length, 4, seed=s) for s in (0, 1)),
            random(2, length, 3, seed=2),
            random(2, 4, 3, seed=3),
        )
    ]
    weight = random(2, length, 3, seed=4)
    results = []
    for form in (masked, recurrent):
        out = form(*inputs[:3], causality=causality, state=inputs[3])
        results.append([out, *torch.autograd.grad((out * weight).sum(), inputs)])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b)


def test_a_sum_is_its_definition():
    q, k, v = (random(6, 4, seed=s) for s in range(3))
    for i, row in enumerate(masked(q, k, v)):
        torch.testing.assert_close(row, sum((q[i] @ k[j]) * v[j] for j in range(i + 1)))
    torch.testing.assert_close(masked(q, k, v, causality="joint"), q @ k.T @ v)


@pytest.mark.parametrize("causality", CAUSALITIES)
def test_momentum_form_is_the_naive_field(causality):
    x, y, A, V = problem(n=9)
    velocity, force = naive.linear_field(x, y, A, V, causality)
    got = LinearField(x @ A, 2 * x, scale=0.5, causality=causality)
    torch.testing.assert_close(got.velocity(y), velocity)
    # Here the keys are x, so the force of the query x A is A times theirs.
    torch.testing.assert_close(x @ V - got.repulsion(y) @ A, force)
    torch.testing.assert_close(got.attention(x @ V), got.velocity(x @ V))


@pytest.mark.parametrize("causality", CAUSALITIES)
@pytest.mark.parametrize("ridge", [0.05, 2.0])
def test_connection_is_the_naive_one(causality, ridge):
    """Att - C of the field, with λ V x of the metric's identity, is the naive acceleration."""
    x, u, A, V = problem(n=9)
    L = torch.linalg.cholesky(A)
    k, ku = x @ L, u @ L
    metric = SteinMetric(k, ku, u, scale=1.0, ridge=ridge, causality=causality)
    attention = naive.linear_average(x @ A, x, causality) @ x @ V + ridge * x @ V
    got = attention - metric.connection(metric.repulsion() @ L.T)
    expected = naive.linear_acceleration(x, u, A, V, ridge, causality)
    torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("size", [0.1, 1.0, 30.0])
def test_momentum_of_a_velocity_is_bounded_in_float32(size):
    """Σ n_i |π_i|² ≤ λ⁻² Σ n_i |u_i|², many tokens and few dimensions; u is recovered."""
    k = size * random(4, 257, 8, dtype=torch.float32)
    k[:, 100:120] = 0.0  # keys that see nothing, not even themselves
    u = random(4, 257, 8, seed=1, dtype=torch.float32)
    ridge, n = 0.5, torch.arange(1, 258)[:, None]
    pi = SteinMetric(k, k, u, scale=1.0, ridge=ridge).pi
    assert (n * pi.square()).sum() <= (n * u.square()).sum() / ridge**2
    again = naive.linear_average(k.double(), k.double(), "prefix") @ pi.double() + ridge * pi
    assert (again - u).abs().max() < 1e-4 * max(1, size)


def test_finite_for_extreme_keys_in_float32():
    inputs = [random(2, 65, 8, seed=s, dtype=torch.float32).requires_grad_() for s in range(2)]
    for size in (1e-4, 1.0, 1e3):
        k = size * inputs[0]
        metric = SteinMetric(k, size * inputs[1], inputs[1], scale=1.0, ridge=1.0)
        c = metric.connection(size * metric.repulsion())
        normalised = torch.nn.functional.layer_norm(c, c.shape[-1:])
        gradients = torch.autograd.grad(normalised.sum(), inputs)
        assert all(t.isfinite().all() for t in (c, *gradients)), size


@pytest.mark.parametrize("split", [1, 6])
def test_split_and_resume(split):
    """The field of the newest tokens, given the past, is the end of the field of all."""
    q, k, pi, v, u, ku = (random(2, 11, 4, seed=s) for s in range(6))

    def results(part, past):
        field = LinearField(q[:, part], k[:, part], scale=0.5, past=past.part("field"))
        metric = SteinMetric(
            k[:, part], ku[:, part], u[:, part], scale=0.5, ridge=0.3, past=past.part("metric")
        )
        return [
            field.velocity(pi[:, part]),
            field.repulsion(pi[:, part]),
            field.attention(v[:, part]),
            metric.repulsion(),
            metric.connection(v[:, part]),
        ]

    expected = results(slice(None), Recorder(None))
    first = Recorder(None)
    results(slice(split), first)
    rest = Recorder(first.cache(split))
    for got, want in zip(results(slice(split, None), rest), expected, strict=True):
        torch.testing.assert_close(got, want[:, split:])
    sizes = [[e.shape for e in r.cache(1).entries.values()] for r in (first, rest)]
    assert sizes[0] == sizes[1], "the state of linear attention does not grow"
