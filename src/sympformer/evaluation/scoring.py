"""The loss of each token of some sequences, in windows that slide over those that are long."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from sympformer.errors import InputError
from sympformer.model import CustomModel, LanguageModel
from sympformer.model.loss import IGNORED

LOGITS = 1 << 23
"""Logits that are made at a time: 32 MB in float32."""


class Scored(NamedTuple):
    """What a model makes of a sequence's tokens but the first, which nothing predicts."""

    nats: np.ndarray
    """`-log P(token | those before it in its window)`, float64 `(n - 1,)`."""
    seen: np.ndarray
    """How many tokens were before it in its window, `(n - 1,)`."""
    first: np.ndarray
    """Whether it was the most likely token, `(n - 1,)`."""


class Window(NamedTuple):
    """A part of a sequence: tokens from `start` on, of whose targets the last `new` count."""

    sequence: int
    start: int
    length: int
    new: int


@torch.no_grad()
def score(
    model: LanguageModel | CustomModel,
    sequences: Sequence[np.ndarray],
    *,
    context: int | None = None,
    stride: int | None = None,
    batch_size: int = 16,
) -> list[Scored]:
    """Score every token but the first of each sequence.

    A sequence that is longer than the context is read in windows: the first scores all of its
    tokens, each later one is `stride` tokens further on and scores the last `stride` of its own, so
    that each of them has at least `context - stride` tokens before it.

    Args:
        model: ours, or a registered one, in `eval` mode or not; it is asked in `eval` mode.
        sequences: ids, `(n,)` each, n ≥ 2.
        context: tokens of a window; the model's block size if not given.
        stride: from window to window, 1 to `context`; half of that if not given.
        batch_size: windows at a time.

    Raises:
        InputError: a context that the model does not take, a stride out of range, or a sequence of
            fewer than two tokens; predictions that are NaN.
    """
    context = model.config.block_size if context is None else context
    stride = max(1, context // 2) if stride is None else stride
    if context < 1 or not 1 <= stride <= context:
        raise InputError(
            f"the context must be at least 1 token and the stride 1 to the context, not {context} "
            f"and {stride}"
        )
    if isinstance(model, LanguageModel):
        model = model.with_block_size(context)
    elif context > model.config.block_size:
        raise InputError(
            f"this model reads {model.config.block_size} tokens, not {context}: give a smaller "
            "context"
        )
    if short := [i for i, ids in enumerate(sequences) if len(ids) < 2]:
        raise InputError(f"sequence {short[0]} has fewer than two tokens: nothing is predicted")
    found = [
        Scored(*(np.zeros(len(ids) - 1, kind) for kind in (np.float64, np.int64, bool)))
        for ids in sequences
    ]
    windows = [w for i, ids in enumerate(sequences) for w in _windows(i, len(ids), context, stride)]
    # Those of one length together: what is padded is computed in vain.
    windows.sort(key=lambda w: w.length, reverse=True)
    was_training = model.training
    model.eval()
    try:
        for start in range(0, len(windows), batch_size):
            _score_batch(model, sequences, windows[start : start + batch_size], found)
    finally:
        model.train(was_training)
    return found


def _windows(sequence: int, n: int, context: int, stride: int) -> Iterator[Window]:
    """Windows over the n - 1 targets of a sequence."""
    scored = min(n - 1, context)
    yield Window(sequence, 0, scored, scored)
    while scored < n - 1:
        new = min(stride, n - 1 - scored)
        scored += new
        yield Window(sequence, scored - context, context, new)


def _score_batch(
    model: LanguageModel | CustomModel,
    sequences: Sequence[np.ndarray],
    windows: Sequence[Window],
    found: list[Scored],
) -> None:
    device = next(model.parameters()).device
    longest = windows[0].length
    ids = np.zeros((len(windows), longest + 1), np.int64)
    targets = torch.full((len(windows), longest), IGNORED)
    for row, w in enumerate(windows):
        # Padding stands on the right: no token that counts can see it.
        ids[row, : w.length + 1] = sequences[w.sequence][w.start : w.start + w.length + 1]
        targets[row, w.length - w.new : w.length] = torch.from_numpy(
            ids[row, w.length - w.new + 1 : w.length + 1]
        )
    nats, first = _losses(model, torch.from_numpy(ids[:, :-1]).to(device), targets)
    for row, w in enumerate(windows):
        here = slice(w.length - w.new, w.length)
        whole = slice(w.start + here.start, w.start + here.stop)
        found[w.sequence].nats[whole] = nats[row, here]
        found[w.sequence].first[whole] = first[row, here]
        found[w.sequence].seen[whole] = np.arange(here.start, here.stop) + 1


def _losses(
    model: LanguageModel | CustomModel, tokens: Tensor, targets: Tensor
) -> tuple[np.ndarray, np.ndarray]:
    """Losses where there are targets, and whether these are the most likely, `(B, T)` each."""
    nats = np.zeros(targets.shape)
    first = np.zeros(targets.shape, bool)
    rows, places = (targets != IGNORED).nonzero(as_tuple=True)
    count = max(1, LOGITS // model.config.vocab_size)
    ours = isinstance(model, LanguageModel)
    out = model(tokens, use_cache=False) if ours else model(tokens)
    for row, place in zip(rows.split(count), places.split(count), strict=True):
        here = row.to(tokens.device), place.to(tokens.device)
        logits = (out.logits_at(here) if ours else out.logits[here]).float().cpu()
        wanted = targets[row, place]
        nats[row, place] = F.cross_entropy(logits, wanted, reduction="none").double()
        if logits.isnan().any():
            raise InputError(
                "the model's predictions are not numbers: its weights have diverged or are damaged"
            )
        first[row, place] = logits.argmax(-1) == wanted
    return nats, first
