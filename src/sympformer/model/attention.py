"""Multi-head softmax attention with its projections: an oracle of a language model."""

from torch import Tensor, nn

from sympformer.attention.softmax import Normalizer, Past, SoftmaxField
from sympformer.model.config import ModelConfig
from sympformer.model.heads import Heads
from sympformer.model.layers import linear


class Attention(Heads):
    """Projects tokens to queries, keys and values; calling it evaluates the kernel once."""

    def __init__(self, config: ModelConfig):
        super().__init__(config)
        d = config.n_embd
        self.normalizer: Normalizer = config.normalizer
        self.qkv = linear(d, 3 * d)
        self.out = linear(d, d)
        if config.in_momentum_form:
            self.mobility = linear(d, d)

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


class AttentionField:
    """One evaluation of multi-head attention; all arguments and results are `(B, T, d)`."""

    def __init__(self, module: Attention, field: SoftmaxField):
        self.module, self.field = module, field

    def attention(self) -> Tensor:
        """Plain attention, `Σ_h O_h Σ_j a_ij^h v_j^h`."""
        return self.module.out(self.module.merge(self.field.attention))

    def velocity(self, p: Tensor) -> Tensor:
        """`Σ_h U_hᵀ (U_h p_i / z_i^h)`: the mobility is symmetric positive semi-definite."""
        m = self.module
        return m.merge(self.field.velocity(m.split(m.mobility(p)))) @ m.mobility.weight

    def force(self, p: Tensor) -> Tensor:
        """`Σ_h O_h z_i^h Σ_j a_ij^h (1 + (s_i^h + s_j^h)/2) v_j^h`, maths.md (S') and "Heads"."""
        m = self.module
        return m.out(m.merge(self.field.force(m.split(m.mobility(p)))))

    def connection(self, u: Tensor) -> Tensor:
        """`C(u)` of maths.md (U), with `B = I` and `c` averaged over heads."""
        m = self.module
        d = u.shape[-1]
        qu, ku = (m.split(part) for part in (u @ m.qkv.weight[: 2 * d].mT).chunk(2, dim=-1))
        s = u.square().sum(-1, keepdim=True)
        c, pull = self.field.connection(qu, ku, s.unsqueeze(-3))
        return c.mean(-3) * u - m.out(m.merge(pull))
