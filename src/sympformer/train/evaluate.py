"""The loss on fixed validation blocks, and the least loss that was possible there."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Evaluation:
    """Mean loss over the target tokens, and the entropy floor of the same tokens, both in nats."""

    loss: float
    floor: float | None
    tokens: int


@torch.no_grad()
def evaluate(
    model: nn.Module,
    blocks: Iterable[tuple[Tensor, Tensor, np.ndarray]],
    floor: np.ndarray | None = None,
) -> Evaluation:
    """Evaluate `model(tokens, targets).loss` on `valid_blocks`.

    `floor` is the corpus's, None where it is unknown.
    """
    model.eval()
    device = next(model.parameters()).device
    total, least, tokens = 0.0, 0.0, 0
    for inputs, targets, positions in blocks:
        loss = model(inputs.to(device), targets.to(device)).loss
        assert loss is not None
        total += loss.item() * targets.numel()
        tokens += targets.numel()
        if floor is not None:
            least += float(floor[positions].sum(dtype=np.float64))
    return Evaluation(total / tokens, least / tokens if floor is not None else None, tokens)
