"""Softmax averages through torch's fused attention: no N×N matrix is kept."""

from functools import partial

import torch.nn.functional as F
from torch import Tensor

from sympformer.attention import naive
from sympformer.attention.naive import Causality, visible
from sympformer.derivatives import differentiable


def average(
    q: Tensor, k: Tensor, v: Tensor, *, causality: Causality = "prefix", scale: float = 1.0
) -> Tensor:
    """`Σ_j a_ij v_j`, as `naive.average`, for values of any width.

    Values wider than the keys are served by padding queries and keys with zeros, which changes no
    score. torch's operation has first derivatives only; all others are those of `naive.average`.
    """
    options = {"causality": causality, "scale": scale}
    fast, plain = (partial(form, **options) for form in (_average, naive.average))
    return differentiable(fast, plain, q, k, v)


def _average(q: Tensor, k: Tensor, v: Tensor, causality: Causality, scale: float) -> Tensor:
    n, width = q.shape[-2], v.shape[-1]
    if (missing := width - q.shape[-1]) > 0:
        q, k = F.pad(q, (0, missing)), F.pad(k, (0, missing))
    else:
        v = F.pad(v, (0, -missing))
    masked = causality == "prefix" and n > 1
    # torch aligns its own causal mask with the first key, cached decoding with the last.
    whole = n == k.shape[-2]
    mask = visible(n, k.shape[-2], q.device) if masked and not whole else None
    out = F.scaled_dot_product_attention(
        q, k, v, attn_mask=mask, is_causal=bool(masked and whole), scale=scale
    )
    return out[..., :width]
