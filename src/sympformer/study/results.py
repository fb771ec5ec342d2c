"""Finished runs, read back from their folders."""

import os
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np

from sympformer.errors import InputError
from sympformer.shown import visible
from sympformer.train.folder import CONFIG, RunFolder
from sympformer.train.records import corrupt
from sympformer.train.runs import runs_in

# No causal model is below the floor of the tokens it is evaluated on; this is for rounding.
FLOOR_TOLERANCE = 0.005


@dataclass(frozen=True)
class Curve:
    """Validation loss during training: arrays of one length."""

    step: np.ndarray
    """Updates made."""
    seconds: np.ndarray
    """Wall time of the updates, evaluation excluded."""
    loss: np.ndarray
    """Nats per token."""


@dataclass(frozen=True)
class TestResult:
    """What a trained model answered at one setting of a task's tests."""

    setting: str
    """The length of its sequences, and what had to be remembered."""
    accuracy: float
    ceiling: float
    """The greatest accuracy that was to be expected."""
    loss: float
    """Nats per answer, of which `floor` were the least."""
    floor: float
    state_bytes: int | None
    """Of the model's cache after one such sequence; None without a cache."""

    @classmethod
    def of(cls, row: dict[str, Any]) -> Self:
        """Read a row of a summary."""
        state, numbers = row["state_bytes"], ("accuracy", "ceiling", "loss", "floor")
        return cls(
            setting=str(row["setting"]),
            state_bytes=None if state is None else int(state),
            **{name: float(row[name]) for name in numbers},
        )


