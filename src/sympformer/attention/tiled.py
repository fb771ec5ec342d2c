"""Softmax averages in tiles: a few rows of the weights at a time, forward and backward.

A tile is `ROWS` queries or more against all the keys that they see, so each softmax is a whole row
and has the accuracy of the plain formula. Nothing quadratic is kept: the backward pass makes every
tile again from the queries and keys. Memory is O(N·(d + e)) and one tile; a tile is a few large
matrix products and one softmax, which is why it outruns a fused kernel on processors.

Multiplications for a query-key pair, heads of width d and values of width e: `d + e` forward,
`3d + 2e` backward. Second derivatives, forward mode and transforms are those of the plain formula.
"""

import math
from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor

from sympformer import products
from sympformer.attention import naive
from sympformer.attention.naive import Causality
from sympformer.derivatives import pull_back, recorded
from sympformer.torch_private import transformed

ROWS, MOST_ROWS = 64, 256
"""Queries of a tile: fewer make thin products, more waste work above the diagonal. Where each head
is multiplied by itself there are up to the second number."""
ELEMENTS = 2**21
"""Scores held at once, over all heads of a tile; more leave the processor's cache."""


def attend(
    q: Tensor, k: Tensor, v: Tensor, *, causality: Causality = "prefix", scale: float = 1.0
) -> tuple[Tensor, Tensor]:
    """`naive.average` and `naive.log_sum_exp` in one pass; shapes as there."""
    if transformed(q, k, v):
        return naive.attend(q, k, v, causality=causality, scale=scale)
    return _call(q, k, v, causality, scale, True)


def average(
    q: Tensor, k: Tensor, v: Tensor, *, causality: Causality = "prefix", scale: float = 1.0
) -> Tensor:
    """`naive.average` alone, which is a little less work."""
    if transformed(q, k, v):
        return naive.average(q, k, v, causality=causality, scale=scale)
    return _call(q, k, v, causality, scale, False)[0]


def _call(
    q: Tensor, k: Tensor, v: Tensor, causality: Causality, scale: float, log_sum: bool
) -> tuple[Tensor, Tensor]:
    dtype = v.dtype
    # The scale goes into the queries: scores are many more. Copies of strided heads are made here
    # once, not in both passes.
    q, k, v = (t.contiguous() for t in (q * scale, k, v.to(q.dtype)))
    out, total = _forward(q, k, v, causality == "prefix", log_sum)
    return out.to(dtype), total


