"""A comparison as data: which presets, seeds, sizes, text and training; its TOML form."""

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from sympformer.errors import InputError, lookup
from sympformer.imports import import_listed
from sympformer.model import ATTENTIONS, PRESETS, ModelConfig
from sympformer.model.oracle import options_of
from sympformer.study.hypotheses import Declaration
from sympformer.train.config import DataConfig, RunConfig, TrainConfig
from sympformer.typed import check, check_fields, from_table, read_toml

_FIELDS = tuple(f.name for f in dataclasses.fields(ModelConfig) if f.name != "options")


def baseline_among(entries: Sequence[str]) -> str:
    """What entries are compared with unless something else is asked for: gpt, or the first."""
    return "gpt" if "gpt" in entries else entries[0]


@dataclass(frozen=True)
class Plan:
    """What a comparison trains; `configs/` holds examples.

    `model` holds `ModelConfig` fields of every entry. `variant` holds, by the entry's name, what is
    its own: fields, a `learning_rate`, and the `preset` that it is made of (else that of its name).
    Variants are entries beside the presets. With `learning_rates`, every entry is trained at each
    of them, and the best counts. A plan with a `task` table is a suite: a plan for each of its
    entries, which holds the `options` of the `task` (else that of its name), and what else of
    `model`, `train` and `learning_rates` is its own. `hypothesis` holds claims about entries
    (`sympformer.study.hypotheses`), which are declared before anything runs. An empty baseline is
    `baseline_among` the entries.
    """

    presets: tuple[str, ...]
    baseline: str
    seeds: tuple[int, ...]
    model: Mapping[str, Any]
    data: DataConfig
    train: TrainConfig
    variant: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    learning_rates: tuple[float, ...] = ()
    task: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    hypothesis: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @classmethod
    def load(cls, path: Path, presets: Sequence[str] = ()) -> Self:
        """Read a TOML file; what it leaves out has its default.

        Beside the tables named as the fields, it may hold `imports`, a list of files (`FILE.py`)
        and modules of one's own.

        Args:
            path: of the file.
            presets: those of a file that names none, nor a variant.

        Raises:
            InputError: the file is missing, is no TOML, or has an unknown or bad value.
        """
        tables = {"baseline": "", "seeds": [0], "model": {}, **read_toml(path)}
        import_listed(tables.pop("imports", {}), str(path))
        tables["data"] = from_table(DataConfig, "data", tables.get("data", {}))
        tables["train"] = from_table(TrainConfig, "train", tables.get("train", {}))
        tables.setdefault("variant", {})
        for name in ("task", "hypothesis"):
            check(name, tables.get(name, {}), Mapping[str, Any])
        if not tables.get("presets"):
            variants = tables["variant"] if isinstance(tables["variant"], dict) else {}
            tables["presets"] = list(variants or presets)
        return from_table(cls, str(path), tables)

    def __post_init__(self):
        check_fields(self)
        for name, own in self.variant.items():
            check(f"variant.{name}", own, Mapping[str, Any])
            check(f"the preset of variant.{name}", own.get("preset", name), str)
        if not self.entries or not self.seeds:
            raise InputError(f"a comparison needs {'seeds' if self.entries else 'presets'}")
        object.__setattr__(self, "baseline", self.baseline or baseline_among(self.entries))
        for what, given in (("seed", self.seeds), ("learning rate", self.learning_rates)):
            if len(set(given)) < len(given):
                raise InputError(f"a {what} stands twice in {list(given)}")
        if self.learning_rates:
            for name, own in self.variant.items():
                if "learning_rate" in own:
                    raise InputError(
                        f"variant {name!r} has a learning_rate, but learning_rates are for every "
                        "entry alike: leave one of the two out"
                    )
        if self.task and (self.data.task or self.data.text):
            raise InputError(
                "a suite of tasks has no other data: leave out the table data, --task and --text"
            )
        if self.task and self.hypothesis:
            raise InputError(
                "hypotheses are about one comparison, not a suite of tasks: give each task a file"
            )
        self.declaration()
        self.suite()

    def declaration(self) -> Declaration:
        """What is claimed, and the seeds that decide it."""
        return Declaration.of(self.hypothesis, self.seeds, self.entries)

    def suite(self) -> dict[str, Self]:
        """The plan of every task, by the entry's name; none if this is no suite.

        Raises:
            InputError: an entry with an unknown or bad value.
        """
        return {name: self._of_task(name, own) for name, own in self.task.items()}

    def _of_task(self, name: str, own: Any) -> Self:
        what = f"task.{name}"
        check(what, own, Mapping[str, Any])
        _require_folder_name(f"task {name!r}", name)
        known = {"task": name, "options": {}, "model": {}, "train": {}}
        known["learning_rates"] = list(self.learning_rates)
        for option in own:
            lookup(known, option, f"option in {what}")
        given = {**known, **own}
        for option in ("options", "model", "train"):
            check(f"{what}.{option}", given[option], Mapping[str, Any])
        data = from_table(DataConfig, what, {n: given[n] for n in ("task", "options")})
        train = {**dataclasses.asdict(self.train), **given["train"]}
        rates = given["learning_rates"]
        return dataclasses.replace(
            self,
            data=data,
            train=from_table(TrainConfig, f"{what}.train", train),
            model={**self.model, **given["model"]},
            learning_rates=tuple(rates) if isinstance(rates, list) else rates,
            task={},
        )

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
        """One config a seed, entry and learning rate; weights and data follow the seed alone.

        Args:
            vocab_size: of the tokenizer, where the plan gives none.

        Raises:
            InputError: a preset, an option or the baseline does not exist, or a combination makes
                no sense.
        """
        models = {entry: self.architecture(entry, vocab_size) for entry in self.entries}
        if self.baseline not in models:
            raise InputError(
                f"the baseline {self.baseline!r} is not among {', '.join(models)}: add it to the "
                f"presets, or take one of them, --baseline {next(iter(models))}"
            )
        folders: dict[str, str] = {}
        for entry in self.entries:
            if (other := folders.setdefault(entry.casefold(), entry)) != entry:
                raise InputError(
                    f"{other!r} and {entry!r} would share a folder where names ignore case: "
                    "rename one"
                )
        self._refuse_twins(models)
        return [
            RunConfig(
                self.preset_of(entry),
                models[entry],
                self.data,
                dataclasses.replace(recipe, seed=seed, data_seed=seed),
                variant=self.described(entry),
                name=entry,
            )
            for seed in self.seeds
            for entry in self.entries
            for recipe in self._recipes(entry)
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
        if own and "preset" not in own and entry not in PRESETS:
            raise InputError(f"variant {entry!r} needs preset =, the one that it is made of")
        options = {option: None for kind in ATTENTIONS.values() for option in options_of(kind)}
        known = {**dict.fromkeys(("preset", "learning_rate", *_FIELDS)), **options}
        for name in own:
            lookup(known, name, f"option of variant {entry!r}")
        for name in ("preset", "learning_rate"):
            own.pop(name, None)
        if preset != entry and entry in PRESETS:
            raise InputError(f"variant {entry!r} has the name of a preset: choose another")
        _require_folder_name(f"variant {entry!r}", entry)
        task = self.data.task and self.data.make_task()
        sizes = {"block_size": task.longest} if task else {}
        sizes["vocab_size"] = vocab_size
        return ModelConfig.preset(preset, **{**sizes, **self.model, **own})

    def described(self, entry: str) -> str:
        """What an entry is beyond a preset of its name; empty if it is just that."""
        own = dict(self.variant.get(entry, {}))
        options = [f"{name}={json.dumps(value)}" for name, value in own.items() if name != "preset"]
        return ", ".join([self.preset_of(entry), *options]) if own else ""

    def _refuse_twins(self, models: Mapping[str, ModelConfig]) -> None:
        """No variant is what another entry is: the table would show one result as two."""
        for variant in self.variant:
            for other in models:
                same = models[other] == models[variant]
                if other != variant and same and self._recipes(other) == self._recipes(variant):
                    raise InputError(
                        f"variant {variant!r} is the same as {other!r}: give it an option of its "
                        "own that has an effect, or leave it out"
                    )

    def _recipes(self, entry: str) -> list[TrainConfig]:
        """How an entry is trained: at its own learning rate, or at each that all are."""
        own = self.variant.get(entry, {})
        rates = self.learning_rates or (own.get("learning_rate", self.train.learning_rate),)
        return [dataclasses.replace(self.train, learning_rate=rate) for rate in rates]


def _require_folder_name(what: str, name: str) -> None:
    if not name or Path(name).name != name or name.startswith("."):
        raise InputError(f"{what} cannot be the name of a folder: choose another")
