"""The memory of a process that trains, by formula (docs/training.md)."""

from dataclasses import replace
from typing import NamedTuple

import torch

from sympformer.estimate.passes import Pass
from sympformer.model import build
from sympformer.train.config import RunConfig
from sympformer.train.optimizer import parameter_groups
from sympformer.train.sizes import parameters


class Memory(NamedTuple):
    """Bytes of one process in an update."""

    weights: float
    gradients: float
    moments: float
    exchange: float
    """Buckets of gradients (ddp), or what is gathered and reduced at a time (fsdp)."""
    activations: float

    @property
    def total(self) -> float:
        """Their sum; what libraries hold, and products in flight, come on top."""
        return sum(self)


def memory(config: RunConfig, passed: Pass, processes: int = 1) -> Memory:
    """What one of so many processes holds at the end of a forward pass.

    Args:
        config: the run.
        passed: a pass over the rows of one process.
        processes: how many train together.
    """
    n = parameters(config.model)
    moments = 8 * n - 4 * _with_one_moment(config)
    mode = config.train.parallel
    if processes == 1:
        return Memory(4 * n, 4 * n, moments, 0, passed.held)
    if mode != "fsdp":
        return Memory(4 * n, 4 * n, moments, 4 * n, passed.held)
    small = replace(config.model, n_layer=1, unique_layers=0, loop_scalars="shared")
    block = parameters(replace(small, n_layer=2)) - parameters(small)
    layers = config.model.unique_layers or config.model.n_layer
    if config.model.loop_scalars == "own":  # sharded as one piece
        block = layers = 0
    beside = n - layers * block
    share = 1 / processes
    exchange = 4 * (4 * block + 3 * beside)
    return Memory(4 * n * share, 4 * n * share, moments * share, exchange, passed.held)


def _with_one_moment(config: RunConfig) -> int:
    """Parameters of which muon keeps one moment, where adamw keeps two."""
    if config.train.optimizer != "muon":
        return 0
    with torch.device("meta"):
        model = build(config.model)
    groups = parameter_groups(model, matrices=True)
    return sum(p.numel() for p in groups.get("matrices", []))
