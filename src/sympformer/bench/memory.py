"""Peak memory of a training step, measured in a process of its own.

Started as a program, this file is that process: it reads a case as JSON and prints the peak.
"""

import json
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import NamedTuple

import torch

from sympformer.bench.case import Case
from sympformer.bench.operations import operation
from sympformer.bench.timing import out_of_memory
from sympformer.imports import import_from, imported
from sympformer.machine import keep_freed_memory

TINY = {"n_layer": 1, "n_head": 1, "n_embd": 8, "vocab_size": 8, "length": 2, "batch_size": 1}
STEPS = 2
"""The second step finds the optimizer's state in place."""
STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


class Peak(NamedTuple):
    """Bytes: of the whole process, and above what it held right before the model was built."""

    whole: int
    increment: int


def fresh_peak(case: Case, threads: int) -> Peak | None:
    """Measure in a fresh process; None if it ran out of memory.

    Raises:
        RuntimeError: the process failed in another way.
    """
    done = subprocess.run(
        [sys.executable, "-m", __name__],
        input=json.dumps({"case": asdict(case), "threads": threads, "imports": list(imported())}),
        capture_output=True,
        text=True,
    )
    if done.returncode == 0:
        answer = json.loads(done.stdout.splitlines()[-1])
        return None if answer is None else Peak(*answer)
    if done.returncode == -9:  # killed, by a system that had no memory left
        return None
    raise RuntimeError(f"measuring memory of {case} failed:\n{done.stderr}")


def peak(case: Case) -> Peak:
    """Measure in this process, which should be fresh."""
    on_cuda = torch.device(case.device).type == "cuda"
    operation(replace(case, **TINY), turns=1).run()  # so that all libraries are loaded
    before = 0 if on_cuda else _resident()
    made = operation(case, turns=STEPS)
    for _ in range(STEPS):
        made.run()
    whole = torch.cuda.max_memory_allocated(case.device) if on_cuda else _most()
    return Peak(whole, whole - before)


def _resident() -> int:
    """Bytes that this process holds now; the search for the peak begins here."""
    try:
        CLEAR.write_text("5")
        return _status("VmRSS")
    except OSError:
        return _most()


def _most() -> int:
    """The most bytes that this process has held."""
    try:
        return _status("VmHWM")  # unlike getrusage's, this peak is not that of the parent
    except OSError:
        import resource

        unit = 1 if sys.platform == "darwin" else 1024
        return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _status(name: str) -> int:
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(name))
    return 1024 * int(line.split()[1])


def _main() -> None:
    asked = json.load(sys.stdin)
    for name in asked["imports"]:
        import_from(name)
    torch.set_num_threads(asked["threads"])
    keep_freed_memory()  # as the commands do
    try:
        print(json.dumps(peak(Case(**asked["case"]))))
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        print(json.dumps(None))


if __name__ == "__main__":
    _main()
