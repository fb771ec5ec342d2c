"""Momentum along the text: the delta rule whose state moves with a velocity of its own.

    r_i = y_i - (D_i S_{i-1})ᵀ k_i,  M_i = μ_i M_{i-1} + η_i k_i r_iᵀ,  S_i = D_i S_{i-1} + β_i M_i,

with `D_i = e^{g_i}` a head, and `q_iᵀS_i` read: Momentum DeltaNet (Huang et al. 2026). With μ = 0
and β = 1 it is the gated delta rule, with η its strength. It accelerates the online solver from
token to token, where the accelerated flows of this package accelerate from layer to layer.

All forms share one signature and work in float32 or better. For padding, `k`, `η` and `y` are to be
0. Gradients are torch's own.
"""

import torch
from torch import Tensor

from sympformer.attention import chunked as in_chunks
from sympformer.attention.decay import between
from sympformer.attention.precision import full_precision, new_state, wide

State = tuple[Tensor, Tensor]


def masked(
    q: Tensor,
    k: Tensor,
    y: Tensor,
    *,
    beta: Tensor,
    eta: Tensor,
    mu: Tensor,
    decay: Tensor | None = None,
    state: State | None = None,
) -> tuple[Tensor, State]:
    """`q_iᵀS_i` and the state after the last token, through one triangular n×n system.

    Args:
        q: queries `(..., n, d)`.
        k: keys `(..., n, d)`.
        y: values `(..., n, e)`.
        beta: what of the velocity goes into the state, `(..., n, 1)`.
        eta: strength of writing into the velocity, `(..., n, 1)`.
        mu: what is kept of the velocity, `(..., n, 1)`, 0 to 1.
        decay: log decay of the state, `(..., n, 1)`; None is none.
        state: what earlier tokens left, `(S, M)`, each `(..., d, e)`.

    Returns:
        What is read, `(..., n, e)` in the dtype of `y`, and `(S, M)` in float32 or better.
    """
    with full_precision(k):
        given = q, k, y, beta, eta
        q, k, values, beta, eta = (wide(x) for x in given)
        shape = (*k.shape[:-1], 1)
        slow = wide(mu).clamp(min=torch.finfo(k.dtype).tiny).log().expand(shape)
        g = torch.zeros_like(slow) if decay is None else wide(decay).expand(shape)
        # What is left at i of the state, and of the velocity, that token j wrote.
        kept, moving = (between(x).squeeze(-1).tril() for x in (g, slow))
        shares = beta * moving
        before, after = kept.tril(-1) @ shares, kept @ shares
        faded, slowed = g.cumsum(-2).exp(), slow.cumsum(-2).exp()
        earlier, drift = (weight @ (beta * slowed) for weight in (kept.tril(-1), kept))
        S, M = _start(k, y, state)

        right = values - (faded * k) @ S - (earlier * k) @ M
        matrix = (k @ k.mT) * before * eta.mT
        residuals = torch.linalg.solve_triangular(matrix, right, upper=False, unitriangular=True)
        written = eta * residuals
        read = ((q @ k.mT) * after) @ written + (faded * q) @ S + (drift * q) @ M
        last = slice(-1, None)
        of_S, of_M = ((k * weight[..., last, :].mT).mT @ written for weight in (after, moving))
        S = faded[..., last, :] * S + drift[..., last, :] * M + of_S
        return read.to(y.dtype), (S, slowed[..., last, :] * M + of_M)


def recurrent(
    q: Tensor,
    k: Tensor,
    y: Tensor,
    *,
    beta: Tensor,
    eta: Tensor,
    mu: Tensor,
    decay: Tensor | None = None,
    state: State | None = None,
) -> tuple[Tensor, State]:
    """As `masked`, token by token through the state."""
    read = []
    with full_precision(k):
        S, M = _start(k, y, state)
        for i in range(k.shape[-2]):
            now = (..., slice(i, i + 1), slice(None))
            S = S if decay is None else S * wide(decay[now]).exp()
            key = wide(k[now])
            M = wide(mu[now]) * M + key.mT @ (wide(eta[now]) * (wide(y[now]) - key @ S))
            S = S + wide(beta[now]) * M
            read.append(wide(q[now]) @ S)
        return torch.cat(read, dim=-2).to(y.dtype), (S, M)


