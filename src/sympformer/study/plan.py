"""A comparison as data: which presets, seeds, sizes, text and training; its TOML form."""

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from sympformer.errors import InputError, lookup
from sympformer.model import PRESETS, ModelConfig
from sympformer.train.config import DataConfig, RunConfig, TrainConfig
from sympformer.typed import check, check_fields, from_table, read_toml


@dataclass(frozen=True)
class Plan:
    """What a comparison trains; `configs/` holds examples.

    `model` holds `ModelConfig` fields of every entry. `variant` holds, by the entry's name, what is
    its own: fields, a `learning_rate`, and the `preset` that it is made of (else that of its name).
    Variants are entries beside the presets.
    """

    presets: tuple[str, ...]
    baseline: str
    seeds: tuple[int, ...]
    model: Mapping[str, Any]
    data: DataConfig
    train: TrainConfig
    variant: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a TOML file.

        Raises:
            InputError: the file is missing, is no TOML, or has an unknown or bad value.
        """
        tables = read_toml(path)
        tables["data"] = from_table(DataConfig, "data", tables.get("data", {}))
        tables["train"] = from_table(TrainConfig, "train", tables.get("train", {}))
        tables.setdefault("variant", {})
        if tables["variant"] and not tables.get("presets") and isinstance(tables["variant"], dict):
            tables["presets"] = list(tables["variant"])
        missing = {"presets", "baseline", "seeds", "model"} - {k for k, v in tables.items() if v}
        if missing:
            raise InputError(f"{path} lacks {', '.join(sorted(missing))}")
        return from_table(cls, str(path), tables)

    def __post_init__(self):
        check_fields(self)
        for name, own in self.variant.items():
            check(f"variant.{name}", own, Mapping[str, Any])
            check(f"the preset of variant.{name}", own.get("preset", name), str)
        if len(set(self.seeds)) < len(self.seeds):
            raise InputError(f"a seed stands twice in {list(self.seeds)}")

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
            InputError: a preset, an option or the baseline does not exist, or a combination makes
                no sense.
        """
        models = {entry: self.architecture(entry, vocab_size) for entry in self.entries}
        lookup(models, self.baseline, "baseline among the entries")
        folders: dict[str, str] = {}
        for entry in self.entries:
            if (other := folders.setdefault(entry.casefold(), entry)) != entry:
                raise InputError(
                    f"{other!r} and {entry!r} would share a folder where names ignore case: "
                    "rename one"
                )
        return [
            RunConfig(
                self.preset_of(entry),
                models[entry],
                self.data,
                dataclasses.replace(self._recipe(entry), seed=seed, data_seed=seed),
                variant=self.described(entry),
                name=entry,
            )
            for seed in self.seeds
            for entry in self.entries
        ]

    @property
    def entries(self) -> tuple[str, ...]:
        """Presets and variants, by name."""
        return tuple(dict.fromkeys((*self.presets, *self.variant)))

    def preset_of(self, entry: str) -> str:
        """The preset that an entry is, or is made of."""
        return self.variant.get(entry, {}).get("preset", entry)

    def architecture(self, entry: str, vocab_size: int) -> ModelConfig:
        """The architecture of one entry.

        Raises:
            InputError: it does not exist, makes no sense, or hides a preset of its name.
        """
        preset, own = self.preset_of(entry), dict(self.variant.get(entry, {}))
        for name in ("preset", "learning_rate"):
            own.pop(name, None)
        if preset != entry and entry in PRESETS:
            raise InputError(f"variant {entry!r} has the name of a preset: choose another")
        if not entry or Path(entry).name != entry or entry.startswith("."):
            raise InputError(f"variant {entry!r} cannot be the name of a folder: choose another")
        return ModelConfig.preset(preset, **{"vocab_size": vocab_size, **self.model, **own})

    def described(self, entry: str) -> str:
        """What an entry is beyond a preset of its name; empty if it is just that."""
        own = dict(self.variant.get(entry, {}))
        options = [f"{name}={json.dumps(value)}" for name, value in own.items() if name != "preset"]
        return ", ".join([self.preset_of(entry), *options]) if own else ""

    def _recipe(self, entry: str) -> TrainConfig:
        own = self.variant.get(entry, {})
        if "learning_rate" not in own:
            return self.train
        return dataclasses.replace(self.train, learning_rate=own["learning_rate"])