@dataclass(frozen=True)
class RunResult:
    """One finished run."""

    folder: Path
    preset: str
    """Its name in the comparison: that of a preset, or of a variant."""
    seed: int
    parameters: int
    steps: int
    tokens: int
    final_loss: float
    """Validation loss after the last update, nats per token; `best_loss` is the least ever."""
    best_loss: float
    floor: float | None
    """Entropy of the same validation tokens, nats per token; None if unknown."""
    tokens_per_second: float
    causality: str
    audit: dict[str, Any]
    corpus: str
    machine: str
    commit: str
    command: str
    curve: Curve
    variant: str = ""
    """What a variant is, beside its name; empty for a preset."""
    changes: tuple[str, ...] = ()
    """What was changed on resuming, and from which step."""
    learning_rate: float | None = None
    """The peak that it began with; `rates` are all that were tried, of which this is the best, and
    `diverged` those at which a run diverged."""
    rates: tuple[float, ...] = ()
    diverged: tuple[float, ...] = ()
    tests: tuple[TestResult, ...] = ()
    """Of a task, the hardest last; none of a text."""

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> Self:
        """Read a run folder.

        Raises:
            InputError: the run is missing, unfinished, or a file of it is corrupt.
        """
        run = RunFolder(Path(folder))
        if not run.exists:
            raise InputError(f"{run} is no run folder: it has no {CONFIG}")
        if not run.finished:
            raise InputError(
                f"{run} is not finished: continue it with `sympformer train --resume {run}`"
            )
        summary, metrics = run.summary(), run.metrics()
        try:
            return cls(
                folder=run.path,
                preset=str(summary.get("name", summary["preset"])),
                variant=str(summary.get("variant", "")),
                seed=int(summary["seed"]),
                parameters=int(summary["parameters"]),
                steps=int(summary["steps"]),
                tokens=int(summary["tokens"]),
                final_loss=float(summary["final_loss"]),
                best_loss=float(summary["best_loss"]),
                floor=None if summary["floor"] is None else float(summary["floor"]),
                tokens_per_second=float(summary["tokens_per_second"]),
                causality=str(summary["causality"]),
                audit={
                    "passed": _known(summary["audit"]["passed"]),
                    "causal": _known(summary["audit"]["causal"]),
                    "verdict": str(summary["audit"]["verdict"]),
                },
                corpus=str(summary.get("corpus", "unknown data")),
                machine=f"{summary['device']}, {_plural(summary['threads'], 'thread')}",
                commit=str(summary["commit"]),
                command=_shown(str(summary.get("command", "unknown"))),
                curve=_curve(metrics),
                changes=tuple(map(_change, summary.get("changes", []))),
                learning_rate=_number(summary.get("learning_rate")),
                tests=tuple(map(TestResult.of, summary.get("tests", []))),
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise corrupt(run.path, f"{type(error).__name__}: {error}") from None

    @property
    def below_floor(self) -> bool:
        """The loss is less than any model has that does not see the answer."""
        return self.floor is not None and self.best_loss < self.floor - FLOOR_TOLERANCE

    @property
    def leaks(self) -> bool:
        """The model sees later tokens, by proof, by design or by measurement."""
        return self.below_floor or self.causality != "prefix" or self.audit["causal"] is False

    @property
    def fault(self) -> str | None:
        """Why the loss of this run is not that of a sound decoder; None if it is."""
        if self.below_floor:
            return (
                f"a loss of {self.best_loss:.4f} is below the entropy floor {self.floor:.4f} of "
                "the same tokens: this proves a leak"
            )
        if self.causality != "prefix":
            return f"causality is {self.causality!r}: every token sees all others"
        return self.audit["verdict"] if self.audit["passed"] is False else None


def load_results(folders: str | os.PathLike[str] | Iterable[Path]) -> list[RunResult]:
    """Load runs: the given ones, or all that lie in one folder, in order of name.

    Of runs that differ in their learning rate, those at the best rate count (`at_best_rate`).
    Unfinished runs in a folder are left out with a warning.

    Raises:
        InputError: there is no finished run, two runs have one preset, seed and learning rate, or
            one is corrupt.
    """
    if isinstance(folders, str | os.PathLike):
        parent = Path(folders)
        if not parent.is_dir():
            raise InputError(f"{parent} is no folder")
        runs = runs_in(parent)
        for run in runs:
            if not (run.finished or run.given_up):
                warnings.warn(f"{visible(str(run))} is not finished and is left out", stacklevel=2)
        runs = [run for run in runs if run.finished or run.given_up]
        if not any(run.finished for run in runs):
            raise InputError(
                f"{parent} holds no finished run: `sympformer report {parent} --html FILE` makes a "
                "page of those that train"
            )
    else:
        runs = [RunFolder(folder) for folder in folders]
    lost: dict[str, set[float]] = {}
    for run in runs:
        if run.given_up:
            config = run.began_as()
            lost.setdefault(config.name, set()).add(config.train.learning_rate)
    results = [RunResult.load(run.path) for run in runs if not run.given_up]
    seen: dict[tuple[str, int, float | None], Path] = {}
    for result in results:
        twin = seen.setdefault((result.preset, result.seed, result.learning_rate), result.folder)
        if twin != result.folder:
            raise InputError(
                f"{twin} and {result.folder} are both {result.preset} with seed {result.seed}: "
                "keep one of them in the folder"
            )
    return at_best_rate(results, lost)


def at_best_rate(
    results: Sequence[RunResult], lost: Mapping[str, Iterable[float]] | None = None
) -> list[RunResult]:
    """The runs of every entry at its best learning rate, by the mean of the final validation loss.

    A rate counts if no run at it diverged and no seed is missing; with none such, those with the
    most seeds do.

    Args:
        results: runs of one data.
        lost: rates at which runs of an entry diverged.
    """
    lost = {name: sorted(rates) for name, rates in (lost or {}).items()}
    known = {result.preset for result in results}
    for name in lost.keys() - known:
        warnings.warn(f"{visible(name)} diverged at every learning rate: left out", stacklevel=3)
    kept = []
    for preset in dict.fromkeys(result.preset for result in results):
        groups: dict[float | None, list[RunResult]] = {}
        for result in results:
            if result.preset == preset:
                groups.setdefault(result.learning_rate, []).append(result)
        most = max(map(len, groups.values()))
        best = min(
            (runs for runs in groups.values() if len(runs) == most),
            key=lambda runs: sum(run.final_loss for run in runs),
        )
        bad = tuple(lost.get(preset, ()))
        tried = tuple(sorted({rate for rate in groups if rate is not None} | set(bad)))
        kept += [replace(run, rates=tried, diverged=bad) for run in best]
    return kept


def _number(value: Any) -> float | None:
    return None if value is None else float(value)


def _known(found: Any) -> bool | None:
    """Whether an audit found so; None if it could not be made."""
    return None if found is None else bool(found)


def _curve(metrics: list[dict[str, Any]]) -> Curve:
    evaluations = [row for row in metrics if row["event"] == "eval"]
    if not evaluations:
        raise ValueError("it has no evaluation")
    columns = ("step", "seconds", "valid_loss")
    return Curve(*(np.array([float(row[name]) for row in evaluations]) for name in columns))


def _change(change: dict[str, Any]) -> str:
    options = [f"{name}={value}" for name, value in change.items() if name != "from_step"]
    return f"{', '.join(options)} from step {change['from_step']}"


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}" + ("" if count == 1 else "s")


def _shown(command: str) -> str:
    """The command without the folder that the program was installed in."""
    program, *arguments = command.split(" ")
    return " ".join([Path(program).name, *arguments])
