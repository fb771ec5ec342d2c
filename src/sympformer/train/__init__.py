"""Training: the engine that makes updates, the folder that a run leaves, the loop of both."""

from sympformer.train.config import DataConfig, RunConfig, TrainConfig
from sympformer.train.evaluate import Evaluation, evaluate
from sympformer.train.loop import train
from sympformer.train.progress import Progress
from sympformer.train.runs import load_model

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
