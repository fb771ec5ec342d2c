"""What a comparison claims before anything is trained, and what its runs say of that."""

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import scipy

from sympformer.errors import InputError, shown
from sympformer.machine import commit
from sympformer.study.results import RunResult
from sympformer.study.statistics import PairedDifference, holm
from sympformer.table import NONE, Table
from sympformer.train.records import parse, read, write_json
from sympformer.train.runs import runs_in
from sympformer.typed import check_fields, from_table

DECLARED = "declared.json"
"""The declaration, in the folder of the comparison."""


@dataclass(frozen=True)
class Hypothesis:
    """A claim about the final validation losses of two entries, paired by seed.

    `better`: the loss of `entry` is less than that of `against` by more than `margin` nats per
    token. `equal`: the two differ by less than `margin`. It holds if p is below `alpha` after
    Holm's correction for all hypotheses of the same `family`.
    """

    entry: str
    against: str
    claim: Literal["better", "equal"] = "better"
    margin: float = 0.0
    family: str = "all"
    alpha: float = 0.05

    def __post_init__(self):
        check_fields(self)
        if self.entry == self.against:
            raise InputError(f"a hypothesis compares {self.entry!r} with itself")
        if self.margin < 0 or (self.claim == "equal" and not self.margin):
            raise InputError(
                "the margin of a hypothesis is in nats, at least 0; of 'equal' above 0, for no "
                f"two models are the same, not {self.margin}"
            )
        if not 0 < self.alpha < 1:
            raise InputError(f"alpha of a hypothesis must be between 0 and 1, not {self.alpha}")

    def __str__(self) -> str:
        if self.claim == "equal":
            return f"{self.entry} = {self.against} within {self.margin:g}"
        by = f" by {self.margin:g}" if self.margin else ""
        return f"{self.entry} < {self.against}{by}"

    def p(self, differences: np.ndarray) -> tuple[float, float]:
        """Of entry minus against by seed: p of the paired t test, and of Wilcoxon's signed ranks.

        Those of `better` are two-sided; of `equal` they are those of two one-sided tests (TOST;
        Schuirmann 1987), the larger of each pair.
        """
        if self.claim == "better":
            moved = differences + self.margin
            return _t(moved, "two-sided"), _wilcoxon(moved, "two-sided")
        above, below = differences + self.margin, differences - self.margin
        return (
            max(_t(above, "greater"), _t(below, "less")),
            max(_wilcoxon(above, "greater"), _wilcoxon(below, "less")),
        )


