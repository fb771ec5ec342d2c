"""Named architectures: presets are data."""

import sys
from dataclasses import dataclass
from typing import Any

from sympformer.dynamics import SCHEMES
from sympformer.errors import InputError, enter, shown


@dataclass(frozen=True)
class Preset:
    """A composition of `ModelConfig` fields, and one line on what it is."""

    summary: str
    fields: dict[str, Any]


def _nesterov(dynamics: str, **fields: str) -> dict[str, Any]:
    return {"dynamics": dynamics, "initial_momentum": "embedding", **fields}


def _momentum(scheme: str, **fields: str) -> dict[str, Any]:
    return {
        "dynamics": "symp",
        "form": "momentum",
        "scheme": scheme,
        "initial_momentum": "embedding",
        **fields,
    }


def _velocity(connection: str, initial_momentum: str = "embedding") -> dict[str, Any]:
    return {
        "dynamics": "symp",
        "form": "velocity",
        "connection": connection,
        "lookahead": False,
        "initial_momentum": initial_momentum,
    }


_RIVAL_EXTRAS: dict[str, Any] = {
    "convolution": 4,
    "activation": "silu",
    "keys": "unit",
    "output_norm": True,
}


def _title(scheme: type) -> str:
    """What the file of a scheme calls it."""
    return (sys.modules[scheme.__module__].__doc__ or scheme.__name__).splitlines()[0].rstrip(".")


_GPT = {
    "gpt": Preset("GPT: residual attention and MLP, tied embeddings", {}),
    "gpt-untied": Preset(
        "the fair control: GPT with an input table of its own, the parameters of a momentum model",
        {"tie_embeddings": False},
    ),
}

_CONTROLS = {
    "gpt-wide": Preset(
        "control: GPT whose MLPs are widened to the parameters of gpt-untied",
        {"match_parameters": "gpt-untied"},
    ),
    "gpt-inject": Preset(
        "control: GPT with a second table, added in every layer by learned weights",
        {"injection": True},
    ),
    "gpt-shift": Preset(
        "control: gpt-untied with the input of the token before, added by learned weights",
        {"tie_embeddings": False, "token_shift": True},
    ),
    "gpt-euler": Preset(
        "GPT with Euler splitting: attention and MLP at one point, added", {"splitting": "euler"}
    ),
}

_YURII = {
    "yurii": Preset(
        "YuriiFormer: Nesterov look-ahead and momentum, Lie-Trotter splitting", _nesterov("yurii")
    ),
}

_RIVALS = {
    "yurii-euler": Preset(
        "YuriiFormer with Euler splitting: attention and MLP at one point, added",
        _nesterov("yurii", splitting="euler"),
    ),
    "polyak": Preset("Polyak's heavy ball: YuriiFormer without look-ahead", _nesterov("polyak")),
    "tmm": Preset(
        "triple momentum: YuriiFormer with a learned share of the velocity in the position",
        _nesterov("tmm"),
    ),
}

