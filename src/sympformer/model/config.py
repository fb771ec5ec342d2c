"""`ModelConfig`: an architecture as data."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self, get_args, get_origin, get_type_hints

from sympformer.dynamics import SCHEMES
from sympformer.errors import InputError, lookup
from sympformer.model.presets import PRESETS


@dataclass(frozen=True)
class ModelConfig:
    """Size and composition of a language model; presets name the useful compositions."""

    vocab_size: int = 50304
    """Number of token ids."""
    block_size: int = 512
    """Longest context, in tokens."""
    n_layer: int = 8
    """Layers; each is an attention and an MLP substep."""
    n_head: int = 8
    """Attention heads."""
    n_embd: int = 64
    """Model dimension; a multiple of n_head."""
    dynamics: Literal["none", "yurii", "symp"] = "none"
    """How a state moves: residual (GPT), Nesterov + Lie-Trotter (YuriiFormer), or SympFormer."""
    form: Literal["momentum", "velocity"] = "velocity"
    """SympFormer in momentum form (S') or in velocity form (U)."""
    scheme: str = "exp-euler"
    """Time discretisation of the momentum form, one of `sympformer.dynamics.schemes()`."""
    connection: Literal["none", "incoming", "proposal"] = "none"
    """Where the velocity form evaluates the geodesic term: nowhere, on u, or on the proposal."""
    heads: Literal["independent", "averaged"] = "independent"
    """One kernel a head, or the scores averaged over heads (as published)."""
    causality: Literal["prefix", "joint"] = "prefix"
    """Sums over j ≤ i, or over all tokens: then the model is no decoder and is marked leaking."""
    normalizer: Literal["prefix", "length"] = "prefix"
    """z averages over the visible tokens, or over the sequence length (as published)."""
    mlp_velocity: Literal["attention", "momentum", "own"] = "attention"
    """The velocity of SympFormer's MLP substep: attention-induced, shared momentum, or its own."""
    lookahead: bool = True
    """Evaluate the oracles at a point moved along the velocity by a learned amount."""
    initial_momentum: Literal["zero", "embedding"] = "zero"
    """Tokens start at rest, or with a momentum from tables of their own."""
    damping: Literal["constant", "nesterov", "loglinear"] = "loglinear"
    """Damping α(t) of the momentum form, its coefficients learned per layer."""
    tie_embeddings: bool = True
    """Input and head share one table; otherwise the input has its own, scaled to unit size."""

    def __post_init__(self):
        for field, kind in get_type_hints(type(self)).items():
            value = getattr(self, field)
            if get_origin(kind) is Literal:
                lookup(dict.fromkeys(get_args(kind)), value, field)
            if kind is int and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
                raise InputError(f"{field} must be a whole number of at least 1, not {value!r}")
            if kind is bool and not isinstance(value, bool):
                raise InputError(f"{field} must be true or false, not {value!r}")
        lookup(SCHEMES, self.scheme, "scheme")
        if self.n_embd % self.n_head:
            raise InputError(f"n_embd ({self.n_embd}) must be a multiple of n_head ({self.n_head})")
        self._refuse_options_without_effect()

    def _refuse_options_without_effect(self):
        moving = self.dynamics != "none"
        symp = self.dynamics == "symp"
        momentum = symp and self.form == "momentum"
        velocity = symp and self.form == "velocity"
        needs = {
            "initial_momentum": (moving, "dynamics 'yurii' or 'symp'"),
            "lookahead": (moving, "dynamics 'yurii' or 'symp'"),
            "form": (symp, "dynamics 'symp'"),
            "mlp_velocity": (symp, "dynamics 'symp'"),
            "scheme": (momentum, "dynamics 'symp' and form 'momentum'"),
            "damping": (momentum, "dynamics 'symp' and form 'momentum'"),
            "normalizer": (momentum, "dynamics 'symp' and form 'momentum'"),
            "connection": (velocity, "dynamics 'symp' and form 'velocity'"),
        }
        for field, (has_effect, where) in needs.items():
            default = type(self).__dataclass_fields__[field].default
            if getattr(self, field) != default and not has_effect:
                raise InputError(
                    f"{field} = {getattr(self, field)!r} has no effect with dynamics = "
                    f"{self.dynamics!r}, form = {self.form!r}: it needs {where}; remove it or "
                    "change them"
                )

    @classmethod
    def preset(cls, name: str, **overrides: Any) -> Self:
        """The composition called `name` (see `presets()`), with any field overridden.

        Raises:
            InputError: no such preset or field, or a combination that makes no sense.
        """
        return cls.from_dict({**lookup(PRESETS, name, "preset").fields, **overrides})

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Self:
        """The config with these fields, as `to_dict` gives them."""
        known = cls.__dataclass_fields__
        for field in fields:
            lookup(known, field, "model option")
        return cls(**fields)

    def to_dict(self) -> dict[str, Any]:
        """All fields, as plain data."""
        return dataclasses.asdict(self)

    @property
    def leaking(self) -> bool:
        """Whether tokens see the future by design."""
        return self.causality == "joint"
