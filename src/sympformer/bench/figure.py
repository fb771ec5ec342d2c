"""The figure of a bench run: cost a token against the length of the context."""

from collections.abc import Iterable, Sequence
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sympformer import figures
from sympformer.bench.case import PLAIN
from sympformer.bench.results import BenchReport, BenchResult
from sympformer.figures import BASELINE_COLOUR

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Lines = dict[str, list[BenchResult]]
"""The results of one line of a panel, by its name, in order of length."""


def draw(report: BenchReport) -> "Figure | None":
    """One panel for each measure that was made at several lengths; None if there is none."""
    from matplotlib.figure import Figure

    panels = _panels([r for r in report.results if not r.failed])
    if not panels:
        return None
    looks = _looks(dict.fromkeys(name for lines in panels.values() for name in lines))
    with figures.style():
        figure = Figure(figsize=(3.6 * len(panels) + 1.8, 3.6), layout="constrained")
        for axes, (measure, lines) in zip(
            figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True
        ):
            _draw_panel(axes, measure, lines, looks)
        handles = {str(h.get_label()): h for axes in figure.axes for h in axes.get_lines()}
        figure.legend(
            handles=[handles[name] for name in looks], loc="outside right center", frameon=False
        )
    return figure


def write_figure(report: BenchReport, folder: Path, stem: str = "cost") -> list[Path]:
    """Write it as PNG and SVG, if there are several lengths; equal reports give equal files."""
    figure = draw(report)
    return [] if figure is None else figures.save(figure, folder, stem)


def _panels(results: Sequence[BenchResult]) -> dict[str, Lines]:
    """Lines by measure; a line has one model in one form, one size, and several lengths."""
    panels: dict[str, Lines] = {}
    one_size = len({_size(r) for r in results}) == 1
    for r in results:
        name = r.case.name if one_size else f"{r.case.name} ({_size(r)})"
        panels.setdefault(r.case.measure, {}).setdefault(name, []).append(r)
    for measure, lines in panels.items():
        long = {
            name: line for name, line in lines.items() if len({r.case.length for r in line}) > 1
        }
        panels[measure] = {
            name: sorted(line, key=lambda r: r.case.length) for name, line in long.items()
        }
    return {measure: lines for measure, lines in panels.items() if lines}


def _size(r: BenchResult) -> str:
    return f"{r.case.n_layer} layers, d {r.case.n_embd}"


def _looks(names: Iterable[str]) -> dict[str, dict[str, Any]]:
    free = figures.looks()
    plain = cycle(("-", "--", ":"))
    looks = {}
    for name in names:
        is_plain = name.split(" ")[0] == PLAIN
        colour, dash = (BASELINE_COLOUR, next(plain)) if is_plain else next(free)
        looks[name] = {"color": colour, "linestyle": dash, "label": name}
    return looks


def _draw_panel(axes: "Axes", measure: str, lines: Lines, looks: dict[str, dict[str, Any]]) -> None:
    unit, scale = ("KiB", 2**-10) if measure == "memory" else ("µs", 1e6)
    for name, line in lines.items():
        lengths = [r.case.length for r in line]
        axes.plot(
            lengths, [scale * r.cost for r in line], marker="o", markersize=3.5, **looks[name]
        )
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=2)
    axes.yaxis.set_major_formatter("{x:g}")
    ticks = sorted({r.case.length for line in lines.values() for r in line})
    axes.set_xticks(ticks, [str(length) for length in ticks])
    axes.minorticks_off()
    axes.set_xlabel("context T (tokens)")
    axes.set_title("peak memory" if measure == "memory" else measure, size="medium")
    axes.set_ylabel(f"{unit} a token")
