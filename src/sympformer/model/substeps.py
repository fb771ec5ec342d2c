"""How one layer moves the stream: an attention substep, then an MLP substep (maths.md, 6)."""

from torch import Tensor, nn

from sympformer.attention.softmax import Past
from sympformer.dynamics import SCHEMES, State, damping
from sympformer.model.attention import Attention
from sympformer.model.config import ModelConfig
from sympformer.model.layers import MLP, LayerNorm, Scalar, Stream


class ResidualAttention(nn.Module):
    """`x' = x + Att(LN(x))`, the gradient flow."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.norm = LayerNorm(config.n_embd)
        self.oracle = Attention(config)

    def forward(self, s: Stream, past: Past) -> Stream:
        """Step the stream."""
        return s._replace(x=s.x + self.oracle(self.norm(s.x), past).attention())


class Nesterov(nn.Module):
    """The learned parts of `v' = LN_v(β v + γ O(LN(x + μ v)))`; without look-ahead `μ = 0`."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.norm_x, self.norm_v = LayerNorm(config.n_embd), LayerNorm(config.n_embd)
        self.mu = Scalar(0.9, "unit") if config.lookahead else None
        self.beta, self.gamma = Scalar(0.9, "unit"), Scalar(1.0, "positive")

    def look(self, x: Tensor, v: Tensor) -> Tensor:
        """The normalised point at which the oracle is asked."""
        return self.norm_x(x if self.mu is None else x + self.mu() * v)

    def propose(self, v: Tensor, oracle: Tensor) -> Tensor:
        """`W = β v + γ O`."""
        return self.beta() * v + self.gamma() * oracle


class VelocityAttention(Nesterov):
    """Attention in velocity form (U): `u' = LN(W - C)`, `x' = x + u'`.

    `C` is left out (YuriiFormer, H0), taken on the incoming velocity (H1), or on the proposal `W`,
    half of it in the position (R2).
    """

    def __init__(self, config: ModelConfig):
        super().__init__(config)
        self.oracle = Attention(config)
        self.connection = config.connection

    def forward(self, s: Stream, past: Past) -> Stream:
        """Step the stream."""
        field = self.oracle(self.look(s.x, s.p), past)
        w = self.propose(s.p, field.attention())
        if self.connection == "proposal":
            c = field.connection(w)
            return s._replace(x=s.x + self.norm_v(w - c / 2), p=self.norm_v(w - c))
        u = self.norm_v(w - field.connection(s.p) if self.connection == "incoming" else w)
        return s._replace(x=s.x + u, p=u)


class MomentumAttention(nn.Module):
    """Attention in momentum form (S'), stepped by a time discretisation; `p' ` is normalised."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.norm_x, self.norm_p = LayerNorm(config.n_embd), LayerNorm(config.n_embd)
        self.oracle = Attention(config)
        self.mu = Scalar(0.05, "unit") if config.lookahead else None
        self.scheme, self.damping = SCHEMES[config.scheme], config.damping
        h = 0.3 if self.scheme.order == 1 else 0.01
        self.h_x, self.h_p = Scalar(h, "positive"), Scalar(h, "positive")
        coefficients = {
            "constant": {"alpha": 1.0},
            "nesterov": {"r": 3.0},
            "loglinear": {"c_log": 3.0, "c_lin": 1e-4},
        }[config.damping]
        self.coefficients = nn.ModuleDict(
            {name: Scalar(value, "positive") for name, value in coefficients.items()}
        )

    def forward(self, s: Stream, past: Past) -> Stream:
        """Step the stream and its clock."""

        def oracle(x: Tensor):
            return self.oracle(self.norm_x(x if self.mu is None else x + self.mu() * s.p), past)

        scheme = self.scheme(
            damping(self.damping, **{k: c() for k, c in self.coefficients.items()})
        )
        h = self.h_x(), self.h_p()
        state = State(s.x, s.p)
        memory = scheme.init(state) if s.memory is None else s.memory
        (x, p), memory = scheme.step(oracle, state, h, s.t, memory)
        return s._replace(x=x, p=self.norm_p(p), t=s.t + h[1], memory=memory)


class ResidualMLP(nn.Module):
    """`x' = x + MLP(LN(x + μ v))`, looking along the velocity `v` that attention induced."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.norm, self.oracle = LayerNorm(config.n_embd), MLP(config.n_embd)
        looks = config.dynamics == "symp" and config.lookahead
        self.mu = Scalar(0.05, "unit") if looks else None

    def forward(self, s: Stream) -> Stream:
        """Step the stream."""
        x = s.x if self.mu is None else s.x + self.mu() * s.v
        return s._replace(x=s.x + self.oracle(self.norm(x)))


class NesterovMLP(Nesterov):
    """`v' = LN(β v + γ MLP(LN(x + μ v)))`, `x' = x + v'`, on the stream's `p` or on its `v`."""

    def __init__(self, config: ModelConfig, stream: str):
        super().__init__(config)
        self.oracle, self.stream = MLP(config.n_embd), stream

    def forward(self, s: Stream) -> Stream:
        """Step the stream."""
        v = getattr(s, self.stream)
        v = self.norm_v(self.propose(v, self.oracle(self.look(s.x, v))))
        return s._replace(x=s.x + v, **{self.stream: v})


class Block(nn.Module):
    """One layer: the substeps that a config asks for."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.attention = _attention_substep(config)
        self.mlp = _mlp_substep(config)
        self.looks_along_attention = isinstance(self.mlp, ResidualMLP) and self.mlp.mu is not None

    def forward(self, s: Stream, past: Past) -> Stream:
        """Step the stream by one layer."""
        before = s.x
        s = self.attention(s, past)
        if self.looks_along_attention:
            h = self.attention.h_x() if isinstance(self.attention, MomentumAttention) else 1
            s = s._replace(v=(s.x - before) / h)
        return self.mlp(s)


def _attention_substep(config: ModelConfig) -> nn.Module:
    if config.dynamics == "none":
        return ResidualAttention(config)
    if config.dynamics == "symp" and config.form == "momentum":
        return MomentumAttention(config)
    return VelocityAttention(config)


def _mlp_substep(config: ModelConfig) -> nn.Module:
    if config.dynamics == "yurii" or config.mlp_velocity == "momentum":
        return NesterovMLP(config, "p")
    if config.mlp_velocity == "own":
        return NesterovMLP(config, "v")
    return ResidualMLP(config)
