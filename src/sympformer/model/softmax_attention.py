"""Multi-head softmax attention with its projections: an oracle of a language model."""

import math
from typing import ClassVar, Literal

import torch
from torch import Tensor

from sympformer.attention.naive import Causality
from sympformer.attention.past import Past
from sympformer.attention.softmax import Normalizer, SoftmaxField, speed
from sympformer.dynamics.trial import Calls
from sympformer.errors import InputError
from sympformer.model.extras import NONE, Extras, Featured, Features, Outputs, extra_maps
from sympformer.model.layers import (
    LearnedScalar,
    Linear,
    Mobility,
    in_heads,
    matrix,
    merge_heads,
    split_heads,
)
from sympformer.model.oracle import (
    ATTENDING,
    EVERY,
    MOVING,
    AttentionOracle,
    Cost,
    OracleField,
    Reads,
)
from sympformer.model.proposal import Proposal
from sympformer.products import linear


class SoftmaxAttention(AttentionOracle):
    """Attention with the kernel `exp(q·k)`.

    Args:
        d: model dimension.
        n_head: heads.
        reads: what it will be read for.
        causality: which tokens are summed over.
        heads: one kernel a head, or the scores averaged over heads (as published).
        normalizer: z averages over the visible tokens, or over the sequence length (as published).
        extras: what queries, keys and outputs are made of. Scores of unit vectors have a learned
            scale. In momentum form outputs are no averages, and have no norm or gate.
        bias: whether its projections have biases; that of the outputs is a constant force, which
            no metric turns.
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
        normalizer: Normalizer = "prefix",
        extras: Extras = NONE,
        bias: bool = False,
    ):
        super().__init__(d, n_head, reads=reads, causality=causality, heads=heads)
        self.normalizer: Normalizer = normalizer
        self.biased = bias
        require_mobility(normalizer, reads)
        if reads == "drift":
            self.qk = Linear(d, 2 * d, bias)
        else:
            self.qkv, self.out = Linear(d, 3 * d, bias), Linear(d, d, bias)
        if reads in MOVING:
            self.mobility = Mobility(d)
            extras.require_plain_outputs("the momentum form of softmax attention")
        values = reads in ATTENDING
        self.d, self.features = d, Features.of(d, self.n_head, extras, values=values)
        self.outputs = Outputs.of(d, self.n_head, extras)
        unit = extras.keys == "unit"
        self.sharpness = LearnedScalar(math.sqrt(d / self.n_head), "positive") if unit else None

    def forward(self, x: Tensor, past: Past) -> "SoftmaxAttentionField":
        """The field at positions `x` `(B, T, d)`."""
        made = self.qk(x) if self.reads == "drift" else self.qkv(x)
        featured = None if self.features is None else self.features(made, past)
        heads = in_heads(made, self.d, self.n_head) if featured is None else featured.heads
        q, k, *rest = heads
        field = SoftmaxField(
            self.sharpen(q),
            k,
            rest[0] if rest else None,
            scale=self.scale if self.sharpness is None else 1.0,
            causality=self.causality,
            normalizer=self.normalizer,
            past=past,
        )
        return SoftmaxAttentionField(self, field, x, featured)

    def sharpen(self, q: Tensor) -> Tensor:
        """Queries, or their rates of change, by the learned scale, if there is one."""
        return q if self.sharpness is None else q * self.sharpness()

    def cost(self, calls: Calls) -> Cost:
        """Maps: q, k, v; U p, Uᵀ, O. Pairs: scores, Att, `s_j v_j`; a connection averages three."""
        pairs, extra = pairs_of_softmax(self.reads, calls), extra_maps(self, self.d)
        if self.reads == "drift":
            return Cost((2 + extra) * calls.fields + calls.momenta + calls.velocities, pairs)
        if self.reads in MOVING:
            made = calls.momenta + calls.velocities + calls.forces + (self.reads == "both")
            return Cost((3 + extra) * calls.fields + made, pairs)
        if self.reads == "attention":
            return Cost(4 + extra, pairs)
        return Cost(7 + extra, pairs)


def pairs_of_softmax(reads: Reads, calls: Calls) -> int:
    """Products over the visible pairs: scores, an average a field, another one a force."""
    if reads == "both":
        return calls.fields + max(1, min(calls.fields, calls.forces)) + calls.forces
    if reads in MOVING:
        return calls.fields + min(calls.fields, calls.forces) + calls.forces
    return 5 if reads == "connection" else 2


def require_mobility(normalizer: Normalizer, reads: Reads) -> None:
    """Refuse a normaliser of `z` where `z` is not used."""
    if normalizer != "prefix" and reads not in MOVING:
        raise InputError(
            f"normalizer = {normalizer!r} needs form 'momentum', and would have no effect without "
            "it: remove it or change the form"
        )


class SoftmaxAttentionField(OracleField):
    """One evaluation of multi-head attention; all arguments and results are `(B, T, d)`."""

    def __init__(
        self, module: SoftmaxAttention, field: SoftmaxField, x: Tensor, featured: Featured | None
    ):
        self.module, self.field, self.x, self.featured = module, field, x, featured
        self._p: Tensor | None = None
        self._pi: Tensor

    def attention(self) -> Tensor:
        """Plain attention, `Σ_h O_h Σ_j a_ij^h v_j^h`."""
        m, heads = self.module, self.field.attention
        return m.out(merge_heads(heads if m.outputs is None else m.outputs(heads, self.x)))

    def velocity(self, p: Tensor) -> Tensor:
        """`Σ_h U_hᵀ (U_h p_i / z_i^h)`: the mobility is symmetric positive semi-definite."""
        m = self.module
        return linear(merge_heads(self.field.velocity(self._momentum(p))), matrix(m.mobility).mT)

    def force(self, p: Tensor) -> Tensor:
        """`Σ_h O_h z_i^h Σ_j a_ij^h (1 + (s_i^h + s_j^h)/2) v_j^h`, maths.md (S') and "Heads"."""
        m = self.module
        return m.out(merge_heads(self.field.force(self._momentum(p))))

    def connection(self, u: Tensor) -> Tensor:
        """`C(u)` of maths.md (U), with `B = I` and `c` averaged over heads."""
        m = self.module
        rates = linear(u, matrix(m.qkv)[: 2 * m.d])
        if self.featured is None:
            qu, ku = in_heads(rates, m.d, m.n_head)
        else:
            qu, ku = self.featured.tangent(rates)
        return self._project(u, *self.field.connection(m.sharpen(qu), ku, speed(u)))

    def proposal(self, p: Tensor, beta: Tensor, gamma: Tensor) -> tuple[Tensor, Tensor]:
        """`W = β p + γ Att` and `C(W)`, in one sweep where that can be."""
        m, field = self.module, self.field
        plain = self.featured is None and m.outputs is None and not m.biased
        if not (plain and field.sweeps):
            return super().proposal(p, beta, gamma)

        query, key, _ = matrix(m.qkv).chunk(3)
        rows, parameters = (p, field.new_k, field.new_v), (beta, gamma, matrix(m.out), key)
        _, means, values, w = field.sweep(Proposal(m.n_head), rows, parameters)
        s = speed(w)
        field.remember(values.chunk(3, dim=-1)[1], s)
        c, pull = field.contract(means.chunk(3, dim=-1), split_heads(linear(w, query), m.n_head), s)
        return w, self._project(w, c, pull)

    def weights(self) -> Tensor:
        """`a_ij` of every head."""
        return self.field.weights()

    def energy(self) -> Tensor:
        """`-½ Σ_h z_i^h`."""
        return self.field.energy()

    def _project(self, u: Tensor, c: Tensor, pull: Tensor) -> Tensor:
        m, pull = self.module, merge_heads(pull)
        pulled = linear(pull, matrix(m.out)) if m.biased else m.out(pull)
        return torch.addcmul(pulled, c.mean(-3), u)

    def _momentum(self, p: Tensor) -> Tensor:
        """`U p` by heads; made once, so that velocity and force of one `p` share a sweep."""
        if self._p is not p:
            self._p, self._pi = p, split_heads(self.module.mobility(p), self.module.n_head)
        return self._pi
