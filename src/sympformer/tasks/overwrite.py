"""Multi-query associative recall whose pairs are overwritten."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from sympformer.errors import InputError
from sympformer.tasks.recall import Recall, distinct
from sympformer.tasks.task import Batch, Setting


@dataclass(frozen=True)
class OverwrittenRecall(Recall):
    """As `mqar`, but a share of the keys is given another value before the queries begin.

    Behind the pairs, `overwritten` of the keys (rounded up) stand again with a new value: what is
    asked for is the last one. Random tokens are values only, so that no key stands anywhere but in
    pairs and in its query: the value that last followed a key is certain. Loss 0, accuracy 1; a
    model that knows the first values only is right on the share that was not overwritten.

    Source: the forgetting variant in the code of Zoology (arXiv:2312.04927), where half of the keys
    are overwritten; there random tokens are of the whole vocabulary, and may contradict a pair.
    """

    name: ClassVar[str] = "mqar-overwrite"

    train: tuple[tuple[int, int], ...] = ((64, 4), (128, 8), (256, 16), (256, 32))
    test: tuple[tuple[int, int], ...] = ((64, 4), (128, 16), (256, 32), (512, 64), (1024, 128))
    overwritten: float = 0.5

    def updates(self, setting: Setting) -> int:
        """Pairs that are overwritten."""
        return int(np.ceil(self.overwritten * setting.load))

    def context(self, setting: Setting) -> int:
        """Tokens of the pairs, old and new."""
        return 2 * (setting.load + self.updates(setting))

    def check(self, setting: Setting) -> None:
        """Refuse what has no room."""
        if not 0 < self.overwritten <= 1:
            raise InputError(
                f"{self.name}: overwritten must be above 0 and at most 1, not {self.overwritten}"
            )
        super().check(setting)

    def draw(self, random: np.random.Generator, size: int, setting: Setting) -> Batch:
        """Pairs, pairs that replace some of them, then queries among random values."""
        half, pairs, updates = self.vocab_size // 2, setting.load, self.updates(setting)
        keys = 1 + distinct(random, size, half - 1, pairs)
        values = half + distinct(random, size, self.vocab_size - half, pairs)
        tokens = random.integers(half, self.vocab_size, size=(size, setting.length))
        tokens[:, 0 : 2 * pairs : 2], tokens[:, 1 : 2 * pairs : 2] = keys, values
        replaced = distinct(random, size, pairs, updates)
        # Another value than before: a step of less than once around.
        steps = random.integers(1, self.vocab_size - half, size=replaced.shape)
        old = np.take_along_axis(values, replaced, axis=1)
        new = half + (old - half + steps) % (self.vocab_size - half)
        again = slice(2 * pairs, self.context(setting))
        tokens[:, again][:, 0::2] = np.take_along_axis(keys, replaced, axis=1)
        tokens[:, again][:, 1::2] = new
        np.put_along_axis(values, replaced, new, axis=1)
        return self.asked(random, tokens, keys, values, setting)
