"""Measure all targets of speed and memory: `python benchmarks/targets.py` (see --help)."""

import re
import sys
from dataclasses import dataclass
from pathlib import Path

import tyro

from sympformer import machine
from sympformer.bench import BenchProgress, BenchReport, bench
from sympformer.bench.figure import write_figure
from sympformer.bench.table import tables
from sympformer.bench.targets import Group, load_targets, target_dicts, target_table
from sympformer.errors import InputError, lookup
from sympformer.files import atomic

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Options:
    """Measure the targets in targets.toml; write results/DATE-MACHINE.json, .md, .png, .svg."""

    only: tuple[str, ...] = ()
    """Names of groups in targets.toml; all if not given."""
    rounds: int = 5
    """Rounds that count, after a warm-up."""
    threads: int = 2
    """CPU threads."""
    targets: Path = HERE / "targets.toml"
    """File of targets."""
    out: Path = HERE / "results"
    """Folder for the results."""
    redraw: Path | None = None
    """Measure nothing: write tables and figure anew beside this file of results."""


def run(options: Options) -> None:
    """Measure, print, write."""
    groups = {group.name: group for group in load_targets(options.targets)}
    chosen = [lookup(groups, name, "group of targets") for name in options.only or groups]
    if options.redraw is not None:
        write(BenchReport.load(options.redraw), chosen, options.redraw.with_suffix(""))
        return
    if options.rounds < 1 or options.threads < 1:
        raise InputError("rounds and threads must be at least 1")
    cases = {group.name: group.cases for group in chosen if group.possible}
    if not cases:
        raise InputError("all chosen targets need a GPU, and there is none here")
    machine.keep_freed_memory()
    with machine.threads(options.threads):
        report = bench(cases, options.rounds, BenchProgress())
    device = re.sub(r"[^a-z0-9]+", "-", str(report.machine["device"]).lower()).strip("-")
    write(report, chosen, options.out / f"{report.machine['date'][:10]}-{device}")


def write(report: BenchReport, groups: list[Group], stem: Path) -> None:
    """Print the targets; write the numbers, the tables and the figure."""
    table, numbers, text = target_table(groups, report), f"{stem}.json", f"{stem}.md"
    table.print()
    report.save(Path(numbers), targets=target_dicts(groups, report))
    with atomic(text) as partial:
        partial.write_text("\n".join(t.markdown() for t in (table, *tables(report))))
    paths = [numbers, text, *write_figure(report, stem.parent, stem.name)]
    print("written: " + ", ".join(map(str, paths)))


if __name__ == "__main__":
    try:
        run(tyro.cli(Options))
    except InputError as error:
        print(f"targets: {error}", file=sys.stderr)
        sys.exit(2)
