"""How much memory a run needs, roughly and from below: refused before any of it is taken.

An estimate that is too high would refuse what can be done, so each part is counted at its least:
what the parts leave out (products in flight, the logits, the allocator) comes on top.
"""

from dataclasses import replace

import torch

from sympformer import machine
from sympformer.errors import InputError
from sympformer.model import ModelConfig
from sympformer.model.build import SIZES, count
from sympformer.train.batches import share
from sympformer.train.config import RunConfig

DEEPER = 1000
"""Layers of an evaluation, over those of training, that are too many."""

_FLOAT, _INT = 4, 8
_STATES = {"adamw": 4, "muon": 3}  # of a parameter: itself, its gradient, its moments, at least
_KEPT = {
    "gelu": 8,
    "gelu-tanh": 8,
    "none": 4,
}  # activations of width n_embd that a layer keeps, at least
_LAYER = 20_000  # bytes of Python objects, measured: 34 to 53 kB a layer


def parameters(config: ModelConfig) -> int:
    """The number of parameters, also of models that cannot be built: from one and two layers.

    Raises:
        InputError: a single matrix is beyond what torch can count.
    """
    if config.match_parameters:
        sizes = {name: getattr(config, name) for name in SIZES}
        return parameters(ModelConfig.preset(config.match_parameters, **sizes))
    small = replace(config, n_layer=1, unique_layers=0, loop_scalars="shared")
    try:
        one, two = count(small), count(replace(small, n_layer=2))
    except RuntimeError as error:
        raise InputError(
            f"a matrix of this model is larger than any memory ({str(error).splitlines()[0]}): "
            "choose a smaller n_embd, vocab_size or block_size"
        ) from None
    return one + ((config.unique_layers or config.n_layer) - 1) * (two - one)


def require_memory(
    config: RunConfig, device: torch.device, length: int | None = None, processes: int = 1
) -> None:
    """Refuse to train what cannot fit; a model of the user's own is not estimated.

    Args:
        config: what is to be trained.
        device: where.
        length: tokens of a sequence in training; the model's block size if not given.
        processes: how many train together; what one of them needs is meant.

    Raises:
        InputError: it needs more than is free, with the estimate.
    """
    model, t = config.model, config.train
    if model.model:  # a user's own, of which nothing is known
        return
    own = share(t.batch_size, t.accumulation, processes)
    tokens = t.batch_size // own.parts * (length or model.block_size)
    sharers = processes if t.parallel == "fsdp" else 1
    on_device = {
        "parameters and their optimizer": (
            _STATES[t.optimizer] * _FLOAT * parameters(model) // sharers
        ),
        "activations": _FLOAT * _KEPT[model.mlp] * tokens * model.n_embd * model.n_layer,
    }
    here = {
        "layers as objects": _LAYER * model.n_layer,
        "batches of an update": 2 * _INT * tokens * own.micro_batches,
    }
    if device.type == "cpu":
        _require({**on_device, **here}, device)
    else:
        _require(on_device, device)
        _require(here, machine.CPU)


def require_loops(config: ModelConfig, loops: int) -> None:
    """Refuse to apply a model's blocks so often that nobody waits for it; memory is not the limit.

    Raises:
        InputError: `DEEPER` times the layers of training, or more, with the estimate.
    """
    times = loops * (config.unique_layers or config.n_layer) // config.n_layer
    if times >= DEEPER:
        raise InputError(
            f"--loops {loops} applies {times:,} times the layers of training, so a pass takes "
            f"about {times:,} times as long as one there: choose fewer"
        )


def _require(parts: dict[str, int], device: torch.device) -> None:
    free = machine.free_memory(device)
    if free is None or sum(parts.values()) <= free:
        return
    largest = max(parts, key=lambda name: parts[name])
    raise InputError(
        f"this needs at least {_gigabytes(sum(parts.values()))} of memory, "
        f"{_gigabytes(parts[largest])} of it for the {largest}, and {_gigabytes(free)} are free on "
        f"the {device.type}: choose a smaller n_layer, n_embd, mlp_width, vocab_size, block_size, "
        "batch_size or accumulation"
    )


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:,.1f} GB"
