"""Multi-head linear attention with its projections: an oracle of a language model."""

import math
from typing import ClassVar, Literal, NamedTuple

import torch
from torch import Tensor

from sympformer.attention.linear import LinearField, SteinMetric
from sympformer.attention.naive import Causality
from sympformer.attention.past import Past
from sympformer.dynamics.trial import Calls
from sympformer.errors import InputError
from sympformer.model.extras import NONE, Extras, Features, Outputs, extra_maps
from sympformer.model.layers import Linear, Mobility, affine, matrix, merge_heads, split_heads
from sympformer.model.oracle import (
    ATTENDING,
    EVERY,
    MOVING,
    AttentionOracle,
    Cost,
    OracleField,
    Reads,
)
from sympformer.products import linear

RIDGE = 0.1


class Map(NamedTuple):
    """`W x + b`, `W` `(d, d)` with heads stacked in rows."""

    weight: Tensor
    bias: Tensor | None = None


class Maps(NamedTuple):
    """The maps of one layer; None is the identity."""

    query: Map
    key: Map
    value: Map | None = None
    out: Map | None = None
    mobility: Map | None = None
    potential: Map | None = None


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

    answers: ClassVar[frozenset[Reads]] = EVERY

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
        values = reads in ATTENDING
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

    def drive(self, x: Tensor, maps: Maps) -> Tensor:
        """`V x`, the part of the force that no momentum makes."""
        return _apply(maps.potential, x)

    def forward(self, x: Tensor, past: Past) -> "LinearAttentionField":
        """The field at positions `x` `(B, T, d)`."""
        return LinearAttentionField(self, x, past)

    def cost(self, calls: Calls) -> Cost:
        """Maps as they are; states: 1 to extend one, 1 to read it (docs/linear.md)."""
        maps, extra = self.maps(), extra_maps(self, self.d)
        if self.reads in MOVING:
            attends = self.reads == "both"
            each = (
                (2 + extra, calls.fields),  # q, k
                (maps.mobility is not None, calls.momenta + calls.velocities),
                (2 + (attends and maps.potential is None), calls.forces),  # V x, W_Qᵀ
                (1 + (maps.out is not None) + extra, attends),  # v, O
            )
            made = sum(n * times for n, times in each)
            states = calls.momenta + calls.velocities + calls.forces + 2 * attends
            return Cost(made, states=states)
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
        bias: bool = False,
    ):
        super().__init__(
            d, n_head, reads=reads, causality=causality, heads=heads, ridge=ridge, extras=extras
        )
        if reads in ATTENDING:
            self.qkv, self.out = Linear(d, 3 * d, bias), Linear(d, d, bias)
        else:
            self.qk = Linear(d, 2 * d, bias)
            self.potential = Linear(d, d, bias) if reads == "momentum" else None
        if reads in MOVING:
            self.mobility = Mobility(d)

    def maps(self) -> Maps:
        """The learned projections."""
        mobility = _map(self.mobility) if self.reads in MOVING else None
        if self.reads in ATTENDING:
            query, key, value = _side_by_side(self.qkv, 3)
            return Maps(query, key, value, _map(self.out), mobility)
        query, key = _side_by_side(self.qk, 2)
        potential = None if self.potential is None else _map(self.potential)
        return Maps(query, key, mobility=mobility, potential=potential)

    def drive(self, x: Tensor, maps: Maps) -> Tensor:
        """`V x`; beside an attention, V is that of its values, `Σ_h O_h W_V^h`."""
        if self.reads != "both":
            return super().drive(x, maps)
        return _apply(maps.out, _apply(maps.value, x))


class LinearAttentionField(OracleField):
    """One evaluation of linear attention; all arguments and results are `(B, T, d)`."""

    def __init__(self, module: LinearOracle, x: Tensor, past: Past):
        self.module, self.maps, self.x, self.past = module, module.maps(), x, past
        self.featured = None
        if module.features is None:
            made = _apply(self.maps.query, x), _apply(self.maps.key, x)
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
        drive = self.module.drive(self.x, self.maps)
        return drive - _pull_back(self.maps.query, repulsion)

    def connection(self, u: Tensor) -> Tensor:
        """`C(u)` of the metric whose kernel is that of the keys; each head moves its own slice."""
        m, key = self.module, self.maps.key
        ku = linear(u, key.weight)
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


def _map(module: Linear) -> Map:
    return Map(matrix(module), module.bias)


def _side_by_side(module: Linear, count: int) -> list[Map]:
    """The maps that one module makes side by side."""
    parts = matrix(module).chunk(count)
    biases = [None] * count if module.bias is None else module.bias.chunk(count)
    return list(map(Map, parts, biases))


def _apply(m: Map | None, x: Tensor) -> Tensor:
    """`W x + b` of every token."""
    return x if m is None else affine(x, m.weight, m.bias)


def _pull_back(m: Map | None, x: Tensor) -> Tensor:
    """`Wᵀ x` of every token."""
    return x if m is None else linear(x, m.weight.mT)
