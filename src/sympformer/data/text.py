"""Text files, packed or not, read as a stream of documents."""

import codecs
import hashlib
import io
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from sympformer.data.unpack import is_folder, other_kind, pieces, refusal
from sympformer.errors import InputError
from sympformer.files import reason

SEPARATOR = "<|endoftext|>"
SUFFIXES = (".txt", ".txt.gz", ".txt.xz", ".txt.zst")

LONGEST = 1 << 27
"""Characters of the longest document that is read: it is held in memory, several times over."""

_PACK_LINES = 1 << 16
_PART = 1 << 22
_BETWEEN_WORDS = re.compile(r"(?<=\S) (?=\S)")


@dataclass(frozen=True)
class Text:
    """The documents of one text file or of every `SUFFIXES` file below a folder.

    A document ends at a line that holds only `separator`, white space aside (`""`: at a blank
    line), and with its file. Line ends are unified; documents of white space alone are skipped.

    Raises:
        InputError: there is nothing to read at `path`, it is neither text nor a folder of text, or
            `separator` is more than one line.
    """

    path: Path
    separator: str = SEPARATOR

    def __post_init__(self) -> None:
        if "\n" in self.separator:
            raise InputError("the separator is one whole line; for blank lines give ''")
        self.files()

    @property
    def name(self) -> str:
        """File or folder name without its endings."""
        return self.path.resolve().name.split(".txt")[0]

    def files(self) -> list[Path]:
        """The files, in the order in which they are read."""
        if not is_folder(self.path):
            if kind := other_kind(self.path):
                raise refusal(self.path, kind)
            return [self.path]
        found = [file for file in sorted(self.path.rglob("*.txt*")) if not file.is_dir()]
        for file in found:
            kind = other_kind(file)
            if kind and kind.startswith("packed"):
                raise refusal(file, kind)
        files = [file for file in found if file.name.endswith(SUFFIXES)]
        for file in files:
            is_folder(file)  # refuses what is neither file nor folder
        if not files:
            others = sorted({kind for file in self.path.rglob("*") if (kind := other_kind(file))})
            there = f", but {', '.join(others)}" if others else ""
            raise InputError(f"no {', '.join(SUFFIXES)} file below {self.path}{there}")
        return files

    def sha256(self) -> str:
        """Hash of the files as stored; their names do not count."""
        total = hashlib.sha256()
        for path in self.files():
            total.update(file_sha256(path).encode())
        return total.hexdigest()

    def documents(self, label: str | None = None) -> Iterator[str]:
        """Every document, in order; with a `label`, progress is shown on a terminal's stderr.

        Raises:
            InputError: a file is not UTF-8, cannot be unpacked, or has a document of more than
                `LONGEST` characters.
        """
        files = self.files()
        with _progress(label) as progress:
            task = progress.add_task(label or "", total=sum(f.stat().st_size for f in files))
            for path in files:
                yield from _documents(
                    path, self.separator, lambda count: progress.advance(task, count)
                )


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


def _progress(label: str | None) -> Progress:
    console = Console(stderr=True)
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=label is None or not console.is_terminal,
    )


def _documents(path: Path, separator: str, advance: Callable[[int], None]) -> Iterator[str]:
    end = separator.strip()
    document, line = _Lines(path), []
    for text in _decoded(path, advance):
        first, *lines = text.split("\n")
        line.append(first)
        document.grow(len(text))
        for following in lines:
            whole = "".join(line)
            if whole.strip() == end:
                yield from document.close()
            else:
                document.append(whole)
            line = [following]
    rest = "".join(line)
    if rest and rest.strip() != end:
        document.append(rest)
    yield from document.close()


class _Lines:
    """The lines of the document that is being read, in about as much memory as their text."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._blocks: list[str] = []
        self._lines: list[str] = []
        self._characters = 0

    def grow(self, characters: int) -> None:
        """Count characters, some of which may belong to the document before or after."""
        self._characters += characters
        if self._characters > LONGEST:
            raise InputError(
                f"{self._path} has a document of more than {LONGEST >> 20} Mi characters: give the "
                "separator with which documents end in it"
            )

    def append(self, line: str) -> None:
        """Add a line."""
        self._lines.append(line)
        if len(self._lines) == _PACK_LINES:  # a line of a few characters takes 50 bytes and more
            self._blocks.append("\n".join(self._lines))
            self._lines = []

    def close(self) -> Iterator[str]:
        """The document, unless it is blank; then start another."""
        text = "\n".join(self._blocks + self._lines)
        self._blocks, self._lines, self._characters = [], [], 0
        if text and not text.isspace():
            yield text


def _decoded(path: Path, advance: Callable[[int], None]) -> Iterator[str]:
    """The text of a file, line ends unified and without a byte order mark."""
    utf8 = codecs.getincrementaldecoder("utf-8")()
    lines = io.IncrementalNewlineDecoder(utf8, translate=True)
    read, start = 0, True
    try:
        for piece in pieces(path, advance):
            read += len(piece)
            text = lines.decode(piece)
            if start and text:
                text, start = text.removeprefix("\ufeff"), False
            yield text
        yield lines.decode(b"", final=True)
    except UnicodeDecodeError as error:
        at = read - len(error.object) + error.start
        raise InputError(
            f"{path} is not UTF-8 text: 0x{error.object[error.start]:02x} at byte {at:,} (counted "
            "from 0, unpacked); convert it first, for example with iconv"
        ) from None
