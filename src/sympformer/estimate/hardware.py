"""Machines, as a roofline knows them: operations and bytes a second."""

import time
from typing import NamedTuple

import torch

from sympformer import machine
from sympformer.bench.roofline import matmul_peak


class Hardware(NamedTuple):
    """One processor or accelerator."""

    name: str
    peak: float
    """Operations a second of large products of matrices, in the precision of the passes."""
    bandwidth: float
    """Bytes a second to and from memory."""
    memory: float | None
    """Bytes; None if unknown."""


HARDWARE = {
    "a100": Hardware("NVIDIA A100 SXM, dense bfloat16, data sheet", 312e12, 2.0e12, 80e9),
    "h100": Hardware("NVIDIA H100 SXM, dense bfloat16, data sheet", 989e12, 3.35e12, 80e9),
    "h200": Hardware("NVIDIA H200 SXM, dense bfloat16, data sheet", 989e12, 4.8e12, 141e9),
}
"""What data sheets say, by the name of the option; nothing of it was measured here."""


def here(dtype: str = "float32", device: torch.device = machine.CPU) -> Hardware:
    """The machine itself, measured in a second or two: a product of matrices, and a copy."""
    free = machine.free_memory(device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else machine.processor()
    peak = matmul_peak(str(device), dtype)
    return Hardware(f"{name}, measured", peak, _bandwidth(device), free)


def _bandwidth(device: torch.device, size: int = 2**27, times: int = 5) -> float:
    """Bytes a second, read and written, of the best of some copies that no cache holds."""
    source = torch.zeros(size, dtype=torch.uint8, device=device)
    target = torch.ones_like(source)
    best = float("inf")
    for _ in range(times):
        machine.synchronise(device)
        began = time.perf_counter()
        target.copy_(source)
        machine.synchronise(device)
        best = min(best, time.perf_counter() - began)
    return 2 * size / best
