"""Tokens a second by a roofline: at most, and with every byte moved to and from memory."""

from typing import NamedTuple

from sympformer.bench import flops
from sympformer.estimate.hardware import Hardware
from sympformer.estimate.passes import Pass
from sympformer.model import ModelConfig
from sympformer.train.sizes import parameters

ADAMW = 28
"""Bytes a parameter that an update of AdamW moves: four are read and three written."""


class Speed(NamedTuple):
    """Of one process."""

    operations: float
    """Of an update, counted as useful work: products of matrices, forward and backward."""
    moved: float
    """Bytes of an update, if no operation leaves anything in a cache for the next."""
    most: float
    """Tokens a second if products run at their peak and all else costs nothing."""
    uncached: float
    """Tokens a second if, beside that, every byte is moved to and from memory."""


def speed(
    config: ModelConfig,
    passed: Pass,
    passes: int,
    rows: int,
    length: int,
    hardware: Hardware,
    sharers: int = 1,
) -> Speed:
    """What a roofline says of an update of `passes` passes over `(rows, length)` tokens.

    `sharers` processes have an equal share of every parameter, and update that.

    Between the two lies what caches and fused operations save. `most` is a bound, `uncached` is
    none: products of narrow models are made below the peak, and exponentials are not counted.
    """
    tokens = passes * rows * length
    operations = passes * rows * flops.step(config, length).total
    update = ADAMW * parameters(config) / sharers
    moved = passes * passed.moved + update
    products = operations / hardware.peak
    traffic = moved / hardware.bandwidth
    quickest = max(products, update / hardware.bandwidth)
    return Speed(operations, moved, tokens / quickest, tokens / (products + traffic))
