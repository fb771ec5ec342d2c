"""Packed folders: memory-mapped token files, described by a manifest.

A packed folder holds `train.bin` and `valid.bin` (one token after another, little-endian), where
known `floor.bin` (the entropy floor of each validation token), the tokenizer and `manifest.json`.
It is filled under another name and renamed, so a folder with the final name is always whole.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sympformer.data.text import file_sha256
from sympformer.data.tokenizer import Tokenizer, load_tokenizer
from sympformer.errors import InputError
from sympformer.files import atomic

FORMAT = 2
FLOOR = np.dtype("<f4")

PROGRESS = "progress.json"
"""How far the encoding is; a whole folder has none."""

_MANIFEST = "manifest.json"
FILES = {"train.bin", "valid.bin", "floor.bin", "tokenizer.json", _MANIFEST}
"""All that a packed folder may hold."""


@dataclass(frozen=True)
class Split:
    """What one token file holds."""

    documents: int
    tokens: int
    text_bytes: int
    """UTF-8 bytes of its documents; their ends count as tokens, not as bytes."""
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """What a packed folder holds and what it was made from."""

    name: str
    made_from: dict[str, Any]
    tokenizer: str
    """Digest of the tokenizer."""
    dtype: str
    floor: str | None
    """Hash of `floor.bin` if there is one."""
    train: Split
    valid: Split
    format: int = FORMAT


def token_dtype(vocab_size: int) -> np.dtype:
    """The narrower of uint16 and uint32 that holds every token."""
    return np.dtype("<u2" if vocab_size <= 1 << 16 else "<u4")


def write_manifest(manifest: Manifest, folder: Path) -> None:
    """Write the manifest, the last file of a packed folder."""
    with atomic(folder / _MANIFEST) as partial:
        partial.write_text(json.dumps(asdict(manifest), indent=2) + "\n", encoding="utf-8")


def read_manifest(folder: Path) -> Manifest:
    """What a packed folder holds.

    Raises:
        InputError: there is no manifest, or it is damaged or of another format.
    """
    path = folder / _MANIFEST
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
        if fields["format"] != FORMAT:
            raise ValueError(f"format {fields['format']} instead of {FORMAT}")
        np.dtype(fields["dtype"])
        train, valid = Split(**fields.pop("train")), Split(**fields.pop("valid"))
        return Manifest(**fields, train=train, valid=valid)
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise InputError(f"cannot use {path} ({error}): {_remedy(folder)}") from None


def open_array(path: Path, dtype: np.dtype | str, length: int, sha256: str | None) -> np.ndarray:
    """Memory-map `length` numbers, read-only; without a digest their content is not verified.

    Raises:
        InputError: the file is absent or holds something else.
    """
    size = path.stat().st_size if path.exists() else 0
    expected = length * np.dtype(dtype).itemsize
    if size != expected:
        raise InputError(f"{path} has {size} bytes instead of {expected}: {_remedy(path.parent)}")
    if sha256 is not None and file_sha256(path) != sha256:
        raise InputError(f"{path} has been changed: {_remedy(path.parent)}")
    return np.memmap(path, dtype=dtype, mode="r")


def open_tokenizer(folder: Path, digest: str) -> Tokenizer:
    """The tokenizer that a folder was packed with.

    Raises:
        InputError: it is absent, damaged or another one.
    """
    try:
        tokenizer = load_tokenizer(folder)
    except InputError as error:
        raise InputError(f"{error}: {_remedy(folder)}") from None
    if tokenizer.digest != digest:
        raise InputError(f"{folder} was packed with another tokenizer: {_remedy(folder)}")
    return tokenizer


def _remedy(folder: Path) -> str:
    return f"delete {folder} and prepare the corpus again"
