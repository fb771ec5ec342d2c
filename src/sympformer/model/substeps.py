"""How a layer moves the stream: attention substeps and MLP substeps (maths.md, 6)."""

from collections.abc import Callable
from typing import Literal, NamedTuple, cast

import torch
from torch import Tensor, nn

from sympformer.attention.past import Past
from sympformer.dynamics import UNDAMPED, Scheme, State
from sympformer.dynamics.scalar import advance
from sympformer.dynamics.trial import Known
from sympformer.model.clock import START, Pace, Tempo, timetable
from sympformer.model.layers import MLP, LayerNorm, LearnedScalar, Stream
from sympformer.model.oracle import AttentionOracle, OracleField


class Sum(nn.Module):
    """Attention and MLP at the same point: Euler instead of Lie-Trotter splitting."""

    def __init__(self, attention: AttentionOracle, mlp: MLP):
        super().__init__()
        self.attention, self.mlp = attention, mlp

    def forward(self, x: Tensor, past: Past) -> "SumField":
        """The field at positions `x` `(B, T, d)`."""
        return SumField(self.attention(x, past).attention() + self.mlp(x))


class SumField(OracleField):
    """A field of gradient flow."""

    def __init__(self, value: Tensor):
        self.value = value

    def attention(self) -> Tensor:
        """The sum of both oracles."""
        return self.value


class ResidualAttention(nn.Module):
    """`x' = x + Att(LN(x))`, the gradient flow."""

    def __init__(self, d: int, oracle: AttentionOracle | Sum, *, bias: bool = False):
        super().__init__()
        self.norm, self.oracle = LayerNorm(d, bias), oracle

    def forward(self, s: Stream, past: Past) -> Stream:
        """Step the stream."""
        return s._replace(x=s.x + self.oracle(self.norm(s.x), past).attention())


def look_ahead(start: float, *, gradual: bool) -> LearnedScalar:
    """How far to look along a velocity, `μ`: from `start`, or from 0 where all starts residual."""
    return LearnedScalar(0.0, "signed") if gradual else LearnedScalar(start, "unit")


def share_of(gradual: bool) -> LearnedScalar | None:
    """The share `κ` of the accelerated step, from 0; None where a step is that alone."""
    return LearnedScalar(0.0, "signed") if gradual else None


def shared(kappa: LearnedScalar | None, step: Tensor, residual: Callable[[], Tensor]) -> Tensor:
    """`(1 - κ) O + κ step`: with `κ = 0` the residual step, with 1 the accelerated one."""
    if kappa is None:
        return step
    o = residual()
    return advance(o, kappa(), step - o)


class Nesterov(nn.Module):
    """The learned parts of `v' = LN_v(β v + γ O(LN(x + μ v)))`, `x' = x + ν v'`.

    `ν` is learned in the triple momentum method and 1 elsewhere; without look-ahead `μ = 0`. A
    gradual one moves by `(1 - κ) O + κ ν v'`.
    """

    def __init__(
        self,
        d: int,
        *,
        lookahead: bool = True,
        triple: bool = False,
        gradual: bool = False,
        bias: bool = False,
    ):
        super().__init__()
        self.norm_x, self.norm_v = LayerNorm(d, bias), LayerNorm(d, bias)
        self.mu = look_ahead(0.9, gradual=gradual) if lookahead else None
        self.kappa = share_of(gradual)
        self.beta, self.gamma = LearnedScalar(0.9, "unit"), LearnedScalar(1.0, "positive")
        self.nu = LearnedScalar(1.0, "positive") if triple else None

    def look(self, x: Tensor, v: Tensor) -> Tensor:
        """The normalised point at which the oracle is asked."""
        return self.norm_x(x if self.mu is None else advance(x, self.mu(), v))

    def propose(self, v: Tensor, oracle: Tensor) -> Tensor:
        """`W = β v + γ O`."""
        return advance(self.beta() * v, self.gamma(), oracle)

    def move(self, x: Tensor, v: Tensor, oracle: Callable[[], Tensor]) -> Tensor:
        """`x + ν v`, or what a gradual step makes of it."""
        if self.kappa is not None:
            return x + shared(self.kappa, v if self.nu is None else self.nu() * v, oracle)
        return x + v if self.nu is None else advance(x, self.nu(), v)