def chunked(
    q: Tensor,
    k: Tensor,
    y: Tensor,
    *,
    beta: Tensor,
    eta: Tensor,
    mu: Tensor,
    decay: Tensor | None = None,
    state: State | None = None,
) -> tuple[Tensor, State]:
    """As `masked`, in chunks of C tokens, between which both matrices go."""
    if k.shape[-2] == 1:
        return recurrent(q, k, y, beta=beta, eta=eta, mu=mu, decay=decay, state=state)
    size = in_chunks.chunk_size(k, y)
    with full_precision(k):
        heads, shape = k.shape[:-2], (*k.shape[:-1], 1)
        kept = k.new_ones(shape) if decay is None else wide(decay).exp().expand(shape)
        # A chunk that is not full ends with tokens that change nothing.
        lost = (in_chunks.cut(1 - wide(x).expand(shape), slice(None), size) for x in (kept, mu))
        kept, mu = (1 - x for x in lost)
        beta, eta = (in_chunks.cut(x.expand(shape), slice(None), size) for x in (beta, eta))
        queries, keys, values = (in_chunks.cut(x, slice(None), size) for x in (q, k, y))
        before, after, velocity = _responses(kept, beta, mu)

        kernel = (keys @ keys.mT) * before[..., :size]
        right = torch.cat([values, *_scaled(keys, before)], dim=-1)
        matrix = kernel * eta.mT
        solved = torch.linalg.solve_triangular(matrix, right, upper=False, unitriangular=True)
        own, seen_S, seen_M = solved.split([y.shape[-1], k.shape[-1], k.shape[-1]], dim=-1)
        last = after[..., -1:, :]
        late_S, late_M = (keys * (eta * w[..., :size].mT) for w in (last, velocity))

        S, M = (t.flatten(0, -3) for t in _start(k, y, state))
        starts, residuals = [], []
        for i in range(keys.shape[0]):
            starts.append((S, M))
            residuals.append(own[i] - seen_S[i] @ S - seen_M[i] @ M)
            end, pace = last[i, ..., size:], velocity[i, ..., size:]
            S = end[..., :1] * S + end[..., 1:] * M + late_S[i].mT @ residuals[-1]
            M = pace[..., 1:] * M + late_M[i].mT @ residuals[-1]
        inside = ((queries @ keys.mT) * after[..., :size]) @ (eta * torch.stack(residuals))
        early_S, early_M = _scaled(queries, after)
        befores = [torch.stack(t) for t in zip(*starts, strict=True)]
        read = inside + early_S @ befores[0] + early_M @ befores[1]
        return in_chunks.join(read, y).to(y.dtype), (S.unflatten(0, heads), M.unflatten(0, heads))


def _start(k: Tensor, y: Tensor, state: State | None) -> State:
    S, M = (new_state(k, y), new_state(k, y)) if state is None else state
    return wide(S).expand(*k.shape[:-2], -1, -1), wide(M).expand(*k.shape[:-2], -1, -1)


def _scaled(x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """As rows of `x` see the state before the chunk, and the velocity before it."""
    return x * weight[..., -2:-1], x * weight[..., -1:]


def _responses(kept: Tensor, beta: Tensor, mu: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """What is left of what was written, within chunks `(..., C, 1)`.

    Columns are the tokens of the chunk, then the state and the velocity before it; rows are tokens.

    Returns:
        What of each is in `D_i S_{i-1}`, and in `S_i`, `(..., C, C + 2)`, and what in the last
        velocity, `(..., 1, C + 2)`.
    """
    size = kept.shape[-2]
    once = torch.eye(size + 2, dtype=kept.dtype, device=kept.device)
    position, velocity = (once[i : i + 1].expand(*kept.shape[:-2], 1, -1) for i in (size, size + 1))
    before, after = [], []
    steps = (x.split(1, dim=-2) for x in (kept, beta, mu))
    for i, (keep, share, slow) in enumerate(zip(*steps, strict=True)):
        before.append(keep * position)
        velocity = slow * velocity + once[i : i + 1]
        position = before[-1] + share * velocity
        after.append(position)
    return torch.cat(before, dim=-2), torch.cat(after, dim=-2), velocity
