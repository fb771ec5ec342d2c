"""Command lines: every command, every option, values that are wrong, odd or extreme.

    python tests/faults/lines.py --values 2
    python tests/faults/lines.py --every 12  # the short form

Each is run in a process of its own. Exit code 0 if all of them ended with 0, or with 2 and one
line (143 if they were asked to end; 1 where an audit or a claim is to fail), within a minute and
2 GB, without a traceback.
"""

import argparse
import collections
import dataclasses
import itertools
import os
import random
import shutil
import signal
import sys
import typing
from collections.abc import Iterator
from pathlib import Path

from apart import STOPPED, Outcome, apart
from harness import OPTIONS, workplace
from surroundings import HARD, STARTED, furnish, furnish_odd

from sympformer.commands import COMMANDS
from sympformer.lab import EXPERIMENTS

NUMBERS = [
    *("-1", "0", "1", "3", "2.5", "-0.0", "nan", "inf", "1e400", "1e-300", "9" * 40, "0x10"),
    *("", "x", " 2", "1_0", "٣", "1000000", "1000000000", "9223372036854775807", "None", "true"),
]
TEXTS = [
    *("", ".", "missing", "missing/deep", "/", "/dev/null", "/dev/zero", "/dev/full", "fifo"),
    *("x" * 5000, "ünï→", "a\nb", "\udcff", "-", "~", "*", "$(id)", "{}", "[]", "None", "text"),
    *("bomb.xz", "latin1.txt", "a.parquet", "no.toml", "odd.toml", "socket", "closed", "gpt"),
    *("empty", "1/1", "cpu", "auto", "byte", "bpe:9", "bpe:300", "a=b", "a=1,b", "a=gpt,n_layer=0"),
]
LONG = {
    *("steps", "rounds", "accumulation", "train_tokens", "valid_tokens", "particles", "starts"),
    *("batch_size", "tokens_per_batch", "lengths", "vocab_size", "n_embd", "n_layer", "grid"),
    *("eval_blocks", "blocks", "loops", "max_new_tokens", "dimension", "dimensions", "length"),
    *("block_size", "n_head", "redraw", "conditions", "duration", "h", "tolerance", "mlp_width"),
}
"""Options that say how much is to be done: a large amount may take long, until SIGTERM."""
PATIENCE = 4
SMALL: dict[str, tuple[list[str], list[str], list[str]]] = {
    "presets": (["presets"], [], []),
    "train": (["train"], ["symp-h0"], ["--out", "out", *OPTIONS]),
    "resume": (["train"], [], ["--resume", "run"]),
    "config": (["train"], [], ["--config", "run.toml", "--out", "out"]),
    "compare": (["compare"], [], ["--presets", "gpt", "--out", "out", *OPTIONS]),
    "eval": (["eval"], ["run"], []),
    "generate": (["generate"], ["run"], ["--max-new-tokens", "3"]),
    "audit": (["audit"], ["symp-h0"], ["--length", "8"]),
    "report": (["report"], ["compared"], []),
    "data": (["data"], [], ["--train-tokens", "3000", "--valid-tokens", "400"]),
    "bench": (
        ["bench"],
        [],
        [
            *("--presets", "gpt", "--measure", "step", "--lengths", "16", "--rounds", "1"),
            *("--n-layer", "1", "--n-head", "1", "--n-embd", "8", "--vocab-size", "64"),
            *("--batch-size", "2", "--out", "out"),
        ],
    ),
    **{
        f"lab {name}": (["lab", name], [], [*words.split(), "--out", "out"])
        for name, words in {
            "ellipse": "--particles 50 --steps 10",
            "orders": "--steps 8 16",
            "conservation": "--steps 20",
            "energy": "--steps 20 --particles 8 --conditions 10 20",
            "clusters": "--steps 5 --particles 4 --starts 2",
            "decoder": "--steps 2 --particles 32 --starts 2",
            "meanfield": "--particles 8 16 --grid 8 --steps 4",
        }.items()
    },
}
"""A small form of every command: its name, its argument, its options."""
WHOLE: list[list[str]] = [
    *([], ["--help"], ["--version"], ["nothing"], [""], ["train", "--help"], ["lab", "nothing"]),
    *(["train", "--config"], ["train", "--resume"], ["--import"], ["presets", "--import", "no.py"]),
    *(["presets", "--import", "raises.py"], ["presets", "--import", "exits.py"], ["lab"]),
    *(["presets", "--import", "."], ["presets", "--import", "\udcff"], ["audit", "raises.py:f"]),
    *(["audit", "net.py:f", "--vocab-size", "9"], ["audit", "net.py:g"], ["audit", "exits.py:f"]),
    *(
        ["eval"],
        ["eval", "run", "extra"],
        ["report", "run"],
        ["report", "closed"],
        ["eval", "lock"],
    ),
    *(["train", "gpt", "--out", "run"], ["train", "gpt", "--out", "run/config.toml"], ["--", "x"]),
    *(["compare", "--config", "missing.toml"], ["compare", "--config", "/dev/zero"]),
    *(["train", "--config", "fifo"], ["train", "--resume", "fifo"], ["bench", "--redraw", "fifo"]),
    *(["bench", "--redraw", "/dev/zero"], ["generate", "run", "--prompt", "a", "--prompt", "\0"]),
    *(["generate", "run", "--prompt", "a" * 100_000], ["audit", "/dev/zero"], ["audit", "fifo"]),
    *(["eval", "/dev/zero"], ["data", "--text", "deep"], ["data", "--text", "text", "--tokenizer"]),
]
LEAKING = ["audit", "symp-h0", "--set", "causality=joint"]


