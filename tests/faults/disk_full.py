"""Let the disk be full while `train` and `compare` write: one line, exit code 2, and nothing lost.

    python tests/faults/disk_full.py train
    python tests/faults/disk_full.py compare --sizes 3 --every 100  # the short form

Three kinds: a file system of so many bytes (a tmpfs, where one may be mounted), a limit on the size
of a file (RLIMIT_FSIZE), and a system that says "no space left" from the n-th file operation on.
Where there is space again the same command goes on. Exit code 0 if every run ended with exit code
2 and one line, left no half-written file, and went on to equal weights and metrics.
"""

import argparse
import errno
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from apart import apart, limited
from harness import COMMANDS, differences, fork, quietly, watch, workplace


def full_at(root: Path, last: int, counted: Path | None = None) -> Callable[[], None]:
    """Surroundings where the disk is full from the `last` operation below a folder on."""
    count = [0]

    def meet(*_: Path) -> None:
        count[0] += 1
        if counted is not None:
            counted.write_text(str(count[0]))
        if count[0] >= last:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    return lambda: watch(root, meet, deletions=False)  # a full disk lets files go


def size(folder: Path) -> int:
    """Bytes of the files below a folder, in blocks of 4 KiB."""
    return sum(-(-path.stat().st_size // 4096) * 4096 + 4096 for path in folder.rglob("*"))


def mounted(place: Path, number: int) -> bool:
    """Whether a file system of so many bytes could be mounted."""
    place.mkdir(exist_ok=True)
    words = ["mount", "-t", "tmpfs", "-o", f"size={number}", "tmpfs", str(place)]
    return subprocess.run(words, capture_output=True).returncode == 0


def grown(place: Path) -> None:
    """Give a file system as much space as anybody needs."""
    subprocess.run(["mount", "-o", "remount,size=100m", str(place)], check=True)


class Trial:
    """A command, what it leaves where nothing is full, and how many trials of it went wrong."""

    def __init__(self, kind: str, folder: Path) -> None:
        self.kind, self.whole = kind, folder / "whole"
        self.made = self.wrong = self.unharmed = 0
        assert fork(lambda: quietly(*COMMANDS[kind](self.whole))) == 0

    def make(self, cut: Path, what: str, surroundings: Callable[[], None] | None) -> None:
        """Run the command in a folder where the disk is full; nothing is judged of going on yet."""
        words = [str(word) for word in COMMANDS[self.kind](cut)]
        outcome = apart(words, surroundings)
        self.made += 1
        self.unharmed += outcome.code == 0
        self.fault = outcome.fault({0, 2})
        if self.fault is None and outcome.code == 2:
            partial = [path for path in cut.rglob(".*sympformer-*")]
            self.fault = f"left over: {partial}" if partial else None
        self.what = what

    def go_on(self, cut: Path) -> None:
        """Finish where there is space again, and judge."""
        code = fork(lambda: quietly(*COMMANDS[self.kind](cut)))
        found = f"exit {code}" if code else ", ".join(differences(self.whole, cut))
        if fault := self.fault or found:
            self.wrong += 1
            print(f"  {self.kind}, {self.what}: {fault}", flush=True)


def small_disks(trial: Trial, folder: Path, number: int) -> None:
    """File systems of several sizes, up to the one that the command needs."""
    place, needed = folder / "disk", size(trial.whole)
    for i in range(number):
        space = 4096 * max(2, round(needed * (i + 0.5) / number / 4096))
        if not mounted(place, space):
            print("no file system may be mounted here: small disks are left out")
            return
        try:
            trial.make(place / "run", f"a disk of {space} bytes", None)
            grown(place)
            trial.go_on(place / "run")
        finally:
            subprocess.run(["umount", str(place)], check=True)


def small_files(trial: Trial, folder: Path, number: int) -> None:
    """Limits on the size of a file, up to the largest."""
    largest = max(path.stat().st_size for path in trial.whole.rglob("*"))
    for i in range(number):
        limit = max(1, round(largest * (i + 0.5) / number))
        cut = folder / "cut"
        shutil.rmtree(cut, ignore_errors=True)
        trial.make(cut, f"files of {limit} bytes", limited(resource.RLIMIT_FSIZE, limit))
        trial.go_on(cut)


def everywhere(trial: Trial, folder: Path, every: int) -> None:
    """A disk that is full from every n-th operation on."""
    cut, counted = folder / "cut", folder / "count"
    shutil.rmtree(cut, ignore_errors=True)
    words = [str(word) for word in COMMANDS[trial.kind](cut)]
    assert apart(words, full_at(cut, sys.maxsize, counted)).code == 0
    for last in range(1, int(counted.read_text()) + 1, every):
        shutil.rmtree(cut, ignore_errors=True)
        trial.make(cut, f"full from operation {last} on", full_at(cut, last))
        trial.go_on(cut)


def run() -> int:
    """Parse, fill, say."""
    parser = argparse.ArgumentParser()
    parser.add_argument("kind", choices=COMMANDS)
    parser.add_argument("--sizes", type=int, default=10)
    parser.add_argument("--every", type=int, default=1)
    options = parser.parse_args()
    with workplace() as folder:
        trial = Trial(options.kind, folder)
        said = []
        for name, fill, number in (
            ("small disks", small_disks, options.sizes),
            ("limits on files", small_files, options.sizes),
            ("full from an operation on", everywhere, options.every),
        ):
            before = trial.made
            fill(trial, folder, number)
            said.append(f"{trial.made - before} {name}")
    print(f"{options.kind}: {', '.join(said)}; {trial.unharmed} were not in the way")
    print(f"{trial.made - trial.wrong} of {trial.made} lost nothing and went on")
    return int(trial.wrong > 0)


if __name__ == "__main__":
    sys.exit(run())
