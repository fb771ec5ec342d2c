"""How heads mix the sentence's tokens."""

from collections.abc import Iterator, Sequence

import numpy as np

from sympformer.errors import InputError
from sympformer.report import plot
from sympformer.report.inside import Inside, other
from sympformer.report.markup import Chart, Section, paragraph

MAPS = 640
"""Maps of all models together: with more, layers between are left out, and pages stay small."""
MEAN = "mean of heads"


def attention(insides: Sequence[Inside]) -> Section:
    """The section."""
    known, parts = [], []
    for seen in insides:
        try:
            known.append((seen, seen.trace.weights[:, 0]))
        except InputError as error:
            parts.append(paragraph(f"{seen.entry}: {error}"))
    if known:
        figures = {key: figure for seen, w in known for key, figure in _maps(seen, w, len(known))}
        keys = list(figures)
        beside = other([seen for seen, _ in known])
        second = next(key for key in keys if key.startswith(f"{beside}|"))
        depth = max(len(w) for _, w in known)
        heads = max(w.shape[1] for _, w in known)
        choices = {
            "model": [seen.entry for seen, _ in known],
            "layer": [str(n) for n in range(1, depth + 1) if any(f"|{n}|" in k for k in keys)],
            "head": [MEAN, *map(str, range(1, heads + 1))],
        }
        parts.insert(0, Chart("attention-maps", LABEL, figures, choices, beside=second))
    return Section(
        "attention",
        "Attention",
        "Attention maps",
        "Each row says how much a token takes of those before it. Of softmax these are its "
        "weights; of linear attention and the delta rule the effective ones, the matrix that "
        "turns the values of the text into what is read (sympformer.trace says how). Those may "
        "be negative.",
        parts,
    )


LABEL = "Weights with which each token of the sentence reads the others"


def _maps(seen: Inside, weights: np.ndarray, models: int) -> Iterator[tuple[str, dict]]:
    layers, heads = weights.shape[:2]
    room = max(1, MAPS // (models * (heads + 1)))
    kept = sorted(set(np.linspace(0, layers - 1, min(layers, room)).round().astype(int)))
    for layer in kept:
        maps = {MEAN: weights[layer].mean(0)}
        maps |= {str(h + 1): weights[layer, h] for h in range(heads)}
        for head, matrix in maps.items():
            yield f"{seen.entry}|{layer + 1}|{head}", _map(seen, matrix)


def _map(seen: Inside, matrix: np.ndarray) -> dict:
    unseen = np.triu(np.ones(matrix.shape, dtype=bool), 1) & (matrix == 0)
    labels = seen.words
    shown = np.where(unseen, np.nan, matrix)
    heat = plot.heat(shown, labels, labels, "%{y} takes of %{x}: %{z:.3f}")
    heat |= {"named": True}
    axis = {"tickvals": list(range(len(labels))), "ticktext": labels, "showgrid": False}
    axis |= {"tickfont": {"size": 10}}
    layout = plot.layout(
        "",
        "",
        height=440,
        margin={"l": 76, "r": 6, "b": 76, "t": 8},
        xaxis={**axis, "tickangle": -60},
        yaxis={**axis, "autorange": "reversed"},
    )
    return {"data": [heat], "layout": layout}
