"""Losses by update, tokens, time and operations."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from sympformer.bench import flops
from sympformer.errors import InputError
from sympformer.figures import Look
from sympformer.report import plot
from sympformer.report.markup import Chart, Section, paragraph, table
from sympformer.report.runs import Runs, SeenRun
from sympformer.study.statistics import half_interval

AXES = {"updates": "step", "tokens": "tokens", "time (minutes)": "seconds"}
OPERATIONS = "operations (10¹⁵)"
LOSSES = {"validation": ("eval", "valid_loss"), "training": ("train", "loss")}
BINS = 100
"""Means of so many stretches of the training loss are shown."""
CROPPED = 0.2
"""The first share of training, in which every loss falls steeply, may leave the frame."""


def losses(runs: Runs, looks: Mapping[str, Look], shown: Sequence[str]) -> Section:
    """The section; entries that are not `shown` at first can be switched on in the legend."""
    curves: dict[str, dict[str, Curves]] = {
        loss: {entry: Curves(found, *LOSSES[loss]) for entry, found in runs.entries.items()}
        for loss in LOSSES
    }
    known = [loss for loss in LOSSES if any(len(c.mean) for c in curves[loss].values())]
    axes = [*AXES, OPERATIONS] if any(map(_operations, runs.runs)) else [*AXES]
    floors = {run.result.floor for run in runs.runs if run.result is not None}
    floor = floors.pop() if len(floors) == 1 else None
    figures = {
        f"{loss}|{axis}": _figure(curves[loss], axis, looks, shown, floor)
        for loss in known
        for axis in axes
    }
    rows = [
        (entry, f"{c.x['step'][-1]:,.0f}", f"{c.mean[-1]:.4f}", len(c.runs))
        for entry, c in curves["validation"].items()
        if len(c.mean)
    ]
    chart = Chart(
        name="losses-chart",
        label="Losses over training, a line for each model",
        figures=figures,
        choices={"loss": known, "over": axes},
        table=table(("model", "updates", "validation loss", "seeds"), rows, "Losses at the end"),
    )
    return Section(
        "losses",
        "Losses",
        "Losses",
        "Means over seeds in nats per token, with 95 % t intervals where there are several. "
        "Operations are counted by formula; times are those of the machine, which may have had "
        "other work.",
        [chart if known else paragraph("No update has been made yet.")],
    )


class Curves:
    """One loss of the runs of an entry, where all that have begun were measured."""

    def __init__(self, runs: Sequence[SeenRun], event: str, column: str):
        found = [(run, [r for r in run.rows if r.get("event") == event]) for run in runs]
        found = [(run, rows) for run, rows in found if rows]
        self.runs = [run for run, _ in found]
        steps = [{row["step"] for row in rows} for _, rows in found]
        common = sorted(set.intersection(*steps)) if steps else []
        kept = [[row for row in rows if row["step"] in set(common)] for _, rows in found]
        bins = np.array_split(np.arange(len(common)), min(BINS, len(common)) or 1)

        def binned(values: Sequence[float]) -> np.ndarray:
            every = np.array(values, dtype=float)
            return np.array([every[b].mean() for b in bins if len(b)])

        each = np.array([binned([row[column] for row in rows]) for rows in kept])
        self.mean = each.mean(0) if len(each) else np.zeros(0)
        self.half = half_interval(each) if len(each) else np.zeros(0)
        self.x: dict[str, np.ndarray] = {}
        for name in AXES.values():
            parts = [binned([row.get(name, np.nan) for row in rows]) for rows in kept]
            self.x[name] = np.mean(parts, axis=0) if parts else np.zeros(0)
        tokens = self.x["tokens"]
        each_token = _operations(self.runs[0]) if self.runs else None
        self.x[OPERATIONS] = tokens * (each_token or np.nan) / 1e15

    def over(self, axis: str) -> np.ndarray:
        """Where they were measured."""
        x = self.x[AXES.get(axis, axis)]
        return x / 60 if axis.startswith("time") else x


def _figure(
    curves: Mapping[str, Curves],
    axis: str,
    looks: Mapping[str, Look],
    shown: Sequence[str],
    floor: float | None,
) -> dict[str, Any]:
    curves = {e: c for e, c in curves.items() if len(c.mean) and np.isfinite(c.over(axis)).all()}
    frame = _frame([curves[entry] for entry in shown if entry in curves] or list(curves.values()))
    if floor is not None:
        frame = (min(frame[0], floor - 0.04 * (frame[1] - floor)), frame[1])
    traces, ends = [], []
    for entry, c in sorted(curves.items(), key=lambda item: -item[1].mean[-1]):
        x, look = c.over(axis), looks[entry]
        first = {} if entry in shown else {"visible": "legendonly"}
        if c.half.any():
            low, high = c.mean - c.half, c.mean + c.half
            traces.append(plot.band(x, low, high, look, legendgroup=entry, **first))
        said = "%{y:.4f}" + (" ± %{customdata:.4f}" if c.half.any() else "")
        marks = {"mode": "lines+markers", "marker": {"size": 5, "color": look.colour}}
        more: dict[str, Any] = {**first, **(marks if len(x) < 30 else {}), "hovertemplate": said}
        traces.append(
            plot.line(entry, x, c.mean, look, customdata=c.half, legendgroup=entry, **more)
        )
        if entry in shown:
            ends.append((f"{entry}  {c.mean[-1]:.3f}", c.mean[-1], look))
    widest = max((float(c.over(axis)[-1]) for c in curves.values()), default=1.0)
    if floor is not None:
        grey = Look("#949494", ":", "o", "")
        traces.append(plot.line("entropy floor", [0, widest], [floor, floor], grey))
        ends.append((f"entropy floor  {floor:.3f}", floor, grey))
    every = len(shown) < len(curves)
    return {
        "data": traces,
        "layout": plot.layout(
            axis,
            "nats per token",
            xaxis={"range": [0, 1.01 * widest]},
            yaxis={"range": list(frame)},
            annotations=plot.end_labels(ends, frame),
            margin={"r": 210},
            hovermode="x unified" if axis in ("updates", "tokens") else "closest",
            showlegend=every,
        ),
    }


def _frame(curves: Sequence[Curves]) -> tuple[float, float]:
    """From the least to the highest after the first fall."""
    if not curves:
        return 0.0, 1.0
    low = min(float((c.mean - c.half).min()) for c in curves)
    after = [np.interp(CROPPED * c.x["step"][-1], c.x["step"], c.mean) for c in curves]
    high = float(max(after))
    margin = 0.06 * (high - low) or 0.1
    return low - margin, high + margin


def _operations(run: SeenRun) -> float | None:
    """Of training on a token, by formula; None where they are not known."""
    config = run.config.model
    count: Callable[..., Any] = flops.step
    if config.model or run.config.data.task is not None:
        return None
    try:
        return count(config, config.block_size).total / config.block_size
    except InputError:
        return None
