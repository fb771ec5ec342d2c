"""What models learned of their steps: sizes, damping, look-ahead, over depth and training."""

import re
from collections.abc import Mapping, Sequence

import numpy as np

from sympformer.errors import InputError
from sympformer.figures import Look
from sympformer.report import plot
from sympformer.report.markup import Chart, Section, paragraph, table
from sympformer.report.runs import Runs, SeenRun, model_of
from sympformer.study.figure import FEW, MOST
from sympformer.study.statistics import half_interval
from sympformer.train.optimizer import learned_scalars

_NAME = re.compile(r"blocks\.(\d+)\.(.+)")
MEANING = {
    "attention.h_x": "step of positions",
    "attention.h_p": "step of momenta",
    "attention.mu": "look-ahead of attention",
    "attention.beta": "momentum kept by attention",
    "attention.gamma": "weight of attention",
    "attention.nu": "share of the velocity in the position",
    "attention.coefficients.c_log": "damping, part with log t",
    "attention.coefficients.c_lin": "damping, part with t",
    "attention.coefficients.alpha": "damping",
    "attention.coefficients.r": "damping r of r/t",
    "mlp.mu": "look-ahead of the MLP",
    "mlp.beta": "momentum kept by the MLP",
    "mlp.gamma": "weight of the MLP",
    "injection": "weight of what is injected",
}


def scalars(runs: Runs, looks: Mapping[str, Look], shown: Sequence[str]) -> Section:
    """The section; entries that are not `shown` at first can be switched on in the legend."""
    names = "scalars", "Learned steps", "Learned steps and damping"
    lead = (
        "Numbers that each layer learns beside its matrices. Over depth: where they ended, means "
        "over seeds with 95 % t intervals. Over training: of the first seed, one line a layer."
    )
    last = {entry: _last(found) for entry, found in runs.entries.items()}
    kinds = list(dict.fromkeys(kind for each in last.values() for kind in each))
    kinds.sort(key=lambda kind: -sum(kind in each for each in last.values()))
    if not kinds:
        return Section(*names, lead, [paragraph(NONE)])
    depth = Chart(
        name="depth",
        label="Learned numbers over the depth of the model",
        figures={kind: _over_depth(last, kind, looks, shown) for kind in kinds},
        choices={"number": kinds},
        table=_table(last, kinds),
    )
    parts: list[Chart | str] = [depth]
    training = {entry: _over_training(found[0]) for entry, found in runs.entries.items()}
    training = {entry: figures for entry, figures in training.items() if figures}
    if training:
        choices = [f"{entry}: {kind}" for entry, kinds in training.items() for kind in kinds]
        figures = [figure for kinds in training.values() for figure in kinds.values()]
        parts.append(
            Chart(
                name="training",
                label="Learned numbers over training, a line for each layer",
                figures=dict(zip(choices, figures, strict=True)),
                choices={"model and number": choices},
            )
        )
    else:
        parts.append(paragraph("These runs did not record them during training."))
    return Section(*names, lead, parts)


NONE = "None of these models learns a step, a damping or a look-ahead."

Values = dict[str, dict[int, list[float]]]
"""By what it is and the layer, a number a seed."""


def _last(runs: Sequence[SeenRun]) -> Values:
    """Where the numbers are now: as recorded last, or in the weights."""
    found: Values = {}
    for run in runs:
        rows = [row["scalars"] for row in run.evaluations if row.get("scalars")]
        if rows:
            known = rows[-1]
        else:
            try:
                known = learned_scalars(model_of(run))
            except InputError:
                continue
        for name, value in known.items():
            if match := _NAME.fullmatch(name):
                kind = named(match[2])
                found.setdefault(kind, {}).setdefault(int(match[1]), []).append(value)
    return found


def named(scalar: str) -> str:
    """What a learned number is, in words."""
    return MEANING.get(scalar, scalar)


def _over_depth(
    last: Mapping[str, Values], kind: str, looks: Mapping[str, Look], shown: Sequence[str]
) -> dict:
    traces, having = [], [entry for entry, values in last.items() if kind in values]
    first = set(having if len(having) <= MOST else [e for e in having if e in shown])
    first = first or set(having[:FEW])
    for entry, values in last.items():
        layers = sorted(values.get(kind, {}))
        if not layers:
            continue
        each = [np.array(values[kind][layer]) for layer in layers]
        means, halves = [e.mean() for e in each], [float(half_interval(e)) for e in each]
        colour = looks[entry].colour
        traces.append(
            plot.line(
                entry,
                [layer + 1 for layer in layers],
                means,
                looks[entry],
                mode="lines+markers",
                error_y={"array": halves, "thickness": 1.2, "width": 0, "color": colour},
                hovertemplate="%{y:.4f}",
                visible=True if entry in first else "legendonly",
            )
        )
    axis = {"dtick": 1} if len(traces) and len(traces[0]["x"]) < 20 else {}
    options = {"xaxis": axis, "hovermode": "x unified", "showlegend": True}
    return {"data": traces, "layout": plot.layout("layer", kind, **options)}


def _over_training(run: SeenRun) -> dict[str, dict]:
    rows = [row for row in run.evaluations if row.get("scalars")]
    names = [m for name in (rows[-1]["scalars"] if rows else ()) if (m := _NAME.fullmatch(name))]
    layers = 1 + max((int(m[1]) for m in names), default=0)
    figures: dict[str, dict] = {}
    for match in names:
        kind, layer = named(match[2]), int(match[1])
        x = [row["step"] for row in rows if match[0] in row["scalars"]]
        y = [row["scalars"][match[0]] for row in rows if match[0] in row["scalars"]]
        options = {"hovermode": "x unified", "showlegend": True}
        figure = figures.setdefault(
            kind, {"data": [], "layout": plot.layout("updates", kind, **options)}
        )
        look = Look(_between(layer / max(1, layers - 1)), "-", "o", "")
        figure["data"].append(plot.line(f"layer {layer + 1}", x, y, look))
    return figures


def _between(share: float) -> str:
    """From blue in the first layer to vermilion in the last."""
    first, last = (0x00, 0x66, 0xA8), (0xC2, 0x44, 0x00)
    mixed = (round(a + share * (b - a)) for a, b in zip(first, last, strict=True))
    return "#" + "".join(f"{part:02x}" for part in mixed)


def _table(last: Mapping[str, Values], kinds: Sequence[str]) -> str:
    rows = [
        (entry, kind, ", ".join(f"{np.mean(values[kind][n]):.4g}" for n in sorted(values[kind])))
        for entry, values in last.items()
        for kind in kinds
        if kind in values
    ]
    headers = ("model", "number", "layer by layer")
    return table(headers, rows, "Learned numbers, means over seeds", words=True)