class Tiles:
    """The tiles of one attention problem; leading axes are flattened to one.

    Args:
        q: queries `(..., n, d)`.
        k: keys `(..., N, d)`.
        masked: whether a query sees no later token.
        group: heads that must share a tile.
    """

    def __init__(self, q: Tensor, k: Tensor, masked: bool, group: int = 1):
        self.q, self.k = flat(q), flat(k)
        self.masked = masked
        self.n, self.n_key = q.shape[-2], k.shape[-2]
        rows = max(ROWS, min(MOST_ROWS, ELEMENTS // (self.n_key * group)))
        self.alone = products.suits(self.q[0, :rows], self.k[0, : self.n_key // 4])
        """Whether each head is multiplied by itself: most tiles are large enough for it."""
        self.rows = min(rows if self.alone else ROWS, self.n)
        groups = 1 if self.alone else max(1, ELEMENTS // (self.rows * self.n_key * group))
        self.heads = min(len(self.q), groups * group)
        self.exact = torch.promote_types(q.dtype, torch.float32)
        """Type of the scores: float32 or better."""
        self._unseen = q.new_full((self.rows, self.rows), -math.inf, dtype=self.exact).triu(1)
        self._scores = self.buffer()

    def parts(self, heads: slice) -> list[slice]:
        """What of a tile's heads is multiplied together."""
        if self.alone:
            return [slice(i, i + 1) for i in range(heads.start, heads.stop)]
        return [heads]

    def buffer(self) -> Tensor | None:
        """Room for the scores of one tile; None where every part has its own."""
        if self.alone:
            return None
        return self.q.new_empty(self.heads * self.rows * self.n_key, dtype=self.exact)

    def sums(self, t: Tensor) -> Tensor:
        """Zeros for a sum over queries, like `t` but transposed: thin sums are fast as rows."""
        return torch.zeros_like(t.mT, dtype=self.exact, memory_format=torch.contiguous_format)

    def slices(self, backwards: bool = False) -> Iterator[tuple[slice, slice, slice]]:
        """Heads, queries and visible keys of each tile; the last queries first if backwards."""
        starts = range(0, self.n, self.rows)
        for a in range(0, len(self.q), self.heads):
            for i in reversed(starts) if backwards else starts:
                stop = min(i + self.rows, self.n)
                last = self.n_key - self.n + stop if self.masked else self.n_key
                yield slice(a, min(a + self.heads, len(self.q))), slice(i, stop), slice(0, last)

    def scores(self, heads: slice, queries: slice, keys: slice) -> Tensor:
        """The scores of a part of a tile; -inf where a key is not seen.

        Where there is a buffer, all tiles share it.
        """
        scores = product(self._scores, self.q[heads, queries], self.k[heads, keys])
        if self.masked:
            now = queries.stop - queries.start
            # Zero first: whatever stood there (inf, NaN), the sum is -inf. Faster than a fill.
            scores[..., keys.stop - now :].tril_().add_(self._unseen[:now, :now])
        return scores


def softmax(scores: Tensor) -> Tensor:
    """Weights, in place of the scores."""
    return torch.softmax(scores, -1, out=scores)


def softmax_and_log_sum(scores: Tensor) -> tuple[Tensor, Tensor]:
    """Weights, in place of the scores, and the log-sum-exp `(..., 1)`."""
    highest = scores.amax(-1, keepdim=True)
    weights = softmax(scores)
    # The largest weight is one over the sum of exp(score - highest).
    return weights, highest - weights.amax(-1, keepdim=True).log()


def product(room: Tensor | None, a: Tensor, b: Tensor) -> Tensor:
    """`a bᵀ` of two batches of rows, written into `room`; without room, of two single heads."""
    if room is None:
        return products.product(a[0], b[0])[None]
    shape = len(a), a.shape[1], b.shape[1]
    out = room[: math.prod(shape)].view(shape)
    if a.dtype == room.dtype:
        return torch.bmm(a, b.mT, out=out)
    return out.copy_(torch.bmm(a, b.mT))


def averages(weights: Tensor, values: Tensor) -> Tensor:
    """`weights @ values`, made as its transpose: thin results are fast as rows, not as columns."""
    if len(values) == 1 and products.suits(weights[0], values[0].mT):
        return products.product(weights[0], values[0].mT)[None]
    return torch.bmm(values.mT, weights.mT).mT


def add_product(total: Tensor, a: Tensor, b: Tensor) -> None:
    """`total += aᵀ b` of two batches of matrices, `a` thin."""
    if len(a) == 1 and products.suits(a[0].mT, b[0].mT):
        total += products.product(a[0].mT, b[0].mT)
    elif a.dtype == total.dtype:
        total.baddbmm_(a.mT, b)
    else:
        total += torch.bmm(a.mT, b)


def as_rows(sums: Tensor, like: Tensor) -> Tensor:
    """What `Tiles.sums` was for, in the shape and type of `like`."""
    return sums.mT.to(like.dtype).reshape(like.shape).contiguous()


def flat(t: Tensor) -> Tensor:
    """`(..., n, d)` with its leading axes flattened to one."""
    return t.reshape(-1, *t.shape[-2:])


@torch.library.custom_op("sympformer::tiled_attention", mutates_args=())
def _forward(q: Tensor, k: Tensor, v: Tensor, masked: bool, log_sum: bool) -> tuple[Tensor, Tensor]:
    tiles, values = Tiles(q, k, masked), flat(v)
    out = v.new_empty(*q.shape[:-1], v.shape[-1])
    total = v.new_empty((*q.shape[:-1], 1) if log_sum else (0, 1, 1), dtype=tiles.exact)
    for heads, queries, keys in tiles.slices():
        weights = tiles.scores(heads, queries, keys)
        if log_sum:
            weights, flat(total)[heads, queries] = softmax_and_log_sum(weights)
        else:
            weights = softmax(weights)
        flat(out)[heads, queries] = averages(weights.to(v.dtype), values[heads, keys])
    return out, total


@_forward.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, masked: bool, log_sum: bool):
    dtype = torch.promote_types(q.dtype, torch.float32)
    total = q.new_empty((*q.shape[:-1], 1) if log_sum else (0, 1, 1), dtype=dtype)
    return v.new_empty(*q.shape[:-1], v.shape[-1]), total


@torch.library.custom_op("sympformer::tiled_attention_backward", mutates_args=())
def _backward(
    q: Tensor, k: Tensor, v: Tensor, g: Tensor, shift: Tensor, masked: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of q, k, v for the gradient `g` of the average, as `P ∘ (g·v_j - shift_i)`."""
    tiles, values, g, shift = Tiles(q, k, masked), flat(v), flat(g), flat(shift)
    dq, room = torch.empty_like(tiles.q), tiles.buffer()
    dk, dv = tiles.sums(tiles.k), tiles.sums(values)
    for tile in tiles.slices(backwards=True):
        heads, queries, keys = tile
        weights = softmax(tiles.scores(*tile))
        g_tile = g[heads, queries]
        add_product(dv[heads, :, keys], g_tile, weights.to(g.dtype))
        slopes = product(room, g_tile, values[heads, keys])
        slopes = slopes.sub_(shift[heads, queries]).mul_(weights).to(q.dtype)
        dq[heads, queries] = averages(slopes, tiles.k[heads, keys])
        add_product(dk[heads, :, keys], tiles.q[heads, queries], slopes)
    return dq.view(q.shape), as_rows(dk, k), as_rows(dv, v)


@_backward.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, g: Tensor, shift: Tensor, masked: bool):
    return tuple(t.new_empty(t.shape) for t in (q, k, v))


def _setup_context(ctx, inputs, output) -> None:
    q, k, v, ctx.masked, ctx.log_sum = inputs
    ctx.save_for_backward(q, k, v, output[0])


def _differentiate(ctx, g: Tensor, g_total: Tensor):
    q, k, v, out = ctx.saved_tensors
    if recorded(g, g_total):
        form = partial(naive.attend, causality="prefix" if ctx.masked else "joint")
        gradients = [g, g_total] if ctx.log_sum else [g]
        return *pull_back(form, (q, k, v), gradients), None, None
    exact = torch.promote_types(q.dtype, torch.float32)
    # The gradient h of the log-sum-exp adds P ∘ h to that of the scores.
    shift = (g.to(exact) * out.to(exact)).sum(-1, keepdim=True)
    if ctx.log_sum:
        shift = shift - g_total
    return *_backward(q, k, v, g, shift, ctx.masked), None, None


torch.library.register_autograd(_forward, _differentiate, setup_context=_setup_context)
