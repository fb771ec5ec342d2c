"""Transformers whose layers are steps of an accelerated flow."""

from sympformer.causality import audit
from sympformer.errors import InputError
from sympformer.model import ModelConfig, build, presets

__version__ = "0.1.0"

__all__ = [
    "InputError",
    "ModelConfig",
    "audit",
    "build",
    "presets",
]
