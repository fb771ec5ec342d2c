"""Induction heads."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from sympformer.errors import InputError
from sympformer.tasks.task import IGNORED, Batch, Setting, Task


@dataclass(frozen=True)
class Induction(Task):
    """A sign stands once among random letters, and again at the end: which letter followed it?

    The last token of the vocabulary is the sign; its first place is uniform over all that leave
    room for the letter behind it. Only the last position counts. The answer is certain: loss 0,
    accuracy 1. A guess has loss `log(vocab_size - 1)`.

    Source: Gu and Dao, Mamba (arXiv:2312.00752), after Olsson et al. (arXiv:2209.11895): vocabulary
    16, trained at 256 tokens, tested from 64 to far beyond.
    """

    name: ClassVar[str] = "induction"

    vocab_size: int = 16
    train: tuple[int, ...] = (256,)
    test: tuple[int, ...] = (64, 128, 256, 512, 1024)

    @property
    def vocabulary(self) -> int:
        """As the option says."""
        return self.vocab_size

    @property
    def training(self) -> tuple[Setting, ...]:
        """Lengths."""
        return tuple(map(Setting, self.train))

    @property
    def testing(self) -> tuple[Setting, ...]:
        """Lengths."""
        return tuple(map(Setting, self.test))

    def check(self, setting: Setting) -> None:
        """Refuse what has no room."""
        if self.vocab_size < 3:
            raise InputError(f"{self.name}: vocab_size must be at least 3, not {self.vocab_size}")
        if setting.length < 3:
            raise InputError(f"{self.name}: a length must be at least 3, not {setting.length}")

    def draw(self, random: np.random.Generator, size: int, setting: Setting) -> Batch:
        """Letters, with the sign at two places."""
        sign, rows = self.vocab_size - 1, np.arange(size)
        tokens = random.integers(sign, size=(size, setting.length))
        place = random.integers(setting.length - 2, size=size)
        tokens[rows, place] = tokens[:, -1] = sign
        targets = np.full(tokens.shape, IGNORED)
        targets[:, -1] = tokens[rows, place + 1]
        return Batch.certain(tokens, targets)
