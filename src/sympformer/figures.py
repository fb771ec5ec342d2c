"""The look of our figures, and how they are written."""

from collections.abc import Iterator
from contextlib import AbstractContextManager
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sympformer.files import atomic

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Okabe and Ito's palette, which the colour-blind can tell apart, without the pale yellow.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
BASELINE_COLOUR, CONTROL_COLOUR, FLOOR_COLOUR = "#000000", "#888888", "#555555"

_STYLE: dict[Any, Any] = {
    "font.size": 9.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": "#E6E6E6",
    "axes.axisbelow": True,
    "svg.hashsalt": "sympformer",  # the same picture is the same file
}


def style() -> AbstractContextManager[None]:
    """A context in which figures are drawn."""
    import matplotlib

    return matplotlib.rc_context(_STYLE)


def looks() -> Iterator[tuple[str, str]]:
    """Colours and dashes of line after line, all different up to a dozen."""
    return cycle((colour, dash) for dash in ("-", "-.") for colour in COLOURS)


def save(figure: "Figure", folder: Path, stem: str) -> list[Path]:
    """Write it as PNG and SVG, return the paths; equal figures give equal files.

    Raises:
        InputError: the folder cannot be written to.
    """
    paths = [folder / f"{stem}.png", folder / f"{stem}.svg"]
    with style():
        for path in paths:
            metadata = {"Date": None} if path.suffix == ".svg" else None
            with atomic(path) as partial:
                figure.savefig(partial, dpi=200, metadata=metadata)
    return paths
