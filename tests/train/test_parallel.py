"""Several processes, really started: the same updates as one, one line, nothing lost."""

import json
import multiprocessing
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from functools import cache
from pathlib import Path

import pytest
import torch

from sympformer import InputError
from sympformer.cli import main
from sympformer.commands.data import prepare, prepare_once
from sympformer.data import packing
from sympformer.errors import Ended
from sympformer.train import DataConfig, load_model, parallel
from sympformer.train.batches import Share, share
from sympformer.train.folder import RunFolder
from sympformer.train.parallel import SINGLE, Ranks, current
from sympformer.train.spread import mode_of
from sympformer.train.tensors import read_about

sys.path.append(str(Path(__file__).parent))
import together

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(
    ["sympformer.commands", "tyro", "torch.distributed.fsdp", "torch.distributed.checkpoint"]
)
os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # of the processes that are started
LONG = os.environ.get("SYMPFORMER_FAULTS") == "long"
UPDATES = 50 if LONG else 3
NAMES = list(together.MODELS) if LONG else ["symp-r2", "linear-symp-h1", "looped, own scalars"]
FAST = [
    *("--n-layer", "1", "--n-head", "2", "--n-embd", "16", "--block-size", "32"),
    *("--train-tokens", "6000", "--valid-tokens", "2000", "--batch-size", "4"),
    *("--steps", "4", "--warmup", "2", "--eval-every", "2", "--eval-blocks", "8"),
]


class Together:
    """The same function or command line, started in processes that join, as torchrun does."""

    def __init__(self, folder, processes, run, *given):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        whole = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        whole |= {"WORLD_SIZE": str(processes), "SYMPFORMER_CACHE": os.environ["SYMPFORMER_CACHE"]}
        self.said, given = str(folder / f"said-{port}"), map(str, given)
        common = whole, self.said, run, *given
        self.children = [
            FORKS.Process(target=together.process, args=(rank, *common))
            for rank in range(processes)
        ]
        for child in self.children:
            child.start()

    def until(self, path):
        """Wait for a file."""
        while not path.exists():
            assert all(child.is_alive() for child in self.children), self.ended()
            time.sleep(0.05)

    def ended(self):
        """Exit codes, outputs, and lines on standard error that tell of something wrong."""
        until = time.monotonic() + (900 if LONG else 90)
        for child in self.children:
            child.join(max(0, until - time.monotonic()))
        codes = [child.exitcode for child in self.children]
        for child in self.children:
            child.kill()
        outputs, errors = (
            [Path(f"{self.said}.{rank}.{kind}").read_text() for rank in range(len(codes))]
            for kind in ("out", "err")
        )
        lines = [line for error in errors for line in error.splitlines()]
        return codes, outputs, [w for w in lines if w.startswith("sympformer:") or "Error" in w]


def train_line(out, *options):
    """What starts a run of a few updates."""
    return ["train", "symp-h0", "--out", out, *FAST, *options]


