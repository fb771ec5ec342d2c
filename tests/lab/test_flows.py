"""The streamed flows against the formulas, automatic derivatives and each other."""

from functools import partial

import pytest
import torch

from sympformer import lab
from sympformer.errors import InputError
from sympformer.lab import flows, kernel


@pytest.fixture
def problem():
    generator = torch.Generator().manual_seed(1)

    def randn(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    n, d = 23, 4
    A, B = 0.3 * randn(d, d), randn(d, d)
    return randn(2, n, d), randn(2, n, d), A + A.mT, B @ B.mT + torch.eye(d).double()


@pytest.fixture(params=["kept", "streamed"])
def tiles(request, monkeypatch):
    """Several rows a tile that do not divide N; weights kept, or computed anew."""
    monkeypatch.setattr(kernel, "TILE", 2 * 23 * 5)
    monkeypatch.setattr(kernel, "KEPT", 0 if request.param == "streamed" else 2**24)


@pytest.mark.parametrize("causality", ["joint", "prefix"])
def test_flows_agree_with_the_formulas(problem, tiles, causality):
    x, p, A, B = problem
    softmax, linear = flows.SoftmaxFlow(A, B, causality)(x), flows.LinearFlow(A, B, causality)(x)
    for fast, formula in zip(
        (
            *(softmax.velocity(p), softmax.force(p)),
            *(linear.velocity(p), linear.force(p)),
            flows.VelocityFlow(A, B, causality)(x).force(p),
        ),
        (
            *lab.softmax_field(x, p, A, B, causality),
            *lab.linear_field(x, p, A, B, causality),
            lab.softmax_acceleration(x, p, A, B, causality),
        ),
        strict=True,
    ):
        torch.testing.assert_close(fast, formula, rtol=1e-11, atol=1e-11)


def test_softmax_field_derives_from_its_hamiltonian(problem, tiles):
    x, p, A, B = problem
    check_hamiltonian(flows.SoftmaxFlow(A, B), x, p)
    check_hamiltonian(flows.SoftmaxFlow(A, B, potential=B), x, p)


def test_linear_field_derives_from_its_hamiltonian(problem):
    x, y, A, B = problem
    check_hamiltonian(flows.LinearFlow(A, B), x, y)


def check_hamiltonian(flow, x, p):
    x, p = x.clone().requires_grad_(), p.clone().requires_grad_()
    at = flow(x)
    dx, dp = torch.autograd.grad(lab.hamiltonian(at, p).sum(), (x, p))
    torch.testing.assert_close(at.velocity(p), dp, rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(at.force(p), -dx, rtol=1e-11, atol=1e-11)


def test_the_hamiltonian_is_the_double_sum(problem):
    x, p, A, B = problem
    K = (x @ A @ x.mT).exp()
    z = K.mean(-1)
    value = ((p @ B * p).sum(-1) / z).sum(-1) / 2 - K.sum((-2, -1)) / (2 * x.shape[-2])
    torch.testing.assert_close(lab.softmax_hamiltonian(x, p, A, B), value, rtol=1e-12, atol=0)


def test_matrix_form_of_the_softmax_system(problem):
    """Remark 5.3: (1/2N) ({diag(s), K} + 2K) X A."""
    x, p, A, B = (t[0] if t.ndim == 3 else t for t in problem)
    K, n = (x @ A @ x.mT).exp(), len(x)
    z = K.mean(-1)
    s = torch.diag((p @ B * p).sum(-1) / z**2)
    force = (s @ K + K @ s + 2 * K) @ x @ A / (2 * n)
    torch.testing.assert_close(lab.softmax_field(x, p, A, B)[1], force, rtol=1e-11, atol=1e-11)


def test_gradient_flows_are_attention_layers(problem):
    x, _, A, B = problem
    weights = (x @ A @ x.mT).softmax(-1)
    torch.testing.assert_close(
        flows.SoftmaxFlow(A, B)(x).gradient_flow(),
        weights @ x @ (B @ A).mT,
        rtol=1e-11,
        atol=1e-11,
    )
    torch.testing.assert_close(
        flows.LinearFlow(A, B)(x).gradient_flow(),
        (x @ A @ x.mT) @ x @ B / x.shape[-2],
        rtol=1e-11,
        atol=1e-11,
    )


def test_linear_field_prefix_is_the_field_of_each_prefix(problem, tiles):
    x, y, A, B = problem
    prefix, joint = flows.LinearFlow(A, B, "prefix")(x), flows.LinearFlow(A, B)
    for n in (1, 7, x.shape[-2]):
        alone, momenta = joint(x[..., :n, :]), y[..., :n, :]
        for whole, part in (
            (prefix.velocity(y), alone.velocity(momenta)),
            (prefix.force(y), alone.force(momenta)),
        ):
            torch.testing.assert_close(whole[..., n - 1, :], part[..., -1, :])


def test_large_scores_do_not_overflow(problem):
    x, p, A, B = problem
    for acceleration in (
        flows.VelocityFlow(A, B)(40 * x).force(p),
        lab.softmax_acceleration(40 * x, p, A, B),
    ):
        assert acceleration.isfinite().all()


def test_moments_are_those_of_the_particles(problem):
    """d/dt of mean and covariance of particles with y = S x, by the chain rule on (L)."""
    x, _, A, V = (t[0] if t.ndim == 3 else t for t in problem)
    S, alpha = 0.2 * (A - V), 0.7
    y, mean = x @ S, x.mean(0)
    cov = (x - mean).mT @ (x - mean) / len(x)
    velocity, force = lab.linear_field(x, y, A, V)
    dS, dm, dcov = lab.linear_moments(S, mean, cov, A, V, alpha)
    torch.testing.assert_close(velocity.mean(0), dm)
    centred = (x - mean).mT @ (velocity - velocity.mean(0)) / len(x)
    torch.testing.assert_close(centred + centred.mT, dcov)
    torch.testing.assert_close(force - alpha * y, velocity @ S + x @ dS)


@pytest.mark.parametrize(
    ("matrices", "message"),
    [
        ({"A": torch.tensor([[0.0, 1.0], [0.0, 0.0]])}, "A must be symmetric"),
        ({"A": torch.full((2, 2), float("nan"))}, "A must be symmetric"),
        ({"A": torch.ones(2, 3)}, "A must be a square matrix"),
        ({"causality": "prefx"}, "did you mean 'prefix'"),
        ({"B": -torch.eye(2)}, "B must be positive definite: least eigenvalue -1"),
    ],
)
def test_bad_matrices_are_refused(matrices, message):
    x = torch.zeros(3, 2)
    arguments = {"A": torch.eye(2), "B": torch.eye(2), **matrices}
    for make in (
        flows.SoftmaxFlow,
        flows.VelocityFlow,
        partial(lab.softmax_field, x, x),
        partial(lab.softmax_acceleration, x, x),
    ):
        with pytest.raises(InputError, match=message):
            make(**arguments)


def test_the_linear_flow_needs_symmetric_matrices():
    x, identity, triangle = torch.zeros(3, 2), torch.eye(2), torch.ones(2, 2).triu()
    for make in (flows.LinearFlow, partial(lab.linear_field, x, x)):
        with pytest.raises(InputError, match="V must be symmetric"):
            make(identity, triangle)
        with pytest.raises(InputError, match="unknown causality"):
            make(identity, identity, "future")
