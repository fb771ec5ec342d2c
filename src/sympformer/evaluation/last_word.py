"""Last words: can a model name the word that ends a passage, given all before it?

As in LAMBADA (Paperno et al. 2016): passages are chosen so that the last word follows from all of
the passage, and not from its last sentence. The format is a JSON object a line with `text`, or
plain text, a passage a line.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sympformer.data import Tokenizer
from sympformer.errors import InputError
from sympformer.evaluation.intervals import ratio, share
from sympformer.evaluation.lines import json_lines, lines_of
from sympformer.evaluation.scoring import score
from sympformer.model import CustomModel, LanguageModel

_LAST = re.compile(r"(.*\S)(\s+\S+)", re.DOTALL)


@dataclass(frozen=True, eq=False)
class LastWord:
    """What a model makes of the last words of passages."""

    right: np.ndarray
    """Whether every token of the word was the most likely one, given those before it, `(N,)`."""
    nats: np.ndarray
    """Of the word, `(N,)`."""
    tokens: np.ndarray
    """Of the word, `(N,)`."""

    def summary(self, seed: int = 0) -> dict[str, Any]:
        """Accuracy with Wilson's interval; nats a word with that of the bootstrap."""
        count = len(self.right)
        nats = ratio(self.nats, np.ones(count), seed)
        return {
            "accuracy": share(int(self.right.sum()), count)._asdict(),
            "nats_per_word": nats._asdict(),
            "perplexity": float(np.exp(nats.value)),
            "passages": count,
        }


def read_passages(path: Path) -> list[str]:
    """The passages of a file: `text` of every line of a `.jsonl`, else every line that has one.

    Raises:
        InputError: it cannot be read, holds nothing, or a line has no `text`.
    """
    if path.suffix == ".jsonl":
        rows = json_lines(path)
        for number, row in rows:
            if not isinstance(row.get("text"), str):
                raise InputError(f"line {number} of {path} has no 'text'")
        return [row["text"] for _, row in rows]
    passages = [line for line in lines_of(path) if line.strip()]
    if not passages:
        raise InputError(f"{path} holds no passage")
    return passages


def last_words(
    model: LanguageModel | CustomModel,
    tokenizer: Tokenizer,
    passages: Sequence[str],
    *,
    batch_size: int = 16,
) -> LastWord:
    """Score the last word of each passage; of long passages the last tokens are read.

    Raises:
        InputError: there is no passage, or one of a single word.
    """
    if not passages:
        raise InputError("there is no passage")
    sequences, lengths = [], []
    for i, passage in enumerate(passages, 1):
        parted = _LAST.fullmatch(passage.strip())
        if parted is None:
            raise InputError(f"passage {i} has a single word: nothing comes before it")
        # Tokenizers cut before white space, which is a part of the word behind it.
        before, word = parted.groups()
        target = tokenizer.encode(word)
        ids = [tokenizer.eos, *tokenizer.encode(before), *target]
        if len(target) > model.config.block_size:
            raise InputError(f"the last word of passage {i} is longer than the model reads")
        sequences.append(np.array(ids[-(model.config.block_size + 1) :], np.int64))
        lengths.append(len(target))
    scored = score(model, sequences, batch_size=batch_size)
    ends = [(s.first[-n:], s.nats[-n:]) for s, n in zip(scored, lengths, strict=True)]
    return LastWord(
        right=np.array([first.all() for first, _ in ends]),
        nats=np.array([nats.sum() for _, nats in ends]),
        tokens=np.array(lengths),
    )
