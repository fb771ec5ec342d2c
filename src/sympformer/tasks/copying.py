"""Selective copying."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from sympformer.errors import InputError
from sympformer.tasks.task import IGNORED, Batch, Setting, Task


@dataclass(frozen=True)
class SelectiveCopying(Task):
    """Letters scattered among blanks; behind a sign, write them down in order.

    A sequence of T tokens with n letters: T - n - 1 tokens, of which n letters at random places
    and blanks elsewhere; the sign; n blanks, at which the letters are asked for, one after another.
    The answer is certain: loss 0, accuracy 1. A guess has loss `log(vocab_size - 2)`.

    Source: MAD (Poli et al., arXiv:2403.17844), after Gu and Dao (arXiv:2312.00752): vocabulary 16
    with the two signs, T 256, n 16.
    """

    name: ClassVar[str] = "selective-copying"

    vocab_size: int = 16
    train: tuple[tuple[int, int], ...] = ((256, 16),)
    test: tuple[tuple[int, int], ...] = ((256, 16), (512, 16), (1024, 16))

    @property
    def vocabulary(self) -> int:
        """As the option says."""
        return self.vocab_size

    @property
    def training(self) -> tuple[Setting, ...]:
        """(tokens, letters)."""
        return tuple(Setting(*pair) for pair in self.train)

    @property
    def testing(self) -> tuple[Setting, ...]:
        """(tokens, letters)."""
        return tuple(Setting(*pair) for pair in self.test)

    def check(self, setting: Setting) -> None:
        """Refuse what has no room."""
        if self.vocab_size < 4:
            raise InputError(
                f"{self.name}: vocab_size must be at least 4, two letters and two signs, not "
                f"{self.vocab_size}"
            )
        if setting.load < 1 or setting.length < 2 * setting.load + 1:
            raise InputError(
                f"{self.name}: {setting.load} letters need a length of at least "
                f"{max(3, 2 * setting.load + 1)}, not {setting.length}"
            )

    def draw(self, random: np.random.Generator, size: int, setting: Setting) -> Batch:
        """Letters among blanks, the sign, blanks."""
        length, count, _ = setting
        blank, sign = self.vocab_size - 2, self.vocab_size - 1
        letters = random.integers(blank, size=(size, count))
        room = length - count - 1
        places = np.sort(np.argsort(random.random((size, room)), axis=1)[:, :count], axis=1)
        tokens = np.full((size, length), blank)
        np.put_along_axis(tokens, places, letters, axis=1)
        tokens[:, room] = sign
        targets = np.full((size, length), IGNORED)
        targets[:, room + 1 :] = letters
        return Batch.certain(tokens, targets)
