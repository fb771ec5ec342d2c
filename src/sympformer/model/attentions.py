"""The table of attention oracles: adding one is one file and one line here."""

from collections.abc import Mapping
from inspect import Parameter, signature
from typing import Any

from sympformer.attention.naive import Causality
from sympformer.errors import InputError, enter, lookup
from sympformer.model.fast_weights import FastWeights
from sympformer.model.linear_attention import LinearAttention
from sympformer.model.oracle import (
    AttentionOracle,
    Reads,
    arguments_of,
    options_of,
    require_readings,
)
from sympformer.model.softmax_attention import SoftmaxAttention
from sympformer.model.tied import TiedLinearAttention, TiedSoftmaxAttention

ATTENTIONS: dict[str, type[AttentionOracle]] = {
    "softmax": SoftmaxAttention,
    "linear": LinearAttention,
    "fast-weights": FastWeights,
    "tied-softmax": TiedSoftmaxAttention,
    "tied-linear": TiedLinearAttention,
}


def register_attention(name: str, oracle: type[AttentionOracle]) -> None:
    """Add a kind of attention of your own: `ModelConfig(attention=name)` knows it then.

    Raises:
        InputError: the name is taken, it is no oracle, it says that it answers what nobody asks, or
            an option has no default, or the name of a field.
    """
    from sympformer.model.config import ModelConfig  # which looks attentions up

    if not (isinstance(oracle, type) and issubclass(oracle, AttentionOracle)):
        raise InputError(
            f"attention {name!r} must be a class below AttentionOracle, not {oracle!r}"
        )
    require_readings(oracle)
    for option, parameter in options_of(oracle).items():
        if option in ModelConfig.__dataclass_fields__:
            raise InputError(
                f"option {option!r} of attention {name!r} has the name of a ModelConfig field, and "
                "would never be given: choose another name"
            )
        if parameter.default is Parameter.empty:
            raise InputError(f"option {option!r} of attention {name!r} needs a default")
    enter(ATTENTIONS, name, oracle, "attention")


def attention_oracle(
    name: str,
    d: int,
    n_head: int,
    reads: Reads,
    causality: Causality = "prefix",
    options: Mapping[str, Any] | None = None,
    bias: bool = False,
) -> AttentionOracle:
    """Build the oracle called `name`.

    Raises:
        InputError: there is none, it refuses its options, or has no biases and is asked for them.
    """
    kind = lookup(ATTENTIONS, name, "attention")
    given = arguments_of(kind, options or {})
    if bias and "bias" not in signature(kind).parameters:
        raise InputError(f"bias = true has no place in attention {name!r}: remove it")
    given |= {"bias": True} if bias else {}
    return kind(d, n_head, reads=reads, causality=causality, **given)
