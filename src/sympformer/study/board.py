"""What a person sees of a comparison in a terminal: all models in one table, while they train."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from sympformer.shown import visible
from sympformer.study.compare import run_folders
from sympformer.table import NONE
from sympformer.train import RunConfig
from sympformer.train.folder import RunFolder


@dataclass
class _Line:
    """A run: where it is, what it was last measured at, and how fast it goes."""

    seed: int
    steps: int
    step: int = 0
    loss: float | None = None
    valid: float | None = None
    pace: float | None = None
    """Seconds an update, evaluations in it, of this process."""
    given_up: bool = False

    @property
    def finished(self) -> bool:
        return self.step >= self.steps

    @property
    def left(self) -> int:
        return 0 if self.given_up else self.steps - self.step


class Board:
    """A live table of the models of a comparison, the one that leads first: a display.

    Models are ranked by their mean validation loss (nats a token) over the seeds that all of them
    have finished; before that by the last one measured, those that have finished a run first.
    Nothing is shown where the output is no terminal.

    Args:
        console: where the table is.
        configs: all runs of the comparison.
        folder: that of the comparison; what is finished there is in the table from the beginning.
        title: stands above the table.
    """

    def __init__(
        self, console: Console, configs: Sequence[RunConfig], folder: Path, title: str = ""
    ) -> None:
        self.title = title
        self.entries: dict[str, list[_Line]] = {}
        self.lines: dict[tuple[str, float, int], _Line] = {}
        for config, path in zip(configs, run_folders(folder, configs), strict=True):
            run = RunFolder(path)
            now = run.config() if run.exists else config  # it may have been resumed with others
            line = _Line(now.train.seed, now.train.steps)
            if run.finished:
                summary = run.summary()
                line.step = line.steps = summary["steps"]
                line.valid = summary["final_loss"]
            line.given_up = run.given_up
            self.lines[_key(now)] = line
            self.entries.setdefault(path.name.rpartition("-s")[0], []).append(line)
        self.now: _Line | None = None
        self.live = Live(
            console=console, get_renderable=self.table, refresh_per_second=2, auto_refresh=True
        )
        self.shown = console.is_terminal

    def __enter__(self) -> "Board":
        if self.shown:
            self.live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.shown:
            self.live.stop()

    def begin(self, config: RunConfig, step: int) -> None:
        """A run begins, or goes on at a step."""
        self.now = self.lines[_key(config)]
        self.now.step, self.now.steps, self.first = step, config.train.steps, step
        self.began = time.monotonic()

    def update(self, step: float, loss: float, speed: float) -> None:
        """The run has made an update."""
        assert self.now is not None
        self.now.step, self.now.loss = int(step), loss
        self.now.pace = (time.monotonic() - self.began) / max(1, self.now.step - self.first)

    def evaluated(self, loss: float) -> None:
        """The run was measured on the validation text."""
        assert self.now is not None
        self.now.valid = loss

    def end(self) -> None:
        """The run ends, as it may: finished, stopped, or diverged."""
        self.now = None

    def common(self) -> set[int]:
        """The seeds that all models have finished."""
        return set.intersection(
            *({n.seed for n in lines if n.finished} for lines in self.entries.values())
        )

    def ranked(self) -> list[tuple[str, float | None]]:
        """Entries and their validation losses, the leading one first."""
        common = self.common()
        found = []
        for name, lines in self.entries.items():
            measured = [line for line in lines if line.valid is not None]
            whole = [line for line in measured if line.finished]
            of = [line for line in whole if line.seed in common] or whole or measured[-1:]
            value = fmean(line.valid for line in of if line.valid is not None) if of else None
            found.append(((not whole, value is None, value or 0.0), name, value))
        found.sort(key=lambda entry: entry[0])
        return [(name, value) for _, name, value in found]

    def table(self) -> Group:
        """The table as it is now."""
        table = Table(box=None, pad_edge=False, header_style="bold")
        for column in ("model", "steps", "seeds", "loss", "valid", "time left"):
            left = column == "model"
            table.add_column(column, justify="left" if left else "right", no_wrap=True)
        paces = [n.pace for n in self.lines.values() if n.pace is not None]
        usual = fmean(paces) if paces else None
        ranked = self.ranked()
        leader = ranked[0][0] if ranked[0][1] is not None else None
        for name, value in ranked:
            lines = self.entries[name]
            losses = [line.loss for line in lines if line.loss is not None]
            table.add_row(
                Text(f"{visible(name)}{'  leads' if name == leader else ''}"),
                f"{sum(n.step for n in lines)}/{sum(n.steps for n in lines)}",
                f"{sum(n.finished for n in lines)}/{len(lines)}",
                _nats(losses[-1] if losses else None),
                _nats(value),
                _minutes(_left(lines, usual)),
                style="bold" if name == leader else "" if self._runs(lines) else "dim",
            )
        each = [_left(lines, usual) for lines in self.entries.values()]
        left = None if None in each else sum(seconds for seconds in each if seconds is not None)
        seeds = len(self.common())
        how = (
            f"valid: mean of {seeds} seed{'s' * (seeds > 1)}"
            if seeds
            else "valid: as last measured"
        )
        last = Text(f"{how}, nats a token; {_minutes(left)} left in all", style="dim")
        return Group(*([Text(visible(self.title))] if self.title else []), table, last)

    def _runs(self, lines: list[_Line]) -> bool:
        return any(line is self.now for line in lines)


def _key(config: RunConfig) -> tuple[str, float, int]:
    return config.name, config.train.learning_rate, config.train.seed


def _left(lines: list[_Line], usual: float | None) -> float | None:
    """Seconds that runs still take; those of unknown pace go at the usual one."""
    paces = [line.pace for line in lines if line.pace is not None]
    own = fmean(paces) if paces else usual
    rest = [(line.left, own if line.pace is None else line.pace) for line in lines if line.left]
    if any(pace is None for _, pace in rest):
        return None
    return sum(left * pace for left, pace in rest if pace is not None)


def _nats(value: float | None) -> str:
    return NONE if value is None else f"{value:.3f}"


def _minutes(seconds: float | None) -> str:
    if not seconds:
        return NONE
    return f"{seconds / 60:.0f} min" if seconds >= 60 else f"{seconds:.0f} s"
