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
    attention: Literal["softmax", "linear"] = "softmax"
    """The kernel of attention: exp(q·k) (S), or q·k (L), whose past is one matrix a head."""
    dynamics: Literal["none", "yurii", "polyak", "tmm", "symp"] = "none"
    """How a state moves: residual (GPT), Nesterov (YuriiFormer), Polyak, triple momentum, or
    SympFormer."""
    form: Literal["momentum", "velocity"] = "velocity"
    """SympFormer in momentum form (S') or in velocity form (U)."""
    scheme: str = "exp-euler"
    """Time discretisation of the momentum form, one of `sympformer.dynamics.schemes()`."""
    initial_step: float = 0.3
    """Step sizes that the momentum form starts with; each layer learns its own."""
    connection: Literal["none", "incoming", "proposal"] = "none"
    """Where the velocity form evaluates the geodesic term: nowhere, on u, or on the proposal."""
    ridge: float = 0.1
    """Share λ of the identity in the metric of linear attention, which bounds its connection."""
    geometry: Literal["free", "tied"] = "free"
    """Free projections, or one head with A symmetric, B positive definite and V = B A."""
    heads: Literal["independent", "averaged"] = "independent"
    """One kernel a head, or the scores averaged over heads (as published)."""
    causality: Literal["prefix", "joint"] = "prefix"
    """Sums over j ≤ i, or over all tokens: then the model is no decoder and is marked leaking."""
    normalizer: Literal["prefix", "length"] = "prefix"
    """z averages over the visible tokens, or over the sequence length (as published)."""
    mlp_velocity: Literal["attention", "momentum", "own"] = "attention"
    """The velocity of SympFormer's MLP substep: attention-induced, shared momentum, or its own."""
    lookahead: bool = True
    """SympFormer evaluates the oracles at a point moved along the velocity by a learned amount."""
    splitting: Literal["lie-trotter", "euler"] = "lie-trotter"
    """Attention, then MLP; or both evaluated at one point and added."""
    initial_momentum: Literal["zero", "embedding", "difference"] = "zero"
    """Tokens start at rest, with a momentum from tables of their own, or with the difference of
    their input and that of the token before."""
    damping: Literal["constant", "nesterov", "loglinear"] = "loglinear"
    """Damping α(t) of the momentum form, its coefficients learned per layer."""
    tie_embeddings: bool = True
    """Input and head share one table; otherwise the input has its own, scaled to unit size."""
    token_shift: bool = False
    """Add the input of the token before, by learned weights from 0."""
    injection: bool = False
    """Add a second table to every layer's input, by learned weights."""
    unique_layers: int = 0
    """Blocks that are looped over the n_layer layers; 0 is all, without a loop."""
    loop_scalars: Literal["shared", "own"] = "shared"
    """Looped blocks keep their step sizes, damping, ..., or have their own in every application."""
    mlp_width: int = 0
    """Width inside the MLPs; 0 is 4 n_embd."""
    match_parameters: str = ""
    """Preset whose number of parameters, at this size, the width of the MLPs is chosen for."""

    def __post_init__(self):
        for field, kind in get_type_hints(type(self)).items():
            value, default = getattr(self, field), type(self).__dataclass_fields__[field].default
            if get_origin(kind) is Literal:
                lookup(dict.fromkeys(get_args(kind)), value, field)
            least = 0 if default == 0 else 1
            if kind is int and (type(value) is not int or value < least):
                raise InputError(
                    f"{field} must be a whole number of at least {least}, not {value!r}"
                )
            if kind is float and (type(value) not in (int, float) or not value > 0):
                raise InputError(f"{field} must be a number greater than 0, not {value!r}")
            if kind is bool and not isinstance(value, bool):
                raise InputError(f"{field} must be true or false, not {value!r}")
        lookup(SCHEMES, self.scheme, "scheme")
        if self.n_embd % self.n_head:
            raise InputError(f"n_embd ({self.n_embd}) must be a multiple of n_head ({self.n_head})")
        if self.unique_layers and (
            self.n_layer % self.unique_layers or self.n_layer == self.unique_layers
        ):
            raise InputError(
                f"n_layer ({self.n_layer}) must be a multiple of unique_layers "
                f"({self.unique_layers}), at least twice it: it counts applications of blocks"
            )
        if self.match_parameters:
            lookup(PRESETS, self.match_parameters, "preset to match")
        self._refuse_options_without_effect()

    def _refuse_options_without_effect(self):
        moving = self.dynamics != "none"
        symp = self.dynamics == "symp"
        softmax = self.attention == "softmax"
        momentum = self.in_momentum_form
        velocity = symp and not momentum
        connected = velocity and self.connection != "none"
        needs = {
            "initial_momentum": (moving, "dynamics other than 'none'"),
            "lookahead": (symp, "dynamics 'symp' (without look-ahead, 'yurii' is 'polyak')"),
            "form": (symp, "dynamics 'symp'"),
            "mlp_velocity": (symp, "dynamics 'symp'"),
            "splitting": (not symp, "another dynamics than 'symp'"),
            "scheme": (momentum, "dynamics 'symp' and form 'momentum'"),
            "initial_step": (momentum, "dynamics 'symp' and form 'momentum'"),
            "damping": (momentum, "dynamics 'symp' and form 'momentum'"),
            "normalizer": (
                momentum and softmax,
                "attention 'softmax', dynamics 'symp' and form 'momentum'",
            ),
            "connection": (velocity, "dynamics 'symp' and form 'velocity'"),
            "ridge": (connected and not softmax, "attention 'linear' and a connection"),
            "geometry": (self.n_head == 1, "n_head = 1"),
            "heads": (self.geometry == "free", "geometry 'free'"),
            "loop_scalars": (self.unique_layers > 0, "unique_layers"),
            "token_shift": (not self.tie_embeddings, "tie_embeddings = false"),
            "mlp_width": (not self.match_parameters, "match_parameters = '' (it sets the width)"),
        }
        for field, (has_effect, where) in needs.items():
            default = type(self).__dataclass_fields__[field].default
            if getattr(self, field) != default and not has_effect:
                raise InputError(
                    f"{field} = {getattr(self, field)!r} needs {where}, and would have no effect "
                    f"with attention = {self.attention!r}, dynamics = {self.dynamics!r}, form = "
                    f"{self.form!r}: remove it or change them"
                )
        if self.initial_momentum == "difference" and self.tie_embeddings:
            raise InputError(
                "initial_momentum = 'difference' needs an input of unit size: "
                "set tie_embeddings = false"
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

    @property
    def in_momentum_form(self) -> bool:
        """Whether a time discretisation steps positions and momenta (S', L)."""
        return self.dynamics == "symp" and self.form == "momentum"
