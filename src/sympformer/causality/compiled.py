"""A model as it runs where it is compiled, for the audit."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from sympformer import torch_private
from sympformer.compiler import LIMIT, compile_blocks, compile_step, require_compiler
from sympformer.errors import InputError
from sympformer.model import LanguageModel
from sympformer.model.cache import Cache


@contextmanager
def compiled(model: nn.Module, length: int) -> Iterator[nn.Module]:
    """Yield `model` compiled; sequences are of `length` tokens, except for prefixes.

    A language model is compiled as it is in training and in generation (`Compiled`), any other
    module as a whole.

    Raises:
        InputError: there is nothing to compile with, or it would not show what is to be seen.
    """
    device = next((p.device.type for p in model.parameters()), "cpu")
    require_compiler(device)
    # The audit registers hooks after the first pass, and differentiates one pass repeatedly.
    seen = torch_private.hooks_are_seen()
    if seen is None and not isinstance(model, LanguageModel):
        raise InputError("this torch compiles hooks away: audit the module without compiling it")
    with seen or nullcontext(), torch_private.passes_are_kept():
        if isinstance(model, LanguageModel):
            yield Compiled(model, length)
        else:
            model.compile(recompile_limit=LIMIT)
            yield model


class Pass(NamedTuple):
    """Logits `(B, T, V)`, and the cache after them."""

    logits: Tensor
    cache: Any


class Compiled(nn.Module):
    """A language model of which is compiled what the library compiles.

    That is a pass over `length` tokens as in training, by blocks, and the step of cached decoding.
    Shorter passes and prefills are not: they are what the others are compared with.
    """

    def __init__(self, model: LanguageModel, length: int):
        super().__init__()
        compile_blocks(model.blocks)
        self.model, self.length = model, length

    def forward(self, tokens: Tensor, cache: Any = None) -> Any:
        """As the model."""
        if cache is None and tokens.shape[1] == self.length:
            return self.model(tokens, tokens)
        if cache is not None and tokens.shape[1] == 1:
            return Pass(*compile_step(_step)(self.model, tokens.contiguous(), cache))
        with torch.compiler.set_stance("force_eager"):
            return self.model(tokens, cache=cache or Cache(capacity=self.length + 1))


def _step(model: LanguageModel, tokens: Tensor, cache: Any) -> tuple[Tensor, Any]:
    out = model(tokens, cache=cache)
    return out.logits, out.cache
