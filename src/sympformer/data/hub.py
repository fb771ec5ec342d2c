"""Data sets of the Hugging Face hub, streamed through the `datasets` library."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Self

from sympformer.data.reading import reading
from sympformer.data.tables import text_in
from sympformer.data.text import FIELD
from sympformer.errors import InputError, one_line
from sympformer.optional import require

PREFIX = "hub:"

_PARTS = re.compile(r"hub:(?P<name>[\w.-]+(/[\w.-]+)?)(:(?P<subset>[\w.-]+))?(@(?P<rev>[\w./-]+))?")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_SECONDS = 20.0


@dataclass(frozen=True)
class HubText:
    """The documents of one split of a data set: the text in `field` of its records.

    Nothing is kept on disk: records are read over the network, in order. `revision` is a commit,
    or what `pinned` makes one of: a branch, a tag, or "" for the newest.

    Raises:
        InputError: the `datasets` library is missing.
    """

    name: str
    subset: str | None = None
    revision: str = ""
    split: str = "train"
    field: str = FIELD

    def __post_init__(self) -> None:
        _library()

    @classmethod
    def parse(cls, text: str, split: str = "train", field: str = FIELD) -> Self:
        """What `hub:NAME[:SUBSET][@REVISION]` says.

        Raises:
            InputError: it says something else.
        """
        if not (parts := _PARTS.fullmatch(text)):
            raise InputError(f"a data set is hub:NAME, NAME:SUBSET or NAME@REVISION, not {text!r}")
        return cls(parts["name"], parts["subset"], parts["rev"] or "", split, field)

    def __str__(self) -> str:
        subset = f":{self.subset}" if self.subset else ""
        return f"{PREFIX}{self.name}{subset}" + (f"@{self.revision}" if self.revision else "")

    takes = frozenset({"field"})
    """Which options have an effect."""

    def pinned(self) -> Self:
        """The same at the commit that its revision is now.

        Raises:
            InputError: the hub cannot be reached, or has no such data set or revision.
        """
        if _COMMIT.fullmatch(self.revision):
            return self
        return replace(self, revision=self._commit())

    def made_from(self) -> dict[str, Any]:
        """All that decides which documents there are, once it is pinned."""
        return {
            "hub": self.name,
            "subset": self.subset,
            "revision": self.revision,
            "split": self.split,
            "field": self.field,
        }

    def documents(self, label: str | None = None) -> Iterator[str]:
        """Every document, in order; with a `label`, progress is shown on stderr.

        Raises:
            InputError: the hub cannot be reached, there is no such split or field, or a record
                holds no text there.
        """
        records = self._records()
        with reading(label, None) as advance:
            number = 0
            while True:
                try:
                    record = next(records)
                except StopIteration:
                    return
                except Exception as error:
                    raise self._unreachable(error) from None
                number += 1
                for text in text_in(record, self.field, f"record {number:,} of {self}"):
                    advance(len(text))
                    yield text

    def _records(self) -> Iterator[dict[str, Any]]:
        self._commit()  # says at once what the library says after many attempts
        try:
            records = _library().load_dataset(
                self.name,
                self.subset,
                split=self.split,
                revision=self.revision or None,
                streaming=True,
            )
        except Exception as error:
            raise self._unreachable(error) from None
        return iter(records)

    def _commit(self) -> str:
        """The commit that the hub has for the revision."""
        try:
            return _commit_of(self.name, self.revision or None)
        except Exception as error:  # of the network, of the hub, of a mirror: each has its own
            raise self._unreachable(error) from None

    def _unreachable(self, error: Exception) -> InputError:
        revision = f" --revision {self.revision}" if self.revision else ""
        return InputError(
            f"cannot read {self} ({one_line(error)}): where there is a network, "
            f"`hf download {self.name} --repo-type dataset{revision} --local-dir FOLDER` makes a "
            "copy; then give its data files as the text, 'FOLDER/**/*.parquet' or *.jsonl"
        )


def _commit_of(name: str, revision: str | None) -> str:
    hub = require("huggingface_hub", "hub", "a text on the hub")
    found = hub.HfApi().dataset_info(name, revision=revision, timeout=_SECONDS)
    if not found.sha:
        raise ValueError("the hub names no commit")
    return found.sha


def _library() -> Any:
    return require("datasets", "hub", "a text on the hub")
