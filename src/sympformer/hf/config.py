"""A model's composition as a Hugging Face config."""

from typing import Any

from transformers import PreTrainedConfig

from sympformer.model import ModelConfig


class SympFormerConfig(PreTrainedConfig):
    """A `ModelConfig`, its fields under `composition`; the usual sizes have the usual names too.

    Args:
        composition: fields of `sympformer.ModelConfig`, by name.
        **other: of `PreTrainedConfig`.

    Raises:
        InputError: a composition that makes no sense.
    """

    model_type = "sympformer"
    keys_to_ignore_at_inference = ["cache", "momenta"]  # noqa: RUF012 - added to a list by Trainer

    composition: dict[str, Any] | None = None

    def __init__(self, composition: dict[str, Any] | None = None, **other: Any):
        made = ModelConfig(**(composition or {}))
        self.composition = dict(composition or {})
        self.vocab_size, self.hidden_size = made.vocab_size, made.n_embd
        self.num_hidden_layers, self.num_attention_heads = made.n_layer, made.n_head
        self.max_position_embeddings = made.block_size
        for name in _DERIVED:  # as they were written; the composition is what counts
            other.pop(name, None)
        # One table serves both ends, or none does: within the model, not as two parameters.
        super().__init__(**{**other, "tie_word_embeddings": False})

    def model_config(self) -> ModelConfig:
        """The composition, ready to build."""
        return ModelConfig(**(self.composition or {}))


_DERIVED = (
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "max_position_embeddings",
)
