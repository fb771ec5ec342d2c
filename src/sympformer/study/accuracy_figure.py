"""The pictures of runs on tasks: accuracy by length, and by what a model remembers."""

from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sympformer import figures
from sympformer.figures import BASELINE_COLOUR, FLOOR_COLOUR
from sympformer.shown import mathless
from sympformer.study.accuracy import OPTIMUM, Answers, answers
from sympformer.study.results import RunResult
from sympformer.study.table import MARK

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Looks = dict[str, dict[str, Any]]


def draw_accuracy(results: Sequence[RunResult], baseline: str) -> "Figure":
    """One task: accuracy at every test, and that at the last over the bytes of the state.

    Raises:
        InputError: no run of the baseline.
    """
    from matplotlib.figure import Figure

    found = answers(results, baseline)
    looks, tests = _looks(found, baseline), results[0].tests
    with figures.style():
        figure = Figure(figsize=(10, 4.2), layout="constrained")
        left, right = figure.subplots(1, 2, sharey=True)
        x = range(len(tests))
        for a in found:
            means = [value.mean for value in a.accuracy.values()]
            halves = [value.half_width or 0.0 for value in a.accuracy.values()]
            left.errorbar(x, means, halves, capsize=2, linewidth=1.5, **looks[a.preset])
        left.plot(x, [test.ceiling for test in tests], color=FLOOR_COLOUR, linestyle="--")
        left.set_xticks(list(x), [test.setting for test in tests])
        left.set_xlabel("test")
        left.set_ylabel("accuracy")
        left.set_ylim(-0.03, 1.03)
        _over_state(right, found, looks, tests[-1].ceiling)
        right.set_xlabel(f"KiB of the state after a sequence of {tests[-1].setting}")
        _legend(figure, left)
    return figure


def draw_suite(suite: Mapping[str, Sequence[RunResult]], baseline: str) -> "Figure":
    """A panel a task: accuracy at its last test over the bytes of the state.

    Raises:
        InputError: a task without a run of the baseline.
    """
    from matplotlib.figure import Figure

    found = {name: answers(results, baseline) for name, results in suite.items()}
    looks = _looks([a for task in found.values() for a in task], baseline)
    columns = min(3, len(found))
    rows = -(-len(found) // columns)
    with figures.style():
        figure = Figure(figsize=(2 + 3 * columns, 0.6 + 2.6 * rows), layout="constrained")
        panels = figure.subplots(rows, columns, squeeze=False, sharey=True).flat
        for axes, (name, task) in zip(panels, found.items(), strict=False):
            last = suite[name][0].tests[-1]
            _over_state(axes, task, looks, last.ceiling)
            axes.set_title(mathless(f"{name}, {last.setting}"))
        for axes in list(panels)[len(found) :]:
            axes.set_axis_off()
        figure.supxlabel("KiB of the state")
        figure.supylabel("accuracy")
        _legend(figure, *list(figure.axes)[: len(found)])
    return figure


def write_accuracy(results: Sequence[RunResult], folder: Path, baseline: str) -> list[Path]:
    """Write `accuracy.png` and `accuracy.svg`; equal results give equal files."""
    return figures.save(draw_accuracy(results, baseline), folder, "accuracy")


def write_suite(
    suite: Mapping[str, Sequence[RunResult]], folder: Path, baseline: str
) -> list[Path]:
    """Write `suite.png` and `suite.svg`; equal results give equal files."""
    return figures.save(draw_suite(suite, baseline), folder, "suite")


def _over_state(axes: "Axes", found: Sequence[Answers], looks: Looks, ceiling: float) -> None:
    for a in found:
        size = list(a.state_bytes.values())[-1]
        if size:  # a model without a cache has no place here
            look = {**looks[a.preset], "linestyle": "none"}
            half = a.hardest.half_width or 0.0
            axes.errorbar([size], [a.hardest.mean], [half], capsize=2, **look)
    axes.axhline(ceiling, color=FLOOR_COLOUR, linestyle="--", linewidth=1.2, label=OPTIMUM)
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(lambda size, _: f"{size / 1024:g}")
    axes.margins(x=0.1)
    axes.set_ylim(-0.03, 1.03)


def _looks(found: Sequence[Answers], baseline: str) -> Looks:
    """One look an entry; the names in alphabetical order decide, so that figures agree."""
    free, markers = figures.looks(), cycle("osD^vP*X")
    faulty = {a.preset for a in found if a.faults}
    looks = {}
    for name in sorted({a.preset for a in found}):
        colour, dash = (BASELINE_COLOUR, "-") if name == baseline else next(free)
        label = mathless(name) + (f"  {MARK}" if name in faulty else "")
        looks[name] = {"color": colour, "linestyle": dash, "label": label, "marker": next(markers)}
    return looks


def _legend(figure: "Figure", *panels: "Axes") -> None:
    """One entry a label of any panel."""
    known: dict[str, Any] = {}
    for axes in panels:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            known.setdefault(label, handle)
    figure.legend(list(known.values()), list(known), loc="outside right center", frameon=False)