@pytest.fixture(scope="module", autouse=True)
def _cache(tmp_path_factory):
    before = dict(os.environ)
    os.environ["SYMPFORMER_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    yield
    os.environ.clear()
    os.environ |= before


@cache
def alone():
    return together.everything(SINGLE, UPDATES, *NAMES)


@pytest.mark.parametrize("processes", [2, 4] if LONG else [4])
def test_every_number_of_processes_makes_the_same_updates(processes, tmp_path):
    """Models, modes, accumulation, clipping, states that change hands, and what a pass gives."""
    out = tmp_path / "out"
    given = out, UPDATES, *NAMES
    codes, _, lines = Together(tmp_path, processes, together.write_everything, *given).ended()
    assert codes == [0] * processes, lines
    found, one, largest = json.loads(out.read_text()), alone(), {}
    assert found.pop("static graph") == pytest.approx(one["static graph"], rel=1e-12)
    assert len(found) == 6
    for what, values in found.items():
        expected = one[what.split(",")[0] + ", none"]
        if not isinstance(values, dict):
            values, expected = {"": values}, {"": expected}
        for name, rows in values.items():
            pairs = zip(flat(rows), flat(expected[name]), strict=True)
            largest[f"{what} {name}"] = max(abs(a - b) for a, b in pairs)
    print(json.dumps(largest, indent=1))  # what docs/training.md shows
    assert max(largest.values()) < 1e-10, largest


def flat(rows):
    return [v for row in rows for v in (row if isinstance(row, list) else [row])]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of two processes, and what they said."""
    folder = tmp_path_factory.mktemp("together")
    line = train_line(folder / "run")
    return folder / "run", Together(folder, 2, together.command, *line).ended()


def test_a_run_of_two_processes_is_a_run(trained, tmp_path):
    """One prints, one folder holds it, and its losses are those of a process alone."""
    run, (codes, outputs, lines) = trained
    assert (codes, lines, outputs[1]) == ([0, 0], [], "")
    assert "CAUSAL" in outputs[0]
    assert RunFolder(run).summary()["processes"] == 2
    assert main([str(word) for word in train_line(tmp_path / "one")]) == 0
    one, two = (RunFolder(path).metrics() for path in (tmp_path / "one", run))
    for a, b in zip(one, two, strict=True):
        assert a["tokens"] == b["tokens"]
        for name in {"loss", "valid_loss", "grad_norm"} & a.keys():
            assert a[name] == pytest.approx(b[name], rel=1e-5)


def test_what_is_wrong_is_said_once(trained, tmp_path):
    """By the first process alone, which others wait for; by the parser; by all of them alike."""
    run, _ = trained
    for options, words in (
        ([], "already holds a run"),
        (["--batch-size", "3"], "2 processes cannot share the 3 rows"),
        (["--steps", "-1"], "steps must be at least 1"),
        (["--parallel", "none"], "would train the same run in each"),
    ):
        codes, _, lines = Together(
            tmp_path, 2, together.command, *train_line(run, *options)
        ).ended()
        assert codes == [2, 2]
        assert len(lines) == 1
        assert words in lines[0]


def test_a_killed_process_ends_all_and_the_run_goes_on(tmp_path):
    run = tmp_path / "run"
    ranks = Together(tmp_path, 2, together.command, *train_line(run, "--steps", "100000"))
    ranks.until(run / "state.safetensors")
    ranks.children[1].kill()
    began = time.monotonic()
    codes, _, lines = ranks.ended()
    assert time.monotonic() - began < 30
    assert codes == [2, -signal.SIGKILL]
    assert len(lines) == 1
    assert "another process of this run has died" in lines[0]
    made = RunFolder(run).state()["step"]
    line = ["train", "--resume", run, "--steps", made + 2]
    codes, _, lines = Together(tmp_path, 2, together.command, *line).ended()
    assert (codes, lines) == ([0, 0], [])
    assert RunFolder(run).summary()["steps"] == made + 2


def test_a_signal_to_one_stops_all(tmp_path):
    run = tmp_path / "run"
    ranks = Together(tmp_path, 2, together.command, *train_line(run, "--steps", "100000"))
    ranks.until(run / "state.safetensors")
    ranks.children[1].terminate()
    codes, _, lines = ranks.ended()
    assert codes == [143, 143]
    assert len(lines) == 1
    assert "which is saved" in lines[0]


def test_torchrun_starts_it(tmp_path):
    """Its own line, whatever it adds to what the processes say."""
    words = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc-per-node=2",
        "-m",
        "sympformer",
    ]
    line = [*words, *map(str, train_line(tmp_path / "run"))]
    where = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(line, env=where, capture_output=True, text=True, timeout=90)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("CAUSAL") == 1


@pytest.mark.parametrize(
    ("batch_size", "accumulation", "processes", "shared"),
    [
        (16, 1, 1, (1, 1)),
        (16, 1, 4, (1, 4)),
        (6, 4, 2, (2, 1)),
        (6, 2, 4, (1, 2)),
    ],
)
def test_an_update_is_shared(batch_size, accumulation, processes, shared):
    own = share(batch_size, accumulation, processes)
    assert own == Share(*shared)
    rows = batch_size // own.parts * own.micro_batches
    assert rows * processes == batch_size * accumulation


def test_processes_that_do_not_divide_an_update_are_refused():
    with pytest.raises(InputError, match="5 processes cannot share the 12 rows"):
        share(6, 2, 5)


def test_modes_that_would_not_spread_are_refused(monkeypatch):
    assert mode_of("auto", SINGLE) == "none"
    assert mode_of("auto", Ranks(0, 2)) == "ddp"
    with pytest.raises(InputError, match="would train the same run in each"):
        mode_of("none", Ranks(0, 2))
    with pytest.raises(InputError, match="--parallel fsdp needs processes that have joined"):
        mode_of("fsdp", SINGLE)
    for name in ("RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputError, match="2 processes were started that have not joined"):
        current()
    with pytest.raises(InputError, match="compare in 2 processes would do the same in each"):
        parallel.require_one_process("compare", "use --shard")


def test_data_is_prepared_and_hashed_once(tmp_path, monkeypatch):
    """The second process loads what the first has made, wherever that lies for it."""
    data = DataConfig(train_tokens=3000, valid_tokens=400)
    first = prepare(data)
    second = Ranks(1, 2)
    monkeypatch.setattr(second, "told", lambda make: first.folder)
    monkeypatch.setattr(packing, "file_sha256", None)  # nothing is hashed
    found = prepare_once(data, second)
    assert found.digest == first.digest
    assert (found.train == first.train).all()
    monkeypatch.setattr(second, "told", lambda make: tmp_path / "elsewhere")
    with pytest.raises(InputError, match="is not on this machine: set SYMPFORMER_CACHE"):
        prepare_once(data, second)


def test_an_end_that_was_said_elsewhere_is_silent(capsys, monkeypatch):
    from sympformer import cli

    def fails(*_):
        raise Ended(143)

    monkeypatch.setattr(cli, "_run", fails)
    assert cli.main(["presets"]) == 143
    assert capsys.readouterr() == ("", "")


@pytest.fixture(scope="module")
def sharded(trained):
    """A run of two processes that share its tensors; two of its states are kept."""
    run = trained[0].parent / "sharded"
    line = train_line(run, "--parallel", "fsdp", "--keep-last", "2")
    codes, _, lines = Together(run.parent, 2, together.command, *line).ended()
    assert (codes, lines) == ([0, 0], [])
    return run


def test_a_sharded_run_is_read_by_one_process(sharded, trained, tmp_path, capsys):
    assert len(list(sharded.glob("shards-*/shard-0000[12]-*.safetensors"))) == 2 * 2
    assert not (sharded / "model.safetensors").exists()
    whole = tmp_path / "whole.safetensors"
    assert main(["export-weights", str(sharded), str(whole)]) == 0
    assert "of step 4" in capsys.readouterr().out
    one, other = load_model(whole), load_model(trained[0])
    for a, b in zip(one.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)
    assert main(["export-weights", str(sharded), str(whole)]) == 2
    assert "exists already" in capsys.readouterr().err
    earlier = load_model(sharded / "state-00000002.safetensors")
    assert not torch.equal(next(earlier.parameters()), next(one.parameters()))


def test_a_sharded_run_goes_on_in_one_process(sharded, tmp_path):
    """Folders of shards that no state is of are deleted; the last two states stay."""
    run = shutil.copytree(sharded, tmp_path / "run")
    (run / "shards-of-a-killed-process").mkdir()
    assert main(["train", "--resume", str(run), "--steps", "6", "--parallel", "none"]) == 0
    assert len(list(run.glob("shards-*"))) == 1  # of step 4
    states = sorted(path.name for path in run.glob("state-*"))
    assert states == ["state-00000004.safetensors", "state-00000006.safetensors"]
    assert RunFolder(run).summary()["steps"] == 6
    assert (run / "model.safetensors").exists()


def test_damaged_shards_are_refused(sharded, tmp_path, capsys):
    run = shutil.copytree(sharded, tmp_path / "run")
    folder = run / read_about(run / "state.safetensors")["shards"]["folder"]
    file = min(folder.iterdir())
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    assert main(["export-weights", str(run), str(tmp_path / "w.safetensors")]) == 2
    assert "is damaged" in capsys.readouterr().err
    file.unlink()
    assert main(["generate", str(run)]) == 2
    assert "does not exist, but state.safetensors is of it" in capsys.readouterr().err
