"""The figure of a comparison: losses by update, and what every entry is away from the control."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from sympformer import figures
from sympformer.figures import FLOOR_COLOUR, Look, label_lines
from sympformer.shown import mathless
from sympformer.study.results import RunResult
from sympformer.study.statistics import (
    PairedDifference,
    Summary,
    differences_from,
    fairest,
    half_interval,
    summarise,
)
from sympformer.study.table import MARK

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# The first share of training, in which every loss falls steeply, may leave the frame at the top.
CROPPED = 0.2
MOST, FEW = 6, 4
"""Lines that can be told apart; of more entries, a few have a line, and all have a dot."""


@dataclass(frozen=True)
class Line:
    """Mean over the seeds of one preset, at the evaluations that all its runs have."""

    step: np.ndarray
    mean: np.ndarray
    half: np.ndarray
    """Half the 95 % t interval; 0 with one seed."""

    @classmethod
    def of(cls, runs: Sequence[RunResult]) -> "Line":
        """Average the curves of `runs`."""
        common = set.intersection(*(set(run.curve.step) for run in runs))
        kept = [np.isin(run.curve.step, list(common)) for run in runs]
        losses = np.stack([run.curve.loss[k] for run, k in zip(runs, kept, strict=True)])
        return cls(np.array(sorted(common)), losses.mean(0), half_interval(losses))


def draw(results: Sequence[RunResult], baseline: str) -> "Figure":
    """Curves with bands on the left, paired differences from the fairest control on the right.

    Both show 95 % t intervals over seeds.

    Raises:
        InputError: no run of the baseline.
    """
    from matplotlib.figure import Figure

    summaries = sorted(summarise(results, baseline), key=lambda s: -s.final_loss.mean)
    looks = figures.looks([s.preset for s in summaries])
    control = fairest(baseline, [s.preset for s in summaries])
    shown = chosen(summaries, {baseline, control})
    lines = {s.preset: Line.of([r for r in results if r.preset == s.preset]) for s in shown}
    floors = {run.floor for run in results}
    floor = floors.pop() if len(floors) == 1 else None
    others = len(summaries) > 1
    with figures.style():
        height = max(4.2, 1.2 + 0.24 * len(summaries))
        figure = Figure(figsize=(12 if others else 7, height), layout="constrained")
        panels = figure.subplots(1, 1 + others, squeeze=False)[0]
        _draw_curves(panels[0], shown, lines, looks, floor)
        if others:
            _draw_differences(panels[1], results, summaries, looks, control)
    return figure


def write_figure(results: Sequence[RunResult], folder: Path, baseline: str) -> list[Path]:
    """Write `loss.png` and `loss.svg`; equal results give equal files."""
    return figures.save(draw(results, baseline), folder, "loss")


def chosen(summaries: Sequence[Summary], fixed: set[str]) -> list[Summary]:
    """All entries if they can be told apart; else what others are compared with, and the best."""
    if len(summaries) <= MOST:
        return list(summaries)
    best = sorted(summaries, key=lambda s: (bool(s.faults), s.final_loss.mean))
    kept = [s.preset for s in best if s.preset in fixed]
    kept += [s.preset for s in best if s.preset not in fixed][: FEW - len(kept)]
    return [s for s in summaries if s.preset in kept]


def label(summary: Summary) -> str:
    """Its name, with a mark where it is no sound decoder."""
    if not summary.faults:
        return summary.preset
    return f"{summary.preset} {MARK} " + ("leaks" if summary.leaks else "failed the audit")


def _draw_curves(
    axes: "Axes",
    shown: Sequence[Summary],
    lines: dict[str, Line],
    looks: dict[str, Look],
    floor: float | None,
) -> None:
    ends = []
    for summary in shown:
        line, look = lines[summary.preset], looks[summary.preset]
        style = {**look.line(), "linewidth": 1.7, "label": mathless(label(summary))}
        if summary.faults:
            style |= {"linestyle": ":", "linewidth": 2.2}
        axes.plot(line.step, line.mean, **style)
        low, high = line.mean - line.half, line.mean + line.half
        axes.fill_between(line.step, low, high, color=look.colour, alpha=0.13, linewidth=0)
        name = f"{label(summary)}  {line.mean[-1]:.3f}"
        ends.append((name, line.step[-1], line.mean[-1], look.colour))
    axes.set_xlim(0, max(line.step[-1] for line in lines.values()))
    axes.set_ylim(*_frame(list(lines.values()), floor))
    if floor is not None:
        axes.axhline(floor, color=FLOOR_COLOUR, linestyle=(0, (1, 2)), linewidth=1.2)
        ends.append((f"entropy floor  {floor:.3f}", axes.get_xlim()[1], floor, FLOOR_COLOUR))
    label_lines(axes, ends)
    axes.set_title("validation loss (nats per token)")
    axes.set_xlabel("updates")


def _draw_differences(
    axes: "Axes",
    results: Sequence[RunResult],
    summaries: Sequence[Summary],
    looks: dict[str, Look],
    control: str,
) -> None:
    """A dot an entry, the best at the bottom, with its interval."""
    differences = differences_from(results, control)
    rows = sorted(summaries, key=lambda s: (-_mean(differences, s), s.preset))
    for i, summary in enumerate(reversed(rows)):
        look, found = looks[summary.preset], differences.get(summary.preset)
        if summary.preset == control:
            axes.plot([0], [i], **look.dot(), markersize=6)
        elif found is not None:
            half = found.half_width or 0.0
            style = {**look.dot(), "elinewidth": 1.6, "capsize": 0, "markersize": 6}
            axes.errorbar([found.mean], [i], xerr=[half], **style)
    axes.axvline(0, color=FLOOR_COLOUR, linewidth=1, zorder=0)
    numbers = [differences.get(s.preset) for s in reversed(rows)]
    names = [
        mathless(label(s)) + ("" if d is None else f"  {d.mean:+.3f}")
        for s, d in zip(reversed(rows), numbers, strict=True)
    ]
    axes.set_yticks(range(len(rows)), names)
    for tick, summary in zip(axes.get_yticklabels(), reversed(rows), strict=True):
        tick.set_color(looks[summary.preset].colour)
    axes.set_ylim(-0.6, len(rows) - 0.3)
    axes.locator_params(axis="x", nbins=5)
    axes.grid(True, axis="x")
    axes.grid(False, axis="y")
    seeds = {d.seeds for d in differences.values() if d}
    spread = "one seed" if max(map(len, seeds), default=1) < 2 else "95 % intervals"
    axes.set_title(mathless(f"final loss minus that of {control}"))
    axes.set_xlabel(f"nats per token, {spread}; left is better")


def _mean(differences: dict[str, PairedDifference | None], summary: Summary) -> float:
    found = differences.get(summary.preset)
    return 0.0 if found is None else found.mean


def _frame(lines: Sequence[Line], floor: float | None) -> tuple[float, float]:
    """Limits of the losses: from the least, or the floor, to the highest after the first fall."""
    low = min(line.mean.min() for line in lines)
    high = max(np.interp(CROPPED * line.step[-1], line.step, line.mean) for line in lines)
    low = low if floor is None else min(low, floor)
    margin = 0.06 * (high - low) or 0.1
    return float(low - margin), float(high + margin)
