"""The delta rule: what a state answers to a key is replaced, all of it or in part, by a value.

`w_i = β_i (y_i - (D_i S_{i-1})ᵀ k_i)`, `S_i = D_i S_{i-1} + k_i w_iᵀ`, with `D_i = e^{g_i}` the
decay, and `q_iᵀS_i` read: DeltaNet (`|k| = 1`, β in (0, 1)), with a decay a head Gated DeltaNet,
with one a key channel KDA. In the language of the flow, `w` solves `(tril(k kᵀ) + diag ρ) w = y`
with `β = 1/(|k|² + ρ)`: the velocity `q_iᵀS_i` is that of the regularised Stein metric
(docs/linear.md).

All forms share one signature, solve in float32 or better, and give what is read in the dtype of the
values. The state that tokens leave is `prefix_sums.accumulate(state, k, w, decay)`. For padding,
`k`, `β` and `y` are to be 0.
"""

import torch
from torch import Tensor

from sympformer.attention import chunked as in_chunks
from sympformer.attention import prefix_sums, scan
from sympformer.attention.precision import full_precision, new_state, wide


def masked(
    q: Tensor | None,
    k: Tensor,
    beta: Tensor,
    y: Tensor,
    *,
    decay: Tensor | None = None,
    state: Tensor | None = None,
) -> tuple[Tensor | None, Tensor]:
    """`q_iᵀS_i` and `w_i`, through one triangular n×n system: the formula.

    Args:
        q: queries `(..., n, d)`, or None if nothing is read.
        k: keys `(..., n, d)`.
        beta: strength of writing `(..., n, 1)`, 0 or greater. A step is stable for `β |k|² ≤ 2`.
        y: values `(..., n, e)`, in the language of the flow momenta.
        decay: log decay `g ≤ 0`, `(..., n, 1)` or `(..., n, d)`; None is none.
        state: what earlier tokens left, `Σ_j (decayed) k_j w_jᵀ`, `(..., d, e)`.

    Returns:
        What is read, `(..., n, e)` in the dtype of `y` (None without queries), and what is written,
        `(..., n, e)` in float32 or better.
    """
    with full_precision(k):
        k, beta, value = wide(k), wide(beta), wide(y)
        g = None if decay is None else wide(decay)
        n = k.shape[-2]
        # The weights by which the keys read what was written: a sum of unit vectors.
        eye = torch.eye(n, dtype=k.dtype, device=k.device).expand(*k.shape[:-2], n, n)
        matrix = beta * prefix_sums.masked(k, k, eye, decay=g).tril(-1)
        seen = 0.0
        if state is not None:
            early = k if g is None else k * g.cumsum(-2).exp()
            seen = early @ wide(state)
        right = beta * (value - seen)
        w = torch.linalg.solve_triangular(matrix, right, upper=False, unitriangular=True)
        if q is None:
            return None, w
        return prefix_sums.masked(wide(q), k, w, decay=g, state=state).to(y.dtype), w


def recurrent(
    q: Tensor | None,
    k: Tensor,
    beta: Tensor,
    y: Tensor,
    *,
    decay: Tensor | None = None,
    state: Tensor | None = None,
) -> tuple[Tensor | None, Tensor]:
    """As `masked`, token by token through the state."""
    read, written = [], []
    with full_precision(k):
        S = new_state(k, y) if state is None else wide(state)
        for i in range(k.shape[-2]):
            now = (..., slice(i, i + 1), slice(None))
            key = wide(k[now])
            if decay is not None:
                S = S * wide(decay[now]).exp().mT
            w = wide(beta[now]) * (wide(y[now]) - key @ S)
            S = S + key.mT @ w
            written.append(w)
            if q is not None:
                read.append(wide(q[now]) @ S)
        w = torch.cat(written, dim=-2)
        return None if q is None else torch.cat(read, dim=-2).to(y.dtype), w


def chunked(
    q: Tensor | None,
    k: Tensor,
    beta: Tensor,
    y: Tensor,
    *,
    decay: Tensor | None = None,
    state: Tensor | None = None,
) -> tuple[Tensor | None, Tensor]:
    """As `masked`, in chunks of C tokens (`sympformer.attention.chunked`).

    O(n (C (d + e) + d e)) time; kept for the backward pass are the arguments and the errors `w/β`.
    """
    if k.shape[-2] == 1:
        return recurrent(q, k, beta, y, decay=decay, state=state)
    read, errors = in_chunks.delta_errors(q, k, beta, y, decay, state)
    return read, wide(beta) * errors


def scanned(
    q: Tensor | None,
    k: Tensor,
    beta: Tensor,
    y: Tensor,
    *,
    decay: Tensor | None = None,
    state: Tensor | None = None,
) -> tuple[Tensor | None, Tensor]:
    """As `masked`, token by token in C++ (`sympformer.attention.scan`), where that can run."""
    if not scan.suits(k, y):
        return chunked(q, k, beta, y, decay=decay, state=state)
    read, errors = in_chunks.delta_errors(q, k, beta, y, decay, state, in_chunks.TOKENWISE)
    return read, wide(beta) * errors


def write_strength(k: Tensor, rho: Tensor | float) -> Tensor:
    """`β = 1/(|k|² + ρ)`, `(..., n, 1)` in float32 or better, of a regulariser ρ > 0 a token."""
    return 1 / (wide(k).square().sum(-1, keepdim=True) + rho)
