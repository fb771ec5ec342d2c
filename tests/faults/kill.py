"""Kill `train` and `compare`, go on, and compare with what was never interrupted.

    python tests/faults/kill.py train            # at every file operation
    python tests/faults/kill.py compare --every 5  # at every fifth
    python tests/faults/kill.py train --random 200  # SIGKILL at random moments
    python tests/faults/kill.py train --async-save  # states are written by a thread

A kill at an operation leaves what is on disk before it: the folder is copied there, as one run goes
by, and every copy is gone on from. Operations that leave equal folders are gone on from once. Exit
code 0 if every run went on to equal weights and metrics.
"""

import argparse
import hashlib
import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path

from harness import COMMANDS, OPTIONS, differences, fork, quietly, watch, workplace


class Copies:
    """Copies of a folder, as it was before each file operation.

    Attributes:
        operations: how many there were.
    """

    def __init__(self, root: Path, into: Path) -> None:
        self.root, self.into, self.operations = root, into, 0

    def __call__(self, written: Path | None = None) -> None:
        """Copy the folder; a file whose writing cannot be watched is half-written in it."""
        copy = self.into / f"{self.operations:04}"
        self.operations += 1
        copy.mkdir(parents=True)
        names: dict[int, Path] = {}
        for path in sorted(self.root.rglob("*")):
            target = copy / path.relative_to(self.root)
            inode = path.stat().st_ino
            if path.is_dir():
                target.mkdir()
            elif inode in names:  # two names of one file, as best and state are
                os.link(names[inode], target)
            else:
                names[inode] = Path(shutil.copyfile(path, target))
        if written is not None:
            half = copy / written.relative_to(self.root)
            os.truncate(half, half.stat().st_size // 2)


def content(folder: Path) -> str:
    """The digest of all that a folder holds: names, second names, bytes."""
    total = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        total.update(f"\n{path.relative_to(folder)} {path.stat().st_nlink}\n".encode())
        total.update(path.read_bytes() if path.is_file() else b"/")
    return total.hexdigest()


def everywhere(kind: str, folder: Path, every: int) -> tuple[int, int]:
    """Kill at every n-th operation; return how many kills, and how many went wrong."""
    make, whole, shots = COMMANDS[kind], folder / "whole", folder / "shots"

    def uninterrupted() -> int:
        copies = Copies(whole, shots)
        watch(whole, copies)
        code = quietly(*make(whole))
        copies()  # when all is done
        return code

    assert fork(uninterrupted) == 0
    kept = sorted(shots.iterdir())[::every]
    verdicts: dict[str, bool] = {}
    for shot in kept:
        known = content(shot)
        if known not in verdicts:
            cut = folder / "cut"
            shutil.rmtree(cut, ignore_errors=True)
            shot.rename(cut)
            verdicts[known] = go_on(kind, whole, cut, f"killed at operation {shot.name}")
            cut.rename(shot)
        wrong = verdicts[known]
        shutil.rmtree(shot)
        verdicts[shot.name] = wrong
    print(f"{kind}: {len(verdicts) - len(kept)} different folders at {len(kept)} operations")
    return len(kept), sum(verdicts[shot.name] for shot in kept)


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
    parser.add_argument("--async-save", action="store_true")
    options = parser.parse_args()
    if options.async_save:
        OPTIONS.append("--async-save")
    with workplace() as folder:
        if options.random:
            kills, wrong = at_random(options.kind, folder, options.random)
        else:
            kills, wrong = everywhere(options.kind, folder, options.every)
    print(f"{options.kind}: {kills} kills, {kills - wrong} went on to equal weights and metrics")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(run())
