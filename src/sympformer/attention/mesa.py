"""Exact ridge regression over each prefix, read with a query: MesaNet (von Oswald et al. 2025).

`o_i = G_iᵀ (H_i + Λ)⁻¹ q_i` with `H_i = Σ_{j≤i} β_j k_j k_jᵀ` and `G_i = Σ_{j≤i} β_j k_j v_jᵀ`,
both decayed: of all `S`, `o_i = Sᵀq_i` reads that which minimises
`Σ_j β_j |v_j - Sᵀk_j|² + tr SᵀΛS`. In the language of the flow it is the gradient flow of the
regularised Stein metric with every prefix its own ensemble, of which the delta rule is the one-pass
approximation (docs/linear.md).

All forms share one signature and solve in float32 or better. For padding, `k` is to be 0.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from sympformer.attention import prefix_sums
from sympformer.attention.decay import between
from sympformer.attention.precision import full_precision, new_state, wide
from sympformer.derivatives import pull_back, recorded
from sympformer.torch_private import transformed

ITERATIONS = 30
"""Steps of conjugate gradients of the form in chunks, as published: with d channels, after d of
them what is left is rounding."""

State = tuple[Tensor, Tensor]
Sums = Callable[..., Tensor]
"""`prefix_sums.chunked`, or another form of it."""


def masked(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    ridge: Tensor,
    beta: Tensor | None = None,
    decay: Tensor | None = None,
    state: State | None = None,
) -> Tensor:
    """`G_iᵀ (H_i + Λ)⁻¹ q_i`, all prefixes at once, each with a dense d×d system: the formula.

    Args:
        q: queries `(..., n, d)`.
        k: keys `(..., n, d)`.
        v: values `(..., n, e)`.
        ridge: the diagonal of Λ, greater than 0, `(d,)` or one a head, `(..., 1, d)`.
        beta: weight of a token `(..., n, 1)`; None is 1.
        decay: log decay a head, `(..., n, 1)`; None is none.
        state: what earlier tokens left, `(H, G)`, `(..., d, d)` and `(..., d, e)`.

    Returns:
        `(..., n, e)` in the dtype of `v`.
    """
    with full_precision(k):
        q_, k_, v_, ridge = wide(q), wide(k), wide(v), wide(ridge)
        weighted, g = _weighted(k, beta), None if decay is None else wide(decay)
        x = _solve_dense(q_, weighted, k_, ridge, g, None if state is None else state[0])
        G = None if state is None else state[1]
        return prefix_sums.masked(x, weighted, v_, decay=g, state=G).to(v.dtype)


def recurrent(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    ridge: Tensor,
    beta: Tensor | None = None,
    decay: Tensor | None = None,
    state: State | None = None,
) -> Tensor:
    """As `masked`, token by token through the state, with a d×d system a token."""
    out = []
    with full_precision(k):
        for i in range(k.shape[-2]):
            now = (..., slice(i, i + 1), slice(None))
            b, g = (None if t is None else t[now] for t in (beta, decay))
            state = accumulate(state, k[now], v[now], b, g)
            matrix = state[0] + torch.diag_embed(wide(ridge).expand(q[now].shape).squeeze(-2))
            x = torch.linalg.solve(matrix, wide(q[now]).mT)
            out.append(x.mT @ state[1])
    return torch.cat(out, dim=-2).to(v.dtype)


def chunked(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    ridge: Tensor,
    beta: Tensor | None = None,
    decay: Tensor | None = None,
    state: State | None = None,
) -> Tensor:
    """As `masked`, by conjugate gradients on all prefixes at once: `H_i x_i` is a prefix sum.

    The gradient is that of the solution, not of the steps: it takes as many steps again, and keeps
    the arguments and the solution. Compiled code cannot do that, and has dense systems: d² numbers
    a token.
    """
    options = {"ridge": ridge, "beta": beta, "decay": decay, "state": state}
    return _by_gradients(prefix_sums.chunked, q, k, v, **options)


def scanned(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    ridge: Tensor,
    beta: Tensor | None = None,
    decay: Tensor | None = None,
    state: State | None = None,
) -> Tensor:
    """As `chunked`, with sums token by token in C++, where that can run."""
    options = {"ridge": ridge, "beta": beta, "decay": decay, "state": state}
    return _by_gradients(prefix_sums.scanned, q, k, v, **options)


def _by_gradients(
    sums: Sums,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    ridge: Tensor,
    beta: Tensor | None,
    decay: Tensor | None,
    state: State | None,
) -> Tensor:
    if k.shape[-2] == 1:
        return recurrent(q, k, v, ridge=ridge, beta=beta, decay=decay, state=state)
    weighted, g = _weighted(k, beta), None if decay is None else wide(decay)
    earlier = new_state(k, k) if state is None else wide(state[0])
    given = wide(q), weighted, wide(k), wide(ridge), g, earlier
    with full_precision(k):
        if torch.compiler.is_compiling() or transformed(*(t for t in given if t is not None)):
            x = _solve_dense(*given)
        else:
            x = _Solve.apply(sums, *given)
        G = None if state is None else state[1]
        return sums(x, weighted, wide(v), decay=g, state=G).to(v.dtype)


def accumulate(
    state: State | None,
    k: Tensor,
    v: Tensor,
    beta: Tensor | None = None,
    decay: Tensor | None = None,
) -> State:
    """`(H, G)` after some tokens, in float32 or better; arguments as in `masked`."""
    weighted = _weighted(k, beta)
    H, G = (None, None) if state is None else state
    H = prefix_sums.accumulate(H, weighted, k, decay)
    return H, prefix_sums.accumulate(G, weighted, v, decay)


def _weighted(k: Tensor, beta: Tensor | None) -> Tensor:
    return wide(k) if beta is None else wide(k) * wide(beta)


def _solve_dense(
    q: Tensor, weighted: Tensor, k: Tensor, ridge: Tensor, g: Tensor | None, earlier: Tensor | None
) -> Tensor:
    """`(H_i + Λ)⁻¹ q_i`, by d×d systems."""
    n, d = k.shape[-2:]
    outer = (weighted.unsqueeze(-1) * k.unsqueeze(-2)).flatten(-2)
    left = 1.0 if g is None else between(g).squeeze(-1)
    H = (torch.ones(n, n, dtype=k.dtype, device=k.device) * left).tril() @ outer
    H = H.unflatten(-1, (d, d))
    if earlier is not None:
        faded = 1.0 if g is None else g.cumsum(-2).exp().unsqueeze(-1)
        H = H + faded * earlier.unsqueeze(-3)
    H = H + torch.diag_embed(ridge.expand(q.shape))
    return torch.linalg.solve(H, q.unsqueeze(-1)).squeeze(-1)


def _apply(
    sums: Sums,
    x: Tensor,
    weighted: Tensor,
    k: Tensor,
    ridge: Tensor,
    g: Tensor | None,
    earlier: Tensor,
) -> Tensor:
    """`(H_i + Λ) x_i`."""
    return sums(x, weighted, k, decay=g, state=earlier.mT) + ridge * x


def _conjugate_gradients(sums: Sums, right: Tensor, *matrix: Tensor | None) -> Tensor:
    """`(H_i + Λ)⁻¹` of the right-hand sides; the arguments of `_apply` after the second."""
    x, rest = torch.zeros_like(right), right
    direction, size = rest, rest.square().sum(-1, keepdim=True)
    smallest = torch.finfo(right.dtype).tiny
    for _ in range(ITERATIONS):
        image = _apply(sums, direction, *matrix)  # pyright: ignore[reportArgumentType]
        step = size / (direction * image).sum(-1, keepdim=True).clamp(min=smallest)
        x = x + step * direction
        rest = rest - step * image
        before, size = size, rest.square().sum(-1, keepdim=True)
        direction = rest + size / before.clamp(min=smallest) * direction
    return x


class _Solve(torch.autograd.Function):
    """`(H_i + Λ)⁻¹ q_i`; backwards, the same systems, and the gradient of `-z_i·H_i x_i`."""

    @staticmethod
    def forward(sums: Sums, right: Tensor, *matrix: Tensor | None) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return _conjugate_gradients(sums, right, *matrix)

    @staticmethod
    def setup_context(ctx, inputs, output):  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx.sums = inputs[0]
        ctx.save_for_backward(*inputs[1:], output)

    @staticmethod
    def backward(ctx, grad: Tensor):  # pyright: ignore[reportIncompatibleMethodOverride]
        *given, x = ctx.saved_tensors
        g = given[4]
        there = [t for t in given if t is not None]

        def named(q: Tensor, weighted: Tensor, k: Tensor, ridge: Tensor, *rest: Tensor):
            return q, weighted, k, ridge, None if g is None else rest[0], rest[-1]

        if recorded(grad):
            found = iter(pull_back(lambda *t: _solve_dense(*named(*t)), there, [grad]))
        else:
            z = _conjugate_gradients(ctx.sums, grad, *given[1:])
            found = pull_back(lambda *t: _apply(ctx.sums, x, *named(*t)[1:]), there, [-z])
            found = iter([z, *found[1:]])
        return None, *(None if t is None else next(found) for t in given)
