"""One evaluation of softmax attention, read in momentum form (S') or in velocity form (U)."""

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from sympformer.attention import forms, naive
from sympformer.attention.naive import Causality
from sympformer.attention.past import NoPast, Past, hide, subtract
from sympformer.attention.sweep import Revalue, sweep

Normalizer = Literal["prefix", "length"]


class SoftmaxField:
    """Softmax attention at given queries, keys and values: the kernel is evaluated once.

    Heads are a leading axis: every argument is `(B, H, n, d)` for the n newest tokens, and all
    values are per head. `normalizer="prefix"` divides `z_i` by the number of tokens that i sees,
    `"length"` by the number of tokens there are (as published; a longer context then changes
    earlier tokens). Without values there is a velocity, and no attention and no force.
    """

    def __init__(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor | None,
        *,
        scale: float,
        causality: Causality = "prefix",
        normalizer: Normalizer = "prefix",
        past: Past | None = None,
    ):
        past = NoPast() if past is None else past
        self.new_k, self._new_v = k, v
        q, k = hide(q, k, scale, past.padding, past.length)
        self.q, self.k = q, past.extend("key", k)
        self.scale, self.past = scale, past
        self.causality: Causality = causality
        self.normalizer: Normalizer = normalizer
        self._values: Tensor | None = None
        self._attention: Tensor | None = None
        self._log_z: Tensor | None = None
        self._weighted: tuple[Tensor, Tensor] | None = None
        self._row: tuple[Tensor, Tensor] | None = None
        self._momenta: list[Tensor] = []

    @property
    def new_v(self) -> Tensor:
        """`v_j` of the newest tokens."""
        assert self._new_v is not None, "a field without values has neither attention nor force"
        return self._new_v

    @property
    def attention(self) -> Tensor:
        """`Σ_j a_ij v_j`, plain attention."""
        if self._attention is None:
            self._attention = self._average(self.values)
        return self._attention

    @property
    def values(self) -> Tensor:
        """`v_j` of all tokens."""
        if self._values is None:
            self._values = self.past.extend("value", self.new_v)
        return self._values

    def velocity(self, pi: Tensor) -> Tensor:
        """`π_i / z_i`, the velocity of each head; `pi` is the projected momentum `U p`."""
        return (pi * (-self._log_mobility(pi)).exp()).to(pi.dtype)

    def force(self, pi: Tensor) -> Tensor:
        """`z_i Σ_j a_ij (1 + (s_i + s_j)/2) v_j` with `s_i = |π_i/z_i|²`, maths.md (S')."""
        log_z = self._log_mobility(pi)
        s = _speed(pi, log_z)
        all_s = self.past.extend(f"speed{self._count(pi)}", s)
        if self._weighted is not None and self._weighted[0] is pi:
            weighted = self._weighted[1]
        else:
            weighted = self._average(self.values, all_s)
        # Written as two products with one number a token: nothing else need be kept for backward.
        half_z = log_z.exp() / 2
        force = (half_z * (2 + s)) * self.attention + half_z * weighted
        return force.to(self.new_v.dtype)

    def _log_mobility(self, pi: Tensor) -> Tensor:
        """`log z_i`, `(B, H, n, 1)`; what else comes from the same pass is kept."""
        if self._log_z is not None:
            return self._log_z
        n, log_count = self.q.shape[-2], self._log_count()
        if self._new_v is None:
            _, log_sum = self._attend(self.k[..., :1])
        elif self.sweeps:

            def revalue(_: Tensor, log_sum: Tensor, pi: Tensor, v: Tensor, log_count: Tensor):
                return (_speed(pi, _bounded(log_sum - log_count)) * v,)

            rows = pi, self.new_v, log_count.expand(len(pi), 1, n, 1)
            log_sum, weighted, _ = self.sweep(revalue, rows)
            self._weighted = pi, weighted
        else:
            self._attention, log_sum = self._attend(self.values)
        self._log_z = _bounded(log_sum - log_count)
        return self._log_z

    def _log_count(self) -> Tensor:
        """`log n_i`, of the tokens that z averages over."""
        n, n_key = self.q.shape[-2], self.k.shape[-2]
        counted = self.causality if self.normalizer == "prefix" else "joint"
        exact = torch.promote_types(self.q.dtype, torch.float32)
        count = naive.visible_count(n, n_key, counted, self.q.new_empty(0, dtype=exact))
        return subtract(count, self.past.padding).log()

    def weights(self) -> Tensor:
        """`a_ij`, `(B, H, n, N)`: of the heads' averages, `Σ_j a_ij v_j`."""
        return naive.scores(self.q, self.k, self.causality, self.scale).softmax(-1)

    def energy(self) -> Tensor:
        """`-½ Σ_h z_i^h`, `(B, n)`, maths.md 2; z is not bounded here."""
        options: dict[str, Any] = {"causality": self.causality, "scale": self.scale}
        log_z = naive.log_sum_exp(self.q, self.k, **options) - self._log_count()
        return -log_z.exp().sum((-3, -1)) / 2

    def connection(self, qu: Tensor, ku: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
        """The two parts of `C(u)`, maths.md (U), in one pass over the scores.

        Args:
            qu: the velocity seen as a query, `W_Q u`.
            ku: the velocity seen as a key, `W_K u`.
            s: `uᵀB⁻¹u`, `(B, 1, n, 1)`, one for all heads.

        Returns:
            `c_i`, the rate of change of `log z_i` along the motion, `(B, H, n, 1)`, and
            `-½ (s_i Att_i + Σ_j a_ij s_j v_j)`, so that `C = c u + (the second, projected)`.
        """
        d, e = self.new_k.shape[-1], self.new_v.shape[-1]
        k, v = self.k[..., :d], self.values
        ku, all_s = self.remember(ku, s)
        if self.q.shape[-2] == 1:
            # The weights are there already: what earlier tokens left need not be put side by side.
            means = self._average(k), self._average(ku), self._average(v, all_s / -2)
            return self.contract(means, qu, s)
        values, widths = connection_values(k, v, ku, all_s), [d, d, e]
        if self._attention is not None:
            return self.contract(self._average(values).split(widths, dim=-1), qu, s)
        wide = self._average(torch.cat([values, v], dim=-1))
        *means, self._attention = wide.split([*widths, e], dim=-1)
        return self.contract(means, qu, s)

    def remember(self, ku: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
        """Leave for later tokens what a connection needs of these; return that of all tokens."""
        return self.past.extend("turning", ku), self.past.extend("speed", s)

    def contract(self, means: Sequence[Tensor], qu: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
        """What `connection` returns, of the averages of the three `connection_values`."""
        k_mean, ku_mean, weighted = means
        q = self.q[..., : qu.shape[-1]]
        c = self.scale * torch.addcmul(qu * k_mean, q, ku_mean).sum(-1, keepdim=True)
        return c, torch.addcmul(weighted, s / -2, self.attention)

    @property
    def sweeps(self) -> bool:
        """Whether attention and what follows from it can be had in one sweep."""
        whole = self.causality == "prefix" and self.past.length == 0 and self.past.padding is None
        return whole and forms.sweeps(self.q, self.new_v)

    def sweep(self, revalue: Revalue, rows: Sequence[Tensor], parameters: Sequence[Tensor] = ()):
        """Evaluate attention and average the values that `revalue` makes of it (see `sweep`).

        Returns:
            The log-sum-exp; the average of those values; these; the other results of `revalue`.
        """
        self._attention, *others = sweep(
            revalue, self.q, self.k, self.values, rows, parameters, scale=self.scale
        )
        return others

    def _count(self, pi: Tensor) -> int:
        """Which of the momenta that forces were asked for this one is: each has its own speeds."""
        seen = [p is pi for p in self._momenta]
        if not any(seen):
            self._momenta.append(pi)
        return seen.index(True) if any(seen) else len(seen)

    def _average(self, values: Tensor, s: Tensor | None = None) -> Tensor:
        """`Σ_j a_ij values_j`, or `Σ_j a_ij s_j values_j`."""
        if self.q.shape[-2] == 1:
            weights = self._weights() if s is None else self._weights() * s.mT
            return weights.to(values.dtype) @ values
        if s is not None:
            values = (s * values).to(self.k.dtype)
        return forms.average(self.q, self.k, values, causality=self.causality, scale=self.scale)

    def _attend(self, values: Tensor) -> tuple[Tensor, Tensor]:
        if self.q.shape[-2] == 1:
            return self._average(values), self._weights(False).logsumexp(-1, keepdim=True)
        return forms.attend(self.q, self.k, values, causality=self.causality, scale=self.scale)

    def _weights(self, softmax: bool = True) -> Tensor:
        """A single token's weights, kept for every average of it; its scores if not softmax."""
        if self._row is None:
            scores = naive.scores(self.q, self.k, self.causality, self.scale)
            self._row = scores, scores.softmax(-1)
        return self._row[softmax]


def connection_values(k: Tensor, v: Tensor, ku: Tensor, s: Tensor) -> Tensor:
    """What the connection averages: `k_j`, `W_K u_j` and `-½ s_j v_j`, side by side."""
    return torch.cat([k, ku, (s / -2) * v], dim=-1)


def speed(u: Tensor) -> Tensor:
    """`|u|²`, `(B, 1, n, 1)`: one for all heads."""
    return u.square().sum(-1, keepdim=True).unsqueeze(-3)


def _bounded(log_z: Tensor) -> Tensor:
    """The mobility enters up to the eighth power (s_j v_j squared by a LayerNorm): it is bounded
    there, so that scores of any size stay finite. In float32 this is |log z| ≤ 11.
    """
    bound = math.log(torch.finfo(log_z.dtype).max) / 8
    return log_z.clamp(-bound, bound)


def _speed(pi: Tensor, log_z: Tensor) -> Tensor:
    """`s_i = |π_i / z_i|²`."""
    return pi.square().sum(-1, keepdim=True) * (-2 * log_z).exp()
