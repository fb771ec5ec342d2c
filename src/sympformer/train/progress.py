"""What a person sees while a model trains."""

import time
from collections.abc import Sequence
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from sympformer.minutes import EveryMinute
from sympformer.shown import visible
from sympformer.train.config import RunConfig


class Display(Protocol):
    """What shows runs in a terminal, one after another; nothing where the output is none."""

    def begin(self, config: RunConfig, step: int) -> None:
        """A run begins, or goes on at a step."""
        ...

    def update(self, step: float, loss: float, speed: float) -> None:
        """It has made an update: loss in nats a token, speed in tokens a second."""
        ...

    def evaluated(self, loss: float) -> None:
        """It was measured on the validation text."""
        ...

    def end(self) -> None:
        """It ends."""
        ...


class OneLine:
    """A line for the run that trains: steps, loss, validation loss, tokens a second, time left."""

    def __init__(self, console: Console) -> None:
        self.bar = Bar(
            TextColumn("{task.description:<22}", markup=False),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TextColumn("loss {task.fields[loss]:.3f}"),
            TextColumn("valid {task.fields[valid]}"),
            TextColumn("{task.fields[speed]:>6.0f} tok/s"),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )

    def begin(self, config: RunConfig, step: int) -> None:
        """Start the line of a run."""
        self.bar.start()
        self.task = self.bar.add_task(
            named(config),
            total=config.train.steps,
            completed=step,
            loss=float("nan"),
            valid="  -  ",
            speed=0.0,
        )

    def update(self, step: float, loss: float, speed: float) -> None:
        """Show an update."""
        self.bar.update(self.task, completed=step, loss=loss, speed=speed)

    def evaluated(self, loss: float) -> None:
        """Show an evaluation."""
        self.bar.update(self.task, valid=f"{loss:.3f}")

    def end(self) -> None:
        """Leave the run's line, and the terminal as it was."""
        self.bar.stop()
        self.bar.remove_task(self.task)  # or the next run would show it again


def named(config: RunConfig) -> str:
    """A run, for people."""
    return f"{visible(config.name)} (seed {config.train.seed})"


class Progress:
    """What is said of runs: in a terminal by a display, a line of the run if not given.

    Where the output is no terminal (a log file, CI), evaluations are printed instead, and an update
    a minute.
    """

    def __init__(self, console: Console | None = None, display: Display | None = None):
        self.console = console or Console(stderr=True)
        self.display = display or OneLine(self.console)
        self.name = ""

    @classmethod
    def silent(cls) -> "Progress":
        """One that shows nothing."""
        return cls(Console(quiet=True))

    def begin(self, config: RunConfig, step: int, forms: Sequence[str] = ()) -> None:
        """Start showing a run; `forms` says how attention is computed."""
        self.name = named(config)
        self.display.begin(config, step)
        self.loss: float | None = None
        self.steps, self.first, self.minute = config.train.steps, step, EveryMinute()
        self.began = time.monotonic()
        if not self.console.is_terminal:
            for form in forms:
                self.console.print(f"{self.name}: attention {form}", markup=False)

    def say(self, line: str) -> None:
        """Print a line about the run."""
        self.console.print(f"{self.name}: {line}", markup=False)

    def update(self, row: dict[str, float]) -> None:
        """Show an update, or that one was skipped."""
        if "skipped" in row:
            so_far = f"{row['skipped']:.0f} so far"
            self.say(f"update {row['step']:.0f} is not finite and was skipped ({so_far})")
            return
        self.loss = row["loss"] if self.loss is None else 0.9 * self.loss + 0.1 * row["loss"]
        self.display.update(row["step"], self.loss, row["tokens"] / row["seconds"])
        if not self.console.is_terminal and self.minute.is_over():
            made, left = row["step"] - self.first, self.steps - row["step"]
            minutes = (time.monotonic() - self.began) / made * left / 60
            self.say(
                f"step {row['step']:.0f} of {self.steps}, loss {self.loss:.4f}, "
                f"{row['tokens'] / row['seconds']:.0f} tokens/s, {minutes:.0f} min left"
            )

    def evaluated(self, row: dict[str, float]) -> None:
        """Show an evaluation."""
        self.display.evaluated(row["valid_loss"])
        if not self.console.is_terminal:
            accuracy = f"accuracy {row['accuracy']:.4f}, " if "accuracy" in row else ""
            self.console.print(
                f"{self.name}: step {row['step']:.0f}, validation loss {row['valid_loss']:.4f}, "
                f"{accuracy}{row['tokens'] / row['seconds']:.0f} tokens/s",
                markup=False,
            )

    def end(self) -> None:
        """Say no more of the run."""
        self.display.end()
