"""Commands about many runs: compare presets, report on what is there."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Self

import tyro
from rich.console import Console
from tyro.conf import Positional

from sympformer import machine
from sympformer.commands.data import pinned, prepare, vocabulary
from sympformer.commands.options import (
    COMPARED,
    Flat,
    Set,
    Size,
    Watch,
    default_sizes,
    overrides,
    sizes_in,
    with_options,
)
from sympformer.data import Corpus
from sympformer.errors import InputError, lookup
from sympformer.model import PRESETS
from sympformer.signals import noticed
from sympformer.train import DataConfig, TrainConfig
from sympformer.train.folder import RunFolder
from sympformer.train.parallel import require_one_process
from sympformer.train.watch import Watched

PAGE = "report.html"
"""The page of a run under way, in its folder."""
PEEK = 256
"""Tokens of the validation text that are looked at for its first document."""

Variants = Annotated[tuple[str, ...], tyro.conf.arg(metavar="[NAME=PRESET,OPTION=VALUE ...]")]


@dataclass(frozen=True)
class Compare:
    """Train several presets alike, audit each, print a table and draw their losses."""

    presets: tuple[str, ...] = COMPARED
    """Architectures."""
    seeds: tuple[int, ...] = (0,)
    """Seeds, in place of --seed and --data-seed: each is that of the weights and of the data of
    every preset."""
    baseline: str = ""
    """Entry that the others are compared with; gpt if it is among them, else the first."""
    out: Path = Path("runs/compare")
    """Folder of the runs and the report; finished runs in it are kept, unfinished ones resumed."""
    config: Path | None = None
    """TOML file that gives the defaults of all other options; configs/ holds examples. Of a suite
    of tasks, what it says of one of them goes before options."""
    only: tuple[str, ...] = ()
    """Of a suite, these tasks only."""
    scale: float = 1.0
    """Share of the training tokens, to try a large comparison on a small machine."""
    set: Set = ()
    """Other options of every architecture, e.g. --set heads=averaged."""
    size: Annotated[Size, Flat] = field(default_factory=Size)
    data: Annotated[DataConfig, Flat] = field(default_factory=DataConfig)
    train: Annotated[TrainConfig, Flat] = field(default_factory=TrainConfig)
    variant: Variants = ()
    """Further entries: presets with options of their own, a learning_rate among them, e.g.
    --variant r2-look=symp-r2,lookahead=true fast-gpt=gpt,learning_rate=6e-3."""
    task_set: Set = ()
    """Options of the task, e.g. --task-set vocab_size=256 "train=[[32,4],[64,8]]"."""
    learning_rates: tuple[float, ...] = ()
    """Train every entry at each of these peak rates; the best by validation loss counts."""
    shard: str = "1/1"
    """I/N: train every N-th run only, from the I-th on, as a job array does; the report is made by
    the job that finds all runs finished."""
    watch: Watch = ()
    """Programs that are told the metrics, too: tensorboard, wandb, trackio (docs/optimisers.md)."""
    file: tyro.conf.Suppress[Mapping[str, Mapping[str, Any]]] = field(default_factory=dict)
    """What a file says of models beside their size, of variants, the task and hypotheses; options
    are added."""

    @classmethod
    def load(cls, path: Path) -> Self:
        """The defaults in a TOML file (see `sympformer.study.Plan`)."""
        from sympformer.study import Plan

        plan = Plan.load(path, COMPARED)
        size, others = sizes_in(plan.model)
        return cls(
            presets=plan.presets,
            learning_rates=plan.learning_rates,
            seeds=plan.seeds,
            baseline=plan.baseline,
            config=path,
            size=size,
            data=replace(plan.data, options={}),
            train=plan.train,
            file={
                "model": others,
                "variant": plan.variant,
                "options": plan.data.options,
                "task": plan.task,
                "hypothesis": plan.hypothesis,
            },
        )

    def plan(self) -> Any:
        """What is to be trained."""
        from sympformer.study import Plan

        if (self.train.seed, self.train.data_seed) != (0, 0):
            raise InputError("compare takes --seeds, which set the seed and the data seed of a run")
        tasks = self.file.get("task", {})
        if self.only and not tasks:
            raise InputError("--only is for a suite, a file with tables of tasks")
        tasks = {name: lookup(tasks, name, "task of this suite") for name in self.only or tasks}
        data = with_options(self.data, self.file.get("options", {}), self.task_set)
        # A suite's plans have a block size each, if none is given for all.
        sizes = {**({} if tasks else default_sizes(data)), **self.size.fields()}
        model = {**self.file.get("model", {}), **sizes, **overrides(self.set)}
        entries = dict(map(_variant, self.variant))
        if len(entries) < len(self.variant):
            raise InputError("two variants have one name: give each its own")
        entries = {**self.file.get("variant", {}), **entries}
        return Plan(
            self.presets,
            self.baseline,
            self.seeds,
            model,
            data,
            self.train,
            entries,
            self.learning_rates,
            tasks,
            self.file.get("hypothesis", {}),
        )

    def run(self) -> int:
        """Compare."""
        from sympformer.study import print_suite, write_suite_report

        require_one_process("compare", "--shard I/N shares its runs between processes")

        whole = self.plan()
        suite = {name: plan.scaled(self.scale) for name, plan in whole.suite().items()}
        if not suite:
            results = self._compared(whole.scaled(self.scale), self.out)
            return 0 if results is None else _report(results, self.out, whole.baseline)
        for plan in suite.values():
            plan.runs(vocab_size=2)  # refuse what makes no sense before anything is trained
        found = {name: self._compared(plan, self.out / name) for name, plan in suite.items()}
        done = {name: results for name, results in found.items() if results is not None}
        for name, results in done.items():
            _report(results, self.out / name, whole.baseline)
        if len(done) == len(found):
            paths = write_suite_report(done, self.out, whole.baseline)
            print_suite(done, whole.baseline)
            print("written: " + ", ".join(map(str, paths)))
        return 0

    def _compared(self, plan: Any, folder: Path) -> list[Any] | None:
        """Train the runs of a plan; what was found if all are finished, else None."""
        from sympformer.study import Board, compare, load_results

        shard = _shard(self.shard)
        plan.runs(vocab_size=2)  # refuse what makes no sense before any data is prepared
        plan = replace(plan, data=pinned(plan.data))
        corpus = prepare(plan.data)
        configs = plan.runs(vocabulary(corpus))
        plan.declaration().keep(folder)
        machine.keep_freed_memory()
        console = Console(stderr=True)
        board = Board(console, configs, folder, plan.data.task or "")
        progress = Watched(console, self.watch, folder, board)
        with noticed() as stop, board:
            runs = compare(configs, corpus, folder, progress, shard, stop)
        folders = map(RunFolder, runs)
        if left := sum(not (run.finished or run.given_up) for run in folders):
            print(f"{left} of {len(runs)} runs are not finished yet: the last makes the report")
            return None
        return load_results(runs)


@dataclass(frozen=True)
class Report:
    """Write the table and the figure of runs that are already there; or a page about them."""

    folders: Positional[tuple[Path, ...]]
    """Folder whose subfolders are runs; or one run folder, into which its page is written while it
    trains; with --html also several of both."""
    baseline: str = ""
    """Entry that the others are compared with; gpt if it is among them, else the first."""
    html: Path | None = None
    """File for one page that needs no network: losses, differences, what models learned, and what
    happens inside them (docs/report.md)."""
    sentence: str = ""
    """Of the page: text at which models are looked into; the first of the validation text if not
    given."""
    archive: Path | None = None
    """File, FILE.tar.xz, for the finished runs of a folder without weights and updates: results to
    keep. Unpacked, report reads it, and compare goes on from it."""

    def run(self) -> int:
        """Report."""
        if not self.folders:
            raise InputError("report needs a folder of runs")
        if self.archive is not None:
            return self._archive(self.archive)
        folder = next(iter(self.folders))
        run = RunFolder(folder)
        under_way = len(self.folders) == 1 and run.exists and not run.finished
        if page := self.html or (folder / PAGE if under_way else None):
            return self._page(page)
        if self.sentence:
            raise InputError("--sentence is about the page: give --html FILE, or leave it out")
        if len(self.folders) > 1:
            raise InputError("the table is of one folder of runs: give one, or --html FILE")
        from sympformer.study import load_results

        return _report(load_results(folder), folder, self.baseline)

    def _archive(self, path: Path) -> int:
        from sympformer.study import write_archive

        if len(self.folders) > 1 or self.html or self.sentence or self.baseline:
            raise InputError("--archive is of one folder of runs, and goes with nothing else")
        if not path.name.endswith(".tar.xz"):
            raise InputError(f"--archive writes FILE.tar.xz, not {path.name}")
        count = write_archive(next(iter(self.folders)), path)
        print(f"written: {path} ({count} runs, {path.stat().st_size / 1e6:.2f} MB)")
        return 0

    def _page(self, path: Path) -> int:
        from sympformer.report import write_page
        from sympformer.report.runs import see

        runs = see(self.folders)
        if self.sentence:  # of words that no model knows, there is nothing to see
            for run in runs.runs:
                run.folder.tokenizer().encode(self.sentence)
        sentence = self.sentence or _validation_text(runs.runs[0].config.data)
        write_page(runs, path, baseline=self.baseline, sentence=sentence)
        print(f"written: {path} ({path.stat().st_size / 1e6:.1f} MB)")
        return 0


def _validation_text(data: DataConfig) -> str | None:
    """The first document that models were not trained on; None of a task, or if it is not there."""
    if data.task is not None:
        return None
    try:
        corpus = prepare(data)
    except InputError as error:
        print(f"sympformer: no validation text: {error}", file=sys.stderr)
        return None
    assert isinstance(corpus, Corpus)
    eos, first = corpus.tokenizer.eos, corpus.valid[:PEEK].tolist()
    end = first.index(eos) if eos in first else len(first)
    return corpus.tokenizer.decode(first[:end])


def _variant(text: str) -> tuple[str, dict[str, Any]]:
    """The name of `NAME=PRESET,OPTION=VALUE,...`, and what is its own."""
    name, equals, rest = text.partition("=")
    name, (preset, *options) = name.strip(), map(str.strip, rest.split(","))
    if not (name and equals and preset):
        raise InputError(f"--variant takes NAME=PRESET,OPTION=VALUE,..., not {text!r}")
    if options and name in PRESETS:
        raise InputError(
            f"--variant {name}=...: {name!r} is a preset, which would be replaced: choose another "
            "name"
        )
    return name, {"preset": preset, **overrides(tuple(options), "--variant")}


def _shard(text: str) -> tuple[int, int]:
    first, _, count = text.partition("/")
    if not (first.isdecimal() and count.isdecimal() and 1 <= int(first) <= int(count)):
        raise InputError(f"--shard takes I/N with 1 ≤ I ≤ N, not {text!r}")
    return int(first), int(count)


def _report(results: list[Any], folder: Path, baseline: str) -> int:
    from sympformer.study import Declaration, print_table, write_report
    from sympformer.study.plan import baseline_among

    baseline = baseline or baseline_among([result.preset for result in results])
    paths = write_report(results, folder, baseline=baseline)
    print_table(results, baseline=baseline)
    if declared := Declaration.load(folder):
        declared.table(results).print()
    print("written: " + ", ".join(map(str, paths)))
    return 0
