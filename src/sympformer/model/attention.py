"""Multi-head softmax attention with its projections: the oracle of a language model."""

import math

from torch import Tensor, nn

from sympformer.attention.naive import Causality
from sympformer.attention.softmax import Normalizer, Past, SoftmaxField
from sympformer.model.config import ModelConfig
from sympformer.model.layers import linear


class Attention(nn.Module):
    """Projects tokens to queries, keys and values; calling it evaluates the kernel once.

    Heads: one kernel each ("independent"), or one kernel of the scores averaged over heads
    ("averaged"), which is a single head of full width with scale `1/(H √d_h)`, maths.md "Heads".
    """

    def __init__(self, config: ModelConfig):
        super().__init__()
        d, d_head = config.n_embd, config.n_embd // config.n_head
        averaged = config.heads == "averaged"
        self.n_head = 1 if averaged else config.n_head
        self.scale = 1 / math.sqrt(d_head) / (config.n_head if averaged else 1)
        self.causality: Causality = config.causality
        self.normalizer: Normalizer = config.normalizer
        self.qkv = linear(d, 3 * d)
        self.out = linear(d, d)
        if config.dynamics == "symp" and config.form == "momentum":
            self.mobility = linear(d, d)

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

    def split(self, x: Tensor) -> Tensor:
        """`(B, T, d)` to `(B, H, T, d/H)`."""
        return x.unflatten(-1, (self.n_head, -1)).transpose(-3, -2)

    def merge(self, x: Tensor) -> Tensor:
        """`(B, H, T, d/H)` to `(B, T, d)`."""
        return x.transpose(-3, -2).flatten(-2)


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


def initialise_mobility(attention: nn.Module) -> None:
    """Start with `U = I`: then a momentum at rest among equal scores moves its token by itself."""
    if isinstance(attention, Attention) and hasattr(attention, "mobility"):
        nn.init.eye_(attention.mobility.weight)
