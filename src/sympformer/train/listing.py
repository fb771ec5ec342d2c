"""The runs below a folder: how far they are, and the command that goes on."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from sympformer.errors import InputError
from sympformer.files import in_use, read_bytes
from sympformer.table import NONE, Table
from sympformer.train.folder import CONFIG, LOCK, METRICS, RunFolder

State = Literal["finished", "running", "stopped", "diverged", "damaged"]


@dataclass(frozen=True)
class Listed:
    """A run as it stands."""

    folder: Path
    state: State
    step: int
    steps: int
    loss: float | None
    """Of the last update, nats a token."""
    valid_loss: float | None
    """Of the last evaluation."""
    best_loss: float | None
    """The least of all evaluations."""
    go_on: str
    """The command that continues it, or what is wrong with it; empty if there is nothing to do."""


def listed(folder: Path) -> list[Listed]:
    """The runs in a folder and everywhere below, in order of name.

    Raises:
        InputError: there is no such folder.
    """
    if not folder.is_dir():
        raise InputError(f"no folder {folder}: give the one where runs are, as in --out")
    return [standing(path.parent) for path in sorted(folder.rglob(CONFIG))]


def table(runs: Sequence[Listed], folder: Path) -> Table:
    """As a table."""

    def number(value: float | None) -> str:
        return NONE if value is None else f"{value:.4f}"

    rows = (
        (
            str(run.folder),
            run.state,
            f"{run.step:,} of {run.steps:,}",
            *map(number, (run.loss, run.valid_loss, run.best_loss)),
            run.go_on or NONE,
        )
        for run in runs
    )
    return Table(
        columns=("run", "state", "step", "loss", "valid", "best", "goes on with"),
        rows=tuple(rows),
        marked=frozenset(i for i, run in enumerate(runs) if run.state in ("diverged", "damaged")),
        caption=f"{len(runs)} runs below {folder}. Losses are nats per token.",
        notes=(),
    )


def standing(path: Path) -> Listed:
    """How the run in a folder stands."""
    run = RunFolder(path)
    try:
        config = run.config()
    except InputError as error:
        return Listed(path, "damaged", 0, 0, None, None, None, str(error))
    rows = rows_in(path / METRICS)
    trained = [row for row in rows if row.get("event") == "train"]
    measured = [row["valid_loss"] for row in rows if row.get("event") == "eval"]
    last = rows[-1] if rows else {}
    state: State = "stopped"
    if run.finished:
        state = "finished"
    elif in_use(path / LOCK):
        state = "running"
    elif run.given_up or last.get("event") == "diverged":
        state = "diverged"
    slower = f" --learning-rate {config.train.learning_rate / 2:.3g}"
    return Listed(
        path,
        state,
        last.get("step", 0),
        config.train.steps,
        trained[-1]["loss"] if trained else None,
        measured[-1] if measured else None,
        min(measured, default=None),
        {"stopped": run.goes_on, "diverged": run.goes_on + slower}.get(state, ""),
    )


def rows_in(path: Path) -> list[dict[str, Any]]:
    """The rows that can be read: the last line of a running run may be half-written."""
    rows = []
    for line in read_bytes(path).splitlines() if path.is_file() else ():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict):
            rows.append(row)
    return rows
