"""One evaluation of linear attention, read in momentum form (L), and its metric.

All sums over earlier tokens go through prefix states (`sympformer.attention.prefix_sums`), so that
time and memory are linear in the number of tokens. Heads are a leading axis: `(..., H, n, d)` for
the n newest tokens.
"""

import torch
from torch import Tensor

from sympformer.attention import forms
from sympformer.attention.delta import write_strength
from sympformer.attention.naive import Causality, visible_count
from sympformer.attention.past import NoPast, Past, erase, subtract
from sympformer.attention.prefix_sums import accumulate


class PrefixMeans:
    """Means over the visible tokens with the keys `k`, and the states that carry them on."""

    def __init__(self, k: Tensor, scale: float, causality: Causality, past: Past | None):
        past = NoPast() if past is None else past
        self.k, self.past = erase(k, past.padding, past.length), past
        self.causality: Causality = causality
        n, dtype = k.shape[-2], torch.promote_types(k.dtype, torch.float32)
        count = visible_count(n, past.length + n, causality, k.new_empty(0, dtype=dtype))
        self.share = scale / subtract(count, past.padding)

    def carry(self, name: str, v: Tensor) -> Tensor | None:
        """Add `Σ_j k_j v_jᵀ` of the new tokens to the sum that earlier ones left; return that."""
        before = self.past.recall(name)
        if self.past.keeps:
            self.past.keep(name, accumulate(before, self.k, v))
        return before

    def mean(self, q: Tensor, k: Tensor, v: Tensor, state: Tensor | None) -> Tensor:
        """`(scale/n_i) Σ_j (q_i·k_j) v_j`."""
        return forms.weighted_sum(q, k, v, causality=self.causality, state=state).mul_(self.share)


class LinearField(PrefixMeans):
    """Linear attention at given queries and keys: the kernel is `k_ij = scale · q_i·k_j`."""

    def __init__(
        self,
        q: Tensor,
        k: Tensor,
        *,
        scale: float,
        causality: Causality = "prefix",
        past: Past | None = None,
    ):
        super().__init__(k, scale, causality, past)
        self.q = q
        self._states: list[tuple[Tensor, Tensor | None]] = []

    def attention(self, v: Tensor) -> Tensor:
        """`(1/n_i) Σ_j k_ij v_j`, plain linear attention."""
        return self.mean(self.q, self.k, v, self.carry("values", v))

    def velocity(self, pi: Tensor) -> Tensor:
        """`q_iᵀS_i / n_i` with `S_i = scale · Σ_j k_j π_jᵀ`, maths.md (L); `pi` is `U y`."""
        return self.mean(self.q, self.k, pi, self._state(pi))

    def repulsion(self, pi: Tensor) -> Tensor:
        """`S_i π_i / n_i`, `(scale/n_i) Σ_j (π_i·π_j) k_j`; the query's force has a minus sign."""
        state = self._state(pi)
        return self.mean(pi, pi, self.k, None if state is None else state.mT)

    def weights(self) -> Tensor:
        """`k_ij / n_i`, `(..., H, n, n)`: of `attention` and `velocity`."""
        kernel = self.q @ self.k.mT
        return self.share * (kernel if self.causality == "joint" else kernel.tril())

    def _state(self, pi: Tensor) -> Tensor | None:
        for known, state in self._states:
            if known is pi:  # velocity and force of one momentum read one state
                return state
        state = self.carry(f"momenta{len(self._states)}", pi)
        self._states.append((pi, state))
        return state


class SteinMetric(PrefixMeans):
    """The metric of linear attention, `u_i = (1/n_i) Σ_j k_ij π_j + λ π_i`, and its connection.

    The kernel is that of the keys, `k_ij = scale · k_i·k_j`: positive semi-definite by
    construction, so that with `λ > 0` every velocity has one momentum, and a bounded one
    (docs/linear.md).

    Args:
        k: keys.
        ku: the velocity seen as a key, `W_K u`: `d/dt k_ij = scale · (ku_i·k_j + k_i·ku_j)`.
        u: velocities of the heads.
        scale: factor of the kernel.
        ridge: λ.
        causality: which tokens are summed over.
        past: of earlier tokens.
    """

    def __init__(
        self,
        k: Tensor,
        ku: Tensor,
        u: Tensor,
        *,
        scale: float,
        ridge: float,
        causality: Causality = "prefix",
        past: Past | None = None,
    ):
        super().__init__(k, scale, causality, past)
        past = self.past
        self.ridge = ridge
        self.ku = erase(ku, past.padding, past.length)
        earlier = past.recall("metric")
        self.of_k, self.of_ku = (None, None) if earlier is None else earlier.chunk(2, dim=-2)
        self.pi, self.read = self._momentum(u)
        if past.keeps:
            both = torch.cat([self.k, self.ku], dim=-1)
            past.keep("metric", accumulate(earlier, both, self.pi))

    def repulsion(self) -> Tensor:
        """`(scale/n_i) Σ_j (π_i·π_j) k_j`."""
        return self.mean(self.pi, self.pi, self.k, None if self.of_k is None else self.of_k.mT)

    def connection(self, g: Tensor) -> Tensor:
        """`C_i(u) = (1/n_i) Σ_j (k_ij g_j - k̇_ij π_j) + λ g_i`; `g` is the repulsion, projected.

        With `k̇_ij = scale · (ku_i·k_j + k_i·ku_j)`, whose first part was read as `π` was found.
        """
        inertia = self.mean(self.k, self.k, g, self.carry("inertia", g)) + self.ridge * g
        turned = self.mean(self.k, self.ku, self.pi, self.of_ku)
        return inertia - turned - self.read

    def _momentum(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """`π` of `u`, and `(scale/n_i) Σ_j (ku_i·k_j) π_j`.

        With causal sums tokens see only earlier ones: the system is triangular, and solved by the
        delta rule.
        """
        k, rho, b = self.k, self.ridge / self.share, u / self.share
        if self.causality == "prefix":
            beta = write_strength(k, rho)
            read, pi = forms.delta_rule(self.ku, k, beta, b, state=self.of_k)
            assert read is not None  # it was asked for
            pi = pi.to(k.dtype)
        else:
            pi = forms.solve(k, rho, b, causality="joint").to(k.dtype)
            read = forms.weighted_sum(self.ku, k, pi, causality="joint")
        return pi, (self.share * read).to(k.dtype)
