"""Floating-point operations by formula: what a model has to compute, whatever computes it.

A multiplication and an addition are two operations. Counted are the products of matrices: the
linear maps, attention, and the logits. Norms, activations, softmax and the optimizer are not, nor
is anything that is computed a second time (scores in a backward pass, values padded with
zeros), so that a share of the machine's peak is a share of useful work. The backward pass of a
product is two products of its size.

Attention, forward, with `d` the features of all heads together and `e` those of one:

    softmax  for each visible pair of tokens, 2d each: the scores 1, the average of `v` 1; a force
             of the momentum form (S') 1 more, the average of `s v`; a connection (U) 3 more, the
             averages of `k`, `W_K u` and `s v`
    linear   for each token, 2de each: 1 to extend a state, 1 to read it. Plain attention 2; the
             momentum form 1 for its state, 1 for a velocity, 1 for a force; a connection 8 more
             (docs/linear.md)

Causal sums run over `j ≤ i`: half of the square, and its diagonal.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from sympformer.dynamics import SCHEMES, State, damping
from sympformer.errors import InputError
from sympformer.model import ModelConfig
from sympformer.model.build import matched


class Flops(NamedTuple):
    """Operations of the linear maps, of attention and of the logits."""

    maps: float
    attention: float
    vocabulary: float

    @property
    def total(self) -> float:
        """Their sum."""
        return self.maps + self.attention + self.vocabulary

    def __mul__(self, factor: float) -> "Flops":  # pyright: ignore[reportIncompatibleMethodOverride]
        """As many times over."""
        return Flops(*(factor * part for part in self))


def forward(config: ModelConfig, n: int, past: int = 0, logits: int | None = None) -> Flops:
    """One sequence's forward pass over `n` new tokens that follow `past` ones.

    Args:
        config: the model.
        n: new tokens.
        past: earlier tokens, remembered in a cache.
        logits: positions whose logits are computed; all new ones if not given.

    Raises:
        InputError: the config has tied geometry, whose maps are not counted.
    """
    if config.geometry == "tied":
        raise InputError("operations are counted for geometry = 'free' only, not for 'tied'")
    if config.match_parameters:
        config = matched(config)
    d, layers = config.n_embd, config.n_layer
    calls = Calls.of(config)
    mlp = 2 * (config.mlp_width or 4 * d)
    maps = (calls.maps(config) * d + mlp) * 2 * d * n
    if config.attention == "softmax":
        joint = config.causality == "joint"
        pairs = n * (past + n) if joint else n * past + n * (n + 1) / 2
        attention = calls.of_pairs(config) * 2 * d * pairs
    else:
        head = d if config.heads == "averaged" else d // config.n_head
        attention = calls.of_states(config) * 2 * d * head * n
    vocabulary = 2 * d * config.vocab_size * (n if logits is None else logits)
    return Flops(layers * maps, layers * attention, vocabulary)


def step(config: ModelConfig, n: int) -> Flops:
    """One sequence's forward and backward pass over `n` tokens."""
    return forward(config, n) * 3


@dataclass
class Calls:
    """What a scheme asks for in one step: fields, velocities, forces, of how many momenta.

    It stands for an oracle and for its field: the scheme itself is run and counted.
    """

    fields: int = 0
    velocities: int = 0
    forces: int = 0
    momenta: int = 0

    def __post_init__(self):
        self._p: Tensor | None = None

    @classmethod
    def of(cls, config: ModelConfig) -> "Calls":
        """The calls of one layer in momentum form; one field in any other."""
        if not config.in_momentum_form:
            return cls(fields=1)
        calls, scheme = cls(), SCHEMES[config.scheme](damping("constant", alpha=1.0))
        state = State(torch.zeros(1), torch.zeros(1))
        memory = scheme.init(state)
        scheme.step(calls, state, 0.1, 1.0, memory)
        return calls

    def __call__(self, x: Tensor) -> "Calls":
        """A field."""
        self.fields, self._p = self.fields + 1, None
        return self

    def velocity(self, p: Tensor) -> Tensor:
        """A velocity."""
        self.velocities += 1
        return self._seen(p)

    def force(self, p: Tensor) -> Tensor:
        """A force."""
        self.forces += 1
        return self._seen(p)

    def _seen(self, p: Tensor) -> Tensor:
        if self._p is not p:  # a velocity and a force of one momentum project it once
            self._p, self.momenta = p, self.momenta + 1
        return torch.zeros_like(p)

    def maps(self, config: ModelConfig) -> int:
        """Maps of size d×d."""
        connected = config.connection != "none"
        if config.attention == "softmax":
            if config.in_momentum_form:  # q, k, v; U p; Uᵀ; O
                return 3 * self.fields + self.momenta + self.velocities + self.forces
            return 4 + 3 * connected  # q, k, v, O; W_Q u, W_K u, O
        if config.in_momentum_form:  # q, k; U p; Uᵀ; V x and W_Qᵀ
            return 2 * self.fields + self.momenta + self.velocities + 2 * self.forces
        return 4 + 2 * connected  # q, k, v, O; W_K u, W_Kᵀ

    def of_pairs(self, config: ModelConfig) -> int:
        """Products over the pairs of softmax attention."""
        if config.in_momentum_form:  # scores; Att, once a field; Σ a s v, once a force
            return self.fields + min(self.fields, self.forces) + self.forces
        return 2 + 3 * (config.connection != "none")

    def of_states(self, config: ModelConfig) -> int:
        """Products with a state of linear attention."""
        if config.in_momentum_form:
            return self.momenta + self.velocities + self.forces
        return 2 + 8 * (config.connection != "none")
