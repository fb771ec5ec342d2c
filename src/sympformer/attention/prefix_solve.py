"""Linear systems whose matrix is a linear kernel and a diagonal: momenta of a Stein metric.

`(tril(k kᵀ) + diag ρ) y = b`, in a dense form, the formula, and in chunks, with one signature. What
earlier tokens know of each other enters through their state, `S = Σ_j k_j y_jᵀ`.
"""

import torch
from torch import Tensor

from sympformer.attention.naive import Causality
from sympformer.attention.prefix_sums import (
    chunked,
    chunks,
    full_precision,
    new_state,
    parts,
    pull_back_product,
    unchunk,
    wide,
)
from sympformer.derivatives import pull_back, recorded
from sympformer.torch_private import transformed

SIZE = 64
"""Tokens a chunk: each is one step of a loop, with a small system to solve."""


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
    """As `solve_dense`; prefix systems by block forward substitution, a chunk of C tokens a block.

    O(n (C d + C e + d e)) time, and for the backward pass no more than arguments and result are
    kept. Joint systems are dense.
    """
    if causality == "joint" or k.shape[-2] <= SIZE:
        return solve_dense(k, rho, b, causality=causality, state=state)
    k, rho, b = wide(k), wide(rho).expand(*k.shape[:-1], 1), wide(b)
    if state is not None:
        with full_precision(k):
            b = b - k @ wide(state)
    return _prefix_system(k, rho, b)


def _prefix_system(k: Tensor, rho: Tensor, b: Tensor) -> Tensor:
    return _in_chunks(k, rho, b) if transformed(k, rho, b) else _solve(k, rho, b)


@torch.library.custom_op("sympformer::prefix_solve", mutates_args=())
def _solve(k: Tensor, rho: Tensor, b: Tensor) -> Tensor:
    """The prefix system. Opaque to the compiler, whose graph must not grow with the chunks."""
    return _in_chunks(k, rho, b)


def _in_chunks(k: Tensor, rho: Tensor, b: Tensor) -> Tensor:
    with full_precision(k):
        n = k.shape[-2]
        k, b, rho = chunks(k, SIZE), chunks(b, SIZE), chunks(rho, SIZE, fill=1.0)
        matrix = (k @ k.mT).tril() + rho.squeeze(-1).diag_embed()
        state = k.new_zeros(*k.shape[:-3], k.shape[-1], b.shape[-1])
        parts = []
        for i in range(k.shape[-3]):
            now = (..., i, slice(None), slice(None))
            rest = b[now] - k[now] @ state
            parts.append(torch.linalg.solve_triangular(matrix[now], rest, upper=False))
            state = state + k[now].mT @ parts[-1]
        return torch.cat(parts, dim=-2)[..., :n, :].contiguous()


@_solve.register_fake
def _(k: Tensor, rho: Tensor, b: Tensor) -> Tensor:
    return b.new_empty(b.shape)


def _setup_context(ctx, inputs, output):
    ctx.save_for_backward(*inputs[:2], output)


def _backward(ctx, grad: Tensor):
    """The transposed system is the same one, with the order of the tokens reversed."""
    k, rho, y = ctx.saved_tensors
    w = _prefix_system(k.flip(-2), rho.flip(-2), grad.flip(-2)).flip(-2)
    if recorded(grad):
        (d_k,) = pull_back(lambda key: chunked(key, key, y), [k], [-w])
    else:
        d_k = _keys_gradient(k, y, w)
    d_rho = -(w * y).sum(-1, keepdim=True) if ctx.needs_input_grad[1] else None
    return d_k, d_rho, w


def _keys_gradient(k: Tensor, y: Tensor, w: Tensor) -> Tensor:
    """Of `-Σ_i w_i · Σ_{j≤i} (k_i·k_j) y_j`."""
    gradient, zero = torch.empty_like(k), new_state(k, y)
    with full_precision(k):
        for part in parts(k):
            key, value, g = (chunks(t[part], SIZE) for t in (k, y, -w))
            left, right, _ = pull_back_product(key, key, value, g, zero[part])
            gradient[part] = unchunk(left + right, k)
    return gradient


_solve.register_autograd(_backward, setup_context=_setup_context)
