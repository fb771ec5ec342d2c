"""The regularised Stein flow in O(N): formula, Hamiltonian, moments and limits."""

from functools import partial

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp

from sympformer import lab
from sympformer.dynamics import SCHEMES, UNDAMPED, DivergenceError, State, damping, follow
from sympformer.errors import InputError
from sympformer.lab.flows import GradientFlow
from sympformer.lab.laws import affine_residual, radii, sample
from sympformer.lab.problems import exact, positive, symmetric

RHO = 0.3


def problem(n=9, d=3, batch=()):
    rng = np.random.default_rng(0)
    x, y = torch.from_numpy(rng.standard_normal((2, *batch, n, d)))
    return x, y, positive(rng, d), symmetric(rng, d)


def close(a, b, tolerance=1e-11):
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("causality", ["joint", "prefix"])
@pytest.mark.parametrize("rho", [1e-3, RHO, 1e3])
def test_the_flow_agrees_with_the_formula(causality, rho):
    x, y, A, V = problem(n=150, batch=(2,))  # prefix systems are solved 64 tokens at a time
    at = lab.RegularisedFlow(A, V, rho, causality)(x)
    velocity, force = lab.regularised_field(x, y, A, V, rho, causality)
    close(at.velocity(y), velocity, 1e-9)
    close(at.force(y), force, 1e-9)
    close(at.gradient_flow(), lab.regularised_field(x, x @ V, A, V, rho, causality)[0], 1e-9)


def test_small_regularisers_lose_no_digits():
    x, _, A, V = problem()
    S = V @ V
    at = lab.RegularisedFlow(A, V, 1e-14)(x)
    close(at.velocity(x @ S), x @ S)
    close(at.force(x @ S), x @ V)


def test_the_field_derives_from_its_hamiltonian():
    x, y, A, V = problem(batch=(2,))
    x.requires_grad_()
    y.requires_grad_()
    at = lab.RegularisedFlow(A, V, RHO)(x)
    dx, dy = torch.autograd.grad(lab.hamiltonian(at, y).sum(), (x, y))
    close(at.velocity(y), dy)
    close(at.force(y), -dx)


def test_memory_grows_like_the_number_of_particles():
    """The N×N kernel of this cloud would have 80 GB."""
    x, y, A, V = problem(n=100_000, d=2)
    at = lab.RegularisedFlow(A, V, RHO)(x)
    assert at.velocity(y).isfinite().all()
    assert at.force(y).isfinite().all()


def test_moments_are_those_of_the_particles():
    """d/dt of mean, covariance and y = S x by the chain rule on (R)."""
    x, _, A, V = problem()
    S, alpha = 0.2 * (A - V), 0.7
    y, mean = x @ S, x.mean(0)
    cov = (x - mean).T @ (x - mean) / len(x)
    velocity, force = lab.regularised_field(x, y, A, V, RHO)
    dS, dm, dcov = lab.regularised_moments(S, mean, cov, A, V, RHO, alpha)
    close(velocity.mean(0), dm)
    centred = (x - mean).T @ (velocity - velocity.mean(0)) / len(x)
    close(centred + centred.T, dcov)
    close(force - alpha * y, velocity @ S + x @ dS)
    close(dS, dS.T)


def test_a_linear_part_of_the_potential_joins_the_moments():
    """With y = S x + b: C = (A M + ρ)⁻¹A(M S + m bᵀ), the same Ṡ, and ḃ = -αb - C b."""
    x, _, A, V = problem()
    S, b, alpha = 0.2 * (A - V), V[0], 0.7
    y, m, M = x @ S + b, x.mean(0), x.T @ x / len(x)
    C = torch.linalg.solve(A @ M + RHO * torch.eye(3).double(), A @ (M @ S + torch.outer(m, b)))
    dS = V - alpha * S - (C @ S + S @ C.T - C @ C.T)
    velocity, force = lab.regularised_field(x, y, A, V, RHO)
    close(velocity, x @ C)
    close(force - alpha * y, velocity @ S + x @ dS - alpha * b - C @ b)


def test_a_collapsed_direction_does_not_come_back():
    """Undamped, ½x² falls to zero and stays: xy is constant and all of H kinetic; cos t returns."""
    x = torch.tensor([[1.0], [-1.0]], dtype=torch.float64)
    one = torch.ones(1, 1, dtype=torch.float64)
    flow = lab.RegularisedFlow(one, -one, 0.1)
    start, *later = exact(flow, UNDAMPED, State(x, 0 * x), [0.0, 3.0, 3.5])
    assert all(0 < state.x[0] < 0.02 for state in later)
    products = [(state.x * state.p)[0].item() for state in later]
    assert products[1] == pytest.approx(products[0], rel=0.01)
    energies = [lab.hamiltonian(flow(state.x), state.p).item() for state in (start, *later)]
    assert energies[1:] == pytest.approx([energies[0]] * 2, rel=1e-6)
    # log x falls at the rate a |xy| / ρ, so that y grows.
    fall = (later[1].x / later[0].x)[0].log().item()
    assert fall == pytest.approx(0.5 * products[0] / 0.1, rel=0.01)
    assert later[1].p[0].abs() > 2 * later[0].p[0].abs()


