"""Floating-point operations by formula: what a model has to compute, whatever computes it.

A multiplication and an addition are two operations. Counted are the products of matrices: the
linear maps, attention, and the logits. Norms, activations, softmax and the optimizer are not, nor
is anything that is computed a second time (scores in a backward pass, values padded with
zeros), so that a share of the machine's peak is a share of useful work. The backward pass of a
product is two products of its size.

Attention, forward, is counted by each oracle itself (`AttentionOracle.cost`), given what a scheme
asks of it: products with matrices, and, with `d` the features of all heads together and `e` those
of one,

    softmax  for each visible pair of tokens, 2d each: the scores 1, the average of `v` 1; a force
             of the momentum form (S') 1 more, the average of `s v`; a connection (U) 3 more, the
             averages of `k`, `W_K u` and `s v`
    linear   for each token, 2de each: 1 to extend a state, 1 to read it. Plain attention 2; the
             momentum form 1 for its state, 1 for a velocity, 1 for a force; a connection 8 more
             (docs/linear.md)

Causal sums run over `j ≤ i`: half of the square, and its diagonal.
"""

from dataclasses import replace
from typing import NamedTuple

import torch

from sympformer.dynamics.trial import Calls
from sympformer.model import Cost, ModelConfig
from sympformer.model.attentions import attention_oracle
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
        InputError: the attention does not say what it costs.
    """
    config = matched(config)
    if config.causality == "ensembles":
        one = replace(config, causality="joint")
        each = [forward(one, m, logits=1) for m in range(past + 1, past + n + 1)]
        return Flops(*map(sum, zip(*each, strict=True)))
    d = config.n_embd
    joint = config.causality == "joint"
    pairs = n * (past + n) if joint else n * past + n * (n + 1) / 2
    maps = attention = 0.0
    for layer in range(config.n_layer):
        cost, head = _layer(config, last=layer == config.n_layer - 1)
        mlp = 2 * (config.mlp_width or 4 * d) if config.mlp != "none" else 0
        maps += (cost.maps * d + mlp) * 2 * d * n
        attention += cost.pairs * 2 * d * pairs + cost.states * 2 * d * head * n
    vocabulary = 2 * d * config.vocab_size * (n if logits is None else logits)
    return Flops(maps, attention, vocabulary)


def _layer(config: ModelConfig, last: bool) -> tuple[Cost, int]:
    """What one layer's attention costs, and the width of its heads."""
    calls = Calls(fields=1)
    if config.in_momentum_form:
        calls = Calls.of(config.make_scheme)
        if last and config.drifts_last:
            calls.forces = 0
    with torch.device("meta"):  # no memory is taken
        sizes = config.n_embd, config.n_head
        reads = config.reads(last)
        oracle = attention_oracle(
            config.attention, *sizes, reads, config.sums, config.options, config.bias
        )
    return oracle.cost(calls), config.n_embd // oracle.n_head


def step(config: ModelConfig, n: int) -> Flops:
    """One sequence's forward and backward pass over `n` tokens."""
    return forward(config, n) * 3
