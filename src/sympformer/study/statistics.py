"""What runs over several seeds say, each preset against a baseline on the same seeds."""

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import scipy

from sympformer.errors import lookup
from sympformer.study.results import Curve, RunResult


def references(baseline: str, presets: Container[str]) -> list[str]:
    """What every preset is compared with: the baseline, and its control where there is one.

    The control, `gpt-untied` for `gpt`, has the tables of the momentum models and none of their
    dynamics.
    """
    return [name for name in (baseline, control(baseline)) if name in presets]


def control(baseline: str) -> str:
    """The baseline's control."""
    return f"{baseline}-untied"


def fairest(baseline: str, presets: Container[str]) -> str:
    """What differences are drawn from: the control if it is there, else the baseline."""
    return references(baseline, presets)[-1]


@dataclass(frozen=True)
class Interval:
    """Mean over seeds, and half the 95 % t interval of it; None without spread."""

    mean: float
    half_width: float | None

    @classmethod
    def of(cls, values: Sequence[float]) -> "Interval":
        """Summarise one value a seed."""
        half = half_interval(np.asarray(values))
        return cls(float(np.mean(values)), float(half) or None)


def half_interval(values: np.ndarray) -> np.ndarray:
    """Half the 95 % t interval of the mean along the first axis, the seeds; 0 of one seed."""
    n = len(values)
    if n == 1:
        return np.zeros(values.shape[1:])
    return scipy.stats.t.ppf(0.975, n - 1) * values.std(0, ddof=1) / n**0.5


@dataclass(frozen=True)
class PairedDifference:
    """Mean of (value - reference) over the seeds that both have.

    `half_width` of the 95 % t interval and two-sided `p` of the paired t test; None where fewer
    than two seeds are common, or the differences do not vary at all.
    """

    mean: float
    half_width: float | None
    p: float | None
    seeds: tuple[int, ...]

    @classmethod
    def paired(
        cls, values: Mapping[int, float], reference: Mapping[int, float]
    ) -> "PairedDifference | None":
        """Compare values by seed; None if no seed is common."""
        seeds = tuple(sorted(values.keys() & reference.keys()))
        if not seeds:
            return None
        differences = np.array([values[seed] - reference[seed] for seed in seeds])
        mean = float(differences.mean())
        if len(seeds) == 1 or np.ptp(differences) == 0:
            return cls(mean, None, None, seeds)
        test = scipy.stats.ttest_1samp(differences, 0.0)
        low, high = test.confidence_interval(0.95)
        return cls(mean, float(high - low) / 2, float(test.pvalue), seeds)


def differences_from(
    results: Sequence[RunResult], reference: str
) -> dict[str, PairedDifference | None]:
    """The final loss of every other entry, compared with one by seed; None if no seed is common."""
    losses: dict[str, dict[int, float]] = {}
    for result in results:
        losses.setdefault(result.preset, {})[result.seed] = result.final_loss
    lookup(losses, reference, "entry among these runs")
    return {
        name: PairedDifference.paired(values, losses[reference])
        for name, values in losses.items()
        if name != reference
    }


def holm(p: Mapping[str, float]) -> dict[str, float]:
    """Holm's correction: p values of several comparisons, such that any below α is one in α.

    The chance that any true hypothesis has such a p below α is at most α, however they depend on
    one another (Holm 1979, Scand. J. Stat. 6).
    """
    corrected, least = {}, 0.0
    for i, name in enumerate(sorted(p, key=lambda name: p[name])):
        least = max(least, min(1.0, (len(p) - i) * p[name]))
        corrected[name] = least
    return {name: corrected[name] for name in p}


@dataclass(frozen=True)
class Summary:
    """One preset over its seeds; losses in nats per token."""

    preset: str
    seeds: tuple[int, ...]
    parameters: int
    final_loss: Interval
    best_loss: Interval
    differences: dict[str, PairedDifference | None]
    """Of the final loss, to each reference; the reference itself has none."""
    gap: float | None
    """Final loss above the entropy floor, mean over seeds."""
    steps_to_baseline: float | None
    """Updates until the baseline's final loss of the same seed, mean; None if any seed never."""
    tokens_per_second: float
    speed: float
    """Tokens per second relative to the baseline."""
    leaks: bool
    unaudited: str
    """Why there was no audit; empty if there was."""
    faults: tuple[str, ...]
    """Why these losses are not those of a sound decoder; empty if they are."""


def summarise(results: Sequence[RunResult], baseline: str) -> list[Summary]:
    """Summarise each preset: the baseline first, then by final loss; faulty presets last.

    Raises:
        InputError: no run of the baseline.
    """
    groups: dict[str, list[RunResult]] = {}
    for result in results:
        groups.setdefault(result.preset, []).append(result)
    lookup(groups, baseline, "baseline among these runs")
    summaries = [_summary(runs, groups, baseline) for runs in groups.values()]
    return sorted(
        summaries, key=lambda s: (s.preset != baseline, bool(s.faults), s.final_loss.mean, s.preset)
    )


def steps_to(curve: Curve, loss: float) -> float | None:
    """Updates until the validation loss is first `loss`, between evaluations linearly; or None."""
    reached = np.flatnonzero(curve.loss <= loss)
    if reached.size == 0:
        return None
    i = int(reached[0])
    if i == 0:
        return float(curve.step[0])
    share = (curve.loss[i - 1] - loss) / (curve.loss[i - 1] - curve.loss[i])
    return float(curve.step[i - 1] + share * (curve.step[i] - curve.step[i - 1]))


def _summary(
    runs: list[RunResult],
    groups: dict[str, list[RunResult]],
    baseline: str,
) -> Summary:
    preset = runs[0].preset
    final = _final_losses(runs)
    target = _final_losses(groups[baseline])
    steps = [steps_to(run.curve, target[run.seed]) for run in runs if run.seed in target]
    gaps = [run.final_loss - run.floor for run in runs if run.floor is not None]
    speed = float(np.mean([run.tokens_per_second for run in runs]))
    return Summary(
        preset=preset,
        seeds=tuple(sorted(final)),
        parameters=runs[0].parameters,
        final_loss=Interval.of(list(final.values())),
        best_loss=Interval.of([run.best_loss for run in runs]),
        differences={
            name: PairedDifference.paired(final, _final_losses(groups[name]))
            for name in references(baseline, groups)
            if name != preset
        },
        gap=float(np.mean(gaps)) if len(gaps) == len(runs) else None,
        steps_to_baseline=_mean_of_all(steps),
        tokens_per_second=speed,
        speed=speed / float(np.mean([run.tokens_per_second for run in groups[baseline]])),
        leaks=any(run.leaks for run in runs),
        unaudited=next((r.audit["verdict"] for r in runs if r.audit["passed"] is None), ""),
        faults=tuple(dict.fromkeys(run.fault for run in runs if run.fault)),
    )


def _final_losses(runs: list[RunResult]) -> dict[int, float]:
    return {run.seed: run.final_loss for run in runs}


def _mean_of_all(values: list[float | None]) -> float | None:
    present = [value for value in values if value is not None]
    return float(np.mean(present)) if present and len(present) == len(values) else None
