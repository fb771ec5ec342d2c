"""How one layer moves the stream: an attention substep, then an MLP substep (maths.md, 6)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from sympformer.attention.softmax import Past
from sympformer.dynamics import SCHEMES, State, damping
from sympformer.dynamics.scalar import advance
from sympformer.model.config import ModelConfig
from sympformer.model.layers import LayerNorm, Scalar, Stream
from sympformer.model.oracles import attention_oracle, mlp_oracle


class ResidualAttention(nn.Module):
    """`x' = x + Att(LN(x))`, the gradient flow."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.norm = LayerNorm(config.n_embd)
        self.oracle = attention_oracle(config)

    def forward(self, s: Stream, past: Past) -> Stream:
        """Step the stream."""
        return s._replace(x=s.x + self.oracle(self.norm(s.x), past).attention())


class Nesterov(nn.Module):
    """The learned parts of `v' = LN_v(β v + γ O(LN(x + μ v)))`, `x' = x + ν v'`.

    `ν` is learned in the triple momentum method and 1 elsewhere; without look-ahead `μ = 0`.
    """

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.norm_x, self.norm_v = LayerNorm(config.n_embd), LayerNorm(config.n_embd)
        looks = config.lookahead and config.dynamics != "polyak"
        self.mu = Scalar(0.9, "unit") if looks else None
        self.beta, self.gamma = Scalar(0.9, "unit"), Scalar(1.0, "positive")
        self.nu = Scalar(1.0, "positive") if config.dynamics == "tmm" else None

    def look(self, x: Tensor, v: Tensor) -> Tensor:
        """The normalised point at which the oracle is asked."""
        return self.norm_x(x if self.mu is None else advance(x, self.mu(), v))

    def propose(self, v: Tensor, oracle: Tensor) -> Tensor:
        """`W = β v + γ O`."""
        return advance(self.beta() * v, self.gamma(), oracle)

    def move(self, x: Tensor, v: Tensor) -> Tensor:
        """`x + ν v`."""
        return x + v if self.nu is None else advance(x, self.nu(), v)


class VelocityAttention(Nesterov):
    """Attention in velocity form (U): `u' = LN(W - C)`, `x' = x + u'`.

    `C` is left out (YuriiFormer, H0), taken on the incoming velocity (H1), or on the proposal `W`,
    half of it in the position (R2).
    """

    def __init__(self, config: ModelConfig):
        super().__init__(config)
        self.oracle = attention_oracle(config)
        self.connection = config.connection

    def forward(self, s: Stream, past: Past) -> Stream:
        """Step the stream."""
        field = self.oracle(self.look(s.x, s.p), past)
        if self.connection == "proposal":
            w, c = field.proposal(s.p, self.beta(), self.gamma())
            return s._replace(x=s.x + self.norm_v(torch.sub(w, c, alpha=0.5)), p=self.norm_v(w - c))
        # The connection first: attention then comes out of the same pass over the scores.
        c = field.connection(s.p) if self.connection == "incoming" else None
        w = self.propose(s.p, field.attention())
        u = self.norm_v(w if c is None else w - c)
        return s._replace(x=self.move(s.x, u), p=u)


class MomentumAttention(nn.Module):
    """Attention in momentum form (S'), (L), stepped by a time discretisation; `p'` is normalised.

    A two-step scheme takes its past slopes from the layer below. A scheme that carries a copy of
    the state starts it anew in every layer: the MLP and the normalisation have moved the state
    since, and not the copy.
    """

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.norm_x, self.norm_p = LayerNorm(config.n_embd), LayerNorm(config.n_embd)
        self.oracle = attention_oracle(config)
        self.mu = Scalar(0.05, "unit") if config.lookahead else None
        self.scheme, self.damping = SCHEMES[config.scheme], config.damping
        h = config.initial_step
        self.h_x, self.h_p = Scalar(h, "positive"), Scalar(h, "positive")
        coefficients = {
            "constant": {"alpha": 1.0},
            "nesterov": {"r": 3.0},
            "loglinear": {"c_log": 3.0, "c_lin": 1e-4},
        }[config.damping]
        self.coefficients = _scalars(coefficients)
        self.constants = _scalars(self.scheme.constants())

    def forward(self, s: Stream, past: Past) -> Stream:
        """Step the stream and its clock."""

        def oracle(x: Tensor):
            return self.oracle(
                self.norm_x(x if self.mu is None else advance(x, self.mu(), s.p)), past
            )

        rate = damping(self.damping, **{k: c() for k, c in self.coefficients.items()})
        scheme = self.scheme(rate, **{k: c() for k, c in self.constants.items()})
        h = self.h_x(), self.h_p()
        state = State(s.x, s.p)
        fresh = s.memory is None or scheme.copies_state
        memory = scheme.init(state) if fresh else s.memory
        (x, p), memory = scheme.step(oracle, state, h, s.t, memory)
        return s._replace(x=x, p=self.norm_p(p), t=s.t + h[1], memory=memory)


