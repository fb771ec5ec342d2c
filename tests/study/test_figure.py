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


def test_a_line_is_the_mean_and_the_spread_over_seeds(results: list[RunResult]):
    line = Line.of(results[:2])
    assert line.mean[-1] == pytest.approx(3.0)
    assert line.sd[-1] == pytest.approx(np.std([2.5, 3.5], ddof=1))
    assert line.seconds[-1] == 20
    assert not Line.of(results[2:3]).sd.any()


def test_seeds_with_other_evaluations_meet_where_both_were_made(results: list[RunResult]):
    first, second = results[:2]
    second.curve.step[4] += 1
    assert Line.of([first, second]).step.tolist() == [10, 20, 30, 40, 60, 70, 80, 90, 100]


def test_every_preset_is_named_and_leaks_are_marked(results: list[RunResult]):
    figure = draw(results, "gpt")
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == ["gpt  3.000", "yurii  2.000", "cheat  1.000  † leaks"]
    left, right = figure.axes
    curves = {str(line.get_label()).split()[0]: line for line in left.get_lines()}
    assert curves["cheat"].get_linestyle() == ":"
    assert curves["gpt"].get_linestyle() == "-"
    assert right.get_xlabel() == "training time (seconds)"


def test_the_floor_is_drawn_where_it_is_known(results: list[RunResult], write_run):
    def floors(runs: list[RunResult]) -> list[str]:
        return [text.get_text() for text in draw(runs, "gpt").axes[0].texts]

    assert floors(results) == ["entropy floor 1.500"]
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


def test_more_presets_than_colours_still_look_different(write_run):
    runs = [RunResult.load(write_run(f"p{i:02}")) for i in range(12)]
    lines = draw(runs, "p00").axes[0].get_lines()
    looks = {(line.get_color(), line.get_linestyle()) for line in lines[:12]}
    assert len(looks) == 12
