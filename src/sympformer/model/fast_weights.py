"""Attention whose past is one matrix a head, written by a rule: the regularised Stein flow and kin.

A token writes to the state of its head, `S_i = D_i S_{i-1} + k_i w_iᵀ`, and reads `q_iᵀS_i`. What
it writes is the rule; `D_i` is a decay. With the delta rule that is the gradient flow of the
regularised Stein metric, with momenta as values its accelerated form (docs/delta.md says which
published model is which).
"""

import math
from typing import ClassVar, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sympformer.attention import forms, mesa
from sympformer.attention.delta import write_strength
from sympformer.attention.naive import Causality
from sympformer.attention.past import Past, erase, subtract
from sympformer.attention.prefix_sums import accumulate
from sympformer.dynamics.trial import Calls
from sympformer.errors import InputError
from sympformer.model.extras import NONE, Extras, Features, Outputs, extra_maps
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
from sympformer.products import linear

Rule = Literal["sum", "delta", "implicit", "ridge", "ridge-n", "mesa", "momentum"]
Decay = Literal["none", "head", "channel"]
Strength = Literal["sigmoid", "double", "step"]

RIDGE = 0.1
LEAST = 0.25
"""Of the penalties of a ridge regression, so that its systems stay well conditioned; as published
(MesaNet, arXiv:2506.05233)."""
_SOLVES = {"sum": 0, "momentum": 2, "mesa": 2 * (mesa.ITERATIONS + 1)}
"""States that a rule extends or reads beyond the one that tokens write to and read."""
_SMALL = 1e-30
"""Below every strength that matters; its inverse is finite."""