def _scalars(values: dict[str, float]) -> nn.ModuleDict:
    return nn.ModuleDict({name: Scalar(value, "positive") for name, value in values.items()})


class ResidualMLP(nn.Module):
    """`x' = x + MLP(LN(x + μ v))`, looking along the velocity `v` that attention induced."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.norm, self.oracle = LayerNorm(config.n_embd), mlp_oracle(config)
        looks = config.dynamics == "symp" and config.lookahead
        self.mu = Scalar(0.05, "unit") if looks else None

    def forward(self, s: Stream) -> Stream:
        """Step the stream."""
        x = s.x if self.mu is None else advance(s.x, self.mu(), s.v)
        return s._replace(x=s.x + self.oracle(self.norm(x)))


class NesterovMLP(Nesterov):
    """`v' = LN(β v + γ MLP(LN(x + μ v)))`, `x' = x + v'`, on the stream's `p` or on its `v`."""

    def __init__(self, config: ModelConfig, stream: str):
        super().__init__(config)
        self.oracle, self.stream = mlp_oracle(config), stream

    def forward(self, s: Stream) -> Stream:
        """Step the stream."""
        v = getattr(s, self.stream)
        v = self.norm_v(self.propose(v, self.oracle(self.look(s.x, v))))
        return s._replace(x=self.move(s.x, v), **{self.stream: v})


class Block(nn.Module):
    """One layer: the substeps that a config asks for."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.injection = Scalar(1.0, "real") if config.injection else None
        self.attention = _attention_substep(config)
        self.mlp = _mlp_substep(config)
        self.looks_along_attention = isinstance(self.mlp, ResidualMLP) and self.mlp.mu is not None

    def forward(self, s: Stream, past: Past) -> Stream:
        """Step the stream by one layer."""
        if self.injection is not None:
            s = s._replace(x=s.x + self.injection() * s.injected)
        before = s.x
        s = self.attention(s, past)
        if self.looks_along_attention:
            h = self.attention.h_x() if isinstance(self.attention, MomentumAttention) else 1
            s = s._replace(v=(s.x - before) / h)
        return s if self.mlp is None else self.mlp(s)


def loop(blocks: Sequence[Block], config: ModelConfig) -> list[Block]:
    """The blocks of every application, made of these blocks, each with scalars of its own."""
    fresh = [Block(config) for _ in range(config.n_layer - len(blocks))]
    for i, block in enumerate(fresh):
        _share(block, blocks[i % len(blocks)])
    return [*blocks, *fresh]


def _share(module: nn.Module, source: nn.Module) -> None:
    """Give `module` the parts of `source`, but for the learned scalars."""
    for name, part in source.named_children():
        if not any(isinstance(m, Scalar) for m in part.modules()):
            setattr(module, name, part)
        elif not isinstance(part, Scalar):
            _share(getattr(module, name), part)


def _attention_substep(config: ModelConfig) -> nn.Module:
    if config.dynamics == "none":
        return ResidualAttention(config)
    return MomentumAttention(config) if config.in_momentum_form else VelocityAttention(config)


def _mlp_substep(config: ModelConfig) -> nn.Module | None:
    if config.splitting == "euler":
        return None  # part of the attention substep's oracle
    if config.dynamics in ("yurii", "polyak", "tmm") or config.mlp_velocity == "momentum":
        return NesterovMLP(config, "p")
    if config.mlp_velocity == "own":
        return NesterovMLP(config, "v")
    return ResidualMLP(config)
