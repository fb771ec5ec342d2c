"""How models are compiled with `torch.compile`, and whether that works here."""

from collections.abc import Callable, Iterable
from functools import cache
from typing import Any

import torch
from torch import nn

from sympformer import torch_private
from sympformer.errors import InputError

LIMIT = 256
"""Graphs of one piece of code: a process may meet many models, shapes and modes."""


DECODING = {"cpp.min_chunk_size": 64, "size_asserts": False}
"""A step of decoding is short. Its loops over the text look short to the compiler, which may see
only the first tokens: threads share them all the same. Shapes are checked before the graph is
called, not once more in it, which took a tenth of the step."""


def compile_blocks(blocks: Iterable[nn.Module]) -> None:
    """Compile the blocks of a model: each is one graph for every shape that it meets.

    Under a transform of `torch.func` and in forward mode, of which torch compiles neither from
    outside, they run as they are.
    """
    for block in blocks:
        block.compile(fullgraph=True, dynamic=False, recompile_limit=LIMIT)
        torch_private.call_uncompiled_if(torch_private.transformed, block)


@cache
def compile_step(step: Callable[..., Any]) -> Callable[..., Any]:
    """The compiled form of a step of decoding, one graph for every length of the text."""
    torch_private.import_made_once()
    # torch's types lack the limit.
    settings = {"dynamic": True, "fullgraph": True, "recompile_limit": LIMIT}
    return torch.compile(step, options=torch_private.compiler_options(DECODING), **settings)


@cache
def require_compiler(device: str) -> None:
    """Compile something small for a type of device ("cpu", "cuda", ...).

    That needs a C++ compiler, and on a GPU also Triton.

    Raises:
        InputError: that fails.
    """
    failure = torch_private.compiler_failure()
    try:
        torch.compile(torch.sin)(torch.zeros(8, device=device))
    except failure as error:
        raise InputError(
            f"torch.compile does not work here ({str(error).splitlines()[0]}): install what is "
            "missing, or do without compiling"
        ) from error
