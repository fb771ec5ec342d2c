"""The field that models use against the naive formulas, in every precision."""

import math

import pytest
import torch

from sympformer.attention import naive
from sympformer.attention.softmax import SoftmaxField
from sympformer.model.cache import Recorder


def random(*shape, seed=0, dtype=torch.float64):
    return torch.randn(
        *shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    ).to(dtype)


def field(q, k, v, **options):
    return SoftmaxField(q, k, v, scale=1.0, **options)


@pytest.mark.parametrize("causality", ["prefix", "joint"])
def test_momentum_form_is_the_naive_field(causality):
    d = 4
    x, p, S, U = random(9, d), random(9, d, seed=1), random(d, d, seed=2), random(d, d, seed=3)
    A, B = (S + S.T) / 4, U.T @ U
    velocity, force = naive.softmax_field(x, p, A, B, causality)
    got = field(x @ A, x, x @ A, causality=causality)
    torch.testing.assert_close(got.velocity(p @ U.T) @ U, velocity)
    torch.testing.assert_close(got.force(p @ U.T), force)


@pytest.mark.parametrize("causality", ["prefix", "joint"])
def test_velocity_form_is_the_naive_acceleration(causality):
    d = 4
    x, u, S, R = random(9, d), random(9, d, seed=1), random(d, d, seed=2), random(d, d, seed=3)
    A, B = (S + S.T) / 4, R @ R.T + torch.eye(d, dtype=torch.float64)
    got = field(x @ A, x, x @ A @ B, causality=causality)
    s = (u * torch.linalg.solve(B, u.T).T).sum(-1, keepdim=True)
    c, pull = got.connection(u @ A, u, s)
    expected = naive.softmax_acceleration(x, u, A, B, causality)
    torch.testing.assert_close(got.attention - (c * u + pull), expected)


def test_published_normaliser_divides_by_the_length():
    q, pi = random(5, 3), random(5, 3, seed=1)
    prefix, length = (field(q, q, q, normalizer=n).velocity(pi) for n in ("prefix", "length"))
    seen = torch.arange(1, 6, dtype=torch.float64)[:, None]
    torch.testing.assert_close(length, prefix * 5 / seen)


@pytest.mark.parametrize("size", [1e2, 1e4])
def test_finite_for_extreme_scores_in_float32(size):
    q, k, v, pi = (random(2, 33, 8, seed=s, dtype=torch.float32) for s in range(4))
    q, k = q * size / q.norm(dim=-1, keepdim=True), k / k.norm(dim=-1, keepdim=True)
    inputs = [t.requires_grad_() for t in (q, k, v, pi)]
    for sign in (1, -1):
        got = field(sign * inputs[0], *inputs[1:3])
        s = pi.square().sum(-1, keepdim=True)
        results = [got.velocity(pi), got.force(pi), got.attention, *got.connection(pi, pi, s)]
        assert all(r.isfinite().all() for r in results)
        normalised = [torch.nn.functional.layer_norm(r, r.shape[-1:]) for r in results]
        gradients = torch.autograd.grad(sum(r.sum() for r in normalised), inputs)
        assert all(g.isfinite().all() for g in gradients)


def test_log_z_is_exact_within_its_bound():
    q = torch.full((4, 1), 9.0, dtype=torch.float32)
    pi = torch.ones(4, 1)
    torch.testing.assert_close(field(q, q / 9, q).velocity(pi).log(), torch.full((4, 1), -9.0))
    bound = math.log(torch.finfo(torch.float32).max) / 8
    torch.testing.assert_close(field(100 * q, q, q).velocity(pi).log(), torch.full((4, 1), -bound))


def test_split_and_resume():
    """The field of the newest tokens, given the past, is the end of the field of all."""
    q, k, v, pi = (random(2, 11, 4, seed=s) for s in range(4))
    whole = SoftmaxField(q, k, v, scale=0.5)
    expected = [whole.velocity(pi), whole.force(pi)]
    first = Recorder(None)
    start = SoftmaxField(q[:, :6], k[:, :6], v[:, :6], scale=0.5, past=first.part("a"))
    start.velocity(pi[:, :6])
    start.force(pi[:, :6])
    after = Recorder(first.cache(6))
    rest = SoftmaxField(q[:, 6:], k[:, 6:], v[:, 6:], scale=0.5, past=after.part("a"))
    for got, want in zip([rest.velocity(pi[:, 6:]), rest.force(pi[:, 6:])], expected, strict=True):
        torch.testing.assert_close(got, want[:, 6:])
