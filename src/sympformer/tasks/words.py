"""Word problems of groups, parity among them: what is the product of all elements so far?"""

from dataclasses import dataclass
from functools import cache
from itertools import pairwise, permutations
from typing import ClassVar

import numpy as np

from sympformer.errors import InputError
from sympformer.tasks.task import IGNORED, Batch, Setting, Task


@dataclass(frozen=True)
class Words(Task):
    """Uniform elements `g_1 g_2 ...` of a group; at every position the product `g_1 ... g_t`.

    Trained at `train` tokens, of which every prefix is a shorter word. Of a test's T tokens, only
    those beyond the next shorter test count, so that accuracy is by distance. The answer is
    certain: loss 0, accuracy 1. A guess is right once in as many times as the group has elements,
    for the product of the first t elements is uniform given the first t - 1.

    Source: Grazzi et al. (arXiv:2411.12537), whose parity is trained up to 40 tokens and tested up
    to 256; groups as in Merrill et al. (arXiv:2404.08819) and DeltaProduct (Siems et al.,
    arXiv:2502.10297), every position a target.
    """

    train: int = 40
    test: tuple[int, ...] = (40, 64, 128, 256)

    @classmethod
    def table(cls) -> np.ndarray:
        """Products of the group, `(n, n)`: `table[a, b]` is `a b`; element 0 is the identity."""
        raise NotImplementedError

    @property
    def vocabulary(self) -> int:
        """The elements of the group."""
        return len(self.table())

    @property
    def training(self) -> tuple[Setting, ...]:
        """One length."""
        return (Setting(self.train),)

    @property
    def testing(self) -> tuple[Setting, ...]:
        """Each length without the shorter ones."""
        lengths = sorted(set(self.test))
        return tuple(Setting(n, first=before) for before, n in pairwise((0, *lengths)))

    def check(self, setting: Setting) -> None:
        """Refuse what has no position that counts."""
        if not 0 <= setting.first < setting.length:
            raise InputError(
                f"{self.name}: a length must be at least 1, and greater than its first position "
                f"that counts, not {setting.length}"
            )

    def draw(self, random: np.random.Generator, size: int, setting: Setting) -> Batch:
        """Elements and their running products."""
        table = self.table()
        tokens = random.integers(len(table), size=(size, setting.length))
        products = tokens.copy()
        for t in range(1, setting.length):
            products[:, t] = table[products[:, t - 1], tokens[:, t]]
        products[:, : setting.first] = IGNORED
        return Batch.certain(tokens, products)


class Parity(Words):
    """The parity of the ones so far: the word problem of the group of two elements."""

    name: ClassVar[str] = "parity"

    @classmethod
    def table(cls) -> np.ndarray:
        """Addition modulo 2."""
        return np.array([[0, 1], [1, 0]])


class S3(Words):
    """The word problem of the permutations of three."""

    name: ClassVar[str] = "s3"

    @classmethod
    def table(cls) -> np.ndarray:
        """6 elements."""
        return _permutations(3)


class S5(Words):
    """The word problem of the permutations of five, which is complete for NC¹."""

    name: ClassVar[str] = "s5"

    @classmethod
    def table(cls) -> np.ndarray:
        """120 elements."""
        return _permutations(5)


class A5(Words):
    """The word problem of the even permutations of five, the smallest group without a solution."""

    name: ClassVar[str] = "a5"

    @classmethod
    def table(cls) -> np.ndarray:
        """60 elements."""
        return _permutations(5, even=True)


@cache
def _permutations(n: int, even: bool = False) -> np.ndarray:
    """Products of permutations in lexicographic order: `a b` is `b` after `a`."""
    elements = [p for p in permutations(range(n)) if not even or _is_even(p)]
    number = {p: i for i, p in enumerate(elements)}
    return np.array([[number[tuple(b[i] for i in a)] for b in elements] for a in elements])


def _is_even(p: tuple[int, ...]) -> bool:
    return sum(p[i] > p[j] for j in range(len(p)) for i in range(j)) % 2 == 0