@dataclasses.dataclass
class Line:
    """A command line, and how it may end."""

    words: list[str]
    surroundings: str = ""
    codes: frozenset[int] = frozenset({0, 2})
    long: bool = False

    def run(self, folder: Path) -> Outcome:
        """Run it in a folder."""
        if self.surroundings in STARTED:
            return STARTED[self.surroundings].run(self.words, folder)

        def enter() -> None:
            os.chdir(folder)
            os.environ["HOME"] = str(folder)
            HARD.get(self.surroundings, lambda: None)()

        patience = {"patience": PATIENCE, "stop": signal.SIGTERM} if self.long else {}
        return apart(self.words, enter, **patience)

    def fault(self, outcome: Outcome) -> str | None:
        """What is wrong with how it ended."""
        silent = self.surroundings in ("all output is full", "closed streams")
        codes = set(self.codes) | (STOPPED if self.long else set())
        return outcome.fault(codes, silent)


def options(name: str) -> Iterator[tuple[str, object, str]]:
    """The options of a command, or of an experiment of the lab: flag, type and name."""
    words = SMALL[name][0]
    if words[0] != "lab":
        return _fields(COMMANDS[words[0]])
    out = [("--out", Path, "out"), ("--animate", bool, "animate")]
    return itertools.chain(_fields(EXPERIMENTS[words[1]].config), out)


def _fields(cls: type) -> Iterator[tuple[str, object, str]]:
    kinds, marked = typing.get_type_hints(cls), typing.get_type_hints(cls, include_extras=True)
    for field in dataclasses.fields(cls):
        marks = repr(marked[field.name])
        if dataclasses.is_dataclass(kinds[field.name]):
            yield from _fields(kinds[field.name])
        elif "Suppress" not in marks:
            flag = "" if "Positional" in marks else "--" + field.name.replace("_", "-")
            yield flag, kinds[field.name], field.name


def values(name: str, kind: object, draw: random.Random, number: int) -> list[list[str]]:
    """Words that may follow an option."""
    several = typing.get_origin(kind) is tuple
    inner = {kind, *typing.get_args(kind)}
    if bool in inner:
        return [["x"]] if name == "compile" else [[], ["x"]]  # it takes minutes, and is right
    pool = NUMBERS if inner & {int, float} else TEXTS
    found = [[value] for value in draw.sample(pool, number)]
    if several:
        found[-1:] = [[], draw.sample(pool, 2)]
    return found


def lines(number: int) -> Iterator[Line]:
    """All command lines, with so many values an option."""
    for command, (name, argument, small) in SMALL.items():
        codes = frozenset({0, 1, 2} if command.startswith("lab") else {0, 2})  # a claim may fail
        for flag, kind, option in options(command):
            draw = random.Random(f"{command} {option}")
            for words in values(
                option, kind, draw, 2 if command in ("resume", "config") else number
            ):
                new = [*argument, *small, flag, *words] if flag else [*words, *small]
                yield Line([*name, *new], codes=codes, long=option in LONG)
        yield Line([*name, *argument, *small], codes=codes - {2})
        for surroundings in HARD:
            yield Line([*name, *argument, *small], surroundings, codes)
    yield from map(Line, WHOLE)
    yield Line(LEAKING, codes=frozenset({1}))
    for surroundings, started in STARTED.items():
        yield from (Line(list(words), surroundings) for words in started.lines)


def run() -> int:
    """Parse, run the lines, say."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--values", type=int, default=2)
    parser.add_argument("--every", type=int, default=1)
    options = parser.parse_args()
    chosen = list(lines(options.values))[:: options.every]
    codes: collections.Counter[int] = collections.Counter()
    worst, wrong = [0.0, 0], 0
    with workplace() as folder:
        furnish(folder / "place")
        for line in chosen:
            place = folder / "now"
            shutil.copytree(folder / "place", place)
            furnish_odd(place)
            outcome = line.run(place)
            codes[outcome.code] += 1
            worst = [max(worst[0], outcome.seconds), max(worst[1], outcome.peak)]
            if (fault := line.fault(outcome)) is not None:
                wrong += 1
                print(f"  {line.surroundings} {' '.join(line.words)[-200:]!r}: {fault}", flush=True)
            shutil.rmtree(place)
    ends = ", ".join(f"{n} with {code}" for code, n in sorted(codes.items()))
    print(
        f"{len(chosen)} command lines: {ends}; the longest {worst[0]:.0f} s, the largest", end=" "
    )
    print(f"{worst[1] / 1e9:.2f} GB; {len(chosen) - wrong} right, {wrong} wrong")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(run())
