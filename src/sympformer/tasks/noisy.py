"""Recall among noise: of pairs that repeat, and of values that are now and then wrong."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from sympformer.errors import InputError
from sympformer.tasks.task import IGNORED, Batch, Setting, Task


@dataclass(frozen=True)
class NoisyRecall(Task):
    """Pairs of a key and its value among pairs of noise; a key that comes again asks for its value.

    A sequence is T / 2 pairs. Each but the first and the last is two tokens of noise with
    probability `noise`, else a key, uniform, and its value. A value is drawn for each key and
    sequence, uniform among V. What is shown, and asked for, is another draw among all V values
    with probability `corruption`. The last pair repeats a key that stood before, so every sequence
    counts.

    With `corruption` c and a key that has been seen with value y `n_y` times, the posterior of its
    value is proportional to `r^n_y`, `r = (1 - c + c/V) / (c/V)`, and the next value is y with
    probability `(1 - c) r^n_y / Σ r^n + c/V`. With c = 0 it is certain: loss 0, accuracy 1.

    Source: noisy in-context recall of MAD (Poli et al., arXiv:2403.17844): 8 keys, 8 values, 16
    noise tokens, T 128, noise 0.2, multi-query. `corruption` is ours (there 0), and so is that
    only recalled values are trained on; there all tokens are.
    """

    name: ClassVar[str] = "noisy-recall"

    keys: int = 8
    values: int = 8
    noise_tokens: int = 16
    noise: float = 0.2
    corruption: float = 0.0
    train: tuple[int, ...] = (128,)
    test: tuple[int, ...] = (128, 256, 512, 1024)

    @property
    def vocabulary(self) -> int:
        """Keys, values, noise."""
        return self.keys + self.values + self.noise_tokens

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
        if min(self.keys, self.noise_tokens) < 1 or self.values < 2:
            raise InputError(f"{self.name} needs a key, a noise token and two values at least")
        for option in ("noise", "corruption"):
            if not 0 <= getattr(self, option) < 1:
                raise InputError(
                    f"{self.name}: {option} must be at least 0 and below 1, not "
                    f"{getattr(self, option)}"
                )
        if setting.length % 2 or setting.length < 4:
            raise InputError(
                f"{self.name}: a length must be even and at least 4, not {setting.length}"
            )

    def draw(self, random: np.random.Generator, size: int, setting: Setting) -> Batch:
        """Pairs, one after another."""
        pairs, rows, n = setting.length // 2, np.arange(size), self.values
        truth = random.integers(n, size=(size, self.keys))
        seen = np.zeros((size, self.keys, n), dtype=np.int64)
        shape = (size, pairs, 2)
        tokens = self.keys + n + random.integers(self.noise_tokens, size=shape)
        targets, floor, ceiling = np.full(shape, IGNORED), np.zeros(shape), np.ones(shape)
        for i in range(pairs):
            key = random.integers(self.keys, size=size)
            if i == pairs - 1:
                key = _among(random, np.any(seen, axis=-1))
            wrong = random.random(size) < self.corruption
            value = np.where(wrong, random.integers(n, size=size), truth[rows, key])
            inner = 0 < i < pairs - 1
            real = random.random(size) >= self.noise if inner else np.ones(size, dtype=bool)
            known = real & seen[rows, key].any(-1)
            chances = self.chances(seen[rows, key])
            targets[known, i, 0] = self.keys + value[known]
            floor[known, i, 0] = -np.log(chances[rows, value][known])
            ceiling[known, i, 0] = chances.max(-1)[known]
            tokens[real, i, 0], tokens[real, i, 1] = key[real], self.keys + value[real]
            seen[rows[real], key[real], value[real]] += 1
        return Batch(*(a.reshape(size, -1) for a in (tokens, targets, floor, ceiling)))

    def chances(self, seen: np.ndarray) -> np.ndarray:
        """`P(next value)` of a key, given how often each of its values was seen, `(B, V)`."""
        c, n = self.corruption, self.values
        if c == 0:
            return (seen == seen.max(-1, keepdims=True)).astype(float)
        weight = seen * np.log((1 - c + c / n) / (c / n))
        weight = np.exp(weight - weight.max(-1, keepdims=True))
        return (1 - c) * weight / weight.sum(-1, keepdims=True) + c / n


def _among(random: np.random.Generator, chosen: np.ndarray) -> np.ndarray:
    """A uniform choice of a column that is set, in each row."""
    return (random.random(chosen.shape) * chosen + chosen).argmax(-1)
