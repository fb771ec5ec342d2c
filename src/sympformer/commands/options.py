"""Options that several commands share."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import arg

from sympformer.errors import InputError, lookup
from sympformer.imports import import_listed
from sympformer.model import ModelConfig
from sympformer.train import DataConfig, TrainConfig
from sympformer.typed import check, check_fields, from_table, read_toml

COMPARED = (
    "gpt",
    "gpt-untied",
    "gpt-untied-extras",
    "symp-r2",
    "gated-deltanet-untied",
    "gated-delta-symp",
)
"""The presets that are compared unless others are given."""
BLOCK_SIZE = 128
"""Context of a text, in tokens, unless another is given."""
Flat = arg(name="")
"""For options that stand beside the command's own, without a name before theirs."""
Set = Annotated[tuple[str, ...], arg(metavar="[OPTION=VALUE ...]")]
"""Options of an architecture, read by `overrides`."""

Watch = Annotated[tuple[str, ...], arg(metavar="[tensorboard|wandb|trackio ...]")]
"""Programs that are told the metrics."""

KEYS = ["preset", "model", "data", "train", "imports", "variant", "name"]
"""What stands at the top of a run's config.toml."""


@dataclass(frozen=True)
class Size:
    """Size of the model."""

    n_layer: int = 4
    """Layers."""
    n_head: int = 4
    """Attention heads."""
    n_embd: int = 64
    """Model dimension."""
    block_size: int | None = None
    """Context, in tokens; 128, or what the task needs, if not given."""
    vocab_size: int | None = None
    """Token ids; as many as the tokenizer or the task has if not given."""

    def __post_init__(self):
        check_fields(self)

    def fields(self) -> dict[str, int]:
        """The sizes that are given."""
        return {name: value for name, value in asdict(self).items() if value is not None}


def default_sizes(data: DataConfig) -> dict[str, int]:
    """What a model's sizes are where none is given."""
    return {"block_size": BLOCK_SIZE if data.task is None else data.make_task().longest}


def with_options(data: DataConfig, own: Mapping[str, Any], given: tuple[str, ...]) -> DataConfig:
    """The data with options of its task: its `own`, as a file says, and those of `--task-set`.

    Raises:
        InputError: the task refuses them, or there is no task.
    """
    return replace(data, options={**own, **overrides(given, "--task-set")})


def sizes_in(model: Mapping[str, Any]) -> tuple[Size, dict[str, Any]]:
    """The sizes among the fields of a model in a file, and the other fields.

    Raises:
        InputError: a size of another type.
    """
    sizes = {name: model[name] for name in asdict(Size()) if name in model}
    return Size(**sizes), {name: value for name, value in model.items() if name not in sizes}


def overrides(options: tuple[str, ...], flag: str = "--set") -> dict[str, Any]:
    """What the options of `--set`, or of another flag, say.

    Values are read as JSON, and as text if they are none.

    Raises:
        InputError: an option without a value.
    """
    overrides = {}
    for option in options:
        name, equals, text = option.partition("=")
        if not equals:
            raise InputError(f"{flag} takes OPTION=VALUE, not {option!r}")
        try:
            overrides[name] = json.loads(text)
        except (ValueError, RecursionError):  # no JSON, or beyond what Python reads
            overrides[name] = text
    return overrides


def defaults(path: Path) -> dict[str, Any]:
    """The options of a training run in a TOML file, such as the `config.toml` of a run.

    Raises:
        InputError: the file cannot be read, is no TOML, or has an unknown or bad value.
    """
    tables = read_toml(path)
    known: dict[str, None] = dict.fromkeys(KEYS)
    for name in tables:
        lookup(known, name, "key")
    model = tables.get("model", {})
    check("model", model, dict[str, Any])
    import_listed(tables.get("imports", {}), str(path))
    size, _ = sizes_in(model)
    data = from_table(DataConfig, "data", tables.get("data", {}))
    preset = tables.get("preset", "symp-r2")
    check("preset", preset, str)
    asked = ModelConfig.preset(preset, **model).to_dict()
    plain = ModelConfig.preset(preset, **size.fields()).to_dict()
    return {
        "preset": preset,
        "model": {
            name: value
            for name, value in asked.items()
            if name not in size.fields() and (name not in plain or plain[name] != value)
        },
        "size": size,
        "data": replace(data, options={}),
        "options": data.options,
        "train": from_table(TrainConfig, "train", tables.get("train", {})),
    }
