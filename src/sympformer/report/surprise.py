"""How surprised each model is by every token of the sentence."""

from collections.abc import Mapping, Sequence

import numpy as np

from sympformer.figures import Look
from sympformer.report import plot
from sympformer.report.inside import Inside
from sympformer.report.markup import Chart, Section, table, text


def surprise(insides: Sequence[Inside], looks: Mapping[str, Look]) -> Section:
    """The section."""
    most = max(float(seen.surprise.max()) for seen in insides)
    lines = "".join(_line(seen, most) for seen in insides)
    first = insides[0].words
    alike = [seen for seen in insides if seen.words == first]
    tokens = list(range(1, len(first)))
    traces = [
        plot.line(s.entry, tokens, s.surprise, looks[s.entry], mode="lines+markers") for s in alike
    ]
    axis = {"tickvals": tokens, "ticktext": list(first[1:]), "tickangle": -60, "showgrid": False}
    options = {"hovermode": "x unified", "showlegend": True, "margin": {"b": 84}}
    said = enumerate(insides[0].labels[1:])
    rows = [(label, *(f"{s.surprise[i]:.3f}" for s in alike)) for i, label in said]
    chart = Chart(
        name="surprise-by-token",
        label="Surprise of every token, a line for each model",
        figures={"": {"data": traces, "layout": plot.layout("", "nats", xaxis=axis, **options)}},
        table=table(("token", *(s.entry for s in alike)), rows, "Surprise in nats"),
    )
    return Section(
        "surprise",
        "Surprise",
        "Surprise, token by token",
        "−log p of each token given those before it, in nats: the darker, the less expected. "
        "Models with another tokenizer are in the text only.",
        [f'<div class="surprises">{lines}</div>', chart],
    )


def _line(seen: Inside, most: float) -> str:
    words = "".join(
        f'<span style="--s:{value / most:.2f}" title="{value:.2f} nats">{text(label)}</span>'
        for label, value in zip(seen.labels[1:], seen.surprise, strict=True)
    )
    mean = float(np.mean(seen.surprise))
    return f"<p><b>{text(seen.entry)}</b> <small>{mean:.3f} nats a token</small><br>{words}</p>"
