"""The table of a comparison, and its numbers."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict

from sympformer.shown import code
from sympformer.study.results import RunResult
from sympformer.study.statistics import Interval, PairedDifference, Summary, references, summarise
from sympformer.table import NONE, Table

MARK = "†"
NEVER = "never"


def comparison_table(results: Sequence[RunResult], baseline: str) -> Table:
    """Tabulate runs, one row a preset; unsound presets are marked.

    Raises:
        InputError: no run of the baseline.
    """
    summaries = summarise(results, baseline)
    compared = references(baseline, {summary.preset for summary in summaries})
    return Table(
        columns=(
            "model",
            "params",
            "final loss",
            "best loss",
            *(f"vs {name}" for name in compared),
            "above floor",
            f"steps to {baseline}",
            "tokens/s",
            "audit",
        ),
        rows=tuple(_row(summary, compared) for summary in summaries),
        marked=frozenset(i for i, summary in enumerate(summaries) if summary.faults),
        caption=caption(results),
        notes=tuple(_notes(results, summaries, baseline)),
    )


def comparison_json(results: Sequence[RunResult], baseline: str) -> str:
    """The numbers of the table at full precision, its caption and its notes.

    Raises:
        InputError: no run of the baseline.
    """
    table = comparison_table(results, baseline)
    content = {
        "caption": table.caption,
        "notes": table.notes,
        "presets": [asdict(summary) for summary in summarise(results, baseline)],
    }
    return json.dumps(content, indent=2) + "\n"


def _row(summary: Summary, compared: Sequence[str]) -> tuple[str, ...]:
    steps, paired = summary.steps_to_baseline, summary.differences.get(compared[0])
    return (
        summary.preset + (f" {MARK}" if summary.faults else ""),
        _count(summary.parameters),
        _mean(summary.final_loss),
        _mean(summary.best_loss),
        *(_difference(summary.differences.get(name)) for name in compared),
        NONE if summary.gap is None else f"{summary.gap:+.4f}",
        f"{steps:.0f}" if steps is not None else NEVER if paired else NONE,
        f"{summary.tokens_per_second:,.0f} ({summary.speed:.2f}x)",
        "LEAKS" if summary.leaks else _audit(summary),
    )


def _audit(summary: Summary) -> str:
    if summary.faults:
        return "FAILED"
    return "not audited" if summary.unaudited else "passed"


def _mean(value: Interval) -> str:
    spread = "" if value.half_width is None else f" ± {value.half_width:.4f}"
    return f"{value.mean:.4f}{spread}"


def _difference(value: PairedDifference | None) -> str:
    if value is None:
        return NONE
    spread = "" if value.half_width is None else f" ± {value.half_width:.4f}"
    return f"{value.mean:+.4f}{spread}"


def _count(n: int) -> str:
    return f"{n / 1e6:.2f}M" if n >= 1e6 else f"{n / 1e3:.1f}k" if n >= 1e3 else str(n)


def caption(results: Sequence[RunResult]) -> str:
    """Data, steps, seeds, machine, commit, command; alternatives where the runs differ."""
    facts = (
        _distinct(code(r.corpus) if r.tests else r.corpus for r in results),
        _distinct(map(_training, results)),
        _seeds(sorted({result.seed for result in results})),
        _distinct(result.machine for result in results),
        "commit " + _distinct(result.commit for result in results),
        _distinct(code(result.command) for result in results),
    )
    return "; ".join(facts) + "."


def rates_tried(results: Sequence[RunResult]) -> Iterable[str]:
    """Which learning rate of which counts, for every entry."""
    for result in {result.preset: result for result in results}.values():
        if len(result.rates) > 1:
            tried = ", ".join(f"{rate:g}" for rate in result.rates)
            bad = ", ".join(f"{rate:g}" for rate in result.diverged)
            yield (
                f"{result.preset}: learning rate {result.learning_rate:g}, the best of {tried} by "
                f"mean validation loss" + (f" (diverged at {bad})." if bad else ".")
            )


def _training(result: RunResult) -> str:
    """How long it was; seeds of a task have batches of different lengths."""
    if result.tests:
        return f"{result.steps:,} steps"
    return f"{result.steps:,} steps of {result.tokens // result.steps:,} tokens"


def _seeds(seeds: Sequence[int]) -> str:
    return ("seed " if len(seeds) == 1 else "seeds ") + ", ".join(map(str, seeds))


def _distinct(values: Iterable[str]) -> str:
    return " | ".join(dict.fromkeys(values))


def _notes(
    results: Sequence[RunResult], summaries: Sequence[Summary], baseline: str
) -> Iterable[str]:
    """What a reader must know before believing a number."""
    yield "Losses are nats per token on the validation tokens."
    for name, variant in dict.fromkeys((r.preset, r.variant) for r in results if r.variant):
        yield f"{name} is {variant}."
    if all(len(summary.seeds) == 1 for summary in summaries):
        yield "One seed: there is no spread, so a small difference may be chance."
    else:
        yield "± is half the 95 % t interval over seeds, which are paired in differences."
    for what, distinct in (
        ("data", {result.corpus for result in results}),
        ("tokens", {result.steps if result.tests else result.tokens for result in results}),
        ("entropy floors", {result.floor for result in results}),
    ):
        if len(distinct) > 1:
            yield f"The runs differ in {what}, so their losses cannot be compared."
    if any(s.steps_to_baseline is None and s.differences.get(baseline) for s in summaries):
        yield f"{NEVER}: at least one seed did not reach the final loss of {baseline}."
    yield from rates_tried(results)
    for result in results:
        if result.changes:
            changed = "; ".join(result.changes)
            yield f"{result.preset} (seed {result.seed}) was resumed with {changed}."
    seeds = {result.seed for result in results}
    for summary in summaries:
        if set(summary.seeds) != seeds:
            yield f"{summary.preset} ran with {_seeds(summary.seeds)} only."
        for name, difference in summary.differences.items():
            if difference is None:
                yield f"{summary.preset} and {name} have no seed in common: no paired difference."
            elif difference.seeds != summary.seeds:
                common = _seeds(difference.seeds)
                yield f"{summary.preset} is compared with {name} on {common} only."
    for summary in summaries:
        if summary.unaudited:
            yield f"{summary.preset}: {summary.unaudited}."
        for fault in summary.faults:
            yield f"{MARK} {summary.preset} is no sound decoder: {fault}."
