"""The machine: device, precision, threads, seeds, memory, and what a result was made on.

What belongs to the whole process is set for a while by a context that puts back what it found;
what cannot be put back (`keep_freed_memory`) is for programs to call, never for the library.
"""

import ctypes
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch

from sympformer.errors import InputError

CPU = torch.device("cpu")

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # <malloc.h>
_KEPT, _LARGE = 2**30, 2**25


def resolve_device(name: str) -> torch.device:
    """The device called `name`; "auto" is an accelerator where there is one.

    Raises:
        InputError: it is not there.
    """
    if name.split(":")[0] == "meta":
        raise InputError("device 'meta' holds no values: use --device auto")
    if name == "auto":
        return torch.accelerator.current_accelerator() or CPU
    try:
        torch.empty(1, device=name)
        device = torch.device(name)
        if device.type == "cpu" and device.index:  # torch takes any number, and there is one
            raise ValueError(name)
        return device
    except (RuntimeError, AssertionError, ValueError):
        raise InputError(f"device {name!r} is not available here: use --device auto") from None


def default_dtype(device: torch.device) -> str:
    """The precision of passes unless another is asked for: bfloat16 on a CUDA device that has it in
    hardware, else float32.
    """
    if device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False):
        return "bfloat16"
    return "float32"


def multiplies_bfloat16() -> bool:
    """Whether this processor multiplies matrices of bfloat16 in hardware (AVX512-BF16 or AMX)."""
    found = torch.cpu.get_capabilities()
    return bool(found.get("avx512_bf16") or found.get("amx_bf16"))


def precision(device: torch.device, dtype: str) -> torch.autocast:
    """A context for forward passes, to be entered any number of times: autocast, unless float32.

    `dtype` is "float32", "bfloat16", "float16" or "auto", the default of the device.
    """
    dtype = default_dtype(device) if dtype == "auto" else dtype
    lower = torch.float16 if dtype == "float16" else torch.bfloat16
    return torch.autocast(device.type, lower, enabled=dtype != "float32")


def synchronise(device: torch.device) -> None:
    """Wait until an accelerator has done what it was asked."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


@contextmanager
def threads(number: int | None) -> Iterator[None]:
    """Compute with so many CPU threads inside; with as many as before if None."""
    before = torch.get_num_threads()
    if number is not None:
        torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def seeded(seed: int, device: torch.device = CPU) -> Iterator[None]:
    """Seed torch's generators of the CPU and of `device` inside; put both back afterwards."""
    accelerator = None if device.type == "cpu" else torch.get_device_module(device)
    which = (
        () if device.type == "mps" else (device,)
    )  # MPS has one generator, and no way to name it
    before = torch.get_rng_state()
    there = accelerator.get_rng_state(*which) if accelerator else None
    torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed every accelerator
    if accelerator:
        accelerator.set_rng_state(torch.Generator(device).manual_seed(seed).get_state(), *which)
    try:
        yield
    finally:
        torch.set_rng_state(before)
        if accelerator:
            accelerator.set_rng_state(there, *which)


def free_memory(device: torch.device = CPU) -> int | None:
    """Bytes that can still be taken on a device; None where the system does not say."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    if device.type != "cpu":
        return None
    found = [_in_kilobytes("/proc/meminfo", "MemAvailable:"), _below_limit()]
    if found == [None, None] and hasattr(os, "sysconf"):
        with suppress(ValueError, OSError):
            found = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    return min((size for size in found if size is not None), default=None)


def _below_limit() -> int | None:
    """Address space that this process may still take (`ulimit -v`)."""
    try:
        import resource

        limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    except ImportError:  # Windows
        return None
    taken = _in_kilobytes("/proc/self/status", "VmSize:")
    return None if limit == resource.RLIM_INFINITY or taken is None else max(0, limit - taken)


def _in_kilobytes(file: str, name: str) -> int | None:
    """The number, in bytes, behind a name in a file of the system."""
    with suppress(OSError, ValueError, IndexError):
        for line in Path(file).read_text().splitlines():
            if line.startswith(name):
                return int(line.split()[1]) * 1024
    return None


def keep_freed_memory() -> bool:
    """Keep up to a GiB of freed memory in this process, rather than give it back at once.

    Blocks of 32 MiB and more still go back: kept, they would leave gaps that nothing fits in.

    Without this every step asks the system for the same pages again, and the system clears them: on
    a processor that is a tenth of the time of a training step (docs/speed.md). Pools of
    accelerators are not concerned. It holds as long as the process: the C library does not tell
    what was set before. So the commands call it; a program that trains may.

    Returns:
        Whether that can be had here: with the GNU C library.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None or not mallopt(_TRIM_THRESHOLD, _KEPT):
        return False
    return bool(mallopt(_MMAP_THRESHOLD, _LARGE))


def environment(device: torch.device) -> dict[str, Any]:
    """Where and with what a result is made."""
    return {
        "command": shlex.join(["sympformer", *sys.argv[1:]]),
        "commit": commit(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "platform": platform.platform(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else processor(),
        "threads": torch.get_num_threads(),
    }


def commit() -> str:
    """The commit of the source tree, `+` if it was changed since; "unknown" outside one."""
    here = Path(__file__).parent

    def git(*words: str) -> str:
        return subprocess.run(
            ["git", "-C", str(here), *words], capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        if Path(git("rev-parse", "--show-toplevel")) not in here.parents:
            return "unknown"
        changed = git("status", "--porcelain", "--untracked-files=no", "--", str(here))
        return git("rev-parse", "--short", "HEAD") + ("+" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def processor() -> str:
    """The processor's name and its cores."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return f"{line.split(':', 1)[1].strip()}, {os.cpu_count()} cores"
    except OSError:
        pass
    return platform.processor() or platform.machine()
