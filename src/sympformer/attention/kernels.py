"""Softmax averages and their log-sum-exp in Triton kernels: no n×N matrix is kept, on a GPU.

The kernels (`triton_code`) stream over blocks of keys, forward and backward, with values of any
width in one pass over the scores. Kept for the backward pass: q, k, v, the average and two numbers
a query. Nothing is added atomically: results and gradients are the same in every run.

Checked in Triton's interpreter on a CPU only (`TRITON_INTERPRET=1`; Triton 3.7 and 3.9), and
compiled, not run, for NVIDIA GPUs of compute capability 8.0 to 12.0: neither correctness nor speed
has been measured on a GPU yet.

Importing this module raises ImportError where the package `triton` is not installed.
"""

from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from sympformer.attention import naive, triton_code
from sympformer.attention.naive import Causality
from sympformer.derivatives import pull_back, recorded
from sympformer.errors import InputError
from sympformer.torch_private import transformed

WIDEST_KEY, WIDEST_VALUE = 256, 512
"""Columns for which the blocks below fit a GPU of compute capability 8.0 or 9.0; those of less
shared memory take keys of up to 128 columns."""


def attend(
    q: Tensor, k: Tensor, v: Tensor, *, causality: Causality = "prefix", scale: float = 1.0
) -> tuple[Tensor, Tensor]:
    """`naive.average` and `naive.log_sum_exp` in one pass.

    Second derivatives, forward mode and transforms are those of the plain formula.

    Args:
        q: queries `(..., n, d)`, the last n of the N tokens; d at most 256.
        k: keys `(..., N, d)` in the dtype of `q`.
        v: values `(..., N, e)`, e at most 512; they are averaged in the dtype of `q`.
        causality: which keys a query sees.
        scale: factor of the scores.

    Returns:
        The average `(..., n, e)` in the dtype of `v`, and the log-sum-exp `(..., n, 1)` in float32
        or better.

    Raises:
        InputError: the kernels do not serve such a shape or dtype.
    """
    _check(q, k, v, causality)
    if transformed(q, k, v):
        out, log_sum = naive.attend(q, k, v, causality=causality, scale=scale)
        return out, log_sum.expand(*out.shape[:-1], 1)
    if scale <= 0:  # the kernels take the maximum of the products before they are scaled
        q, scale = q * (0.0 if scale == 0 else -1.0), -scale or 1.0
    batch = torch.broadcast_shapes(q.shape[:-2], k.shape[:-2], v.shape[:-2])
    q_, k_, v_ = (_with_heads(t.expand(*batch, *t.shape[-2:])) for t in (q, k, v.to(q.dtype)))
    out, log_sum, _, _ = _forward(q_, k_, v_, causality == "prefix", scale)
    out = out.reshape(*batch, *out.shape[-2:]).to(v.dtype)
    return out, log_sum.reshape(*out.shape[:-1], 1)


def average(
    q: Tensor, k: Tensor, v: Tensor, *, causality: Causality = "prefix", scale: float = 1.0
) -> Tensor:
    """`naive.average`, as `attend`."""
    return attend(q, k, v, causality=causality, scale=scale)[0]


def _check(q: Tensor, k: Tensor, v: Tensor, causality: Causality) -> None:
    (n, d), (n_key, e) = q.shape[-2:], v.shape[-2:]
    if d > WIDEST_KEY or e > WIDEST_VALUE:
        raise InputError(
            f"keys of width {d} with values of width {e}: the Triton form takes at most "
            f"{WIDEST_KEY} and {WIDEST_VALUE}; choose another attention form"
        )
    if q.dtype != k.dtype:
        raise InputError(f"queries are {q.dtype} and keys {k.dtype}: give both one dtype")
    if causality == "prefix" and n > n_key:
        raise InputError(f"{n} queries cannot be the last of {n_key} tokens: pass the keys of all")


def _with_heads(t: Tensor) -> Tensor:
    """`(batch, heads, rows, columns)`, without a copy for the layouts that models use."""
    t = t[(None,) * (4 - t.ndim)] if t.ndim < 4 else t.flatten(0, -4)
    return t if t.stride(-1) == 1 else t.contiguous()


class Blocks(NamedTuple):
    """How the work of a kernel is cut up."""

    rows: int
    """Queries of a block."""
    keys: int
    """Keys of a block."""
    stages: int
    """Blocks loaded ahead, and one."""


WARPS = 8
BLOCKS = {
    triton_code.forward: (Blocks(128, 64, 2), Blocks(64, 32, 2)),
    triton_code.backward_queries: (Blocks(128, 64, 2), Blocks(64, 32, 1)),
    triton_code.backward_keys: (Blocks(32, 128, 2), Blocks(32, 32, 2)),
}
"""By kernel, for numbers of 16 bits: keys and values of at most 256 columns together, and more."""


