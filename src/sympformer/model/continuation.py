"""Momentum for a trained model: an accelerated one that computes the same function at its start."""

from typing import Any

import torch
from torch import nn

from sympformer.errors import InputError, lookup, shown
from sympformer.model.config import ModelConfig
from sympformer.model.custom import CustomModel
from sympformer.model.language import LanguageModel
from sympformer.model.presets import PRESETS
from sympformer.model.weights import load_weights, weights

MOTION = (
    "dynamics",
    "form",
    "scheme",
    "drift",
    "initial_step",
    "connection",
    "mlp_velocity",
    "lookahead",
    "gradual",
    "initial_momentum",
    "damping",
    "normalizer",
    "repulsion",
    "ridge",
)
"""Fields and options that say how a state moves; all others say what moves it."""


def accelerated(config: ModelConfig, preset: str, **overrides: Any) -> ModelConfig:
    """The config of a model without momentum, moved as a preset moves, gradually.

    Its tables, sizes and attention stay; what the preset says of them must be so already.

    Args:
        config: of the model without momentum.
        preset: where the dynamics is taken from.
        **overrides: of the preset's fields.

    Raises:
        InputError: the preset is of another function, or the config is accelerated already.
    """
    asked = {**lookup(PRESETS, preset, "preset").fields, **overrides}
    own = config.to_dict()
    if config.model or config.dynamics != "none":
        raise InputError(
            f"only a model without momentum can be given one, and this has dynamics "
            f"{config.dynamics!r}: start from a gpt, or another model whose dynamics is 'none'"
        )
    for name, value in asked.items():
        if name not in MOTION and own.get(name) != value:
            raise InputError(
                f"preset {preset!r} has {name} = {shown(value)}, and this model "
                f"{shown(own.get(name))}, so it would be another function: choose another preset, "
                f"or set {name} as it is here"
            )
    motion = {name: value for name, value in asked.items() if name in MOTION}
    gradual = motion.get("dynamics", "none") != "none"
    return ModelConfig.from_dict({**own, "gradual": gradual, **motion})


def base(config: ModelConfig) -> ModelConfig:
    """The config without what moves it: that of the model which a gradual one starts as."""
    own = config.to_dict()
    return ModelConfig.from_dict({name: own[name] for name in own if name not in MOTION})


@torch.no_grad()
def start_as(model: LanguageModel | CustomModel, source: LanguageModel | CustomModel) -> None:
    """Give a model the weights of another, so that it computes the same function.

    It is of the same config, or a gradual one of `accelerated`; its tokens then start at rest, and
    what only momentum needs stays as it was drawn.

    Raises:
        InputError: it would compute another function; nothing was copied.
    """
    if model.config == source.config:
        load_weights(model, weights(source))
        return
    own_kind = isinstance(model, LanguageModel)
    if not own_kind or not model.config.gradual or base(model.config) != source.config:
        differs = _difference(model.config, source.config)
        raise InputError(
            f"the model cannot start as another function ({differs}): it must be of the same "
            "config, or that with the dynamics of a preset and gradual = true"
        )
    own = weights(model)
    for name, tensor in weights(source).items():
        # The point at which an oracle is asked is normalised by what has two names.
        own[name if name in own else name.replace(".norm.", ".norm_x.")].copy_(tensor)
    if model.inputs.momentum is not None:
        for tensor in model.inputs.momentum.parameters():
            nn.init.zeros_(tensor)


def _difference(mine: ModelConfig, other: ModelConfig) -> str:
    """The first field in which they differ, beside those of the dynamics."""
    wanted = (base(mine) if mine.gradual else mine).to_dict()
    there = other.to_dict()
    name = next(n for n in (*wanted, *there) if wanted.get(n) != there.get(n))
    return f"{name} is {shown(wanted.get(name))} here, {shown(there.get(name))} there"
