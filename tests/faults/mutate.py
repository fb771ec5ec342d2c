"""Damage the files of a finished run, one at a time, and use it: right, or refused in one line.

    python tests/faults/mutate.py --flips 30
    python tests/faults/mutate.py --flips 4 --every 8  # the short form

A mutation is a flipped bit, a cut end, an empty or missing file, more bytes at the end, the file of
another run, another file of the same run, two files that have changed places, a line twice, gone or
moved, another value of one key of TOML or JSON, or a key that is gone. Each is followed by `eval`,
`report`, `generate`, `compare` of the folder of the run, and `train --resume`. Exit code 0 if each
of them gave what it gave before, or code 2 and one line.
"""

import argparse
import collections
import json
import random
import re
import shutil
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import tomli_w
from harness import OPTIONS, command, differences, fork, quietly, workplace

import sympformer.study.report

Mutation = tuple[str, Callable[[Path], None]]


def write(name: str, new: bytes) -> Callable[[Path], None]:
    """A mutation: the file has another content."""

    def apply(run: Path) -> None:
        (run / name).unlink()  # it may be a second name of another file
        (run / name).write_bytes(new)

    return apply


def swap(one: str, other: str) -> Callable[[Path], None]:
    """A mutation: two files have changed places."""

    def apply(run: Path) -> None:
        (run / one).rename(run / "between")
        (run / other).rename(run / one)
        (run / "between").rename(run / other)

    return apply


def bytes_of(name: str, whole: Path, flips: int) -> Iterator[Mutation]:
    """Damage to a file as bytes."""
    draw, content = random.Random(name), (whole / name).read_bytes()
    for _ in range(flips if content else 0):
        place, bit = draw.randrange(len(content)), draw.randrange(8)
        flipped = bytearray(content)
        flipped[place] ^= 1 << bit
        yield f"bit {bit} of byte {place}", write(name, bytes(flipped))
    for _ in range(flips // 4 if len(content) > 1 else 0):
        length = draw.randrange(1, len(content))
        yield f"cut after {length} bytes", write(name, content[:length])
    yield "empty", write(name, b"")
    yield "more bytes", write(name, content + b"\0" * 8)
    yield "twice", write(name, content + content)
    yield "missing", lambda run: (run / name).unlink()


def exchanges(name: str, whole: Path, other: Path) -> Iterator[Mutation]:
    """Other files in the place of a file."""
    yield "of another run", write(name, (other / name).read_bytes())
    for path in sorted(whole.iterdir()):
        if path.name > name:
            yield f"exchanged with {path.name}", swap(name, path.name)
        if path.name != name:
            yield f"is {path.name}", write(name, path.read_bytes())


def lines_of(name: str, whole: Path) -> Iterator[Mutation]:
    """Lines that are gone, there twice, or in another order."""
    lines = (whole / name).read_bytes().splitlines(keepends=True)
    for i, line in enumerate(lines):
        yield f"without line {i + 1}", write(name, b"".join(lines[:i] + lines[i + 1 :]))
        yield f"line {i + 1} twice", write(name, b"".join([*lines[:i], line, *lines[i:]]))
        if i:
            moved = [*lines[: i - 1], line, lines[i - 1], *lines[i + 1 :]]
            yield f"line {i + 1} before the last", write(name, b"".join(moved))


def values_of(name: str, whole: Path) -> Iterator[Mutation]:
    """Another value at every key of TOML, of JSON, or of each line of JSON; and no such key."""
    if not name.endswith((".toml", ".json", ".jsonl")):
        return
    text = (whole / name).read_text(encoding="utf-8")
    if name.endswith(".toml"):
        for path, changed in edits(tomllib.loads(text)):
            yield path, write(name, tomli_w.dumps(changed).encode())
    elif name.endswith(".json"):
        for path, changed in edits(json.loads(text)):
            yield path, write(name, (json.dumps(changed, indent=2) + "\n").encode())
    else:
        lines = text.splitlines()
        for i, line in enumerate(lines):
            for path, changed in edits(json.loads(line)):
                new = [*lines[:i], json.dumps(changed), *lines[i + 1 :]]
                yield f"line {i + 1}: {path}", write(name, ("\n".join(new) + "\n").encode())


def edits(table: dict) -> Iterator[tuple[str, dict]]:
    """Copies of nested tables, each with one value changed or gone, and what was done."""
    for key, value in table.items():
        if isinstance(value, dict) and len(value) < 50:
            for path, inner in edits(value):
                yield f"{key}.{path}", {**table, key: inner}
        else:
            yield f"{key} is another", {**table, key: another(value)}
        yield f"no {key}", {name: v for name, v in table.items() if name != key}


def another(value: object) -> object:
    """A value of the same kind."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + 1
    if isinstance(value, str):
        return value + "x" if value else "gpt"
    return [*value, *value, 1] if isinstance(value, list) else {"a": 1}


def mutations(name: str, whole: Path, other: Path, flips: int) -> Iterator[Mutation]:
    """Ways to damage the file `name`, by what they are called."""
    yield from bytes_of(name, whole, flips)
    yield from exchanges(name, whole, other)
    if name == "metrics.jsonl":
        yield from lines_of(name, whole)
    if name != "tokenizer.json" or flips > 8:  # which is long, and a digest is of all of it
        yield from values_of(name, whole)


def results(run: Path) -> list[tuple[int, str, str]]:
    """What the commands say of a run, times and paths left out."""
    found = []
    alike = ["compare", "--presets", "gpt", "--out", run.parent, *OPTIONS]
    uses = (
        ["eval", run],
        ["report", run, "--baseline", "gpt"],
        ["generate", run, "--seed", "1"],
        alike,
        ["train", "--resume", run],
    )
    for words in uses:
        code, out, err = command(*words)
        said = re.sub(r"[\d,]+ \(1\.00x\)|written: .*|.*: validation loss", "", out)
        found.append((code, said, err))
    return found


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
    parser.add_argument("--flips", type=int, default=30)
    parser.add_argument("--every", type=int, default=1)
    options = parser.parse_args()
    # It shows what the table says, and takes longer than all else.
    sympformer.study.report.write_figure = lambda *_: []
    made: collections.Counter[str] = collections.Counter()
    wrong = 0
    with workplace() as folder:
        whole, other, hurt = (folder / name / "gpt-s0" for name in ("whole", "other", "hurt"))
        for one, seed in ((whole, 0), (other, 1)):
            words = ["train", "gpt", "--out", one, *OPTIONS, "--seed", seed, "--data-seed", seed]
            assert fork(lambda words=words: quietly(*words)) == 0
        expected = results(whole)
        assert [code for code, *_ in expected] == [0] * len(expected), expected
        names = sorted(path.name for path in other.iterdir())
        cases = [(n, *m) for n in names for m in mutations(n, whole, other, options.flips)]
        for name, what, apply in cases[:: options.every]:
            shutil.rmtree(hurt.parent, ignore_errors=True)
            shutil.copytree(whole, hurt)
            apply(hurt)

            def use(name: str = name, what: str = what) -> int:
                fault = verdict(whole, hurt, expected)
                if fault:
                    print(f"  {name}, {what}: {fault}", flush=True)
                return int(fault is not None)

            made[name] += 1
            wrong += fork(use)
    number = sum(made.values())
    print(", ".join(f"{name} {count}" for name, count in made.items()))
    print(f"{number} mutations, {number - wrong} loaded right or were refused in one line")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(run())