def blocks(kernel, width: int, itemsize: int) -> Blocks:
    """Sizes for `width` columns of keys and values together, of `itemsize` bytes a number.

    In 16 bits, the largest tried for which the compiler keeps the accumulators in registers and
    needs at most the 99 KiB of shared memory of a small GPU, or 128 KiB where there are 227. In
    full precision, whose products take many registers, smaller ones. Not tuned on hardware.
    """
    if itemsize > 2:
        side = 32 if width <= 128 else 16
        return Blocks(side, side, 1)
    narrow, wide = BLOCKS[kernel]
    return narrow if width <= 256 else wide


def _columns(d: int, e: int) -> tuple[int, int]:
    """Columns of a block of keys, and of each block of values (at most four)."""
    keys = max(16, _power_of_two(d))
    # Values are often several tensors of the keys' width, side by side.
    return keys, max(min(keys, 128), _power_of_two(-(-e // 4)))


def _power_of_two(n: int) -> int:
    """The next one."""
    return 1 << (n - 1).bit_length()


def _launch(kernel, tensors: tuple[Tensor, ...], q: Tensor, k: Tensor, v: Tensor, causal, scale):
    """Run a kernel on `tensors`; those of four dimensions pass their strides too."""
    d, e = q.shape[-1], v.shape[-1]
    block_d, block_e = _columns(d, e)
    cut = blocks(kernel, block_d + -(-e // block_e) * block_e, q.element_size())
    over_keys = kernel is triton_code.backward_keys
    count = -(-k.shape[-2] // cut.keys) if over_keys else -(-q.shape[-2] // cut.rows)
    grid = (count * q.shape[0] * q.shape[1],)
    if not grid[0]:
        return
    with torch.cuda.device_of(q):
        kernel[grid](
            *tensors,
            *(t.stride()[:3] for t in tensors if t.ndim == 4),
            q.shape[1],
            q.shape[-2],
            k.shape[-2],
            SCALE=scale,
            CAUSAL=causal,
            D=d,
            E=e,
            ROWS=cut.rows,
            KEYS=cut.keys,
            BLOCK_D=block_d,
            BLOCK_E=block_e,
            num_warps=WARPS,
            num_stages=cut.stages,
            enable_fp_fusion=True,  # a default that depends on Triton's version
        )


@torch.library.custom_op("sympformer::triton_attention", mutates_args=())
def _forward(
    q: Tensor, k: Tensor, v: Tensor, causal: bool, scale: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The average; of each row the log-sum-exp, the maximum, and one over the sum."""
    results = _results(q, v)
    _launch(triton_code.forward, (q, k, v, *results), q, k, v, causal, scale)
    return results


def _results(q: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    exact = torch.promote_types(q.dtype, torch.float32)
    a, b, c = (q.new_empty(q.shape[:-1], dtype=exact) for _ in range(3))
    return v.new_empty(*q.shape[:-1], v.shape[-1]), a, b, c


@_forward.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, causal: bool, scale: float):
    return _results(q, v)


@torch.library.custom_op("sympformer::triton_attention_backward", mutates_args=())
def _backward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    g: Tensor,
    h: Tensor,
    top: Tensor,
    inverse: Tensor,
    causal: bool,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of q, k, v for those of the average, `g`, and of the log-sum-exp, `h`."""
    g, h, delta = _with_heads(g), h.contiguous(), torch.empty_like(top)
    dq, dk, dv = (t.new_empty(t.shape) for t in (q, k, v))
    of_queries = (q, k, v, out, g, h, top, inverse, delta, dq)
    of_keys = (q, k, v, g, top, inverse, delta, dk, dv)
    _launch(triton_code.backward_queries, of_queries, q, k, v, causal, scale)
    _launch(triton_code.backward_keys, of_keys, q, k, v, causal, scale)
    return dq, dk, dv


@_backward.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, *_):
    return tuple(t.new_empty(t.shape) for t in (q, k, v))


def _setup_context(ctx, inputs, output) -> None:
    q, k, v, ctx.causal, ctx.scale = inputs
    out, _, top, inverse = output
    ctx.save_for_backward(q, k, v, out, top, inverse)


def _differentiate(ctx, g: Tensor, h: Tensor, *_):
    q, k, v, out, top, inverse = ctx.saved_tensors
    if recorded(g, h):
        options = {"causality": "prefix" if ctx.causal else "joint", "scale": ctx.scale}
        form = partial(naive.attend, **options)
        return *pull_back(form, (q, k, v), (g, h.unsqueeze(-1))), None, None
    return *_backward(q, k, v, out, g, h, top, inverse, ctx.causal, ctx.scale), None, None


_forward.register_autograd(_differentiate, setup_context=_setup_context)
