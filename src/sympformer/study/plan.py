"""A comparison as data: which presets, seeds, sizes, text and training; its TOML form."""

import dataclasses
import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from sympformer.errors import InputError
from sympformer.model import ModelConfig
from sympformer.train.config import DataConfig, RunConfig, TrainConfig, from_dict


@dataclass(frozen=True)
class Plan:
    """What a comparison trains; `configs/` holds examples.

    `model` holds `ModelConfig` fields of every preset, `model_of` those of single presets.
    """

    presets: tuple[str, ...]
    baseline: str
    seeds: tuple[int, ...]
    model: Mapping[str, Any]
    data: DataConfig
    train: TrainConfig
    model_of: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a TOML file.

        Raises:
            InputError: the file is missing, is no TOML, or has an unknown or bad value.
        """
        try:
            tables = tomllib.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise InputError(f"cannot read {path}: {error.strerror}") from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise InputError(f"{path} is no TOML: {error}") from None
        tables["data"] = from_dict(DataConfig, tables.get("data", {}))
        tables["train"] = from_dict(TrainConfig, tables.get("train", {}))
        for name in ("presets", "seeds"):
            tables[name] = tuple(tables.get(name, ()))
        missing = {"presets", "baseline", "seeds", "model"} - {k for k, v in tables.items() if v}
        if missing:
            raise InputError(f"{path} lacks {', '.join(sorted(missing))}")
        return from_dict(cls, tables)

    def scaled(self, share: float) -> Self:
        """The plan with this share of its training tokens, taken from updates and their size.

        Raises:
            InputError: the share is not in (0, 1].
        """
        if not 0 < share <= 1:
            raise InputError(f"scale must be above 0 and at most 1, not {share}")
        t = self.train
        accumulation = max(1, round(t.accumulation * math.sqrt(share)))
        fewer = share * t.accumulation / accumulation
        steps = {name: max(1, round(getattr(t, name) * fewer)) for name in ("steps", "eval_every")}
        train = dataclasses.replace(
            t, accumulation=accumulation, warmup=round(t.warmup * fewer), **steps
        )
        return dataclasses.replace(self, train=train)

    def runs(self, vocab_size: int) -> list[RunConfig]:
        """One config a seed and preset; weights and data follow the seed, never the preset.

        Args:
            vocab_size: of the tokenizer, where the plan gives none.

        Raises:
            InputError: a preset or an option does not exist, or a combination makes no sense.
        """
        return [
            RunConfig(
                preset,
                self.architecture(preset, vocab_size),
                self.data,
                dataclasses.replace(self.train, seed=seed, data_seed=seed),
            )
            for seed in self.seeds
            for preset in self.presets
        ]

    def architecture(self, preset: str, vocab_size: int) -> ModelConfig:
        """The architecture of one preset."""
        fields = {"vocab_size": vocab_size, **self.model, **self.model_of.get(preset, {})}
        return ModelConfig.preset(preset, **fields)
