"""The rates of a small model for a wide one (muP; Yang et al. 2022, arXiv:2203.03466).

A model is compared with the one of `base_width` whose heads are as wide: what a matrix multiplies
has grown by a `ratio`. Its initial entries then shrink with the root of the ratio, its rate under
Adam with the ratio, for updates add up over what it multiplies, and under Muon, whose update is as
large in every direction, with the root. Tables and vectors keep theirs. The head is the input's
table, so its multiplier 1/ratio is the gain of the last normalisation: that starts and moves by so
much less, which under Adam is the same. At the base width nothing changes.
"""

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from sympformer.errors import InputError
from sympformer.model import LanguageModel, ModelConfig, build
from sympformer.model.layers import Linear


def base_of(config: ModelConfig, base_width: int) -> ModelConfig:
    """The model of `base_width` with as wide heads.

    Raises:
        InputError: it does not exist.
    """
    if config.model:
        raise InputError(
            "base_width is for the architectures of this package, whose matrices it knows: leave "
            "it out for a model of your own"
        )
    head = config.n_embd // config.n_head
    if base_width < 1 or base_width % head:
        raise InputError(
            f"base_width must be a multiple of {head}, the width of a head, not {base_width}: "
            "choose n_head so that heads stay as wide as in the small model"
        )
    width = config.mlp_width and round(config.mlp_width * base_width / config.n_embd)
    return replace(config, n_embd=base_width, n_head=base_width // head, mlp_width=width)


def ratios(model: nn.Module, base_width: int) -> Mapping[Tensor, float]:
    """By how much what a parameter multiplies has grown: of matrices of linear maps, and the gain
    of the last normalisation.

    Raises:
        InputError: there is no base model.
    """
    assert isinstance(model, LanguageModel), "RunConfig refuses others"
    with torch.device("meta"):
        base = build(base_of(model.config, base_width))
    shapes = {name: parameter.shape for name, parameter in base.named_parameters()}
    found: dict[Tensor, float] = {model.norm.weight: model.config.n_embd / base_width}
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            found[module.weight] = module.weight.shape[1] / shapes[f"{name}.weight"][1]
    return found


@torch.no_grad()
def scale_initial(model: nn.Module, base_width: int) -> None:
    """Scale the initial weights of a model, which is at the base width what it was."""
    assert isinstance(model, LanguageModel), "RunConfig refuses others"
    ratio = ratios(model, base_width)
    for module in model.modules():
        # Others, as the mobility, do not start at random.
        if isinstance(module, Linear) and type(module).reset_parameters is Linear.reset_parameters:
            module.weight.mul_(ratio[module.weight] ** -0.5)
    model.norm.weight.mul_(1 / ratio[model.norm.weight])
