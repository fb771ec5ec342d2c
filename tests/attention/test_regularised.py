"""The regularised Stein flow against derivatives, regressions, recurrences and its limits."""

import pytest
import torch

from sympformer.attention import naive
from sympformer.attention.prefix_solve import solve_dense

RHO = 0.3


def random(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def problem(n=9, d=3, seed=0):
    """Positions, momenta, a positive definite A and a symmetric V."""
    x, y, R, S = (random(*s, seed=4 * seed + i) for i, s in enumerate([(n, d)] * 2 + [(d, d)] * 2))
    return x, y, R @ R.T / d + torch.eye(d), S + S.T


def close(a, b, tolerance=1e-12):
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


def test_the_joint_field_is_hamiltonian():
    x, y, A, V = problem()
    inputs = x.requires_grad_(), y.requires_grad_()
    K = x @ A @ x.T / len(x)
    shifted = K + RHO * torch.eye(len(x)).double()
    H = (y * torch.linalg.solve(shifted, K @ y)).sum() / 2 - (x @ V * x).sum() / 2
    dx, dy = torch.autograd.grad(H, inputs)
    velocity, force = naive.regularised_field(x, y, A, V, RHO)
    close(velocity, dy)
    close(force, -dx)
    close(velocity, y - RHO * naive.regularised_solve(x, y, A, RHO))


@pytest.mark.parametrize("causality", ["joint", "prefix"])
def test_row_by_row(causality):
    x, y, A, V = problem()
    w = naive.regularised_solve(x, y, A, RHO, causality)
    velocity, force = naive.regularised_field(x, y, A, V, RHO, causality)
    for i in range(len(x)):
        seen = range(i + 1) if causality == "prefix" else range(len(x))
        u = sum((x[i] @ A @ x[j]) * w[j] for j in seen) / len(seen)
        close(velocity[i], u)
        close(u + RHO * w[i], y[i])
        close(force[i], V @ x[i] - RHO * sum((w[i] @ w[j]) * (A @ x[j]) for j in seen) / len(seen))


@pytest.mark.parametrize("kernel", [lambda score: score, torch.exp], ids=["linear", "exponential"])
def test_the_derivation_for_any_kernel(kernel):
    """Half the variation of the kinetic energy in the weights of the particles is u·y - ½|u|².

    The force in the positions is -(ρ/N) Σ_j (w_i·w_j) ∇k(x_i, x_j), the gradient in the first.
    """
    x, y, A, _ = problem()
    x = (x / 2).requires_grad_()
    mass = torch.full((len(x),), 1 / len(x), dtype=torch.float64, requires_grad=True)
    K = kernel(x @ A @ x.T)
    w = torch.linalg.solve(K * mass + RHO * torch.eye(len(x)).double(), y)
    u = (K * mass) @ w
    kinetic = (mass[:, None] * y * u).sum() / 2
    d_mass, d_x = torch.autograd.grad(kinetic, (mass, x), retain_graph=True)
    close(d_mass, (u * y).sum(-1) - (u**2).sum(-1) / 2)
    close(d_mass, (y**2).sum(-1) / 2 - RHO**2 * (w**2).sum(-1) / 2)
    frozen = (w @ w.T).detach() * mass.detach()
    slope = x.detach().clone().requires_grad_()
    (turning,) = torch.autograd.grad((frozen * kernel(slope @ A @ x.detach().T)).sum(), slope)
    close(-d_x * len(x), -RHO * turning)  # the kinetic energy of the particles is N times as large


def test_each_prefix_ensemble_is_a_ridge_regression():
    """C minimises Σ_j |y_j - Cᵀx_j|² + nρ tr CᵀA⁻¹C, by least squares on augmented rows."""
    x, y, A, V = problem()
    velocity, force = naive.prefix_ensembles(
        lambda x, y: naive.regularised_field(x, y, A, V, RHO), x, y
    )
    root = torch.linalg.cholesky(torch.linalg.inv(A)).T
    for n in range(1, len(x) + 1):
        rows = torch.cat([x[:n], (n * RHO) ** 0.5 * root])
        goal = torch.cat([y[:n], torch.zeros_like(A)])
        C = torch.linalg.lstsq(rows, goal).solution
        fit = x[n - 1] @ C
        close(velocity[n - 1], fit, 1e-11)
        close(force[n - 1], V @ x[n - 1] - C @ (y[n - 1] - fit), 1e-11)


def test_the_ensembles_with_a_fixed_regulariser_are_recursive_least_squares():
    """C_i = C_{i-1} + P_i k_i (y_i - C_{i-1}ᵀk_i)ᵀ: a delta rule with a matrix for its strength."""
    k, y = random(9, 3), random(9, 4, seed=1)
    P, C = torch.eye(3).double() / RHO, torch.zeros(3, 4).double()
    for n, key in enumerate(k, start=1):
        P = P - torch.outer(P @ key, P @ key) / (1 + key @ P @ key)
        C = C + torch.outer(P @ key, y[n - 1] - C.T @ key)
        rho = torch.full((n, 1), RHO, dtype=torch.float64)
        close(C, k[:n].T @ solve_dense(k[:n], rho, y[:n], causality="joint"))


def test_prefix_ensembles_of_the_linear_flow_are_its_prefix_form():
    x, y, A, V = problem()
    exact = naive.prefix_ensembles(lambda x, y: naive.linear_field(x, y, A, V), x, y)
    for ensemble, prefix in zip(exact, naive.linear_field(x, y, A, V, "prefix"), strict=True):
        close(ensemble, prefix)


def test_the_prefix_field_is_a_delta_rule():
    """Values n_i y_i, strength 1/(|k|² + n_i ρ), read over n_i, for keys with k·k = xᵀA x."""
    x, y, A, V = problem()
    k = x @ torch.linalg.cholesky(A)
    state, velocities = torch.zeros_like(A), []
    for i, key in enumerate(k):
        n = i + 1
        strength = 1 / (key @ key + n * RHO)
        state = state + torch.outer(key, strength * (n * y[i] - state.T @ key))
        velocities.append(state.T @ key / n)
    close(torch.stack(velocities), naive.regularised_field(x, y, A, V, RHO, "prefix")[0])


def deltanet(k, v, beta, decay=None):
    """States and writes of (Gated) DeltaNet, token by token."""
    state, states, writes = torch.zeros(k.shape[1], v.shape[1]).double(), [], []
    for i, key in enumerate(k):
        state = state if decay is None else decay[i] * state
        writes.append(beta[i] * (v[i] - state.T @ key))
        state = state + torch.outer(key, writes[-1])
        states.append(state)
    return torch.stack(states), torch.stack(writes)


@pytest.mark.parametrize("largest", [1.0, 2.0])
def test_the_triangular_solve_is_deltanet(largest):
    """(tril(k kᵀ) + diag ρ) w = v with ρ = 1/β - |k|²; up to β = 2, where ρ = -½ for unit keys."""
    k, v = torch.nn.functional.normalize(random(9, 3), dim=-1), random(9, 4, seed=1)
    beta = largest * torch.sigmoid(3 * random(9, seed=2))
    _, writes = deltanet(k, v, beta)
    rho = (1 / beta - (k * k).sum(-1))[:, None]
    close(solve_dense(k, rho, v), writes)


def test_a_decay_is_a_measure_that_forgets():
    """Gated DeltaNet is the same solve with keys of weight e^{G_i - G_j}, G the sum of g."""
    k, v = torch.nn.functional.normalize(random(9, 3), dim=-1), random(9, 4, seed=1)
    beta, g = torch.sigmoid(random(9, seed=2)), -random(9, seed=3).abs()
    _, writes = deltanet(k, v, beta, g.exp())
    G = g.cumsum(0)
    K = (k @ k.T * (G[:, None] - G).exp()).tril()
    rho = 1 / beta - (k * k).sum(-1)
    close(torch.linalg.solve(K + rho.diag(), v), writes)


def test_the_triangular_solve_is_the_proximal_step():
    """S_i minimises |S - S_{i-1}|² + |v_i - Sᵀk_i|² / ρ_i: least squares on augmented rows."""
    k, v = random(9, 3), random(9, 4, seed=1)
    rho = random(9, 1, seed=2).exp()
    writes, state = solve_dense(k, rho, v), torch.zeros(3, 4).double()
    for i, key in enumerate(k):
        rows = torch.cat([torch.eye(3).double(), key[None] / rho[i] ** 0.5])
        goal = torch.cat([state, v[i][None] / rho[i] ** 0.5])
        state = state + torch.outer(key, writes[i])
        close(state, torch.linalg.lstsq(rows, goal).solution)
        close(writes[i], (v[i] - state.T @ key) / rho[i])


def test_one_regulariser_a_token_is_hamiltonian_in_the_parallel_sum():
    """H = ½ tr yᵀ(K⁻¹ + R⁻¹)⁻¹y: w solves (K + R) w = R y; the force has no factor ρ."""
    x, y, A, _ = problem()
    inputs, R = (x.requires_grad_(), y.requires_grad_()), random(len(x), 1, seed=5).exp()
    K = x @ A @ x.T / len(x)
    H = (y * (R * y - R * torch.linalg.solve(K + R[:, 0].diag(), R * y))).sum() / 2
    dx, dy = torch.autograd.grad(H, inputs)
    k = x @ torch.linalg.cholesky(A) / len(x) ** 0.5
    w = solve_dense(k, R, R * y, causality="joint")
    close(K @ w, dy)
    close(-w @ w.T @ x @ A / len(x), -dx)
    plain = torch.linalg.solve(K + R[:, 0].diag(), K)  # a velocity without a Hamiltonian
    assert (plain - plain.T).abs().max() > 1e-2


def test_large_regularisers_give_the_stein_flow():
    """In the momentum √ρ y and the time t/√ρ, with an error of the order of 1/ρ."""
    x, y, A, V = problem()
    velocity, force = naive.linear_field(x, y, A, V)
    gaps = []
    for rho in (1e4, 1e5):
        u, g = naive.regularised_field(x, rho**0.5 * y, A, V, rho)
        gaps.append(torch.stack([rho**0.5 * u - velocity, g - force]).norm())
    assert gaps[0] < 1e-2
    assert 9 < gaps[0] / gaps[1] < 11


def test_small_regularisers_give_wasserstein_in_the_span_of_the_positions():
    """Velocity P y and force V x - (1 - P) y yᵀx (xᵀx)⁻¹: P projects to the columns of x."""
    x, y, A, V = problem()
    fit = torch.linalg.lstsq(x, y).solution
    gaps = []
    for rho in (1e-4, 1e-5):
        u, g = naive.regularised_field(x, y, A, V, rho)
        gaps.append(torch.stack([u - x @ fit, g - x @ V + (y - x @ fit) @ fit.T]).norm())
    assert gaps[0] < 1e-3
    assert 9 < gaps[0] / gaps[1] < 11
    S = V @ V
    u, g = naive.regularised_field(x, x @ S, A, V, 1e-8)
    close(u, x @ S, 1e-6)  # a linear momentum: free motion, the force is that of the energy
    close(g, x @ V, 1e-6)


def test_the_prefix_form_tends_to_the_ridge_regression():
    """Averaged writes are an implicit stochastic approximation with steps 1/n, docs/delta.md."""
    x, noise, A, V = problem(n=4096)
    y = x @ V + 0.1 * noise
    k = x @ torch.linalg.cholesky(A)
    n = torch.arange(1, len(x) + 1).double()[:, None]
    ridge = torch.linalg.solve(k.T @ k / len(x) + torch.eye(3).double(), k.T @ y / len(x))
    least_squares = torch.linalg.lstsq(k, y).solution
    averaged = k.T @ solve_dense(k, n, n * y) / len(x)
    summed = k.T @ solve_dense(k, n, y)
    scale = (ridge - least_squares).norm()
    assert (averaged - ridge).norm() < 0.05 * scale
    assert (summed - least_squares).norm() < 0.05 * scale
