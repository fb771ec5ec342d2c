"""Text files, packed or not, read as a stream of documents."""

import codecs
import hashlib
import io
import lzma
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from sympformer.errors import InputError

SEPARATOR = "<|endoftext|>"
SUFFIXES = (".txt", ".txt.gz", ".txt.xz", ".txt.zst")

_READ_BYTES = 1 << 20


class Decompressor(Protocol):
    """What zlib, lzma and zstandard have in common."""

    @property
    def eof(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, /) -> bytes: ...


@dataclass(frozen=True)
class Text:
    """The documents of one text file or of every `SUFFIXES` file below a folder.

    A document ends at a line that holds only `separator`, white space aside (`""`: at a blank
    line), and with its file. Line ends are unified; documents of white space alone are skipped.

    Raises:
        InputError: there is nothing to read at `path`, or `separator` is more than one line.
    """

    path: Path
    separator: str = SEPARATOR

    def __post_init__(self) -> None:
        if "\n" in self.separator:
            raise InputError("the separator is one whole line; for blank lines give ''")
        if not self.files():
            raise InputError(f"no {', '.join(SUFFIXES)} file below {self.path}")

    @property
    def name(self) -> str:
        """File or folder name without its endings."""
        return self.path.resolve().name.split(".txt")[0]

    def files(self) -> list[Path]:
        """The files, in the order in which they are read."""
        if self.path.is_dir():
            found = self.path.rglob("*.txt*")
            return sorted(f for f in found if f.name.endswith(SUFFIXES) and f.is_file())
        if not self.path.exists():
            raise InputError(f"no text at {self.path}: no such file or folder")
        return [self.path]

    def sha256(self) -> str:
        """Hash of the files as stored; their names do not count."""
        total = hashlib.sha256()
        for path in self.files():
            total.update(file_sha256(path).encode())
        return total.hexdigest()

    def documents(self, label: str | None = None) -> Iterator[str]:
        """Every document, in order; with a `label`, progress is shown on a terminal's stderr.

        Raises:
            InputError: a file is not UTF-8 or cannot be unpacked.
        """
        files = self.files()
        with _progress(label) as progress:
            task = progress.add_task(label or "", total=sum(f.stat().st_size for f in files))
            for path in files:
                yield from _documents(
                    path, self.separator, lambda count: progress.advance(task, count)
                )


def file_sha256(path: Path) -> str:
    """Hash of a file as stored.

    Raises:
        InputError: it cannot be read.
    """
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None


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
    utf8 = codecs.getincrementaldecoder("utf-8-sig")()
    decoder = io.IncrementalNewlineDecoder(utf8, translate=True)
    end = separator.strip()
    document: list[str] = []
    rest = ""
    try:
        for chunk in _chunks(path, advance):
            *lines, rest = (rest + decoder.decode(chunk)).split("\n")
            for line in lines:
                if line.strip() == end:
                    yield from _unless_blank(document)
                    document = []
                else:
                    document.append(line)
        rest += decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        raise InputError(
            f"{path} is not UTF-8 text: convert it first, for example with iconv"
        ) from None
    if rest and rest.strip() != end:
        document.append(rest)
    yield from _unless_blank(document)


def _unless_blank(lines: list[str]) -> Iterator[str]:
    if any(line and not line.isspace() for line in lines):
        yield "\n".join(lines)


def _chunks(path: Path, advance: Callable[[int], None]) -> Iterator[bytes]:
    """Unpacked bytes of a file.

    One loop for all formats, because zstandard's own reader takes a truncated file for a whole one.
    """
    new_decompressor, unpack_error = _format(path)
    try:
        with open(path, "rb") as file:
            stream = new_decompressor()
            while chunk := file.read(_READ_BYTES):
                advance(len(chunk))
                while chunk:
                    if stream.eof:  # a file may be several archives, one after another
                        stream = new_decompressor()
                    yield stream.decompress(chunk)
                    chunk = stream.unused_data
            if not stream.eof:
                raise EOFError("it ends in the middle")
    except (EOFError, OSError, unpack_error) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise InputError(f"cannot read {path}: {reason}") from None


class _Plain:
    """A file that is not packed."""

    eof = True
    unused_data = b""

    def decompress(self, data: bytes, /) -> bytes:
        return data


def _format(path: Path) -> tuple[Callable[[], Decompressor], type[Exception]]:
    """How to unpack a file and the error that a damaged one raises."""
    match path.suffix:
        case ".gz":
            return lambda: zlib.decompressobj(wbits=31), zlib.error
        case ".xz":
            return lzma.LZMADecompressor, lzma.LZMAError
        case ".zst":
            try:
                import zstandard
            except ImportError:
                raise InputError(f"{path} needs zstandard: pip install 'sympformer[zst]'") from None
            return lambda: zstandard.ZstdDecompressor().decompressobj(), zstandard.ZstdError
        case _:
            return _Plain, EOFError
