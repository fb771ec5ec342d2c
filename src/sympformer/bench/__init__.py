"""Speed and memory, measured side by side with a plain GPT."""

from sympformer.bench.case import MEASURES, PLAIN, Case
from sympformer.bench.grid import existing, grid
from sympformer.bench.progress import BenchProgress
from sympformer.bench.report import print_tables, write_report
from sympformer.bench.results import BenchReport, BenchResult, ratio
from sympformer.bench.run import bench

__all__ = [
    "MEASURES",
    "PLAIN",
    "BenchProgress",
    "BenchReport",
    "BenchResult",
    "Case",
    "bench",
    "existing",
    "grid",
    "print_tables",
    "ratio",
    "write_report",
]
