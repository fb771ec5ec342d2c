"""What is measured: a model, a size, a device, and what is done with it."""

from dataclasses import dataclass, fields
from typing import Literal

import torch
from torch import Tensor

from sympformer import machine
from sympformer.attention import forms
from sympformer.bench.yardstick import PlainGPT
from sympformer.errors import InputError, lookup
from sympformer.model import PRESETS, CustomModel, LanguageModel, ModelConfig, build
from sympformer.typed import check_fields

PLAIN = "plain-gpt"
"""The name of the yardstick among the models."""
MEASURES = {
    "step": "training step: forward, backward, AdamW",
    "memory": "peak memory of a training step in a fresh process",
    "prefill": "first token after a prompt of T",
    "decode": "one more token after T, cached",
    "generate": "T tokens after the first, cached",
    "recompute": "T tokens after the first, every prefix anew",
}
DECODED = 8
"""Tokens in one call of `decode`."""


@dataclass(frozen=True)
class Case:
    """One model, one size, one measure."""

    model: str
    """A preset, or "plain-gpt"."""
    measure: str = "step"
    """One of MEASURES."""
    length: int = 512
    """T: tokens of context."""
    batch_size: int = 6
    """Sequences."""
    n_layer: int = 8
    """Layers."""
    n_head: int = 8
    """Attention heads."""
    n_embd: int = 64
    """Model dimension."""
    vocab_size: int = 50304
    """Token ids."""
    device: str = "cpu"
    """cpu, cuda, ..."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Precision of forward and backward pass, by autocast; weights stay float32."""
    compile: bool = False
    """Use torch.compile. Of `step` and `memory` it takes the blocks (the yardstick whole), of
    `decode` and `generate` the step from token to token. `prefill` and `recompute` are not
    compiled: their lengths vary in use."""
    form: str = "auto"
    """How attention is computed: "auto", or one of `sympformer.attention.forms`."""

    def __post_init__(self):
        check_fields(self)
        lookup({PLAIN: None, **PRESETS}, self.model, "preset")
        lookup(MEASURES, self.measure, "measure")
        lookup(dict.fromkeys(forms.NAMES), self.form, "attention form")
        if self.model == PLAIN and self.form != "auto":
            raise InputError(f"{PLAIN} has torch's fused attention only: its form must be 'auto'")
        for field in fields(self):
            if field.type is int and getattr(self, field.name) < 1:
                raise InputError(f"{field.name} must be a whole number of at least 1")
        self.config(self.length)

    @property
    def name(self) -> str:
        """The model; its form if that is not chosen automatically; whether it is compiled."""
        form = None if self.form == "auto" else self.form
        compiled = "compiled" if self.compile else None
        return ", ".join(filter(None, [self.model, form, compiled]))

    def config(self, block_size: int) -> ModelConfig:
        """The model's config; the yardstick has that of `gpt`."""
        return ModelConfig.preset(
            "gpt" if self.model == PLAIN else self.model,
            vocab_size=self.vocab_size,
            block_size=block_size,
            n_layer=self.n_layer,
            n_head=self.n_head,
            n_embd=self.n_embd,
        )

    def build(self, block_size: int) -> LanguageModel | CustomModel | PlainGPT:
        """The model, on its device, its weights from seed 0."""
        with machine.seeded(0):
            if self.model == PLAIN:
                sizes = self.vocab_size, block_size, self.n_layer, self.n_head, self.n_embd
                model = PlainGPT(*sizes)
            else:
                model = build(self.config(block_size))
        return model.to(self.device)

    def tokens(self, length: int) -> Tensor:
        """Ids `(B, length)`, the same for every model."""
        random = torch.Generator().manual_seed(0)
        ids = torch.randint(self.vocab_size, (self.batch_size, length), generator=random)
        return ids.to(self.device)

    def precision(self) -> torch.autocast:
        """A context for the forward pass: autocast for bfloat16."""
        return machine.precision(torch.device(self.device), self.dtype)
