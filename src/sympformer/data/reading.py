"""How far the reading of a text is: a bar on a terminal, a line a minute elsewhere."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from sympformer.minutes import EveryMinute


@contextmanager
def reading(label: str | None, total: int | None) -> Iterator[Callable[[int], None]]:
    """Show the progress of what is called `label`, on stderr; nothing if that is None.

    Args:
        label: what is done.
        total: bytes that there are to be read; None if unknown.

    Yields:
        A function to be called with every number of bytes that was read.
    """
    console = Console(stderr=True, quiet=label is None)
    if label is None or not console.is_terminal:
        yield _Lines(console, label or "", total).advance
        return
    columns = TextColumn("{task.description}"), BarColumn(), DownloadColumn()
    speed = TransferSpeedColumn(), TimeRemainingColumn()
    with Progress(*columns, *speed, console=console, transient=True) as progress:
        task = progress.add_task(label, total=total)
        yield lambda count: progress.advance(task, count)


class _Lines:
    """What a log file is told."""

    def __init__(self, console: Console, label: str, total: int | None) -> None:
        self.console, self.label, self.total = console, label, total
        self.read, self.began = 0, time.monotonic()
        self.minute = EveryMinute()

    def advance(self, count: int) -> None:
        """Count bytes."""
        self.read += count
        if not self.minute.is_over():
            return
        speed = self.read / max(time.monotonic() - self.began, 1e-9)
        line = f"{self.label}: {self.read / 1e6:,.0f} MB read, {speed / 1e6:.1f} MB/s"
        if self.total:
            left = max(0, self.total - self.read) / max(speed, 1)
            share = min(1.0, self.read / self.total)
            line = f"{line}, {share:.0%} of {self.total / 1e6:,.0f} MB, {left / 60:.0f} min left"
        self.console.print(line, markup=False, highlight=False, soft_wrap=True)
