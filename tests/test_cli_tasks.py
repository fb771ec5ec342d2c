"""The command line on tasks: train, eval, data, compare with a grid of rates, and suites."""

import json
import re
from pathlib import Path

import pytest

from sympformer.cli import main
from sympformer.tasks import TASKS
from sympformer.train.engine import DivergenceError

SIZE = ["--n-layer", "1", "--n-head", "2", "--n-embd", "16", "--batch-size", "4"]
FAST = [*SIZE, "--steps", "4", "--warmup", "1", "--eval-every", "4", "--eval-blocks", "8"]
MQAR = ["--task", "mqar", "--task-set", "vocab_size=20", "train=[[12,2]]", "test=[[12,2],[20,4]]"]


def run(*arguments):
    """Exit code of a command, also where the parser ends the program."""
    try:
        return main([str(a) for a in arguments])
    except SystemExit as end:
        return end.code


def test_train_eval_resume(tmp_path, capsys):
    out = tmp_path / "run"
    alone = ["--set", "positions=none", "mlp=none"]
    assert run("train", "linear-gpt", *MQAR, *alone, *FAST, "--out", out) == 0
    said = capsys.readouterr().out
    assert "12x2: accuracy 0." in said
    assert "of 1.0000" in said
    config = (out / "config.toml").read_text()
    for line in ('task = "mqar"', "block_size = 20", "vocab_size = 20", 'positions = "none"'):
        assert line in config
    assert run("train", "--resume", out, "--steps", "6") == 0
    capsys.readouterr()
    assert run("eval", out) == 0
    tests = json.loads(capsys.readouterr().out)["tests"]
    summary = json.loads((out / "summary.json").read_text())
    assert tests == summary["tests"]
    assert run("eval", out, "--task-length", "20x3", "40x8", "--blocks", "3") == 0
    tests = json.loads(capsys.readouterr().out)["tests"]
    assert [(t["setting"], t["tokens"]) for t in tests] == [("20x3", 9), ("40x8", 24)]
    again = tmp_path / "again"
    assert run("train", "--config", out / "config.toml", "--out", again) == 0
    assert (again / "config.toml").read_text() == config


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--task", "mqar", "--text", "a.txt"], "text has no effect on task mqar"),
        (["--task", "mqarr"], "did you mean 'mqar'"),
        (["--task", "mqar", "--task-set", "pairs=3"], "unknown option"),
        (["--task", "mqar", "--task-set", "power"], "--task-set takes OPTION=VALUE"),
        (["--task-set", "power=1"], "options of a task need a task"),
        (["--task", "parity", "--block-size", "100"], "block_size 100 is smaller than the longest"),
        (["--task", "s3", "--vocab-size", "5"], "vocab_size 5 is smaller than that of task s3, 6"),
    ],
)
def test_what_makes_no_sense_is_one_line(arguments, says, tmp_path, capsys):
    assert run("train", "gpt", *arguments, *FAST, "--out", tmp_path / "o") == 2
    said = capsys.readouterr().err
    assert says in said
    assert said.count("\n") == 1
    assert not (tmp_path / "o").exists()


def test_other_lengths_are_refused_where_they_make_no_sense(tmp_path, capsys):
    learned = tmp_path / "learned"
    assert run("train", "gpt", *MQAR, *FAST, "--out", learned) == 0
    for length, says in (
        ("40x8", "learned positions for 20 tokens, not for 40"),
        ("40x", "LENGTH or LENGTHxLOAD"),
        ("20x9", "9 pairs need an even length"),
        ("20", "0 pairs need"),
    ):
        assert run("eval", learned, "--task-length", length) == 2
        assert says in capsys.readouterr().err
    text = tmp_path / "text"
    tiny = ["--train-tokens", "3000", "--valid-tokens", "400"]
    assert run("train", "gpt", *FAST, *tiny, "--block-size", "16", "--out", text) == 0
    assert run("eval", text, "--task-length", "20") == 2
    assert "this one is on text" in capsys.readouterr().err
    assert run("generate", learned) == 2
    assert "is no text" in capsys.readouterr().err


def test_data_shows_a_task(capsys):
    assert run("data", *MQAR) == 0
    shown = capsys.readouterr().out
    about = json.loads(shown[: shown.rindex("}") + 1])
    assert about["tests"] == ["12x2", "20x4"]
    assert about["vocab_size"] == 20
    rows = shown[shown.rindex("}") + 1 :].split("\n")[1:3]
    assert [len(row.split()) for row in rows] == [12, 12]
    assert rows[1].split().count(".") == 10