def test_moments_and_particles_along_a_path():
    """Both by DOP853, from an elliptical law: mean, covariance, and the radii that stay."""
    rng, d, alpha, end = np.random.default_rng(3), 3, 0.5, 1.5
    A, V, S = positive(rng, d), symmetric(rng, d), 0.5 * symmetric(rng, d)
    covariance = positive(rng, d).numpy()
    x = torch.from_numpy(sample("student", 60, rng.standard_normal(d), covariance, rng))
    flow, schedule = lab.RegularisedFlow(A, V, RHO), damping("constant", alpha=alpha)
    cloud = exact(flow, schedule, State(x, x @ S), [0.0, end])[-1].x.numpy()

    def slope(_, state):
        S, m, cov = torch.from_numpy(state).split([d * d, d, d * d])
        parts = lab.regularised_moments(
            S.view(d, d), m, cov.view(d, d), A=A, V=V, rho=RHO, alpha=alpha
        )
        return torch.cat([part.flatten() for part in parts]).numpy()

    start = [S.numpy(), x.mean(0).numpy(), np.cov(x.T.numpy(), bias=True)]
    start = np.concatenate([part.ravel() for part in start])
    path = solve_ivp(slope, (0, end), start, method="DOP853", rtol=1e-12, atol=1e-13)
    moments = np.concatenate([cloud.mean(0), np.cov(cloud.T, bias=True).ravel()])
    np.testing.assert_allclose(path.y[d * d :, -1], moments, rtol=1e-9, atol=1e-10)
    assert affine_residual(x.numpy(), cloud) < 1e-10
    np.testing.assert_allclose(radii(cloud), radii(x.numpy()), rtol=1e-9)
    assert np.abs(cloud - x.numpy()).max() > 0.5  # and it did move


def test_limits_of_the_moment_equations():
    x, _, A, V = problem()
    S, m, alpha = 0.4 * (A + V), x.mean(0), 0.7
    cov = (x - m).T @ (x - m) / len(x)
    dS, dm, dcov = lab.regularised_moments(S, m, cov, A, V, 1e-13, alpha)
    close(dS, V - alpha * S - S @ S)  # Wasserstein: every particle moves freely, ẋ = S x
    close(dm, S @ m)
    close(dcov, S @ cov + cov @ S)
    root = 1e5  # of ρ: S is √ρ times as large, time runs √ρ times as fast, as does the damping
    dS, dm, dcov = lab.regularised_moments(root * S, m, cov, A, V, root**2, alpha / root)
    for rate, stein in zip(
        (dS, root * dm, root * dcov), lab.linear_moments(S, m, cov, A, V, alpha), strict=True
    ):
        close(rate, stein, 1e-7)


def test_strong_damping_gives_the_gradient_flow():
    """In the time t/α, with an error of the order of 1/α²."""
    x, _, A, V = problem(n=4)
    flow, start = lab.RegularisedFlow(A, V, RHO), State(x, torch.zeros_like(x))
    slow = exact(GradientFlow(flow), UNDAMPED, start, [0.0, 1.0])[-1].x
    gaps = []
    for alpha in (20.0, 40.0):
        schedule = damping("constant", alpha=alpha)
        gaps.append((exact(flow, schedule, start, [0.0, alpha])[-1].x - slow).norm())
    assert gaps[0] < 0.02 * (slow - x).norm()
    assert 3 < gaps[0] / gaps[1] < 5


def test_a_path_to_infinity_is_reported():
    """The 2×2 solve of a cloud that overflowed must not fail on its own."""
    x, y, A, V = problem(d=2)
    flow = lab.RegularisedFlow(A, 100 * (V @ V), RHO)
    with pytest.raises(DivergenceError):
        follow(SCHEMES["euler"](UNDAMPED), flow, State(x, y), 1.0, 2000)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"A": -torch.eye(2)}, "A must be positive definite"),
        ({"V": torch.ones(2, 2).triu()}, "V must be symmetric"),
        ({"rho": 0.0}, "rho must be a number > 0, not 0.0"),
        ({"rho": float("nan")}, "rho must be a number > 0, not nan"),
        ({"causality": "prefx"}, "did you mean 'prefix'"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    x = torch.zeros(3, 2)
    for make in (lab.RegularisedFlow, partial(lab.regularised_field, x, x)):
        with pytest.raises(InputError, match=message):
            make(**{"A": torch.eye(2), "V": torch.eye(2), "rho": 1.0} | arguments)
