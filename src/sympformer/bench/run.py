"""From cases to a report."""

import datetime
import gc
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from sympformer import machine
from sympformer.bench.case import Case
from sympformer.bench.memory import fresh_peak
from sympformer.bench.operations import Operation, operation
from sympformer.bench.progress import BenchProgress
from sympformer.bench.results import BenchReport, BenchResult, place
from sympformer.bench.roofline import matmul_peak
from sympformer.bench.timing import interleave, out_of_memory


def bench(
    groups: Mapping[str, Sequence[Case]], rounds: int = 5, progress: BenchProgress | None = None
) -> BenchReport:
    """Measure groups of cases, those of a group in turn; see `BenchReport`.

    Args:
        groups: cases by the group's name; a group has one device and one dtype, and either times
            or memory.
        rounds: rounds that count, after a warm-up.
        progress: what shows the progress; nothing if None.

    Raises:
        InputError: a size that a model refuses.
    """
    progress = progress or BenchProgress.silent()
    places = {place(c): c for cases in groups.values() for c in cases}
    described = describe({case.device for case in places.values()})
    peaks = {name: matmul_peak(c.device, c.dtype) for name, c in places.items()}
    results = []
    with progress:
        for name, cases in groups.items():
            if cases[0].measure == "memory":
                results += [_memory(name, case, progress) for case in cases]
            else:
                results += _times(name, cases, rounds, progress)
    for name, c in places.items():  # the machine may have been busy the first time
        peaks[name] = max(peaks[name], matmul_peak(c.device, c.dtype))
    return BenchReport({**described, "rounds": rounds}, peaks, tuple(results))


def describe(devices: Iterable[str]) -> dict[str, Any]:
    """Devices, cores, threads, load before the run, versions, commit, date and command."""
    each = {device: machine.environment(torch.device(device)) for device in sorted(devices)}
    return {
        **next(iter(each.values())),
        "device": "; ".join(facts["device"] for facts in each.values()),
        "command": " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
    }


def _times(
    group: str, cases: Sequence[Case], rounds: int, progress: BenchProgress
) -> list[BenchResult]:
    device, compiled = cases[0].device, any(case.compile for case in cases)
    on_cpu = torch.device(device).type == "cpu"
    gc.collect()  # the models of the group before
    if not on_cpu:
        torch.accelerator.empty_cache()
    warmup = 1 if on_cpu and not compiled else 3
    progress.begin(group, len(cases) * (warmup + rounds))
    made = {case: op for case in cases if (op := _made(case, warmup + rounds))}
    runs = {case: op.run for case, op in made.items()}
    seconds = interleave(
        runs, rounds, warmup, lambda: machine.synchronise(torch.device(device)), progress.advance
    )
    results = []
    for case in cases:
        op = made.get(case)
        counts = (op.tokens, op.flops, op.parameters) if op else (0, 0.0, 0)
        results.append(BenchResult(case, group, *counts, seconds=seconds.get(case, ())))
    return results


def _made(case: Case, turns: int) -> Operation | None:
    """The operation, or None if memory is not enough for the model."""
    try:
        return operation(case, turns)
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        return None


def _memory(group: str, case: Case, progress: BenchProgress) -> BenchResult:
    progress.begin(f"{group}, {case.name}, T {case.length}", 1)
    peak = fresh_peak(case, torch.get_num_threads())
    progress.advance()
    with torch.device("meta"):  # no memory is taken
        model = replace(case, device="meta").build(case.length)
    parameters = sum(p.numel() for p in model.parameters())
    tokens = case.batch_size * case.length
    whole, increment = peak or (0, 0)
    return BenchResult(case, group, tokens, 0.0, parameters, whole=whole, increment=increment)
