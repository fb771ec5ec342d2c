"""The C library's allocator: what a training step frees, the next one needs again."""

import ctypes
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # <malloc.h>
_KEPT, _LARGE = 2**30, 2**25


def keep_freed_memory() -> bool:
    """Keep up to a GiB of freed memory in this process, rather than give it back at once.

    Blocks of 32 MiB and more still go back: kept, they would leave gaps that nothing fits in.

    Without this every step asks the system for the same pages again, and the system clears them: on
    a processor that is a tenth of the time of a training step (docs/speed.md). Pools of
    accelerators are not concerned.

    Returns:
        Whether that can be had here: with the GNU C library.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None or not mallopt(_TRIM_THRESHOLD, _KEPT):
        return False
    return bool(mallopt(_MMAP_THRESHOLD, _LARGE))
