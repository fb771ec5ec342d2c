"""One evaluation of linear attention, read in momentum form (L), and its metric.

All sums over earlier tokens go through prefix states: `Σ_{j≤i} k_j v_jᵀ` is one d×e matrix,
however many tokens it sums. The forms of a weighted sum, `masked` and `recurrent`, share one
signature. Heads are a leading axis: `(..., H, n, d)` for the n newest tokens.
"""

import torch
from torch import Tensor

from sympformer.attention import padding
from sympformer.attention.naive import Causality, visible_count
from sympformer.attention.softmax import Past


def masked(
    q: Tensor, k: Tensor, v: Tensor, *, causality: Causality = "prefix", state: Tensor | None = None
) -> Tensor:
    """`Σ_j (q_i·k_j) v_j` over the visible tokens, through one n×n product.

    Args:
        q: queries `(..., n, d)`.
        k: keys `(..., n, d)` of the same tokens.
        v: values `(..., n, e)`, of any width.
        causality: "prefix" sums over j ≤ i, "joint" over all.
        state: what earlier tokens left, `Σ_j k_j v_jᵀ`, `(..., d, e)`.

    Returns:
        `(..., n, e)`.
    """
    product = q @ k.mT
    out = (product.tril() if causality == "prefix" else product) @ v
    return out if state is None else out + q @ state.to(q.dtype)


def recurrent(
    q: Tensor, k: Tensor, v: Tensor, *, causality: Causality = "prefix", state: Tensor | None = None
) -> Tensor:
    """As `masked`, token by token through the state `S_i = S_{i-1} + k_i v_iᵀ`."""
    if state is None:
        state = k.new_zeros(*k.shape[:-2], k.shape[-1], v.shape[-1])
    if causality == "joint":
        return q @ (state + k.mT @ v)
    out = []
    for i in range(q.shape[-2]):
        now = slice(i, i + 1)
        state = state + k[..., now, :].mT @ v[..., now, :]
        out.append(q[..., now, :] @ state)
    return torch.cat(out, dim=-2)


weighted_sum = masked
"""The form that models use."""


def accumulate(state: Tensor | None, k: Tensor, v: Tensor) -> Tensor:
    """`state + Σ_j k_j v_jᵀ`, in float32 or better: it sums over all tokens ever seen."""
    new = (k.mT @ v).to(torch.promote_types(k.dtype, torch.float32))
    return new if state is None else state + new


class PrefixMeans:
    """Means over the visible tokens with the keys `k`, and the states that carry them on."""

    def __init__(self, k: Tensor, causality: Causality, past: Past):
        self.k, self.past = padding.erase(k, past.padding, past.length), past
        self.causality: Causality = causality
        n, dtype = k.shape[-2], torch.promote_types(k.dtype, torch.float32)
        count = visible_count(n, past.length + n, causality, k.new_empty(0, dtype=dtype))
        self.share = 1 / padding.subtract(count, past.padding)

    def carry(self, v: Tensor) -> Tensor | None:
        """Add `Σ_j k_j v_jᵀ` of the new tokens to the sum that earlier ones left; return that."""
        before = self.past.recall()
        if self.past.keeps:
            self.past.keep(accumulate(before, self.k, v))
        return before

    def mean(self, q: Tensor, k: Tensor, v: Tensor, state: Tensor | None) -> Tensor:
        """`(1/n_i) Σ_j (q_i·k_j) v_j`."""
        total = weighted_sum(q, k, v, causality=self.causality, state=state)
        return (self.share * total).to(v.dtype)


class LinearField(PrefixMeans):
    """Linear attention at given queries and keys: the kernel is `k_ij = scale · q_i·k_j`."""

    def __init__(
        self, q: Tensor, k: Tensor, *, scale: float, causality: Causality = "prefix", past: Past
    ):
        super().__init__(scale * k, causality, past)
        self.q = q
        self._pi: Tensor | None = None
        self._earlier: Tensor | None = None

    def attention(self, v: Tensor) -> Tensor:
        """`(1/n_i) Σ_j k_ij v_j`, plain linear attention."""
        return self.mean(self.q, self.k, v, self.carry(v))

    def velocity(self, pi: Tensor) -> Tensor:
        """`q_iᵀS_i / n_i` with `S_i = Σ_j k_j π_jᵀ`, maths.md (L); `pi` is the momentum `U y`."""
        return self.mean(self.q, self.k, pi, self._state(pi))

    def repulsion(self, pi: Tensor) -> Tensor:
        """`S_i π_i / n_i = (1/n_i) Σ_j (π_i·π_j) k_j`; as the query's force it has a minus sign."""
        state = self._state(pi)
        return self.mean(pi, pi, self.k, None if state is None else state.mT)

    def _state(self, pi: Tensor) -> Tensor | None:
        if self._pi is not pi:  # velocity and force of one momentum read one state
            self._pi, self._earlier = pi, self.carry(pi)
        return self._earlier


class SteinMetric(PrefixMeans):
    """The metric of linear attention, `u_i = (1/n_i) Σ_j k_ij π_j + λ π_i`, and its connection.

    The kernel is that of the keys, `k_ij = k_i·k_j`: positive semi-definite by construction, so
    that with `λ > 0` every velocity has one momentum, and a bounded one (docs/linear.md).

    Args:
        k: keys.
        ku: the velocity seen as a key, `W_K u`, so that `d/dt k_ij = ku_i·k_j + k_i·ku_j`.
        u: velocities of the heads.
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
        ridge: float,
        causality: Causality = "prefix",
        past: Past,
    ):
        super().__init__(k, causality, past)
        self.ridge = ridge
        # k̇_ij = rate_i · both_j: the state of `both` starts with that of k itself.
        k, ku = self.k, padding.erase(ku, past.padding, past.length)
        self.both, self.rate = torch.cat([k, ku], dim=-1), torch.cat([ku, k], dim=-1)
        self.earlier = past.recall()
        self.pi = self._momentum(u)
        if past.keeps:
            past.keep(accumulate(self.earlier, self.both, self.pi))

    def repulsion(self) -> Tensor:
        """`(1/n_i) Σ_j (π_i·π_j) k_j`."""
        state = self._earlier_keys()
        return self.mean(self.pi, self.pi, self.k, None if state is None else state.mT)

    def connection(self, g: Tensor) -> Tensor:
        """`C_i(u) = (1/n_i) Σ_j (k_ij g_j - k̇_ij π_j) + λ g_i`; `g` is the repulsion, projected."""
        inertia = self.mean(self.k, self.k, g, self.carry(g)) + self.ridge * g
        return inertia - self.mean(self.rate, self.both, self.pi, self.earlier)

    def _momentum(self, u: Tensor) -> Tensor:
        """`π` of `u`: tokens see only earlier ones, so the system is triangular."""
        dtype = torch.promote_types(u.dtype, torch.float32)
        with torch.autocast(u.device.type, enabled=False):  # a solve needs full precision
            k, u, state = self.k.to(dtype), u.to(dtype), self._earlier_keys()
            if state is not None:
                u = u - self.share * (k @ state.to(dtype))
            K = self.share * (k @ k.mT)
            K = K + self.ridge * torch.eye(K.shape[-1], dtype=dtype, device=K.device)
            if self.causality == "joint":
                return torch.linalg.solve(K, u).to(self.k.dtype)
            return torch.linalg.solve_triangular(K.tril(), u, upper=False).to(self.k.dtype)

    def _earlier_keys(self) -> Tensor | None:
        return None if self.earlier is None else self.earlier[..., : self.k.shape[-1], :]
