"""Multi-head linear attention with its projections: an oracle of a language model."""

from typing import NamedTuple

from torch import Tensor, nn

from sympformer.attention.linear import LinearField, SteinMetric
from sympformer.attention.softmax import Past
from sympformer.model.config import ModelConfig
from sympformer.model.heads import Field, Heads
from sympformer.model.layers import Linear
from sympformer.products import linear


class Maps(NamedTuple):
    """The matrices of one layer, `(d, d)` each, heads stacked in rows; None is the identity."""

    query: Tensor
    key: Tensor
    value: Tensor | None = None
    out: Tensor | None = None
    mobility: Tensor | None = None
    potential: Tensor | None = None


class LinearHeads(Heads):
    """Linear attention whose kernel is `scale · (W_Q x)·(W_K y)` in every head."""

    def __init__(self, config: ModelConfig):
        super().__init__(config)
        self.ridge = config.ridge

    def maps(self) -> Maps:
        """The matrices as they are now."""
        raise NotImplementedError

    def forward(self, x: Tensor, past: Past) -> "LinearAttentionField":
        """The field at positions `x` `(B, T, d)`."""
        return LinearAttentionField(self, x, past)


class LinearAttention(LinearHeads):
    """Linear attention with free projections."""

    def __init__(self, config: ModelConfig):
        super().__init__(config)
        d = config.n_embd
        self.in_momentum_form = config.in_momentum_form
        if self.in_momentum_form:
            self.qk, self.mobility, self.potential = Linear(d, 2 * d), Linear(d, d), Linear(d, d)
        else:
            self.qkv, self.out = Linear(d, 3 * d), Linear(d, d)

    def initialise(self) -> None:
        """Start with `U = I`: each head moves its own slice of the features."""
        if self.in_momentum_form:
            nn.init.eye_(self.mobility.weight)

    def maps(self) -> Maps:
        """The learned projections."""
        if self.in_momentum_form:
            query, key = self.qk.weight.chunk(2)
            return Maps(query, key, mobility=self.mobility.weight, potential=self.potential.weight)
        query, key, value = self.qkv.weight.chunk(3)
        return Maps(query, key, value=value, out=self.out.weight)


class LinearAttentionField(Field):
    """One evaluation of linear attention; all arguments and results are `(B, T, d)`."""

    def __init__(self, module: LinearHeads, x: Tensor, past: Past):
        self.module, self.maps, self.x, self.past = module, module.maps(), x, past
        self.field = LinearField(
            module.split(linear(x, self.maps.query)),
            module.split(linear(x, self.maps.key)),
            scale=module.scale,
            causality=module.causality,
            past=past,
        )
        self._p: Tensor | None = None
        self._pi: Tensor

    def attention(self) -> Tensor:
        """Plain linear attention, `Σ_h O_h (1/n_i) Σ_j k_ij^h v_j^h`."""
        m = self.module
        mean = self.field.attention(m.split(_apply(self.maps.value, self.x)))
        return _apply(self.maps.out, m.merge(mean))

    def velocity(self, y: Tensor) -> Tensor:
        """`Σ_h U_hᵀ S_i^hᵀ q_i^h / n_i`, maths.md (L): a sum of Stein metrics."""
        velocity = self.module.merge(self.field.velocity(self._momentum(y)))
        return _pull_back(self.maps.mobility, velocity)

    def force(self, y: Tensor) -> Tensor:
        """`V x_i - Σ_h W_Q^hᵀ S_i^h π_i^h / n_i`, maths.md (L)."""
        repulsion = self.module.merge(self.field.repulsion(self._momentum(y)))
        return _apply(self.maps.potential, self.x) - _pull_back(self.maps.query, repulsion)

    def connection(self, u: Tensor) -> Tensor:
        """`C(u)` of the metric whose kernel is that of the keys; each head moves its own slice."""
        m, key = self.module, self.maps.key
        metric = SteinMetric(
            self.field.k,
            m.split(linear(u, key)),
            m.split(u),
            scale=m.scale,
            ridge=m.ridge,
            causality=m.causality,
            past=self.past,
        )
        repulsion = _pull_back(key, m.merge(metric.repulsion()))
        return m.merge(metric.connection(m.split(repulsion)))

    def _momentum(self, y: Tensor) -> Tensor:
        """`U y` by heads; made once, so that velocity and force of one `y` share a state."""
        if self._p is not y:
            self._p, self._pi = y, self.module.split(_apply(self.maps.mobility, y))
        return self._pi


def _apply(matrix: Tensor | None, x: Tensor) -> Tensor:
    """`W x` of every token."""
    return x if matrix is None else linear(x, matrix)


def _pull_back(matrix: Tensor | None, x: Tensor) -> Tensor:
    """`Wᵀ x` of every token."""
    return x if matrix is None else linear(x, matrix.mT)
