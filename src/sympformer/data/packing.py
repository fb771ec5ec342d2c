"""Documents packed into memory-mapped token files, described by a manifest.

A packed folder holds `train.bin` and `valid.bin` (one token after another, little-endian), where
known `floor.bin` (the entropy floor of each validation token), the tokenizer and `manifest.json`.
It is filled under another name and renamed, so a folder with the final name is always whole.
"""

import hashlib
import json
import secrets
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import numpy as np

from sympformer.data.source import Document
from sympformer.data.text import file_sha256, parts
from sympformer.data.tokenizer import Tokenizer, encode_batch, load_tokenizer
from sympformer.errors import InputError
from sympformer.files import Held, abandoned, atomic, reason, sync_file, sync_folder

FORMAT = 2
FLOOR = np.dtype("<f4")

_MANIFEST = "manifest.json"
_PARTIAL = ".partial"
_BATCH_CHARACTERS = 1 << 20
_FILES = {"train.bin", "valid.bin", "floor.bin", "tokenizer.json", _MANIFEST}
_MARK = ".sympformer"
_OURS = "sympformer is preparing a text in this folder; delete it if none is running\n"


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
    """Encode documents into `train.bin` and `valid.bin`, each closed by `tokenizer.eos`.

    Raises:
        InputError: the tokenizer cannot encode a document, or takes a part of it for its end.
    """
    dtype = token_dtype(tokenizer.vocab_size)
    with (
        SplitWriter(folder / "train.bin", dtype) as train,
        SplitWriter(folder / "valid.bin", dtype) as valid,
    ):
        for batch in _batches(documents):
            encoded = encode_batch(tokenizer, [piece.text for piece in batch])
            for piece, tokens in zip(batch, encoded, strict=True):
                if tokenizer.eos in tokens:
                    raise InputError(
                        f"the tokenizer {tokenizer.name} takes a part of a document for its end: "
                        "choose another one"
                    )
                end = [tokenizer.eos] if piece.last else []
                writer = valid if piece.held_out else train
                writer.append([*tokens, *end], int(piece.last), len(piece.text.encode()))
        return train.split, valid.split


class _Piece(NamedTuple):
    """A document, or a part of a long one."""

    text: str
    held_out: bool
    last: bool


def _batches(documents: Iterable[Document]) -> Iterator[list[_Piece]]:
    batch: list[_Piece] = []
    characters = 0
    for document in documents:
        left = len(document.text)
        for text in parts(document.text):
            left -= len(text)
            batch.append(_Piece(text, document.held_out, last=left == 0))
            characters += len(text)
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


@contextmanager
def whole_folder(target: Path) -> Iterator[Path]:
    """Yield a temporary folder beside `target`; rename it to `target` if the block succeeds.

    When another process makes `target` first, its folder stays and ours is dropped. What killed
    processes left is deleted: folders that hold our mark and whose maker is dead, nothing else.

    Raises:
        InputError: the folder or a file in it cannot be written.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _clear(target.parent)
        with _temporary(target) as (partial, mark):
            yield partial
            for path in partial.iterdir():
                sync_file(path)
            mark.delete()
            sync_folder(partial)
            _rename(partial, target)
        sync_folder(target.parent)
    except OSError as error:
        raise InputError(f"cannot write to {target.parent}: {reason(error)}") from None


def discard(entry: Path) -> None:
    """Delete a packed folder, damaged or not, in one step for all who look at it.

    Raises:
        InputError: it is no folder of ours, or cannot be deleted.
    """
    try:
        if entry.is_symlink() or not {path.name for path in entry.iterdir()} <= _FILES:
            raise InputError(f"{entry} is no folder of prepared text: move it out of the way")
        with _temporary(entry) as (partial, _):
            entry.rename(partial / entry.name)
    except FileNotFoundError:  # another process was faster
        return
    except OSError as error:
        raise InputError(f"cannot delete {entry}: {reason(error)}") from None


@contextmanager
def _temporary(target: Path) -> Iterator[tuple[Path, Held]]:
    """A folder beside `target` and the mark in it, by which it is known as ours; both go."""
    partial = target.with_name(f"{target.name}.{secrets.token_hex(4)}{_PARTIAL}")
    partial.mkdir()
    try:
        mark = Held(partial / _MARK)
        try:
            mark.path.write_text(_OURS, encoding="utf-8")
            yield partial, mark
        finally:
            mark.delete()
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _rename(partial: Path, target: Path) -> None:
    try:
        partial.rename(target)
    except OSError:  # a folder that holds files is never replaced
        if not target.exists():
            raise


def _clear(cache: Path) -> None:
    """Delete what killed preparations left behind."""
    for partial in cache.glob(f"*{_PARTIAL}"):
        mark = partial / _MARK
        with suppress(OSError, UnicodeDecodeError):
            if partial.is_symlink() or mark.is_symlink() or not mark.is_file():
                continue
            if mark.read_text(encoding="utf-8") == _OURS and abandoned(mark):
                shutil.rmtree(partial, ignore_errors=True)
