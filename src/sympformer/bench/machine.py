"""The machine: what it is, and how fast it multiplies matrices."""

import datetime
import os
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from sympformer.products import product
from sympformer.train.checkpoint import environment


def describe(devices: Iterable[str]) -> dict[str, Any]:
    """Devices, cores, threads, load before the run, versions, commit, date and command."""
    each = {device: environment(torch.device(device)) for device in sorted(devices)}
    return {
        **next(iter(each.values())),
        "device": "; ".join(facts["device"] for facts in each.values()),
        "command": " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
    }


def synchronise(device: str) -> None:
    """Wait until an accelerator has done what it was asked."""
    if torch.device(device).type != "cpu":
        torch.accelerator.synchronize()


def matmul_peak(device: str, dtype: str, calls: int = 8) -> float:
    """The best of some products of square matrices, by the faster library, in operations a second.

    The size is one at which the machine is near its best: 1024 on a CPU, 8192 on an accelerator.
    """
    n = 1024 if torch.device(device).type == "cpu" else 8192
    a, b = (torch.randn(n, n, device=device, dtype=getattr(torch, dtype)) for _ in range(2))
    best = float("inf")
    for _ in range(calls):
        synchronise(device)
        began = time.perf_counter()
        product(a, b)
        synchronise(device)
        best = min(best, time.perf_counter() - began)
    return 2 * n**3 / best
