from pathlib import Path

import numpy as np
import pytest

from sympformer.study import RunResult
from sympformer.study.figure import Line, draw, write_figure


@pytest.fixture
def results(write_run, audits) -> list[RunResult]:
    runs = [write_run("gpt", seed, 2.5 + seed) for seed in (0, 1)]
    runs += [write_run("yurii", 0, 2.0), write_run("cheat", 0, 1.0, audit=audits["leak"])]
    return [RunResult.load(run) for run in runs]


def test_a_line_is_the_mean_and_its_interval_over_seeds(results: list[RunResult]):
    line = Line.of(results[:2])
    assert line.mean[-1] == pytest.approx(3.0)
    assert line.half[-1] == pytest.approx(12.7062 * np.std([2.5, 3.5], ddof=1) / 2**0.5, rel=1e-4)
    assert not Line.of(results[2:3]).half.any()


def test_seeds_with_other_evaluations_meet_where_both_were_made(results: list[RunResult]):
    first, second = results[:2]
    second.curve.step[4] += 1
    assert Line.of([first, second]).step.tolist() == [10, 20, 30, 40, 60, 70, 80, 90, 100]


def texts(axes) -> list[str]:
    return [text.get_text() for text in axes.texts]


def test_every_preset_is_named_and_leaks_are_marked(results: list[RunResult]):
    left, right = draw(results, "gpt").axes
    assert texts(left)[:3] == ["gpt  3.000", "yurii  2.000", "cheat † leaks  1.000"]
    curves = {str(line.get_label()).split()[0]: line for line in left.get_lines()}
    assert curves["cheat"].get_linestyle() == ":"
    assert curves["gpt"].get_linestyle() == "-"
    names = [tick.get_text() for tick in right.get_yticklabels()]
    assert names == ["cheat † leaks  -1.500", "yurii  -0.500", "gpt"]


def test_differences_are_from_the_fairest_control(write_run):
    losses = {"gpt": 3.0, "gpt-untied": 2.5, "yurii": 2.0}
    runs = [
        RunResult.load(write_run(name, seed, loss + 0.1 * seed * (name == "yurii")))
        for name, loss in losses.items()
        for seed in (0, 1, 2)
    ]
    _, right = draw(runs, "gpt").axes
    assert right.get_title(loc="left") == "final loss minus that of gpt-untied"
    (whole,) = [c for c in right.containers if c.lines[0].get_xdata()[0] < 0]
    (segment,) = whole.lines[2][0].get_segments()
    low, high = segment[:, 0]
    assert (low + high) / 2 == pytest.approx(-0.4)
    assert (high - low) / 2 == pytest.approx(4.30265 * 0.1 / 3**0.5, rel=1e-4)


def test_the_floor_is_drawn_where_it_is_known(results: list[RunResult], write_run):
    def floors(runs: list[RunResult]) -> list[str]:
        return [text for text in texts(draw(runs, "gpt").axes[0]) if "floor" in text]

    assert floors(results) == ["entropy floor  1.500"]
    low, high = draw(results, "gpt").axes[0].get_ylim()
    assert low < 1.0 < 1.5 < high
    other = RunResult.load(write_run("gpt-untied", floor=None))
    assert floors([*results, other]) == []


def test_the_files_are_whole_and_repeat_byte_for_byte(results: list[RunResult], tmp_path: Path):
    first = [p.read_bytes() for p in write_figure(results, tmp_path / "one", "gpt")]
    second = [p.read_bytes() for p in write_figure(results, tmp_path / "two", "gpt")]
    assert first == second
    assert first[0].startswith(b"\x89PNG")
    assert b"</svg>" in first[1]
    assert {p.name for p in (tmp_path / "one").iterdir()} == {"loss.png", "loss.svg"}


def test_of_many_entries_four_have_a_line_and_all_a_dot(write_run):
    runs = [RunResult.load(write_run(f"p{i:02}", final=3 - i / 10)) for i in range(12)]
    left, right = draw(runs, "p00").axes
    assert [text.split()[0] for text in texts(left)[:4]] == ["p00", "p09", "p10", "p11"]
    assert len(right.get_yticklabels()) == 12
    dots = {(c.lines[0].get_color(), c.lines[0].get_marker()) for c in right.containers}
    assert len(dots) == 11
