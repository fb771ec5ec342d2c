"""Transformers whose layers are steps of an accelerated flow."""

import importlib
from types import ModuleType
from typing import TYPE_CHECKING

from sympformer import attention, dynamics, model
from sympformer.causality import audit
from sympformer.errors import InputError
from sympformer.model import ModelConfig, build, presets

if TYPE_CHECKING:
    from sympformer import data, lab, study, train

__version__ = "0.1.0"

__all__ = [
    "InputError",
    "ModelConfig",
    "attention",
    "audit",
    "build",
    "data",
    "dynamics",
    "lab",
    "model",
    "presets",
    "study",
    "train",
]


def __getattr__(name: str) -> ModuleType:
    """Import the rooms that need more than torch when they are first entered."""
    if name in {"data", "lab", "study", "train"}:
        return importlib.import_module(f"sympformer.{name}")
    raise AttributeError(f"module 'sympformer' has no attribute {name!r}")
