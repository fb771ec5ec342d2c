"""Multi-head linear attention with its projections: an oracle of a language model."""

import math
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from sympformer.attention.linear import LinearField, SteinMetric
from sympformer.attention.naive import Causality
from sympformer.attention.past import Past
from sympformer.dynamics.trial import Calls
from sympformer.errors import InputError
from sympformer.model.extras import NONE, Extras, Features, Outputs, extra_maps
from sympformer.model.layers import Linear, Mobility, matrix, merge_heads, split_heads
from sympformer.model.oracle import AttentionOracle, Cost, OracleField, Reads
from sympformer.products import linear

RIDGE = 0.1


class Maps(NamedTuple):
    """The matrices of one layer, `(d, d)` each, heads stacked in rows; None is the identity."""

    query: Tensor
    key: Tensor
    value: Tensor | None = None
    out: Tensor | None = None
    mobility: Tensor | None = None
    potential: Tensor | None = None


class LinearOracle(AttentionOracle):
    """Attention with the kernel `scale · (W_Q x)·(W_K y)` in every head; its past is one matrix.

    Args:
        d: model dimension.
        n_head: heads.
        reads: what it will be read for.
        causality: which tokens are summed over.
        heads: one kernel a head, or the scores averaged over heads.
        ridge: share λ of the identity in the metric, which bounds its connection.
        extras: what queries, keys and outputs are made of.
    """

    def __init__(
        self,
        d: int,
        n_head: int,
        *,
        reads: Reads = "attention",
        causality: Causality = "prefix",
        heads: Literal["independent", "averaged"] = "independent",
        ridge: float = RIDGE,
        extras: Extras = NONE,
    ):
        super().__init__(d, n_head, reads=reads, causality=causality, heads=heads)
        values = reads in ("attention", "connection")
        self.d, self.features = d, Features.of(d, self.n_head, extras, values=values)
        self.outputs = Outputs.of(d, self.n_head, extras)
        self.ridge = ridge
        if not ridge > 0:
            raise InputError(f"ridge must be greater than 0, not {ridge!r}")
        if ridge != RIDGE and reads != "connection":
            raise InputError(
                f"ridge = {ridge!r} needs a connection, and would have no effect without it: "
                "remove it or choose one"
            )

    def maps(self) -> Maps:
        """The matrices as they are now."""
        raise NotImplementedError

    def project(self, x: Tensor, maps: Maps) -> Tensor:
        """All that features are made of, side by side, `(B, T, c d)`."""
        assert self.features is not None
        made = [maps.query, maps.key, maps.value][: self.features.count]
        return torch.cat([_apply(m, x) for m in made], dim=-1)

    def forward(self, x: Tensor, past: Past) -> "LinearAttentionField":
        """The field at positions `x` `(B, T, d)`."""
        return LinearAttentionField(self, x, past)

    def cost(self, calls: Calls) -> Cost:
        """Maps as they are; states: 1 to extend one, 1 to read it (docs/linear.md)."""
        maps, extra = self.maps(), extra_maps(self, self.d)
        if self.reads in ("momentum", "drift"):
            each = (
                (2 + extra, calls.fields),  # q, k
                (maps.mobility is not None, calls.momenta + calls.velocities),
                (2, calls.forces),  # V x, W_Qᵀ
            )
            made = sum(n * times for n, times in each)
            return Cost(made, states=calls.momenta + calls.velocities + calls.forces)
        connected = self.reads == "connection"
        plain = 3 + (maps.out is not None) + extra  # q, k, v, O
        return Cost(plain + 2 * connected, states=2 + 8 * connected)


class LinearAttention(LinearOracle):
    """Linear attention with free projections."""

    def __init__(
        self,
        d: int,
        n_head: int,
        *,
        reads: Reads = "attention",
        causality: Causality = "prefix",
        heads: Literal["independent", "averaged"] = "independent",
        ridge: float = RIDGE,
        extras: Extras = NONE,
    ):
        super().__init__(
            d, n_head, reads=reads, causality=causality, heads=heads, ridge=ridge, extras=extras
        )
        if reads in ("momentum", "drift"):
            self.qk, self.mobility = Linear(d, 2 * d), Mobility(d)
            self.potential = Linear(d, d) if reads == "momentum" else None
        else:
            self.qkv, self.out = Linear(d, 3 * d), Linear(d, d)

    def maps(self) -> Maps:
        """The learned projections."""
        if self.reads in ("momentum", "drift"):
            query, key = matrix(self.qk).chunk(2)
            potential = None if self.potential is None else matrix(self.potential)
            return Maps(query, key, mobility=matrix(self.mobility), potential=potential)
        query, key, value = matrix(self.qkv).chunk(3)
        return Maps(query, key, value=value, out=matrix(self.out))


