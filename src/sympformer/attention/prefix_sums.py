"""Weighted sums over earlier tokens, `Σ_{j≤i} (q_i·k_j) v_j`: the forms of linear attention.

All forms share one signature. With a decay earlier tokens fade: each channel of `k_j` is multiplied
by `e^{g_{j+1} + … + g_i}` (`sympformer.attention.decay`), as in Mamba-2 (a number a head) and gated
linear attention (a number a channel). A sum over earlier tokens is one d×e matrix, the state
`S = Σ_j k_j v_jᵀ`, however many tokens it sums. Forms other than the formula sum in float32 or
better, whatever the inputs are, and give the result back in the dtype of the values.
"""

import torch
from torch import Tensor

from sympformer.attention import chunked as in_chunks
from sympformer.attention import scan
from sympformer.attention.decay import between, to_end
from sympformer.attention.naive import Causality
from sympformer.attention.precision import full_precision, wide


def masked(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    causality: Causality = "prefix",
    decay: Tensor | None = None,
    state: Tensor | None = None,
) -> Tensor:
    """`Σ_j (q_i·k_j) v_j` over the visible tokens, through one n×n product: the formula.

    Args:
        q: queries `(..., n, d)`.
        k: keys `(..., n, d)` of the same tokens.
        v: values `(..., n, e)`, of any width.
        causality: "prefix" sums over j ≤ i, "joint" over all.
        decay: log decay `g ≤ 0`, `(..., n, 1)` or `(..., n, d)`, of prefix sums; None is none.
        state: what earlier tokens left, `Σ_j k_j v_jᵀ`, `(..., d, e)`.

    Returns:
        `(..., n, e)`.
    """
    if decay is None:
        product = q @ k.mT
    else:
        left = between(decay).to(q.dtype)
        product = (q.unsqueeze(-2) * k.unsqueeze(-3) * left).sum(-1)
        q = q * decay.cumsum(-2).exp().to(q.dtype)
    out = (product.tril() if causality == "prefix" else product) @ v
    return out if state is None else out + q @ state.to(q.dtype)


def recurrent(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    causality: Causality = "prefix",
    decay: Tensor | None = None,
    state: Tensor | None = None,
) -> Tensor:
    """As `masked`, token by token through the state `S_i = S_{i-1} + k_i v_iᵀ`."""
    with full_precision(q):
        if causality == "joint":
            return (wide(q) @ accumulate(state, k, v)).to(v.dtype)
        out = []
        for i in range(q.shape[-2]):
            now = slice(i, i + 1)
            g = None if decay is None else decay[..., now, :]
            state = accumulate(state, k[..., now, :], v[..., now, :], g)
            out.append((wide(q[..., now, :]) @ state).to(v.dtype))
        return torch.cat(out, dim=-2)


def chunked(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    causality: Causality = "prefix",
    decay: Tensor | None = None,
    state: Tensor | None = None,
) -> Tensor:
    """As `masked`, in chunks of C tokens: a C×C product inside each, one state between them.

    O(n (d e + C d + C e)) time; kept for the backward pass are the inputs, and little else.
    """
    if causality == "prefix" and q.shape[-2] > 1:
        return in_chunks.weighted_sum(q, k, v, decay, state)
    with full_precision(q):
        if causality == "joint":
            return (wide(q) @ accumulate(state, k, v)).to(v.dtype)
        return masked(wide(q), wide(k), wide(v), decay=decay, state=state).to(v.dtype)


def scanned(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    causality: Causality = "prefix",
    decay: Tensor | None = None,
    state: Tensor | None = None,
) -> Tensor:
    """As `masked`, token by token in C++ (`sympformer.attention.scan`), where that can run."""
    if causality == "prefix" and scan.suits(k, v):
        return in_chunks.weighted_sum(q, k, v, decay, state, in_chunks.TOKENWISE)
    return chunked(q, k, v, causality=causality, decay=decay, state=state)


def accumulate(state: Tensor | None, k: Tensor, v: Tensor, decay: Tensor | None = None) -> Tensor:
    """`state + Σ_j k_j v_jᵀ`, in float32 or better: it sums over all tokens ever seen.

    With a decay, the state and the tokens as the last of them sees them.
    """
    with full_precision(k):
        k = wide(k)
        if decay is not None:
            left, whole = to_end(wide(decay))
            k, state = k * left, None if state is None else state * whole
        new = k.mT @ wide(v)
    return new if state is None else state + new
