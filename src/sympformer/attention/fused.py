"""Softmax averages through torch's fused attention: no N×N matrix is kept."""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from sympformer.attention import naive
from sympformer.attention.naive import Causality, visible


def average(
    q: Tensor, k: Tensor, v: Tensor, *, causality: Causality = "prefix", scale: float = 1.0
) -> Tensor:
    """`Σ_j a_ij v_j`, as `naive.average`, for values of any width.

    Values wider than the keys are served by padding queries and keys with zeros, which changes no
    score.
    """
    n, width = q.shape[-2], v.shape[-1]
    q, k, v = _one_width(q, k, v)
    masked = causality == "prefix" and n > 1
    # torch aligns its own causal mask with the first key, cached decoding with the last.
    whole = n == k.shape[-2]
    mask = visible(n, k.shape[-2], q.device) if masked and not whole else None
    out = F.scaled_dot_product_attention(
        q, k, v, attn_mask=mask, is_causal=masked and whole, scale=scale
    )
    return out[..., :width]


def average_and_log_sum_exp(
    q: Tensor, k: Tensor, v: Tensor, *, causality: Causality = "prefix", scale: float = 1.0
) -> tuple[Tensor, Tensor]:
    """`naive.average` and `naive.log_sum_exp` in one pass where the processor's kernel gives both.

    Elsewhere (other devices; several queries that continue a longer prefix) the average is fused
    and the log-sum-exp naive.
    """
    masked = causality == "prefix" and q.shape[-2] > 1
    if q.device.type != "cpu" or q.ndim < 3 or (masked and q.shape[-2] != k.shape[-2]):
        log_sum = naive.log_sum_exp(q, k, causality=causality, scale=scale)
        return average(q, k, v, causality=causality, scale=scale), log_sum
    width, batch = v.shape[-1], q.shape[:-2]
    # The kernel wants exactly two leading dimensions.
    q, k, v = (t.reshape(1, -1, *t.shape[-2:]) for t in _one_width(q, k, v))
    out, log_sum = _FlashCPU.apply(q, k, v, masked, scale)
    return out.reshape(*batch, *out.shape[-2:])[..., :width], log_sum.reshape(*batch, -1, 1)


def _one_width(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Pad with zeros to the width of the widest."""
    missing = v.shape[-1] - q.shape[-1]
    if missing > 0:
        q, k = F.pad(q, (0, missing)), F.pad(k, (0, missing))
    elif missing < 0:
        v = F.pad(v, (0, -missing))
    return q, k, v


class _FlashCPU(torch.autograd.Function):
    """Torch's fused attention on the CPU, its log-sum-exp made differentiable.

    The fused backward pass forms the gradient of the scores as `P ∘ (g·v_j - δ_i)`, with
    `δ_i = g·out_i` over the columns that it is given. The log-sum-exp, with gradient `h`, adds
    `P ∘ h_i`. One more column, in which `g` is 1, the values 0 and `out` is `-h`, turns `δ` into
    `δ - h`: the same pass then gives both gradients.
    """

    @staticmethod
    def forward(ctx: FunctionCtx, q: Tensor, k: Tensor, v: Tensor, causal: bool, scale: float):  # pyright: ignore[reportIncompatibleMethodOverride]
        flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
        out, log_sum = flash(q, k, v, 0.0, causal, scale=scale)
        ctx.save_for_backward(q, k, v, out, log_sum)
        ctx.causal, ctx.scale = causal, scale  # pyright: ignore[reportAttributeAccessIssue]
        return out, log_sum

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor, grad_log_sum: Tensor):  # pyright: ignore[reportIncompatibleMethodOverride]
        q, k, v, out, log_sum = ctx.saved_tensors
        width = q.shape[-1]
        q, k, v = (F.pad(t, (0, 1)) for t in (q, k, v))
        out = torch.cat([out, -grad_log_sum.unsqueeze(-1).to(out.dtype)], dim=-1)
        grad = F.pad(grad, (0, 1), value=1.0)
        backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
        gradients = backward(grad, q, k, v, out, log_sum, 0.0, ctx.causal, scale=ctx.scale)
        return *(g[..., :width] for g in gradients), None, None
