"""What a task is: sequences drawn by rule, the answers that count, and the best that is possible.

A task is a frozen dataclass whose fields are its options; `register_task` makes it known by name.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from typing import Any, ClassVar, NamedTuple

import numpy as np

from sympformer.errors import InputError
from sympformer.typed import check_fields

IGNORED = -100
"""The target of a position that does not count."""

_TRAINING, _VALIDATION, _TEST = 0, 1, 2


class Setting(NamedTuple):
    """How hard a batch is."""

    length: int
    """Tokens of a sequence."""
    load: int = 0
    """What has to be remembered (pairs, tokens, ...); 0 where the length says all."""
    first: int = 0
    """Answers before this position do not count."""

    def __str__(self) -> str:
        return f"{self.length}" + (f"x{self.load}" if self.load else "")


class Batch(NamedTuple):
    """Sequences of one length, arrays `(B, T)`.

    At every position that counts, with the probabilities of the rule by which sequences are drawn:
    """

    tokens: np.ndarray
    """Ids, int64."""
    targets: np.ndarray
    """The id that is asked for at each position, given the tokens up to and with it; `IGNORED`
    where none is."""
    floor: np.ndarray
    """`-log P(target | tokens so far)`, nats: the mean of it is the least loss."""
    ceiling: np.ndarray
    """`max_y P(y | tokens so far)`: the mean of it is the greatest accuracy."""

    @classmethod
    def certain(cls, tokens: np.ndarray, targets: np.ndarray) -> "Batch":
        """Of a task in which the tokens so far determine every answer: loss 0, accuracy 1."""
        return cls(tokens, targets, np.zeros(tokens.shape), np.ones(tokens.shape))


@dataclass(frozen=True)
class Task:
    """A source of sequences without end.

    A subclass names itself, gives the size of its vocabulary, the settings of training and tests,
    and `draw`. Its fields are its options, checked by their types.

    Raises:
        InputError: an option of another type, or a setting that is not possible.
    """

    name: ClassVar[str]

    def __post_init__(self):
        check_fields(self)
        if not (self.training and self.testing):
            raise InputError(f"{self.name} needs a length to train and one to test at")
        for setting in dict.fromkeys((*self.training, *self.testing)):
            self.check(setting)

    @property
    def vocabulary(self) -> int:
        """Number of token ids."""
        raise NotImplementedError

    @property
    def training(self) -> tuple[Setting, ...]:
        """Every batch of training is of one of these; one that stands twice is drawn as often."""
        raise NotImplementedError

    @property
    def testing(self) -> tuple[Setting, ...]:
        """What a trained model is asked, in this order; the last is the hardest."""
        raise NotImplementedError

    def check(self, setting: Setting) -> None:
        """Refuse a setting that is not possible.

        Raises:
            InputError: it is not.
        """
        if setting.length < 1:
            raise InputError(f"{self.name}: a length must be at least 1, not {setting.length}")

    def draw(self, random: np.random.Generator, size: int, setting: Setting) -> Batch:
        """Draw `size` sequences; every one has a target that counts."""
        raise NotImplementedError

    @property
    def trained(self) -> int:
        """Tokens of the longest sequence in training."""
        return max(setting.length for setting in self.training)

    @property
    def longest(self) -> int:
        """Tokens of the longest sequence."""
        return max(setting.length for setting in (*self.training, *self.testing))

    @property
    def options(self) -> dict[str, Any]:
        """The options that are not at their defaults."""
        defaults = {field.name: field.default for field in fields(self)}
        return {name: value for name, value in asdict(self).items() if value != defaults[name]}

    def __str__(self) -> str:
        options = ", ".join(f"{name}={json.dumps(value)}" for name, value in self.options.items())
        return f"task {self.name}" + (f" ({options})" if options else "")

    @cached_property
    def digest(self) -> str:
        """Identifies the task: its name, its options, and sequences that it draws."""
        total = hashlib.sha256(json.dumps([self.name, asdict(self)], sort_keys=True).encode())
        for setting in dict.fromkeys((*self.training, *self.testing)):
            batch = self.draw(_generator(0, _TEST, *setting), 2, setting)
            for part in batch:
                total.update(np.ascontiguousarray(part).tobytes())
        return total.hexdigest()

    def training_batch(self, seed: int, number: int, size: int) -> Batch:
        """The micro-batch of this number: the same whenever it is asked for.

        Raises:
            InputError: no target counts in it.
        """
        random = _generator(seed, _TRAINING, number)
        setting = self.training[random.integers(len(self.training))]
        return self._drawn(random, size, setting)

    def validation_batches(self, sequences: int, size: int) -> Iterator[Batch]:
        """Batches as in training, at least `sequences` in all, the same ones every time."""
        settings = tuple(dict.fromkeys(self.training))
        for setting in settings:
            yield from self._batches(_VALIDATION, setting, -(-sequences // len(settings)), size)

    def test_batches(self, setting: Setting, sequences: int, size: int) -> Iterator[Batch]:
        """Batches of one setting, `sequences` in all, the same ones every time.

        Raises:
            InputError: the setting is not possible.
        """
        self.check(setting)
        yield from self._batches(_TEST, setting, sequences, size)

    def _batches(self, kind: int, setting: Setting, sequences: int, size: int) -> Iterator[Batch]:
        """`size` sequences of the longest length of training at a time, or as many tokens."""
        tokens = size * self.trained
        size = max(1, tokens // setting.length)
        for number, start in enumerate(range(0, sequences, size)):
            random = _generator(0, kind, *setting, number)
            yield self._drawn(random, min(size, sequences - start), setting)

    def _drawn(self, random: np.random.Generator, size: int, setting: Setting) -> Batch:
        batch = self.draw(random, size, setting)
        if not (batch.targets != IGNORED).any():
            raise InputError(f"task {self.name} drew a batch without a target that counts")
        return batch


def _generator(seed: int, *key: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed, spawn_key=key)))
