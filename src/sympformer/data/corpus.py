"""Corpora: token streams for training and validation, prepared once and memory-mapped."""

import hashlib
import json
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from sympformer.data import packing
from sympformer.data.encoding import SplitWriter, pack
from sympformer.data.fables import FablesTokenizer, stream
from sympformer.data.folders import discard, whole_folder
from sympformer.data.packing import Manifest, Split, open_array
from sympformer.data.source import Source
from sympformer.data.text import FIELD, SEPARATOR, file_sha256
from sympformer.data.tokenizer import Tokenizer, load_tokenizer, save_tokenizer, train_bpe
from sympformer.errors import InputError

LEARNED_FROM = 1 << 28
"""Characters that a vocabulary is learned from: words are counted in memory, and slowly."""


@dataclass(frozen=True, eq=False)
class Corpus:
    """Training and validation tokens, each document closed by `tokenizer.eos`."""

    name: str
    train: np.ndarray
    """Shape (tokens,), uint16 or uint32, memory-mapped; so is `valid`."""
    valid: np.ndarray
    tokenizer: Tokenizer
    floor: np.ndarray | None
    """-log P of each validation token given its document so far, in nats; None when unknown."""
    digest: str
    """Identifies the tokens and the tokenizer."""
    bytes_per_token: float | None
    """Of the validation text: bits per byte = (nats per token) / log 2 / bytes_per_token."""
    folder: Path | None = None
    """Where it is kept, with its manifest."""


def from_text(
    text: str | os.PathLike[str],
    valid_text: str | os.PathLike[str] | None = None,
    tokenizer: str | os.PathLike[str] = "bpe:4096",
    separator: str = SEPARATOR,
    valid_fraction: float = 0.05,
    cache: str | os.PathLike[str] | None = None,
    quiet: bool = False,
    field: str = FIELD,
) -> Corpus:
    """The corpus of a text, packed on first use.

    The text is a file, a folder, or a pattern of them (see `Text`: `separator` and `field` say
    where its documents are), or `hub:NAME[:SUBSET][@REVISION]`, a data set of the Hugging Face hub
    (see `HubText`; of `valid_text` the split "validation"). A preparation that was interrupted or
    killed goes on where it was.

    Validation is `valid_text` or, without it, each document with probability `valid_fraction`, by
    a hash of the document. `tokenizer` is `bpe:SIZE`, learned from the training documents, or
    anything that `load_tokenizer` knows. `cache` defaults to $SYMPFORMER_CACHE, else to
    ~/.cache/sympformer; what is damaged there is prepared again. Progress is shown on a terminal
    unless `quiet`.

    Raises:
        InputError: a text cannot be read, no document is left for one of the splits, there is no
            such tokenizer, or the cache cannot be written.
    """
    valid = None if valid_text is None else os.fspath(valid_text)
    source = Source.of(os.fspath(text), valid, valid_fraction, separator, field)
    made_from = source.made_from()
    root = cache_folder(cache)
    if bpe := re.fullmatch(r"bpe:([0-9]{1,18})", str(tokenizer)):
        chosen = _learned_bpe(source, made_from, int(bpe[1]), root, quiet)
    else:
        chosen = load_tokenizer(tokenizer)

    def fill(folder: Path) -> tuple[Split, Split]:
        documents = source.documents(None if quiet else "encoding")
        train, valid = pack(documents, chosen, folder)
        source.require_documents(train.documents, valid.documents)
        return train, valid

    return _prepared(root, source.train.name, made_from, chosen, fill, quiet)


def fables(
    seed: int = 0,
    train_tokens: int = 2_000_000,
    valid_tokens: int = 50_000,
    cache: str | os.PathLike[str] | None = None,
    quiet: bool = False,
) -> Corpus:
    """The embedded corpus, whose entropy floor is known; generated on first use.

    `cache` and `quiet` are those of `from_text`.

    Raises:
        InputError: a stream would be empty, or the cache has no room or cannot be written.
    """
    if min(train_tokens, valid_tokens) < 1:
        raise InputError("train_tokens and valid_tokens must be at least 1")
    tokenizer = FablesTokenizer()

    def write(path: Path, tokens: np.ndarray) -> Split:
        ends = tokens == tokenizer.eos
        text = tokenizer.decode(tokens[~ends].tolist())
        with SplitWriter(path, packing.token_dtype(tokenizer.vocab_size)) as writer:
            writer.append(tokens, int(ends.sum()), len(text.encode()))
            return writer.split

    def fill(folder: Path) -> tuple[Split, Split]:
        _require_room(folder, train_tokens + valid_tokens)
        with Console(stderr=True, quiet=quiet).status("generating the fables"):
            train = stream(train_tokens, seed=2 * seed)
            valid = stream(valid_tokens, seed=2 * seed + 1, with_floor=True)
        (folder / "floor.bin").write_bytes(np.asarray(valid.floor, packing.FLOOR).tobytes())
        return write(folder / "train.bin", train.tokens), write(folder / "valid.bin", valid.tokens)

    rules = files("sympformer.data").joinpath("fables.txt").read_bytes()
    made_from = {
        "rules": hashlib.sha256(rules).hexdigest(),
        "seed": seed,
        "train_tokens": train_tokens,
        "valid_tokens": valid_tokens,
    }
    return _prepared(cache_folder(cache), "fables", made_from, tokenizer, fill, quiet)


