"""Pieces of a page: text, tables, sections, charts."""

import html
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sympformer.shown import visible


def text(value: object) -> str:
    """Plain text, harmless in HTML, whatever it is made of."""
    return html.escape(visible(str(value), keep="\n"))


def table(
    headers: Sequence[str],
    rows: Iterable[Sequence[object]],
    caption: str,
    *,
    words: bool = False,
) -> str:
    """Cells as text, the first of a row its name; numbers to the right unless they are `words`."""
    head = "".join(f'<th scope="col">{text(name)}</th>' for name in headers)
    body = "".join(
        f'<tr><th scope="row">{text(first)}</th>'
        + "".join(f"<td>{text(cell)}</td>" for cell in rest)
        + "</tr>"
        for first, *rest in rows
    )
    kind = ' class="words"' if words else ""
    return (
        f'<div class="wide" tabindex="0" role="region" aria-label="{text(caption)}"><table{kind}>'
        f"<caption>{text(caption)}</caption>"
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def details(summary: str, body: str) -> str:
    """What is folded away."""
    return f"<details><summary>{text(summary)}</summary>{body}</details>"


def paragraph(line: str) -> str:
    """One."""
    return f"<p>{text(line)}</p>"


@dataclass(frozen=True)
class Chart:
    """A figure of plotly for every combination of choices.

    `#000000` in it is the ink of the page, "--paper" its ground.
    """

    name: str
    """Identifies it in the page."""
    label: str
    """What it shows, for those who do not see it."""
    figures: Mapping[str, Mapping[str, Any]]
    """By the choices, joined by "|"; of a chart without choices, by ""."""
    choices: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """What can be chosen, in the order of the keys; the first of each is shown at first."""
    beside: str = ""
    """If it is to be drawn twice, side by side: the key that is shown in the second place."""
    kind: str = "figure"
    """Which function of page.js draws it."""
    table: str = ""
    """The same as a table."""

    def markup(self) -> str:
        """Its place in the page."""
        places = [self.name] if not self.beside else [self.name, f"{self.name}-2"]
        panels = "".join(self._panel(place, second=i > 0) for i, place in enumerate(places))
        player = PLAYER.replace("NAME", self.name) if self.kind == "motion" else ""
        folded = details("The same as a table", self.table) if self.table else ""
        inner = f'<div class="beside">{panels}</div>' if self.beside else panels
        return f"<figure>{inner}{player}{folded}</figure>"

    def _panel(self, place: str, second: bool) -> str:
        shown = self.beside.split("|") if second else [o[0] for o in self.choices.values()]
        selects = "".join(
            f'<label>{text(name)} <select data-chart="{place}">'
            + "".join(
                f"<option{' selected' if option == chosen else ''}>{text(option)}</option>"
                for option in options
            )
            + "</select></label>"
            for (name, options), chosen in zip(self.choices.items(), shown, strict=True)
        )
        choose = f'<div class="choices">{selects}</div>' if selects else ""
        return (
            f'<div class="panel">{choose}<div class="chart" id="{place}" role="group" '
            f'aria-label="{text(self.label)}"></div></div>'
        )

    def data(self) -> dict[str, Any]:
        """For page.js: a place in the page, what to draw there."""
        places = [self.name] if not self.beside else [self.name, f"{self.name}-2"]
        return {
            place: {"kind": self.kind, "figures": self.name if i else self.figures}
            for i, place in enumerate(places)
        }


PLAYER = (
    '<div class="player"><button type="button" data-play="NAME">Play</button>'
    '<label>layer <input type="range" data-scrub="NAME" min="0" value="0" step="0.05"></label>'
    '<output data-depth="NAME">0</output></div>'
)


@dataclass(frozen=True)
class Section:
    """A part of the page, with a heading of its own."""

    name: str
    short: str
    """Its name in the list of sections."""
    title: str
    lead: str
    """One or two sentences: what is seen, and how to read it."""
    parts: Sequence[Chart | str]
    """Charts, and HTML."""

    def markup(self) -> str:
        """Its place in the page."""
        inner = "".join(p.markup() if isinstance(p, Chart) else p for p in self.parts)
        return (
            f'<section id="{self.name}" aria-labelledby="{self.name}-title">'
            f'<h2 id="{self.name}-title">{text(self.title)}</h2>{paragraph(self.lead)}{inner}'
            "</section>"
        )


def embedded(value: Any) -> str:
    """JSON for a script element: nothing in it ends the element; NaN is null."""
    plain = json.dumps(_plain(value), separators=(",", ":"), allow_nan=False, ensure_ascii=False)
    return plain.replace("<", "\\u003c")


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(name): _plain(inner) for name, inner in value.items()}
    if hasattr(value, "tolist"):  # of numpy
        return _plain(value.tolist())
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if isinstance(value, float):
        return float(f"{value:.5g}") if abs(value) < float("inf") else None
    return value
