"""A model in float64 and in other weights, out of the caller's way."""

import copy
import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from sympformer.causality.subject import device_of
from sympformer.errors import InputError, one_line

SCALES = (0.5, 1.0, 2.0)
"""Of the redrawn weights; the model's own weights are audited too."""


@contextmanager
def undisturbed(device: torch.device) -> Iterator[None]:
    """Keep the caller's random state; his autograd modes do not matter inside."""
    cuda = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else []
    with (
        torch.random.fork_rng(list(cuda)),
        torch.inference_mode(False),
        torch.enable_grad(),
        torch.autocast(device.type, enabled=False),
    ):
        yield


def float64_copy(module: nn.Module) -> nn.Module:
    """A frozen float64 copy for evaluation, not compiled; on the CPU where float64 is lacking.

    Raises:
        InputError: the module cannot be copied.
    """
    module = getattr(module, "_orig_mod", module)  # of torch.compile, whose traces are for float32
    try:
        copied = copy.deepcopy(module)
    except Exception as error:  # whatever the parts of the module raise
        raise InputError(
            f"the model cannot be copied ({one_line(error)}): audit a function of ids instead, "
            "lambda ids: model(ids)"
        ) from error
    if device_of(module).type == "mps":  # has no float64
        copied = copied.cpu()
    return copied.double().eval().requires_grad_(False)


def reweighted(module: nn.Module | None, draw: torch.Generator) -> Iterator[str]:
    """Name the weights that `module` has now: first its own, then redrawn ones at every scale g.

    Matrices become N(0, g²/fan_in); vectors and scalars (gains, gates, step sizes) are moved by
    0.1 g, which opens a gate that starts at zero and keeps a gain near one.
    """
    yield "as they are"
    parameters = () if module is None else module.parameters()
    own = [(p, p.clone()) for p in parameters if p.is_floating_point()]
    for g in SCALES if own else ():
        for p, start in own:
            noise = torch.randn(p.shape, generator=draw, dtype=p.dtype).to(p.device)
            if p.ndim >= 2:
                p.copy_(g * noise / math.sqrt(p[0].numel()))
            else:
                p.copy_(start + 0.1 * g * noise)
        yield f"redrawn at scale {g:g}"
