"""The figure of a comparison: validation loss by update and by wall time."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sympformer import figures
from sympformer.figures import BASELINE_COLOUR, CONTROL_COLOUR, FLOOR_COLOUR
from sympformer.shown import mathless
from sympformer.study.results import RunResult
from sympformer.study.statistics import Summary, control, summarise
from sympformer.study.table import MARK

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# The first share of training, in which every loss falls steeply, may leave the frame at the top.
CROPPED = 0.2


@dataclass(frozen=True)
class Line:
    """Mean over the seeds of one preset, at the evaluations that all its runs have."""

    step: np.ndarray
    seconds: np.ndarray
    mean: np.ndarray
    sd: np.ndarray

    @classmethod
    def of(cls, runs: Sequence[RunResult]) -> "Line":
        """Average the curves of `runs`."""
        common = set.intersection(*(set(run.curve.step) for run in runs))
        kept = [np.isin(run.curve.step, list(common)) for run in runs]
        losses = np.stack([run.curve.loss[k] for run, k in zip(runs, kept, strict=True)])
        seconds = np.stack([run.curve.seconds[k] for run, k in zip(runs, kept, strict=True)])
        spread = losses.std(0, ddof=1) if len(runs) > 1 else np.zeros(losses.shape[1])
        return cls(np.array(sorted(common)), seconds.mean(0), losses.mean(0), spread)


def draw(results: Sequence[RunResult], baseline: str) -> "Figure":
    """Draw one line a preset, a band of one standard deviation, and the entropy floor.

    Raises:
        InputError: no run of the baseline.
    """
    from matplotlib.figure import Figure

    summaries = sorted(summarise(results, baseline), key=lambda s: -s.final_loss.mean)
    styles = _styles(summaries, baseline)
    lines = {
        summary.preset: Line.of([run for run in results if run.preset == summary.preset])
        for summary in summaries
    }
    floors = {run.floor for run in results}
    floor = floors.pop() if len(floors) == 1 else None
    longest = max(line.seconds[-1] for line in lines.values())
    unit, seconds = ("minutes", 60) if longest >= 180 else ("seconds", 1)
    with figures.style():
        figure = Figure(figsize=(10, 4.2), layout="constrained")
        left, right = figure.subplots(1, 2, sharey=True)
        for summary in summaries:
            line = lines[summary.preset]
            for axes, x in ((left, line.step), (right, line.seconds / seconds)):
                axes.plot(x, line.mean, **styles[summary.preset])
                colour = styles[summary.preset]["color"]
                low, high = line.mean - line.sd, line.mean + line.sd
                axes.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)
        for axes in (left, right):
            _mark_floor(axes, floor)
            axes.set_xlim(left=0)
            axes.margins(x=0)
        left.set_ylim(*_frame(list(lines.values()), floor))
        left.set_ylabel("validation loss (nats per token)")
        left.set_xlabel("updates")
        right.set_xlabel(f"training time ({unit})")
        handles, labels = left.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside right center", frameon=False)
    return figure


def write_figure(results: Sequence[RunResult], folder: Path, baseline: str) -> list[Path]:
    """Write `loss.png` and `loss.svg`; equal results give equal files."""
    return figures.save(draw(results, baseline), folder, "loss")


def _styles(summaries: Sequence[Summary], baseline: str) -> dict[str, dict[str, Any]]:
    """One look a preset; the names in alphabetical order decide, so that figures agree."""
    fixed = {control(baseline): CONTROL_COLOUR, baseline: BASELINE_COLOUR}
    free = figures.looks()
    styles = {}
    for summary in sorted(summaries, key=lambda s: s.preset):
        preset = summary.preset
        colour, dash = (fixed[preset], "-") if preset in fixed else next(free)
        label = f"{mathless(preset)}  {summary.final_loss.mean:.3f}"
        styles[preset] = {"color": colour, "linestyle": dash, "linewidth": 1.7, "label": label}
        if summary.faults:
            mark = f"{MARK} leaks" if summary.leaks else f"{MARK} failed the audit"
            styles[preset] |= {"linestyle": ":", "linewidth": 2.2, "label": f"{label}  {mark}"}
    return styles


def _mark_floor(axes: "Axes", floor: float | None) -> None:
    if floor is not None:
        axes.axhline(floor, color=FLOOR_COLOUR, linestyle="--", linewidth=1.2)
        axes.annotate(
            f"entropy floor {floor:.3f}",
            (1, floor),
            xycoords=("axes fraction", "data"),
            xytext=(-2, 3),
            textcoords="offset points",
            ha="right",
            va="bottom",
            color=FLOOR_COLOUR,
            size="small",
        )


def _frame(lines: Sequence[Line], floor: float | None) -> tuple[float, float]:
    """Limits of the losses: from the least, or the floor, to the highest after the first fall."""
    low = min(line.mean.min() for line in lines)
    high = max(np.interp(CROPPED * line.step[-1], line.step, line.mean) for line in lines)
    low = low if floor is None else min(low, floor)
    margin = 0.06 * (high - low) or 0.1
    return float(low - margin), float(high + margin)
