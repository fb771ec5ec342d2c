"""The table of whole models of users' own."""

from collections.abc import Callable
from typing import Any

from torch import nn

from sympformer.errors import InputError, enter
from sympformer.model.presets import PRESETS, Preset, register_preset

MODELS: dict[str, Callable[[Any], nn.Module]] = {}


def register_model(name: str, build: Callable[[Any], nn.Module], summary: str) -> None:
    """Add a whole model of your own: it is a preset then, to be trained, compared and audited.

    Args:
        name: of the model, and of its preset.
        build: makes the module from a `ModelConfig`, of which it reads what it wants: sizes, say;
            nothing else of the config has an effect. The module gives a loss, the mean over the
            targets in nats, for `model(tokens, targets)`, both int64 `(B, T)`: a scalar tensor, or
            an output with `.loss`. Logits `(B, T, V)` in the same output, or for `model(tokens)`,
            let it be audited.
        summary: one line on what it is.

    Raises:
        InputError: the name is taken.
    """
    if name in PRESETS and name not in MODELS:
        raise InputError(f"there is a preset {name!r} already: choose another name")
    enter(MODELS, name, build, "model")
    register_preset(name, Preset(summary, {"model": name}))
