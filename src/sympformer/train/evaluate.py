"""What a model reaches on fixed sequences, and the best that was possible there."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sympformer.model import CustomModel, LanguageModel
from sympformer.tasks import IGNORED, Batch

LOGITS = 1 << 23
"""Logits of a task's answers that are made at a time: 32 MB in float32."""


@dataclass(frozen=True)
class Evaluation:
    """Means over the target tokens that count."""

    loss: float
    """Nats per token."""
    floor: float | None
    """The entropy floor of the same tokens, nats per token; None if unknown."""
    tokens: int
    """How many there are."""
    accuracy: float | None = None
    """Of a task: the share whose most likely token is the target."""
    ceiling: float | None = None
    """Of a task: the greatest accuracy that can be expected on the same sequences."""


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
        count = int((targets != IGNORED).sum())
        total += loss.item() * count
        tokens += count
        if floor is not None:
            least += float(floor[positions].sum(dtype=np.float64))
    return Evaluation(total / tokens, least / tokens if floor is not None else None, tokens)


@torch.no_grad()
def evaluate_task(model: LanguageModel | CustomModel, batches: Iterable[Batch]) -> Evaluation:
    """Evaluate predictions at the targets that count in sequences of a task."""
    model.eval()
    device = next(model.parameters()).device
    loss = floor = right = ceiling = 0.0
    tokens = 0
    for batch in batches:
        here = batch.targets != IGNORED
        answers = torch.from_numpy(batch.targets[here]).to(device)
        logits = _logits(model, torch.from_numpy(batch.tokens).to(device), here)
        for some, expected in zip(logits, answers.split(_rows(model)), strict=True):
            loss += F.cross_entropy(some.float(), expected, reduction="sum").item()
            right += (some.argmax(-1) == expected).sum().item()
        floor += float(batch.floor[here].sum())
        ceiling += float(batch.ceiling[here].sum())
        tokens += len(answers)
    return Evaluation(loss / tokens, floor / tokens, tokens, right / tokens, ceiling / tokens)


def _logits(
    model: LanguageModel | CustomModel, tokens: Tensor, chosen: np.ndarray
) -> Iterator[Tensor]:
    """Of the positions that are chosen, `(N, V)`, some rows at a time."""
    rows, places = torch.from_numpy(np.stack(chosen.nonzero())).to(tokens.device)
    parts = zip(rows.split(_rows(model)), places.split(_rows(model)), strict=True)
    if isinstance(model, LanguageModel):
        out = model(tokens, use_cache=False)
        return (out.logits_at(part) for part in parts)
    logits = model(tokens).logits
    return (logits[part] for part in parts)


def _rows(model: LanguageModel | CustomModel) -> int:
    """How many rows of logits are made at a time."""
    return max(1, LOGITS // model.config.vocab_size)


@torch.no_grad()
def state_bytes(model: LanguageModel | CustomModel, length: int) -> int | None:
    """Bytes that a model's cache holds of one sequence of `length` tokens; None without a cache."""
    if not isinstance(model, LanguageModel):
        return None
    tokens = torch.zeros(1, length, dtype=torch.int64, device=next(model.parameters()).device)
    cache = model.eval()(tokens, use_cache=True).cache
    assert cache is not None
    return cache.nbytes
