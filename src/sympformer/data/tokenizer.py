"""Tokenizers: text to token numbers and back."""

import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Protocol

import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from sympformer.data.fables import FablesTokenizer
from sympformer.errors import InputError
from sympformer.files import atomic

FILE = "tokenizer.json"
END_OF_TEXT = "<|endoftext|>"

_LARGEST = 1 << 20
_LONG_WORD = re.compile(r"\S{512}|\s{512}")
_ENDS = (END_OF_TEXT, "<|end_of_text|>", "</s>", "<eos>")


class Tokenizer(Protocol):
    """Text to token numbers and back; `digest` changes whenever any encoding may."""

    @property
    def name(self) -> str: ...
    @property
    def vocab_size(self) -> int: ...
    @property
    def eos(self) -> int:
        """The token that ends a document."""
        ...

    @property
    def digest(self) -> str: ...
    def encode(self, text: str) -> list[int]: ...
    def decode(self, ids: Sequence[int]) -> str: ...


class ByteTokenizer:
    """UTF-8 bytes; token 256 ends a document."""

    name = "byte"
    vocab_size = 257
    eos = 256
    digest = "byte-1"

    def encode(self, text: str) -> list[int]:
        """Bytes of the text."""
        return list(text.encode())

    def decode(self, ids: Sequence[int]) -> str:
        """Text of the bytes; what is not UTF-8, or no byte at all, becomes U+FFFD."""
        other = {self.eos: END_OF_TEXT.encode()}
        content = b"".join(bytes([i]) if i < 256 else other.get(i, b"\xff") for i in ids)
        return content.decode(errors="replace")


class SubwordTokenizer:
    """A tokenizer of the `tokenizers` library, given as the text of its `tokenizer.json`.

    Raises:
        InputError: the text is no such tokenizer, or it has no token that ends a document.
    """

    def __init__(self, serialized: str) -> None:
        try:
            self._tokenizer = tokenizers.Tokenizer.from_str(serialized)
        except Exception as error:  # the library raises nothing more precise
            raise InputError(f"not a tokenizer of the tokenizers library: {error}") from None
        self._tokenizer.encode_special_tokens = True  # the text "<|endoftext|>" ends no document
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        vocabulary = self._tokenizer.get_vocab()
        self._end = next((end for end in _ENDS if end in vocabulary), None)
        if self._end is None:
            raise InputError(f"the tokenizer has no token that ends a text: add {END_OF_TEXT}")
        self.serialized = serialized
        self.eos = vocabulary[self._end]
        self.vocab_size = max(vocabulary.values()) + 1
        self.name = f"{type(self._tokenizer.model).__name__.lower()}:{self.vocab_size}"
        self.digest = hashlib.sha256(serialized.encode()).hexdigest()

    def encode(self, text: str) -> list[int]:
        """Tokens of a text, which never hold `eos`.

        Raises:
            InputError: the tokenizer has no tokens for it, or only that which ends a document.
        """
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Tokens of many texts, encoded in parallel; see `encode`."""
        encoded = _encode(self._tokenizer, texts)
        for number, ids in enumerate(encoded):
            if self.eos in ids:  # the text holds the words for it, which end no document
                encoded[number] = _encode(self._endless, [texts[number]])[0]
                if self.eos in encoded[number]:
                    raise InputError(
                        f"the tokenizer {self.name} takes words that it does not know for the end "
                        "of a text: give it a token for unknown words"
                    )
        return encoded

    @cached_property
    def _endless(self) -> tokenizers.Tokenizer:
        """The same tokenizer, but the token that ends a document has another name."""
        fields = json.loads(self._tokenizer.to_str())
        model, end, other = fields["model"], self._end, f"\0{self._end}\0"
        if isinstance(model["vocab"], dict):
            model["vocab"] = {
                other if w == end else w: number for w, number in model["vocab"].items()
            }
        else:
            model["vocab"] = [[other if w == end else w, score] for w, score in model["vocab"]]
        if "merges" in model:
            model["merges"] = [pair for pair in model["merges"] if "".join(pair) != end]
        for token in fields["added_tokens"]:
            token["content"] = other if token["content"] == end else token["content"]
        endless = tokenizers.Tokenizer.from_str(json.dumps(fields))
        endless.encode_special_tokens = True
        return endless

    def decode(self, ids: Sequence[int]) -> str:
        """Text of the tokens, ends of documents included."""
        return self._tokenizer.decode(list(ids), skip_special_tokens=False)


def _encode(tokenizer: tokenizers.Tokenizer, texts: Sequence[str]) -> list[list[int]]:
    try:
        batch = tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
    except Exception as error:  # the library raises nothing more precise
        raise InputError(f"the tokenizer cannot encode the text: {error}") from None
    return [encoding.ids for encoding in batch]


_BUILT_IN = {"byte": ByteTokenizer, "fables": FablesTokenizer}


def encode_batch(tokenizer: Tokenizer, texts: Sequence[str]) -> list[list[int]]:
    """Tokens of many texts, in parallel where the tokenizer can."""
    if isinstance(tokenizer, SubwordTokenizer):
        return tokenizer.encode_batch(texts)
    return [tokenizer.encode(text) for text in texts]


def train_bpe(documents: Iterable[str], vocab_size: int) -> SubwordTokenizer:
    """Byte-level byte-pair encoding learned from documents (Sennrich et al. 2016).

    The vocabulary holds the end of a document, the 256 bytes and as many merges as fit in
    `vocab_size` or as the text has.

    Raises:
        InputError: `vocab_size` is below 257 or above 2^20.
    """
    if vocab_size < 257:
        raise InputError(f"bpe:{vocab_size} is too small: 256 bytes and an end need bpe:257")
    if vocab_size > _LARGEST:
        raise InputError(f"bpe:{vocab_size} is too large: bpe:{_LARGEST} is the largest")
    tokenizer = _byte_level(models.BPE())
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = (part for document in documents for part in _short_words(document))
    tokenizer.train_from_iterator(texts, trainer)
    return SubwordTokenizer(tokenizer.to_str())


def _short_words(text: str) -> Iterator[str]:
    """A text, cut in words that nobody wrote: learning takes quadratic time in a word's length."""
    start = 0
    for word in _LONG_WORD.finditer(text):
        yield text[start : word.end()]
        start = word.end()
    yield text[start:]


