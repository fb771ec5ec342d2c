"""Times measured side by side: what a busy machine does to one model, it does to all."""

import time
from collections.abc import Callable, Mapping
from typing import TypeVar

import torch

K = TypeVar("K")

SHORT, REPEATS = 0.1, 3
"""A call that takes fewer seconds is repeated in its turn, and the quickest counts."""


def interleave(
    runs: Mapping[K, Callable[[], object]],
    rounds: int,
    warmup: int = 1,
    synchronise: Callable[[], None] = lambda: None,
    tick: Callable[[], None] = lambda: None,
) -> dict[K, tuple[float, ...]]:
    """Call every function once a round, in turn: A B C A B C …; return the seconds of each call.

    A short call is made REPEATS times in its turn, and the quickest counts: the first of them
    pays for what its predecessor did to caches and to the allocator. A function that runs out of
    memory is left out from then on, and has no times.

    Args:
        runs: the functions.
        rounds: rounds that count.
        warmup: rounds before them.
        synchronise: waits until the device has done what it was asked.
        tick: called after every call, to show progress.
    """
    seconds: dict[K, list[float]] = {key: [] for key in runs}
    for _ in range(warmup + rounds):
        for key in list(seconds):
            try:
                seconds[key].append(_turn(runs[key], synchronise))
            except (RuntimeError, MemoryError) as error:
                if not out_of_memory(error):
                    raise
                del seconds[key]
            tick()
    return {key: tuple(times[warmup:]) for key, times in seconds.items()}


def _turn(run: Callable[[], object], synchronise: Callable[[], None]) -> float:
    """Seconds of a call, the quickest of several if it is short."""
    seconds = []
    while not seconds or (seconds[0] < SHORT and len(seconds) < REPEATS):
        synchronise()
        began = time.perf_counter()
        run()
        synchronise()
        seconds.append(time.perf_counter() - began)
    return min(seconds)


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory was not enough; on the CPU torch has no type for it."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    )
