"""Speed and memory, measured side by side with a plain GPT."""

from sympformer.bench.case import MEASURES, PLAIN, Case
from sympformer.bench.progress import Progress
from sympformer.bench.report import print_tables, write_report
from sympformer.bench.results import Report, Result, ratio
from sympformer.bench.run import bench
from sympformer.bench.sweep import sweep

__all__ = [
    "MEASURES",
    "PLAIN",
    "Case",
    "Progress",
    "Report",
    "Result",
    "bench",
    "print_tables",
    "ratio",
    "sweep",
    "write_report",
]
