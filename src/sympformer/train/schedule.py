"""How the learning rate moves over a run."""

import math

from sympformer.train.config import TrainConfig


def learning_rate(step: int, config: TrainConfig) -> float:
    """The rate of update `step` (from 0): linear warm-up, then what `config.schedule` says.

    `cosine`: half a cosine from the peak down to its floor. `wsd` (warm-up, stable, decay): the
    peak, and over the last `config.decay` of all updates a line down to the floor; how many there
    will be need not be known before (Hu et al. 2024, arXiv:2404.06395).
    """
    if step < config.warmup:
        return config.learning_rate * (step + 1) / config.warmup
    if config.schedule == "cosine":
        progress = (step - config.warmup) / max(1, config.steps - config.warmup)
        share = (1 + math.cos(math.pi * min(1.0, progress))) / 2
    else:
        share = min(1.0, max(0, config.steps - step) / (config.decay * config.steps))
    return config.learning_rate * (config.min_lr_ratio + (1 - config.min_lr_ratio) * share)
