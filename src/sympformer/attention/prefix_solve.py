"""Linear systems whose matrix is a linear kernel and a diagonal: momenta of a Stein metric.

`(tril(k kᵀ) + diag ρ) y = b`, in a dense form, the formula, and by the delta rule, with one
signature. What earlier tokens know of each other enters through their state, `S = Σ_j k_j y_jᵀ`.
"""

import torch
from torch import Tensor

from sympformer.attention import delta
from sympformer.attention.naive import Causality
from sympformer.attention.precision import full_precision, wide


def solve_dense(
    k: Tensor,
    rho: Tensor,
    b: Tensor,
    *,
    causality: Causality = "prefix",
    state: Tensor | None = None,
) -> Tensor:
    """`y` with `ρ_i y_i + Σ_j (k_i·k_j) y_j = b_i` over the visible tokens, by an n×n system.

    Args:
        k: keys `(..., n, d)`.
        rho: the diagonal `(n, 1)`, or one a batch, `(..., n, 1)`; greater than 0.
        b: right-hand sides `(..., n, e)`.
        causality: "prefix" sums over j ≤ i: the system is triangular; "joint" over all.
        state: what earlier tokens left, `Σ_j k_j y_jᵀ`, `(..., d, e)`.

    Returns:
        `(..., n, e)`, in float32 or better.
    """
    with full_precision(k):  # half precision solves nothing
        k, rho, b = wide(k), wide(rho), wide(b)
        if state is not None:
            b = b - k @ wide(state)
        matrix = k @ k.mT + torch.eye(k.shape[-2], dtype=k.dtype, device=k.device) * rho
        if causality == "joint":
            return torch.linalg.solve(matrix, b)
        return torch.linalg.solve_triangular(matrix.tril(), b, upper=False)


def solve_chunked(
    k: Tensor,
    rho: Tensor,
    b: Tensor,
    *,
    causality: Causality = "prefix",
    state: Tensor | None = None,
) -> Tensor:
    """As `solve_dense`; prefix systems in chunks, as the delta rule solves them.

    Joint systems are dense.
    """
    if causality == "joint":
        return solve_dense(k, rho, b, causality=causality, state=state)
    return delta.chunked(None, k, delta.write_strength(k, wide(rho)), wide(b), state=state)[1]


def solve_scanned(
    k: Tensor,
    rho: Tensor,
    b: Tensor,
    *,
    causality: Causality = "prefix",
    state: Tensor | None = None,
) -> Tensor:
    """As `solve_dense`; prefix systems token by token in C++, where that can run.

    Joint systems are dense.
    """
    if causality == "joint":
        return solve_dense(k, rho, b, causality=causality, state=state)
    return delta.scanned(None, k, delta.write_strength(k, wide(rho)), wide(b), state=state)[1]
