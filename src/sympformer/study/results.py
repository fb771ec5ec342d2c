"""Finished runs, read back from their folders."""

import os
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
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

    Unfinished runs in a folder are left out with a warning.

    Raises:
        InputError: there is no finished run, two runs have one preset and seed, or one is corrupt.
    """
    if isinstance(folders, str | os.PathLike):
        parent = Path(folders)
        if not parent.is_dir():
            raise InputError(f"{parent} is no folder")
        runs = runs_in(parent)
        for run in runs:
            if not run.finished:
                warnings.warn(f"{visible(str(run))} is not finished and is left out", stacklevel=2)
        folders = [run.path for run in runs if run.finished]
        if not folders:
            raise InputError(f"{parent} holds no finished run")
    results = [RunResult.load(folder) for folder in folders]
    seen: dict[tuple[str, int], Path] = {}
    for result in results:
        twin = seen.setdefault((result.preset, result.seed), result.folder)
        if twin != result.folder:
            raise InputError(
                f"{twin} and {result.folder} are both {result.preset} with seed {result.seed}: "
                "keep one of them in the folder"
            )
    return results


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
