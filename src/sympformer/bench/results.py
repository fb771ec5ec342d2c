"""What was measured, its ratios, and its file."""

import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, Self

from sympformer.bench.case import PLAIN, Case
from sympformer.errors import InputError
from sympformer.files import atomic, read_bytes


@dataclass(frozen=True)
class BenchResult:
    """One case: the seconds of its rounds, or its peak memory; neither if memory was not enough.

    Results of one `group` were measured in turn, round by round; `tokens` (of all sequences),
    `flops` are those of one round. `whole` and `increment` are bytes, see `memory.Peak`.
    """

    case: Case
    group: str
    tokens: int
    flops: float
    parameters: int
    seconds: tuple[float, ...] = ()
    whole: int = 0
    increment: int = 0

    @property
    def failed(self) -> bool:
        """Whether it ran out of memory."""
        return not self.seconds and not self.whole

    @property
    def cost(self) -> float:
        """Seconds a token, the median; or bytes a token, above the process before the model."""
        return (statistics.median(self.seconds) if self.seconds else self.increment) / self.tokens

    @property
    def speed(self) -> float:
        """Operations a second."""
        return self.flops / statistics.median(self.seconds)


def place(case: Case) -> str:
    """Where and in what precision a case runs."""
    return f"{case.device} {case.dtype}"


class Ratio(NamedTuple):
    """Of two costs a token: the median and the quartiles of the ratios of single rounds.

    For memory, which is measured once: the ratio of the increments, then the smaller and the
    larger of it and the ratio of whole processes.
    """

    value: float
    low: float
    high: float


def ratio(of: BenchResult, over: BenchResult) -> Ratio | None:
    """How many times the cost a token; None if one of them ran out of memory.

    Raises:
        ValueError: one is a time and the other is memory, or they were not measured in turn.
    """
    if of.failed or over.failed:
        return None
    if of.group != over.group or len(of.seconds) != len(over.seconds):
        raise ValueError(f"{of.case} and {over.case} were not measured side by side")
    share = over.tokens / of.tokens
    if not of.seconds:
        value, whole = of.cost / over.cost, of.whole / over.whole * share
        return Ratio(value, min(value, whole), max(value, whole))
    rounds = [a / b * share for a, b in zip(of.seconds, over.seconds, strict=True)]
    return Ratio(statistics.median(rounds), *_quartiles(rounds))


@dataclass(frozen=True)
class BenchReport:
    """All results of a run, the machine, and its matmul peak (operations a second) by `place`."""

    machine: dict[str, Any]
    peak: dict[str, float]
    results: tuple[BenchResult, ...]

    def share(self, result: BenchResult) -> float:
        """Operations a second as a share of the matmul peak."""
        return result.speed / self.peak[place(result.case)]

    def find(self, group: str, case: Case) -> BenchResult | None:
        """The result of a case, if it was measured."""
        found = (r for r in self.results if (r.group, r.case) == (group, case))
        return next(found, None)

    def beside(self, result: BenchResult, model: str = PLAIN) -> BenchResult | None:
        """The result of another model beside it, of the same form if there is one."""
        forms = ("auto",) if model == PLAIN else (result.case.form, "auto")
        others = (replace(result.case, model=model, form=form) for form in forms)
        return next(filter(None, (self.find(result.group, case) for case in others)), None)

    def save(self, path: Path, **more: Any) -> None:
        """Write it as JSON."""
        with atomic(path) as partial:
            partial.write_text(json.dumps({**asdict(self), **more}, indent=1) + "\n")

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what `save` wrote.

        Raises:
            InputError: missing or corrupt.
        """
        try:
            stored = json.loads(read_bytes(path))
            results = tuple(
                BenchResult(**{**r, "case": Case(**r["case"]), "seconds": tuple(r["seconds"])})
                for r in stored["results"]
            )
            return cls(stored["machine"], stored["peak"], results)
        except FileNotFoundError:
            raise InputError(f"{path} does not exist: give a file that bench wrote") from None
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            raise InputError(f"{path} is corrupt ({reason}): measure again") from None


def _quartiles(values: Sequence[float]) -> tuple[float, float]:
    if len(values) == 1:
        return values[0], values[0]
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, high
