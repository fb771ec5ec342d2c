"""Weighted sums over earlier tokens, `Σ_{j≤i} (q_i·k_j) v_j`: the forms of linear attention.

All forms share one signature. With a decay earlier tokens fade: each channel of `k_j` is multiplied
by `e^{g_{j+1} + … + g_i}` (`sympformer.attention.decay`), as in Mamba-2 (a number a head) and gated
linear attention (a number a channel). A sum over earlier tokens is one d×e matrix, the state
`S = Σ_j k_j v_jᵀ`, however many tokens it sums. Forms other than the formula sum in float32 or
better, whatever the inputs are, and give the result back in the dtype of the values.
"""

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from sympformer.attention import delta_chunked
from sympformer.attention.decay import between, to_end
from sympformer.attention.naive import Causality
from sympformer.attention.precision import full_precision, new_state, wide
from sympformer.derivatives import pull_back, recorded
from sympformer.torch_private import transformed


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

    O(n (d e + C d + C e)) time; kept for the backward pass are the inputs, and nothing else.
    """
    if decay is not None:
        return delta_chunked.decayed_sum(q, k, v, decay, state)
    n, size = q.shape[-2], chunk_size(k, v)
    if causality == "prefix" and n > size:
        start = new_state(k, v) if state is None else state.expand(*k.shape[:-2], -1, -1)
        if transformed(q, k, v, start):
            return _in_chunks(q, k, v, start, size)
        # Views, because the compiler takes no tensor twice, and q may be k.
        return _Chunked.apply(*(t.view_as(t) for t in (q, k, v)), start, size)
    with full_precision(q):
        if causality == "joint":
            return (wide(q) @ accumulate(state, k, v)).to(v.dtype)
        return masked(wide(q), wide(k), wide(v), state=state).to(v.dtype)


WORKSPACE = 2**17
"""Numbers in the keys of as many heads as are summed at once: so small the temporaries stay."""


class _Chunked(torch.autograd.Function):
    """The prefix sum of some heads at a time.

    The backward pass sums over earlier tokens for the queries, over later ones for the keys and
    the values; it makes the products and the states anew.
    """

    @staticmethod
    def forward(q: Tensor, k: Tensor, v: Tensor, state: Tensor, size: int) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        out = torch.empty_like(v)  # laid out as the values are: heads may lie within tokens
        for part in parts(k):
            out[part] = _in_chunks(q[part], k[part], v[part], state[part], size)
        return out

    @staticmethod
    def setup_context(ctx, inputs, output):  # pyright: ignore[reportIncompatibleMethodOverride]
        *tensors, ctx.size = inputs
        ctx.save_for_backward(*tensors)

    @staticmethod
    def backward(ctx, grad: Tensor):  # pyright: ignore[reportIncompatibleMethodOverride]
        *given, state = ctx.saved_tensors
        if recorded(grad):
            return *pull_back(partial(_in_chunks, size=ctx.size), (*given, state), [grad]), None
        gradients = [torch.empty_like(t) for t in (*given, state)]
        with full_precision(grad):
            for part in parts(given[1]):
                q, k, v, g = (chunks(t[part], ctx.size) for t in (*given, grad))
                dq, dk, pull = pull_back_product(q, k, v, g, state[part])
                dv = (q @ k.mT).tril_().mT @ g
                dv += k @ _after(pull)
                found = (*(unchunk(d, grad) for d in (dq, dk, dv)), pull.sum(-3))
                for whole, d in zip(gradients, found, strict=True):
                    whole[part] = d
        return *gradients, None


def _in_chunks(q: Tensor, k: Tensor, v: Tensor, state: Tensor, size: int) -> Tensor:
    """The prefix sum, all chunks at once: they are an axis of every tensor."""
    with full_precision(q):
        q_, k_, v_ = (chunks(t, size) for t in (q, k, v))
        inside = (q_ @ k_.mT).tril() @ v_
        return unchunk(inside + q_ @ _before(k_.mT @ v_, state), v).to(v.dtype)


def pull_back_product(
    q: Tensor, k: Tensor, v: Tensor, g: Tensor, state: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of `Σ_i g_i · Σ_{j≤i} (q_i·k_j) v_j` for `q` and `k`, all in chunks.

    The third result is what each chunk adds to the gradient of every state before it.
    """
    product, pull = (g @ v.mT).tril_(), q.mT @ g
    dq = product @ k
    dq += g @ _before(k.mT @ v, state).mT
    dk = product.mT @ q
    dk += v @ _after(pull).mT
    return dq, dk, pull


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


def chunk_size(k: Tensor, v: Tensor) -> int:
    """Tokens a chunk: as many as a state has rows balances both; fewer than 32 make small work."""
    return min(max(32, k.shape[-1], v.shape[-1]), 128)


def parts(k: Tensor) -> list[tuple]:
    """Indices of groups of heads, small enough that their temporaries take little memory."""
    if k.ndim < 3 or torch.compiler.is_compiling():
        return [(...,)]
    heads = k.shape[-3]
    count = min(heads, -(-k.numel() // WORKSPACE))
    step = -(-heads // count)
    return [(..., slice(i, i + step), slice(None), slice(None)) for i in range(0, heads, step)]


def chunks(x: Tensor, size: int, fill: float = 0.0) -> Tensor:
    """`(..., n, d)` as `(..., N, size, d)`, in float32 or better, the last chunk filled up."""
    x, missing = wide(x), -x.shape[-2] % size
    if missing:
        x = F.pad(x, (0, 0, 0, missing), value=fill)
    return x.unflatten(-2, (-1, size)).contiguous()


def unchunk(x: Tensor, like: Tensor) -> Tensor:
    """The inverse of `chunks`, for as many tokens as `like` has."""
    return x.flatten(-3, -2)[..., : like.shape[-2], :]


def _before(own: Tensor, first: Tensor) -> Tensor:
    """`first` and the sum over earlier chunks of what each has of its own, `(..., N, d, e)`.

    The last of `own` is in no sum, so that nothing of a token reaches an earlier chunk.
    """
    return torch.cat([first.unsqueeze(-3), own[..., :-1, :, :]], dim=-3).cumsum(-3)


def _after(own: Tensor) -> Tensor:
    """The sum over later chunks of what each has of its own, `(..., N, d, e)`."""
    return _before(own.flip(-3), torch.zeros_like(own[..., 0, :, :])).flip(-3)
