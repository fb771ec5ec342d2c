"""`ModelConfig`: an architecture as data."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from functools import partial
from typing import Any, Literal, Self, get_type_hints

import torch

from sympformer.attention.naive import Causality
from sympformer.dynamics import SCHEMES, UNDAMPED, Scheme
from sympformer.dynamics.first_order import Drift, FirstOrder
from sympformer.errors import InputError, lookup
from sympformer.model.attentions import ATTENTIONS, attention_oracle
from sympformer.model.models import MODELS
from sympformer.model.oracle import Reads, options_of
from sympformer.model.presets import PRESETS
from sympformer.typed import check


@dataclass(frozen=True, init=False)
class ModelConfig:
    """Size and composition of a language model; presets name the useful compositions.

    Its arguments are its fields and, beside them, the options of its attention, by name:
    `ModelConfig(attention="linear", ridge=0.2)`. They can be read alike: `config.ridge`.
    """

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
    attention: str = "softmax"
    """The kind of attention: "softmax", exp(q·k) (S); "linear", q·k (L), whose past is one matrix a
    head; either "tied-", one head with A symmetric, B positive definite and V = B A; or one that
    was registered."""
    dynamics: Literal["none", "yurii", "polyak", "tmm", "symp"] = "none"
    """How a state moves: residual (GPT), Nesterov (YuriiFormer), Polyak, triple momentum, or
    SympFormer."""
    form: Literal["momentum", "velocity"] = "velocity"
    """SympFormer in momentum form (S') or in velocity form (U)."""
    scheme: str = "exp-euler"
    """Time discretisation of the momentum form, one of `sympformer.dynamics.schemes()`."""
    drift: Drift = "after"
    """First-order schemes move x with the momentum after the kick, or before it (as published)."""
    initial_step: float = 0.3
    """Step sizes that the momentum form starts with; each layer learns its own."""
    connection: Literal["none", "incoming", "proposal"] = "none"
    """Where the velocity form evaluates the geodesic term: nowhere, on u, or on the proposal."""
    causality: Literal["prefix", "joint", "ensembles"] = "prefix"
    """Sums over j ≤ i; or over all tokens: then the model is no decoder and is marked leaking; or
    every prefix is an ensemble of its own, whose sums are over all of it: O(T³), a yardstick."""
    mlp_velocity: Literal["attention", "momentum", "own"] = "attention"
    """The velocity of SympFormer's MLP substep: attention-induced, shared momentum, or its own."""
    lookahead: bool = True
    """SympFormer evaluates the oracles at a point moved along the velocity by a learned amount."""
    gradual: bool = False
    """Every substep moves a token by `(1 - κ) O + κ (the accelerated step)`, the share `κ` learned
    from 0, as the look-ahead is: the model starts as the one without momentum."""
    splitting: Literal["lie-trotter", "euler"] = "lie-trotter"
    """Attention, then MLP; or both evaluated at one point and added."""
    initial_momentum: Literal["zero", "embedding", "difference"] = "zero"
    """Tokens start at rest, with a momentum from tables of their own, or with the difference of
    their input and that of the token before."""
    damping: Literal["constant", "nesterov", "loglinear"] = "loglinear"
    """Damping α(t) of the momentum form, its coefficients learned per layer."""
    positions: Literal["learned", "none"] = "learned"
    """Tables of position embeddings beside those of tokens; or none, then only the causal sums tell
    places apart, and no length is foreign to a model."""
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
    mlp: Literal["gelu", "gelu-tanh", "none"] = "gelu"
    """Behind every attention a perceptron (with the exact GELU, or GPT-2's), or none."""
    bias: bool = False
    """The projections of attention, the MLPs and the layer norms have biases."""
    mlp_width: int = 0
    """Width inside the MLPs; 0 is 4 n_embd."""
    match_parameters: str = ""
    """Preset whose number of parameters, at this size, the width of the MLPs is chosen for."""
    model: str = ""
    """A whole model in the place of ours, that was registered; it reads the config as it wants."""
    options: Mapping[str, Any] = field(default_factory=dict, hash=False)
    """The options of the attention, all of them."""

    def __init__(self, **given: Any):
        options = given.pop("options", {})
        check("options", options, Mapping[str, Any])
        given = {**options, **given}
        own = {f.name: f for f in fields(self) if f.name != "options"}
        kind = given.get("attention", own["attention"].default)
        check("attention", kind, str)
        options = options_of(lookup(ATTENTIONS, kind, "attention"))
        for name in given.keys() - own.keys() - options.keys():
            _refuse_unknown(name, kind, {**own, **options})
        for name, f in own.items():
            object.__setattr__(self, name, given.get(name, f.default))
        chosen = {name: given.get(name, option.default) for name, option in options.items()}
        object.__setattr__(self, "options", chosen)
        for name, option in options.items():
            chosen[name] = check(name, chosen[name], option.kind)
        self._check()

    def __getattr__(self, name: str) -> Any:
        options = self.__dict__.get("options", {})
        if name in options:
            return options[name]
        raise AttributeError(
            f"a config of attention {self.__dict__.get('attention')!r} has no {name!r}"
        )

    def _check(self) -> None:
        for name, kind in get_type_hints(type(self)).items():
            value, default = getattr(self, name), type(self).__dataclass_fields__[name].default
            object.__setattr__(self, name, check(name, value, kind))
            least = 0 if default == 0 else 1
            if kind is int and not least <= value < 2**63:
                raise InputError(
                    f"{name} must be a whole number of at least {least} (below 2^63), not {value!r}"
                )
            if kind is float and not value > 0:
                raise InputError(f"{name} must be a number greater than 0, not {value!r}")
        lookup(SCHEMES, self.scheme, "scheme")
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
        if self.model:
            lookup(MODELS, self.model, "model")
            return
        try:
            with torch.device("meta"):  # what the oracle refuses, without taking memory
                sizes = self.n_embd, self.n_head
                attention_oracle(
                    self.attention, *sizes, self.reads(), self.sums, self.options, self.bias
                )
        except RuntimeError as error:
            raise InputError(
                f"n_embd = {self.n_embd} makes matrices that no memory holds "
                f"({str(error).splitlines()[0]}): choose a smaller one"
            ) from None

    def _refuse_options_without_effect(self):
        moving = self.dynamics != "none"
        symp = self.dynamics == "symp"
        has_mlp = self.mlp != "none"
        momentum = self.in_momentum_form
        velocity = symp and not momentum
        first_order = momentum and issubclass(SCHEMES[self.scheme], FirstOrder)
        in_momentum_form = "dynamics 'symp' and form 'momentum'"
        needs = {
            "initial_momentum": (moving, "dynamics other than 'none'"),
            "lookahead": (symp, "dynamics 'symp' (without look-ahead, 'yurii' is 'polyak')"),
            "gradual": (moving, "dynamics other than 'none'"),
            "form": (symp, "dynamics 'symp'"),
            "mlp_velocity": (symp and has_mlp, "dynamics 'symp' and mlp 'gelu'"),
            "splitting": (not symp and has_mlp, "another dynamics than 'symp' and mlp 'gelu'"),
            "scheme": (momentum, in_momentum_form),
            "drift": (first_order, f"{in_momentum_form} and a scheme of first order"),
            "initial_step": (momentum, in_momentum_form),
            "damping": (momentum, in_momentum_form),
            "connection": (velocity, "dynamics 'symp' and form 'velocity'"),
            "loop_scalars": (self.unique_layers > 0, "unique_layers"),
            "token_shift": (not self.tie_embeddings, "tie_embeddings = false"),
            "match_parameters": (has_mlp and not self.model, "a model of ours with an MLP"),
            "mlp_width": (
                has_mlp and not self.match_parameters,
                "mlp 'gelu' and match_parameters = '' (it sets the width)",
            ),
        }
        for name in type(self).__dataclass_fields__.keys() - needs.keys() if self.model else ():
            if name not in _OF_WHOLE_MODELS:
                needs[name] = (False, "a model of ours")
        for name, (has_effect, where) in needs.items():
            default = type(self).__dataclass_fields__[name].default
            if getattr(self, name) != default and not has_effect:
                raise InputError(
                    f"{name} = {getattr(self, name)!r} needs {where}, and would have no effect "
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
        return cls(**fields)

    def to_dict(self) -> dict[str, Any]:
        """All fields and options, as plain data."""
        own = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "options"}
        return {**own, **self.options}

    def of_block(self) -> dict[str, Any]:
        """What a layer is made of: the fields that `Block` takes by name."""
        own = {name: value for name, value in self.to_dict().items() if name not in AROUND}
        return {**own, "causality": self.sums}

    @property
    def sums(self) -> Causality:
        """Which tokens the sums of a layer are over."""
        return "joint" if self.causality == "ensembles" else self.causality

    @property
    def leaking(self) -> bool:
        """Whether tokens see the future by design."""
        return self.causality == "joint"

    @property
    def in_momentum_form(self) -> bool:
        """Whether a time discretisation steps positions and momenta (S', L)."""
        return self.dynamics == "symp" and self.form == "momentum"

    @property
    def looks(self) -> bool:
        """Whether oracles are asked at a point moved along the velocity."""
        return self.lookahead and self.dynamics not in ("none", "polyak")

    @property
    def make_scheme(self) -> Callable[..., Scheme]:
        """The time discretisation of the momentum form, given its damping."""
        scheme = SCHEMES[self.scheme]
        return partial(scheme, drift=self.drift) if issubclass(scheme, FirstOrder) else scheme

    @property
    def starts_at_rest(self) -> bool:
        """Whether the tokens of the first layer have no momentum, as no other's."""
        return self.in_momentum_form and not self.unique_layers and self.initial_momentum == "zero"

    @property
    def ends_at_rest(self) -> bool:
        """Whether nothing reads the momentum behind the last layer, as in momentum form."""
        return self.in_momentum_form and not self.unique_layers and self.mlp_velocity != "momentum"

    @property
    def drifts_last(self) -> bool:
        """Whether nothing depends on the last layer's kick either: x drifts before it."""
        return self.ends_at_rest and not self.make_scheme(UNDAMPED).drifts_after_its_kick

    def reads(self, last: bool = False) -> Reads:
        """What a layer, or the last one, reads its oracle for."""
        if self.in_momentum_form:
            if self.gradual:
                return "both"
            return "drift" if last and self.drifts_last else "momentum"
        return "connection" if self.connection != "none" else "attention"


_OF_WHOLE_MODELS = {
    "vocab_size",
    "block_size",
    "n_layer",
    "n_head",
    "n_embd",
    "mlp_width",
    "unique_layers",
    "model",
    "options",
}
"""Fields that a whole model of a user's own may read."""
AROUND = {
    "vocab_size",
    "block_size",
    "positions",
    "n_layer",
    "n_head",
    "n_embd",
    "initial_momentum",
    "tie_embeddings",
    "token_shift",
    "unique_layers",
    "loop_scalars",
    "match_parameters",
    "model",
}
"""Fields that are not of a layer."""


def _refuse_unknown(name: str, attention: str, known: Mapping[str, Any]) -> None:
    others = [other for other, kind in ATTENTIONS.items() if name in options_of(kind)]
    if others:
        raise InputError(
            f"{name} is an option of attention {' and '.join(map(repr, others))}, not of "
            f"{attention!r}: remove it or change the attention"
        )
    lookup(known, name, "model option")
