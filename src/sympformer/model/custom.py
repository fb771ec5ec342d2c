"""Whole models of a user's own, as training and the audit see them."""

from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from inspect import getsourcefile
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from sympformer.errors import InputError
from sympformer.imports import where
from sympformer.model.config import ModelConfig
from sympformer.model.models import MODELS
from sympformer.model.outputs import described, find_logits, find_loss
from sympformer.torch_private import register_container


@dataclass(frozen=True)
class CustomOutput:
    """What a pass gives: the loss with targets, the logits `(B, T, V)` without."""

    logits: Tensor | None
    loss: Tensor | None


register_container(
    CustomOutput,
    lambda out: ([out.logits, out.loss], None),
    lambda parts, _: CustomOutput(*parts),
)


class CustomModel(nn.Module):
    """A registered model: its loss where targets are given, its logits where none are.

    It has no cache, and no text is generated from it.

    Args:
        config: names the model; given to its `build`.

    Raises:
        InputError: `build` fails, or makes no module.
    """

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.config = config
        self.model = _made(config)

    def forward(self, tokens: Tensor, targets: Tensor | None = None) -> CustomOutput:
        """The loss of `targets` `(B, T)`, or the logits of every position.

        Logits are asked for as in training, with the tokens that follow as targets: so an audit
        sees a model that peeps at them. A model that gives none then is asked without targets.

        Raises:
            InputError: the output holds no loss, or no logits of every position.
        """
        if targets is not None:
            out = self.model(tokens, targets)
            loss = find_loss(out)
            if not isinstance(loss, Tensor) or loss.numel() != 1 or not loss.is_floating_point():
                raise InputError(
                    f"model {self.config.model!r} gave {described(out)} for tokens and targets, "
                    "not a loss: a scalar tensor, or an output with .loss"
                )
            return CustomOutput(None, loss.reshape(()))
        logits = _logits(self.model(tokens, tokens.roll(-1, 1)), tokens)
        if logits is None:
            with suppress(TypeError):  # it cannot be called without targets
                logits = _logits(self.model(tokens), tokens)
        if logits is None:
            raise InputError(f"model {self.config.model!r} gives no logits of every position")
        return CustomOutput(logits, None)

    def num_parameters(self) -> int:
        """Number of trained values; a tensor that is used twice counts once."""
        return sum(p.numel() for p in self.parameters())

    @property
    def blocks(self) -> Iterable[nn.Module]:
        """None that could be compiled one by one.

        Raises:
            InputError: always.
        """
        self._refuse("is not compiled from outside: leave compile out, or compile it in its build")

    def stream(self, *_: Any, **__: Any) -> NoReturn:
        """Refuse to generate.

        Raises:
            InputError: always.
        """
        self._refuse("has no cache that is known here, so no text is generated from it")

    def with_loops(self, loops: int) -> NoReturn:
        """Refuse to loop.

        Raises:
            InputError: always.
        """
        self._refuse(f"has no blocks that could be applied {loops} times")

    def with_block_size(self, block_size: int) -> NoReturn:
        """Refuse other contexts than it was built for.

        Raises:
            InputError: always.
        """
        self._refuse(f"was built for its block size, and is not asked about {block_size} tokens")

    def _refuse(self, why: str) -> NoReturn:
        raise InputError(f"{self.config.model!r} is a whole model of a user's own: it {why}")


def _logits(out: Any, tokens: Tensor) -> Tensor | None:
    found = find_logits(out, tokens.shape)
    every = isinstance(found, Tensor) and found.ndim == 3 and found.shape[:2] == tokens.shape
    return found if every else None


def _made(config: ModelConfig) -> nn.Module:
    build: Callable[[ModelConfig], nn.Module] = MODELS[config.model]
    try:
        made = build(config)
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # whatever the user's code raises
        raise InputError(where(Path(_file(build)), error)) from error
    if not isinstance(made, nn.Module):
        raise InputError(f"build of model {config.model!r} must give a torch module, not {made!r}")
    return made


def _file(build: Callable[..., Any]) -> str:
    try:
        return getsourcefile(build) or ""
    except TypeError:  # an object that can be called
        return ""