class VelocityAttention(Nesterov):
    """Attention in velocity form (U): `u' = LN(W - C)`, `x' = x + u'`.

    `C` is left out (YuriiFormer, H0), taken on the incoming velocity (H1), or on the proposal `W`,
    half of it in the position (R2).
    """

    def __init__(
        self,
        d: int,
        oracle: AttentionOracle | Sum,
        *,
        connection: Literal["none", "incoming", "proposal"] = "none",
        lookahead: bool = True,
        triple: bool = False,
        gradual: bool = False,
        bias: bool = False,
    ):
        super().__init__(d, lookahead=lookahead, triple=triple, gradual=gradual, bias=bias)
        self.oracle, self.connection = oracle, connection

    def forward(self, s: Stream, past: Past) -> Stream:
        """Step the stream."""
        field = self.oracle(self.look(s.x, s.p), past)
        if self.connection == "proposal":
            w, c = field.proposal(s.p, self.beta(), self.gamma())
            step = self.norm_v(torch.sub(w, c, alpha=0.5))
            step = shared(self.kappa, step, field.attended)
            return s._replace(x=s.x + step, p=self.norm_v(w - c))
        # The connection first: attention then comes out of the same pass over the scores.
        c = field.connection(s.p) if self.connection == "incoming" else None
        w = self.propose(s.p, field.attended())
        u = self.norm_v(w if c is None else w - c)
        return s._replace(x=self.move(s.x, u, field.attended), p=u)


class MomentumAttention(nn.Module):
    """Attention in momentum form (S'), (L), stepped by a time discretisation; `p'` is normalised.

    A two-step scheme takes its past slopes from the layer below. A scheme that carries a copy of
    the state starts it anew in every layer: the MLP and the normalisation have moved the state
    since, and not the copy.

    Args:
        d: model dimension.
        oracle: built to be read for a momentum, or for the drift alone if it is the last.
        scheme: makes the discretisation, given its damping.
        damping: "constant", "nesterov" or "loglinear".
        initial_step: step sizes at the start.
        lookahead: ask the oracle at a point moved along the momentum.
        kicks: whether to move the momentum; no position depends on the last kick of a scheme whose
            drift comes first.
        hands_on: whether a layer follows that reads the momentum; it is normalised for that.
        gradual: move x by `(1 - κ) Att + κ (what the scheme does)`, the share κ learned from 0.
        bias: whether its norms have one.
    """

    def __init__(
        self,
        d: int,
        oracle: AttentionOracle,
        scheme: Callable[..., Scheme],
        *,
        damping: str = "loglinear",
        initial_step: float = 0.3,
        lookahead: bool = True,
        kicks: bool = True,
        hands_on: bool = True,
        gradual: bool = False,
        bias: bool = False,
    ):
        super().__init__()
        self.norm_x, self.oracle = LayerNorm(d, bias), oracle
        self.norm_p = LayerNorm(d, bias) if hands_on else None
        self.mu = look_ahead(0.05, gradual=gradual) if lookahead else None
        self.kappa = share_of(gradual)
        self.scheme, self.damping, self.kicks = scheme, damping, kicks
        blank = scheme(UNDAMPED)
        self.evaluations, self.copies_state = blank.evaluations, blank.copies_state
        self.h_x = LearnedScalar(initial_step, "positive")
        self.h_p = LearnedScalar(initial_step, "positive") if kicks else None
        self.coefficients = _scalars(START[damping] if kicks else {})
        self.constants = _scalars(blank.constants())

    @property
    def pace(self) -> Pace | None:
        """What it learns of its steps; None if there is no kick."""
        if self.h_p is None:
            return None
        coefficients = cast(dict[str, LearnedScalar], dict(self.coefficients.items()))
        return Pace(self.scheme, self.damping, self.h_x, self.h_p, coefficients)

    def forward(self, s: Stream, past: Past, tempo: Tempo | None = None) -> Stream:
        """Step the stream and its clock."""
        pace, pasts = self.pace, [past.part(str(i)) for i in range(self.evaluations)]
        if tempo is None and pace is not None:
            (tempo,) = timetable([pace], s.t)
        fresh = s.memory is None or self.copies_state
        if tempo is None:  # without a kick, neither the damping nor its clock is asked
            h, rate = (self.h_x(), self.h_x()), UNDAMPED
        else:
            h, rate = (tempo.h_x, tempo.h_p), Known(tempo.first if fresh else tempo.later)
        scheme = self.scheme(rate, **{name: scalar() for name, scalar in self.constants.items()})

        asked: list[OracleField] = []  # first at x itself, whatever the scheme

        def oracle(x: Tensor):
            at = self.norm_x(x if self.mu is None else advance(x, self.mu(), s.p))
            field = self.oracle(at, pasts.pop(0))
            asked.append(field)
            return field if self.kicks else Coasting(field)

        state = State(s.x, s.p)
        memory = scheme.init(state) if fresh else s.memory
        (x, p), memory = scheme.step(oracle, state, h, s.t, memory)
        p = p if self.norm_p is None else self.norm_p(p)
        if self.kappa is not None:
            x = s.x + shared(self.kappa, x - s.x, asked[0].attended)
        return s._replace(x=x, p=p, t=s.t if tempo is None else tempo.end, memory=memory)


