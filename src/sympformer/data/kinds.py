"""What a file is by its name and its first bytes: text that can be read, or something else."""

from pathlib import Path
from typing import Literal

from sympformer.errors import InputError

PACKED = (".gz", ".xz", ".zst")
"""Endings of packed text."""

Form = Literal["text", "jsonl", "parquet"]
"""How documents stand in a file: lines of text, JSON lines, a Parquet table."""

_FORMS: dict[str, Form] = {
    ".txt": "text",
    ".md": "text",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
}
_OTHERS = {
    ".7z": "a 7z archive",
    ".arrow": "an Arrow table",
    ".br": "packed with brotli",
    ".bz2": "packed with bzip2",
    ".json": "JSON",
    ".lz4": "packed with lz4",
    ".lzma": "packed with lzma",
    ".pdf": "a PDF",
    ".rar": "a RAR archive",
    ".tar": "a tar archive",
    ".tgz": "a tar archive",
    ".z": "packed with compress",
    ".zip": "a zip archive",
}
_SIGNATURES = {
    b"\x1f\x8b": "packed with gzip, but not named .gz",
    b"\xfd7zXZ\0": "packed with xz, but not named .xz",
    b"\x28\xb5\x2f\xfd": "packed with zstd, but not named .zst",
    b"7z\xbc\xaf\x27\x1c": _OTHERS[".7z"],
    b"ARROW1\0\0": _OTHERS[".arrow"],
    **{b"BZh%d1AY&SY" % level: _OTHERS[".bz2"] for level in range(1, 10)},
    b"\x04\x22\x4d\x18": _OTHERS[".lz4"],
    b"PAR1\x15": "a Parquet table, but not named .parquet",
    b"%PDF-": _OTHERS[".pdf"],
    b"Rar!\x1a": _OTHERS[".rar"],
    b"PK\x03\x04": _OTHERS[".zip"],
    b"\x89HDF\r\n": "an HDF5 file",
    b"\x93NUMPY": "a NumPy array",
    b"SQLite format 3\0": "a database",
}


def form_of(path: Path) -> Form:
    """How documents stand in a file, by its ending; one without is plain text."""
    return _FORMS.get(_ending(path), "text")


def is_readable(path: Path) -> bool:
    """Whether a file in a folder is text by its name: txt, md, jsonl, packed or not, parquet."""
    return _ending(path) in _FORMS


def other_kind(path: Path) -> str | None:
    """What a file is by its endings, if it is not text that can be read, packed or not."""
    if path.suffix.lower() in PACKED and _ending(path) == ".parquet":
        return "packed twice, as a Parquet table is packed itself"
    return _OTHERS.get(_ending(path))


def is_packed_otherwise(path: Path) -> bool:
    """Whether a file would be text, if it were not packed in a way that is not read."""
    packed = (other_kind(path) or "").startswith("packed")
    return packed and any(suffix.lower() in _FORMS for suffix in path.suffixes[-2:])


def bare_name(path: Path) -> str:
    """The name of a file or folder without the endings of text."""
    name = path.name
    for suffix in reversed(path.suffixes):
        if suffix.lower() not in (*PACKED, *_FORMS):
            break
        name = name.removesuffix(suffix)
    return name


def refusal(path: Path, kind: str) -> InputError:
    """The error for a file of another kind."""
    return InputError(
        f"{path} is {kind}: give plain text (.txt, .md) or JSON lines (.jsonl), either also "
        "packed with gzip, xz or zstd, or a Parquet table (.parquet)"
    )


def require_text(path: Path, start: bytes) -> None:
    """Refuse a file that is no text by its first bytes.

    Raises:
        InputError: it is something else, which is named.
    """
    for signature, kind in _SIGNATURES.items():
        if start.startswith(signature):
            raise refusal(path, kind)


def _ending(path: Path) -> str:
    """The last ending of a name, small, but that of packed text."""
    endings = [suffix.lower() for suffix in path.suffixes]
    if endings and endings[-1] in PACKED:
        endings.pop()
    return endings[-1] if endings else ""
