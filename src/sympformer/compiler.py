"""Whether `torch.compile` works here: it needs a C++ compiler, and on a GPU also Triton."""

from functools import cache

import torch
from torch._dynamo.exc import BackendCompilerFailed

from sympformer.errors import InputError


@cache
def require_compiler(device: str) -> None:
    """Compile something small for a type of device ("cpu", "cuda", ...).

    Raises:
        InputError: that fails.
    """
    try:
        torch.compile(torch.sin)(torch.zeros(8, device=device))
    except BackendCompilerFailed as error:
        raise InputError(
            f"torch.compile does not work here ({str(error).splitlines()[0]}): install what is "
            "missing, or do without compiling"
        ) from error
