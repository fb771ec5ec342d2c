"""The table of experiments: adding one is one file and one line."""

import math
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sympformer import figures
from sympformer.dynamics import DivergenceError
from sympformer.errors import InputError, lookup
from sympformer.files import atomic
from sympformer.lab import (
    clusters,
    conservation,
    decoder,
    ellipse,
    energy,
    meanfield,
    orders,
    relaxation,
)
from sympformer.lab.film import animate
from sympformer.lab.record import Experiment, Result, write
from sympformer.typed import check_fields

EXPERIMENTS: dict[str, Experiment] = {
    "ellipse": Experiment(
        ellipse.EllipseConfig,
        ellipse.run,
        "elliptically contoured laws under accelerated linear attention",
        ellipse.draw,
        animated=True,
    ),
    "orders": Experiment(
        orders.OrdersConfig,
        orders.run,
        "order of every scheme on the softmax and the linear flow",
        orders.draw,
    ),
    "conservation": Experiment(
        conservation.ConservationConfig,
        conservation.run,
        "energy drift, symplecticity, and momentum form against velocity form",
        conservation.draw,
    ),
    "energy": Experiment(
        energy.EnergyConfig,
        energy.run,
        "energy along gradient flow and accelerated flow; iterations against condition number",
        energy.draw,
    ),
    "relaxation": Experiment(
        relaxation.RelaxationConfig,
        relaxation.run,
        "time to relax against the condition number of the kernel, metric by metric",
        relaxation.draw,
    ),
    "clusters": Experiment(
        clusters.ClustersConfig,
        clusters.run,
        "clusters of tokens on the sphere, and how long they take to merge",
        clusters.draw,
        animated=True,
    ),
    "decoder": Experiment(
        decoder.DecoderConfig,
        decoder.run,
        "prefix causality against the exact flow, by position",
        decoder.draw,
        animated=True,
    ),
    "meanfield": Experiment(
        meanfield.MeanfieldConfig,
        meanfield.run,
        "particles against the partial differential equations of the density",
        meanfield.draw,
    ),
}


def perform(name: str, config: Any, out: Path, animation: bool = False) -> Result:
    """Run an experiment and write NAME.npz, .json, .png, .svg and, if asked, .gif into `out`.

    A flow that diverges leaves what was computed in NAME-diverged.npz.

    Raises:
        InputError: unknown experiment, bad configuration, an animation of an experiment that has
            none, or a state that became non-finite.
    """
    experiment = lookup(EXPERIMENTS, name, "experiment")
    if animation and not experiment.animated:
        animated = ", ".join(n for n, e in EXPERIMENTS.items() if e.animated)
        raise InputError(f"{name} has no animation; {animated} have: leave --animate out")
    _check(config)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # these kernels are small: a second thread costs more than it gains
    try:
        result = experiment.run(config)
    except DivergenceError as error:
        kept = out / f"{name}-diverged.npz"
        with atomic(kept) as path:
            np.savez_compressed(path, x=error.x.numpy(), p=error.p.numpy())
        raise InputError(f"{error}; what was computed is in {kept}") from None
    finally:
        torch.set_num_threads(threads)
    with figures.style():
        write(out, name, config, result, experiment.draw(result))
        if animation:
            animate(out, name, result)
    return result


def _check(config: Any) -> None:
    """Refuse what fits no experiment: sizes below 1, negative or infinite quantities, no values."""
    check_fields(config)
    for field in fields(config):
        value = getattr(config, field.name)
        if value == ():
            raise InputError(f"{field.name} needs at least one value")
        for number in value if isinstance(value, tuple) else (value,):
            least = 1 if isinstance(number, int) and field.name != "seed" else 0
            if isinstance(number, (int, float)) and not least <= number < math.inf:
                raise InputError(f"{field.name} must be a number ≥ {least}, not {number}")
