"""Attention whose past is one matrix a head, written by a rule: the regularised Stein flow and kin.

A token writes `k_i w_iᵀ` into the state `S_i = D_i S_{i-1} + k_i w_iᵀ` of its head and reads `q_iᵀS_i`.
What it writes is the rule; `D_i` is a decay. With the delta rule that is the gradient flow of the
regularised Stein metric, with momenta as values its accelerated form (docs/delta.md says which
published model is which).
"""

import math
from typing import Any, ClassVar, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sympformer.attention import forms
from sympformer.attention.delta import write_strength
from sympformer.attention.naive import Causality
from sympformer.attention.past import Past, erase
from sympformer.attention.prefix_sums import accumulate
from sympformer.dynamics.trial import Calls
from sympformer.errors import InputError
from sympformer.model.extras import NONE, Extras, Features, Outputs, maps_of
from sympformer.model.layers import (
    LearnedScalar,
    Linear,
    Mobility,
    matrix,
    merge_heads,
    split_heads,
)
from sympformer.model.oracle import AttentionOracle, Cost, OracleField, Reads
from sympformer.products import linear

Rule = Literal["sum", "delta", "implicit", "ridge", "ridge-n"]
RIDGE = 0.1
_SMALL = 1e-30
"""Below every strength that matters; its inverse is finite."""


class FastWeights(AttentionOracle):
    """Heads with a state that every token writes to, by a rule, before it reads.

    | rule | `w_i` |
    |---|---|
    | sum | `β_i y_i` |
    | delta | `β_i (y_i - (D_i S_{i-1})ᵀk_i)`, `β_i` in (0, 1), or (0, 2) |
    | implicit | the same with `b_i / (1 + b_i \\|k_i\\|²)` for β: a proximal step |
    | ridge, ridge-n | the same with `1 / (\\|k_i\\|² + λ)`, or with `n_i λ` for λ |

    Args:
        d: model dimension.
        n_head: heads.
        reads: what it will be read for: attention, where `y` are values, or a momentum, where they
            are momenta; it has no connection.
        causality: "prefix"; the order of the tokens is in the rule.
        rule: see above.
        decay: what each token leaves of the state: all, a learned factor a head, or one a channel
            of the keys.
        strength: β is a sigmoid of the token, twice that (steps may then reflect, as parity needs),
            or the step size of the decay.
        repulsion: whether a momentum is driven by how its kernel changes, too.
        extras: what queries, keys and outputs are made of.

    Raises:
        InputError: options that do not go together.
    """

    answers: ClassVar[frozenset[Reads]] = frozenset({"attention", "momentum", "drift"})

    def __init__(
        self,
        d: int,
        n_head: int,
        *,
        reads: Reads = "attention",
        causality: Causality = "prefix",
        rule: Rule = "delta",
        decay: Literal["none", "head", "channel"] = "none",
        strength: Literal["sigmoid", "double", "step"] = "sigmoid",
        repulsion: bool = True,
        extras: Extras = NONE,
    ):
        super().__init__(d, n_head, reads=reads, causality=causality)
        self.rule, self.strength, self.repulsion = rule, strength, repulsion
        self.regularised = rule in ("ridge", "ridge-n")
        _require(reads, causality, rule, decay, strength, repulsion, extras)
        momentum, head = reads != "attention", d // n_head
        if momentum:
            self.qk, self.mobility = Linear(d, 2 * d), Mobility(d)
            self.potential = Linear(d, d) if reads == "momentum" else None
        else:
            self.qkv, self.out = Linear(d, 3 * d), Linear(d, d)
        convolved = extras.convolution > 0 or extras.activation != "none"
        self.features = Features(d, n_head, 2 if momentum or not convolved else 3, extras)
        self.ridge = LearnedScalar(RIDGE, "positive") if self.regularised else None
        learned = not self.regularised and strength != "step"
        self.write = Linear(d, n_head) if learned else None
        self.forget = Forget(d, n_head, decay == "channel") if decay != "none" else None
        self.outputs = Outputs(d, head, extras)

    def forward(self, x: Tensor, past: Past) -> "FastWeightsField":
        """The field at positions `x` `(B, T, d)`."""
        return FastWeightsField(self, x, past)

    def cost(self, calls: Calls) -> Cost:
        """Maps: q, k, v, O; or q, k, U p, Uᵀ, V x, W_Kᵀ. States: 1 to extend or to read one."""
        d, solves = self.features_width, self.rule != "sum"
        small = sum(p.numel() for m in (self.write, self.forget) if m for p in m.parameters())
        extra = maps_of(self.features.extras, d, self.features.count) + small / d**2
        if self.reads == "attention":
            return Cost(4 + extra, states=2 + solves)
        pulled = self.repulsion * calls.forces
        made = calls.momenta + calls.velocities + calls.forces + pulled
        states = (1 + solves) * calls.momenta + calls.velocities + pulled
        return Cost((2 + extra) * calls.fields + made, states=states)

    @property
    def features_width(self) -> int:
        """The model dimension."""
        return (self.qkv if self.reads == "attention" else self.qk).in_features


