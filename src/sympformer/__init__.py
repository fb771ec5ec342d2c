"""Transformers whose layers are steps of an accelerated flow."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sympformer import attention, data, dynamics, lab, model, study, tasks, train
    from sympformer.causality import audit
    from sympformer.citations import citation
    from sympformer.dynamics import register_scheme
    from sympformer.errors import InputError
    from sympformer.exporting import exported
    from sympformer.model import (
        Block,
        Cache,
        ModelConfig,
        Preset,
        Recorder,
        Stream,
        build,
        presets,
        register_attention,
        register_model,
        register_preset,
    )
    from sympformer.tracing import trace

__version__ = "0.2.0"

__all__ = [
    "Block",
    "Cache",
    "InputError",
    "ModelConfig",
    "Preset",
    "Recorder",
    "Stream",
    "attention",
    "audit",
    "build",
    "citation",
    "data",
    "dynamics",
    "exported",
    "lab",
    "model",
    "presets",
    "register_attention",
    "register_model",
    "register_preset",
    "register_scheme",
    "study",
    "tasks",
    "trace",
    "train",
]

_HOMES = {
    "Block": "model",
    "Cache": "model",
    "InputError": "errors",
    "ModelConfig": "model",
    "Preset": "model",
    "Recorder": "model",
    "Stream": "model",
    "audit": "causality",
    "build": "model",
    "citation": "citations",
    "exported": "exporting",
    "presets": "model",
    "register_attention": "model",
    "register_model": "model",
    "register_preset": "model",
    "register_scheme": "dynamics",
    "trace": "tracing",
}
_ROOMS = {"attention", "causality", "data", "dynamics", "lab", "model", "study", "tasks", "train"}


def __getattr__(name: str) -> Any:
    """Enter the rooms when they are first asked for.

    So the command line can answer an interrupt, or too little memory, while torch is imported.
    """
    if name in _ROOMS:
        return importlib.import_module(f"sympformer.{name}")
    if name in _HOMES:
        return getattr(importlib.import_module(f"sympformer.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'sympformer' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*__all__, "causality", "__version__", "__doc__", "__file__", "__path__"})
