"""Multi-head softmax attention with its projections: an oracle of a language model."""

import torch
from torch import Tensor, nn

from sympformer.attention.softmax import Normalizer, Past, SoftmaxField
from sympformer.model.config import ModelConfig
from sympformer.model.heads import Field, Heads
from sympformer.model.layers import Linear
from sympformer.model.proposal import Proposal, speed
from sympformer.products import linear


class Attention(Heads):
    """Projects tokens to queries, keys and values; calling it evaluates the kernel once."""

    def __init__(self, config: ModelConfig):
        super().__init__(config)
        d = config.n_embd
        self.normalizer: Normalizer = config.normalizer
        self.qkv = Linear(d, 3 * d)
        self.out = Linear(d, d)
        if config.in_momentum_form:
            self.mobility = Linear(d, d)

    def initialise(self) -> None:
        """Start with `U = I`: a momentum at rest among equal scores moves its token by itself."""
        if hasattr(self, "mobility"):
            nn.init.eye_(self.mobility.weight)

    def forward(self, x: Tensor, past: Past) -> "AttentionField":
        """The field at positions `x` `(B, T, d)`."""
        q, k, v = (self.split(part) for part in self.qkv(x).chunk(3, dim=-1))
        field = SoftmaxField(
            q,
            k,
            v,
            scale=self.scale,
            causality=self.causality,
            normalizer=self.normalizer,
            past=past,
        )
        return AttentionField(self, field)


class AttentionField(Field):
    """One evaluation of multi-head attention; all arguments and results are `(B, T, d)`."""

    def __init__(self, module: Attention, field: SoftmaxField):
        self.module, self.field = module, field
        self._p: Tensor | None = None
        self._pi: Tensor

    def attention(self) -> Tensor:
        """Plain attention, `Σ_h O_h Σ_j a_ij^h v_j^h`."""
        return self.module.out(self.module.merge(self.field.attention))

    def velocity(self, p: Tensor) -> Tensor:
        """`Σ_h U_hᵀ (U_h p_i / z_i^h)`: the mobility is symmetric positive semi-definite."""
        m = self.module
        return linear(m.merge(self.field.velocity(self._momentum(p))), m.mobility.weight.mT)

    def force(self, p: Tensor) -> Tensor:
        """`Σ_h O_h z_i^h Σ_j a_ij^h (1 + (s_i^h + s_j^h)/2) v_j^h`, maths.md (S') and "Heads"."""
        m = self.module
        return m.out(m.merge(self.field.force(self._momentum(p))))

    def connection(self, u: Tensor) -> Tensor:
        """`C(u)` of maths.md (U), with `B = I` and `c` averaged over heads."""
        m = self.module
        d = u.shape[-1]
        qu, ku = (m.split(part) for part in linear(u, m.qkv.weight[: 2 * d]).chunk(2, dim=-1))
        return self._project(u, *self.field.connection(qu, ku, speed(u)))

    def proposal(self, p: Tensor, beta: Tensor, gamma: Tensor) -> tuple[Tensor, Tensor]:
        """`W = β p + γ Att` and `C(W)`, in one sweep where that can be."""
        m, field = self.module, self.field
        if not field.sweeps:
            return super().proposal(p, beta, gamma)

        query, key, _ = m.qkv.weight.chunk(3)
        rows, parameters = (p, field.new_k, field.new_v), (beta, gamma, m.out.weight, key)
        _, means, values, w = field.sweep(Proposal(m), rows, parameters)
        s = speed(w)
        field.remember(values.chunk(3, dim=-1)[1], s)
        c, pull = field.contract(means.chunk(3, dim=-1), m.split(linear(w, query)), s)
        return w, self._project(w, c, pull)

    def _project(self, u: Tensor, c: Tensor, pull: Tensor) -> Tensor:
        return torch.addcmul(self.module.out(self.module.merge(pull)), c.mean(-3), u)

    def _momentum(self, p: Tensor) -> Tensor:
        """`U p` by heads; made once, so that velocity and force of one `p` share a sweep."""
        if self._p is not p:
            self._p, self._pi = p, self.module.split(self.module.mobility(p))
        return self._pi
