"""The pictures of runs on tasks: accuracy by length, and by what a model remembers."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sympformer import figures
from sympformer.figures import FLOOR_COLOUR, label_lines
from sympformer.shown import mathless
from sympformer.study.accuracy import OPTIMUM, Answers, answers
from sympformer.study.figure import FEW, MOST
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
    looks, tests = _looks(found), results[0].tests
    with figures.style():
        figure = Figure(figsize=(10, 4.2), layout="constrained")
        left, right = figure.subplots(1, 2, sharey=True)
        x, ends = range(len(tests)), []
        for a in _drawn(found):
            means = [value.mean for value in a.accuracy.values()]
            halves = [value.half_width or 0.0 for value in a.accuracy.values()]
            left.errorbar(x, means, halves, linewidth=1.5, **looks[a.preset])
            ends.append((a.preset, x[-1], means[-1], looks[a.preset]["color"]))
        left.plot(x, [test.ceiling for test in tests], color=FLOOR_COLOUR, linestyle=(0, (1, 2)))
        ends.append((OPTIMUM, x[-1], tests[-1].ceiling, FLOOR_COLOUR))
        left.set_xticks(list(x), [test.setting for test in tests])
        left.set_xlabel("test")
        left.set_title("accuracy")
        left.set_ylim(-0.03, 1.03)
        label_lines(left, ends)
        _over_state(right, found, looks, tests[-1].ceiling)
        right.set_xlabel(f"KiB of the state after a sequence of {tests[-1].setting}")
        if len(found) > MOST:
            _legend(figure, right)
    return figure


def draw_suite(suite: Mapping[str, Sequence[RunResult]], baseline: str) -> "Figure":
    """A panel a task: accuracy at its last test over the bytes of the state.

    Raises:
        InputError: a task without a run of the baseline.
    """
    from matplotlib.figure import Figure

    found = {name: answers(results, baseline) for name, results in suite.items()}
    looks = _looks([a for task in found.values() for a in task])
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


def _drawn(found: Sequence[Answers]) -> Sequence[Answers]:
    """All if their lines can be told apart, else the baseline, which comes first, and the best."""
    return found if len(found) <= MOST else found[:FEW]


def _over_state(axes: "Axes", found: Sequence[Answers], looks: Looks, ceiling: float) -> None:
    for a in found:
        size = list(a.state_bytes.values())[-1]
        if size:  # a model without a cache has no place here
            look = {**looks[a.preset], "linestyle": "none"}
            half = a.hardest.half_width or 0.0
            axes.errorbar([size], [a.hardest.mean], [half], **look)
    axes.axhline(ceiling, color=FLOOR_COLOUR, linestyle=(0, (1, 2)), linewidth=1.2, label=OPTIMUM)
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(lambda size, _: f"{size / 1024:g}")
    axes.margins(x=0.1)
    axes.set_ylim(-0.03, 1.03)


def _looks(found: Sequence[Answers]) -> Looks:
    """One look an entry, the same in every picture."""
    faulty = {a.preset for a in found if a.faults}
    return {
        name: {
            **look.line(),
            "marker": look.marker,
            "label": mathless(name) + (f"  {MARK}" if name in faulty else ""),
        }
        for name, look in figures.looks(a.preset for a in found).items()
    }


def _legend(figure: "Figure", *panels: "Axes") -> None:
    """One entry a label of any panel."""
    known: dict[str, Any] = {}
    for axes in panels:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            known.setdefault(label, handle)
    figure.legend(list(known.values()), list(known), loc="outside right center", frameon=False)
