"""What all attention oracles of a language model share: heads, and what they can be read for."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from inspect import Parameter, signature
from typing import Any, ClassVar, Literal, NamedTuple, get_args, get_type_hints

from torch import Tensor, nn

from sympformer.attention.naive import Causality
from sympformer.attention.past import Past
from sympformer.dynamics.trial import Calls
from sympformer.errors import InputError, lookup

Reads = Literal["attention", "connection", "momentum", "drift", "both"]
"""What an oracle is built to be read for: attention; attention and the connection of its metric;
velocity and force of a momentum; the velocity alone; both attention and a momentum's two."""
EVERY: frozenset[Reads] = frozenset(get_args(Reads))
MOVING = ("momentum", "drift", "both")
"""Where there is a velocity of a momentum."""
ATTENDING = ("attention", "connection", "both")
"""Where there is attention."""


class Cost(NamedTuple):
    """Products that one evaluation makes; a product of width w is 2w operations."""

    maps: float
    """Of a token with a matrix `(d, d)`."""
    pairs: float = 0
    """For each visible pair of tokens, of width d."""
    states: float = 0
    """Of a token with a state, `(d, d / n_head)`."""


class AttentionOracle(nn.Module):
    """Projects tokens to heads; calling it evaluates the kernel once.

    Heads: one kernel each ("independent"), or one kernel of the scores averaged over heads
    ("averaged"), which is a single head of full width with scale `1/(H √d_h)`, maths.md "Heads".

    A kind of attention of your own is a class below this one. The keyword arguments of its
    constructor, `reads` and `causality` apart, are its options: `ModelConfig` takes them by name,
    and refuses what the constructor refuses. If it can have biases, it has an argument `bias`.

    Args:
        d: model dimension, a multiple of `n_head`.
        n_head: heads.
        reads: what it will be read for.
        causality: "prefix" sums over j ≤ i, "joint" over all tokens.
        heads: see above.

    Raises:
        InputError: it cannot be read so, or the sizes do not fit.
    """

    answers: ClassVar[frozenset[Reads]] = frozenset(
        {"attention", "connection", "momentum", "drift"}
    )
    """What it can be read for."""

    def __init__(
        self,
        d: int,
        n_head: int,
        *,
        reads: Reads = "attention",
        causality: Causality = "prefix",
        heads: Literal["independent", "averaged"] = "independent",
    ):
        super().__init__()
        if d % n_head:
            raise InputError(f"n_embd ({d}) must be a multiple of n_head ({n_head})")
        if reads not in self.answers:
            has = " and ".join(sorted(self.answers))
            raise InputError(
                f"{type(self).__name__} cannot be read for {reads}, only for {has}: choose another "
                "attention, or another form or connection"
            )
        averaged = heads == "averaged"
        self.reads: Reads = reads
        self.n_head = 1 if averaged else n_head
        self.scale = 1 / math.sqrt(d // n_head) / (n_head if averaged else 1)
        self.causality: Causality = causality

    def forward(self, x: Tensor, past: Past) -> "OracleField":
        """The field at positions `x` `(B, T, d)`."""
        raise NotImplementedError

    def cost(self, calls: Calls) -> Cost:
        """What it computes for one token when it is called so often."""
        raise InputError(f"the operations of {type(self).__name__} are not counted: it has no cost")


class OracleField:
    """One evaluation of an oracle; all arguments and results are `(B, T, d)`.

    An oracle need only have the parts that it says it can be read for.
    """

    _attended: Tensor | None = None

    def attended(self) -> Tensor:
        """`attention`, made once however often it is asked for."""
        if self._attended is None:
            self._attended = self.attention()
        return self._attended

    def attention(self) -> Tensor:
        """The acceleration at rest, in velocity form."""
        raise NotImplementedError

    def connection(self, u: Tensor) -> Tensor:
        """`C(u)`, the connection of the oracle's metric."""
        raise NotImplementedError

    def proposal(self, p: Tensor, beta: Tensor, gamma: Tensor) -> tuple[Tensor, Tensor]:
        """`W = β p + γ Att` and `C(W)`."""
        w = beta * p + gamma * self.attended()
        return w, self.connection(w)

    def velocity(self, p: Tensor, /) -> Tensor:
        """The velocity of tokens with momentum `p`, in momentum form."""
        raise NotImplementedError

    def force(self, p: Tensor, /) -> Tensor:
        """The force on tokens with momentum `p`, in momentum form; no damping."""
        raise NotImplementedError

    def weights(self) -> Tensor:
        """How every head mixes its tokens, `(B, H, T, T)`; for `sympformer.trace`, never trained.

        Row i are the weights of token i. A kind of attention that mixes them otherwise than by a
        matrix leaves it out.
        """
        raise NotImplementedError

    def energy(self) -> Tensor:
        """The potential energy of every token, `(B, T)`, summed over heads; as `weights`."""
        raise NotImplementedError


def require_readings(oracle: type[AttentionOracle]) -> None:
    """Refuse a kind of attention that answers nothing, or what nobody asks.

    Raises:
        InputError: `answers` holds an unknown reading, or none.
    """
    readings: dict[str, None] = dict.fromkeys(get_args(Reads))
    for answer in oracle.answers:
        lookup(readings, answer, f"reading in {oracle.__name__}.answers")
    if not oracle.answers:
        raise InputError(f"{oracle.__name__}.answers is empty: say what it can be read for")


@dataclass(frozen=True)
class Option:
    """An option of an oracle: its type and its default."""

    kind: Any
    default: Any


def options_of(oracle: type[AttentionOracle]) -> Mapping[str, Option]:
    """The options of a kind of attention, by name: keyword arguments of its constructor.

    Of an argument that is a dataclass, a group of options, these are its fields.
    """
    options: dict[str, Option] = {}
    for name, option in _arguments(oracle).items():
        if is_dataclass(option.kind):
            kinds = get_type_hints(option.kind)
            options |= {f.name: Option(kinds[f.name], f.default) for f in fields(option.kind)}
        else:
            options[name] = option
    return options


def arguments_of(oracle: type[AttentionOracle], options: Mapping[str, Any]) -> dict[str, Any]:
    """The keyword arguments that options are: those of a group are put together."""
    given: dict[str, Any] = dict(options)
    for name, option in _arguments(oracle).items():
        if is_dataclass(option.kind):
            names = [f.name for f in fields(option.kind) if f.name in given]
            given[name] = option.kind(**{n: given.pop(n) for n in names})  # pyright: ignore[reportCallIssue]
    return given


def _arguments(oracle: type[AttentionOracle]) -> dict[str, Option]:
    kinds = get_type_hints(oracle.__init__)
    return {
        name: Option(kinds.get(name, Any), parameter.default)
        for name, parameter in signature(oracle).parameters.items()
        if parameter.kind is Parameter.KEYWORD_ONLY and name not in ("reads", "causality", "bias")
    }
