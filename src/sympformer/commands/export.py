"""Hand a trained model on."""

from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional

from sympformer.train.runs import run_of


@dataclass(frozen=True)
class Export:
    """Write a trained model as a folder that Hugging Face's `transformers` loads.

    Needs the extra hf: pip install 'sympformer[hf]'.
    """

    run_folder: Positional[Path]
    """Run folder, or a .safetensors in it."""
    folder: Positional[Path]
    """A new folder: config, weights, tokenizer, model card."""

    def run(self) -> int:
        """Export."""
        from sympformer.hf import export

        export(run_of(self.run_folder), self.folder)
        print(f"written: {self.folder}; AutoModelForCausalLM.from_pretrained loads it")
        return 0