_SYMP = {
    **{
        f"symp-{name}": Preset(f"SympFormer, momentum form: {_title(scheme)}", _momentum(name))
        for name, scheme in SCHEMES.items()
    },
    **{
        f"symp-{name}-published": Preset(
            f"symp-{name} as published: the drift comes before the kick",
            _momentum(name, drift="before"),
        )
        for name in ("plain-euler", "euler", "exp-euler")
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
    "symp-difference": Preset(
        "symp-h0 whose tokens start with the difference of successive inputs as their momentum",
        {**_velocity("none", "difference"), "tie_embeddings": False},
    ),
}

_RULES: dict[str, tuple[str, dict[str, Any]]] = {
    "unit-linear": (
        "the honest linear baseline: unit keys, learned strengths, normed outputs, no solve",
        {"rule": "sum", "convolution": 0},
    ),
    "mamba2": (
        "Mamba-2's update: a decay a head, whose step is the strength; no solve",
        {"rule": "sum", "decay": "head", "strength": "step", "keys": "free"},
    ),
    "longhorn": (
        "Longhorn's update in exact form: the proximal step of online regression",
        {"rule": "implicit", "keys": "free"},
    ),
    "deltanet": ("DeltaNet: the delta rule, the regularised Stein flow in one pass", {}),
    "gated-deltanet": ("Gated DeltaNet: the delta rule and a decay a head", {"decay": "head"}),
    "mesanet": (
        "MesaNet: the exact ridge regression of each prefix, every one its own ensemble",
        {"rule": "mesa", "decay": "head"},
    ),
    "momentum-deltanet": (
        "the delta rule with a momentum along the text",
        {"rule": "momentum"},
    ),
    "kda": (
        "Kimi Delta Attention: the delta rule and a decay a channel of the keys",
        {"decay": "channel"},
    ),
}

_DELTA: dict[str, Any] = {"attention": "fast-weights", "rule": "delta", **_RIVAL_EXTRAS}

_FAST_WEIGHTS = {
    name + suffix: Preset(
        summary + also, {**_DELTA, **fields, **({"tie_embeddings": False} if suffix else {})}
    )
    for name, (summary, fields) in _RULES.items()
    for suffix, also in (("", ""), ("-untied", "; an input table of its own"))
}


def _delta_symp(scheme: str, **fields: Any) -> dict[str, Any]:
    return {**_momentum(scheme), **_DELTA, "convolution": 0, **fields}


_DELTA_SYMP = {
    **{
        f"delta-symp-{name}": Preset(
            f"the regularised Stein flow, accelerated: {_title(scheme)}", _delta_symp(name)
        )
        for name, scheme in SCHEMES.items()
    },
    "delta-symp-momentum": Preset(
        "both momenta: along the depth, and along the text in the delta rule",
        _delta_symp("conformal-euler", rule="momentum", repulsion=False),
    ),
    "delta-symp-h0": Preset(
        "DeltaNet in velocity form without the connection: the delta rule with momentum",
        {**_velocity("none"), **_DELTA},
    ),
    "delta-yurii": Preset("YuriiFormer with the delta rule", {**_nesterov("yurii"), **_DELTA}),
    "gated-delta-symp": Preset(
        "the regularised Stein flow with a decay and convolutions, accelerated: kick, then damp",
        _delta_symp(
            "conformal-euler",
            decay="head",
            convolution=4,
            initial_momentum="zero",
            tie_embeddings=False,
        ),
    ),
}

_LINEAR = {
    f"linear-{name}": Preset(
        f"linear attention: {preset.summary}", {"attention": "linear", **preset.fields}
    )
    for name, preset in {**_GPT, **_YURII, **_SYMP}.items()
}

_PLAIN = ("gpt", "gpt-untied", "yurii", "symp-h0", "symp-h1", "symp-r2")
_EXTRAS = {
    f"{name}-extras": Preset(
        f"{preset.summary}; with the extras of DeltaNet: convolution, unit keys, norm",
        {**preset.fields, **_RIVAL_EXTRAS},
    )
    for name, preset in {**_GPT, **_YURII, **_SYMP, **_LINEAR}.items()
    if name.removeprefix("linear-") in _PLAIN
}

PRESETS: dict[str, Preset] = {
    **_GPT,
    **_CONTROLS,
    **_YURII,
    **_RIVALS,
    **_SYMP,
    **_LINEAR,
    **_EXTRAS,
    **_FAST_WEIGHTS,
    **_DELTA_SYMP,
}


def presets() -> list[str]:
    """Names of all presets, for `ModelConfig.preset`."""
    return list(PRESETS)


def register_preset(name: str, preset: Preset) -> None:
    """Add an architecture of your own: commands and `ModelConfig.preset(name)` know it then.

    Raises:
        InputError: the name is taken, it is no `Preset`, or its fields make no sense.
    """
    from sympformer.model.config import ModelConfig  # which looks presets up

    if not isinstance(preset, Preset):
        raise InputError(f"preset {name!r} must be a Preset(summary, fields), not {shown(preset)}")
    try:  # with one head, which every attention has
        ModelConfig(**{"n_head": 1, **preset.fields})
    except InputError as error:
        raise InputError(f"preset {name!r}: {error}") from None
    enter(PRESETS, name, preset, "preset")
