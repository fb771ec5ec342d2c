"""Documents packed into memory-mapped token files, described by a manifest.

A packed folder holds `train.bin` and `valid.bin` (one token after another, little-endian), where
known `floor.bin` (the entropy floor of each validation token), the tokenizer and `manifest.json`.
It is filled under another name and renamed, so a folder with the final name is always whole.
"""

import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from sympformer.data.source import Document
from sympformer.data.text import file_sha256
from sympformer.data.tokenizer import Tokenizer, encode_batch, load_tokenizer
from sympformer.errors import InputError
from sympformer.files import atomic

FORMAT = 1
FLOOR = np.dtype("<f4")

_MANIFEST = "manifest.json"
_PARTIAL = ".partial"
_BATCH_CHARACTERS = 1 << 20
_ABANDONED_SECONDS = 24 * 3600


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


class SplitWriter:
    """Appends documents to one token file, counting and hashing them."""

    def __init__(self, path: Path, dtype: np.dtype) -> None:
        self._file = open(path, "wb")  # noqa: SIM115 - closed by __exit__
        self._dtype = dtype
        self._hash = hashlib.sha256()
        self._documents = self._tokens = self._text_bytes = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._file.close()

    def append(self, tokens: Sequence[int] | np.ndarray, documents: int, text_bytes: int) -> None:
        """Write the tokens of whole documents, their ends included."""
        content = np.asarray(tokens, dtype=self._dtype).tobytes()
        self._file.write(content)
        self._hash.update(content)
        self._documents += documents
        self._tokens += len(tokens)
        self._text_bytes += text_bytes

    @property
    def split(self) -> Split:
        """What has been written so far."""
        return Split(self._documents, self._tokens, self._text_bytes, self._hash.hexdigest())


def token_dtype(vocab_size: int) -> np.dtype:
    """The narrower of uint16 and uint32 that holds every token."""
    return np.dtype("<u2" if vocab_size <= 1 << 16 else "<u4")


def pack(documents: Iterable[Document], tokenizer: Tokenizer, folder: Path) -> tuple[Split, Split]:
    """Encode documents into `train.bin` and `valid.bin`, each closed by `tokenizer.eos`."""
    dtype = token_dtype(tokenizer.vocab_size)
    with (
        SplitWriter(folder / "train.bin", dtype) as train,
        SplitWriter(folder / "valid.bin", dtype) as valid,
    ):
        for batch in _batches(documents):
            encoded = encode_batch(tokenizer, [document.text for document in batch])
            for document, tokens in zip(batch, encoded, strict=True):
                writer = valid if document.held_out else train
                writer.append([*tokens, tokenizer.eos], 1, len(document.text.encode()))
        return train.split, valid.split


def _batches(documents: Iterable[Document]) -> Iterator[list[Document]]:
    batch: list[Document] = []
    characters = 0
    for document in documents:
        batch.append(document)
        characters += len(document.text)
        if characters >= _BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    yield batch


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
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise InputError(f"cannot use {path} ({error}): {_remedy(folder)}") from None


def open_array(path: Path, dtype: np.dtype | str, length: int, sha256: str) -> np.ndarray:
    """Memory-map `length` numbers, read-only.

    Raises:
        InputError: the file is absent or holds something else.
    """
    size = path.stat().st_size if path.exists() else 0
    expected = length * np.dtype(dtype).itemsize
    if size != expected:
        raise InputError(f"{path} has {size} bytes instead of {expected}: {_remedy(path.parent)}")
    if file_sha256(path) != sha256:
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


@contextmanager
def whole_folder(target: Path) -> Iterator[Path]:
    """Yield a temporary folder beside `target`; rename it to `target` if the block succeeds.

    When another process makes `target` first, its folder stays and ours is dropped.

    Raises:
        InputError: the folder or a file in it cannot be written.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _drop_abandoned(target.parent)
        partial = Path(
            tempfile.mkdtemp(dir=target.parent, prefix=f"{target.name}.", suffix=_PARTIAL)
        )
        try:
            yield partial
            _force_to_disk(partial)
            partial.chmod(0o755)
            _rename(partial, target)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    except OSError as error:
        raise InputError(f"cannot write to {target.parent}: {error.strerror}") from None


def _force_to_disk(folder: Path) -> None:
    for path in folder.iterdir():
        with open(path, "rb") as file:
            os.fsync(file.fileno())


def _rename(partial: Path, target: Path) -> None:
    try:
        partial.rename(target)
    except OSError:  # a folder that holds files is never replaced
        if not target.exists():
            raise


def _drop_abandoned(cache: Path) -> None:
    """Remove what killed preparations left behind."""
    for partial in cache.glob(f"*{_PARTIAL}"):
        with suppress(FileNotFoundError):  # its owner has just finished
            written = max(path.stat().st_mtime for path in (partial, *partial.iterdir()))
            if time.time() - written > _ABANDONED_SECONDS:
                shutil.rmtree(partial, ignore_errors=True)
