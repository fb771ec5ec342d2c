"""Of a text whose entropy is known: free choices against what its context determines."""

from collections.abc import Iterable
from typing import Any

import numpy as np
from torch import Tensor

from sympformer.evaluation.scoring import score
from sympformer.model import CustomModel, LanguageModel

DETERMINED = 1e-9
"""Nats of entropy up to which a token counts as determined."""


def token_classes(
    model: LanguageModel | CustomModel,
    blocks: Iterable[tuple[Tensor, Tensor, np.ndarray]],
    floor: np.ndarray,
) -> dict[str, dict[str, Any]]:
    """Losses of tokens that the rules of a text determine, and of those that they leave open.

    Args:
        model: ours, or a registered one.
        blocks: of `valid_blocks`.
        floor: `-log P` of each token of the stream that they are of, by the rules.

    Returns:
        For "determined" and "free": tokens, their share, mean loss and floor in nats a token.
    """
    nats, least = [], []
    for inputs, targets, positions in blocks:
        ids = np.concatenate([inputs[:, :1].numpy(), targets.numpy()], axis=1)
        nats += [s.nats for s in score(model, list(ids), context=inputs.shape[1])]
        least += list(floor[positions].astype(np.float64))
    losses, floors = np.concatenate(nats), np.concatenate(least)
    fixed = floors <= DETERMINED
    return {
        name: {
            "tokens": int(chosen.sum()),
            "share": float(chosen.mean()),
            "loss": float(losses[chosen].mean()) if chosen.any() else None,
            "floor": float(floors[chosen].mean()) if chosen.any() else None,
        }
        for name, chosen in (("determined", fixed), ("free", ~fixed))
    }