def save_tokenizer(tokenizer: Tokenizer, folder: str | os.PathLike[str], name: str = FILE) -> None:
    """Write `tokenizer.json`, from which `load_tokenizer(folder)` gives the tokenizer back.

    A file of another `name` gives it back by its path.
    """
    if isinstance(tokenizer, SubwordTokenizer):
        content = tokenizer.serialized
    else:
        content = json.dumps({"sympformer": tokenizer.name, "digest": tokenizer.digest})
    with atomic(Path(folder) / name) as partial:
        partial.write_text(content, encoding="utf-8")


def load_tokenizer(source: str | os.PathLike[str]) -> Tokenizer:
    """The tokenizer named by `source`.

    `source` is `byte`, `fables`, `gpt2` (fetched from the Hugging Face hub), a `tokenizer.json`,
    or a folder with a `tokenizer.json` or with GPT-2's `vocab.json` and `merges.txt`.

    Raises:
        InputError: there is no such tokenizer, it is damaged, or it cannot be fetched.
    """
    if source in _BUILT_IN:
        return _BUILT_IN[str(source)]()
    if source == "gpt2":
        return _fetch_gpt2()
    path = Path(source)
    if path.is_file():
        return _read(path)
    if (path / FILE).is_file():
        return _read(path / FILE)
    if (path / "vocab.json").is_file() and (path / "merges.txt").is_file():
        return _read_gpt2(path)
    raise InputError(
        f"no tokenizer {str(source)!r}: give byte, fables, gpt2, bpe:SIZE (learned from the text), "
        f"a {FILE}, or a folder with one or with vocab.json and merges.txt"
    )


def _read(path: Path) -> Tokenizer:
    try:
        content = path.read_text(encoding="utf-8")
        fields = json.loads(content)
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"cannot read the tokenizer {path}: {error}") from None
    if not (isinstance(fields, dict) and "sympformer" in fields):
        try:
            return SubwordTokenizer(content)
        except InputError as error:
            raise InputError(f"{path}: {error}") from None
    built_in = _BUILT_IN.get(str(fields["sympformer"]))
    if built_in is None or built_in().digest != fields.get("digest"):
        raise InputError(f"{path} is of another version of sympformer: {fields}")
    return built_in()


def _byte_level(model: models.Model) -> tokenizers.Tokenizer:
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _read_gpt2(folder: Path) -> SubwordTokenizer:
    try:
        model = models.BPE.from_file(str(folder / "vocab.json"), str(folder / "merges.txt"))
    except Exception as error:  # the library raises nothing more precise
        raise InputError(f"cannot read vocab.json and merges.txt in {folder}: {error}") from None
    tokenizer = _byte_level(model)
    tokenizer.add_special_tokens([END_OF_TEXT])
    return SubwordTokenizer(tokenizer.to_str())


def _fetch_gpt2() -> SubwordTokenizer:
    try:
        return SubwordTokenizer(tokenizers.Tokenizer.from_pretrained("gpt2").to_str())
    except Exception:  # no network, a proxy, a server's refusal: each has an error of its own
        raise InputError(
            "cannot fetch the gpt2 tokenizer from the Hugging Face hub: check the network, or give "
            "a folder that holds its vocab.json and merges.txt"
        ) from None
