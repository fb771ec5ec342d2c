"""The look of our figures: one table of colours for all of them, labels, and how they are written.

The hue tells the family, the dash the variant; the same entry looks the same in every picture and
in the page of `sympformer report`. Hues are near those of Okabe and Ito: the colour-blind can tell
them apart (a test simulates it), and lines of them can be seen on white and on black.
"""

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from sympformer.files import atomic
from sympformer.shown import mathless

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FLOOR_COLOUR, INK = "#555555", "#000000"
DASHES = ("-", "--", "-.", ":", (0, (7, 2)), (0, (5, 1, 1, 1, 1, 1)))
MARKERS = "osD^vPX*"
SCHEMES = (
    *("exp-euler", "conformal-euler", "euler", "plain-euler", "ab2", "etd-ab2", "strang", "tao"),
    *("exp-euler-published", "euler-published", "plain-euler-published"),
)
VELOCITY = ("symp-r2", "symp-h0", "symp-h1", "symp-difference")
_DELTA = (
    *("gated-deltanet", "deltanet", "kda", "mesanet", "longhorn", "momentum-deltanet", "mamba2"),
    "unit-linear",
)


class Family(NamedTuple):
    """Entries of one hue; its shades take turns once the dashes are used up."""

    name: str
    shades: tuple[str, ...]
    members: tuple[str, ...]


