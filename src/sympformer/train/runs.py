"""Where trained models are found: in run folders, in one file of weights, in model folders."""

import os
from pathlib import Path

from sympformer.errors import InputError
from sympformer.model import CustomModel, LanguageModel, ModelConfig
from sympformer.model.build import matched
from sympformer.pretrained import ModelFolder, is_model_folder
from sympformer.train.contents import model_in
from sympformer.train.folder import CONFIG, RunFolder
from sympformer.train.shards import read_state


def load_model(path: str | os.PathLike[str]) -> LanguageModel | CustomModel:
    """The trained model of a run folder, of one `.safetensors` of it alone, or of a `ModelFolder`.

    It is on the CPU.

    Raises:
        InputError: no model there, or files that are damaged or of another run.
    """
    path = Path(path)
    if path.is_file():
        return model_in(path, *read_state(path, prefix="model/"))
    return trained(path).model()


def trained(path: str | os.PathLike[str]) -> RunFolder | ModelFolder:
    """Whatever holds a trained model and its tokenizer: a run (see `run_of`), or a model folder.

    Raises:
        InputError: as `run_of`.
    """
    path = Path(path)
    if is_model_folder(path) and not RunFolder(path).exists:
        return ModelFolder(path)
    return run_of(path)


def described(path: str | os.PathLike[str]) -> tuple[str, ModelConfig]:
    """The preset and the config of a trained model, which is not loaded.

    Raises:
        InputError: there is none.
    """
    held = trained(path)
    if isinstance(held, ModelFolder):
        return held.preset, held.model_config()
    config = held.config()
    return config.preset, matched(config.model)


def run_of(path: str | os.PathLike[str]) -> RunFolder:
    """The run in a folder; of one `.safetensors` in it, the run as that file has its weights.

    Raises:
        InputError: the file lies in no run folder, is damaged, or is of another run.
    """
    path = Path(path)
    if not path.is_file():
        return RunFolder(path)
    run = RunFolder(path.parent, path)
    if not run.exists:
        raise InputError(
            f"{path} lies beside no {CONFIG}: its tokenizer and data are missing; put it into its "
            "run folder"
        )
    run.newest()
    return run


def runs_in(folder: Path) -> list[RunFolder]:
    """The run folders among `folder` and its subfolders, in order of name."""
    configs = sorted([*folder.glob(CONFIG), *folder.glob(f"*/{CONFIG}")])
    return [RunFolder(config.parent) for config in configs]
