"""Documents to token files: encoded by all cores, in order, and gone on with after a kill.

While a folder is filled, `progress.json` in it says how much of its token files counts; it is
written about every `_SAVE_SECONDS` seconds, behind a whole document. Who goes on cuts the files to
that, reads as many documents as they hold without encoding them, and encodes the rest.
"""

import hashlib
import json
import os
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

import numpy as np

from sympformer.data.packing import PROGRESS, Split, token_dtype
from sympformer.data.source import Document, parts
from sympformer.data.tokenizer import Tokenizer, encode_batch
from sympformer.errors import InputError
from sympformer.files import atomic

_BATCH_CHARACTERS = 1 << 20
_SAVE_SECONDS = 20.0
_NOTHING = Split(0, 0, 0, hashlib.sha256().hexdigest())


class SplitWriter:
    """Appends documents to one token file, counting and hashing them.

    Args:
        path: the file.
        dtype: of its tokens.
        begin: what it holds already, from its start; the rest of it is cut off.

    Raises:
        ValueError: it does not hold `begin`.
    """

    def __init__(self, path: Path, dtype: np.dtype, begin: Split = _NOTHING) -> None:
        self._dtype, self._begin = dtype, begin
        self._documents, self._tokens = begin.documents, begin.tokens
        self._text_bytes, self._hash = begin.text_bytes, hashlib.sha256()
        self._file = open(path, "r+b" if begin.tokens else "wb")  # noqa: SIM115 - see __exit__
        left = begin.tokens * dtype.itemsize
        while left and (content := self._file.read(min(left, 1 << 20))):
            self._hash.update(content)
            left -= len(content)
        if self._hash.hexdigest() != begin.sha256:
            self._file.close()
            raise ValueError(f"{path.name} is not what was recorded")
        self._file.truncate()

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
        """Write the tokens of documents, the ends of so many included."""
        content = np.asarray(tokens, dtype=self._dtype).tobytes()
        self._file.write(content)
        self._hash.update(content)
        self._documents += documents
        self._tokens += len(tokens)
        self._text_bytes += text_bytes

    def sync(self) -> None:
        """Force what has been written to the disk."""
        self._file.flush()
        os.fsync(self._file.fileno())

    @property
    def split(self) -> Split:
        """What has been written so far."""
        return Split(self._documents, self._tokens, self._text_bytes, self._hash.hexdigest())


def pack(documents: Iterable[Document], tokenizer: Tokenizer, folder: Path) -> tuple[Split, Split]:
    """Encode documents into `train.bin` and `valid.bin`, each closed by `tokenizer.eos`.

    Where an earlier call for the same documents and tokenizer was killed in this folder, it goes on
    from the last `progress.json`. Memory holds a few MB of text for every core.

    Raises:
        InputError: the tokenizer cannot encode a document, or takes a part of it for its end.
    """
    train, valid = _writers(folder, token_dtype(tokenizer.vocab_size))
    done = train.split.documents + valid.split.documents
    with train, valid:
        saved, whole = time.monotonic(), True
        for piece, tokens in _encoded(islice(documents, done, None), tokenizer):
            if whole and time.monotonic() - saved >= _SAVE_SECONDS:
                _save(folder, train, valid)
                saved = time.monotonic()
            writer = valid if piece.held_out else train
            writer.append(tokens, int(piece.last), len(piece.text.encode()))
            whole = piece.last
        (folder / PROGRESS).unlink(missing_ok=True)
        return train.split, valid.split


def _writers(folder: Path, dtype: np.dtype) -> tuple[SplitWriter, SplitWriter]:
    """The token files as far as the progress says, or empty where that is not so."""
    names = "train", "valid"
    try:
        kept = json.loads((folder / PROGRESS).read_text(encoding="utf-8"))
        train, valid = (SplitWriter(folder / f"{n}.bin", dtype, Split(**kept[n])) for n in names)
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        train, valid = (SplitWriter(folder / f"{name}.bin", dtype) for name in names)
    return train, valid


def _save(folder: Path, train: SplitWriter, valid: SplitWriter) -> None:
    train.sync()
    valid.sync()
    kept = {"train": asdict(train.split), "valid": asdict(valid.split)}
    with atomic(folder / PROGRESS) as partial:
        partial.write_text(json.dumps(kept) + "\n", encoding="utf-8")


class _Piece(NamedTuple):
    """A document, or a part of a long one."""

    text: str
    held_out: bool
    last: bool


def _encoded(
    documents: Iterable[Document], tokenizer: Tokenizer
) -> Iterator[tuple[_Piece, np.ndarray]]:
    """Pieces of documents and their tokens, in order; as many batches at a time as cores."""
    waiting: deque[Future[list[tuple[_Piece, np.ndarray]]]] = deque()
    workers = _cores()
    with ThreadPoolExecutor(workers) as pool:
        try:
            for batch in _batches(documents):
                waiting.append(pool.submit(_tokens, batch, tokenizer))
                if len(waiting) > workers:  # one is written while the others are encoded
                    yield from waiting.popleft().result()
            while waiting:
                yield from waiting.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)


def _tokens(batch: list[_Piece], tokenizer: Tokenizer) -> list[tuple[_Piece, np.ndarray]]:
    dtype, found = token_dtype(tokenizer.vocab_size), []
    encoded = encode_batch(tokenizer, [piece.text for piece in batch])
    for piece, tokens in zip(batch, encoded, strict=True):
        if tokenizer.eos in tokens:
            raise InputError(
                f"the tokenizer {tokenizer.name} takes a part of a document for its end: choose "
                "another one"
            )
        if piece.last:
            tokens.append(tokenizer.eos)
        found.append((piece, np.asarray(tokens, dtype)))
    return found


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
    if batch:
        yield batch


def _cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