def _also_untied(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(n for name in names for n in (f"{name}-untied", name))


FAMILIES = (
    Family(
        "GPT", (INK,), ("gpt", "gpt-extras", "gpt-wide", "gpt-euler", "gpt-inject", "plain-gpt")
    ),
    Family("controls", ("#949494",), ("gpt-untied", "gpt-untied-extras", "gpt-shift")),
    Family(
        "momentum, velocity form",
        ("#0066A8", "#6FA8D6"),
        (*VELOCITY, "symp-r2-extras", "symp-h0-extras", "symp-h1-extras"),
    ),
    Family("momentum form", ("#3F9FDB", "#12507A"), tuple(f"symp-{name}" for name in SCHEMES)),
    Family(
        "Nesterov's rivals",
        ("#C98B00",),
        ("yurii", "yurii-extras", "polyak", "tmm", "yurii-euler"),
    ),
    Family("delta rule", ("#C24400", "#EE8650", "#7A2B00"), _also_untied(_DELTA)),
    Family(
        "delta rule with momentum",
        ("#A83279", "#D983B8"),
        (
            *("gated-delta-symp", "delta-symp-h0", "delta-yurii", "delta-symp-momentum"),
            *(f"delta-symp-{name}" for name in SCHEMES[:8]),
        ),
    ),
    Family(
        "linear attention",
        ("#00876A", "#4FC3A1", "#00503F", "#7A9A01", "#4A5D00"),
        (
            *("linear-gpt", "linear-gpt-untied", "linear-yurii"),
            *(f"linear-{name}" for name in VELOCITY),
            *(f"linear-symp-{name}" for name in SCHEMES),
            *("linear-gpt-extras", "linear-gpt-untied-extras", "linear-yurii-extras"),
            *(f"linear-symp-{name}-extras" for name in ("r2", "h0", "h1")),
        ),
    ),
)
_OTHERS = Family("others", ("#6A51A3", "#9E8AC9", "#41297A"), ())
_KNOWN = {name: family for family in FAMILIES for name in family.members}

_CYCLE = [FAMILIES[i].shades[0] for i in (2, 5, 7, 6, 4, 3, 1, 0)]
_STYLE: dict[Any, Any] = {
    "font.size": 9.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.edgecolor": "#999999",
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": "#E6E6E6",
    "axes.axisbelow": True,
    "axes.titlesize": "medium",
    "axes.titlelocation": "left",
    "xtick.color": "#444444",
    "ytick.color": "#444444",
    "ytick.left": False,
    "legend.frameon": False,
    "axes.prop_cycle": f"cycler('color', {_CYCLE})",
    "svg.hashsalt": "sympformer",  # the same picture is the same file
}


class Look(NamedTuple):
    """How an entry is drawn."""

    colour: str
    dash: Any
    marker: str
    family: str

    def line(self) -> dict[str, Any]:
        """For a line of matplotlib."""
        return {"color": self.colour, "linestyle": self.dash}

    def dot(self) -> dict[str, Any]:
        """For a marker of matplotlib."""
        return {"color": self.colour, "marker": self.marker, "linestyle": "none"}


def looks(names: Iterable[str]) -> dict[str, Look]:
    """The looks of entries, all different: of presets those of the table, whoever is beside them.

    An entry of a user's own has the hue of the preset that its name begins with, and a dash that is
    free; with none such, a hue that no preset has.
    """
    names = list(dict.fromkeys(names))
    given = {
        name: _look(_KNOWN[name], _KNOWN[name].members.index(name))
        for name in names
        if name in _KNOWN
    }
    taken = {look[:2] for look in given.values()}
    for name in sorted(set(names) - set(given)):
        family = _family(name)
        place = len(family.members)
        limit = place + len(DASHES) * len(family.shades)
        while (look := _look(family, place))[:2] in taken and place < limit:
            place += 1
        given[name] = look
        taken.add(look[:2])
    return {name: given[name] for name in names}


def _look(family: Family, place: int) -> Look:
    dash, shade = place % len(DASHES), place // len(DASHES) % len(family.shades)
    return Look(family.shades[shade], DASHES[dash], MARKERS[place % len(MARKERS)], family.name)


def _family(name: str) -> Family:
    """Of the longest preset that a name begins with."""
    begun = [known for known in _KNOWN if name.startswith(known) and name[len(known)] in "-, "]
    return _KNOWN[max(begun, key=len)] if begun else _OTHERS


def style() -> AbstractContextManager[None]:
    """A context in which figures are drawn."""
    import matplotlib

    return matplotlib.rc_context(_STYLE)


def spread(wanted: Sequence[float], least: float) -> list[float]:
    """Places near the wanted ones, in their order, `least` apart: for labels beside lines."""
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    groups: list[tuple[float, list[int]]] = []  # centre, and who shares it
    for i in order:
        groups.append((wanted[i], [i]))
        while len(groups) > 1:
            (low, below), (high, above) = groups[-2:]
            room = least * (len(below) + len(above)) / 2
            if high - low >= room:
                break
            both = below + above
            centre = sum(wanted[j] for j in both) / len(both)
            groups[-2:] = [(centre, both)]
    places = [0.0] * len(wanted)
    for centre, group in groups:
        for k, i in enumerate(group):
            places[i] = centre + least * (k - (len(group) - 1) / 2)
    return places


def label_lines(
    axes: "Axes", ends: Sequence[tuple[str, float, float, str]], size: float = 8.5
) -> None:
    """Name lines at their right ends, beside the axes, without one label upon another.

    Args:
        axes: whose limits are final.
        ends: the text of each label, the last x and y of its line, and the colour.
        size: of the letters, points.
    """
    figure = axes.get_figure(root=True)
    assert figure is not None
    low, high = axes.get_ylim()
    height = axes.bbox.height / figure.dpi * 72  # points, but for the layout
    scaled = axes.transScale.transform([(x, min(max(y, low), high)) for _, x, y, _ in ends])[:, 1]
    bottom, top = axes.transScale.transform([(1, low), (1, high)])[:, 1]
    places = spread(list((scaled - bottom) / (top - bottom)), 1.35 * size / height)
    for (text, x, y, colour), place in zip(ends, places, strict=True):
        axes.annotate(
            mathless(text),
            xy=(x, min(max(y, low), high)),
            xytext=(1.04, place),
            textcoords="axes fraction",
            color=colour,
            size=size,
            va="center",
            annotation_clip=False,
            arrowprops={
                **{"arrowstyle": "-", "color": colour, "lw": 0.6},
                **{"shrinkA": 1, "shrinkB": 2, "relpos": (0, 0.5)},
            },
        )


def slope_guide(axes: "Axes", x: tuple[float, float], y: float, slope: float, text: str) -> None:
    """On logarithmic axes, a line of this slope that ends at `x[1]`, `y`, and is named there."""
    begin = y * (x[0] / x[1]) ** slope
    axes.plot(x, (begin, y), color=FLOOR_COLOUR, linewidth=1, linestyle=(0, (4, 3)))
    options = {"textcoords": "offset points", "size": 8.5, "color": FLOOR_COLOUR, "va": "center"}
    axes.annotate(text, (x[1], y), xytext=(4, 0), **options)


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
