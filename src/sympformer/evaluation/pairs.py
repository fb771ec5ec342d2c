"""Minimal pairs: does a model find the sentence that is right more likely than the one that is not?

The format is that of BLiMP (Warstadt et al. 2020): a JSON object a line with `sentence_good` and
`sentence_bad`, and a name of the phenomenon under `UID` if there are several.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from sympformer.data import Tokenizer
from sympformer.errors import InputError
from sympformer.evaluation.intervals import share
from sympformer.evaluation.lines import json_lines
from sympformer.evaluation.scoring import score
from sympformer.evaluation.text import encoded
from sympformer.model import CustomModel, LanguageModel


class Pair(NamedTuple):
    """Two sentences that differ in one thing."""

    good: str
    bad: str
    kind: str = ""


@dataclass(frozen=True)
class PairScores:
    """Of each pair, in order, whether the good sentence was the more likely one."""

    pairs: tuple[Pair, ...]
    right: tuple[bool, ...]

    def summary(self) -> dict[str, Any]:
        """The share that is right, with Wilson's 95 % interval, of all and of each kind."""
        kinds = sorted({pair.kind for pair in self.pairs})

        def of(kind: str | None) -> dict[str, Any]:
            rows = zip(self.pairs, self.right, strict=True)
            chosen = [right for pair, right in rows if kind is None or pair.kind == kind]
            return {**share(sum(chosen), len(chosen))._asdict(), "pairs": len(chosen)}

        return {"accuracy": of(None), "kinds": {kind: of(kind) for kind in kinds if kind}}


def read_pairs(path: Path) -> list[Pair]:
    """The pairs of a file.

    Raises:
        InputError: it cannot be read, or a line is no such pair.
    """
    rows = json_lines(path)
    pairs = []
    for number, row in rows:
        given = [row.get(name) for name in ("sentence_good", "sentence_bad")]
        if not all(isinstance(text, str) and text for text in given):
            raise InputError(
                f"line {number} of {path} has no 'sentence_good' and 'sentence_bad', as pairs in "
                "the format of BLiMP have"
            )
        pairs.append(Pair(*map(str, given), kind=str(row.get("UID", ""))))
    return pairs


def minimal_pairs(
    model: LanguageModel | CustomModel,
    tokenizer: Tokenizer,
    pairs: Sequence[Pair],
    *,
    batch_size: int = 16,
) -> PairScores:
    """Score both sentences of each pair, as the start of a document; a tie is not right.

    Raises:
        InputError: there is no pair, or a sentence is longer than the model's block size.
    """
    if not pairs:
        raise InputError("there is no pair")
    ids = [encoded(tokenizer, text) for pair in pairs for text in (pair.good, pair.bad)]
    limit = model.config.block_size
    for i, sequence in enumerate(ids):
        if len(sequence) - 1 > limit:
            raise InputError(
                f"a sentence of pair {i // 2 + 1} has {len(sequence) - 1} tokens, and the model "
                f"reads {limit}"
            )
    nats = [scored.nats.sum() for scored in score(model, ids, batch_size=batch_size)]
    right = tuple(bool(good < bad) for good, bad in zip(nats[::2], nats[1::2], strict=True))
    return PairScores(tuple(pairs), right)
