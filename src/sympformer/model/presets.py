"""Named architectures: presets are data."""

from dataclasses import dataclass
from typing import Any


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
    "symp-euler": Preset(
        "SympFormer, momentum form, damped Euler",
        _momentum("euler"),
    ),
    "symp-conformal-euler": Preset(
        "SympFormer, momentum form, conformally symplectic Euler (kick, then damp)",
        _momentum("conformal-euler"),
    ),
    "symp-exp-euler": Preset(
        "SympFormer, momentum form, exponential Euler",
        _momentum("exp-euler"),
    ),
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