def test_a_task_of_one_s_own(tmp_path, capsys, monkeypatch):
    """The one of the page: trained, evaluated, recorded with its file."""
    monkeypatch.setattr("sympformer.tasks.table.TASKS", dict(TASKS))
    page = (Path(__file__).parents[1] / "docs" / "tasks.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    file, out = tmp_path / "largest.py", tmp_path / "o"
    file.write_text(code, encoding="utf-8")
    options = ["--import", file, "--task", "largest", "--task-set", "numbers=5"]
    assert run("train", "gpt", *options, *FAST, "--out", out) == 0
    assert "64: accuracy" in capsys.readouterr().out
    assert str(file) in (out / "config.toml").read_text()
    assert run("eval", out) == 0


def test_compare_takes_the_best_of_a_grid(tmp_path, capsys, monkeypatch):
    """A rate at which a model diverges is given up, also when the comparison goes on."""
    from sympformer.train.loop import Run

    whole = Run.update

    def update(self):
        if self.config.train.learning_rate == 0.5:
            raise DivergenceError("training diverged at step 0")
        return whole(self)

    monkeypatch.setattr(Run, "update", update)
    out = tmp_path / "o"
    options = [*MQAR, *FAST, "--presets", "gpt", "--seeds", "0", "1", "--out", out]
    rates = ["--learning-rates", "0.01", "0.001", "0.5"]
    assert run("compare", *options, *rates) == 0
    assert (out / "gpt-lr0.01-s0" / "summary.json").exists()
    assert (out / "gpt-lr0.5-s1" / "diverged.txt").exists()
    shown = (out / "accuracy.md").read_text()
    assert "the best of 0.001, 0.01, 0.5 by mean validation loss (diverged at 0.5)" in shown
    assert "optimum" in capsys.readouterr().out
    monkeypatch.setattr(Run, "update", None)  # there is nothing left to train
    assert run("compare", *options, *rates) == 0
    monkeypatch.setattr(Run, "update", update)
    lost = out / "gpt-lr0.5-s1"
    assert run("train", "--resume", lost, "--learning-rate", "0.01") == 0
    assert not (lost / "diverged.txt").exists()
    capsys.readouterr()
    assert run("report", out) == 0
    assert "20x4" in capsys.readouterr().out


def test_without_a_grid_a_divergence_ends_the_comparison(tmp_path, capsys, monkeypatch):
    from sympformer.train.loop import Run

    def update(self):
        raise DivergenceError("training diverged at step 0")

    monkeypatch.setattr(Run, "update", update)
    out = tmp_path / "o"
    assert run("compare", *MQAR, *FAST, "--presets", "gpt", "--out", out) == 2
    assert "diverged at step 0; go on" in capsys.readouterr().err


SUITE = """
presets = ["gpt", "linear-gpt"]
baseline = "gpt"
seeds = [0]
learning_rates = [1e-3, 1e-2]
[model]
n_layer = 1
n_head = 2
n_embd = 16
positions = "none"
[train]
steps = 2
batch_size = 4
warmup = 0
eval_blocks = 8
[task.parity]
options = { train = 8, test = [8, 16] }
[task.short]
task = "induction"
options = { train = [8], test = [8] }
learning_rates = [1e-2]
train = { steps = 3 }
model = { mlp = "none" }
"""


def test_a_suite(tmp_path, capsys):
    plan, out = tmp_path / "plan.toml", tmp_path / "o"
    plan.write_text(SUITE)
    assert run("compare", "--config", plan, "--out", out, "--only", "parity") == 0
    assert [p.name for p in out.iterdir() if p.is_dir()] == ["parity"]
    assert run("compare", "--config", plan, "--out", out) == 0
    short = (out / "short" / "gpt-s0" / "config.toml").read_text()
    for line in ('task = "induction"', "steps = 3", 'mlp = "none"', "block_size = 8"):
        assert line in short
    assert "steps = 2" in (out / "parity" / "gpt-lr0.001-s0" / "config.toml").read_text()
    assert (out / "parity" / "accuracy.png").stat().st_size > 0
    assert "| model | parity 16 | short 8 |" in (out / "suite.md").read_text()
    assert (out / "suite.png").stat().st_size > 0
    capsys.readouterr()
    assert run("compare", "--config", plan, "--out", out, "--only", "party") == 2
    assert "unknown task of this suite 'party': did you mean 'parity'" in capsys.readouterr().err
    assert run("compare", "--config", plan, "--out", out, "--task", "s5") == 2
    assert "a suite of tasks has no other data" in capsys.readouterr().err
    assert run("compare", *MQAR, "--only", "mqar") == 2
    assert "--only is for a suite" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('task = "induction"', 'task = "inducktion"', "did you mean 'induction'"),
        ("train = { steps = 3 }", "train = { stepz = 3 }", "did you mean 'steps'"),
        ("train = { steps = 3 }", "training = { steps = 3 }", "unknown option in task.short"),
        ("[1e-3, 1e-2]", "[1e-3, 1e-3]", "a learning rate stands twice"),
        ("[1e-3, 1e-2]", '["fast"]', "learning_rates must be a list, each a finite number"),
        ("[task.parity]", "[data]\ntext = 'a'\n[task.parity]", "no other data"),
        (
            "[task.parity]",
            "[variant.a]\npreset = 'gpt'\nlearning_rate = 1.0\n[task.parity]",
            "alike",
        ),
    ],
)
def test_a_suite_that_makes_no_sense_is_refused(old, new, says, tmp_path, capsys):
    plan = tmp_path / "plan.toml"
    assert old in SUITE
    plan.write_text(SUITE.replace(old, new))
    assert run("compare", "--config", plan, "--out", tmp_path / "o") == 2
    assert says in capsys.readouterr().err
    assert not (tmp_path / "o").exists()
