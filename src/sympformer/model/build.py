"""From a config to a model."""

from dataclasses import replace

import torch

from sympformer.errors import InputError
from sympformer.model.config import ModelConfig
from sympformer.model.custom import CustomModel
from sympformer.model.language import LanguageModel

SIZES = ("vocab_size", "block_size", "n_layer", "n_head", "n_embd", "unique_layers")
"""What a model has in common with the one whose parameters it matches."""


def build(config: ModelConfig) -> LanguageModel | CustomModel:
    """The model of a config, freshly initialised from torch's global random state.

    Raises:
        InputError: no width of the MLPs gives the number of parameters to be matched, or a model of
            a user's own cannot be built.
    """
    if config.model:
        return CustomModel(config)
    return LanguageModel(matched(config))


def matched(config: ModelConfig) -> ModelConfig:
    """The config with the MLP width at which it has the parameters of the preset to match, if any.

    Raises:
        InputError: no width gives them.
    """
    if not config.match_parameters:
        return config
    plain = replace(config, match_parameters="")
    sizes = {name: getattr(config, name) for name in SIZES}
    missing = count(ModelConfig.preset(config.match_parameters, **sizes)) - count(plain)
    of_unit = 2 * config.n_embd * (config.unique_layers or config.n_layer)
    width = 4 * config.n_embd + round(missing / of_unit)
    if width < 1:
        raise InputError(
            f"match_parameters = {config.match_parameters!r} has fewer parameters than this model "
            "without its MLPs: choose a larger preset"
        )
    return replace(plain, mlp_width=width)


def count(config: ModelConfig) -> int:
    """Number of parameters; no memory is taken."""
    with torch.device("meta"):
        return build(config).num_parameters()
