"""Text divided into training and validation documents."""

import hashlib
import re
from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from sympformer.data.hub import PREFIX, HubText
from sympformer.data.text import FIELD, SEPARATOR, Text
from sympformer.errors import InputError, shown

_HASH_CHARACTERS = 1 << 20
_PART = 1 << 22
_BETWEEN_WORDS = re.compile(r"(?<=\S) (?=\S)")
_PLAIN = {"separator": SEPARATOR, "field": FIELD}


class Documents(Protocol):
    """Text from somewhere: files, the hub. As a string it says from where."""

    @property
    def name(self) -> str:
        """What corpora made of it are called."""
        ...

    @property
    def takes(self) -> AbstractSet[str]:
        """Which of `separator` and `field` have an effect."""
        ...

    def made_from(self) -> Any:
        """All that decides which documents there are, as plain values."""
        ...

    def documents(self, label: str | None = None) -> Iterator[str]:
        """Every document, in the same order every time; with a `label`, progress is shown."""
        ...


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

    train: Documents
    valid: Documents | None
    valid_fraction: float

    @classmethod
    def of(
        cls,
        text: str,
        valid_text: str | None,
        valid_fraction: float,
        separator: str = SEPARATOR,
        field: str = FIELD,
    ) -> "Source":
        """That of texts by name: a file, a folder, a pattern, or `hub:NAME` (see `open_text`).

        Raises:
            InputError: there is no such text, or `separator` or `field` has no effect on any.
        """
        train = open_text(text, separator, field)
        valid = None
        if valid_text is not None:
            valid = open_text(valid_text, separator, field, split="validation")
        taken = train.takes | (set() if valid is None else valid.takes)
        for option, value in {"separator": separator, "field": field}.items():
            if value != _PLAIN[option] and option not in taken:
                where = "plain text" if option == "separator" else "JSON lines and Parquet tables"
                raise InputError(
                    f"{option} = {shown(value)} is about {where}, of which {train} has none: leave "
                    "it out"
                )
        return cls(train, valid, valid_fraction)

    def __post_init__(self) -> None:
        if self.valid is None and not 0 < self.valid_fraction < 1:
            raise InputError(f"valid_fraction must be between 0 and 1, not {self.valid_fraction}")

    def made_from(self) -> dict[str, Any]:
        """All that decides which documents there are and where they go; reads every file once."""
        return {
            "text": self.train.made_from(),
            "valid": self.valid_fraction if self.valid is None else self.valid.made_from(),
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
                    raise InputError(f"{text} holds no text")
        elif train + valid == 0:
            raise InputError(f"{self.train} holds no text")
        elif train == 0 or valid == 0:
            raise InputError(
                f"the {train + valid} document(s) of {self.train} leave none for "
                f"{'training' if train == 0 else 'validation'}: give a validation text, another "
                "valid_fraction, or the separator '' to end documents at blank lines"
            )


def open_text(text: str, separator: str, field: str, split: str = "train") -> Documents:
    """The text of this name: a path, or `hub:NAME[:SUBSET][@REVISION]`, of which `split` is read.

    Raises:
        InputError: there is no such text.
    """
    if text.startswith(PREFIX):
        return HubText.parse(text, split, field).pinned()
    return Text(Path(text), separator, field)


def parts(text: str) -> Iterator[str]:
    """A document in parts of about 4 Mi characters, to be encoded one after another.

    They are cut before a space between two words, where tokenizers that split at white space
    cut too: their tokens stay those of the whole. Where there is none they are cut anywhere.
    """
    start = 0
    while len(text) - start > _PART:
        space = _BETWEEN_WORDS.search(text, start + _PART // 2, start + _PART)
        end = space.start() if space else start + _PART
        yield text[start:end]
        start = end
    yield text[start:]


def _falls_below(text: str, fraction: float) -> bool:
    """A fixed draw for each text, so that equal documents never end up on both sides."""
    total = hashlib.blake2b(digest_size=8)
    for start in range(0, len(text), _HASH_CHARACTERS):
        total.update(text[start : start + _HASH_CHARACTERS].encode())
    return int.from_bytes(total.digest()) < fraction * 2**64
