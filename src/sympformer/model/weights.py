"""The weights of a module by name, each tensor once, and their way back."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from sympformer.errors import InputError


def weights(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and saved buffers by their first name: shared ones once; they are no copies."""
    seen: set[int] = set()
    found = {}
    for name, tensor in module.state_dict(keep_vars=True).items():
        if id(tensor) not in seen:
            seen.add(id(tensor))
            found[name] = tensor.detach()
    return found


@torch.no_grad()
def load_weights(module: nn.Module, given: Mapping[str, Tensor]) -> None:
    """Copy what `weights` gave into a module of the same config.

    Raises:
        InputError: names or shapes are those of another module; nothing was copied.
    """
    own = weights(module)
    for name in sorted(own.keys() ^ given.keys()):
        where = "are missing" if name in own else "belong to another model"
        raise InputError(f"the weights {name!r} {where}")
    for name, tensor in own.items():
        if tensor.shape != given[name].shape:
            shapes = f"{tuple(given[name].shape)}, not {tuple(tensor.shape)}"
            raise InputError(f"the weights {name!r} have the shape {shapes}")
    for name, tensor in own.items():
        tensor.copy_(given[name])
