"""Softmax averages through torch's fused attention: no N×N matrix is kept."""

import torch.nn.functional as F
from torch import Tensor

from sympformer.attention.naive import Causality, visible


def average(
    q: Tensor, k: Tensor, v: Tensor, *, causality: Causality = "prefix", scale: float = 1.0
) -> Tensor:
    """`Σ_j a_ij v_j`, as `naive.average`, for values of any width.

    Values wider than the keys are served by padding queries and keys with zeros, which changes no
    score.
    """
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
        q, k, v, attn_mask=mask, is_causal=masked and whole, scale=scale
    )
    return out[..., :width]
