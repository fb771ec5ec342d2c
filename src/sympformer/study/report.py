"""What a comparison leaves behind: tables, numbers and a figure."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console

from sympformer.files import atomic
from sympformer.study.accuracy import accuracy_json, accuracy_table, suite_table
from sympformer.study.accuracy_figure import write_accuracy, write_suite
from sympformer.study.figure import write_figure
from sympformer.study.hypotheses import Declaration
from sympformer.study.results import RunResult
from sympformer.study.table import comparison_json, comparison_table


def write_report(
    results: Sequence[RunResult], folder: str | os.PathLike[str], baseline: str = "gpt"
) -> list[Path]:
    """Write `table.md`, `table.tex`, `results.json`, `loss.png` and `loss.svg`; return the paths.

    Of runs on a task also `accuracy.md`, `.tex`, `.json`, `.png` and `.svg`; where hypotheses were
    declared in `folder`, `hypotheses.md`, `.tex` and `.json`.

    Raises:
        InputError: no run of the baseline, or `folder` cannot be written to.
    """
    table = comparison_table(results, baseline)
    contents = {
        "table.md": table.markdown(),
        "table.tex": table.latex(),
        "results.json": comparison_json(results, baseline),
    }
    if of_task(results):
        accuracy = accuracy_table(results, baseline)
        contents["accuracy.md"] = accuracy.markdown()
        contents["accuracy.tex"] = accuracy.latex()
        contents["accuracy.json"] = accuracy_json(results, baseline)
    if declared := Declaration.load(Path(folder)):
        claims = declared.table(results)
        contents["hypotheses.md"] = claims.markdown()
        contents["hypotheses.tex"] = claims.latex()
        contents["hypotheses.json"] = json.dumps(claims.dicts(), indent=2) + "\n"
    for name, content in contents.items():
        with atomic(Path(folder) / name) as partial:
            partial.write_text(content, encoding="utf-8")
    paths = [Path(folder) / name for name in contents]
    figures = write_figure(results, Path(folder), baseline)
    if of_task(results):
        figures += write_accuracy(results, Path(folder), baseline)
    return [*paths, *figures]


def write_suite_report(
    suite: Mapping[str, Sequence[RunResult]], folder: str | os.PathLike[str], baseline: str
) -> list[Path]:
    """Write `suite.md`, `suite.tex`, `suite.png` and `suite.svg` of several tasks.

    Args:
        suite: the runs of every task, by its name.
        folder: where to write.
        baseline: comes first in the table.

    Raises:
        InputError: no run of the baseline, or `folder` cannot be written to.
    """
    table = suite_table(suite, baseline)
    paths = [Path(folder) / "suite.md", Path(folder) / "suite.tex"]
    for path, content in zip(paths, (table.markdown(), table.latex()), strict=True):
        with atomic(path) as partial:
            partial.write_text(content, encoding="utf-8")
    return [*paths, *write_suite(suite, Path(folder), baseline)]


def of_task(results: Sequence[RunResult]) -> bool:
    """Whether these runs answered the same tests of a task."""
    asked = {tuple(test.setting for test in result.tests) for result in results}
    return len(asked) == 1 and asked != {()}


def print_table(
    results: Sequence[RunResult], baseline: str = "gpt", console: Console | None = None
) -> None:
    """Print the table, its caption and its notes; as Markdown where the output is no terminal.

    Of runs on a task it is that of accuracies.

    Raises:
        InputError: no run of the baseline.
    """
    table = accuracy_table if of_task(results) else comparison_table
    table(results, baseline).print(console)


def print_suite(
    suite: Mapping[str, Sequence[RunResult]], baseline: str, console: Console | None = None
) -> None:
    """Print the table of several tasks as `print_table` does.

    Raises:
        InputError: no run of the baseline.
    """
    suite_table(suite, baseline).print(console)
