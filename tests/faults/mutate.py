"""Damage the files of a finished run, one at a time, and use it: right, or refused in one line.

    python tests/faults/mutate.py --flips 60
    python tests/faults/mutate.py --flips 4 --every 8  # the short form

Each mutation (a flipped bit, a cut end, an empty or missing file, more bytes at the end, the file
of another run) is followed by `eval`, `report`, `generate` and `train --resume`. Exit code 0 if
each of them gave what it gave before, or code 2 and one line.
"""

import argparse
import random
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from harness import OPTIONS, command, differences, fork, quietly, workplace

Mutation = tuple[str, Callable[[Path], None]]


def mutations(name: str, whole: Path, other: Path, flips: int) -> Iterator[Mutation]:
    """Ways to damage the file `name`, by what they are called."""
    draw, content = random.Random(name), (whole / name).read_bytes()

    def write(new: bytes) -> Callable[[Path], None]:
        def apply(run: Path) -> None:
            (run / name).unlink()  # it may be a second name of another file
            (run / name).write_bytes(new)

        return apply

    for _ in range(flips if content else 0):
        place, bit = draw.randrange(len(content)), draw.randrange(8)
        flipped = bytearray(content)
        flipped[place] ^= 1 << bit
        yield f"bit {bit} of byte {place}", write(bytes(flipped))
    for _ in range(flips // 4 if len(content) > 1 else 0):
        length = draw.randrange(1, len(content))
        yield f"cut after {length} bytes", write(content[:length])
    yield "empty", write(b"")
    yield "more bytes", write(content + b"\0" * 8)
    yield "missing", lambda run: (run / name).unlink()
    yield "of another run", write((other / name).read_bytes())


def results(run: Path) -> list[tuple[int, str, str]]:
    """What the commands say of a run, times and paths left out."""
    found = []
    for words in (["eval"], ["report", "--baseline", "gpt"], ["generate", "--seed", "1"]):
        code, out, err = command(words[0], run, *words[1:])
        found.append((code, re.sub(r"[\d,]+ \(1\.00x\)|written: .*", "", out), err))
    code, _, err = command("train", "--resume", run)
    return [*found, (code, "", err)]


def verdict(whole: Path, run: Path, expected: list[tuple[int, str, str]]) -> str | None:
    """What is wrong with how a damaged run was met; None if nothing."""
    for (code, out, _), (now, said, err) in zip(expected, results(run), strict=True):
        if now == 2:
            lines = [line for line in err.splitlines() if line.startswith("sympformer: ")]
            if len(lines) != 1:
                return f"no one line: {err[-200:]}"
        elif now != code:
            return f"exit {now}: {err[-200:]}"
        elif said != out:
            return f"a silent difference: {said[:200]} instead of {out[:200]}"
    if (run / "summary.json").exists() and command("train", "--resume", run)[0] == 0:
        kept = [d for d in differences(whole, run) if not d.startswith("left over")]
        return f"a silent difference after --resume: {', '.join(kept)}" if kept else None
    return None


def run() -> int:
    """Train two runs, damage the first, say."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--flips", type=int, default=60)
    parser.add_argument("--every", type=int, default=1)
    options = parser.parse_args()
    made = wrong = 0
    with workplace() as folder:
        whole, other, hurt = folder / "whole", folder / "other", folder / "hurt"
        for run, seed in ((whole, 0), (other, 1)):
            words = ["train", "gpt", "--out", run, *OPTIONS, "--seed", seed]
            assert fork(lambda words=words: quietly(*words)) == 0
        expected = results(whole)
        assert [code for code, _, _ in expected] == [0, 0, 0, 0], expected
        names = sorted(path.name for path in other.iterdir())
        cases = [(n, *m) for n in names for m in mutations(n, whole, other, options.flips)]
        for name, what, apply in cases[:: options.every]:
            shutil.rmtree(hurt, ignore_errors=True)
            shutil.copytree(whole, hurt)
            apply(hurt)

            def use(name: str = name, what: str = what) -> int:
                fault = verdict(whole, hurt, expected)
                if fault:
                    print(f"  {name}, {what}: {fault}", flush=True)
                return int(fault is not None)

            made, wrong = made + 1, wrong + fork(use)
    print(f"{made} mutations, {made - wrong} loaded right or were refused in one line")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(run())
