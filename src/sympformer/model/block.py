"""One layer, which stands alone: positions and momenta in, the same out."""

import copy
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Self

from torch import Tensor, nn

from sympformer.attention.past import NoPast, Past
from sympformer.errors import InputError
from sympformer.model.attentions import attention_oracle
from sympformer.model.cache import Part
from sympformer.model.clock import Tempo
from sympformer.model.config import AROUND, ModelConfig
from sympformer.model.layers import MLP, LearnedScalar, Stream
from sympformer.model.substeps import (
    MomentumAttention,
    NesterovMLP,
    ResidualAttention,
    ResidualMLP,
    Sum,
    VelocityAttention,
)


class Block(nn.Module):
    """An attention substep, then an MLP substep (maths.md, 6).

    It initialises itself as those of a language model are.

    Args:
        d: model dimension.
        n_head: attention heads.
        last: whether no layer follows. In momentum form nothing reads the momentum then, and where
            the drift comes before the kick (AB2), nothing depends on the kick: the layer has no
            parameters for what would be in vain.
        at_rest: whether its tokens come without momentum. In momentum form there is nothing to look
            along then, and no look-ahead is learned.
        composition: what the layer is made of, the fields of `ModelConfig` by name: `dynamics`,
            `form`, `scheme`, `connection`, `attention`, its options, ...

    Raises:
        InputError: a combination that makes no sense.
    """

    def __init__(
        self, d: int, n_head: int, *, last: bool = False, at_rest: bool = False, **composition: Any
    ):
        super().__init__()
        c = _layer(partial(ModelConfig, **composition), d, n_head, composition)
        self.d = d
        if c.causality == "ensembles":
            raise InputError("ensembles are of a whole model: a layer of them is one of 'joint'")
        oracle = attention_oracle(
            c.attention, d, n_head, c.reads(last), c.causality, c.options, c.bias
        )
        mlp = MLP(d, c.mlp_width or 4 * d, c.mlp, bias=c.bias) if c.mlp != "none" else None
        self.injection = LearnedScalar(1.0, "real") if c.injection else None
        euler = c.splitting == "euler"
        together = oracle if mlp is None or not euler else Sum(oracle, mlp)
        if mlp is None or euler:
            rest = None
        elif c.dynamics in ("yurii", "polyak", "tmm") or c.mlp_velocity != "attention":
            rest = NesterovMLP(
                d,
                mlp,
                stream="v" if c.mlp_velocity == "own" else "p",
                lookahead=c.looks,
                triple=c.dynamics == "tmm",
                gradual=c.gradual,
                bias=c.bias,
            )
        else:
            looks = c.dynamics == "symp" and c.looks
            rest = ResidualMLP(d, mlp, lookahead=looks, gradual=c.gradual, bias=c.bias)
        if c.dynamics == "none":
            self.attention = ResidualAttention(d, together, bias=c.bias)
        elif c.in_momentum_form:
            self.attention = MomentumAttention(
                d,
                oracle,
                c.make_scheme,
                damping=c.damping,
                initial_step=c.initial_step,
                lookahead=c.looks and not at_rest,
                kicks=not (last and c.drifts_last),
                hands_on=not (last and c.ends_at_rest),
                gradual=c.gradual,
                bias=c.bias,
            )
        else:
            self.attention = VelocityAttention(
                d,
                together,
                connection=c.connection,
                lookahead=c.looks,
                triple=c.dynamics == "tmm",
                gradual=c.gradual,
                bias=c.bias,
            )
        self.mlp = rest
        self.looks_along_attention = isinstance(rest, ResidualMLP) and rest.mu is not None

    @classmethod
    def preset(
        cls, name: str, d: int, n_head: int, *, last: bool = False, **composition: Any
    ) -> Self:
        """The layer of a preset (`sympformer.presets()`), with any field overridden.

        Raises:
            InputError: a combination that makes no sense, or a preset that is more than its layers.
        """
        make = partial(ModelConfig.preset, name, **composition)
        config = _layer(make, d, n_head, composition)
        if config.model:
            raise InputError(
                f"preset {name!r} is a whole model, which has no layer of ours: take a part of "
                "sympformer.build(...).model"
            )
        if config.match_parameters:
            raise InputError(
                f"preset {name!r} sets the width of its MLPs by the whole model: take "
                "sympformer.Block(..., mlp_width=)"
            )
        return cls(d, n_head, last=last, **config.of_block())

    def reset_parameters(self) -> None:
        """Draw every weight anew, in the order in which the parts were built."""
        reset_parts(self)

    def forward(
        self,
        x: Tensor | Stream,
        p: Tensor | None = None,
        *,
        past: Past | None = None,
        tempo: Tempo | None = None,
    ) -> Any:
        """Make one step.

        Args:
            x: positions `(B, T, d)`; or a `Stream`, which also carries what a stack of layers
                shares: the clock of the damping, the past of a two-step scheme, the MLP's velocity.
            p: momenta `(B, T, d)`, in velocity form velocities; at rest if not given.
            past: earlier tokens, a part of a `Recorder`; none if not given.
            tempo: what depends on no token, if it is known already.

        Returns:
            `(x, p)`, or a stream for a stream.

        Raises:
            InputError: shapes that do not fit, a past of other rows, or nothing to inject.
        """
        s = x if isinstance(x, Stream) else Stream.start(x, p)
        if s.x.ndim != 3 or s.x.shape[-1] != self.d:
            raise InputError(f"positions must be (B, T, {self.d}), not {tuple(s.x.shape)}")
        if isinstance(past, Part):
            past.require_rows(len(s.x))
        out = self._step(s, NoPast() if past is None else past, tempo)
        return out if isinstance(x, Stream) else (out.x, out.p)

    def _step(self, s: Stream, past: Past, tempo: Tempo | None) -> Stream:
        if self.injection is not None:
            if s.injected is None:
                raise InputError(
                    "this layer adds something to every position: call it with "
                    "Stream.start(x, injected=...), (B, T, d)"
                )
            s = s._replace(x=s.x + self.injection() * s.injected)
        before = s.x
        if isinstance(self.attention, MomentumAttention):
            s = self.attention(s, past, tempo)
        else:
            s = self.attention(s, past)
        if self.mlp is None or not self.looks_along_attention:
            return s if self.mlp is None else self.mlp(s)
        h = None
        if isinstance(self.attention, MomentumAttention):
            h = self.attention.h_x() if tempo is None else tempo.h_x
        return self.mlp(s, moved=s.x - before, h=h)


