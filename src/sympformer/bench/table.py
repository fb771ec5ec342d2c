"""The tables of a bench run: times with a roofline, and peak memory."""

from collections.abc import Sequence

from sympformer.bench.case import MEASURES, PLAIN
from sympformer.bench.results import BenchReport, BenchResult, Ratio, ratio
from sympformer.table import NONE, Table

FAILED = "out of memory"
OWN = "gpt"
"""Our own GPT, the second model that others are compared with."""


def tables(report: BenchReport) -> list[Table]:
    """A table of times and one of memory, as far as they were measured."""
    times = [r for r in report.results if r.case.measure != "memory"]
    memory = [r for r in report.results if r.case.measure == "memory"]
    made = []
    if times:
        rows = [(*_named(r), *_time(report, r)) for r in times]
        made.append(_table(TIME_COLUMNS, rows, report, _time_notes(report, times)))
    if memory:
        rows = [(*_named(r), *_memory(report, r)) for r in memory]
        made.append(_table(MEMORY_COLUMNS, rows, report, MEMORY_NOTES))
    return made


NAMES = ("model", "measure", "params", "T", "d", "batch")
TIME_COLUMNS = (
    *NAMES,
    "µs/token",
    "over plain GPT",
    "over gpt",
    "MFLOP/token",
    "GFLOP/s",
    "of peak",
)
MEMORY_COLUMNS = (*NAMES, "peak MiB", "above start MiB", "over plain GPT", "over gpt")
MEMORY_NOTES = (
    "Peak memory: of a fresh process that makes two training steps, and above what the process "
    "held right before the model was built. Ratios: of the latter (of whole processes).",
)


def machine_line(report: BenchReport) -> str:
    """Machine, versions, commit, date and command, in one line."""
    m = report.machine
    threads = f"{m['threads']} thread{'s'[: m['threads'] != 1]}"
    load = "" if m["load"] is None else f", load {m['load']:.1f} before"
    return (
        f"{m['device']}, {threads}{load}; torch {m['torch']}; commit {m['commit']}; {m['date']}; "
        f"`{m['command']}`."
    )


def shown(value: Ratio | None, brackets: bool = True) -> str:
    """A ratio of times with its quartiles."""
    if value is None:
        return NONE
    return f"{value.value:.2f}" + (f" ({value.low:.2f}–{value.high:.2f})" if brackets else "")


def _table(
    columns: tuple[str, ...],
    rows: Sequence[tuple[str, ...]],
    report: BenchReport,
    notes: Sequence[str],
) -> Table:
    failed = frozenset(i for i, row in enumerate(rows) if FAILED in row)
    return Table(columns, tuple(rows), failed, machine_line(report), tuple(notes))


def _named(r: BenchResult) -> tuple[str, ...]:
    case = r.case
    numbers = (r.parameters, case.length, case.n_embd, case.batch_size)
    return case.name, case.measure, *(f"{n:,}" for n in numbers)


def _ratios(report: BenchReport, r: BenchResult) -> list[tuple[BenchResult, Ratio] | None]:
    """To the yardstick and to our own GPT, where they were measured beside it."""
    others = (report.beside(r, model) for model in (PLAIN, OWN))
    found = ((other, ratio(r, other)) if other and other != r else None for other in others)
    return [(pair[0], pair[1]) if pair and pair[1] else None for pair in found]


def _time(report: BenchReport, r: BenchResult) -> tuple[str, ...]:
    if r.failed:
        return FAILED, *[NONE] * 5
    return (
        f"{1e6 * r.cost:,.1f}",
        *(shown(pair[1]) if pair else NONE for pair in _ratios(report, r)),
        f"{r.flops / r.tokens / 1e6:,.2f}",
        f"{r.speed / 1e9:,.1f}",
        f"{100 * report.share(r):.1f} %",
    )


def _memory(report: BenchReport, r: BenchResult) -> tuple[str, ...]:
    if r.failed:
        return FAILED, *[NONE] * 3
    cells = (
        f"{pair[1].value:.2f} ({r.whole / pair[0].whole:.2f})" if pair else NONE
        for pair in _ratios(report, r)
    )
    return f"{r.whole / 2**20:,.0f}", f"{r.increment / 2**20:,.0f}", *cells


def _time_notes(report: BenchReport, times: Sequence[BenchResult]) -> list[str]:
    size = {(r.case.n_layer, r.case.n_head, r.case.vocab_size) for r in times}
    sizes = " | ".join(
        f"{layers} layers, {heads} heads, V {v}" for layers, heads, v in sorted(size)
    )
    peaks = ", ".join(f"{peak / 1e9:,.1f} GFLOP/s ({name})" for name, peak in report.peak.items())
    used = [f"{name}: {MEASURES[name]}" for name in dict.fromkeys(r.case.measure for r in times)]
    return [
        f"{sizes}; {report.machine['rounds']} rounds; in each, all models had their turn.",
        "; ".join(used) + ".",
        "Times are medians; ratios the median, in brackets the quartiles, of those of the rounds.",
        f"MFLOP: by formula (docs/speed.md). Peak: the best product of matrices, {peaks}.",
    ]
