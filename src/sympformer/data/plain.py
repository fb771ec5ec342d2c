"""Plain text: the lines of a file, and the documents that separators part."""

import codecs
import io
from collections.abc import Callable, Iterator
from pathlib import Path

from sympformer.data.unpack import pieces
from sympformer.errors import InputError

LONGEST = 1 << 27
"""Characters of the longest document that is read: it is held in memory, several times over."""

_PACK_LINES = 1 << 16


def plain_documents(path: Path, separator: str, advance: Callable[[int], None]) -> Iterator[str]:
    """The documents of a text file; each ends at a line that holds only `separator`.

    `advance` is called with the number of bytes read.

    Raises:
        InputError: it is not UTF-8, cannot be unpacked, or has a document beyond `LONGEST`.
    """
    end = separator.strip()
    document, line = _Lines(path), []
    for text in decoded(path, advance):
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


def too_long(path: Path, remedy: str) -> InputError:
    """The error for a document beyond `LONGEST`."""
    return InputError(f"{path} has a document of more than {LONGEST >> 20} Mi characters: {remedy}")


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
            raise too_long(self._path, "give the separator with which documents end in it")

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


def decoded(path: Path, advance: Callable[[int], None]) -> Iterator[str]:
    """The text of a file in pieces, line ends unified and without a byte order mark.

    Raises:
        InputError: it is not UTF-8, or cannot be unpacked.
    """
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
