"""How fast the machine multiplies matrices."""

import time

import torch

from sympformer.machine import synchronise
from sympformer.products import product


def matmul_peak(device: str, dtype: str, calls: int = 8) -> float:
    """The best of some products of square matrices, by the faster library, in operations a second.

    The size is one at which the machine is near its best: 1024 on a CPU, 8192 on an accelerator.
    """
    where, kind = torch.device(device), getattr(torch, dtype)
    n = 1024 if where.type == "cpu" else 8192
    random = torch.Generator(where).manual_seed(0)
    a, b = (torch.randn(n, n, generator=random, device=where, dtype=kind) for _ in range(2))
    best = float("inf")
    for _ in range(calls):
        synchronise(where)
        began = time.perf_counter()
        product(a, b)
        synchronise(where)
        best = min(best, time.perf_counter() - began)
    return 2 * n**3 / best
