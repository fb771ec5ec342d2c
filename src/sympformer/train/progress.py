"""What a person sees while a model trains."""

import time
from collections.abc import Sequence

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from sympformer.minutes import EveryMinute
from sympformer.shown import visible
from sympformer.train.config import RunConfig


class Progress:
    """A line per run: steps, loss, validation loss, tokens a second, time left.

    Where the output is no terminal (a log file, CI), evaluations are printed instead, and an update
    a minute.
    """

    def __init__(self, console: Console | None = None):
        self.console = console or Console(stderr=True)
        self.bar = Bar(
            TextColumn("{task.description:<22}", markup=False),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TextColumn("loss {task.fields[loss]:.3f}"),
            TextColumn("valid {task.fields[valid]}"),
            TextColumn("{task.fields[speed]:>6.0f} tok/s"),
            TimeRemainingColumn(),
            console=self.console,
            disable=not self.console.is_terminal,
        )
        self.name = ""

    @classmethod
    def silent(cls) -> "Progress":
        """One that shows nothing."""
        return cls(Console(quiet=True))

    def begin(self, config: RunConfig, step: int, forms: Sequence[str] = ()) -> None:
        """Start a run's line; `forms` says how attention is computed."""
        self.name = f"{visible(config.name)} (seed {config.train.seed})"
        self.bar.start()
        self.task = self.bar.add_task(
            self.name,
            total=config.train.steps,
            completed=step,
            loss=float("nan"),
            valid="  -  ",
            speed=0.0,
        )
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
        self.bar.update(
            self.task, completed=row["step"], loss=self.loss, speed=row["tokens"] / row["seconds"]
        )
        if not self.console.is_terminal and self.minute.is_over():
            made, left = row["step"] - self.first, self.steps - row["step"]
            minutes = (time.monotonic() - self.began) / made * left / 60
            self.say(
                f"step {row['step']:.0f} of {self.steps}, loss {self.loss:.4f}, "
                f"{row['tokens'] / row['seconds']:.0f} tokens/s, {minutes:.0f} min left"
            )

    def evaluated(self, row: dict[str, float]) -> None:
        """Show an evaluation."""
        self.bar.update(self.task, valid=f"{row['valid_loss']:.3f}")
        if not self.console.is_terminal:
            accuracy = f"accuracy {row['accuracy']:.4f}, " if "accuracy" in row else ""
            self.console.print(
                f"{self.name}: step {row['step']:.0f}, validation loss {row['valid_loss']:.4f}, "
                f"{accuracy}{row['tokens'] / row['seconds']:.0f} tokens/s",
                markup=False,
            )

    def end(self) -> None:
        """Leave the run's line, and the terminal as it was."""
        self.bar.stop()
        self.bar.remove_task(self.task)  # or the next run would show it again
