"""Comparisons: train presets alike, test the differences, tabulate and draw them."""

from sympformer.study.accuracy import accuracy_table, suite_table
from sympformer.study.archive import write_archive
from sympformer.study.board import Board
from sympformer.study.compare import compare
from sympformer.study.hypotheses import Declaration, Hypothesis
from sympformer.study.plan import Plan
from sympformer.study.report import print_suite, print_table, write_report, write_suite_report
from sympformer.study.results import RunResult, load_results
from sympformer.study.statistics import summarise
from sympformer.study.table import comparison_table

__all__ = [
    "Board",
    "Declaration",
    "Hypothesis",
    "Plan",
    "RunResult",
    "accuracy_table",
    "compare",
    "comparison_table",
    "load_results",
    "print_suite",
    "print_table",
    "suite_table",
    "summarise",
    "write_archive",
    "write_report",
    "write_suite_report",
]
