"""The table of a comparison, for the terminal, Markdown, LaTeX and JSON."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Group
from rich.table import Table as RichTable
from rich.text import Text

from sympformer.study.results import RunResult
from sympformer.study.statistics import Difference, Mean, Summary, references, summarise

MARK = "†"
NONE = "-"
NEVER = "never"


@dataclass(frozen=True)
class Table:
    """Cells as text, first column names and the rest numbers; `marked` are the unsound rows."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    marked: frozenset[int]
    caption: str
    notes: tuple[str, ...]
    summaries: tuple[Summary, ...]

    @classmethod
    def of(cls, results: Sequence[RunResult], baseline: str) -> "Table":
        """Tabulate runs, one row a preset.

        Raises:
            InputError: no run of the baseline.
        """
        summaries = summarise(results, baseline)
        presets = {summary.preset for summary in summaries}
        compared = references(baseline, presets)
        return cls(
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
            caption=_caption(results),
            notes=tuple(_notes(results, summaries, baseline)),
            summaries=tuple(summaries),
        )

    def rich(self) -> Group:
        """For `rich.print`."""
        table = RichTable(box=None, pad_edge=False, header_style="bold")
        for i, name in enumerate(self.columns):
            first = i == 0
            table.add_column(name, justify="left" if first else "right", no_wrap=first)
        for i, row in enumerate(self.rows):
            table.add_row(*map(Text, row), style="red" if i in self.marked else None)
        lines = (Text(line, style="dim") for line in (self.caption, *self.notes))
        return Group(table, Text(), *lines)

    def markdown(self) -> str:
        """As a GitHub table."""
        rule = [":--", *["--:"] * (len(self.columns) - 1)]
        lines = [
            "| " + " | ".join(cell.replace("|", r"\|") for cell in row) + " |"
            for row in (self.columns, rule, *self.rows)
        ]
        return "\n".join([*lines, "", self.caption, *(f"\n{note}" for note in self.notes), ""])

    def latex(self) -> str:
        """As a booktabs table."""
        header, *rows = (
            " & ".join(map(_escape, row)) + r" \\" for row in (self.columns, *self.rows)
        )
        lines = [
            r"% needs \usepackage{booktabs}",
            r"\begin{table}",
            r"\centering\footnotesize\setlength{\tabcolsep}{3pt}",
            r"\begin{tabular}{l" + "r" * (len(self.columns) - 1) + "}",
            r"\toprule",
            header,
            r"\midrule",
            *rows,
            r"\bottomrule",
            r"\end{tabular}",
            rf"\caption{{{_escape(' '.join((self.caption, *self.notes)))}}}",
            r"\end{table}",
        ]
        return "\n".join(lines) + "\n"

    def json(self) -> str:
        """All numbers at full precision."""
        content: dict[str, Any] = {
            "caption": self.caption,
            "notes": self.notes,
            "presets": [asdict(summary) for summary in self.summaries],
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
        "LEAKS" if summary.leaks else "FAILED" if summary.faults else "passed",
    )


def _mean(value: Mean) -> str:
    return f"{value.mean:.4f}" + ("" if value.sd is None else f" ± {value.sd:.4f}")


def _difference(value: Difference | None) -> str:
    if value is None:
        return NONE
    spread = "" if value.half_width is None else f" ± {value.half_width:.4f}"
    return f"{value.mean:+.4f}{spread}"


def _count(n: int) -> str:
    return f"{n / 1e6:.2f}M" if n >= 1e6 else f"{n / 1e3:.1f}k" if n >= 1e3 else str(n)


def _caption(results: Sequence[RunResult]) -> str:
    """Data, steps, seeds, machine, commit, command; alternatives where the runs differ."""
    facts = (
        _distinct(result.corpus for result in results),
        _distinct(
            f"{result.steps:,} steps of {result.tokens // result.steps:,} tokens"
            for result in results
        ),
        _seeds(sorted({result.seed for result in results})),
        _distinct(result.machine for result in results),
        "commit " + _distinct(result.commit for result in results),
        _distinct(f"`{result.command}`" for result in results),
    )
    return "; ".join(facts) + "."


def _seeds(seeds: Sequence[int]) -> str:
    return ("seed " if len(seeds) == 1 else "seeds ") + ", ".join(map(str, seeds))


def _distinct(values: Iterable[str]) -> str:
    return " | ".join(dict.fromkeys(values))


def _notes(
    results: Sequence[RunResult], summaries: Sequence[Summary], baseline: str
) -> Iterable[str]:
    """What a reader must know before believing a number."""
    yield "Losses are nats per token on the validation tokens."
    if all(len(summary.seeds) == 1 for summary in summaries):
        yield "One seed: there is no spread, so a small difference may be chance."
    else:
        yield (
            "± is the standard deviation over seeds; for differences, which are paired by seed, "
            "half the 95 % t interval."
        )
    for what, distinct in (
        ("data", {result.corpus for result in results}),
        ("tokens", {result.tokens for result in results}),
        ("entropy floors", {result.floor for result in results}),
    ):
        if len(distinct) > 1:
            yield f"The runs differ in {what}, so their losses cannot be compared."
    if any(s.steps_to_baseline is None and s.differences.get(baseline) for s in summaries):
        yield f"{NEVER}: at least one seed did not reach the final loss of {baseline}."
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
        for fault in summary.faults:
            yield f"{MARK} {summary.preset} is no sound decoder: {fault}."


_LATEX = {
    **{character: "\\" + character for character in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": "$<$",
    ">": "$>$",
    "|": "$|$",
    "±": r"$\pm$",
    "†": r"\dag{}",
}


def _escape(text: str) -> str:
    return "".join(_LATEX.get(character, character) for character in text)
