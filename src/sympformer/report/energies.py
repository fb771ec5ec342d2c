"""Energies of the sentence's tokens, layer by layer."""

from collections.abc import Mapping, Sequence

import numpy as np

from sympformer.figures import Look
from sympformer.report import plot
from sympformer.report.inside import Inside, other
from sympformer.report.markup import Chart, Section, table

GRADIENT = "gradient of the loss"
KINDS = {
    "kinetic": lambda seen: seen.trace.kinetic[:, 0],
    "potential": lambda seen: seen.trace.potential[:, 0],
    GRADIENT: lambda seen: seen.trace.gradients[:, 0],
}
UNITS = {
    "kinetic": "kinetic energy, ½ p·ẋ",
    "potential": "potential energy",
    GRADIENT: "norm of the loss's gradient by positions",
}


def energies(insides: Sequence[Inside], looks: Mapping[str, Look]) -> Section:
    """The section."""
    means = Chart(
        name="energies-by-layer",
        label="Energy of the sentence's tokens at every layer",
        figures={kind: _means(insides, kind, looks) for kind in KINDS},
        choices={"quantity": list(KINDS)},
        table=_table(insides),
    )
    entries = [seen.entry for seen in insides]
    figures = {
        f"{s.entry}|{kind}": _by_token(s, kind)
        for s in insides
        for kind in KINDS
        if np.nan_to_num(KINDS[kind](s)).any()
    }
    choices = {"model": entries, "quantity": ["potential", "kinetic", GRADIENT]}
    tokens = Chart(
        name="energies-by-token",
        label="Energy of each token at every layer",
        figures=figures,
        choices=choices,
        beside=f"{other(insides)}|potential",
    )
    return Section(
        "energies",
        "Energies",
        "Energies, layer by layer",
        "Means over the sentence's tokens; the band holds the middle 80 % of them. Kinetic: "
        "½ p·ẋ of a momentum, ½ |u|² of a velocity, none of a model without. Potential: −½ Σ z of "
        "softmax, −½ xᵀVx of linear attention and the delta rule. Matrices are not tied here as in "
        "the theory, and sums are over the past: so energies need not fall, nor ½ p·ẋ be positive.",
        [means, tokens],
    )


def _means(insides: Sequence[Inside], kind: str, looks: Mapping[str, Look]) -> dict:
    traces = []
    for seen in insides:
        values = KINDS[kind](seen)[:, 1:]  # of the sentence, not of what stands before it
        x = np.arange(len(values)) + (kind != GRADIENT)
        if not np.nan_to_num(values).any():  # it has no momentum
            continue
        low, high = np.quantile(values, [0.1, 0.9], axis=1)
        group = {"legendgroup": seen.entry}
        if np.isfinite(low).all():
            traces.append(plot.band(x, low, high, looks[seen.entry], **group))
        traces.append(
            plot.line(
                seen.entry,
                x,
                values.mean(1),
                looks[seen.entry],
                mode="lines+markers",
                connectgaps=False,
                **group,
            )
        )
    where = "behind layer" if kind == GRADIENT else "layer"
    options = {"hovermode": "x unified", "showlegend": True, "xaxis": {"dtick": _tick(insides)}}
    return {"data": traces, "layout": plot.layout(where, UNITS[kind], **options)}


def _by_token(seen: Inside, kind: str) -> dict:
    values = KINDS[kind](seen)
    first = 0 if kind == GRADIENT else 1
    layers = [str(first + n) for n in range(len(values))]
    said = f"%{{text}}<br>{kind} %{{z:.4g}}"
    heat = plot.heat(values.T, layers, seen.words, said)
    heat["text"] = [[f"{label}, layer {layer}" for layer in layers] for label in seen.words]
    layout = plot.layout(
        "layer",
        "",
        height=max(300, 60 + 15 * len(seen.words)),
        margin={"l": 90, "r": 10},
        xaxis={"tickvals": list(range(len(layers))), "ticktext": layers, "showgrid": False},
        yaxis={**_ticks(seen.words), "autorange": "reversed"},
    )
    return {"data": [heat], "layout": layout}


def _ticks(labels: Sequence[str]) -> dict:
    return {"tickvals": list(range(len(labels))), "ticktext": list(labels), "showgrid": False}


def _tick(insides: Sequence[Inside]) -> int:
    return 1 + max(seen.layers for seen in insides) // 16


def _table(insides: Sequence[Inside]) -> str:
    rows = [
        (s.entry, kind, ", ".join(f"{v:.4g}" for v in KINDS[kind](s)[:, 1:].mean(1)))
        for s in insides
        for kind in KINDS
    ]
    return table(("model", "quantity", "layer by layer"), rows, "Means over tokens", words=True)
