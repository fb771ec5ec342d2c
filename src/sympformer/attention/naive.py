"""The formulas as they stand on paper: O(N²) time and memory, clean in float64.

Every fast form is tested against this file. Tokens are rows; shapes are `(..., N, d)`.
`causality="prefix"` lets token i see the tokens j ≤ i, `"joint"` all of them.
"""

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

Causality = Literal["prefix", "joint"]


def visible(n_query: int, n_key: int, device: torch.device | None = None) -> Tensor:
    """Which keys each query sees under prefix causality, `(n_query, n_key)` bool.

    The queries are the *last* `n_query` of the `n_key` tokens, as in cached decoding.
    """
    return torch.ones(n_query, n_key, dtype=torch.bool, device=device).tril(n_key - n_query)


def visible_count(n_query: int, n_key: int, causality: Causality, like: Tensor) -> Tensor:
    """`n_i`, the number of tokens that query i sees, `(n_query, 1)` in the dtype of `like`."""
    if causality == "joint":
        return like.new_full((n_query, 1), n_key)
    return torch.arange(n_key - n_query + 1, n_key + 1, device=like.device).to(like.dtype)[:, None]


def scores(q: Tensor, k: Tensor, causality: Causality, scale: float = 1.0) -> Tensor:
    """`scale · q kᵀ`, `(..., n, N)`, in float32 or better; -inf where a key is not seen."""
    product = (q @ k.mT).to(torch.promote_types(q.dtype, torch.float32)) * scale
    if causality == "joint" or q.shape[-2] == 1:  # the last token sees all
        return product
    return product.masked_fill(~visible(q.shape[-2], k.shape[-2], q.device), -math.inf)


def average(
    q: Tensor, k: Tensor, v: Tensor, *, causality: Causality = "prefix", scale: float = 1.0
) -> Tensor:
    """Softmax averages of the values, `Σ_j a_ij v_j`.

    Args:
        q: queries `(..., n, d)`, the last n of the N tokens.
        k: keys `(..., N, d)`.
        v: values `(..., N, e)`, of any width.
        causality: which keys a query sees.
        scale: factor of the scores.

    Returns:
        `(..., n, e)` in the dtype of `v`.
    """
    return scores(q, k, causality, scale).softmax(-1).to(v.dtype) @ v


def log_sum_exp(
    q: Tensor, k: Tensor, *, causality: Causality = "prefix", scale: float = 1.0
) -> Tensor:
    """`log Σ_j exp(score_ij)`, `(..., n, 1)` in float32 or better; arguments as in `average`."""
    return scores(q, k, causality, scale).logsumexp(-1, keepdim=True)


def attend(
    q: Tensor, k: Tensor, v: Tensor, *, causality: Causality = "prefix", scale: float = 1.0
) -> tuple[Tensor, Tensor]:
    """`average` and `log_sum_exp`, which the fast forms make in one pass."""
    options = {"causality": causality, "scale": scale}
    return average(q, k, v, **options), log_sum_exp(q, k, **options)


def softmax_field(
    x: Tensor, p: Tensor, A: Tensor, B: Tensor, causality: Causality = "joint"
) -> tuple[Tensor, Tensor]:
    """Velocity and conservative force of the accelerated softmax flow, maths.md (S), (S').

    `ẋ_i = B p_i / z_i` and `ṗ_i = z_i Σ_j a_ij (1 + (s_i + s_j)/2) A x_j` (damping left out), with
    `z_i` the mean of `exp(x_iᵀA x_j)` over the visible tokens and `s_i = p_iᵀB p_i / z_i²`.
    With `"joint"` these are `∂H/∂p` and `-∂H/∂x` of `softmax_hamiltonian`.

    Args:
        x: positions `(..., N, d)`.
        p: momenta `(..., N, d)`.
        A: symmetric `(d, d)`.
        B: symmetric positive definite `(d, d)`; the value matrix is `V = B A`.
        causality: which tokens are summed over.
    """
    n = x.shape[-2]
    score = scores(x @ A, x, causality)
    log_sum = score.logsumexp(-1, keepdim=True)
    z = (log_sum - visible_count(n, n, causality, x).log()).exp()
    a = (score - log_sum).exp()
    velocity = p @ B / z
    s = (p * velocity).sum(-1, keepdim=True) / z
    force = z * ((a * (1 + (s + s.mT) / 2)) @ (x @ A))
    return velocity, force


def softmax_acceleration(
    x: Tensor, u: Tensor, A: Tensor, B: Tensor, causality: Causality = "joint"
) -> Tensor:
    """Acceleration `Att(x) - C(u)` of the velocity form, maths.md (U), damping left out.

    `C_i(u) = c_i u_i - ½ (s_i Att_i + Σ_j a_ij s_j V x_j)` is the connection of the attention
    metric, `c_i = Σ_j a_ij (u_iᵀA x_j + x_iᵀA u_j)`, `s_i = u_iᵀB⁻¹u_i`, `V = B A`. With `"joint"`
    it is the same flow as `softmax_field`, written in `u = B p / z`. Shapes as there.
    """
    a = scores(x @ A, x, causality).softmax(-1)
    values = x @ (B @ A).mT
    s = (u * torch.linalg.solve(B, u.mT).mT).sum(-1, keepdim=True)
    c = (a * (u @ A @ x.mT + x @ A @ u.mT)).sum(-1, keepdim=True)
    attention = a @ values
    return attention - c * u + (s * attention + a @ (s * values)) / 2


