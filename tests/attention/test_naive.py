"""The oracles against the theory they come from: Hamiltonian derivatives, loops, and each other."""

import math

import pytest
import torch
from torch.func import jvp

from sympformer.attention.naive import (
    average,
    log_sum_exp,
    softmax_acceleration,
    softmax_field,
)


@pytest.fixture(autouse=True)
def _in_float64():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def problem(n=7, d=3, seed=0, size=1.0):
    g = torch.Generator().manual_seed(seed)
    x, p, S, R = (torch.randn(*shape, generator=g) for shape in ((n, d), (n, d), (d, d), (d, d)))
    return size * x, size * p, (S + S.T) / 2, R @ R.T + torch.eye(d)


def hamiltonian(x, p, A, B):
    """½ Σ p_iᵀB p_i / z_i - (1/2N) Σ K_ij, maths.md section 2."""
    K = (x @ A @ x.T).exp()
    return ((p @ B * p).sum(-1) / K.mean(-1)).sum() / 2 - K.sum() / (2 * len(x))


def test_joint_field_is_hamiltonian():
    x, p, A, B = problem()
    x.requires_grad_()
    p.requires_grad_()
    dx, dp = torch.autograd.grad(hamiltonian(x, p, A, B), (x, p))
    velocity, force = softmax_field(x, p, A, B)
    torch.testing.assert_close(velocity, dp, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(force, -dx, rtol=1e-12, atol=1e-12)


def test_at_rest_the_acceleration_is_attention():
    x, _, A, B = problem()
    attention = (x @ A @ x.T).softmax(-1) @ x @ (B @ A).T
    _, force = softmax_field(x, torch.zeros_like(x), A, B)
    z = (x @ A @ x.T).exp().mean(-1, keepdim=True)
    torch.testing.assert_close(force @ B / z, attention)
    torch.testing.assert_close(softmax_acceleration(x, torch.zeros_like(x), A, B), attention)


@pytest.mark.parametrize("seed", range(3))
def test_velocity_form_is_the_same_flow(seed):
    """The derivative of u = B p/z along (S) is the right-hand side of (U)."""
    x, p, A, B = problem(seed=seed)

    def u(x, p):
        return softmax_field(x, p, A, B)[0]

    velocity, du = jvp(u, (x, p), softmax_field(x, p, A, B))[:2]
    torch.testing.assert_close(du, softmax_acceleration(x, velocity, A, B), rtol=1e-11, atol=1e-11)


def test_prefix_field_is_the_sum_over_earlier_tokens():
    """Row by row from the formula; z_j and s_j of every j come from its own prefix."""
    x, p, A, B = problem()
    z = torch.stack([(x[: i + 1] @ A @ x[i]).exp().mean() for i in range(len(x))])
    s = torch.stack([p[i] @ B @ p[i] / z[i] ** 2 for i in range(len(x))])
    velocity, force = softmax_field(x, p, A, B, causality="prefix")
    for i in range(len(x)):
        k = (x[: i + 1] @ A @ x[i]).exp() / (i + 1)
        expected = ((k * (s[i] + s[: i + 1] + 2) / 2)[:, None] * (x[: i + 1] @ A)).sum(0)
        torch.testing.assert_close(force[i], expected)
        torch.testing.assert_close(velocity[i], B @ p[i] / z[i])


@pytest.mark.parametrize("causality", ["prefix", "joint"])
def test_velocity_form_row_by_row(causality):
    x, u, A, B = problem()
    V, inverse = B @ A, torch.linalg.inv(B)
    result = softmax_acceleration(x, u, A, B, causality=causality)
    for i in range(len(x)):
        seen = range(i + 1) if causality == "prefix" else range(len(x))
        weights = torch.tensor([math.exp(x[i] @ A @ x[j]) for j in seen])
        weights /= weights.sum()
        att = sum(w * V @ x[j] for w, j in zip(weights, seen, strict=True))
        c = sum(w * (u[i] @ A @ x[j] + x[i] @ A @ u[j]) for w, j in zip(weights, seen, strict=True))
        s = [u[j] @ inverse @ u[j] for j in range(len(x))]
        pull = sum(w * s[j] * V @ x[j] for w, j in zip(weights, seen, strict=True))
        torch.testing.assert_close(result[i], att - c * u[i] + (s[i] * att + pull) / 2)


def test_leading_dimensions():
    x, p, A, B = problem()
    batch = torch.stack([x, 2 * x])[:, None]
    velocity, _ = softmax_field(batch, p, A, B, causality="prefix")
    assert velocity.shape == (2, 1, *x.shape)
    torch.testing.assert_close(velocity[1, 0], softmax_field(2 * x, p, A, B, "prefix")[0])


@pytest.mark.parametrize("n", [1, 3])
def test_the_last_queries(n):
    """Queries are the newest tokens, so decoding a suffix repeats the rows of the whole."""
    x, v, A, _ = problem(n=6)
    q = x @ A
    torch.testing.assert_close(average(q[-n:], x, v), average(q, x, v)[-n:])
    torch.testing.assert_close(log_sum_exp(q[-n:], x), log_sum_exp(q, x)[-n:])
