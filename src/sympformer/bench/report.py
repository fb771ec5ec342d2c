"""What a bench run leaves behind: numbers, tables and a figure."""

from pathlib import Path

from rich.console import Console

from sympformer.bench.figure import write_figure
from sympformer.bench.results import BenchReport
from sympformer.bench.table import tables
from sympformer.files import atomic

RESULTS = "results.json"


def write_report(report: BenchReport, folder: Path) -> list[Path]:
    """Write `results.json`, `table.md` and, for several lengths, `cost.png` and `cost.svg`.

    Raises:
        InputError: the folder cannot be written to.
    """
    report.save(folder / RESULTS)
    with atomic(folder / "table.md") as partial:
        partial.write_text("\n".join(t.markdown() for t in tables(report)), encoding="utf-8")
    return [folder / RESULTS, folder / "table.md", *write_figure(report, folder)]


def print_tables(report: BenchReport, console: Console | None = None) -> None:
    """Print the tables; as Markdown where the output is no terminal."""
    for table in tables(report):
        table.print(console)