class FastWeights(AttentionOracle):
    """Heads with a state that every token writes to, by a rule, before it reads.

    | rule | `w_i` |
    |---|---|
    | sum | `β_i y_i` |
    | delta | `β_i (y_i - (D_i S_{i-1})ᵀk_i)`, `β_i` in (0, 1), or (0, 2) |
    | implicit | the same with `b_i / (1 + b_i k_i·k_i)` for β: a proximal step |
    | ridge, ridge-n | the same with `1 / (k_i·k_i + λ)`, or with `n_i λ` for λ |
    | mesa | none: what is read is the exact ridge regression of each prefix, all at once |
    | momentum | that of a velocity along the text, `M_i = μ_i M_{i-1} + η_i k_i (y_i - …)ᵀ` |

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
        bias: whether its projections have biases.

    Raises:
        InputError: options that do not go together.
    """

    answers: ClassVar[frozenset[Reads]] = EVERY - {"connection"}

    def __init__(
        self,
        d: int,
        n_head: int,
        *,
        reads: Reads = "attention",
        causality: Causality = "prefix",
        rule: Rule = "delta",
        decay: Decay = "none",
        strength: Strength = "sigmoid",
        repulsion: bool = True,
        extras: Extras = NONE,
        bias: bool = False,
    ):
        super().__init__(d, n_head, reads=reads, causality=causality)
        _require(reads, causality, rule, decay, strength, repulsion)
        self.d, self.rule, self.strength, self.repulsion = d, rule, strength, repulsion
        if reads in ATTENDING:
            self.qkv, self.out = Linear(d, 3 * d, bias), Linear(d, d, bias)
        else:
            self.qk = Linear(d, 2 * d, bias)
            self.potential = Linear(d, d, bias) if reads == "momentum" else None
        if reads in MOVING:
            self.mobility = Mobility(d)
        self.features = Features.of(d, n_head, extras, values=reads in ATTENDING)
        self.ridge = LearnedScalar(RIDGE, "positive") if rule in ("ridge", "ridge-n") else None
        self.penalty = Penalty(n_head, d // n_head) if rule == "mesa" else None
        learned = self.ridge is None and strength != "step"
        width = 3 * n_head if rule == "momentum" else n_head  # its η and μ are learned too
        self.write = Linear(d, width) if learned else None
        self.forget = Forget(d, n_head, decay == "channel") if decay != "none" else None
        self.outputs = Outputs.of(d, n_head, extras)

    def forward(self, x: Tensor, past: Past) -> "FastWeightsField":
        """The field at positions `x` `(B, T, d)`."""
        return FastWeightsField(self, x, past)

    def cost(self, calls: Calls) -> Cost:
        """Maps: q, k, v, O; or q, k, U p, Uᵀ, V x, W_Kᵀ. States: 1 to extend or to read one."""
        small = sum(p.numel() for m in (self.write, self.forget) if m for p in m.parameters())
        gate, solves = extra_maps(self, self.d), _SOLVES.get(self.rule, 1)
        extra = gate + small / self.d**2
        if self.reads == "attention":
            return Cost(4 + extra, states=2 + solves)
        attends = self.reads == "both"
        pulled = self.repulsion * calls.forces
        made = calls.momenta + calls.velocities + calls.forces + pulled + attends * (1 + gate)
        states = (1 + solves) * calls.momenta + calls.velocities + pulled + attends * (2 + solves)
        return Cost((2 + attends + extra) * calls.fields + made, states=states)


class Penalty(nn.Module):
    """The diagonal of Λ in a ridge regression, above 0.25, from 1."""

    def __init__(self, n_head: int, width: int):
        super().__init__()
        self.raw = nn.Parameter(torch.empty(n_head, width))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Start with 1."""
        nn.init.constant_(self.raw, math.log(math.expm1(1 - LEAST)))

    def forward(self) -> Tensor:
        """`(H, 1, d_h)`, in float32 or better."""
        raw = self.raw.to(torch.promote_types(self.raw.dtype, torch.float32))
        return LEAST + F.softplus(raw).unsqueeze(-2)


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
        widths = (d, d // n_head, d) if by_channel else (d, n_head)
        self.map = nn.Sequential(*map(Linear, widths, widths[1:]))
        self.start = Start(n_head, channels)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Log decay and step of tokens `(B, T, d)`: `(B, H, T, 1 or d_h)`, in float32 or better."""
        rate, bias = self.start.rate, self.start.bias
        raw = self.map(x)
        raw = raw.to(torch.promote_types(raw.dtype, torch.float32))
        step = split_heads(F.softplus(raw + bias), self.n_head)
        return -rate.exp()[:, None, None] * step, step


class Start(nn.Module):
    """What the decay is without looking at a token: rates `A` a head and biases `c` a channel."""

    def __init__(self, n_head: int, channels: int):
        super().__init__()
        self.rate = nn.Parameter(torch.empty(n_head))
        self.bias = nn.Parameter(torch.empty(channels))
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
        made = module.qkv(x) if module.reads in ATTENDING else module.qk(x)
        if module.features is None:
            heads = in_heads(made, module.d, module.n_head)
        else:
            heads = module.features(made, past).heads
        self.q, k, *self._values = heads
        self.k = self._erase(k)
        self.decay, step = (None, None) if module.forget is None else module.forget(x)
        self.beta = self._erase(self._strength(step))
        self._written: list[Written] = []
        self._reads = 0
        self._momenta: list[tuple[Tensor, Tensor]] = []

    def attention(self) -> Tensor:
        """`Σ_h O_h S_i^hᵀ q_i^h`, of values."""
        return self.module.out(self._output(self._read(self._values[0])))

    def velocity(self, p: Tensor, /) -> Tensor:
        """`Σ_h U_hᵀ S_i^hᵀ q_i^h`, of momenta; the heads' part normalised where outputs are."""
        return linear(self._output(self._read(self._by_heads(p))), matrix(self.module.mobility).mT)

    def force(self, p: Tensor, /) -> Tensor:
        """`V x_i - Σ_h W_K^hᵀ ρ_i S_i^h w_i^h`, with `ρ_i = 1/β_i - |k_i|²`.

        As if keys were the projections: an activation, a convolution and a norm that stand between
        are not differentiated (what a convolution hands back would be of later tokens). Beside an
        attention, `V x_i` is what it averages, `Σ_h O_h v_i^h`.
        """
        m = self.module
        if m.reads == "both":
            force = m.out(merge_heads(self._values[0]))
        else:
            assert m.potential is not None, "read for the drift alone, it has no force"
            force = m.potential(self.x)
        if not m.repulsion:
            return force
        written = self._write(self._by_heads(p))
        pull = forms.state_read(written.w, self.k, decay=self.decay, state=written.before)
        pull = (self._regulariser() * pull).to(self.x.dtype)
        projections = m.qkv if m.reads == "both" else m.qk
        return force - linear(merge_heads(pull), matrix(projections)[m.d : 2 * m.d].mT)

    def weights(self) -> Tensor:
        """What each token reads of each: reading is linear in the values, here one-hot ones."""
        tokens = self.x.shape[1]
        one_hot = torch.eye(tokens, dtype=self.q.dtype, device=self.q.device)
        return self._read(one_hot.expand(*self.q.shape[:2], tokens, tokens))

    def energy(self) -> Tensor:
        """`-½ x_iᵀV x_i`; of attention, `V x` is `Σ_h O_h v^h`. NaN where there is no V."""
        m = self.module
        if m.reads == "drift":
            return torch.full_like(self.x[..., 0], math.nan)
        if m.reads == "attention":
            driven = m.out(merge_heads(self._values[0]))
        else:
            assert m.potential is not None
            driven = m.potential(self.x)
        return -(self.x * driven).sum(-1) / 2

    def _strength(self, step: Tensor | None) -> Tensor:
        """`β_i`, `(B, H, T, 1)`, in float32 or better."""
        m, dtype = self.module, torch.promote_types(self.x.dtype, torch.float32)
        if m.ridge is not None:
            rho = m.ridge().to(dtype)
            return write_strength(self.k, rho * self._count() if m.rule == "ridge-n" else rho)
        if m.write is None:
            assert step is not None
            return step
        b = split_heads(m.write(self.x).to(dtype).sigmoid(), m.n_head)  # one number, or three
        if m.rule == "implicit":
            return b / (1 + b * self.k.to(dtype).square().sum(-1, keepdim=True))
        return 2 * b if m.strength == "double" else b

    def _count(self) -> Tensor:
        """The number of tokens that each sees, `(T, 1)` or `(B, 1, T, 1)`, at least 1."""
        start, end = self.past.length + 1, self.past.length + self.x.shape[1] + 1
        count = torch.arange(start, end, device=self.x.device)[:, None]
        return subtract(count, self.past.padding)

    def _regulariser(self) -> Tensor | float:
        """`ρ_i`; a sum is the limit of large ones, rescaled."""
        if self.module.rule == "sum":
            return 1.0
        squared = self.k.to(self.beta.dtype).square().sum(-1, keepdim=True)
        return 1 / self.beta.clamp(min=_SMALL) - squared

    def _read(self, y: Tensor) -> Tensor:
        """`q_iᵀS_i`, `(B, H, T, d_h)`, of what tokens with values `y` write."""
        if self.module.rule in ("mesa", "momentum"):
            return self._read_at_once(y)
        for known in self._written:
            if known.y is y:
                options = {"decay": self.decay, "state": known.before}
                return forms.weighted_sum(self.q, self.k, known.w, **options).to(y.dtype)
        read = self._solve(y, self.q)
        assert read is not None
        return read

    def _write(self, y: Tensor) -> Written:
        """What tokens with values `y` write: one state for velocity and force of a momentum."""
        for known in self._written:
            if known.y is y:
                return known
        self._solve(y, None)
        return self._written[-1]

    def _read_at_once(self, y: Tensor) -> Tensor:
        """What rules read that write no vectors: those whose past are two matrices."""
        m, names = self.module, [f"{name}{self._reads}" for name in ("first", "second")]
        self._reads += 1
        first, second = (self.past.recall(name) for name in names)
        state = None if first is None or second is None else (first, second)
        y, decay = self._erase(y), self.decay
        if m.rule == "momentum":
            beta, eta, mu = self.beta.unbind(-1)
            strengths = {"beta": beta[..., None], "eta": eta[..., None], "mu": mu[..., None]}
            read, after = forms.momentum_delta_rule(
                self.q, self.k, y, **strengths, decay=decay, state=state
            )
        else:
            assert m.penalty is not None
            weights = {"beta": self.beta, "decay": decay}
            ridge = m.penalty()
            read = forms.prefix_ridge(self.q, self.k, y, ridge=ridge, **weights, state=state)
            after = mesa.accumulate(state, self.k, y, **weights) if self.past.keeps else ()
        if self.past.keeps:
            for name, value in zip(names, after, strict=True):
                self.past.keep(name, value)
        return read

    def _solve(self, y: Tensor, q: Tensor | None) -> Tensor | None:
        """Write `y`, remember it, and return what `q` reads of it."""
        name = f"written{len(self._written)}"
        before, values = self.past.recall(name), self._erase(y)
        options = {"decay": self.decay, "state": before}
        if self.module.rule == "sum":
            w = self.beta * values
            read = None if q is None else forms.weighted_sum(q, self.k, w, **options).to(y.dtype)
        else:
            read, w = forms.delta_rule(q, self.k, self.beta, values, **options)
        if self.past.keeps:
            self.past.keep(name, accumulate(before, self.k, w, self.decay))
        self._written.append(Written(y, w, before))
        return read

    def _by_heads(self, p: Tensor) -> Tensor:
        """`U p` by heads; made once, so that velocity and force of one `p` share a state."""
        for known, pi in self._momenta:
            if known is p:
                return pi
        pi = split_heads(self.module.mobility(p), self.module.n_head)
        self._momenta.append((p, pi))
        return pi

    def _output(self, read: Tensor) -> Tensor:
        outputs = self.module.outputs
        return merge_heads(read if outputs is None else outputs(read, self.x))

    def _erase(self, x: Tensor) -> Tensor:
        return erase(x, self.past.padding, self.past.length)


def _require(
    reads: Reads,
    causality: Causality,
    rule: Rule,
    decay: Decay,
    strength: Strength,
    repulsion: bool,
) -> None:
    """Refuse what does not go together."""
    own = rule in ("ridge", "ridge-n")
    refusals = [
        (causality != "prefix", "fast weights have no joint sums: use causality 'prefix'"),
        (
            own and strength != "sigmoid",
            f"strength = {strength!r} would have no effect: rule {rule!r} has its own",
        ),
        (
            strength == "double" and rule != "delta",
            f"strength = 'double' needs rule 'delta', not {rule!r}",
        ),
        (
            strength == "step" and (rule != "sum" or decay != "head"),
            "strength = 'step', that of the decay, needs rule 'sum' and decay 'head'",
        ),
        (
            not repulsion and reads == "attention",
            "repulsion = false needs a momentum, and would have no effect without it",
        ),
        (
            repulsion and reads in ("momentum", "both") and decay == "channel",
            "decay = 'channel' has no repulsion: set repulsion = false, or decay = 'head'",
        ),
        (
            repulsion and reads in ("momentum", "both") and rule in ("mesa", "momentum"),
            f"rule {rule!r} has no repulsion: set repulsion = false, or another rule",
        ),
        (
            decay == "channel" and rule in ("mesa", "momentum"),
            f"rule {rule!r} has a decay a head only: set decay = 'head' or 'none'",
        ),
    ]
    for holds, refusal in refusals:
        if holds:
            raise InputError(refusal)
