"""Runs on tasks: the best learning rate, accuracy beside the optimum, memory, and pictures."""

import json
import re

import pytest

from sympformer.errors import InputError
from sympformer.study import RunResult, accuracy_table, load_results, suite_table, write_report
from sympformer.study.accuracy import accuracy_json
from sympformer.study.accuracy_figure import draw_accuracy, draw_suite
from sympformer.study.report import of_task, write_suite_report
from sympformer.study.results import at_best_rate
from sympformer.study.statistics import Interval


def rows_of(*accuracies, state=1000):
    """A summary's rows: two lengths, the optimum 0.9."""
    return [
        {
            "setting": setting,
            "accuracy": accuracy,
            "ceiling": 0.9,
            "loss": 2 - accuracy,
            "floor": 0.25,
            "state_bytes": state,
        }
        for setting, accuracy in zip(("16x2", "32x4"), accuracies, strict=True)
    ]


@pytest.fixture
def runs(write_run):
    given = {
        ("gpt", 0): (0.8, 0.5),
        ("gpt", 1): (0.8, 0.7),
        ("linear-gpt", 0): (0.4, 0.3),
        ("linear-gpt", 1): (0.5, 0.45),
    }
    return [
        RunResult.load(
            write_run(
                *name,
                floor=0.25,
                corpus="task mqar (train=[[16, 2]])",
                learning_rate=3e-3,
                tests=rows_of(*accuracies, state=64 if name[0] == "linear-gpt" else 4096),
            )
        )
        for name, accuracies in given.items()
    ]


def cells(table, row):
    return dict(zip(table.columns, table.rows[row], strict=True))


def test_an_interval_is_that_of_student():
    """Two values: the quantile is 12.7062."""
    assert Interval.of([0.5, 0.7]).mean == pytest.approx(0.6)
    assert Interval.of([0.5, 0.7]).half_width == pytest.approx(12.7062 * 0.1, rel=1e-4)
    assert Interval.of([0.5]) == Interval.of([0.5, 0.5]) == Interval(0.5, None)


def test_a_row_stands_below_the_optimum(runs):
    table = accuracy_table(runs, "gpt")
    assert [row[0] for row in table.rows] == ["optimum", "gpt", "linear-gpt"]
    assert cells(table, 0)["16x2"] == cells(table, 0)["32x4"] == "0.9000"
    assert cells(table, 0)["loss at 32x4"] == "0.2500"
    assert cells(table, 1) == {
        "model": "gpt",
        "params": "1,234,567",
        "rate": "0.003",
        "16x2": "0.8000",
        "32x4": "0.6000 ± 1.2706",
        "vs gpt": "-",
        "loss at 32x4": "1.4000 ± 1.2706",
        "state at 32x4": "4,096 B",
        "audit": "passed",
    }
    assert cells(table, 2)["vs gpt"] == "-0.2250 ± 0.3177"
    assert cells(table, 2)["state at 32x4"] == "64 B"
    assert "`task mqar (train=[[16, 2]])`" in table.caption
    assert any("95 %" in note for note in table.notes)


def test_a_leak_is_marked(write_run, audits):
    runs = [
        RunResult.load(write_run(name, tests=rows_of(0.5, 0.5), audit=audits[audit]))
        for name, audit in (("gpt", "causal"), ("peeps", "leak"))
    ]
    table = accuracy_table(runs, "gpt")
    assert cells(table, 2)["audit"] == "LEAKS"
    assert table.marked == {2}
    assert any("no sound decoder" in note for note in table.notes)


def test_the_json_has_the_numbers(runs):
    found = json.loads(accuracy_json(runs, "gpt"))
    assert found["optimum"]["32x4"] == {"accuracy": 0.9, "loss": 0.25}
    assert found["entries"][1]["accuracy"]["32x4"]["mean"] == pytest.approx(0.375)
    assert found["entries"][1]["state_bytes"] == {"16x2": 64, "32x4": 64}


def test_the_report_has_both_tables(runs, tmp_path):
    names = {path.name for path in write_report(runs, tmp_path / "o", "gpt")}
    assert {f"accuracy.{kind}" for kind in ("md", "tex", "json", "png", "svg")} < names
    assert {"table.md", "loss.png"} < names
    assert of_task(runs)


def test_runs_on_text_have_no_accuracy(write_run, tmp_path):
    runs = [RunResult.load(write_run("gpt"))]
    assert not of_task(runs)
    assert not [p for p in write_report(runs, tmp_path / "o", "gpt") if "accuracy" in p.name]


def test_the_picture_places_models_by_their_state(runs):
    left, right = draw_accuracy(runs, "gpt").axes
    assert [tick.get_text() for tick in left.get_xticklabels()] == ["16x2", "32x4"]
    points = {
        container.get_label(): [line[0] for line in container.lines[0].get_xydata()]
        for container in right.containers
    }
    assert points == {"gpt": [4096.0], "linear-gpt": [64.0]}
    assert right.get_xscale() == "log"


def test_a_suite(runs, tmp_path):
    suite = {"recall": runs, "again": runs[:2]}
    table = suite_table(suite, "gpt")
    assert table.columns == ("model", "recall 32x4", "again 32x4")
    assert table.rows[0] == ("optimum", "0.9000", "0.9000")
    assert table.rows[2] == ("linear-gpt", "0.3750 ± 0.9530", "-")
    assert [axes.get_title("left") for axes in draw_suite(suite, "gpt").axes][:2] == [
        "recall, 32x4",
        "again, 32x4",
    ]
    paths = write_suite_report(suite, tmp_path / "o", "gpt")
    assert [p.name for p in paths] == ["suite.md", "suite.tex", "suite.png", "suite.svg"]


def rated(write_run, tmp_path, **finals):
    """Runs of one entry at several rates, each in a folder of its own: rate to losses by seed."""
    for rate, losses in finals.items():
        for seed, loss in enumerate(losses):
            if loss is not None:
                number = float(rate.removeprefix("r").replace("_", "."))
                path = write_run("gpt", seed, loss, learning_rate=number)
                path.rename(tmp_path / f"gpt-lr{number}-s{seed}")
    return load_results(tmp_path)


def test_the_best_rate_is_that_of_the_mean_over_seeds(write_run, tmp_path):
    results = rated(write_run, tmp_path, r0_1=(2.0, 3.0), r0_2=(1.0, 5.0), r0_3=(2.1, 2.1))
    assert [r.learning_rate for r in results] == [0.3, 0.3]
    assert results[0].rates == (0.1, 0.2, 0.3)


def test_a_rate_that_lacks_a_seed_does_not_count(write_run, tmp_path):
    results = rated(write_run, tmp_path, r0_1=(2.0, 3.0), r0_2=(1.0, None))
    assert [r.learning_rate for r in results] == [0.1, 0.1]


def test_what_diverged_is_told(write_run):
    runs = [RunResult.load(write_run("gpt", learning_rate=0.1, tests=rows_of(0.5, 0.5)))]
    with pytest.warns(UserWarning, match="wild diverged at every learning rate"):
        (run,) = at_best_rate(runs, {"gpt": [0.3], "wild": [0.3]})
    notes = accuracy_table([run], "gpt").notes
    (note,) = (note for note in notes if "learning rate" in note)
    assert re.search(r"gpt: learning rate 0\.1, the best of 0\.1, 0\.3 .*diverged at 0\.3", note)


def test_the_baseline_must_be_there(runs):
    with pytest.raises(InputError, match="baseline"):
        accuracy_table(runs, "gpt-untied")
