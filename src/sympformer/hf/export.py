"""A trained model as a folder that Hugging Face's classes load."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import GenerationConfig

from sympformer.data import Tokenizer, save_tokenizer
from sympformer.errors import InputError
from sympformer.hf.card import Rows, about_import, about_run, model_card
from sympformer.hf.model import SympFormerForCausalLM
from sympformer.hf.tokenizer import hf_tokenizer
from sympformer.model import CustomModel, LanguageModel, build
from sympformer.model.continuation import accelerated, start_as
from sympformer.pretrained import ModelFolder
from sympformer.pretrained.folder import OWN_TOKENIZER
from sympformer.train.folder import RunFolder
from sympformer.train.runs import described


def export(run: RunFolder, folder: Path) -> None:
    """Write the model of a run so that `AutoModelForCausalLM.from_pretrained` loads it.

    The folder holds config, weights (one table where two ends share it), tokenizer, a model card of
    the run, and two lines of code that import this package, which is the one requirement.
    `sympformer.pretrained.ModelFolder` reads it.

    Raises:
        InputError: the folder is not empty, the run has no model yet, or one that is not ours.
    """
    _require_new(folder)
    model = run.model()
    config = run.began_as()
    tokenizer = None if config.data.task else run.tokenizer()
    _write(model, tokenizer, folder, config.preset, about_run(run, tokenizer))


def import_model(
    held: RunFolder | ModelFolder,
    folder: Path,
    preset: str | None = None,
    options: Mapping[str, Any] | None = None,
) -> None:
    """Write any trained model as `export` does: as it is, or moved as a preset, gradually.

    Args:
        held: a run, or a folder of ours or of GPT-2's kind.
        folder: a new one.
        preset: whose dynamics it shall have; the function is the same at the start.
        options: other options of the preset.

    Raises:
        InputError: the folder is not empty, there is no model of a kind that is known, or it would
            be another function.
    """
    _require_new(folder)
    if options and preset is None:
        raise InputError("options are of a preset: give one, or leave them out")
    model = held.model()
    called, tokenizer = described(held.path)[0], None
    if isinstance(held, ModelFolder):
        tokenizer = held.tokenizer() if held.has_tokenizer else None
    elif held.began_as().data.task is None:
        tokenizer = held.tokenizer()
    if preset is not None:
        source, called = model, preset
        model = build(accelerated(source.config, preset, **(options or {})))
        start_as(model, source)
    _write(model, tokenizer, folder, called, about_import(held.path, model, called, tokenizer))


def _require_new(folder: Path) -> None:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder} exists and is not empty: give a new folder")


def _write(
    model: LanguageModel | CustomModel,
    tokenizer: Tokenizer | None,
    folder: Path,
    preset: str,
    about: Rows,
) -> None:
    made = SympFormerForCausalLM.of(model)
    config = made.config
    config.preset = preset
    config.architectures = [type(made).__name__]
    if tokenizer is not None:
        config.eos_token_id = config.bos_token_id = tokenizer.eos
        made.generation_config = GenerationConfig(
            eos_token_id=tokenizer.eos, bos_token_id=tokenizer.eos, pad_token_id=tokenizer.eos
        )
    folder.mkdir(parents=True, exist_ok=True)
    made.save_pretrained(folder)
    written = None if tokenizer is None else hf_tokenizer(tokenizer)
    if written is not None:
        written.save_pretrained(folder)
    elif tokenizer is not None:
        save_tokenizer(tokenizer, folder, OWN_TOKENIZER)
    card = model_card(about, preset, usable=written is not None)
    (folder / "README.md").write_text(card, encoding="utf-8")
