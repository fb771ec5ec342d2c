"""Kill `train` and `compare`, go on, and compare with what was never interrupted.

    python tests/faults/kill.py train            # at every file operation
    python tests/faults/kill.py compare --every 5  # at every fifth
    python tests/faults/kill.py train --random 200  # SIGKILL at random moments

Exit code 0 if every run went on to equal weights and metrics.
"""

import argparse
import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path

from harness import COMMANDS, differences, fork, quietly, workplace

WATCHED = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.truncate"}


def watch(root: Path, count: list[int], last: int) -> None:
    """Count the file operations below a folder; the `last` of them never happens."""

    def meet() -> None:
        count[0] += 1
        if count[0] == last:
            os._exit(9)

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        if event == "open":
            path, _, flags = arguments
            writes = isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
            if writes and isinstance(path, str | Path) and str(path).startswith(str(root)):
                meet()
        elif event in WATCHED and str(arguments[0]).startswith(str(root)):
            meet()

    sync, save = os.fsync, sys.modules["sympformer.train.tensors"].save_file

    def fsync(handle: int) -> None:
        meet()
        sync(handle)

    def save_file(tensors, path, metadata) -> None:
        """Its writes are not Python's: it dies before them, half-way, and after them."""
        meet()
        save(tensors, path, metadata)
        if count[0] + 1 == last:
            os.truncate(path, os.path.getsize(path) // 2)
        meet()

    os.fsync = fsync
    sys.modules["sympformer.train.tensors"].save_file = save_file
    sys.addaudithook(hook)


def everywhere(kind: str, folder: Path, every: int) -> tuple[int, int]:
    """Kill at every n-th operation; return how many kills, and how many went wrong."""
    make, whole = COMMANDS[kind], folder / "whole"
    counted = folder / "count"

    def uninterrupted() -> int:
        count = [0]
        watch(whole, count, -1)
        code = quietly(*make(whole))
        counted.write_text(str(count[0]))
        return code

    assert fork(uninterrupted) == 0
    operations = int(counted.read_text())
    print(f"{kind}: {operations} file operations")
    wrong = kills = 0
    for last in range(1, operations + 1, every):
        cut = folder / "cut"
        shutil.rmtree(cut, ignore_errors=True)

        def killed(cut: Path = cut, last: int = last) -> int:
            watch(cut, [0], last)
            return quietly(*make(cut))

        assert fork(killed) == 9, f"operation {last} did not come"
        kills += 1
        wrong += go_on(kind, whole, cut, f"killed at operation {last}")
    return kills, wrong


def at_random(kind: str, folder: Path, times: int, seed: int = 0) -> tuple[int, int]:
    """Kill at random moments; return how many kills, and how many went wrong."""
    make, whole, draw = COMMANDS[kind], folder / "whole", random.Random(seed)
    began = time.monotonic()
    assert fork(lambda: quietly(*make(whole))) == 0
    longest = time.monotonic() - began
    wrong = 0
    for number in range(times):
        cut = folder / "cut"
        shutil.rmtree(cut, ignore_errors=True)
        child = fork(lambda cut=cut: quietly(*make(cut)), wait=False)
        moment = draw.uniform(0, longest)
        time.sleep(moment)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        wrong += go_on(kind, whole, cut, f"kill {number} after {moment:.3f} s")
    return times, wrong


def go_on(kind: str, whole: Path, cut: Path, what: str) -> bool:
    """Finish a killed run; tell whether it differs from the whole one."""
    code = fork(lambda: quietly(*COMMANDS[kind](cut)))
    found = [f"exit {code}"] if code else differences(whole, cut)
    if found:
        print(f"  {what}: {', '.join(found)}")
    return bool(found)


def run() -> int:
    """Parse, kill, say."""
    parser = argparse.ArgumentParser()
    parser.add_argument("kind", choices=COMMANDS)
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--random", type=int, default=0)
    options = parser.parse_args()
    with workplace() as folder:
        if options.random:
            kills, wrong = at_random(options.kind, folder, options.random)
        else:
            kills, wrong = everywhere(options.kind, folder, options.every)
    print(f"{options.kind}: {kills} kills, {kills - wrong} went on to equal weights and metrics")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(run())
