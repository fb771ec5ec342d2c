"""Targets as data: what is held to which limit, and whether it is met.

A file of targets (benchmarks/targets.toml explains its form) names groups of cases, and ratios of
their costs a token.
"""

import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch

from sympformer.bench.case import Case
from sympformer.bench.results import BenchReport, Ratio, ratio
from sympformer.bench.table import FAILED, OWN, machine_line, shown
from sympformer.errors import InputError, lookup
from sympformer.table import NONE, Table

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
    try:
        return [_group(name, table) for name, table in tomllib.loads(path.read_text()).items()]
    except FileNotFoundError:
        raise InputError(f"{path} does not exist: give a file of targets") from None
    except (tomllib.TOMLDecodeError, KeyError, TypeError, AttributeError) as error:
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


def _group(name: str, table: dict[str, Any]) -> Group:
    for key in table:
        lookup(dict.fromkeys(("title", "measure", "options", "also", "target")), key, "key")
    options = {"measure": table.get("measure", "step"), **table["options"]}
    targets = tuple(_target(options, entry) for entry in table["target"])
    also = [_case(options, entry) for entry in table.get("also", [])]
    needed = [case for target in targets for case in (target.over, target.of) if case]
    cases = tuple(dict.fromkeys([*sorted(needed, key=lambda c: c.model != "plain-gpt"), *also]))
    _check(name, cases)
    return Group(name, table["title"], cases, targets)


def _target(options: dict[str, Any], entry: dict[str, Any]) -> Target:
    limits = [(key, entry[key]) for key in ("at_most", "at_least") if key in entry]
    if len(limits) != 1 or entry.keys() - {"of", "over", "at_most", "at_least"}:
        raise InputError(f"a target has `of`, `over`, and one of at_most and at_least: {entry}")
    over = _case(options, entry["over"]) if "over" in entry else None
    kind, limit = limits[0]
    return Target(_case(options, entry["of"]), over, float(limit), kind == "at_least")


def _case(options: dict[str, Any], entry: dict[str, Any]) -> Case:
    known = {f.name: f for f in fields(Case)}
    for key in (*options, *entry):
        lookup(known, key, "option")
    return Case(**{**options, **entry})


def _check(name: str, cases: Sequence[Case]) -> None:
    def mixed() -> Iterator[set[Any]]:
        yield {(case.device, case.dtype) for case in cases}
        yield {case.measure == "memory" for case in cases}

    if any(len(kinds) > 1 for kinds in mixed()):
        raise InputError(
            f"the cases of {name} cannot be measured side by side: they differ in device or dtype, "
            "or one is a time and another memory"
        )
