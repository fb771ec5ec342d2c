"""Animations: clouds with their ellipses, or tokens on a sphere with their momenta as arrows."""

from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from sympformer.figures import FLOOR_COLOUR
from sympformer.files import atomic
from sympformer.lab.record import Result, contour

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BLUE, VERMILION = "#0066A8", "#C24400"
PALE, PALER = "#C9C9C9", "#DDDDDD"
FRAMES_A_SECOND = 20
LONGEST = 0.55
"""Of the arrows on a sphere, in radii."""


class Panel(Protocol):
    """One cloud of an animation."""

    def show(self, k: int) -> None:
        """Change the axes to the frame k."""
        ...


def animate(out: Path, name: str, result: Result) -> Path:
    """Write NAME.gif: the frames of the result, one panel a cloud."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from PIL import Image
    from rich.progress import track

    figure = Figure(figsize=(3.2 * len(result.frames), 3.4), layout="constrained")
    canvas = FigureCanvasAgg(figure)
    clock = figure.suptitle("t")
    axes = figure.subplots(1, len(result.frames), squeeze=False)[0]
    panels: list[Panel] = []
    for axis, (title, cloud) in zip(axes, result.frames.items(), strict=True):
        axis.set_title(title)
        if cloud.shape[-1] == 3:
            panels.append(Sphere(axis, cloud, result.momenta.get(title)))
        else:
            panels.append(Cloud(axis, cloud))
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # once is enough, and takes longer than a frame

    pictures = []
    for k, t in enumerate(track(result.frame_times, "animation", transient=True)):
        for panel in panels:
            panel.show(k)
        clock.set_text(f"t = {t:.2f}")
        canvas.draw()
        picture = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
        pictures.append(picture.quantize(method=Image.Quantize.FASTOCTREE))
    target = out / f"{name}.gif"
    with atomic(target) as path:
        timing = {"duration": 1000 // FRAMES_A_SECOND, "loop": 0}
        pictures[0].save(path, format="GIF", save_all=True, append_images=pictures[1:], **timing)
    return target


class Cloud:
    """Particles `(frames, N, 2)` with the ellipse of their covariance."""

    def __init__(self, axes: "Axes", cloud: np.ndarray):
        self.cloud = cloud
        low, high = cloud.min((0, 1)), cloud.max((0, 1))
        margin = 0.05 * (high - low).max()
        axes.set(xlim=(low[0] - margin, high[0] + margin), ylim=(low[1] - margin, high[1] + margin))
        axes.set_aspect("equal")
        axes.grid(False)
        self.dots = axes.scatter(*cloud[0].T, s=4)
        self.line = axes.plot(*contour(cloud[0]), color=VERMILION, lw=1.2)[0]

    def show(self, k: int) -> None:
        """Frame k."""
        self.dots.set_offsets(self.cloud[k])
        self.line.set_data(*contour(self.cloud[k]))


class Sphere:
    """Tokens `(frames, N, 3)` on the unit sphere, seen along the third axis.

    The farther from the viewer, the paler. Momenta, of the same shape, are arrows to one scale.
    """

    def __init__(self, axes: "Axes", tokens: np.ndarray, momenta: np.ndarray | None = None):
        from matplotlib.colors import to_rgb

        self.tokens = tokens
        self.colour = np.array([to_rgb(BLUE if momenta is None else VERMILION)])
        _draw_globe(axes, with_grid=bool(tokens[..., 2].any()))
        self.dots = axes.scatter(*tokens[0, :, :2].T, s=18, linewidths=0, zorder=3)
        self.arrows = None
        if momenta is not None:
            self.momenta = momenta / (np.linalg.norm(momenta, axis=-1).max() or 1) * LONGEST
            start, along = tokens[0, :, :2].T, self.momenta[0, :, :2].T
            scale = {"angles": "xy", "scale_units": "xy", "scale": 1}
            shape = {"width": 0.006, "headwidth": 4, "headlength": 5, "headaxislength": 4.5}
            self.arrows = axes.quiver(
                *start, *along, **scale, **shape, color=FLOOR_COLOUR, zorder=2
            )
        self.show(0)

    def show(self, k: int) -> None:
        """Frame k."""
        at, depth = self.tokens[k, :, :2], self.tokens[k, :, 2:]
        ink = 0.3 + 0.35 * (1 + depth.clip(-1, 1))
        self.dots.set_offsets(at)
        self.dots.set_facecolor([tuple(rgb) for rgb in 1 - ink * (1 - self.colour)])
        if self.arrows is not None:
            self.arrows.set_offsets(at)
            self.arrows.set_UVC(*self.momenta[k, :, :2].T)


def _draw_globe(axes: "Axes", with_grid: bool) -> None:
    """The outline of the unit sphere, and every 30th degree of its front; of a circle no grid."""
    angle, reach = np.linspace(0, 2 * np.pi, 181), 1.12
    axes.plot(np.cos(angle), np.sin(angle), color=PALE, lw=0.8)
    half = np.linspace(-np.pi / 2, np.pi / 2, 91)
    for degree in np.radians((-60, -30, 0, 30, 60)) if with_grid else ():
        axes.plot(np.sin(degree) * np.cos(half), np.sin(half), color=PALER, lw=0.6, zorder=1)
        across = np.cos(degree) * np.array([-1, 1])
        axes.plot(across, np.full(2, np.sin(degree)), color=PALER, lw=0.6, zorder=1)
    axes.set(aspect="equal", xlim=(-reach, reach), ylim=(-reach, reach), xticks=[], yticks=[])
    axes.grid(False)
    axes.spines["bottom"].set_visible(False)
