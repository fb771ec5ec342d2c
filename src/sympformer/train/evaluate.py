"""What a model reaches on fixed sequences, and the best that was possible there."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sympformer.model import CustomModel, LanguageModel
from sympformer.tasks import IGNORED, Batch
from sympformer.train.parallel import SINGLE, Ranks

T = TypeVar("T")

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
    ranks: Ranks = SINGLE,
) -> Evaluation:
    """Evaluate `model(tokens, targets).loss` on `valid_blocks`, shared out over processes.

    `floor` is the corpus's, None where it is unknown.
    """
    model.eval()
    device = next(model.parameters()).device

    def measure(block: tuple[Tensor, Tensor, np.ndarray]) -> tuple[float, ...]:
        inputs, targets, positions = block
        loss = model(inputs.to(device), targets.to(device)).loss
        assert loss is not None
        count = int((targets != IGNORED).sum())
        least = 0.0 if floor is None else float(floor[positions].sum(dtype=np.float64))
        return loss.item() * count, least, count

    total, least, tokens = _totals(blocks, measure, ranks)
    return Evaluation(total / tokens, least / tokens if floor is not None else None, int(tokens))


@torch.no_grad()
def evaluate_task(
    model: LanguageModel | CustomModel, batches: Iterable[Batch], ranks: Ranks = SINGLE
) -> Evaluation:
    """Evaluate predictions at the targets that count in sequences of a task, shared out over
    processes.
    """
    model.eval()
    device = next(model.parameters()).device

    def measure(batch: Batch) -> tuple[float, ...]:
        here = batch.targets != IGNORED
        answers = torch.from_numpy(batch.targets[here]).to(device)
        logits = _logits(model, torch.from_numpy(batch.tokens).to(device), here)
        loss = right = 0.0
        for some, expected in zip(logits, answers.split(_rows(model)), strict=True):
            loss += F.cross_entropy(some.float(), expected, reduction="sum").item()
            right += (some.argmax(-1) == expected).sum().item()
        best = float(batch.floor[here].sum()), float(batch.ceiling[here].sum())
        return loss, right, *best, len(answers)

    loss, right, floor, ceiling, tokens = _totals(batches, measure, ranks)
    return Evaluation(loss / tokens, floor / tokens, int(tokens), right / tokens, ceiling / tokens)


def _totals(
    batches: Iterable[T], measure: Callable[[T], tuple[float, ...]], ranks: Ranks
) -> list[float]:
    """The sums of what is measured of all batches, of which every process measures its own.

    They are added up in their order: the same sums for every number of processes. All make as many
    passes, as sharded models must: where batches run out, the last one once more, for nothing.
    """
    rows: list[tuple[float, ...]] = []
    rest = iter(batches)
    while group := list(islice(rest, ranks.size)):
        mine = measure(group[min(ranks.rank, len(group) - 1)])
        nothing = (0.0,) * len(mine)
        rows += [mine if rank == ranks.rank else nothing for rank in range(len(group))]
    table = ranks.summed(torch.tensor(rows, dtype=torch.float64))
    return [sum(column) for column in zip(*table.tolist(), strict=True)]


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
