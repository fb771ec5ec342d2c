"""What an experiment leaves behind: arrays, claims with measured numbers, figures."""

import dataclasses
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from sympformer.files import atomic

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Claim:
    """A statement of the theory, the number measured for it, and where that number must lie."""

    source: str
    statement: str
    measured: float
    low: float | None = None
    high: float | None = None

    @property
    def holds(self) -> bool:
        """Whether low ≤ measured ≤ high."""
        above = self.low is None or self.measured >= self.low
        below = self.high is None or self.measured <= self.high
        return bool(above and below and math.isfinite(self.measured))

    def __str__(self) -> str:
        if self.low is None:
            wanted = f"≤ {self.high:.3g}"
        elif self.high is None:
            wanted = f"≥ {self.low:.3g}"
        else:
            wanted = f"in [{self.low:.3g}, {self.high:.3g}]"
        verdict = "holds" if self.holds else "FAILS"
        return f"{verdict}  {self.source}: {self.statement}: {self.measured:.3g} {wanted}"


@dataclass(frozen=True)
class Result:
    """Arrays by name, claims, and other numbers worth printing.

    `frames` holds clouds for an animation, by panel title, at `frame_times`: `(frames, N, 2)`, or
    `(frames, N, 3)` of tokens on the unit sphere; `momenta` those of such tokens that have some.
    """

    arrays: dict[str, np.ndarray]
    claims: list[Claim]
    numbers: Mapping[str, float] = field(default_factory=dict)
    frames: dict[str, np.ndarray] = field(default_factory=dict)
    momenta: dict[str, np.ndarray] = field(default_factory=dict)
    frame_times: np.ndarray = field(default_factory=lambda: np.empty(0))


class Experiment(NamedTuple):
    """A row of the table of experiments; an `animated` one has frames in its results."""

    config: type
    run: Callable[[Any], Result]
    help: str
    draw: Callable[[Result], "Figure"]
    animated: bool = False


def write(out: Path, name: str, config: Any, result: Result, figure: "Figure") -> list[Path]:
    """Write NAME.npz, NAME.json, NAME.png and NAME.svg into `out`; return their paths."""
    report = {
        "experiment": name,
        "config": {k: _plain(v) for k, v in dataclasses.asdict(config).items()},
        "claims": [
            {k: _plain(v) for k, v in dataclasses.asdict(claim).items()} | {"holds": claim.holds}
            for claim in result.claims
        ],
        "numbers": {k: _plain(v) for k, v in result.numbers.items()},
    }
    paths = [out / f"{name}.{suffix}" for suffix in ("npz", "json", "png", "svg")]
    with atomic(paths[0]) as path:
        np.savez_compressed(path, **result.arrays)  # pyright: ignore[reportArgumentType]
    with atomic(paths[1]) as path:
        path.write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    import matplotlib

    with matplotlib.rc_context({"svg.hashsalt": name}):
        for target in paths[2:]:
            with atomic(target) as path:
                figure.savefig(
                    path, dpi=150, metadata={"Date": None} if path.suffix == ".svg" else None
                )
    return paths


def contour(cloud: np.ndarray, deviations: float = 2.0) -> tuple[np.ndarray, np.ndarray]:
    """The ellipse at so many standard deviations about the mean of a cloud `(N, 2)`: x and y."""
    angle = np.linspace(0, 2 * np.pi, 121)
    values, axes = np.linalg.eigh(np.cov(cloud.T))
    half = deviations * np.sqrt(values.clip(0))[:, None] * np.stack([np.cos(angle), np.sin(angle)])
    x, y = cloud.mean(0)[:, None] + axes @ half
    return x, y


def _plain(value: Any) -> Any:
    """`value` as JSON has it: numbers of numpy become Python's, what is not finite becomes null."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, tuple):
        return [_plain(v) for v in value]
    return str(value) if isinstance(value, Path) else value
