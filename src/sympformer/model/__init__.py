"""Language models: configs and presets, the blocks, cached decoding."""

from sympformer.model.attentions import ATTENTIONS, register_attention
from sympformer.model.block import Block
from sympformer.model.build import build
from sympformer.model.cache import Cache, Recorder
from sympformer.model.config import ModelConfig
from sympformer.model.custom import CustomModel
from sympformer.model.generation import pad_left
from sympformer.model.language import LanguageModel, Output
from sympformer.model.layers import Linear, Stream, merge_heads, split_heads
from sympformer.model.models import MODELS, register_model
from sympformer.model.oracle import AttentionOracle, Cost, OracleField
from sympformer.model.presets import PRESETS, Preset, presets, register_preset

__all__ = [
    "ATTENTIONS",
    "MODELS",
    "PRESETS",
    "AttentionOracle",
    "Block",
    "Cache",
    "Cost",
    "CustomModel",
    "LanguageModel",
    "Linear",
    "ModelConfig",
    "OracleField",
    "Output",
    "Preset",
    "Recorder",
    "Stream",
    "build",
    "merge_heads",
    "pad_left",
    "presets",
    "register_attention",
    "register_model",
    "register_preset",
    "split_heads",
]