def linear_field(
    x: Tensor, y: Tensor, A: Tensor, V: Tensor, causality: Causality = "joint"
) -> tuple[Tensor, Tensor]:
    """Velocity and conservative force of accelerated linear attention, maths.md (L).

    `ẋ_i = (1/n_i) Σ_j (x_iᵀA x_j) y_j` and `ẏ_i = V x_i - (1/n_i) Σ_j (y_iᵀy_j) A x_j` (damping
    left out), with n_i the number of visible tokens. With `"joint"` these are `∂H/∂y` and `-∂H/∂x`
    of `H = (1/2N) Σ_ij (x_iᵀA x_j) (y_iᵀy_j) - ½ Σ_i x_iᵀV x_i`.

    Args:
        x: positions `(..., N, d)`.
        y: momenta `(..., N, d)`.
        A: symmetric `(d, d)`.
        V: symmetric `(d, d)`.
        causality: which tokens are summed over.
    """
    velocity = linear_average(x @ A, x, causality) @ y
    return velocity, x @ V - linear_average(y, y, causality) @ (x @ A)


def linear_acceleration(
    x: Tensor, u: Tensor, A: Tensor, V: Tensor, ridge: float = 0.0, causality: Causality = "joint"
) -> Tensor:
    """Acceleration of (L) in the velocity `u_i = (1/n_i) Σ_j (x_iᵀA x_j) y_j + ridge y_i`.

    The velocity form of linear attention (derived in docs/linear.md): the momentum `y` is solved
    from `u`, and `u̇ = (1/n_i) Σ_j ((u_iᵀA x_j + x_iᵀA u_j) y_j + (x_iᵀA x_j) ẏ_j) + ridge ẏ_i`.
    With `"joint"` it is the same flow as `linear_field`, in the metric K/N + ridge I. Shapes as
    there; A must be such that the solve is possible (definite, or of full rank with ridge 0).
    """
    K = linear_average(x @ A, x, causality)
    K = K + ridge * torch.eye(x.shape[-2], dtype=x.dtype, device=x.device)
    y = torch.linalg.solve(K, u)
    K_dot = linear_average(u @ A, x, causality) + linear_average(x @ A, u, causality)
    return K_dot @ y + K @ linear_field(x, y, A, V, causality)[1]


def regularised_solve(
    x: Tensor, y: Tensor, A: Tensor, rho: float, causality: Causality = "joint"
) -> Tensor:
    """The residuals `w` of the regularised Stein metric: `(K + ρ I) w = y`, docs/delta.md (R).

    `K_ij = x_iᵀA x_j / n_i` over the visible tokens, so `w_i = (y_i - u_i)/ρ` with `u = K w`.
    Joint, `u` is the ridge regression of `y` on `x`; prefix, `w` is a delta rule.

    Args:
        x: positions `(..., N, d)`.
        y: momenta `(..., N, d)`.
        A: symmetric positive definite `(d, d)`.
        rho: the regulariser ρ > 0.
        causality: which tokens are summed over.
    """
    K = linear_average(x @ A, x, causality)
    return torch.linalg.solve(K + rho * torch.eye(x.shape[-2], dtype=x.dtype, device=x.device), y)


def regularised_field(
    x: Tensor, y: Tensor, A: Tensor, V: Tensor, rho: float, causality: Causality = "joint"
) -> tuple[Tensor, Tensor]:
    """Velocity and conservative force of the accelerated regularised Stein flow, docs/delta.md (R).

    With `w` of `regularised_solve`, `ẋ_i = (1/n_i) Σ_j (x_iᵀA x_j) w_j = y_i - ρ w_i` and
    `ẏ_i = V x_i - (ρ/n_i) Σ_j (w_iᵀw_j) A x_j` (damping left out). With `"joint"` these are `∂H/∂y`
    and `-∂H/∂x` of `H = ½ tr yᵀ(K + ρ I)⁻¹K y - ½ Σ_i x_iᵀV x_i`. V is symmetric `(d, d)`; the
    other arguments are those of `regularised_solve`.
    """
    w = regularised_solve(x, y, A, rho, causality)
    velocity = linear_average(x @ A, x, causality) @ w
    return velocity, x @ V - rho * linear_average(w, w, causality) @ (x @ A)


def prefix_ensembles(
    field: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]], x: Tensor, p: Tensor
) -> tuple[Tensor, Tensor]:
    """Velocity and force of each token in the joint `field` of the tokens up to it: O(N) fields.

    The exact causal form of any flow, whose prefix form is an approximation in one pass; for
    the regularised flow, ridge regression on each prefix (docs/delta.md). Shapes are `(..., N, d)`.
    """
    rows = [field(x[..., : i + 1, :], p[..., : i + 1, :]) for i in range(x.shape[-2])]
    velocity, force = (
        torch.stack([part[..., -1, :] for part in v], -2) for v in zip(*rows, strict=True)
    )
    return velocity, force


def linear_average(q: Tensor, k: Tensor, causality: Causality) -> Tensor:
    """The matrix `q_i·k_j / n_i` over the visible tokens, `(..., n, N)`."""
    n, n_key = q.shape[-2], k.shape[-2]
    product = (q @ k.mT) / visible_count(n, n_key, causality, q)
    if causality == "joint":
        return product
    return product.masked_fill(~visible(n, n_key, q.device), 0.0)
