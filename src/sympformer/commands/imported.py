"""Take a trained model in, as it is or with momentum that has yet to act."""

from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional

from sympformer.commands.options import Set, overrides
from sympformer.train.runs import trained


@dataclass(frozen=True)
class Import:
    """Write a trained model as a model folder, as it is or moved as a preset.

    Needs the extra hf: pip install 'sympformer[hf]'. eval, generate, audit and train --start-from
    read such folders, and those that they can be made of, as they read runs.
    """

    source: Positional[Path]
    """Run folder, a .safetensors in it, or a folder of config.json and safetensors: one that
    `sympformer export` wrote, or a model of the type of GPT-2."""
    folder: Positional[Path]
    """A new folder: config, weights, tokenizer, model card."""
    preset: str | None = None
    """Give a model without momentum the dynamics of this preset, gradually: it computes the same
    function until it is trained."""
    set: Set = ()
    """Other options of the preset, e.g. --set lookahead=false."""

    def run(self) -> int:
        """Import."""
        from sympformer.hf import import_model

        import_model(trained(self.source), self.folder, self.preset, overrides(self.set))
        print(f"written: {self.folder}; AutoModelForCausalLM.from_pretrained loads it")
        return 0
