from pathlib import Path

import pytest

from sympformer.errors import InputError
from sympformer.study import RunResult, load_results


def test_a_run_is_read_back(write_run):
    run = RunResult.load(write_run("gpt", seed=3, final=2.25))
    assert (run.preset, run.seed, run.final_loss, run.floor) == ("gpt", 3, 2.25, 1.5)
    assert run.machine == "a CPU, 1 thread"
    assert run.command == "sympformer compare --seeds 0 1"
    assert run.curve.step.tolist() == list(range(10, 101, 10))
    assert run.curve.seconds[-1] == 20
    assert run.curve.loss[-1] == pytest.approx(2.25)
    assert run.fault is None
    assert not run.leaks


def test_a_failed_audit_is_a_fault(write_run, audits):
    leak = RunResult.load(write_run("a", audit=audits["leak"]))
    cache = RunResult.load(write_run("b", audit=audits["wrong cache"]))
    assert leak.leaks
    assert leak.fault == "LEAK: output 3 moves"
    assert not cache.leaks
    assert cache.fault == "WRONG CACHE: output 3"


def test_joint_causality_leaks_whatever_the_audit_said(write_run):
    run = RunResult.load(write_run("a", causality="joint"))
    assert run.leaks
    assert run.fault
    assert "joint" in run.fault


def test_a_loss_below_the_floor_proves_a_leak_whatever_the_audit_said(write_run):
    assert RunResult.load(write_run("a", best_loss=1.497)).fault is None
    assert RunResult.load(write_run("b", best_loss=0.1, floor=None)).fault is None
    run = RunResult.load(write_run("c", best_loss=1.49))
    assert run.leaks
    assert run.fault
    assert "proves a leak" in run.fault


def test_a_folder_of_runs_is_loaded_in_order_of_name(write_run, tmp_path: Path):
    for name in ("yurii", "gpt"):
        write_run(name)
    (tmp_path / "notes").mkdir()
    assert [run.preset for run in load_results(tmp_path)] == ["gpt", "yurii"]
    assert [run.preset for run in load_results(tmp_path / "gpt-s0")] == ["gpt"]
    assert [run.preset for run in load_results([tmp_path / "yurii-s0"])] == ["yurii"]


def test_unfinished_runs_are_left_out_with_a_warning(write_run, tmp_path: Path):
    write_run("gpt")
    (write_run("yurii") / "summary.json").unlink()
    with pytest.warns(UserWarning, match="yurii-s0 is not finished"):
        assert [run.preset for run in load_results(tmp_path)] == ["gpt"]


def test_an_unfinished_run_that_was_asked_for_is_refused(write_run):
    folder = write_run("gpt")
    (folder / "summary.json").unlink()
    with pytest.raises(InputError, match="train --resume"):
        load_results([folder])


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("summary.json", "{"),
        ("summary.json", "[]"),
        ("summary.json", '{"preset": "gpt"}'),
        ("metrics.jsonl", '{"event": "ev'),
        ("metrics.jsonl", '{"event": "train", "step": 1}\n'),
        ("metrics.jsonl", '{"event": "eval", "step": 1}\n'),
    ],
)
def test_a_corrupt_run_is_refused_by_name(write_run, file: str, content: str):
    folder = write_run("gpt")
    (folder / file).write_text(content)
    with pytest.raises(InputError, match="gpt-s0 is corrupt"):
        RunResult.load(folder)


def test_what_is_no_run_is_refused(tmp_path: Path):
    with pytest.raises(InputError, match="is no run folder"):
        RunResult.load(tmp_path)
    with pytest.raises(InputError, match=r"holds no finished run: .* --html FILE"):
        load_results(tmp_path)
    with pytest.raises(InputError, match="is no folder"):
        load_results(tmp_path / "absent")


def test_two_runs_of_one_preset_and_seed_are_refused(write_run, tmp_path: Path):
    first = write_run("gpt")
    first.rename(tmp_path / "copy")
    write_run("gpt")
    with pytest.raises(InputError, match="both gpt with seed 0"):
        load_results(tmp_path)
