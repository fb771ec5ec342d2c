"""The sentence's tokens on their way through the layers: positions, and momenta as arrows."""

from collections.abc import Sequence

import numpy as np

from sympformer.report.inside import Inside, other
from sympformer.report.markup import Chart, Section, table


def motion(insides: Sequence[Inside]) -> Section:
    """The section."""
    entries = [seen.entry for seen in insides]
    chart = Chart(
        name="tokens",
        label="Tokens moving through the layers, in the plane of most variance",
        figures={seen.entry: path(seen) for seen in insides},
        choices={"model": entries},
        beside=other(insides),
        kind="motion",
        table=_table(insides),
    )
    return Section(
        "motion",
        "Motion",
        "Tokens moving through depth",
        "Positions in the plane of most variance (principal components of the sentence's states "
        "in all layers, of each model its own), with momenta as arrows in the same plane, to one "
        "scale of their own. Play it, or scrub through the layers with the slider.",
        [chart],
    )


def path(seen: Inside) -> dict:
    """What page.js moves: `x` `(L + 1, T, 2)`, arrows `p` alike, the share of the variance."""
    x, p = seen.trace.positions[:, 0, 1:], seen.trace.momenta[:, 0, 1:]
    x = x.astype(np.float64)
    middle = x.mean((0, 1))
    flat = (x - middle).reshape(-1, x.shape[-1])
    _, values, axes = np.linalg.svd(flat, full_matrices=False)
    plane = axes[:2]
    shares = values[:2] ** 2 / max(float((values**2).sum()), 1e-30)
    flat_x, flat_p = (x - middle) @ plane.T, p @ plane.T
    widest = float(np.abs(flat_x).max()) or 1.0
    long = float(np.quantile(np.linalg.norm(flat_p, axis=-1), 0.9))
    arrows = flat_p * (0.22 * widest / long) if long else flat_p
    return {
        "labels": seen.words[1:],
        "x": flat_x,
        "p": arrows,
        "moves": long > 0,
        "shares": shares,
        "reach": 1.25 * widest,
    }


def _table(insides: Sequence[Inside]) -> str:
    rows = []
    for seen in insides:
        steps = np.diff(seen.trace.positions[:, 0, 1:].astype(np.float64), axis=0)
        lengths = np.linalg.norm(steps, axis=-1).mean(1)
        rows.append((seen.entry, ", ".join(f"{length:.3g}" for length in lengths)))
    headers = ("model", "mean distance, layer by layer")
    return table(headers, rows, "How far tokens move in each layer", words=True)
