"""The runs that a page is about: finished ones, and those that are under way."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sympformer.errors import InputError
from sympformer.model import LanguageModel
from sympformer.study import RunResult, load_results
from sympformer.train.config import RunConfig
from sympformer.train.folder import ENVIRONMENT, METRICS, RunFolder
from sympformer.train.listing import Listed, rows_in, standing
from sympformer.train.records import parse, read
from sympformer.train.runs import runs_in


@dataclass(frozen=True)
class SeenRun:
    """One run, as far as it has got."""

    folder: RunFolder
    entry: str
    """What it is a run of: the preset, or the variant."""
    config: RunConfig
    standing: Listed
    rows: list[dict[str, Any]]
    """Its metrics."""
    environment: dict[str, Any]
    result: RunResult | None
    """Of a finished run."""

    @property
    def seed(self) -> int:
        """Of its weights."""
        return self.config.train.seed

    @property
    def evaluations(self) -> list[dict[str, Any]]:
        """The rows that have a validation loss."""
        return [row for row in self.rows if row.get("event") == "eval"]

    @property
    def summary(self) -> dict[str, Any]:
        """What it left when it was finished; empty before."""
        return self.folder.summary() if self.result is not None else {}


@dataclass(frozen=True)
class Runs:
    """All runs of a page."""

    runs: tuple[SeenRun, ...]
    notes: tuple[str, ...] = field(default=())
    """What was left out, and why."""

    @property
    def entries(self) -> dict[str, list[SeenRun]]:
        """The runs of each entry, by seed."""
        found: dict[str, list[SeenRun]] = {}
        for run in sorted(self.runs, key=lambda run: run.seed):
            found.setdefault(run.entry, []).append(run)
        return found

    @property
    def results(self) -> list[RunResult]:
        """Of those that are finished."""
        return [run.result for run in self.runs if run.result is not None]


def see(paths: Iterable[Path]) -> Runs:
    """The runs at these paths: run folders, and folders of them.

    Of an entry that was tried at several learning rates, finished runs at the best one count, as in
    every table.

    Raises:
        InputError: there is no run, or a finished one is damaged.
    """
    folders: dict[Path, RunFolder] = {}
    for path in paths:
        if not path.is_dir():
            raise InputError(f"{path} is no folder: give run folders, or a folder of them")
        found = runs_in(path)
        if not found:
            raise InputError(f"{path} holds no run: give run folders, or a folder of them")
        folders |= {run.path.resolve(): run for run in found}
    finished = [run.path for run in folders.values() if run.finished]
    results = {r.folder: r for r in load_results(finished)} if finished else {}
    notes, seen = [], []
    done = {(r.preset, r.seed) for r in results.values()}
    for run in folders.values():
        if run.finished and run.path not in results:
            notes.append(f"{run.path.name} is left out: another learning rate was better")
            continue
        if run.given_up:
            notes.append(f"{run.path.name} is left out: it diverged and was given up")
            continue
        config = run.config()
        if not run.finished and (config.name, config.train.seed) in done:
            notes.append(f"{run.path.name} is left out: its entry has a finished run of this seed")
            continue
        seen.append(_seen(run, config, results.get(run.path)))
    if not seen:
        raise InputError("no run is left to report on: " + "; ".join(notes))
    return Runs(tuple(_named_apart(seen)), tuple(notes))


def _seen(run: RunFolder, config: RunConfig, result: RunResult | None) -> SeenRun:
    path = run.path / ENVIRONMENT
    return SeenRun(
        folder=run,
        entry=config.name,
        config=config,
        standing=standing(run.path),
        rows=run.metrics() if result is not None else rows_in(run.path / METRICS),
        environment=parse(run.path, ENVIRONMENT, read(path)) if path.exists() else {},
        result=result,
    )


def _named_apart(runs: Sequence[SeenRun]) -> list[SeenRun]:
    """Runs of one entry and seed, as of rates that are being tried, are entries by themselves."""
    same: dict[tuple[str, int], list[SeenRun]] = {}
    for run in runs:
        same.setdefault((run.entry, run.seed), []).append(run)
    doubled = {entry for (entry, _), twins in same.items() if len(twins) > 1}
    named = []
    for run in runs:
        entry = run.entry
        if entry in doubled:
            entry = f"{entry}, {run.folder.path.name}"
        named.append(SeenRun(**{**vars(run), "entry": entry}))
    return named


def model_of(run: SeenRun) -> LanguageModel:
    """Its model, with the weights saved last.

    Raises:
        InputError: it has none yet, or they cannot be read; or it is a model of a user's own.
    """
    model = run.folder.model()
    if not isinstance(model, LanguageModel):
        raise InputError(f"{run.entry} is a whole model of a user's own")
    return model