@dataclass(frozen=True)
class Declaration:
    """Hypotheses, and the seeds that decide them: the comparison stops there, whatever it shows."""

    hypotheses: Mapping[str, Hypothesis]
    seeds: tuple[int, ...]
    when: str = field(default="", compare=False)
    commit: str = field(default="", compare=False)

    @classmethod
    def of(cls, tables: Mapping[str, Any], seeds: Sequence[int], entries: Sequence[str]) -> Self:
        """From the tables of a plan.

        Raises:
            InputError: a claim that makes no sense, or about what is not compared.
        """
        made = {n: from_table(Hypothesis, f"hypothesis.{n}", t) for n, t in tables.items()}
        for name, hypothesis in made.items():
            for entry in (hypothesis.entry, hypothesis.against):
                if entry not in entries:
                    raise InputError(
                        f"hypothesis.{name} is about {entry!r}, which is not compared: add it to "
                        "the presets"
                    )
        if made and len(seeds) < 2:
            raise InputError("a hypothesis needs at least two seeds: add some to seeds")
        return cls(made, tuple(seeds))

    @classmethod
    def load(cls, folder: Path) -> Self | None:
        """That of a folder, or None.

        Raises:
            InputError: it is damaged.
        """
        path = folder / DECLARED
        if not path.exists():
            return None
        try:
            held = parse(folder, DECLARED, read(path))
            made = {n: from_table(Hypothesis, n, t) for n, t in held["hypotheses"].items()}
            return cls(made, tuple(held["seeds"]), held["when"], held["commit"])
        except (KeyError, TypeError, AttributeError) as error:
            raise InputError(f"{path} is damaged ({error}): restore it") from None

    def keep(self, folder: Path) -> None:
        """Write it, unless it stands there; nothing, where there is nothing to declare.

        Raises:
            InputError: another one does, or runs were made before it.
        """
        there = self.load(folder)
        if there is None and not self.hypotheses:
            return
        if there is None and (runs := runs_in(folder)):
            raise InputError(
                f"{folder} holds {len(runs)} runs that were begun before its hypotheses were "
                "declared: choose another folder with --out, or leave the hypotheses out"
            )
        if there is not None and there != self:
            raise InputError(
                f"{folder / DECLARED} declares other hypotheses or seeds than "
                f"{shown(list(self.hypotheses))} with seeds {list(self.seeds)}: what was declared "
                "before the runs stands; choose another folder with --out"
            )
        if there is None:
            now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
            write_json(folder / DECLARED, {**asdict(self), "when": now, "commit": commit()})

    def table(self, results: Sequence[RunResult]) -> Table:
        """What the runs say, a row a hypothesis."""
        losses: dict[str, dict[int, float]] = {}
        for run in results:
            if run.seed in self.seeds:
                losses.setdefault(run.preset, {})[run.seed] = run.final_loss
        found, ps = {}, {}
        for name, h in self.hypotheses.items():
            entry, against = losses.get(h.entry, {}), losses.get(h.against, {})
            found[name] = PairedDifference.paired(entry, against)
            if all(seed in entry and seed in against for seed in self.seeds):
                ps[name] = h.p(np.array([entry[s] - against[s] for s in self.seeds]))
        rows = []
        corrected = self._corrected({name: p for name, (p, _) in ps.items()})
        for name, h in self.hypotheses.items():
            d = found[name]
            numbers = (*ps[name], corrected[name]) if name in corrected else None
            rows.append(
                (
                    name,
                    str(h),
                    NONE if d is None else f"{d.mean:+.4f} ± {d.half_width or 0:.4f}",
                    *([NONE] * 3 if numbers is None else map(_shown_p, numbers)),
                    h.family,
                    self._outcome(h, d, None if numbers is None else numbers[2]),
                )
            )
        seeds = ", ".join(map(str, self.seeds))
        return Table(
            columns=(
                "hypothesis",
                "claim",
                "difference",
                "p (t)",
                "p (Wilcoxon)",
                "p (Holm)",
                "family",
                "outcome",
            ),
            rows=tuple(rows),
            marked=frozenset(),
            caption=f"Declared {self.when} at commit {self.commit}, with seeds {seeds}.",
            notes=(
                "Differences of final validation losses, nats per token, paired by seed, ± half "
                "their 95 % t interval. p: two-sided; of equality, the larger of two one-sided "
                "tests. Holm's correction is for all hypotheses of the same family.",
            ),
        )

    def _corrected(self, p: Mapping[str, float]) -> dict[str, float]:
        """After Holm's correction; of a family only once all that belongs to it is known."""
        families: dict[str, list[str]] = {}
        for name, h in self.hypotheses.items():
            families.setdefault(h.family, []).append(name)
        done = [names for names in families.values() if all(name in p for name in names)]
        return {n: v for names in done for n, v in holm({m: p[m] for m in names}).items()}

    def _outcome(self, h: Hypothesis, d: PairedDifference | None, p: float | None) -> str:
        if p is None or d is None:
            done = 0 if d is None else len(d.seeds)
            return f"not yet: {done} of {len(self.seeds)} seeds" + (
                ", others of its family are missing" if done == len(self.seeds) else ""
            )
        if p >= h.alpha:
            return "not shown"
        return "holds" if h.claim == "equal" or d.mean < -h.margin else "the opposite"


def _t(values: np.ndarray, alternative: str) -> float:
    if np.ptp(values) == 0:
        return _of_constant(values, alternative)
    return float(scipy.stats.ttest_1samp(values, 0.0, alternative=alternative).pvalue)


def _wilcoxon(values: np.ndarray, alternative: str) -> float:
    if not values.any():
        return 1.0
    return float(scipy.stats.wilcoxon(values, alternative=alternative).pvalue)


def _of_constant(values: np.ndarray, alternative: str) -> float:
    """Of seeds that make no difference at all: certain, or nothing."""
    value = float(values.flat[0])
    agrees = {"two-sided": value != 0, "greater": value > 0, "less": value < 0}[alternative]
    return 0.0 if agrees else 1.0


def _shown_p(p: float) -> str:
    return "< 0.0001" if p < 1e-4 else f"{p:.4f}"