class LinearAttentionField(OracleField):
    """One evaluation of linear attention; all arguments and results are `(B, T, d)`."""

    def __init__(self, module: LinearOracle, x: Tensor, past: Past):
        self.module, self.maps, self.x, self.past = module, module.maps(), x, past
        self.featured = None
        if module.features is None:
            made = linear(x, self.maps.query), linear(x, self.maps.key)
            q, k = (split_heads(part, module.n_head) for part in made)
        else:
            self.featured = module.features(module.project(x, self.maps), past)
            q, k, *_ = self.featured.heads
        self.field = LinearField(q, k, scale=module.scale, causality=module.causality, past=past)
        self._p: Tensor | None = None
        self._pi: Tensor

    def attention(self) -> Tensor:
        """Plain linear attention, `Σ_h O_h (1/n_i) Σ_j k_ij^h v_j^h`."""
        return _apply(self.maps.out, self._merge(self.field.attention(self._values())))

    def velocity(self, y: Tensor) -> Tensor:
        """`Σ_h U_hᵀ S_i^hᵀ q_i^h / n_i`, maths.md (L): a sum of Stein metrics."""
        velocity = self._merge(self.field.velocity(self._momentum(y)))
        return _pull_back(self.maps.mobility, velocity)

    def force(self, y: Tensor) -> Tensor:
        """`V x_i - Σ_h W_Q^hᵀ S_i^h π_i^h / n_i`, maths.md (L)."""
        repulsion = merge_heads(self.field.repulsion(self._momentum(y)))
        return _apply(self.maps.potential, self.x) - _pull_back(self.maps.query, repulsion)

    def connection(self, u: Tensor) -> Tensor:
        """`C(u)` of the metric whose kernel is that of the keys; each head moves its own slice."""
        m, key = self.module, self.maps.key
        ku = linear(u, key)
        if self.featured is None:
            ku = split_heads(ku, m.n_head)
        else:
            (ku,) = self.featured.tangent(ku, first=1)
        metric = SteinMetric(
            self.field.k,
            ku,
            split_heads(u, m.n_head),
            scale=m.scale,
            ridge=m.ridge,
            causality=m.causality,
            past=self.past,
        )
        repulsion = _pull_back(key, merge_heads(metric.repulsion()))
        return merge_heads(metric.connection(split_heads(repulsion, m.n_head)))

    def weights(self) -> Tensor:
        """`k_ij^h / n_i` of every head."""
        return self.field.weights()

    def energy(self) -> Tensor:
        """`-½ x_iᵀV x_i`; of attention, `V x` is `Σ_h O_h v^h`. NaN where there is no V."""
        reads, maps = self.module.reads, self.maps
        if reads == "drift":
            return torch.full_like(self.x[..., 0], math.nan)
        if reads == "momentum":
            driven = _apply(maps.potential, self.x)
        else:
            driven = _apply(maps.out, merge_heads(self._values()))
        return -(self.x * driven).sum(-1) / 2

    def _values(self) -> Tensor:
        if self.featured is not None and len(self.featured.heads) > 2:
            return self.featured.heads[2]
        return split_heads(_apply(self.maps.value, self.x), self.module.n_head)

    def _merge(self, out: Tensor) -> Tensor:
        outputs = self.module.outputs
        return merge_heads(out if outputs is None else outputs(out, self.x))

    def _momentum(self, y: Tensor) -> Tensor:
        """`U y` by heads; made once, so that velocity and force of one `y` share a state."""
        if self._p is not y:
            self._p, self._pi = y, split_heads(_apply(self.maps.mobility, y), self.module.n_head)
        return self._pi


def _apply(matrix: Tensor | None, x: Tensor) -> Tensor:
    """`W x` of every token."""
    return x if matrix is None else linear(x, matrix)


def _pull_back(matrix: Tensor | None, x: Tensor) -> Tensor:
    """`Wᵀ x` of every token."""
    return x if matrix is None else linear(x, matrix.mT)
