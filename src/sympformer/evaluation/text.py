"""A model on a text: nats, perplexity and bits per byte, by document and by position."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from sympformer.data import Tokenizer
from sympformer.errors import InputError
from sympformer.evaluation.intervals import ratio
from sympformer.evaluation.scoring import Scored, score
from sympformer.model import CustomModel, LanguageModel

GROUP = 256
"""Documents that are scored at a time."""


@dataclass(frozen=True, eq=False)
class TextScores:
    """What a model makes of some documents, each read from its start to its end."""

    nats: np.ndarray
    """Of each document, the token that ends it included, `(D,)`."""
    tokens: np.ndarray
    """Of each, the end included, `(D,)`."""
    bytes: np.ndarray
    """Of each one's text in UTF-8, `(D,)`."""
    first: np.ndarray
    """How many tokens of each were the most likely ones, `(D,)`."""
    by_position: tuple[tuple[int, int, float, int], ...]
    """First and last position in a document (from 1), nats a token there, tokens."""

    def summary(self, seed: int = 0) -> dict[str, Any]:
        """Means over all tokens, with 95 % bootstrap intervals over documents.

        Bits per byte are comparable between tokenizers, nats a token are not.
        """
        nats = ratio(self.nats, self.tokens, seed)
        bits = ratio(self.nats / math.log(2), self.bytes, seed)
        return {
            "nats_per_token": nats._asdict(),
            "perplexity": {name: _exp(x) for name, x in nats._asdict().items()},
            "bits_per_byte": bits._asdict(),
            "accuracy": ratio(self.first, self.tokens, seed)._asdict(),
            "documents": len(self.nats),
            "tokens": int(self.tokens.sum()),
            "bytes": int(self.bytes.sum()),
            "by_position": [
                {"from": low, "to": high, "nats_per_token": mean, "tokens": count}
                for low, high, mean, count in self.by_position
            ],
        }


def score_text(
    model: LanguageModel | CustomModel,
    tokenizer: Tokenizer,
    documents: Iterable[str],
    *,
    context: int | None = None,
    stride: int | None = None,
    batch_size: int = 16,
    progress: Callable[[int], None] | None = None,
) -> TextScores:
    """Score documents, each for itself, behind the token that ended the one before.

    Args:
        model: ours, or a registered one.
        tokenizer: the one that it was trained with.
        documents: their texts.
        context: tokens of a window, see `score`.
        stride: from window to window, see `score`.
        batch_size: windows at a time.
        progress: called with the number of documents that were scored since.

    Raises:
        InputError: there is no document, or what `score` refuses.
    """
    scored: list[Scored] = []
    sizes: list[int] = []
    group: list[str] = []

    def flush() -> None:
        ids = [encoded(tokenizer, text, closed=True) for text in group]
        scored.extend(score(model, ids, context=context, stride=stride, batch_size=batch_size))
        sizes.extend(len(text.encode()) for text in group)
        if progress is not None:
            progress(len(group))
        group.clear()

    for text in documents:
        group.append(text)
        if len(group) == GROUP:
            flush()
    if group:
        flush()
    if not scored:
        raise InputError("there is no document in the text")
    return TextScores(
        nats=np.array([s.nats.sum() for s in scored]),
        tokens=np.array([len(s.nats) for s in scored]),
        bytes=np.array(sizes),
        first=np.array([s.first.sum() for s in scored]),
        by_position=_by_position(scored),
    )


def _exp(x: float) -> float:
    """`math.exp`, infinite where that overflows."""
    return math.inf if x > 700 else math.exp(x)


def encoded(tokenizer: Tokenizer, text: str, *, closed: bool = False) -> np.ndarray:
    """The ids of a document behind the end of another; with its own end if `closed`."""
    ids = [tokenizer.eos, *tokenizer.encode(text), *([tokenizer.eos] if closed else [])]
    return np.array(ids, np.int64)


def _by_position(scored: list[Scored]) -> tuple[tuple[int, int, float, int], ...]:
    """Means at positions 1, 2-3, 4-7, ..., in documents."""
    longest = max(len(s.nats) for s in scored)
    nats, count = np.zeros(longest), np.zeros(longest, np.int64)
    for s in scored:
        nats[: len(s.nats)] += s.nats
        count[: len(s.nats)] += 1
    rows, low = [], 1
    while low <= longest:
        high = min(2 * low - 1, longest)
        here = slice(low - 1, high)
        rows.append(
            (low, high, float(nats[here].sum() / count[here].sum()), int(count[here].sum()))
        )
        low *= 2
    return tuple(rows)
