"""Figures of plotly, as plain data: lines with bands, dots with intervals, maps."""

import base64
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from sympformer.figures import DASHES, INK, MARKERS, Look, spread

_DASHES = dict(
    zip(DASHES, ("solid", "dash", "dashdot", "dot", "longdash", "longdashdot"), strict=True)
)
_SYMBOLS = ("circle", "square", "diamond", "triangle-up", "triangle-down", "cross", "x", "star")
_MARKERS = dict(zip(MARKERS, _SYMBOLS, strict=True))
HEIGHT = 420
LABEL = "end"
"""Name of the annotations that stand at the ends of lines; page.js leaves them out on a phone."""

Trace = dict[str, Any]
Numbers = Sequence[Any] | np.ndarray


def line(name: str, x: Numbers, y: Numbers, look: Look, **more: Any) -> Trace:
    """A line that says its value where it is pointed at."""
    return {
        "type": "scatter",
        "mode": "lines",
        "name": name,
        "x": x,
        "y": y,
        "line": {"color": look.colour, "dash": _DASHES[look.dash], "width": 2},
        "hovertemplate": "%{y:.4g}",
        **more,
    }


def band(x: Numbers, low: Numbers, high: Numbers, look: Look, **more: Any) -> Trace:
    """A band about a line."""
    return {
        "type": "scatter",
        "mode": "lines",
        "x": [*x, *reversed(list(x))],
        "y": [*high, *reversed(list(low))],
        "fill": "toself",
        "fillcolor": _faint(look.colour),
        "line": {"width": 0},
        "hoverinfo": "skip",
        "showlegend": False,
        **more,
    }


def dots(
    names: Sequence[str], values: Numbers, halves: Numbers, looks: Mapping[str, Look]
) -> list[Trace]:
    """A dot a row, with its interval."""
    return [
        {
            "type": "scatter",
            "mode": "markers",
            "name": name,
            "x": [value],
            "y": [name],
            "error_x": {"array": [half], "color": looks[name].colour, "thickness": 2, "width": 0},
            "marker": {
                "color": looks[name].colour,
                "symbol": _MARKERS[looks[name].marker],
                "size": 10,
            },
            "hovertemplate": f"%{{x:.4f}} ± {half:.4f}" if half else "%{x:.4f}",
            "showlegend": False,
        }
        for name, value, half in zip(names, values, halves, strict=True)
    ]


def heat(z: np.ndarray, x: Sequence[str], y: Sequence[str], said: str) -> Trace:
    """A map of numbers; ends of the scale are equally far from 0 where some are below it.

    A few that are far above all others do not set the scale.
    """
    finite = z[np.isfinite(z)]
    scale = (float(np.abs(finite).max(initial=0)) or 1.0) / 32767
    most = float(np.quantile(np.abs(finite), 0.985)) if finite.size else 1.0
    both = bool((finite < -1e-3 * most).any())
    packed = np.where(np.isfinite(z), np.round(z / scale), -32768).astype("<i2")
    low = [[0, "#C24400"], [0.5, "--paper"], [1, "#0066A8"]]
    return {
        "type": "heatmap",
        "packed": base64.b64encode(packed.tobytes()).decode(),
        "scale": scale,
        "shape": list(z.shape),
        "x": list(range(len(x))),
        "y": list(range(len(y))),
        "zmin": -most if both else 0,
        "zmax": most or 1.0,
        "colorscale": low if both else [[0, "--paper"], [1, "#0066A8"]],
        "colorbar": {"thickness": 10, "outlinewidth": 0, "len": 0.9},
        "hovertemplate": said + "<extra></extra>",
    }


def layout(x: str, y: str, **more: Any) -> dict[str, Any]:
    """Names of the axes, and what is asked for beside."""
    found = {
        "height": HEIGHT,
        "margin": {"l": 58, "r": 20, "t": 16, "b": 48},
        "xaxis": {"title": {"text": x}},
        "yaxis": {"title": {"text": y}},
    }
    for name, value in more.items():
        found[name] = {**found.get(name, {}), **value} if isinstance(value, dict) else value
    return found


def end_labels(
    ends: Sequence[tuple[str, float, Look]], frame: tuple[float, float]
) -> list[dict[str, Any]]:
    """The names of lines at their right ends, none upon another."""
    low, high = frame
    least = (high - low) * 17 / (HEIGHT - 64)
    places = spread([min(max(y, low), high) for _, y, _ in ends], least)
    return [
        {
            "name": LABEL,
            "xref": "paper",
            "x": 1.01,
            "xanchor": "left",
            "y": place,
            "text": name,
            "showarrow": False,
            "font": {"color": look.colour, "size": 12},
        }
        for (name, _, look), place in zip(ends, places, strict=True)
    ]


def _faint(colour: str) -> str:
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    if colour == INK:  # seen on a dark page, too
        red = green = blue = 120
    return f"rgba({red},{green},{blue},0.18)"
