import io
import json
import re

import pytest
from rich.console import Console

from sympformer.study import RunResult, comparison_table
from sympformer.study.table import comparison_json
from sympformer.table import Table


@pytest.fixture
def runs(write_run) -> list[RunResult]:
    finals = {("gpt", 0): 2.5, ("gpt", 1): 2.6, ("a_b", 0): 2.2, ("a_b", 1): 2.1}
    return [RunResult.load(write_run(*k, v)) for k, v in finals.items()]


@pytest.fixture
def two_seeds(runs) -> Table:
    return comparison_table(runs, "gpt")


def cells(table: Table, row: int) -> dict[str, str]:
    return dict(zip(table.columns, table.rows[row], strict=True))


def test_a_row_reads_as_in_a_paper(two_seeds: Table):
    assert cells(two_seeds, 1) == {
        "model": "a_b",
        "params": "1.23M",
        "final loss": "2.1500 ± 0.6353",
        "best loss": "2.1500 ± 0.6353",
        "vs gpt": "-0.4000 ± 1.2706",
        "above floor": "+0.6500",
        "steps to gpt": "86",
        "tokens/s": "10,240 (1.00x)",
        "audit": "passed",
    }
    assert cells(two_seeds, 0)["vs gpt"] == "-"
    assert not two_seeds.marked


def test_the_caption_has_all_that_is_needed_to_repeat_it(two_seeds: Table):
    for fact in ("fables", "100 steps of 2,048 tokens", "seeds 0, 1", "a CPU, 1 thread", "abc1234"):
        assert fact in two_seeds.caption
    assert "`sympformer compare --seeds 0 1`" in two_seeds.caption


def test_one_seed_has_no_spread_and_says_so(write_run):
    runs = [RunResult.load(write_run(name, floor=None)) for name in ("gpt", "gpt-untied")]
    table = comparison_table(runs, "gpt")
    assert cells(table, 1)["final loss"] == "2.0000"
    assert cells(table, 1)["vs gpt"] == "+0.0000"
    assert cells(table, 0)["vs gpt-untied"] == "+0.0000"
    assert cells(table, 0)["above floor"] == "-"
    assert any(note.startswith("One seed") for note in table.notes)


def test_seeds_that_cannot_be_paired_are_told(write_run):
    keys = [("gpt", 0), ("gpt", 1), ("gpt", 2), ("near", 1), ("near", 2), ("near", 3), ("far", 9)]
    table = comparison_table([RunResult.load(write_run(*key)) for key in keys], "gpt")
    notes = " ".join(table.notes)
    assert "near is compared with gpt on seeds 1, 2 only." in notes
    assert "far and gpt have no seed in common" in notes
    assert "far ran with seed 9 only." in notes
    row = next(i for i, cell in enumerate(table.rows) if cell[0] == "far")
    assert cells(table, row)["vs gpt"] == "-"
    assert cells(table, row)["steps to gpt"] == "-"


def test_a_target_that_is_never_reached_is_told(write_run):
    runs = [RunResult.load(write_run("gpt")), RunResult.load(write_run("slow", final=2.5))]
    table = comparison_table(runs, "gpt")
    assert cells(table, 1)["steps to gpt"] == "never"
    assert any(note.startswith("never: ") for note in table.notes)


def test_runs_under_other_conditions_are_told(write_run):
    runs = [RunResult.load(write_run("gpt")), RunResult.load(write_run("a", corpus="tales"))]
    table = comparison_table(runs, "gpt")
    assert "The runs differ in data, so their losses cannot be compared." in table.notes
    assert "fables | tales" in table.caption


def test_a_leak_is_marked_in_every_form(write_run, audits):
    runs = [
        RunResult.load(write_run("gpt")),
        RunResult.load(write_run("cheat", audit=audits["leak"])),
        RunResult.load(write_run("seer", causality="joint")),
        RunResult.load(write_run("stale", audit=audits["wrong cache"])),
    ]
    table = comparison_table(runs, "gpt")
    assert table.marked == {1, 2, 3}
    assert {row[0]: row[-1] for row in table.rows} == {
        "gpt": "passed",
        "cheat †": "LEAKS",
        "seer †": "LEAKS",
        "stale †": "FAILED",
    }
    assert re.search(r"\| cheat † .*\| LEAKS \|", table.markdown())
    assert re.search(r"cheat \\dag\{\} .*& LEAKS", table.latex())
    content = json.loads(comparison_json(runs, "gpt"))["presets"]
    assert {entry["preset"]: entry["leaks"] for entry in content} == {
        "gpt": False,
        "cheat": True,
        "seer": True,
        "stale": False,
    }
    console = Console(width=200, record=True, force_terminal=True, file=io.StringIO())
    console.print(table.rich())
    assert "LEAKS" in console.export_text()
    for preset in ("cheat", "seer", "stale"):
        assert any(note.startswith(f"† {preset} is no sound decoder: ") for note in table.notes)


def test_json_keeps_full_precision(runs, two_seeds: Table):
    content = json.loads(comparison_json(runs, "gpt"))
    assert (content["caption"], tuple(content["notes"])) == (two_seeds.caption, two_seeds.notes)
    gpt, other = content["presets"]
    assert gpt["differences"] == {}
    assert other["differences"]["gpt"]["mean"] == pytest.approx(-0.4, abs=1e-12)
    assert 0 < other["differences"]["gpt"]["p"] < 1
    assert other["seeds"] == [0, 1]
