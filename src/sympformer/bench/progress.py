"""What a person sees while the machine is measured, on standard error."""

from typing import Self

from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar


class BenchProgress:
    """A bar for each group of cases; where the output is no terminal, a line."""

    def __init__(self, console: Console | None = None):
        self.console = console or Console(stderr=True)
        self.bar = Bar(
            TextColumn("{task.description:<40}"),
            BarColumn(bar_width=20),
            TimeRemainingColumn(),
            console=self.console,
            disable=not self.console.is_terminal,
            transient=True,
        )
        self.task = None

    @classmethod
    def silent(cls) -> Self:
        """One that shows nothing."""
        return cls(Console(quiet=True))

    def __enter__(self) -> Self:
        self.bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.bar.stop()

    def begin(self, name: str, calls: int) -> None:
        """Start the bar of a group that makes so many calls."""
        if self.task is not None:
            self.bar.remove_task(self.task)
        self.task = self.bar.add_task(name, total=calls)
        if not self.console.is_terminal:
            self.console.print(f"measuring {name}", highlight=False)

    def advance(self) -> None:
        """One call is done."""
        if self.task is not None:
            self.bar.advance(self.task)
