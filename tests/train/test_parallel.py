"""Several processes, really started: the same updates as one, one line, nothing lost."""

import json
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
from sympformer.errors import Ended
from sympformer.train import load_model, parallel
from sympformer.train.batches import Share, share
from sympformer.train.folder import RunFolder
from sympformer.train.parallel import SINGLE, Ranks, current, mode_of
from sympformer.train.tensors import read_about

sys.path.append(str(Path(__file__).parent))
from together import MODELS, everything

LONG = os.environ.get("SYMPFORMER_FAULTS") == "long"
UPDATES = 50 if LONG else 3
NAMES = list(MODELS) if LONG else ["symp-r2", "linear-symp-h1", "looped, own scalars"]
FAST = [
    *("--n-layer", "1", "--n-head", "2", "--n-embd", "16", "--block-size", "32"),
    *("--train-tokens", "6000", "--valid-tokens", "2000", "--batch-size", "4"),
    *("--steps", "4", "--warmup", "2", "--eval-every", "2", "--eval-blocks", "8"),
]


def start(processes, *words, cache=None, **options):
    """Start the same line in processes that join, as torchrun does."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    whole = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    whole |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(processes)}
    whole |= {"TORCH_CPP_LOG_LEVEL": "ERROR", "SYMPFORMER_CACHE": str(cache)}
    return [
        subprocess.Popen(
            [sys.executable, *map(str, words)],
            env={**whole, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            **options,
        )
        for rank in range(processes)
    ]


def ended(children):
    """Exit codes, outputs and lines on standard error that are ours."""
    said = [child.communicate(timeout=90) for child in children]
    lines = [line for _, error in said for line in error.splitlines()]
    return (
        [child.returncode for child in children],
        [out for out, _ in said],
        [line for line in lines if line.startswith("sympformer:") or "Error" in line],
    )


@cache
def alone():
    return everything(SINGLE, UPDATES, *NAMES)


@pytest.mark.parametrize("processes", [2, 4] if LONG else [4])
def test_every_number_of_processes_makes_the_same_updates(processes, tmp_path):
    """Models, modes, accumulation, clipping, states that change hands, and what a pass gives."""
    worker, out = Path(__file__).with_name("together.py"), tmp_path / "out"
    codes, _, lines = ended(start(processes, worker, out, UPDATES, *NAMES))
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
    words = ["-m", "sympformer", "train", "symp-h0", "--out", folder / "run", *FAST]
    return folder / "run", ended(start(2, *words, cache=folder / "cache"))


def test_a_run_of_two_processes_is_a_run(trained, tmp_path):
    """One prints, one folder holds it, and one process goes on with it."""
    run, (codes, outputs, lines) = trained
    assert (codes, lines, outputs[1]) == ([0, 0], [], "")
    assert "CAUSAL" in outputs[0]
    assert RunFolder(run).summary()["processes"] == 2
    words = ["-m", "sympformer", "train", "symp-h0", "--out", tmp_path / "one", *FAST]
    codes, _, lines = ended(start(1, *words, cache=run.parent / "cache"))
    assert (codes, lines) == ([0], [])
    one, two = (RunFolder(path).metrics() for path in (tmp_path / "one", run))
    for a, b in zip(one, two, strict=True):
        assert a["tokens"] == b["tokens"]
        for name in {"loss", "valid_loss", "grad_norm"} & a.keys():
            assert a[name] == pytest.approx(b[name], rel=1e-5)


def test_what_is_wrong_is_said_once(trained):
    """By the first process alone, which others wait for; and by all of them alike."""
    run, _ = trained
    line = ["-m", "sympformer", "train", "symp-h0", "--out", run, *FAST]
    codes, _, lines = ended(start(2, *line, cache=run.parent / "cache"))
    assert codes == [2, 2]
    assert len(lines) == 1
    assert "already holds a run" in lines[0]
    codes, _, lines = ended(start(2, *line, "--batch-size", "3"))
    assert codes == [2, 2]
    assert len(lines) == 1
    assert "2 processes cannot share the 3 rows" in lines[0]


def test_a_killed_process_ends_all_and_the_run_goes_on(trained, tmp_path):
    run = tmp_path / "run"
    long = ["-m", "sympformer", "train", "symp-h0", "--out", run, *FAST, "--steps", "100000"]
    children = start(2, *long, cache=trained[0].parent / "cache")
    while not (run / "state.safetensors").exists():
        assert children[0].poll() is None
        time.sleep(0.05)
    children[1].kill()
    began = time.monotonic()
    codes, _, lines = ended(children)
    assert time.monotonic() - began < 30
    assert codes == [2, -signal.SIGKILL]
    assert len(lines) == 1
    assert "another process of this run has died" in lines[0]
    made = RunFolder(run).state()["step"]
    goes_on = ["-m", "sympformer", "train", "--resume", run, "--steps", made + 2]
    children = start(2, *goes_on, cache=trained[0].parent / "cache")
    codes, _, lines = ended(children)
    assert (codes, lines) == ([0, 0], [])
    assert RunFolder(run).summary()["steps"] == made + 2


def test_a_signal_to_one_stops_all(trained, tmp_path):
    run = tmp_path / "run"
    long = ["-m", "sympformer", "train", "symp-h0", "--out", run, *FAST, "--steps", "100000"]
    children = start(2, *long, cache=trained[0].parent / "cache")
    while not (run / "state.safetensors").exists():
        assert children[0].poll() is None
        time.sleep(0.05)
    children[1].terminate()
    codes, _, lines = ended(children)
    assert codes == [143, 143]
    assert len(lines) == 1
    assert "which is saved" in lines[0]


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
    options = [*FAST, "--parallel", "fsdp", "--keep-last", "2"]
    line = ["-m", "sympformer", "train", "symp-h0", "--out", run, *options]
    codes, _, lines = ended(start(2, *line, cache=run.parent / "cache"))
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


def test_a_sharded_run_goes_on_in_one_process(sharded, trained, tmp_path, monkeypatch):
    """Folders of shards that no state is of are deleted; the last two states stay."""
    monkeypatch.setenv("SYMPFORMER_CACHE", str(trained[0].parent / "cache"))
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
