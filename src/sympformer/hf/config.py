"""A model's composition as a Hugging Face config."""

import os
from pathlib import Path
from typing import Any

from transformers import PreTrainedConfig

from sympformer.model import ModelConfig

CODE = '''"""Where transformers finds the classes of this model: `pip install 'sympformer[hf]'`."""

from sympformer.hf import SympFormerConfig, SympFormerForCausalLM

__all__ = ["SympFormerConfig", "SympFormerForCausalLM"]
'''
"""What stands in the folder of every model, for those who trust it."""
FILE = "modeling_sympformer"
AUTO_MAP = {
    "AutoConfig": f"{FILE}.SympFormerConfig",
    "AutoModelForCausalLM": f"{FILE}.SympFormerForCausalLM",
}


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
        given = {**other, "tie_word_embeddings": False, "auto_map": dict(AUTO_MAP)}
        super().__init__(**given)

    def model_config(self) -> ModelConfig:
        """The composition, ready to build."""
        return ModelConfig(**(self.composition or {}))

    def save_pretrained(self, save_directory: str | os.PathLike[str], *args: Any, **options: Any):
        """As the library's, with the code by which those find the classes who lack our import."""
        super().save_pretrained(save_directory, *args, **options)
        (Path(save_directory) / f"{FILE}.py").write_text(CODE, encoding="utf-8")

    @classmethod
    def register_for_auto_class(cls, auto_class: str = "AutoConfig") -> None:
        """Nothing to do: what is saved names the classes, and these files are no code to copy."""


_DERIVED = (
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "max_position_embeddings",
)
