"""What the scripts of this folder share: commands in processes that may die, and what they leave.

Every command runs in a fork of this process, which has imported what it needs: hundreds of them are
a matter of minutes.
"""

import contextlib
import io
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"
sys.path.insert(0, str(Path(__file__).parents[2] / "src"))

import matplotlib.figure  # noqa: F401 - before the forks
import torch
import tyro  # noqa: F401

import sympformer.study  # noqa: F401
from sympformer import machine
from sympformer.cli import main
from sympformer.train import tensors
from sympformer.train.shards import read_state

machine.commit = lambda: "unknown"  # the tree may be edited while a script runs
OPTIONS = [
    *("--n-layer", "1", "--n-embd", "8", "--n-head", "1", "--block-size", "16"),
    *("--train-tokens", "3000", "--valid-tokens", "400", "--batch-size", "2"),
    *("--steps", "4", "--warmup", "1", "--eval-every", "2", "--eval-blocks", "4"),
]
TIMES = {"seconds", "tokens_per_second", "command", "commit", "metrics", "sha256"}
"""What differs between equal runs; the digests are of files that hold times."""


def fork(block: Callable[[], int], wait: bool = True) -> int:
    """Run a function in a process of its own; return its exit code, or its id if not waited for."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) if wait else child
    code = 1
    try:
        code = block()
    finally:
        os._exit(code)


def command(*arguments: object) -> tuple[int, str, str]:
    """A command in this process: exit code, output and errors; a traceback is code 1."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main([str(a) for a in arguments])
        except Exception as error:
            code = 1
            err.write(f"Traceback: {type(error).__name__}: {error}")
    return code, out.getvalue(), err.getvalue()


def quietly(*arguments: object) -> int:
    """The exit code of a command; what it says on failing is shown."""
    code, _, err = command(*arguments)
    if code:
        print(f"  {' '.join(map(str, arguments))[:60]} ...: exit {code}: {err[-300:]}")
    return code


def train(run: Path) -> list[object]:
    """The command that makes, or goes on with, a training run."""
    if (run / "config.toml").exists():
        return ["train", "--resume", run]
    return ["train", "symp-h0", "--out", run, *OPTIONS]


def compare(folder: Path) -> list[object]:
    """The command that makes, or goes on with, a comparison of two runs."""
    return ["compare", "--presets", "gpt", "symp-h0", "--out", folder, *OPTIONS]


COMMANDS = {"train": train, "compare": compare}


def differences(one: Path, other: Path) -> list[str]:
    """In what two finished runs, or comparisons, differ apart from times."""
    if not (one / "config.toml").exists():
        runs = sorted(path.parent.name for path in one.glob("*/config.toml"))
        found = [f"{r}: {d}" for r in runs for d in differences(one / r, other / r)]
        return found + ([] if (other / "table.md").exists() else ["no table"])
    found = []
    for name in ("state.safetensors", "best.safetensors", "model.safetensors"):
        if name.startswith("model") and any(one.glob("shards-*")):
            continue  # no file holds the weights of a sharded run alone
        a, b = (read_state(run / name)[0] for run in (one, other))
        if a.keys() != b.keys() or not all(torch.equal(a[n], b[n]) for n in a):
            found.append(name)
    metrics, summary = ([read(run) for run in (one, other)] for read in (_metrics, _summary))
    if metrics[0] != metrics[1]:
        found.append("metrics.jsonl")
    if summary[0] != summary[1]:
        found.append("summary.json")
    left = _names(other) - _names(one)
    return found + [f"left over: {name}" for name in sorted(left)]


def _names(run: Path) -> set[str]:
    """What lies in a run folder; folders of shards have names that are drawn, and are counted."""
    names = sorted(path.name for path in run.iterdir() if not path.name.startswith("shards-"))
    shards = len(list(run.glob("shards-*")))
    return {*names, *(f"shards {number}" for number in range(shards))}


def _metrics(run: Path) -> list[dict[str, object]]:
    rows = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [{k: v for k, v in row.items() if k not in TIMES} for row in rows]


def _summary(run: Path) -> dict[str, object]:
    summary = json.loads((run / "summary.json").read_text())
    if any(run.glob("shards-*")):
        del summary["weights"]  # the digest of files, among which replicated tensors are dealt
    return {k: v for k, v in summary.items() if k not in TIMES}


DELETIONS = {"os.remove", "os.rmdir", "os.truncate"}
WATCHED = {"os.rename", "os.mkdir", "os.link"} | DELETIONS


def watch(root: Path, meet: Callable[..., None], deletions: bool = True) -> None:
    """Call `meet` before every file operation below a folder; it may raise an OSError.

    An operation is an open for writing, a rename, a link, a deletion, a new folder, a sync, or the
    writing of a tensor file, which is not Python's: `meet` is called before it, and afterwards with
    its path. It holds as long as the process: for forks.
    """
    busy, events = [False], WATCHED if deletions else WATCHED - DELETIONS

    def once(*written: Path) -> None:
        if busy[0]:
            return
        busy[0] = True
        try:
            meet(*written)
        finally:
            busy[0] = False

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        if busy[0] or not (event == "open" or event in events):
            return
        if not str(arguments[0]).startswith(str(root)):
            return
        flags = arguments[2] if event == "open" else os.O_WRONLY
        if isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            once()

    sync, save = os.fsync, tensors.save_file

    def fsync(handle: int) -> None:
        once()
        sync(handle)

    def save_file(values: object, path: Path, metadata: object) -> None:
        once()
        save(values, path, metadata)
        once(path)

    os.fsync, tensors.save_file = fsync, save_file
    sys.addaudithook(hook)


@contextlib.contextmanager
def workplace():
    """A folder for runs, with a cache of its own that holds the text; both go."""
    # In memory where there is such a place: files are synced hundreds of times.
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    folder = Path(tempfile.mkdtemp(prefix="faults-", dir=memory))
    os.environ["SYMPFORMER_CACHE"] = str(folder / "cache")
    # Packs the text, and imports here what every fork would import again.
    assert quietly(*compare(folder / "first")) == 0
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
