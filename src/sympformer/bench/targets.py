"""Targets as data: what is held to which limit, and whether it is met.

A file of targets (benchmarks/targets.toml explains its form) names groups of cases, and ratios of
their costs a token.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from sympformer.bench.case import Case
from sympformer.bench.results import BenchReport, Ratio, ratio
from sympformer.bench.table import FAILED, OWN, machine_line, shown
from sympformer.errors import InputError
from sympformer.table import NONE, Table
from sympformer.typed import check_fields, from_table, read_toml

PEAK = "matmul peak"


@dataclass(frozen=True)
class Target:
    """The cost a token of one case over that of another, or the first one's share of the peak."""

    of: Case
    over: Case | None
    limit: float
    at_least: bool

    def measured(self, group: str, report: BenchReport, model: str | None = None) -> Ratio | None:
        """The ratio, also to another `model` in place of `over`'s; None if it was not measured."""
        of = report.find(group, self.of)
        if of is None or of.failed:
            return None
        if self.over is None:
            return Ratio(*[report.share(of)] * 3)
        over = report.find(group, self.over)
        if over is not None and model is not None:
            over = report.beside(over, model)
        return None if over is None else ratio(of, over)

    def meets(self, measured: Ratio) -> bool:
        """Whether the limit holds; for memory, in the increments and in whole processes."""
        both = self.of.measure == "memory"
        if self.at_least:
            return (measured.low if both else measured.value) >= self.limit
        return (measured.high if both else measured.value) <= self.limit


@dataclass(frozen=True)
class Group:
    """Cases that are measured side by side, and what they are held to."""

    name: str
    title: str
    cases: tuple[Case, ...]
    targets: tuple[Target, ...]

    @property
    def possible(self) -> bool:
        """Whether its device is there."""
        on_cuda = any(case.device.startswith("cuda") for case in self.cases)
        return torch.cuda.is_available() or not on_cuda


def load_targets(path: Path) -> list[Group]:
    """Read a file of targets.

    Raises:
        InputError: the file is missing, is no TOML, or has an unknown or bad value.
    """
    if not path.is_file():
        raise InputError(f"{path} does not exist: give a file of targets")
    try:
        return [_group(name, table) for name, table in read_toml(path).items()]
    except InputError as error:
        raise InputError(f"{path} is no file of targets ({error}): see its comments") from None


def target_table(groups: Sequence[Group], report: BenchReport) -> Table:
    """One row a target: the two costs, the limit, what was measured, and whether it is met."""
    rows, unmet = [], set()
    for group in groups:
        for target in group.targets:
            measured = target.measured(group.name, report)
            if measured is not None and not target.meets(measured):
                unmet.add(len(rows))
            rows.append(_row(group, target, measured, report))
    notes = (
        "Cost: time a token (median; in brackets the quartiles of the rounds), or bytes a token of "
        "a training step's peak memory above the process before (in brackets also those of the "
        "whole process; both must meet the limit).",
        "plain-gpt is a GPT written on torch's fused attention. Over gpt: the ratio to our own. "
        "Operations: the ratio of the operations a token, by formula (docs/speed.md).",
    )
    return Table(COLUMNS, tuple(rows), frozenset(unmet), machine_line(report), notes)


COLUMNS = ("case", "cost of", "over", "target", "measured", "met", "over gpt", "operations")


def target_dicts(groups: Sequence[Group], report: BenchReport) -> list[dict[str, str]]:
    """The same rows as plain data."""
    return target_table(groups, report).dicts()


def _row(
    group: Group, target: Target, measured: Ratio | None, report: BenchReport
) -> tuple[str, ...]:
    limit = f"{'≥' if target.at_least else '≤'} {target.limit:g}"
    names = (group.title, _name(target.of), _name(target.over) if target.over else PEAK, limit)
    if measured is None:
        ran = report.find(group.name, target.of) is not None
        return *names, NONE, FAILED if ran else "not run", NONE, NONE
    own = None
    if target.over is not None and target.over.model != target.of.model != OWN:
        own = target.measured(group.name, report, OWN)
    met = "yes" if target.meets(measured) else "no"
    return *names, shown(measured), met, shown(own), _operations(group, target, report)


def _operations(group: Group, target: Target, report: BenchReport) -> str:
    """The ratio of the operations a token, which are counted for times only."""
    of = report.find(group.name, target.of)
    over = report.find(group.name, target.over) if target.over else None
    if of is None or over is None or not of.flops or not over.flops:
        return NONE
    return f"{of.flops / of.tokens / (over.flops / over.tokens):.2f}"


def _name(case: Case) -> str:
    return f"{case.name}: {case.measure}, T {case.length}"


@dataclass(frozen=True)
class _GroupTable:
    """A group as TOML has it."""

    title: str
    options: Mapping[str, Any]
    target: tuple[Mapping[str, Any], ...]
    measure: str = "step"
    also: tuple[Mapping[str, Any], ...] = ()

    def __post_init__(self):
        check_fields(self)


@dataclass(frozen=True)
class _TargetTable:
    """A target as TOML has it: with one of the two limits."""

    of: Mapping[str, Any]
    over: Mapping[str, Any] | None = None
    at_most: float | None = None
    at_least: float | None = None

    def __post_init__(self):
        check_fields(self)
        if (self.at_most is None) == (self.at_least is None):
            raise InputError("a target has one of at_most and at_least")


def _group(name: str, table: Any) -> Group:
    group = from_table(_GroupTable, name, table)
    options = {"measure": group.measure, **group.options}
    targets = tuple(_target(options, entry) for entry in group.target)
    also = [_case(options, entry) for entry in group.also]
    needed = [case for target in targets for case in (target.over, target.of) if case]
    cases = tuple(dict.fromkeys([*sorted(needed, key=lambda c: c.model != "plain-gpt"), *also]))
    _check(name, cases)
    return Group(name, group.title, cases, targets)


def _target(options: dict[str, Any], entry: Mapping[str, Any]) -> Target:
    target = from_table(_TargetTable, "target", entry)
    over = None if target.over is None else _case(options, target.over)
    limit = target.at_most if target.at_least is None else target.at_least
    assert limit is not None
    return Target(_case(options, target.of), over, float(limit), target.at_least is not None)


def _case(options: dict[str, Any], entry: Mapping[str, Any]) -> Case:
    return from_table(Case, "case", {**options, **entry})


def _check(name: str, cases: Sequence[Case]) -> None:
    def mixed() -> Iterator[set[Any]]:
        yield {(case.device, case.dtype) for case in cases}
        yield {case.measure == "memory" for case in cases}

    if any(len(kinds) > 1 for kinds in mixed()):
        raise InputError(
            f"the cases of {name} cannot be measured side by side: they differ in device or dtype, "
            "or one is a time and another memory"
        )
