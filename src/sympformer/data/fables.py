"""Fables: an endless corpus of small stories of our own whose entropy is known exactly.

The stories are drawn from the grammar in `fables.txt`, so the probability of every token given
its story so far can be computed. Its negative logarithm is the floor: on average no causal model
can do better. In the long run the floor is 0.803 nats per token (`entropy_rate`); a story has
81 to 140 tokens, about 121 bits.

Tokens are words and punctuation. Sentences start with small letters, and capitals are put back
when a text is decoded, so that "She" and "she" are one token.
"""

import hashlib
import math
import random
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from itertools import islice

import numpy as np

from sympformer.data.grammar import END, Grammar
from sympformer.errors import InputError

_TOKEN = re.compile(rf"{re.escape(END)}|\w+|'s\b|\S")


@cache
def grammar() -> Grammar:
    """The grammar of the stories."""
    text = files("sympformer.data").joinpath("fables.txt").read_text(encoding="utf-8")
    return Grammar(text, start="story")


def vocabulary() -> list[str]:
    """All tokens in the order of their ids: `<|endoftext|>`, which closes a story, then words."""
    return [END, *grammar().vocabulary]


class FablesTokenizer:
    """Words and punctuation of the fables to ids and back.

    `decode(ids)` gives `ids` back when encoded, for every sequence of ids.
    """

    name = "fables"
    eos = 0

    def __init__(self) -> None:
        self._words = vocabulary()
        self._ids = {word: number for number, word in enumerate(self._words)}
        self.vocab_size = len(self._words)
        self.digest = hashlib.sha256("\n".join(self._words).encode()).hexdigest()

    def encode(self, text: str) -> list[int]:
        """Ids of `text`; capitals at the start of a word do not matter.

        Raises:
            InputError: the fables do not know some of the words.
        """
        words = _TOKEN.findall(text)
        ids = [self._ids.get(w, self._ids.get(w[0].lower() + w[1:], -1)) for w in words]
        if -1 in ids:
            unknown = dict.fromkeys(w for w, number in zip(words, ids, strict=True) if number < 0)
            raise InputError(
                f"not words of the fables: {', '.join(map(repr, unknown))}; for the list, run "
                "python -c 'from sympformer.data.fables import vocabulary; print(*vocabulary())'"
            )
        return ids

    def decode(self, ids: Iterable[int]) -> str:
        """English text of `ids`, with capitals; each `<|endoftext|>` stands on its own line.

        Raises:
            InputError: an id is not in the vocabulary.
        """
        text, previous, sentence_start = "", END, True
        for number in ids:
            if not 0 <= number < self.vocab_size:
                raise InputError(f"{number} is not one of the {self.vocab_size} ids of the fables")
            word = self._words[number]
            if END in (word, previous):
                text += "\n" if text else ""
            elif word not in {",", ".", "!", "?", "”", "'s"} and previous != "“":
                text += " "
            text += word[0].upper() + word[1:] if sentence_start else word
            # “Where is it?” she asked. “Here.” She laughed.
            sentence_start = word in {".", "!", "?", "“", END} or (word, previous) == ("”", ".")
            previous = word
        return text


@dataclass(frozen=True)
class Stream:
    """Stories one after another, each closed by id 0; the last one may be cut.

    `tokens` (n,) uint16; `floor` (n,) float32 or None: -log P(token | its story so far), in nats.
    """

    tokens: np.ndarray
    floor: np.ndarray | None


def stories(seed: int) -> Iterator[list[str]]:
    """Endless stories, each a list of tokens closed by `<|endoftext|>`.

    The same seed gives the same stories on every platform: all choices come from
    `random.Random(seed).random()`, whose values Python guarantees never to change.

    Raises:
        InputError: `seed` is negative.
    """
    if seed < 0:  # random.Random would take it for -seed
        raise InputError(f"the seed must not be negative, but is {seed}")
    rng = random.Random(int(seed))
    while True:
        yield grammar().sample(rng)


def stream(n_tokens: int, seed: int, with_floor: bool = False) -> Stream:
    """The first `n_tokens` tokens of the stories of `seed`, if wanted with their floor.

    Streams of different seeds share no story: with about 121 bits of choice in each, meeting one
    twice is out of the question.

    Raises:
        InputError: `n_tokens` or `seed` is negative.
    """
    if n_tokens < 0:
        raise InputError(f"the number of tokens must not be negative, but is {n_tokens}")
    ids = {word: number for number, word in enumerate(vocabulary())}
    tokens = np.empty(n_tokens, np.uint16)
    floor = np.empty(n_tokens, np.float32) if with_floor else None
    source = stories(seed)
    start = 0
    while start < n_tokens:
        story = next(source)[: n_tokens - start]
        end = start + len(story)
        tokens[start:end] = [ids[word] for word in story]
        if floor is not None:
            floor[start:end] = -grammar().log_probs(story)
        start = end
    return Stream(tokens, floor)


def entropy_rate(n_stories: int = 1000, seed: int = 0) -> tuple[float, float]:
    """Expected floor of an endless stream in nats per token, and its standard error.

    The ratio of the mean nats to the mean tokens of `n_stories` independent stories.
    """
    floors = [-grammar().log_probs(story) for story in islice(stories(seed), n_stories)]
    nats = np.array([floor.sum() for floor in floors])
    lengths = np.array([len(floor) for floor in floors])
    rate = nats.sum() / lengths.sum()
    error = np.std(nats - rate * lengths) / (lengths.mean() * math.sqrt(n_stories))
    return float(rate), float(error)
