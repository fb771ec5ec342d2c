"""Signals that ask a program to end: noticed, so that what was done can be saved first."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

ENDING = (signal.SIGINT, signal.SIGTERM)
LAUNCHER = 5.0
"""Seconds in which torchrun passes on to its processes what the terminal has told them already."""


@contextmanager
def noticed(says: bool = True, again: float = 0.0) -> Iterator[Callable[[], int]]:
    """Yield a function that gives the number of the signal that has come; 0 before.

    Inside, SIGINT and SIGTERM only leave a note; a second one ends the process at once. For
    programs, in their main thread: elsewhere, and where a signal is ignored, nothing is changed.

    Args:
        says: whether to say so on standard error.
        again: seconds after the first signal in which a second one is the same, passed on.
    """
    came: list[int] = []
    began = 0.0

    def note(number: int, _: object) -> None:
        nonlocal began
        if came and time.monotonic() - began < again:
            return
        if came:
            _say(says, b"\nsympformer: stopped at once; the last saved state is kept\n")
            os._exit(128 + number)
        came.append(number)
        began = time.monotonic()
        _say(says, b"\nsympformer: stopping after this step; once more stops at once\n")

    before = {}
    for number in ENDING:
        handler = signal.getsignal(number)
        if handler is signal.SIG_IGN:
            continue
        with suppress(ValueError):  # not the main thread
            signal.signal(number, note)
            before[number] = handler
    try:
        yield lambda: came[0] if came else 0
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _say(says: bool, line: bytes) -> None:
    with suppress(OSError):
        os.write(2, line if says else b"")
