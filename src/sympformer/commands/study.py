"""Commands about many runs: compare presets, report on what is there."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, Self

import tyro
from rich.console import Console
from tyro.conf import Positional

from sympformer import machine
from sympformer.commands.data import prepare
from sympformer.commands.options import COMPARED, Flat, Set, Size, overrides
from sympformer.errors import InputError
from sympformer.train import DataConfig, Progress, TrainConfig


@dataclass(frozen=True)
class Compare:
    """Train several presets alike, audit each, print a table and draw their losses."""

    presets: tuple[str, ...] = COMPARED
    """Architectures."""
    seeds: tuple[int, ...] = (0,)
    """Seeds; each is used for the weights and for the data of every preset."""
    baseline: str = "gpt"
    """Preset that the others are compared with."""
    out: Path = Path("runs/compare")
    """Folder of the runs and the report; finished runs in it are kept, unfinished ones resumed."""
    config: Path | None = None
    """TOML file that gives the defaults of all other options; configs/ holds examples."""
    scale: float = 1.0
    """Share of the training tokens, to try a large comparison on a small machine."""
    set: Set = ()
    """Other options of every architecture, e.g. --set heads=averaged."""
    size: Annotated[Size, Flat] = field(default_factory=Size)
    data: Annotated[DataConfig, Flat] = field(default_factory=DataConfig)
    train: Annotated[TrainConfig, Flat] = field(default_factory=TrainConfig)
    model_of: tyro.conf.Suppress[dict[str, dict[str, Any]]] = field(default_factory=dict)
    """Options of single presets, which only a file can give."""

    @classmethod
    def load(cls, path: Path) -> Self:
        """The defaults in a TOML file (see `sympformer.study.Plan`)."""
        from sympformer.study import Plan

        plan = Plan.load(path)
        sizes = {name: plan.model[name] for name in asdict(Size()) if name in plan.model}
        others = {name: value for name, value in plan.model.items() if name not in sizes}
        return cls(
            presets=plan.presets,
            seeds=plan.seeds,
            baseline=plan.baseline,
            config=path,
            set=tuple(f"{name}={json.dumps(value)}" for name, value in others.items()),
            size=Size(**sizes),
            data=plan.data,
            train=plan.train,
            model_of={preset: dict(options) for preset, options in plan.model_of.items()},
        )

    def plan(self) -> Any:
        """What is to be trained."""
        from sympformer.study import Plan

        if (self.train.seed, self.train.data_seed) != (0, 0):
            raise InputError("compare takes --seeds, which set the seed and the data seed of a run")
        model = {**self.size.fields(), **overrides(self.set)}
        plan = Plan(
            self.presets, self.baseline, self.seeds, model, self.data, self.train, self.model_of
        )
        return plan.scaled(self.scale)

    def run(self) -> int:
        """Compare."""
        from sympformer.study import compare, load_results

        plan = self.plan()
        plan.runs(vocab_size=2)  # refuse what makes no sense before any data is prepared
        corpus = prepare(self.data)
        configs = plan.runs(corpus.tokenizer.vocab_size)
        machine.keep_freed_memory()
        runs = compare(configs, corpus, self.out, Progress(Console(stderr=True)))
        return _report(load_results(runs), self.out, self.baseline)


@dataclass(frozen=True)
class Report:
    """Write the table and the figure of runs that are already there."""

    folder: Positional[Path]
    """Folder whose subfolders are runs."""
    baseline: str = "gpt"
    """Preset that the others are compared with."""

    def run(self) -> int:
        """Report."""
        from sympformer.study import load_results

        return _report(load_results(self.folder), self.folder, self.baseline)


def _report(results: list[Any], folder: Path, baseline: str) -> int:
    from sympformer.study import print_table, write_report

    paths = write_report(results, folder, baseline=baseline)
    print_table(results, baseline=baseline)
    print("written: " + ", ".join(map(str, paths)))
    return 0