class Coasting(NamedTuple):
    """A field without its force: momenta stay."""

    field: OracleField

    def velocity(self, p: Tensor) -> Tensor:
        """That of the field."""
        return self.field.velocity(p)

    def force(self, p: Tensor) -> Tensor:
        """Zero."""
        return torch.zeros_like(p)


def _scalars(values: dict[str, float]) -> nn.ModuleDict:
    return nn.ModuleDict({name: LearnedScalar(value, "positive") for name, value in values.items()})


class ResidualMLP(nn.Module):
    """`x' = x + MLP(LN(x + μ v))`, looking along the velocity `v` that attention induced.

    That is how far it moved the tokens, over its step.
    """

    def __init__(
        self,
        d: int,
        mlp: MLP,
        *,
        lookahead: bool = False,
        gradual: bool = False,
        bias: bool = False,
    ):
        super().__init__()
        self.norm, self.oracle = LayerNorm(d, bias), mlp
        self.mu = look_ahead(0.05, gradual=gradual) if lookahead else None

    def forward(self, s: Stream, moved: Tensor | None = None, h: Tensor | None = None) -> Stream:
        """Step the stream, which attention `moved` in a step `h` (None is 1)."""
        x = s.x
        if self.mu is not None and moved is not None:
            x = advance(x, self.mu() if h is None else self.mu() / h, moved)
        return s._replace(x=s.x + self.oracle(self.norm(x)))


class NesterovMLP(Nesterov):
    """`v' = LN(β v + γ MLP(LN(x + μ v)))`, `x' = x + v'`, on the stream's `p` or on its `v`."""

    def __init__(
        self,
        d: int,
        mlp: MLP,
        *,
        stream: Literal["p", "v"] = "p",
        lookahead: bool = True,
        triple: bool = False,
        gradual: bool = False,
        bias: bool = False,
    ):
        super().__init__(d, lookahead=lookahead, triple=triple, gradual=gradual, bias=bias)
        self.oracle, self.stream = mlp, stream

    def forward(self, s: Stream) -> Stream:
        """Step the stream."""
        v = getattr(s, self.stream)
        oracle = self.oracle(self.look(s.x, v))
        v = self.norm_v(self.propose(v, oracle))
        return s._replace(x=self.move(s.x, v, lambda: oracle), **{self.stream: v})
