"""Named architectures: presets are data."""

import sys
from dataclasses import dataclass
from typing import Any

from sympformer.dynamics import SCHEMES


@dataclass(frozen=True)
class Preset:
    """A composition of `ModelConfig` fields, and one line on what it is."""

    summary: str
    fields: dict[str, Any]


def _momentum(scheme: str) -> dict[str, Any]:
    return {
        "dynamics": "symp",
        "form": "momentum",
        "scheme": scheme,
        "initial_momentum": "embedding",
    }


def _velocity(connection: str) -> dict[str, Any]:
    return {
        "dynamics": "symp",
        "form": "velocity",
        "connection": connection,
        "lookahead": False,
        "initial_momentum": "embedding",
    }


def _title(scheme: type) -> str:
    """What the file of a scheme calls it."""
    return (sys.modules[scheme.__module__].__doc__ or scheme.__name__).splitlines()[0].rstrip(".")


PRESETS: dict[str, Preset] = {
    "gpt": Preset("GPT: residual attention and MLP, tied embeddings", {}),
    "gpt-untied": Preset(
        "the fair control: GPT with an input table of its own, the parameters of a momentum model",
        {"tie_embeddings": False},
    ),
    "yurii": Preset(
        "YuriiFormer: Nesterov look-ahead and momentum, Lie-Trotter splitting",
        {"dynamics": "yurii", "initial_momentum": "embedding"},
    ),
    **{
        f"symp-{name}": Preset(f"SympFormer, momentum form: {_title(scheme)}", _momentum(name))
        for name, scheme in SCHEMES.items()
    },
    "symp-h0": Preset(
        "SympFormer, velocity form without the connection: attention with momentum",
        _velocity("none"),
    ),
    "symp-h1": Preset(
        "SympFormer, velocity form, connection on the incoming velocity",
        _velocity("incoming"),
    ),
    "symp-r2": Preset(
        "SympFormer, velocity form, connection on the proposed velocity",
        _velocity("proposal"),
    ),
}


def presets() -> list[str]:
    """Names of all presets, for `ModelConfig.preset`."""
    return list(PRESETS)
