"""What every entry reached, and what it is away from others: paired by seed, Holm corrected."""

from collections.abc import Iterator, Mapping, Sequence

from sympformer.figures import Look
from sympformer.report import plot
from sympformer.report.markup import Chart, Section, details, paragraph, table
from sympformer.report.runs import Runs, SeenRun
from sympformer.study.accuracy import accuracy_table
from sympformer.study.hypotheses import Declaration
from sympformer.study.report import of_task
from sympformer.study.results import RunResult
from sympformer.study.statistics import Interval, differences_from, fairest, holm
from sympformer.table import Table

ROW = 26
"""Height of a row of dots."""


def differences(runs: Runs, looks: Mapping[str, Look], baseline: str) -> Section:
    """The section."""
    results = runs.results
    names = {r.preset for r in results}
    control = fairest(baseline, names) if baseline in names else None
    best = min(names, key=lambda n: _final(results, n).mean, default=None)
    parts: list[Chart | str] = []
    if control is not None and len(names) > 1:
        parts.append(_dots(results, looks, control))
    compared = [name for name in dict.fromkeys((control, baseline, best)) if name in names]
    for i, reference in enumerate(compared or [None]):
        body = _table(runs, results, reference)
        parts.append(body if i == 0 else details(f"Compared with {reference}", body))
    if control is not None and of_task(results):
        answers = accuracy_table(results, control)
        parts.append(table(answers.columns, answers.rows, f"Accuracy. {' '.join(answers.notes)}"))
    for claims in _declared(runs):
        said = " ".join((claims.caption, *claims.notes))
        parts.append(table(claims.columns, claims.rows, said))
    return Section(
        "results",
        "Results",
        "Results",
        "Final validation loss in nats per token, less is better. ± is half the 95 % t interval "
        "over seeds, in every column. p is that of the paired t test, after Holm's correction for "
        "all comparisons in the column; of one seed there is neither.",
        [*parts, *map(paragraph, (*_unfinished_seeds(runs), *runs.notes))],
    )


def _declared(runs: Runs) -> Iterator[Table]:
    """What was claimed of the runs in a folder, before they were made."""
    for folder in dict.fromkeys(run.folder.path.parent for run in runs.runs):
        if declared := Declaration.load(folder):
            yield declared.table([r for r in runs.results if r.folder.parent == folder])


def _unfinished_seeds(runs: Runs) -> Iterator[str]:
    """Of entries that have finished ones, too."""
    for entry, seen in runs.entries.items():
        left = [run.seed for run in seen if run.result is None]
        if left and len(left) < len(seen):
            seeds = ", ".join(map(str, left))
            yield f"{entry}: seed {seeds} is not finished, and not in the table."


def _final(results: Sequence[RunResult], name: str) -> Interval:
    return Interval.of([r.final_loss for r in results if r.preset == name])


def _dots(results: Sequence[RunResult], looks: Mapping[str, Look], control: str) -> Chart:
    found = {n: d for n, d in differences_from(results, control).items() if d is not None}
    names = sorted(found, key=lambda name: -found[name].mean)
    halves = [found[name].half_width or 0.0 for name in names]
    means = [found[name].mean for name in names]
    layout = plot.layout(
        f"minus {control} (nats per token)",
        "",
        height=90 + ROW * len(names),
        margin={"l": 10, "b": 56},
        xaxis={"zeroline": True},
        yaxis={"showgrid": False, "range": [-0.8, len(names) - 0.2]},
        showlegend=False,
        hovermode="closest",
    )
    return Chart(
        name="differences",
        label=f"Difference of every model's final loss from that of {control}, sorted",
        figures={"": {"data": plot.dots(names, means, halves, looks), "layout": layout}},
    )


def _table(runs: Runs, results: Sequence[RunResult], reference: str | None) -> str:
    found = {} if reference is None else differences_from(results, reference)
    ps = {n: d.p for n, d in found.items() if d is not None and d.p is not None}
    corrected = holm(ps)
    rows = []
    for entry, seen in runs.entries.items():
        mine = [run.result for run in seen if run.result is not None]
        if not mine:
            rows.append((float("inf"), _unfinished(entry, seen)))
            continue
        final, difference = Interval.of([r.final_loss for r in mine]), found.get(entry)
        p = corrected.get(entry)
        row = (
            entry,
            f"{mine[0].parameters:,}",
            _shown(final.mean, final.half_width, ""),
            "-" if difference is None else _shown(difference.mean, difference.half_width, "+"),
            "-" if p is None else "< 0.0001" if p < 1e-4 else f"{p:.4f}",
            _audit(mine),
        )
        rows.append((final.mean, row))
    against = "difference" if reference is None else f"minus {reference}"
    headers = ("model", "parameters", "final loss", against, "p (Holm)", "audit")
    return table(headers, [row for _, row in sorted(rows)], "Final losses, best first")


def _shown(mean: float, half: float | None, sign: str) -> str:
    return f"{mean:{sign}.4f}" + ("" if half is None else f" ± {half:.4f}")


def _unfinished(entry: str, seen: Sequence[SeenRun]) -> tuple[object, ...]:
    run = max(seen, key=lambda run: run.standing.step)
    at = f"{run.standing.state}, update {run.standing.step:,} of {run.standing.steps:,}"
    loss = run.standing.valid_loss
    return (entry, "-", "-" if loss is None else f"{loss:.4f} so far", at, "-", "-")


def _audit(results: Sequence[RunResult]) -> str:
    if any(r.leaks for r in results):
        return "LEAKS"
    if any(r.fault for r in results):
        return "FAILED"
    return "not made" if any(r.audit["passed"] is None for r in results) else "passed"
