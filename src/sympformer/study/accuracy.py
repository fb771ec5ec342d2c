"""The tables of runs on tasks: accuracy at every test, beside the optimum and the memory."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from sympformer.errors import lookup
from sympformer.study.results import RunResult
from sympformer.study.statistics import Interval, PairedDifference
from sympformer.study.table import MARK, caption, rates_tried
from sympformer.table import NONE, Table

OPTIMUM = "optimum"


@dataclass(frozen=True)
class Answers:
    """What one entry answered, over its seeds."""

    preset: str
    seeds: tuple[int, ...]
    parameters: int
    learning_rate: float | None
    accuracy: dict[str, Interval]
    """By the setting of the test, the hardest last."""
    loss: dict[str, Interval]
    """Nats per answer."""
    state_bytes: dict[str, int | None]
    """Of a cache after one sequence of the test; None without a cache."""
    difference: PairedDifference | None
    """Of the accuracy at the hardest test, to the baseline; the baseline itself has none."""
    leaks: bool
    faults: tuple[str, ...]
    """Why these answers are not those of a sound decoder; empty if they are."""
    unaudited: str

    @property
    def hardest(self) -> Interval:
        """Accuracy at the last test."""
        return list(self.accuracy.values())[-1]


def answers(results: Sequence[RunResult], baseline: str) -> list[Answers]:
    """Summarise each entry: the baseline first, then by accuracy at the hardest test.

    Raises:
        InputError: no run of the baseline.
    """
    groups: dict[str, list[RunResult]] = {}
    for result in results:
        groups.setdefault(result.preset, []).append(result)
    lookup(groups, baseline, "baseline among these runs")
    found = [_answers(runs, groups[baseline]) for runs in groups.values()]
    return sorted(
        found, key=lambda a: (a.preset != baseline, bool(a.faults), -a.hardest.mean, a.preset)
    )


def accuracy_table(results: Sequence[RunResult], baseline: str) -> Table:
    """Tabulate the runs of one task, one row an entry, below the optimum.

    Raises:
        InputError: no run of the baseline.
    """
    found = answers(results, baseline)
    settings = [test.setting for test in results[0].tests]
    best = (
        OPTIMUM,
        NONE,
        NONE,
        *(f"{test.ceiling:.4f}" for test in results[0].tests),
        NONE,
        f"{results[0].tests[-1].floor:.4f}",
        NONE,
        NONE,
    )
    rows = [
        (
            a.preset + (f" {MARK}" if a.faults else ""),
            f"{a.parameters:,}",
            NONE if a.learning_rate is None else f"{a.learning_rate:g}",
            *(_interval(a.accuracy[setting]) for setting in settings),
            NONE if a.difference is None else _signed(a.difference),
            _interval(a.loss[settings[-1]]),
            _bytes(a.state_bytes[settings[-1]]),
            _audit(a),
        )
        for a in found
    ]
    return Table(
        columns=(
            "model",
            "params",
            "rate",
            *settings,
            f"vs {baseline}",
            f"loss at {settings[-1]}",
            f"state at {settings[-1]}",
            "audit",
        ),
        rows=(best, *rows),
        marked=frozenset(i for i, a in enumerate(found, 1) if a.faults),
        caption=caption(results),
        notes=tuple(_notes(results, found, baseline)),
    )


def suite_table(suite: Mapping[str, Sequence[RunResult]], baseline: str) -> Table:
    """Tabulate several tasks: accuracy of every entry at the hardest test of each.

    Raises:
        InputError: a task without a run of the baseline.
    """
    found = {name: answers(results, baseline) for name, results in suite.items()}
    names = list(dict.fromkeys(a.preset for task in found.values() for a in task))
    cells = {(name, a.preset): a for name, task in found.items() for a in task}
    best = tuple(f"{results[0].tests[-1].ceiling:.4f}" for results in suite.values())
    faulty = {a.preset for task in found.values() for a in task if a.faults}
    rows = [
        (
            entry + (f" {MARK}" if entry in faulty else ""),
            *(_interval(c.hardest) if (c := cells.get((n, entry))) else NONE for n in suite),
        )
        for entry in names
    ]
    everything = [result for results in suite.values() for result in results]
    return Table(
        columns=("model", *(f"{n} {results[0].tests[-1].setting}" for n, results in suite.items())),
        rows=((OPTIMUM, *best), *rows),
        marked=frozenset(i for i, entry in enumerate(names, 1) if entry in faulty),
        caption=caption(everything),
        notes=(
            "Accuracy at the hardest test of every task; ± is half the 95 % t interval over seeds.",
            *(
                f"{MARK} {a.preset} on {n} is no sound decoder: {fault}."
                for n, task in found.items()
                for a in task
                for fault in a.faults
            ),
        ),
    )


def accuracy_json(results: Sequence[RunResult], baseline: str) -> str:
    """The numbers of the table at full precision, its caption and its notes.

    Raises:
        InputError: no run of the baseline.
    """
    table = accuracy_table(results, baseline)
    optimum = {t.setting: {"accuracy": t.ceiling, "loss": t.floor} for t in results[0].tests}
    content = {
        "caption": table.caption,
        "notes": table.notes,
        OPTIMUM: optimum,
        "entries": [asdict(a) for a in answers(results, baseline)],
    }
    return json.dumps(content, indent=2) + "\n"


def _answers(runs: list[RunResult], reference: list[RunResult]) -> Answers:
    first = runs[0]
    tests = [[run.tests[i] for run in runs] for i in range(len(first.tests))]
    last = {run.seed: run.tests[-1].accuracy for run in runs}
    return Answers(
        preset=first.preset,
        seeds=tuple(sorted(last)),
        parameters=first.parameters,
        learning_rate=first.learning_rate,
        accuracy={t[0].setting: Interval.of([test.accuracy for test in t]) for t in tests},
        loss={t[0].setting: Interval.of([test.loss for test in t]) for t in tests},
        state_bytes={t[0].setting: t[0].state_bytes for t in tests},
        difference=None
        if runs is reference
        else PairedDifference.paired(last, {run.seed: run.tests[-1].accuracy for run in reference}),
        leaks=any(run.leaks for run in runs),
        faults=tuple(dict.fromkeys(run.fault for run in runs if run.fault)),
        unaudited=next((r.audit["verdict"] for r in runs if r.audit["passed"] is None), ""),
    )


def _notes(results: Sequence[RunResult], found: Sequence[Answers], baseline: str) -> list[str]:
    seeds = {result.seed for result in results}
    notes = [
        "Accuracy at each test, LENGTH or LENGTHxLOAD, on the same sequences for every model; "
        "optimum is the best that any model can expect there, and its loss (docs/tasks.md).",
        f"State: bytes of the cache after one sequence. vs {baseline}: accuracy at the last test.",
        "One seed: there is no spread, so a small difference may be chance."
        if len(seeds) == 1
        else "± is half the 95 % t interval over seeds, which are paired in differences.",
        *rates_tried(results),
    ]
    for name, variant in dict.fromkeys((r.preset, r.variant) for r in results if r.variant):
        notes.append(f"{name} is {variant}.")
    for a in found:
        if set(a.seeds) != seeds:
            notes.append(f"{a.preset} ran with seeds {', '.join(map(str, a.seeds))} only.")
        if a.unaudited:
            notes.append(f"{a.preset}: {a.unaudited}.")
        notes += [f"{MARK} {a.preset} is no sound decoder: {fault}." for fault in a.faults]
    return notes


def _audit(a: Answers) -> str:
    if a.leaks:
        return "LEAKS"
    return "FAILED" if a.faults else "not audited" if a.unaudited else "passed"


def _interval(value: Interval) -> str:
    spread = "" if value.half_width is None else f" ± {value.half_width:.4f}"
    return f"{value.mean:.4f}{spread}"


def _signed(value: PairedDifference) -> str:
    spread = "" if value.half_width is None else f" ± {value.half_width:.4f}"
    return f"{value.mean:+.4f}{spread}"


def _bytes(count: int | None) -> str:
    return NONE if count is None else f"{count:,} B"
