"""The targets file of the repository, and how it is judged."""

import importlib.util
import sys
from pathlib import Path

import pytest

from sympformer.bench import BenchReport, BenchResult
from sympformer.bench.targets import load_targets, target_dicts, target_table
from sympformer.errors import InputError

ROOT = Path(__file__).parents[2]
OPTIONS = "options = { n_layer = 1, n_head = 2, n_embd = 16, vocab_size = 37, batch_size = 2 }"
FILE = f"""
[one]
title = "tiny"
{OPTIONS}
also = [{{ model = "gpt", length = 16 }}]
[[one.target]]
of = {{ model = "symp-h0", length = 16 }}
over = {{ model = "plain-gpt", length = 16 }}
at_most = 2.5
[[one.target]]
of = {{ model = "symp-h0", length = 16 }}
at_least = 0.9
[two]
title = "tiny"
measure = "memory"
{OPTIONS}
[[two.target]]
of = {{ model = "gpt", length = 8 }}
over = {{ model = "plain-gpt", length = 8 }}
at_most = 1.2
"""


@pytest.fixture
def groups(tmp_path):
    path = tmp_path / "targets.toml"
    path.write_text(FILE)
    return load_targets(path)


def test_the_shipped_targets_are_sound():
    groups = load_targets(ROOT / "benchmarks" / "targets.toml")
    assert sum(len(group.targets) for group in groups) >= 20
    assert len({group.name for group in groups}) == len(groups)
    for group in groups:
        assert group.targets
        for target in group.targets:
            assert {target.of, target.over} - {None} <= set(group.cases)


def judged(groups, memory: BenchResult) -> list[dict]:
    one, two = groups
    seconds = {"plain-gpt": (1.0, 1.0, 1.0), "symp-h0": (2.0, 2.0, 3.0), "gpt": (4.0,) * 3}
    times = [BenchResult(c, one.name, 32, 1.6e9, 10, seconds[c.model]) for c in one.cases]
    plain = next(c for c in two.cases if c.model == "plain-gpt")
    other = BenchResult(plain, two.name, 16, 0.0, 10, whole=200, increment=100)
    machine = {"device": "m", "threads": 1, "load": None}
    machine |= dict.fromkeys(("torch", "commit", "date", "command"), "x")
    report = BenchReport(machine, {"cpu float32": 1e9}, (*times, memory, other))
    assert target_table(groups, report).markdown().count("\n| tiny") == 3
    return target_dicts(groups, report)


def memory(groups, whole: int, increment: int) -> BenchResult:
    case = next(c for c in groups[1].cases if c.model == "gpt")
    return BenchResult(case, "two", 16, 0.0, 10, whole=whole, increment=increment)


def test_limits_are_judged(groups):
    met, share, bytes_ = judged(groups, memory(groups, 210, 110))
    assert (met["measured"], met["met"], met["over gpt"]) == (
        "2.00 (2.00–2.50)",
        "yes",
        "0.50 (0.50–0.62)",
    )
    assert (met["operations"], share["operations"], bytes_["operations"]) == ("1.00", "-", "-")
    assert (share["over"], share["target"], share["met"]) == ("matmul peak", "≥ 0.9", "no")
    assert (bytes_["measured"], bytes_["met"]) == ("1.10 (1.05–1.10)", "yes")


def test_memory_must_meet_the_limit_twice(groups):
    assert judged(groups, memory(groups, 260, 110))[2]["met"] == "no"
    assert judged(groups, memory(groups, 210, 130))[2]["met"] == "no"


def test_what_did_not_run_is_said(groups):
    failed = memory(groups, 0, 0)
    assert judged(groups, failed)[2]["met"] == "out of memory"
    empty = BenchReport(
        {
            **dict.fromkeys(("device", "torch", "commit", "date", "command"), "x"),
            "threads": 2,
            "load": 1.0,
        },
        {},
        (),
    )
    assert {row["met"] for row in target_dicts(groups, empty)} == {"not run"}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (("at_most = 2.5", "at_mots = 2.5"), "did you mean 'at_most'"),
        (("at_most = 2.5", "at_most = 2.5\nat_least = 1"), "one of at_most and at_least"),
        (("at_most = 2.5", 'at_most = "2.5"'), "at_most must be a finite number"),
        (("at_most = 2.5", "at_most = nan"), "at_most must be a finite number"),
        (('of = { model = "symp-h0", length = 16 }', "of = 3"), "of must be a table"),
        (('of = { model = "symp-h0"', 'of = { compile = "no", model = "gpt"'), "compile must be"),
        (("n_layer = 1", "n_layer = 1.0"), "n_layer must be a whole number"),
        (('title = "tiny"', "title = 3"), "title must be text"),
        (('model = "symp-h0"', 'model = "symp-h9"'), "did you mean"),
        (("batch_size = 2", "batch = 2"), "batch_size"),
        (("title", "name"), "unknown option"),
        (
            (
                'over = { model = "plain-gpt", length = 16 }',
                'over = { model = "gpt", measure = "memory" }',
            ),
            "side by side",
        ),
        (("[one]", "[one"), "no file of targets"),
    ],
)
def test_a_bad_file_is_refused(change, says, tmp_path):
    assert change[0] in FILE
    path = tmp_path / "targets.toml"
    path.write_text(FILE.replace(*change))
    with pytest.raises(InputError, match=says):
        load_targets(path)
    with pytest.raises(InputError, match="does not exist"):
        load_targets(tmp_path / "none.toml")


def test_the_command(tmp_path, capsys):
    spec = importlib.util.spec_from_file_location("targets", ROOT / "benchmarks" / "targets.py")
    command = importlib.util.module_from_spec(spec)
    sys.modules["targets"] = command  # its dataclass looks its module up
    spec.loader.exec_module(command)
    path, out = tmp_path / "targets.toml", tmp_path / "out"
    path.write_text(FILE)
    command.run(command.Options(("one",), rounds=1, threads=1, targets=path, out=out))
    assert "symp-h0: step, T 16" in capsys.readouterr().out
    (stored,) = out.glob("*.json")
    before = stored.with_suffix(".md").read_text()
    assert "MFLOP/token" in before
    command.run(command.Options(("one",), targets=path, redraw=stored))
    assert stored.with_suffix(".md").read_text() == before
    for wrong, says in (
        ({"only": ("onne",)}, "did you mean 'one'"),
        ({"rounds": 0}, "rounds"),
        ({"redraw": tmp_path / "none.json"}, "does not exist"),
    ):
        with pytest.raises(InputError, match=says):
            command.run(command.Options(**{"targets": path, "out": out, **wrong}))
