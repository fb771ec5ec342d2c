"""Two averages over the same weights, the second of values that depend on the first's result.

The accelerated layers attend twice: the momentum form needs every token's `z_j` before it can weigh
`s_j v_j`, and `C(W)` on the proposal `W` needs every token's attention. Under prefix causality
neither has to wait for the whole first pass: row i needs the rows j ≤ i only. Tiles are swept from
the first queries to the last, and each tile's second values are made as soon as its first averages
are there; the backward pass sweeps from the last to the first, where a tile's second values have
got all of their gradient before it arrives at them. So the weights are made once forward and once
backward, as for a single attention.

Multiplications for a query-key pair, heads of width d, first and second values of width e and f:
`d + e + f` forward, `3d + 2(e + f)` backward. In two passes: `2d + e + f` and `6d + 2(e + f)`.
Second derivatives, forward mode and transforms are those of two passes by the formula.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from sympformer.attention import naive
from sympformer.attention.tiled import (
    Tiles,
    add_product,
    as_rows,
    averages,
    flat,
    product,
    softmax,
    softmax_and_log_sum,
)
from sympformer.derivatives import pull_back, recorded
from sympformer.torch_private import transformed

Revalue = Callable[..., Sequence[Tensor]]
"""`revalue(average, log_sum, *rows, *parameters)`, all of some tokens: their second values, and
whatever else of theirs is wanted (it must not look at other tokens). It may have a derivative of
its own, `revalue.backward(inputs, outputs, gradients of the outputs)`, gradients of the inputs;
else it is called again under autograd, as it is for all but first derivatives."""


def sweep(
    revalue: Revalue,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    rows: Sequence[Tensor] = (),
    parameters: Sequence[Tensor] = (),
    *,
    scale: float,
) -> tuple[Tensor, ...]:
    """Average `v`, make the second values of the averages by `revalue`, average those.

    The sums are over j ≤ i.

    Args:
        revalue: makes the second values, tile by tile.
        q: queries `(B, H, n, d)`.
        k: keys `(B, H, n, d)`.
        v: first values `(B, H, n, e)`.
        rows: what `revalue` wants to know of the tokens, each `(B, ..., n, ·)`.
        parameters: what else it depends on with a gradient.
        scale: factor of the scores.

    Returns:
        The average of `v`, `(B, H, n, e)`; the log-sum-exp, `(B, H, n, 1)`; the average of the
        second values; these themselves; the other results of `revalue`.
    """
    q, v = q * scale, v.to(q.dtype)
    if transformed(q, k, v, *rows, *parameters):
        return _two_passes(revalue, q, k, v, *rows, *parameters)
    return _Sweep.apply(revalue, len(rows), q.contiguous(), k, v, *rows, *parameters)


def _two_passes(revalue: Revalue, q: Tensor, k: Tensor, v: Tensor, *others: Tensor):
    """What a sweep gives, by the formulas."""
    average, log_sum = naive.attend(q, k, v)
    second, *extras = revalue(average, log_sum, *others)
    second = second.to(v.dtype)
    return average, log_sum, naive.average(q, k, second), second, *extras


class _Sweep(torch.autograd.Function):
    @staticmethod
    def forward(ctx, revalue: Revalue, n_rows: int, q, k, v, *others: Tensor):  # pyright: ignore[reportIncompatibleMethodOverride]
        rows, parameters = others[:n_rows], others[n_rows:]
        tiles = Tiles(q, k, True, group=q.shape[1])
        average = v.new_empty(v.shape)
        log_sum = v.new_empty(*v.shape[:-1], 1, dtype=tiles.exact)
        values, second, out, extras = flat(v), v, v, []
        for tile in tiles.slices():
            heads, queries, keys = tile
            here = _tokens(heads, queries, q.shape[1])
            parts = []
            for part in tiles.parts(heads):
                weights, flat(log_sum)[part, queries] = softmax_and_log_sum(
                    tiles.scores(part, queries, keys)
                )
                weights = weights.to(v.dtype)
                flat(average)[part, queries] = averages(weights, values[part, keys])
                parts.append((part, weights))
            made = revalue(average[here], log_sum[here], *(t[here] for t in rows), *parameters)
            if second is v:  # only now are the shapes known
                second, out = (v.new_empty(*v.shape[:-1], made[0].shape[-1]) for _ in range(2))
                extras = [_whole(part, q) for part in made[1:]]
            for whole, part in zip([second, *extras], made, strict=True):
                whole[here] = part
            for part, weights in parts:
                flat(out)[part, queries] = averages(weights, flat(second)[part, keys])
        ctx.save_for_backward(q, k, v, average, log_sum, second, out, *extras, *others)
        ctx.revalue, ctx.n_rows, ctx.n_extras = revalue, n_rows, len(extras)
        ctx.autocast = _autocast(q.device.type)
        ctx.set_materialize_grads(False)
        return average, log_sum, out, second, *extras

    @staticmethod
    def backward(ctx, g_average, g_log_sum, g_out, g_second, *g_extras: Tensor | None):  # pyright: ignore[reportIncompatibleMethodOverride]
        q, k, v, average, log_sum, second, out, *others = ctx.saved_tensors
        extras, others = others[: ctx.n_extras], others[ctx.n_extras :]
        given = g_average, g_log_sum, g_out, g_second, *g_extras
        if recorded(*given):
            with torch.autocast(q.device.type, **ctx.autocast):
                form = partial(_two_passes, ctx.revalue)
                return None, None, *pull_back(form, (q, k, v, *others), given)
        rows, parameters = others[: ctx.n_rows], others[ctx.n_rows :]
        needed = [True, True, *ctx.needs_input_grad[5:]]
        tiles = Tiles(q, k, True, group=q.shape[1])
        dq, room = torch.empty_like(tiles.q), tiles.buffer()
        values = torch.cat([flat(second), flat(v)], dim=-1)
        dk, dv, d_second = (tiles.sums(flat(t)) for t in (k, v, second))
        d_others = [
            torch.zeros_like(t) if n else None for t, n in zip(others, needed[2:], strict=True)
        ]
        g_average, g_log_sum, g_out = (
            torch.zeros_like(t) if g is None else g
            for t, g in zip((average, log_sum, out), (g_average, g_log_sum, g_out), strict=True)
        )
        if g_second is not None:
            d_second += flat(g_second).mT
        g_out = flat(g_out)
        derivative = getattr(ctx.revalue, "backward", partial(_derivative, ctx.revalue, needed))
        for tile in tiles.slices(backwards=True):
            heads, queries, keys = tile
            here = _tokens(heads, queries, q.shape[1])
            parts = []
            for part in tiles.parts(heads):
                weights = softmax(tiles.scores(part, queries, keys))
                low = weights.to(v.dtype)
                add_product(d_second[part, :, keys], g_out[part, queries], low)
                parts.append((part, weights, low))
            # No later tile reads these tokens' second values: their gradient is complete.
            inputs = [average[here], log_sum[here], *(t[here] for t in rows), *parameters]
            outputs = [second[here], *(t[here] for t in extras)]
            incoming = [
                as_rows(d_second[heads, :, queries], outputs[0]),
                *(g if g is None else g[here] for g in g_extras),
            ]
            with torch.autocast(q.device.type, **ctx.autocast):
                h_average, h_log_sum, *h_others = derivative(inputs, outputs, incoming)
            for i, (whole, part) in enumerate(zip(d_others, h_others, strict=True)):
                if whole is not None and part is not None:
                    (whole[here] if i < ctx.n_rows else whole).add_(part)
            g = g_average[here] if h_average is None else g_average[here] + h_average
            g = flat(g.to(v.dtype))
            h = g_log_sum[here] if h_log_sum is None else g_log_sum[here] + h_log_sum
            both = torch.cat([g_out[heads, queries], g], dim=-1)
            means = torch.cat([flat(out)[heads, queries], flat(average)[heads, queries]], dim=-1)
            shift = (both * means).sum(-1, keepdim=True, dtype=tiles.exact) - flat(h)
            for part, weights, low in parts:
                now = slice(part.start - heads.start, part.stop - heads.start)
                add_product(dv[part, :, keys], g[now], low)
                slopes = product(room, both[now], values[part, keys])
                slopes = slopes.sub_(shift[now]).mul_(weights).to(q.dtype)
                dq[part, queries] = averages(slopes, tiles.k[part, keys])
                add_product(dk[part, :, keys], tiles.q[part, queries], slopes)
        gradients = dq.view(q.shape), as_rows(dk, k), as_rows(dv, v)
        return None, None, *gradients, *d_others


def _tokens(heads: slice, queries: slice, group: int) -> tuple:
    """Where the tokens of a tile are in a tensor `(B, ..., n, ·)`."""
    return slice(heads.start // group, heads.stop // group), ..., queries, slice(None)


def _whole(part: Tensor, q: Tensor) -> Tensor:
    """Room for all tokens' results, of which `part` is that of some."""
    return part.new_empty(q.shape[0], *part.shape[1:-2], q.shape[-2], part.shape[-1])


def _autocast(device: str) -> dict[str, Any]:
    """The state of autocast, as its own arguments: the backward pass repeats it."""
    enabled = torch.is_autocast_enabled(device)
    return {"enabled": enabled, "dtype": torch.get_autocast_dtype(device)}


def _derivative(
    revalue: Revalue,
    needed: Sequence[bool],
    inputs: Sequence[Tensor],
    _: Sequence[Tensor],
    incoming: Sequence[Tensor | None],
) -> list[Tensor | None]:
    """What reaches each of the inputs, by autograd; None where nothing does."""
    inputs = [t.detach().requires_grad_(n) for t, n in zip(inputs, needed, strict=True)]
    return pull_back(revalue, inputs, incoming)