def load(folder: str | os.PathLike[str], verify: bool = True) -> Corpus:
    """The corpus that a packed folder holds.

    Without `verify` the streams are not hashed: for those who know that somebody has just done so.

    Raises:
        InputError: a file is absent, damaged or of another version.
    """
    folder = Path(folder)
    manifest = packing.read_manifest(folder)
    train, valid = manifest.train, manifest.valid
    identity = manifest.tokenizer + train.sha256 + valid.sha256
    floor = None
    if manifest.floor is not None:
        floor = open_array(
            folder / "floor.bin", packing.FLOOR, valid.tokens, manifest.floor if verify else None
        )
    train_sha256, valid_sha256 = (s.sha256 if verify else None for s in (train, valid))
    return Corpus(
        name=manifest.name,
        train=open_array(folder / "train.bin", manifest.dtype, train.tokens, train_sha256),
        valid=open_array(folder / "valid.bin", manifest.dtype, valid.tokens, valid_sha256),
        tokenizer=packing.open_tokenizer(folder, manifest.tokenizer),
        floor=floor,
        digest=hashlib.sha256(identity.encode()).hexdigest(),
        bytes_per_token=valid.text_bytes / valid.tokens,
        folder=folder,
    )


def summary(corpus: Corpus) -> dict[str, Any]:
    """What a prepared corpus holds; `floor` is its mean over the validation tokens, in nats."""
    assert corpus.folder is not None, "only a prepared corpus has a manifest"
    manifest = packing.read_manifest(corpus.folder)
    return {
        "name": corpus.name,
        "folder": str(corpus.folder),
        "digest": corpus.digest,
        "tokenizer": corpus.tokenizer.name,
        "vocab_size": corpus.tokenizer.vocab_size,
        "documents": {"train": manifest.train.documents, "valid": manifest.valid.documents},
        "tokens": {"train": manifest.train.tokens, "valid": manifest.valid.tokens},
        "bytes_per_token": corpus.bytes_per_token,
        "floor": None if corpus.floor is None else float(corpus.floor.mean(dtype=np.float64)),
    }


def preview(corpus: Corpus, tokens: int = 200) -> str:
    """Text of the first training tokens."""
    return corpus.tokenizer.decode(corpus.train[:tokens].tolist())


def cache_folder(cache: str | os.PathLike[str] | None = None) -> Path:
    """Where corpora are kept: `cache`, else $SYMPFORMER_CACHE, else ~/.cache/sympformer.

    Raises:
        InputError: the user has no home folder.
    """
    chosen = cache or os.environ.get("SYMPFORMER_CACHE") or Path("~/.cache/sympformer")
    try:
        return Path(chosen).expanduser()
    except RuntimeError as error:
        raise InputError(f"no folder for prepared texts ({error}): set SYMPFORMER_CACHE") from None


def _learned_bpe(
    source: Source, made_from: dict[str, Any], vocab_size: int, root: Path, quiet: bool
) -> Tokenizer:
    folder = root / f"bpe-{vocab_size}-{_key([LEARNED_FROM, made_from])}"
    if (folder / "tokenizer.json").exists():
        try:
            return load_tokenizer(folder)
        except InputError as error:
            _tell(f"{error}: it is learned again", quiet)
    label = None if quiet else f"learning bpe:{vocab_size}"
    documents = _Limited(source.training_documents(label), LEARNED_FROM)
    save_tokenizer(train_bpe(documents, vocab_size), folder)
    if documents.cut:
        _tell(f"bpe:{vocab_size} is learned from the first {LEARNED_FROM:,} characters", quiet)
    return load_tokenizer(folder)


class _Limited:
    """The texts of `texts` as far as they have `limit` characters in all, the last one cut."""

    def __init__(self, texts: Iterable[str], limit: int) -> None:
        self.texts, self.left = texts, limit
        self.cut = False
        """Whether there are more."""

    def __iter__(self) -> Iterator[str]:
        for text in self.texts:
            if len(text) > self.left:
                self.cut = True
                yield text[: self.left]
                return
            self.left -= len(text)
            yield text


def _prepared(
    root: Path,
    name: str,
    made_from: dict[str, Any],
    tokenizer: Tokenizer,
    fill: Callable[[Path], tuple[Split, Split]],
    quiet: bool,
) -> Corpus:
    """The corpus of this origin and tokenizer from the cache, where `fill` puts it if it is new."""
    folder = root / f"{name}-{_key([packing.FORMAT, made_from, tokenizer.digest])}"
    if folder.exists():
        try:
            return load(folder)
        except InputError as error:
            _tell(f"{error}: that is done now", quiet)
            discard(folder)
    with whole_folder(folder) as partial:
        train, valid = fill(partial)
        save_tokenizer(tokenizer, partial)
        floor = partial / "floor.bin"
        manifest = Manifest(
            name=name,
            made_from=made_from,
            tokenizer=tokenizer.digest,
            dtype=packing.token_dtype(tokenizer.vocab_size).str,
            floor=file_sha256(floor) if floor.exists() else None,
            train=train,
            valid=valid,
        )
        packing.write_manifest(manifest, partial)
    return load(folder)


def _require_room(folder: Path, tokens: int) -> None:
    """Refuse streams that the disk has no room for, before hours are spent on them."""
    room = shutil.disk_usage(folder).free // packing.token_dtype(1).itemsize
    if tokens > room:
        raise InputError(
            f"{folder.parent} has room for {room:,} tokens, not for {tokens:,}: ask for fewer "
            "train_tokens and valid_tokens"
        )


def _tell(line: str, quiet: bool) -> None:
    if not quiet:
        print(f"sympformer: {line}", file=sys.stderr)


def _key(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]
