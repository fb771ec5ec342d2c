"""The table of experiments: adding one is one file and one line."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from sympformer.dynamics import DivergenceError
from sympformer.errors import InputError, lookup
from sympformer.files import atomic
from sympformer.lab import clusters, conservation, decoder, ellipse, energy, meanfield, orders
from sympformer.lab.record import Experiment, Result, animate, write

EXPERIMENTS: dict[str, Experiment] = {
    "ellipse": Experiment(
        ellipse.EllipseConfig,
        ellipse.run,
        "elliptically contoured laws under accelerated linear attention",
        ellipse.draw,
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
    "clusters": Experiment(
        clusters.ClustersConfig,
        clusters.run,
        "clusters of tokens on the sphere, and how long they take to merge",
        clusters.draw,
    ),
    "decoder": Experiment(
        decoder.DecoderConfig,
        decoder.run,
        "prefix causality against the exact flow, by position",
        decoder.draw,
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
        InputError: unknown experiment, bad configuration, or a state that became non-finite.
    """
    experiment = lookup(EXPERIMENTS, name, "experiment")
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
    write(out, name, config, result, experiment.draw(result))
    if animation:
        animate(out, name, result)
    return result
