"""Text divided into training and validation documents."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from sympformer.data.text import Text, parts
from sympformer.errors import InputError

_HASH_CHARACTERS = 1 << 20


class Document(NamedTuple):
    """A document and whether it is kept from training, for validation."""

    text: str
    held_out: bool


@dataclass(frozen=True)
class Source:
    """A training text, with a validation text or a share of its own documents for validation.

    Raises:
        InputError: `valid_fraction` is needed and not between 0 and 1.
    """

    train: Text
    valid: Text | None
    valid_fraction: float

    def __post_init__(self) -> None:
        if self.valid is None and not 0 < self.valid_fraction < 1:
            raise InputError(f"valid_fraction must be between 0 and 1, not {self.valid_fraction}")

    def made_from(self) -> dict[str, Any]:
        """All that decides which documents there are and where they go; reads every file once."""
        return {
            "text": self.train.sha256(),
            "valid": self.valid_fraction if self.valid is None else self.valid.sha256(),
            "separator": self.train.separator,
        }

    def documents(self, label: str | None = None) -> Iterator[Document]:
        """Every document; with a `label`, progress is shown on a terminal."""
        for text in self.train.documents(label):
            yield Document(text, self.valid is None and _falls_below(text, self.valid_fraction))
        if self.valid is not None:
            yield from (Document(text, held_out=True) for text in self.valid.documents(label))

    def training_documents(self, label: str | None = None) -> Iterator[str]:
        """The text of every document that is not held out, long ones in parts."""
        for document in self.documents(label):
            if not document.held_out:
                yield from parts(document.text)

    def require_documents(self, train: int, valid: int) -> None:
        """Refuse a text that leaves no document for one of the two.

        Raises:
            InputError: `train` or `valid`, the numbers of documents, is 0.
        """
        if self.valid is not None:
            for text, documents in ((self.train, train), (self.valid, valid)):
                if documents == 0:
                    raise InputError(f"{text.path} holds no text")
        elif train + valid == 0:
            raise InputError(f"{self.train.path} holds no text")
        elif train == 0 or valid == 0:
            raise InputError(
                f"the {train + valid} document(s) of {self.train.path} leave none for "
                f"{'training' if train == 0 else 'validation'}: give a validation text, another "
                "valid_fraction, or the separator '' to end documents at blank lines"
            )


def _falls_below(text: str, fraction: float) -> bool:
    """A fixed draw for each text, so that equal documents never end up on both sides."""
    total = hashlib.blake2b(digest_size=8)
    for start in range(0, len(text), _HASH_CHARACTERS):
        total.update(text[start : start + _HASH_CHARACTERS].encode())
    return int.from_bytes(total.digest()) < fraction * 2**64
