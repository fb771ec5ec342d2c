"""What an experiment leaves behind: arrays, claims with measured numbers, figures, animations."""

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

    `frames` holds clouds for an animation, by panel title: `(frames, N, 2)`, at `frame_times`.
    """

    arrays: dict[str, np.ndarray]
    claims: list[Claim]
    numbers: Mapping[str, float] = field(default_factory=dict)
    frames: dict[str, np.ndarray] = field(default_factory=dict)
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


def animate(out: Path, name: str, result: Result) -> Path:
    """Write NAME.gif: the frames of the result with their ellipses, one panel each."""
    from matplotlib.animation import FuncAnimation, PillowWriter
    from matplotlib.figure import Figure
    from rich.progress import Progress

    figure = Figure(figsize=(3.2 * len(result.frames), 3.4), layout="constrained")
    axes = figure.subplots(1, len(result.frames), squeeze=False)[0]
    clouds, ellipses = [], []
    for axis, (title, cloud) in zip(axes, result.frames.items(), strict=True):
        low, high = cloud.min((0, 1)), cloud.max((0, 1))
        margin = 0.05 * (high - low).max()
        axis.set(xlim=(low[0] - margin, high[0] + margin), ylim=(low[1] - margin, high[1] + margin))
        axis.set(aspect="equal", title=title)
        axis.grid(False)
        clouds.append(axis.scatter(*cloud[0].T, s=4))
        ellipses.append(axis.plot(*contour(cloud[0]), color="#C24400", lw=1.2)[0])

    def show(k: int) -> list[Any]:
        for artist, line, cloud in zip(clouds, ellipses, result.frames.values(), strict=True):
            artist.set_offsets(cloud[k])
            line.set_data(*contour(cloud[k]))
        figure.suptitle(f"t = {result.frame_times[k]:.2f}")
        return [*clouds, *ellipses]

    movie = FuncAnimation(figure, show, frames=len(result.frame_times))
    target = out / f"{name}.gif"
    with atomic(target) as path, Progress(transient=True) as bar:
        task = bar.add_task("animation", total=len(result.frame_times))
        movie.save(
            str(path),
            writer=PillowWriter(fps=20),
            progress_callback=lambda k, n: bar.update(task, completed=k + 1),
        )
    return target


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
