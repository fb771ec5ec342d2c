"""What each key of a TOML file may be, said once more and apart from the package: by hand.

A rule takes a value as TOML gives it and returns True where it is right, False where it has to be
refused, and None where that depends on the machine. The rules are about the files in
`toml_values.py`: two layers, two heads, width 8, an accelerated model in momentum form.
"""

import math
import sys
from collections.abc import Callable
from typing import Any

LARGEST = {int: 2**63 - 1, float: sys.float_info.max}
Rule = Callable[[Any], bool | None]


def whole(least: int, known: float = 100) -> Rule:
    """Whole numbers from `least`; above `known` it is a matter of memory and time."""

    def rule(value: Any) -> bool | None:
        if type(value) is not int or not least <= value < 2**63:
            return False
        return True if value <= known else None

    return rule


def real(holds: Callable[[float], bool], known: float = math.inf) -> Rule:
    """Finite numbers that hold; above `known` training may well diverge."""

    def rule(value: Any) -> bool | None:
        if (
            type(value) not in (int, float)
            or not abs(value) <= LARGEST[type(value)]
            or not holds(value)
        ):
            return False
        return True if value <= known else None

    return rule


def one_of(*values: Any, perhaps: tuple[Any, ...] = ()) -> Rule:
    """One of some values, of the same type."""

    def among(value: Any, them: tuple[Any, ...]) -> bool:
        return any(type(value) is type(other) and value == other for other in them)

    return lambda value: None if among(value, perhaps) else among(value, values)


def betas(value: Any) -> bool:
    """Two numbers from 0, below 1."""
    numbers = isinstance(value, list) and all(type(v) in (int, float) for v in value)
    return numbers and len(value) == 2 and all(0 <= v < 1 for v in value)


def separator(value: Any) -> bool | None:
    """Text of one line; whether enough documents are left depends on the text."""
    right = isinstance(value, str) and "\n" not in value and "\0" not in value
    return (True if value == "<|endoftext|>" else None) if right else False


SCHEMES = (
    "plain-euler",
    "euler",
    "conformal-euler",
    "exp-euler",
    "ab2",
    "etd-ab2",
    "strang",
    "tao",
)

MODEL: dict[str, Rule] = {
    "vocab_size": lambda value: whole(257, 1000)(value),
    "block_size": whole(1),
    "n_layer": whole(1, 4),
    "n_head": one_of(1, 2, 4, 8),
    "n_embd": lambda value: whole(2)(value) if type(value) is int and value % 2 == 0 else False,
    "attention": one_of("softmax", "linear"),
    "dynamics": one_of("symp"),
    "form": one_of("momentum", "velocity"),
    "scheme": one_of(*SCHEMES),
    "drift": one_of("after", "before"),
    "initial_step": real(lambda v: v > 0, 1),
    "connection": one_of("none"),
    "causality": one_of("prefix", "joint"),
    "mlp_velocity": one_of("attention", "momentum", "own"),
    "lookahead": one_of(True, False),
    "splitting": one_of("lie-trotter"),
    "initial_momentum": one_of("zero", "embedding"),
    "damping": one_of("constant", "nesterov", "loglinear"),
    "tie_embeddings": one_of(True, False),
    "token_shift": one_of(False),
    "injection": one_of(True, False),
    "unique_layers": one_of(0, 1),
    "loop_scalars": one_of("shared"),
    "mlp_width": whole(0),
    "match_parameters": one_of("", perhaps=("gpt",)),
    "model": one_of(""),
    "heads": one_of("independent", "averaged"),
    "normalizer": one_of("prefix", "length"),
}
DATA: dict[str, Rule] = {
    "text": one_of("text"),
    "valid_text": one_of("text"),
    "tokenizer": one_of("byte", "bpe:300"),
    "separator": separator,
    # A small share may hold no document.
    "valid_fraction": lambda v: real(lambda v: 0 < v < 1)(v) and (True if v > 0.1 else None),
    "train_tokens": lambda value: whole(17, 5000)(value) if value not in (1, 2, 3) else False,
    "valid_tokens": lambda value: whole(17, 5000)(value) if value not in (1, 2, 3) else False,
}
TRAIN: dict[str, Rule] = {
    "steps": whole(1, 5),
    "batch_size": whole(1, 20),
    "accumulation": whole(1, 5),
    "learning_rate": real(lambda v: v > 0, 0.1),
    "min_lr_ratio": real(lambda v: 0 <= v <= 1),
    "warmup": whole(0, 2**63),
    "weight_decay": real(lambda v: v >= 0, 5),
    "betas": betas,
    "clip": real(lambda v: v > 0, 10),
    "scalar_lr": real(lambda v: v > 0, 3),
    "eval_every": whole(1, 2**63),
    "eval_blocks": whole(1, 2**63),
    "keep_last": whole(1, 2**63),
    "seed": whole(0, 2**63),
    "data_seed": whole(0, 2**63),
    "dtype": one_of("float32", "bfloat16", "float16"),
    "skip_nonfinite": whole(0, 2**63),
    "parallel": one_of("auto", "none"),
    "device": one_of("cpu", "auto"),
    "threads": whole(1, 4),
    "form": one_of("auto", perhaps=("naive", "fused", "tiled", "sweep")),
    "compile": one_of(False),
}
PRESETS = ("gpt", "gpt-untied", "symp-exp-euler")
COMPARE: dict[str, Rule] = {
    "presets": lambda value: (
        isinstance(value, list)
        and "symp-exp-euler" in value
        and all(v in PRESETS for v in value if isinstance(v, str))
        and all(isinstance(v, str) for v in value)
    ),
    "baseline": one_of("symp-exp-euler", "v"),
    "seeds": lambda value: (
        isinstance(value, list)
        and len(value) > 0
        and all(type(v) is int and 0 <= v < 2**63 for v in value)
        and len(set(value)) == len(value)
    ),
}
ZERO = one_of(0)
"""The seeds of a comparison are its `seeds`."""
NOWHERE: Rule = lambda value: False  # noqa: E731
"""A key that does not exist."""
