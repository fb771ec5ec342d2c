"""Multi-query associative recall."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from sympformer.errors import InputError
from sympformer.tasks.task import IGNORED, Batch, Setting, Task

TRAIN = ((64, 4),) * 5 + ((128, 8), (256, 16), (256, 32), (256, 64))
TEST = ((64, 4), (64, 8), (64, 16), (128, 32), (256, 64), (512, 128), (1024, 256))

_Settings = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Recall(Task):
    """Pairs of a key and its value, then each key once more: which value is it?

    A sequence begins with `pairs` keys, each followed by its value; keys are distinct, and so are
    values. Behind them every key is asked once, at an even position whose gap from the pairs
    follows a power law; all other positions hold random tokens. Keys are ids of the lower half of
    the vocabulary (but 0), values of the upper half.

    The first place where a key stands is that of its pair, so the answer is certain: loss 0,
    accuracy 1. A guess among the values has loss `log(vocab_size / 2)`.

    Source: Arora, Eyuboglu et al., Zoology (arXiv:2312.04927); lengths, pairs and their shares in
    training as in Based (arXiv:2402.18668).
    """

    name: ClassVar[str] = "mqar"

    vocab_size: int = 8192
    train: _Settings = TRAIN
    test: _Settings = TEST
    power: float = 0.01

    @property
    def vocabulary(self) -> int:
        """As the option says."""
        return self.vocab_size

    @property
    def training(self) -> tuple[Setting, ...]:
        """(tokens, pairs)."""
        return tuple(Setting(*pair) for pair in self.train)

    @property
    def testing(self) -> tuple[Setting, ...]:
        """(tokens, pairs)."""
        return tuple(Setting(*pair) for pair in self.test)

    def context(self, setting: Setting) -> int:
        """Tokens of the pairs, before the queries."""
        return 2 * setting.load

    def check(self, setting: Setting) -> None:
        """Refuse what has no room."""
        length, pairs, _ = setting
        needed = self.context(setting) + 2 * pairs
        if length % 2 or pairs < 1 or length < needed:
            raise InputError(
                f"{self.name}: {pairs} pairs need an even length of at least {max(4, needed)}, "
                f"not {length}"
            )
        if self.vocab_size < 2 * pairs + 2:
            raise InputError(
                f"{self.name}: {pairs} pairs need a vocab_size of at least {2 * pairs + 2}, not "
                f"{self.vocab_size}"
            )
        if not self.power > 0:
            raise InputError(f"{self.name}: power must be greater than 0, not {self.power}")

    def draw(self, random: np.random.Generator, size: int, setting: Setting) -> Batch:
        """Pairs, then queries among random tokens."""
        half = self.vocab_size // 2
        keys = 1 + distinct(random, size, half - 1, setting.load)
        values = half + distinct(random, size, self.vocab_size - half, setting.load)
        tokens = random.integers(self.vocab_size, size=(size, setting.length))
        tokens[:, 0 : 2 * setting.load : 2] = keys
        tokens[:, 1 : 2 * setting.load : 2] = values
        return self.asked(random, tokens, keys, values, setting)

    def asked(
        self,
        random: np.random.Generator,
        tokens: np.ndarray,
        keys: np.ndarray,
        values: np.ndarray,
        setting: Setting,
    ) -> Batch:
        """Write each key `(B, pairs)` once behind the pairs, with its value as the target."""
        context, (size, pairs) = self.context(setting), keys.shape
        gaps = np.arange(1, (setting.length - context) // 2 + 1)
        # Without replacement by weights: those with the largest log weight plus Gumbel noise.
        scores = (self.power - 1) * np.log(gaps) + random.gumbel(size=(size, len(gaps)))
        places = context + 2 * np.argsort(-scores, axis=1, kind="stable")[:, :pairs]
        np.put_along_axis(tokens, places, keys, axis=1)
        targets = np.full(tokens.shape, IGNORED)
        np.put_along_axis(targets, places, values, axis=1)
        return Batch.certain(tokens, targets)


def distinct(random: np.random.Generator, size: int, below: int, count: int) -> np.ndarray:
    """Rows of `count` different numbers below `below`, `(size, count)`, in random order."""
    drawn = random.integers(below, size=(size, count))
    while (rows := _with_twins(drawn)).any() and 8 * count < below:
        drawn[rows] = random.integers(below, size=(int(rows.sum()), count))
    if rows.any():  # too crowded for luck
        drawn[rows] = np.stack([random.permutation(below)[:count] for _ in range(int(rows.sum()))])
    return drawn


def _with_twins(drawn: np.ndarray) -> np.ndarray:
    ordered = np.sort(drawn, axis=1)
    return (ordered[:, 1:] == ordered[:, :-1]).any(1)
