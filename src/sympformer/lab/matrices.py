"""What the matrices of a flow must be."""

from typing import get_args

import torch
from torch import Tensor

from sympformer.attention.naive import Causality
from sympformer.errors import InputError, lookup


def require_causality(name: str) -> None:
    """Raise InputError unless the causality is one of "prefix" and "joint"."""
    lookup(dict.fromkeys(get_args(Causality)), name, "causality")


def require_symmetric(**matrices: Tensor) -> None:
    """Raise InputError unless every matrix is square, finite and symmetric to rounding."""
    for name, matrix in matrices.items():
        if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
            raise InputError(f"{name} must be a square matrix, not of shape {tuple(matrix.shape)}")
        gap = (matrix - matrix.mT).abs().max().item()
        if not gap <= 1e-10 * max(1.0, matrix.abs().max().item()):
            raise InputError(f"{name} must be symmetric: |{name} - {name}ᵀ| = {gap:.3g}")


def require_definite(**matrices: Tensor) -> None:
    """Raise InputError unless every matrix is symmetric positive definite."""
    require_symmetric(**matrices)
    for name, matrix in matrices.items():
        spectrum = torch.linalg.eigvalsh(matrix)
        least, most = spectrum[0].item(), spectrum[-1].item()
        if not least > 1e-12 * most:
            raise InputError(f"{name} must be positive definite: least eigenvalue {least:.3g}")
