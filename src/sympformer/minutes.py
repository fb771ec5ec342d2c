"""What is said in a log file now and then."""

import time

MINUTE = 60.0
"""Seconds between two lines."""


class EveryMinute:
    """A clock that strikes once a minute, for those who look at it more often."""

    def __init__(self) -> None:
        self._last = time.monotonic()

    def is_over(self) -> bool:
        """Whether a minute has passed since this was last true, or since the beginning."""
        now = time.monotonic()
        if now - self._last < MINUTE:
            return False
        self._last = now
        return True
