"""The figure of a bench run: cost a token against the length of the context.

A dot is a case. No line joins them: cases of several lengths differ in their batches, too.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sympformer import figures
from sympformer.bench.results import BenchReport, BenchResult
from sympformer.figures import Look, label_lines

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
    looks = figures.looks(name for lines in panels.values() for name in lines)
    with figures.style():
        figure = Figure(figsize=(5 * len(panels), 4), layout="constrained")
        for axes, (measure, lines) in zip(
            figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True
        ):
            _draw_panel(axes, measure, lines, looks)
    return figure


def write_figure(report: BenchReport, folder: Path, stem: str = "cost") -> list[Path]:
    """Write it as PNG and SVG, if there are several lengths; equal reports give equal files."""
    figure = draw(report)
    return [] if figure is None else figures.save(figure, folder, stem)


def _panels(results: Sequence[BenchResult]) -> dict[str, Lines]:
    """Lines by measure; a line has one model in one form, one size, and several lengths."""
    lines: dict[tuple[str, str, str], list[BenchResult]] = {}
    for r in results:
        lines.setdefault((r.case.measure, r.case.name, _size(r)), []).append(r)
    lines = {key: rs for key, rs in lines.items() if len({r.case.length for r in rs}) > 1}
    one_size = len({size for _, _, size in lines}) == 1
    panels: dict[str, Lines] = {}
    for (measure, name, size), line in lines.items():
        name = name if one_size else f"{name} ({size})"
        panels.setdefault(measure, {})[name] = sorted(line, key=lambda r: r.case.length)
    return panels


def _size(r: BenchResult) -> str:
    return f"{r.case.n_layer} layers, d {r.case.n_embd}"


def _draw_panel(axes: "Axes", measure: str, lines: Lines, looks: dict[str, Look]) -> None:
    from matplotlib.ticker import LogLocator

    unit, scale = ("KiB", 2**-10) if measure == "memory" else ("µs", 1e6)
    ends = []
    for i, (name, line) in enumerate(lines.items()):
        aside = 2 ** (0.05 * (i - (len(lines) - 1) / 2))  # dots of one length side by side
        lengths, costs = [aside * r.case.length for r in line], [scale * r.cost for r in line]
        axes.plot(lengths, costs, **looks[name].dot(), markersize=5, label=name)
        ends.append((name, lengths[-1], costs[-1], looks[name].colour))
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=2)
    axes.margins(x=0.08, y=0.12)
    low, high = axes.get_ylim()
    parts = (1.0, 1.25, 1.5, 1.75) if high < 4 * low else (1.0,)
    axes.yaxis.set_major_locator(LogLocator(base=2, subs=parts, numticks=12))
    axes.yaxis.set_major_formatter("{x:g}")
    ticks = sorted({r.case.length for line in lines.values() for r in line})
    axes.set_xticks(ticks, [str(length) for length in ticks])
    axes.minorticks_off()
    axes.set_xlabel("context T (tokens)")
    title = "peak memory" if measure == "memory" else measure
    axes.set_title(f"{title} ({unit} a token)")
    label_lines(axes, ends, size=8)
