"""One evaluation of softmax attention, read in momentum form (S') or in velocity form (U)."""

import math
from typing import Literal, Protocol

import torch
from torch import Tensor

from sympformer.attention import forms, naive, padding
from sympformer.attention.naive import Causality

Normalizer = Literal["prefix", "length"]


class Past(Protocol):
    """What an evaluation remembers of earlier tokens (see `sympformer.model.cache`)."""

    length: int
    """Number of earlier tokens."""
    padding: Tensor | None
    """Number of padding tokens on the left of each row, `(B,)`, or None."""
    keeps: bool
    """Whether what is left for later tokens will be used; in training it is not."""

    def recall(self) -> Tensor | None:
        """What earlier tokens left here, or None if there are none; `keep` must follow."""
        ...

    def keep(self, value: Tensor) -> None:
        """Leave `value` for later tokens, in place of what was recalled."""
        ...

    def extend(self, new: Tensor) -> Tensor:
        """Append `new` to what earlier tokens left along the token axis; return the whole."""
        ...


class SoftmaxField:
    """Softmax attention at given queries, keys and values: the kernel is evaluated once.

    Heads are a leading axis: every argument is `(..., H, n, d)` for the n newest tokens, and all
    values are per head. `normalizer="prefix"` divides `z_i` by the number of tokens that i sees,
    `"length"` by the number of tokens there are (as published; a longer context then changes
    earlier tokens).
    """

    def __init__(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        *,
        scale: float,
        causality: Causality = "prefix",
        normalizer: Normalizer = "prefix",
        past: Past,
    ):
        self._newest = k, v
        q, k = padding.hide(q, k, scale, past.padding, past.length)
        self.q, self.k, self.v = q, past.extend(k), past.extend(v)
        self.scale, self.past = scale, past
        self.causality: Causality = causality
        self.normalizer: Normalizer = normalizer
        self._attention: Tensor | None = None
        self._log_z: Tensor | None = None

    @property
    def attention(self) -> Tensor:
        """`Σ_j a_ij v_j`, plain attention."""
        if self._attention is None:
            self._attention = self._average(self.v)
        return self._attention

    def _average(self, values: Tensor) -> Tensor:
        return forms.average(self.q, self.k, values, causality=self.causality, scale=self.scale)

    def _log_mobility(self) -> Tensor:
        """`log z_i`, bounded, `(..., H, n, 1)`; plain attention comes from the same pass."""
        if self._log_z is None:
            self._attention, log_sum = forms.attend(
                self.q, self.k, self.v, causality=self.causality, scale=self.scale
            )
            n, n_key = self.q.shape[-2], self.k.shape[-2]
            counted = self.causality if self.normalizer == "prefix" else "joint"
            count = naive.visible_count(n, n_key, counted, log_sum)
            log_z = log_sum - padding.subtract(count, self.past.padding).log()
            # z enters up to the eighth power (s_j v_j squared by a LayerNorm): the mobility is
            # bounded there, so that scores of any size stay finite: |log z| ≤ 11 in float32.
            bound = math.log(torch.finfo(log_z.dtype).max) / 8
            self._log_z = log_z.clamp(-bound, bound)
        return self._log_z

    def velocity(self, pi: Tensor) -> Tensor:
        """`π_i / z_i`, the velocity of each head; `pi` is the projected momentum `U p`."""
        return pi * (-self._log_mobility()).exp()

    def force(self, pi: Tensor) -> Tensor:
        """`z_i Σ_j a_ij (1 + (s_i + s_j)/2) v_j` with `s_i = |π_i/z_i|²`, maths.md (S')."""
        log_z = self._log_mobility()
        s = self.velocity(pi).square().sum(-1, keepdim=True)
        weighted = self._average(self.past.extend((s * self._newest[1]).to(self.v.dtype)))
        return log_z.exp() * (self.attention + (s * self.attention + weighted) / 2)

    def connection(self, qu: Tensor, ku: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
        """The two parts of `C(u)`, maths.md (U), in one pass over the scores.

        Args:
            qu: the velocity seen as a query, `W_Q u`.
            ku: the velocity seen as a key, `W_K u`.
            s: `uᵀB⁻¹u`, `(..., 1, n, 1)`, one for all heads.

        Returns:
            `c_i`, the rate of change of `log z_i` along the motion, `(..., H, n, 1)`, and
            `½ (s_i Att_i + Σ_j a_ij s_j v_j)`, so that `C = c u - (the second, projected)`.
        """
        k, v = self._newest
        d, e = k.shape[-1], v.shape[-1]
        values = self.past.extend(torch.cat([k, ku, s * v], dim=-1))
        k_mean, ku_mean, weighted = self._average(values).split([d, d, e], dim=-1)
        c = self.scale * (qu * k_mean + self.q[..., :d] * ku_mean).sum(-1, keepdim=True)
        return c, (s * self.attention + weighted) / 2
