"""What a comparison leaves behind: tables, numbers and a figure."""

import os
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from sympformer.files import atomic
from sympformer.study.figure import write_figure
from sympformer.study.results import RunResult
from sympformer.study.table import comparison_json, comparison_table


def write_report(
    results: Sequence[RunResult], folder: str | os.PathLike[str], baseline: str = "gpt"
) -> list[Path]:
    """Write `table.md`, `table.tex`, `results.json`, `loss.png` and `loss.svg`; return the paths.

    Raises:
        InputError: no run of the baseline, or `folder` cannot be written to.
    """
    table = comparison_table(results, baseline)
    contents = {
        "table.md": table.markdown(),
        "table.tex": table.latex(),
        "results.json": comparison_json(results, baseline),
    }
    for name, content in contents.items():
        with atomic(Path(folder) / name) as partial:
            partial.write_text(content, encoding="utf-8")
    paths = [Path(folder) / name for name in contents]
    return [*paths, *write_figure(results, Path(folder), baseline)]


def print_table(
    results: Sequence[RunResult], baseline: str = "gpt", console: Console | None = None
) -> None:
    """Print the table, its caption and its notes; as Markdown where the output is no terminal.

    Raises:
        InputError: no run of the baseline.
    """
    comparison_table(results, baseline).print(console)
