"""Language models: configs and presets, the blocks, cached decoding."""

from sympformer.model.build import build
from sympformer.model.cache import Cache
from sympformer.model.config import ModelConfig
from sympformer.model.generation import pad_left
from sympformer.model.language import LanguageModel, Output
from sympformer.model.presets import PRESETS, presets

__all__ = [
    "PRESETS",
    "Cache",
    "LanguageModel",
    "ModelConfig",
    "Output",
    "build",
    "pad_left",
    "presets",
]
