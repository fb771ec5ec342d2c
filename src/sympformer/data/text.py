"""Text in files: which of them, in which order, and the documents in each."""

import glob
import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from sympformer.data.kinds import (
    bare_name,
    form_of,
    is_packed_otherwise,
    is_readable,
    other_kind,
    refusal,
)
from sympformer.data.plain import plain_documents
from sympformer.data.reading import reading
from sympformer.data.tables import json_documents, parquet_documents
from sympformer.data.unpack import is_folder
from sympformer.errors import InputError
from sympformer.files import reason

SEPARATOR = "<|endoftext|>"
FIELD = "text"


@dataclass(frozen=True)
class Text:
    """The documents of a text file, of every such file below a folder, or of those of a pattern.

    Read are plain text (.txt, .md, or another ending) and JSON lines (.jsonl, .ndjson), either also
    packed (.gz, .xz, .zst), and Parquet tables (.parquet). In plain text a document ends at a line
    that holds only `separator`, white space aside (`""`: at a blank line), and with its file; in
    records it is the text in `field`. Line ends are unified; documents of white space alone are
    skipped.

    Raises:
        InputError: there is nothing to read at `path`, it is neither text nor a folder of text, or
            `separator` is more than one line.
    """

    path: Path
    separator: str = SEPARATOR
    field: str = FIELD

    def __post_init__(self) -> None:
        if "\n" in self.separator:
            raise InputError("the separator is one whole line; for blank lines give ''")
        self.files()

    def __str__(self) -> str:
        return str(self.path)

    @property
    def name(self) -> str:
        """File or folder name without its endings; of a pattern, that of its folder."""
        path = self.path
        while _is_pattern(path):
            path = path.parent
        return bare_name(path.resolve()) or "text"

    @property
    def takes(self) -> set[str]:
        """Which options have an effect: `separator` on plain text, `field` on records."""
        return {"separator" if form_of(path) == "text" else "field" for path in self.files()}

    def files(self) -> list[Path]:
        """The files, in the order in which they are read."""
        if not _is_pattern(self.path):
            return _below(self.path)
        found = sorted(map(Path, glob.glob(str(self.path), recursive=True)))
        if not found:
            raise InputError(f"no text at {self.path}: no file or folder is so called")
        return list(dict.fromkeys(file for path in found for file in _below(path)))

    def made_from(self) -> str:
        """Hash of the files as stored, and of how they are read; their names do not count."""
        total = hashlib.sha256()
        for path in self.files():
            form = form_of(path)
            option = self.separator if form == "text" else self.field
            total.update(f"{file_sha256(path)} {form} {option}\n".encode())
        return total.hexdigest()

    def documents(self, label: str | None = None) -> Iterator[str]:
        """Every document, in order; with a `label`, progress is shown on stderr.

        Raises:
            InputError: a file is not UTF-8, cannot be unpacked, has a record without text, or a
                document of more than `plain.LONGEST` characters.
        """
        files = self.files()
        with reading(label, sum(file.stat().st_size for file in files)) as advance:
            for path in files:
                yield from self._documents(path, advance)

    def _documents(self, path: Path, advance: Callable[[int], None]) -> Iterator[str]:
        match form_of(path):
            case "text":
                return plain_documents(path, self.separator, advance)
            case "jsonl":
                return json_documents(path, self.field, advance)
            case "parquet":
                return parquet_documents(path, self.field, advance)


def file_sha256(path: Path) -> str:
    """Hash of a file as stored.

    Raises:
        InputError: it cannot be read.
    """
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"cannot read {path}: {reason(error)}") from None


def _is_pattern(path: Path) -> bool:
    """Whether a path that is not there has wildcards."""
    return any(sign in str(path) for sign in "*?[") and not path.exists()


def _below(path: Path) -> list[Path]:
    """A file itself, or the text files below a folder, in order of name."""
    if not is_folder(path):
        if kind := other_kind(path):
            raise refusal(path, kind)
        return [path]
    files, others = [], set()
    for file in sorted(path.rglob("*")):
        kind = other_kind(file)
        if file.is_dir():
            continue
        if kind and is_packed_otherwise(file):
            raise refusal(file, kind)
        if is_readable(file) and not kind:
            is_folder(file)  # refuses what is neither file nor folder
            files.append(file)
        others |= {kind} - {None}
    if not files:
        there = f", but {', '.join(sorted(others))}" if others else ""
        raise InputError(
            f"no .txt, .md, .jsonl or .parquet file, packed or not, below {path}{there}"
        )
    return files
