"""Folders full of odd files, and hard surroundings for commands."""

import lzma
import os
import resource
import shutil
import socket
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from apart import Outcome, apart, limited, output_to, without_reader, without_streams
from harness import OPTIONS, compare, fork, quietly, train

SOURCE = Path(__file__).parents[2] / "src"
FILES = {
    "raises.py": "def f():\n    raise KeyError('x\\ny')\nraise ValueError('two\\nlines')\n",
    "exits.py": "import sys\nsys.exit(7)\n",
    "net.py": "import torch\nf = lambda ids: torch.zeros(*ids.shape, 9)\ng = 3\n",
    "no.toml": "steps = = 1\n",
    "odd.toml": "a = " + "[" * 5000 + "]" * 5000 + "\n",
    "text": "".join(f"Cat {i} saw dog {i * i}.\n<|endoftext|>\n" for i in range(400)),
    "a.parquet": "PAR1 and so on",
    "deep/a/b": "nothing to read here",
}
"""Files that every command line finds beside it, by name."""


def furnish(place: Path) -> None:
    """Make a run, a comparison and odd files, once."""
    place.mkdir()
    assert fork(lambda: quietly(*train(place / "run"))) == 0
    assert fork(lambda: quietly(*compare(place / "compared"))) == 0
    shutil.copyfile(place / "run/config.toml", place / "run.toml")
    for name, content in FILES.items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_text(content, encoding="utf-8")
    (place / "latin1.txt").write_bytes("é\n".encode("latin-1") * 500)
    with lzma.open(place / "bomb.xz", "wb") as bomb:
        for _ in range(300):
            bomb.write(bytes(1 << 20))
    (place / "empty").mkdir()


def furnish_odd(place: Path) -> None:
    """Make what cannot be copied."""
    os.mkfifo(place / "fifo")
    with socket.socket(socket.AF_UNIX) as bound:
        before = os.getcwd()
        os.chdir(place)  # the name of a socket is short
        bound.bind("socket")
        os.chdir(before)
    (place / "closed").mkdir(mode=0)


def full(place: str = "/dev/full") -> Callable[[], None]:
    """A disk that is full behind the output and the errors."""
    return output_to(place, numbers=(1, 2))


def unwritable() -> None:
    """A folder that is gone."""
    folder = Path("gone").absolute()
    folder.mkdir()
    os.chdir(folder)
    folder.rmdir()


def no_cache() -> None:
    """A cache that is a file."""
    os.environ["SYMPFORMER_CACHE"] = "/dev/null"


HARD: dict[str, Callable[[], None]] = {
    "the output is full": output_to("/dev/full"),
    "all output is full": full(),
    "an ASCII output": output_to("/dev/null", "ascii"),
    "closed streams": without_streams,
    "nobody reads": without_reader,
    "no folder": unwritable,
    "files of 1 kB": limited(resource.RLIMIT_FSIZE, 1000),
    "files of 10 kB": limited(resource.RLIMIT_FSIZE, 10_000),
    "ten open files": limited(resource.RLIMIT_NOFILE, 10),
    "a cache that is a file": no_cache,
}
"""What a fork can be put into, by name."""


@dataclass(frozen=True)
class Started:
    """Surroundings that a process has to be started in: `environment` is all it has."""

    environment: Mapping[str, str] = field(default_factory=dict)
    memory: int = 0
    lines: tuple[tuple[str, ...], ...] = (
        ("presets",),
        ("train", "gpt", "--out", "ünï", *OPTIONS),
        ("eval", "missing→"),
        ("data", "--text", "text", "--tokenizer", "byte"),
    )

    def run(self, words: list[str], folder: Path) -> Outcome:
        """Start a command anew."""
        program = [sys.executable, "-m", "sympformer"]
        kept = {"PYTHONPATH": str(SOURCE), "OMP_NUM_THREADS": "1", **self.environment}

        def enter() -> None:
            os.chdir(folder)
            if self.memory:
                limited(resource.RLIMIT_AS, self.memory)()

        return apart([*program, *words], enter, environment=kept)


STARTED: dict[str, Started] = {
    "the POSIX locale": Started({"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0"}),
    "ASCII and no UTF-8 mode": Started(
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    ),
    "an unknown locale": Started({"LC_ALL": "xx_YY.nothing"}),
    "latin-1 streams": Started({"PYTHONIOENCODING": "latin-1:strict"}),
    "no HOME": Started({"HOME": ""}),
    "a HOME that is not there": Started({"HOME": "/nowhere/at/all"}),
    "TMPDIR not there": Started({"TMPDIR": "/nowhere"}),
    "optimised Python": Started({"PYTHONOPTIMIZE": "2"}),
    **{
        f"{size} MB": Started(memory=size * 10**6, lines=(("presets",), ("train", "--help")))
        for size in (60, 150, 400, 800, 1500, 3000)
    },
}
"""What a process is started in, by name."""
