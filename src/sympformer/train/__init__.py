"""Training: the loop, the optimizer's groups, run folders."""

from sympformer.train.config import DataConfig, RunConfig, TrainConfig

__all__ = [
    "DataConfig",
    "Evaluation",
    "Progress",
    "RunConfig",
    "TrainConfig",
    "evaluate",
    "load_model",
    "train",
]