def _layer(
    make: Callable[..., ModelConfig], d: int, n_head: int, composition: Mapping[str, Any]
) -> ModelConfig:
    """The config of a layer, which `make` makes of its sizes.

    Raises:
        InputError: what `make` refuses, in the words of `Block`; a field that is not of a layer.
    """
    if outside := sorted(AROUND & composition.keys()):
        raise InputError(
            f"{outside[0]} is of a whole model, and no option of a layer: leave it out"
        )
    try:
        return make(n_embd=d, n_head=n_head)
    except InputError as error:
        raise InputError(str(error).replace("n_embd", "d")) from None


def reset_parts(whole: nn.Module) -> None:
    """Let every part of a block or a model initialise itself, once, though blocks may share it."""
    for part in whole.modules():
        reset = getattr(part, "reset_parameters", None)
        if part is not whole and not isinstance(part, Block) and callable(reset):
            reset()


def loop(blocks: Sequence[Block], n_layer: int) -> list[Block]:
    """The blocks of every application, made of these blocks, each with scalars of its own."""
    more = [_twin(blocks[i % len(blocks)]) for i in range(len(blocks), n_layer)]
    return [*blocks, *more]


def _twin(block: Block) -> Block:
    """The same parts, but for the learned scalars, which are copied."""
    shared = {
        id(part): part
        for part in block.modules()
        if not any(isinstance(m, LearnedScalar) for m in part.modules())
    }
    return copy.deepcopy(block, shared)
