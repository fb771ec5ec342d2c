"""A run as a folder that Hugging Face's classes load."""

from pathlib import Path

from transformers import GenerationConfig

from sympformer.data import save_tokenizer
from sympformer.errors import InputError
from sympformer.hf.card import model_card
from sympformer.hf.config import SympFormerConfig
from sympformer.hf.model import SympFormerForCausalLM
from sympformer.hf.tokenizer import hf_tokenizer
from sympformer.pretrained.folder import OWN_TOKENIZER
from sympformer.train.folder import RunFolder

CODE = '''"""Where transformers finds the classes of this model: `pip install 'sympformer[hf]'`."""

from sympformer.hf import SympFormerConfig, SympFormerForCausalLM

__all__ = ["SympFormerConfig", "SympFormerForCausalLM"]
'''
FILE = "modeling_sympformer"


def export(run: RunFolder, folder: Path) -> None:
    """Write the model of a run so that `AutoModelForCausalLM.from_pretrained` loads it.

    The folder holds config, weights (one table where two ends share it), tokenizer, a model card of
    the run, and two lines of code that import this package, which is the one requirement.
    `sympformer.pretrained.ModelFolder` reads it.

    Raises:
        InputError: the folder is not empty, the run has no model yet, or one that is not ours.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder} exists and is not empty: give a new folder")
    model = run.model()
    made = SympFormerForCausalLM.of(model)
    task = run.began_as().data.task
    tokenizer = None if task else run.tokenizer()
    config = made.config
    config.preset = run.began_as().preset
    config.architectures = [type(made).__name__]
    config.auto_map = {
        "AutoConfig": f"{FILE}.{SympFormerConfig.__name__}",
        "AutoModelForCausalLM": f"{FILE}.{SympFormerForCausalLM.__name__}",
    }
    if tokenizer is not None:
        config.eos_token_id = config.bos_token_id = tokenizer.eos
        made.generation_config = GenerationConfig(
            eos_token_id=tokenizer.eos, bos_token_id=tokenizer.eos, pad_token_id=tokenizer.eos
        )
    folder.mkdir(parents=True, exist_ok=True)
    made.save_pretrained(folder)
    (folder / f"{FILE}.py").write_text(CODE, encoding="utf-8")
    written = None if tokenizer is None else hf_tokenizer(tokenizer)
    if written is not None:
        written.save_pretrained(folder)
    elif tokenizer is not None:
        save_tokenizer(tokenizer, folder, OWN_TOKENIZER)
    (folder / "README.md").write_text(model_card(run, tokenizer, written), encoding="utf-8")
