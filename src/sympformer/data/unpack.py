"""The bytes of text files, packed or not, in pieces of bounded size."""

import lzma
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from sympformer.data.kinds import require_text
from sympformer.errors import InputError
from sympformer.files import reason, require_regular
from sympformer.optional import require

_READ_BYTES = 1 << 20
_PIECE_BYTES = 1 << 20
_ZSTD_BYTES = 1 << 9
"""Of input at a time: four bytes of it hold up to 128 KiB, and no option bounds the output."""
_LZMA_MEMORY = 1 << 28


def is_folder(path: Path) -> bool:
    """Whether a text is a folder, or a file that can be read more than once.

    Raises:
        InputError: there is nothing, or something else: a pipe, a device, a socket.
    """
    try:
        require_regular(path)
    except FileNotFoundError:
        raise InputError(f"no text at {path}: no such file or folder") from None
    except OSError as error:
        raise InputError(f"cannot read {path}: {reason(error)}") from None
    return path.is_dir()


def pieces(path: Path, advance: Callable[[int], None]) -> Iterator[bytes]:
    """Unpacked bytes of a file; `advance` is called with the number of bytes read from it.

    One loop for all formats, because zstandard's own reader takes a truncated file for a whole one.

    Raises:
        InputError: it cannot be read, is damaged, or is no text by its first bytes.
    """
    form = _FORMATS.get(path.suffix.lower(), _plain)()
    try:
        with open(path, "rb") as file:
            stream, first = form.new(), True
            while chunk := file.read(_READ_BYTES):
                advance(len(chunk))
                while chunk:
                    if stream.eof:  # a file may be several archives, one after another
                        stream = form.new()
                    for piece in form.feed(stream, chunk):
                        if first and piece:
                            require_text(path, piece)
                            first = False
                        yield piece
                    chunk = stream.unused_data
            if not stream.eof:
                raise EOFError("it ends in the middle")
    except OSError as error:
        raise InputError(f"cannot read {path}: {reason(error)}") from None
    except (EOFError, form.error) as error:
        raise InputError(f"cannot read {path}: {error}") from None


class _Format(NamedTuple):
    """How to unpack a file and the error that a damaged one raises."""

    new: Callable[[], Any]
    """Makes what has `decompress`, `eof` and `unused_data`, as in zlib, lzma and zstandard."""
    feed: Callable[[Any, bytes], Iterator[bytes]]
    error: type[Exception]


def _feed_zlib(stream: Any, data: bytes) -> Iterator[bytes]:
    full = True
    while (data or full) and not stream.eof:
        piece = stream.decompress(data, _PIECE_BYTES)
        data, full = stream.unconsumed_tail, len(piece) == _PIECE_BYTES
        yield piece


def _feed_lzma(stream: Any, data: bytes) -> Iterator[bytes]:
    yield stream.decompress(data, _PIECE_BYTES)
    while not (stream.needs_input or stream.eof):
        yield stream.decompress(b"", _PIECE_BYTES)


class _Zstd:
    """A decompressor of zstandard that is fed little by little."""

    def __init__(self) -> None:
        import zstandard

        self.stream = zstandard.ZstdDecompressor().decompressobj()
        self.eof, self.unused_data = False, b""

    def decompress(self, data: bytes) -> Iterator[bytes]:
        for start in range(0, len(data), _ZSTD_BYTES):
            end = start + _ZSTD_BYTES
            unpacked = self.stream.decompress(data[start:end])
            yield from (
                unpacked[i : i + _PIECE_BYTES] for i in range(0, len(unpacked), _PIECE_BYTES)
            )
            self.eof = self.stream.eof
            if self.eof:
                self.unused_data = self.stream.unused_data + data[end:]
                return


class _Plain:
    """A file that is not packed."""

    eof = True
    unused_data = b""


def _plain() -> _Format:
    return _Format(_Plain, lambda _, data: iter([data]), EOFError)


def _gz() -> _Format:
    return _Format(lambda: zlib.decompressobj(wbits=31), _feed_zlib, zlib.error)


def _xz() -> _Format:
    return _Format(lambda: lzma.LZMADecompressor(memlimit=_LZMA_MEMORY), _feed_lzma, lzma.LZMAError)


def _zst() -> _Format:
    zstandard = require("zstandard", "zst", "a .zst file")
    return _Format(_Zstd, _Zstd.decompress, zstandard.ZstdError)


_FORMATS: dict[str, Callable[[], _Format]] = {".gz": _gz, ".xz": _xz, ".zst": _zst}
