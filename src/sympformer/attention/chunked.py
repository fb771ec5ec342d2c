"""Prefix sums and the delta rule in chunks: one mechanism, and its backward pass.

A text is worked on in groups of chunks, from the first to the last, and backwards from the last to
the first; what goes on in a group is `sympformer.attention.chunks`. With chunks of no tokens
(`TOKENWISE`) it is worked on token by token, by `sympformer.attention.scan`.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from sympformer.attention import scan
from sympformer.attention.chunks import Chunks
from sympformer.attention.precision import full_precision, new_state, wide
from sympformer.derivatives import pull_back, recorded
from sympformer.torch_private import transformed

TOKENWISE = 0
WORKSPACE = 2**16
"""Numbers in the keys of as many chunks as are worked on at once: the temporaries stay small."""


def chunk_size(k: Tensor, y: Tensor) -> int:
    """Tokens a chunk, a power of two: wide states make worth their while what is done inside."""
    width = max(k.shape[-1], y.shape[-1])
    return 16 if width <= 32 else 32 if width <= 64 else 64


def _chunks(
    q: Tensor | None,
    k: Tensor,
    beta: Tensor | None,
    y: Tensor,
    g: Tensor | None,
    tokens: slice,
    size: int,
) -> Chunks:
    q, beta, g = (None if t is None else cut(t, tokens, size) for t in (q, beta, g))
    return Chunks(q, cut(k, tokens, size), beta, cut(y, tokens, size), g)


def cut(x: Tensor, tokens: slice, size: int) -> Tensor:
    """Some tokens of `(..., n, d)` as chunks `(M, G, size, d)` in float32 or better."""
    x = wide(x[..., tokens, :])
    missing = -x.shape[-2] % size
    if missing:
        x = F.pad(x, (0, 0, 0, missing))
    x = x.unflatten(-2, (-1, size)).movedim(-3, 0)
    return x.reshape(x.shape[0], math.prod(x.shape[1:-2]), *x.shape[-2:]).contiguous()


def join(parts: Tensor, like: Tensor) -> Tensor:
    """The inverse of `cut`, `(..., n, ·)` for the tokens that `like` has."""
    x = parts.transpose(0, 1).unflatten(0, like.shape[:-2]) if like.ndim > 2 else parts[:, 0]
    return x.flatten(-3, -2)[..., : like.shape[-2], :]


def groups(k: Tensor, size: int) -> list[slice]:
    """The tokens that are worked on at once."""
    n = k.shape[-2]
    step = size * max(1, WORKSPACE * n // max(1, k.numel()) // size)
    return [slice(i, i + step) for i in range(0, n, step)]


def _plain(
    q: Tensor | None,
    k: Tensor,
    beta: Tensor | None,
    y: Tensor,
    g: Tensor | None,
    state: Tensor,
    size: int,
) -> tuple[Tensor | None, Tensor]:
    """`q_iᵀS_i` and the errors, in differentiable operations."""
    with full_precision(k):
        chunks = _chunks(q, k, beta, y, g, slice(None), size or chunk_size(k, y))
        read, errors, _ = chunks.forward(
            wide(state).reshape(math.prod(state.shape[:-2]), *state.shape[-2:])
        )
        return None if read is None else join(read, y).to(y.dtype), join(errors, y)


@torch.library.custom_op("sympformer::chunked", mutates_args=())
def _chunked(
    q: Tensor | None,
    k: Tensor,
    beta: Tensor | None,
    y: Tensor,
    g: Tensor | None,
    state: Tensor,
    size: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """What is read, the errors, and a state a group. Opaque to the compiler: it has loops."""
    read, errors, kept = _buffers(q, k, beta, y, state, size)
    if size == TOKENWISE:
        given = {"q": q, "k": k, "beta": beta, "y": y, "g": g}
        scan.forward(given, state, read, errors)
        return read, errors, kept
    S = wide(state).reshape(math.prod(state.shape[:-2]), *state.shape[-2:])
    with full_precision(k):
        for tokens, before in zip(groups(k, size), kept, strict=True):
            before.copy_(S)
            chunks = _chunks(q, k, beta, y, g, tokens, size)
            some, error, S = chunks.forward(S)
            if q is not None and some is not None:
                read[..., tokens, :] = join(some, y[..., tokens, :])
            if beta is not None:
                errors[..., tokens, :] = join(error, y[..., tokens, :])
    return read, errors, kept


def _buffers(q, k, beta, y, state, size) -> tuple[Tensor, Tensor, Tensor]:
    """Laid out as the values are: heads may lie within tokens. What is not asked for is empty."""
    read = y.new_empty(0) if q is None else torch.empty_like(y)
    full = torch.promote_types(y.dtype, torch.float32)
    errors = y.new_empty(0) if beta is None else torch.empty_like(y, dtype=full)
    count, heads = len(groups(k, size)) if size else 0, math.prod(k.shape[:-2])
    return read, errors, y.new_empty(count, heads, *state.shape[-2:], dtype=full)


@_chunked.register_fake
def _(q, k, beta, y, g, state, size):
    return _buffers(q, k, beta, y, state, size)


def _setup_context(ctx, inputs, output):
    *tensors, ctx.size = inputs
    ctx.save_for_backward(*tensors, *output[1:])
    ctx.set_materialize_grads(False)


def _backward(ctx, d_read: Tensor | None, d_errors: Tensor | None, _):
    *given, errors, kept = ctx.saved_tensors
    if d_read is None and d_errors is None:
        return (None,) * (len(given) + 1)
    if recorded(d_read, d_errors):

        def form(*some: Tensor) -> list[Tensor]:
            rest = iter(some)
            q, k, beta, y, g, state = (None if t is None else next(rest) for t in given)
            assert k is not None  # as are the values and the state
            assert y is not None
            assert state is not None
            return [t for t in _plain(q, k, beta, y, g, state, ctx.size) if t is not None]

        gradients = [d_errors] if given[0] is None else [d_read, d_errors]
        found = iter(pull_back(form, [t for t in given if t is not None], gradients))
        return *(None if t is None else next(found) for t in given), None
    found = iter(_chunked_backward(*given, errors, kept, d_read, d_errors, ctx.size))
    return *(None if t is None else next(found) for t in given), None


_chunked.register_autograd(_backward, setup_context=_setup_context)


@torch.library.custom_op("sympformer::chunked_backward", mutates_args=())
def _chunked_backward(
    q: Tensor | None,
    k: Tensor,
    beta: Tensor | None,
    y: Tensor,
    g: Tensor | None,
    state: Tensor,
    errors: Tensor,
    kept: Tensor,
    d_read: Tensor | None,
    d_errors: Tensor | None,
    size: int,
) -> list[Tensor]:
    """Gradients of the arguments that are there, from the last chunks to the first."""
    given = {"q": q, "k": k, "beta": beta, "y": y, "g": g}
    given = {name: t for name, t in given.items() if t is not None}
    gradients = {name: torch.empty_like(t) for name, t in given.items()}
    if d_read is None and "q" in given:  # nothing that was read is used
        del given["q"]
        gradients["q"].zero_()
    if size == TOKENWISE:
        known = {"q": given.get("q"), "k": k, "beta": beta, "y": y, "g": g}
        wanted = {name: gradients[name] for name in given}
        pull = scan.backward(known, state, errors, d_read, d_errors, wanted)
        return [*gradients.values(), pull.to(state.dtype)]
    pull = kept.new_zeros(kept.shape[1:])
    with full_precision(k):
        for tokens, before in reversed(list(zip(groups(k, size), kept, strict=True))):
            chunks = _chunks(given.get("q"), k, beta, y, g, tokens, size)
            error = chunks.y if beta is None else cut(errors, tokens, size)
            d_some = None if d_read is None else cut(d_read, tokens, size)
            d_error = None if d_errors is None else cut(d_errors, tokens, size)
            found, pull = chunks.backward(error, before, d_some, d_error, pull)
            for name in given:
                whole = gradients[name]
                whole[..., tokens, :] = join(found[name], whole[..., tokens, :])
    return [*gradients.values(), pull.view(state.shape).to(state.dtype)]


@_chunked_backward.register_fake
def _(q, k, beta, y, g, state, errors, kept, d_read, d_errors, size):
    return [torch.empty_like(t) for t in (q, k, beta, y, g, state) if t is not None]


def weighted_sum(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor | None,
    state: Tensor | None,
    size: int | None = None,
) -> Tensor:
    """`prefix_sums.masked` with a decay `g`, in chunks of as many tokens as suit, or `size`."""
    read, _ = _run(q, k, None, v, g, state, size)
    assert read is not None  # it was asked for
    return read


def delta_errors(
    q: Tensor | None,
    k: Tensor,
    beta: Tensor,
    y: Tensor,
    g: Tensor | None,
    state: Tensor | None,
    size: int | None = None,
) -> tuple[Tensor | None, Tensor]:
    """`q_iᵀS_i` and the errors `e_i = y_i - (D_i S_{i-1})ᵀk_i`; arguments as in `delta.masked`."""
    return _run(q, k, beta, y, g, state, size)


def _run(
    q: Tensor | None,
    k: Tensor,
    beta: Tensor | None,
    y: Tensor,
    g: Tensor | None,
    state: Tensor | None,
    size: int | None,
) -> tuple[Tensor | None, Tensor]:
    q, k, beta, y, g, state = _fitted(q, k, beta, y, g, state)
    if size is None or (size == TOKENWISE and k.ndim > scan.AXES):
        size = chunk_size(k, y)
    if transformed(*(t for t in (q, k, beta, y, g, state) if t is not None)):
        return _plain(q, k, beta, y, g, state, size)
    read, errors, _ = _chunked(q, k, beta, y, g, state, size)
    return None if q is None else read, errors


def _fitted(
    q: Tensor | None,
    k: Tensor,
    beta: Tensor | None,
    y: Tensor,
    g: Tensor | None,
    state: Tensor | None,
) -> tuple[Tensor | None, Tensor, Tensor | None, Tensor, Tensor | None, Tensor]:
    """Every argument for every head, as products broadcast; torch refuses one that does not fit.

    What comes after trusts their shapes: in C++ another one would be memory of somebody else.
    """
    heads, (n, d), e = k.shape[:-2], k.shape[-2:], y.shape[-1]
    given = [t.shape[:-2] for t in (q, beta, y, g, state) if t is not None]
    if any(shape != heads for shape in given):
        heads = torch.broadcast_shapes(heads, *given)
    if q is not None:
        q = _expanded(q, *heads, n, d)
    if beta is not None:
        beta = _expanded(beta, *heads, n, 1)
    if g is not None:
        g = _expanded(g, *heads, n, 1 if g.shape[-1] == 1 else d)
    k, y = _expanded(k, *heads, n, d), _expanded(y, *heads, n, e)
    state = new_state(k, y) if state is None else _expanded(state, *heads, d, e)
    return q, k, beta, y, g, state


def _expanded(x: Tensor, *shape: int) -> Tensor:
    """Without a call where there is nothing to do: narrow heads are a matter of calls."""
    return x if x.shape == shape else x.expand(shape)
