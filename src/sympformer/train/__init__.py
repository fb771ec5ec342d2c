"""Training: the loop, the optimizer's groups, run folders."""

from sympformer.train.checkpoint import load_model
from sympformer.train.config import DataConfig, RunConfig, TrainConfig
from sympformer.train.evaluate import Evaluation, evaluate
from sympformer.train.loop import train
from sympformer.train.progress import Progress

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
