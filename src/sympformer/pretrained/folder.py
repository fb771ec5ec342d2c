"""Folders of `config.json` and `.safetensors`, as `sympformer export` and `transformers` write."""

import json
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError, safe_open
from torch import Tensor

from sympformer.data import Tokenizer, load_tokenizer
from sympformer.data.tokenizer import FILE as TOKENIZER
from sympformer.errors import InputError, one_line
from sympformer.files import read_bytes, reason
from sympformer.model import LanguageModel, ModelConfig, build
from sympformer.model.weights import load_weights
from sympformer.pretrained import gpt2

CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
OWN_TOKENIZER = "sympformer_tokenizer.json"
"""A tokenizer that `transformers` cannot express, as `save_tokenizer` writes it."""
PREFIX = "model."
"""Before the names of our weights, which are of a part of the class that `transformers` sees."""

Weights = dict[str, Tensor]


def is_model_folder(path: Path) -> bool:
    """Whether a folder has the config of such a model."""
    return (path / CONFIG).is_file()


class ModelFolder:
    """A trained model without the run that it is of.

    Of the kinds in `KINDS`: ours, as `sympformer export` writes them, and GPT-2's. `transformers`
    is not needed.
    """

    def __init__(self, path: Path):
        self.path = path

    def __str__(self) -> str:
        return str(self.path)

    @cached_property
    def about(self) -> Mapping[str, Any]:
        """What `config.json` says.

        Raises:
            InputError: it cannot be read, or is no table.
        """
        return _table(self.path / CONFIG)

    @property
    def preset(self) -> str:
        """What its composition is called; the type of the model if `config.json` does not say."""
        return str(self.about.get("preset") or self.about.get("model_type"))

    def model_config(self) -> ModelConfig:
        """The config of the model.

        Raises:
            InputError: another kind of model, or a config that makes no sense.
        """
        try:
            return self._kind().config(self.about)
        except InputError as error:
            raise InputError(f"{self} cannot be loaded: {error}") from None

    def model(self) -> LanguageModel:
        """The model, on the CPU, in evaluation mode, its weights in float32.

        Raises:
            InputError: another kind of model, or files that are missing, damaged or do not fit.
        """
        model = build(self.model_config())
        assert isinstance(model, LanguageModel)
        try:
            load_weights(model, self._kind().weights(self._tensors()))
        except InputError as error:
            raise InputError(f"{self} cannot be loaded: {error}") from None
        return model.eval()

    @property
    def has_tokenizer(self) -> bool:
        """Whether there are files of one."""
        names = (OWN_TOKENIZER, TOKENIZER, "vocab.json")
        return any((self.path / name).is_file() for name in names)

    def tokenizer(self) -> Tokenizer:
        """Its tokenizer.

        Raises:
            InputError: there is none that is known.
        """
        if not self.has_tokenizer:
            raise InputError(
                f"{self} holds no tokenizer ({TOKENIZER}, or vocab.json and merges.txt): a model "
                "of a task has none; to others add theirs"
            )
        own = self.path / OWN_TOKENIZER
        return load_tokenizer(own if own.is_file() else self.path)

    def _kind(self) -> "Kind":
        name = self.about.get("model_type")
        if not isinstance(name, str) or name not in KINDS:
            raise InputError(
                f"it is of type {name!r}, and what can be read here is {' and '.join(KINDS)}"
            )
        return KINDS[name]

    def _tensors(self) -> Weights:
        """All tensors, by name, wherever they lie."""
        index = self.path / INDEX
        files = [WEIGHTS]
        if index.is_file():
            places = _table(index).get("weight_map")
            if not isinstance(places, dict):
                raise InputError(f"{index} has no weight_map")
            files = sorted(set(map(str, places.values())))
        found: Weights = {}
        for name in files:
            found |= _read(self.path / name)
        return found


class Kind(NamedTuple):
    """How models of one `model_type` are read."""

    config: Callable[[Mapping[str, Any]], ModelConfig]
    """Of what `config.json` says."""
    weights: Callable[[Weights], Weights]
    """Of the tensors, our weights by our names."""


def _config(about: Mapping[str, Any]) -> ModelConfig:
    composition = about.get("composition")
    if not isinstance(composition, dict):
        raise InputError(f"{CONFIG} has no composition")
    return ModelConfig.from_dict(composition)


def _weights(tensors: Weights) -> Weights:
    return {name.removeprefix(PREFIX): tensor for name, tensor in tensors.items()}


KINDS = {"sympformer": Kind(_config, _weights), "gpt2": Kind(gpt2.config, gpt2.weights)}
"""By `model_type`."""


def _table(path: Path) -> dict[str, Any]:
    try:
        table = json.loads(read_bytes(path))
    except OSError as error:
        raise InputError(f"cannot read {path}: {reason(error)}") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is no JSON: {one_line(error)}") from None
    if not isinstance(table, dict):
        raise InputError(f"{path} is no table")
    return table


def _read(path: Path) -> Weights:
    if not path.is_file():
        raise InputError(
            f"{path.name} does not exist: weights are read from safetensors, which "
            "save_pretrained of transformers writes"
        )
    try:
        with safe_open(path, "pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except OSError as error:
        raise InputError(f"cannot read {path}: {reason(error)}") from None
    except SafetensorError as error:
        raise InputError(f"{path.name} is damaged ({one_line(error)}): restore it") from None