class Forget(nn.Module):
    """The log decay of a token, `g = -e^A Δ` with the step `Δ = softplus(a·x + c)`.

    `A` starts as the logarithm of uniform [1, 16], `c` so that the step is log-uniform in
    [0.001, 0.1], as in Mamba-2 (arXiv:2405.21060).

    Args:
        d: model dimension.
        n_head: heads.
        by_channel: a step for each channel of the keys, by a map of low rank (Kimi Delta Attention,
            arXiv:2510.26692), instead of one a head.
    """

    def __init__(self, d: int, n_head: int, by_channel: bool = False):
        super().__init__()
        self.n_head, channels = n_head, d if by_channel else n_head
        maps = (
            [Linear(d, d // n_head), Linear(d // n_head, d)] if by_channel else [Linear(d, n_head)]
        )
        self.map = nn.Sequential(*maps)
        self.start = Start(n_head, channels)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Of tokens `(B, T, d)`: log decay and step, each `(B, H, T, 1 or d_h)`, float32 or better."""
        rate, bias = self.start.rate, self.start.bias
        raw = self.map(x)
        raw = raw.to(torch.promote_types(raw.dtype, torch.float32))
        step = split_heads(F.softplus(raw + bias), self.n_head)
        return -rate.exp()[:, None, None] * step, step


class Start(nn.Module):
    """What the decay is without looking at a token: rates `A` a head and biases `c` a channel."""

    def __init__(self, n_head: int, channels: int):
        super().__init__()
        self.rate, self.bias = (
            nn.Parameter(torch.empty(n_head)),
            nn.Parameter(torch.empty(channels)),
        )
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw both."""
        with torch.no_grad():
            self.rate.uniform_(1, 16).log_()
            step = self.bias.uniform_(math.log(1e-3), math.log(1e-1)).exp()
            self.bias.copy_(step + (-(-step).expm1()).log())  # the inverse of softplus


class Written(NamedTuple):
    """What tokens with values `y` write, and the state before them."""

    y: Tensor
    w: Tensor
    before: Tensor | None


class FastWeightsField(OracleField):
    """One evaluation; all arguments and results are `(B, T, d)`."""

    def __init__(self, module: FastWeights, x: Tensor, past: Past):
        self.module, self.x, self.past = module, x, past
        d, count = x.shape[-1], module.features.count
        made = module.qkv(x) if module.reads == "attention" else module.qk(x)
        heads = module.features(made[..., : count * d], past).heads
        if made.shape[-1] > count * d:  # values as they are
            heads.append(split_heads(made[..., count * d :], module.n_head))
        self.q, self.k, *values = heads
        self.k, self._values = self._erase(self.k), values[0] if values else None
        self.decay, step = (None, None) if module.forget is None else module.forget(x)
        self.beta = self._erase(self._strength(step))
        self._written: list[Written] = []
        self._p: list[tuple[Tensor, Tensor]] = []

    def attention(self) -> Tensor:
        """`Σ_h O_h S_i^hᵀ q_i^h`, of values."""
        assert self._values is not None
        return self.module.out(self._output(self._read(self._values)))

    def velocity(self, p: Tensor, /) -> Tensor:
        """`Σ_h U_hᵀ S_i^hᵀ q_i^h`, of momenta; the heads' part normalised where outputs are."""
        velocity = self._output(self._read(self._momentum(p)))
        return linear(velocity, matrix(self.module.mobility).mT)

    def force(self, p: Tensor, /) -> Tensor:
        """`V x_i - Σ_h W_K^hᵀ ρ_i S_i^h w_i^h`, with `ρ_i = 1/β_i - |k_i|²`.

        As if keys were the projections: an activation, a convolution and a norm that stand between
        are not differentiated (what a convolution hands back would be of later tokens).
        """
        m = self.module
        assert m.potential is not None
        force = m.potential(self.x)
        if not m.repulsion:
            return force
        pi = self._momentum(p)
        written = self._write(pi)
        pull = forms.state_read(written.w, self.k, decay=self.decay, state=written.before)
        pull = (self._regulariser() * pull).to(self.x.dtype)
        return force - linear(merge_heads(pull), matrix(m.qk)[self.x.shape[-1] :].mT)

    def _regulariser(self) -> Tensor | float:
        """`ρ_i`; a sum is the limit of large ones, rescaled."""
        if self.module.rule == "sum":
            return 1.0
        squared = self.k.to(self.beta.dtype).square().sum(-1, keepdim=True)
        return 1 / self.beta.clamp(min=_SMALL) - squared

    def _strength(self, step: Tensor | None) -> Tensor:
        """`β_i`, `(B, H, T, 1)`, in float32 or better."""
        m, past = self.module, self.past
        wide = torch.promote_types(self.x.dtype, torch.float32)
        if m.ridge is not None:
            rho = m.ridge().to(wide)
            if m.rule == "ridge-n":
                rho = rho * _count(self.x, past)
            return write_strength(self.k, rho)
        if m.write is None:
            assert step is not None
            return step
        b = split_heads(m.write(self.x).to(wide).sigmoid(), m.n_head)
        if m.rule == "implicit":
            return b / (1 + b * self.k.to(wide).square().sum(-1, keepdim=True))
        return 2 * b if m.strength == "double" else b

    def _write(self, y: Tensor) -> Written:
        for known in self._written:
            if known.y is y:
                return known
        return self._solve(y, None)[1]

    def _read(self, y: Tensor) -> Tensor:
        """`q_iᵀS_i`, `(B, H, T, d_h)`."""
        for known in self._written:
            if known.y is y:
                return forms.weighted_sum(
                    self.q, self.k, known.w, decay=self.decay, state=known.before
                ).to(y.dtype)
        read, _ = self._solve(y, self.q)
        assert read is not None
        return read

    def _solve(self, y: Tensor, q: Tensor | None) -> tuple[Tensor | None, Written]:
        name = f"written{len(self._written)}"
        before = self.past.recall(name)
        values = self._erase(y)
        if self.module.rule == "sum":
            w = self.beta * values
            read = None
            if q is not None:
                read = forms.weighted_sum(q, self.k, w, decay=self.decay, state=before).to(y.dtype)
        else:
            read, w = forms.delta_rule(q, self.k, self.beta, values, decay=self.decay, state=before)
        if self.past.keeps:
            self.past.keep(name, accumulate(before, self.k, w, self.decay))
        self._written.append(Written(y, w, before))
        return read, self._written[-1]

    def _momentum(self, p: Tensor) -> Tensor:
        """`U p` by heads; made once, so that velocity and force of one `p` share a state."""
        for known, pi in self._p:
            if known is p:
                return pi
        self._p.append((p, split_heads(self.module.mobility(p), self.module.n_head)))
        return self._p[-1][1]

    def _output(self, read: Tensor) -> Tensor:
        return merge_heads(self.module.outputs(read, self.x))

    def _erase(self, x: Tensor) -> Tensor:
        return erase(x, self.past.padding, self.past.length)


def _count(x: Tensor, past: Past) -> Tensor:
    """The number of tokens that each sees, `(T, 1)` or `(B, 1, T, 1)`, at least 1."""
    n = x.shape[1]
    count = torch.arange(past.length + 1, past.length + n + 1, device=x.device)[:, None]
    return (
        count if past.padding is None else (count - past.padding[:, None, None, None]).clamp(min=1)
    )


def _require(
    reads: Reads,
    causality: Causality,
    rule: Rule,
    decay: str,
    strength: str,
    repulsion: bool,
    extras: Extras,
) -> None:
    """Refuse what does not go together."""
    refusals: dict[str, Any] = {
        "causality = 'joint' has no order of writing: use causality 'prefix'": causality
        != "prefix",
        f"strength = {strength!r} would have no effect with rule {rule!r}, which has its own: "
        "remove it": strength != "sigmoid" and rule in ("ridge", "ridge-n"),
        "strength = 'step' is the step of a decay: choose decay 'head'": strength == "step"
        and decay != "head",
        f"strength = 'double' needs rule 'delta', not {rule!r}: remove it or change the rule": (
            strength == "double" and rule != "delta"
        ),
        "repulsion = false needs a momentum, and would have no effect without it: remove it": (
            not repulsion and reads == "attention"
        ),
        "decay = 'channel' has no repulsion: set repulsion = false, or choose decay 'head'": (
            decay == "channel" and repulsion and reads == "momentum"
        ),
        "strength = 'step' knows no limit, but the delta rule is stable for |k|² β ≤ 2: use rule "
        "'sum'": strength == "step" and rule != "sum",
    }
    for refusal, holds in refusals.items():
        if holds:
            raise InputError(refusal)
