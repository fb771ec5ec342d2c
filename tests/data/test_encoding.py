import json
import subprocess
import sys

import numpy as np
import pytest

from sympformer.data import encoding
from sympformer.data.encoding import SplitWriter, pack
from sympformer.data.fables import FablesTokenizer
from sympformer.data.packing import PROGRESS, Split, open_array, token_dtype
from sympformer.data.source import Document
from sympformer.data.text import file_sha256
from sympformer.data.tokenizer import ByteTokenizer, train_bpe
from sympformer.errors import InputError

DOCUMENTS = [Document("ab", False), Document("é", True), Document("c", False)]


class WideTokenizer(ByteTokenizer):
    """Bytes at the upper end of a vocabulary that needs 32 bits."""

    vocab_size = 1 << 17

    def encode(self, text):
        return [i + (1 << 16) for i in super().encode(text)]


@pytest.mark.parametrize("batch", [1, 3, 1 << 20])
def test_documents_go_to_their_split_each_closed_by_eos(tmp_path, monkeypatch, batch):
    monkeypatch.setattr(encoding, "_BATCH_CHARACTERS", batch)
    train, valid = pack(DOCUMENTS, ByteTokenizer(), tmp_path)
    assert (train.documents, train.tokens, train.text_bytes) == (2, 5, 3)
    assert (valid.documents, valid.tokens, valid.text_bytes) == (1, 3, 2)
    tokens = open_array(tmp_path / "train.bin", "<u2", 5, train.sha256)
    assert tokens.dtype == np.uint16
    assert tokens.tolist() == [97, 98, 256, 99, 256]
    tokens = open_array(tmp_path / "valid.bin", "<u2", 3, valid.sha256)
    assert tokens.tolist() == [0xC3, 0xA9, 256]


def test_wide_vocabularies_take_32_bits(tmp_path):
    assert token_dtype(1 << 16) == np.uint16
    assert token_dtype((1 << 16) + 1) == np.uint32
    train, _ = pack(DOCUMENTS, WideTokenizer(), tmp_path)
    tokens = open_array(tmp_path / "train.bin", "<u4", train.tokens, train.sha256)
    assert tokens.tolist() == [65633, 65634, 256, 65635, 256]


def test_a_token_too_large_for_its_file_is_never_cut(tmp_path):
    with SplitWriter(tmp_path / "a", np.dtype("<u2")) as writer, pytest.raises(OverflowError):
        writer.append([1 << 16], 1, 1)


def test_the_hash_is_that_of_the_file(tmp_path):
    with SplitWriter(tmp_path / "a", np.dtype("<u2")) as writer:
        writer.append([1, 2], 1, 1)
        writer.append(np.array([3]), 1, 1)
    assert writer.split.sha256 == file_sha256(tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == b"\1\0\2\0\3\0"


def test_long_documents_are_encoded_in_parts(tmp_path, monkeypatch):
    """The tokens are those of the whole, and it has one end."""
    text = "Once upon a time there was a cat.\nIt ran  and ran, " * 40
    tokenizer = train_bpe([text], 300)
    monkeypatch.setattr("sympformer.data.source._PART", 100)
    monkeypatch.setattr(encoding, "_BATCH_CHARACTERS", 250)
    train, _ = pack([Document(text, False)], tokenizer, tmp_path)
    assert (train.documents, train.text_bytes) == (1, len(text))
    tokens = open_array(tmp_path / "train.bin", "<u2", train.tokens, train.sha256)
    assert tokens.tolist() == [*tokenizer.encode(text), tokenizer.eos]


def test_no_tokenizer_ends_a_document_in_its_middle(tmp_path):
    documents = [Document("once upon a time <|endoftext|> she", False)]
    with pytest.raises(InputError, match="fables takes a part of a document for its end"):
        pack(documents, FablesTokenizer(), tmp_path)


MANY = [Document(f"story {i} of a cat", held_out=i % 7 == 0) for i in range(40)]


@pytest.fixture
def small(monkeypatch):
    """Batches of a few documents, and a progress behind each."""
    monkeypatch.setattr(encoding, "_BATCH_CHARACTERS", 100)
    monkeypatch.setattr(encoding, "_SAVE_SECONDS", 0.0)


class Counting(ByteTokenizer):
    """Bytes, and how many documents were encoded; one of them may be an interrupt."""

    def __init__(self, interrupt=None):
        self.encoded, self.interrupt = 0, interrupt

    def encode(self, text):
        self.encoded += 1
        if self.interrupt and self.interrupt in text:
            raise KeyboardInterrupt
        return super().encode(text)


def contents(folder):
    return [(folder / name).read_bytes() for name in ("train.bin", "valid.bin")]


def test_an_interrupted_encoding_goes_on_where_it_was(tmp_path, small):
    (whole := tmp_path / "whole").mkdir()
    (torn := tmp_path / "torn").mkdir()
    expected = pack(MANY, ByteTokenizer(), whole)
    with pytest.raises(KeyboardInterrupt):
        pack(MANY, Counting("story 25"), torn)
    kept = json.loads((torn / PROGRESS).read_text())
    done = kept["train"]["documents"] + kept["valid"]["documents"]
    assert 5 < done < 26
    tokenizer = Counting()
    assert pack(MANY, tokenizer, torn) == expected
    assert tokenizer.encoded == 40 - done
    assert contents(torn) == contents(whole)
    assert not (torn / PROGRESS).exists()


def test_a_long_document_is_not_left_in_its_middle(tmp_path, small, monkeypatch):
    monkeypatch.setattr("sympformer.data.source._PART", 50)
    documents = [Document("word " * 100, False), Document("end. " * 100, False), *MANY]
    (whole := tmp_path / "whole").mkdir()
    (torn := tmp_path / "torn").mkdir()
    expected = pack(documents, ByteTokenizer(), whole)
    with pytest.raises(KeyboardInterrupt):
        pack(documents, Counting("end."), torn)
    assert pack(documents, ByteTokenizer(), torn) == expected
    assert contents(torn) == contents(whole)


@pytest.mark.parametrize("damage", ["progress", "tokens", "cut", "absent"])
def test_a_damaged_progress_begins_again(tmp_path, small, damage):
    with pytest.raises(KeyboardInterrupt):
        pack(MANY, Counting("story 25"), tmp_path)
    path = tmp_path / "train.bin"
    if damage == "progress":
        (tmp_path / PROGRESS).write_text('{"train": {"documents": 3}}')
    elif damage == "tokens":
        path.write_bytes(b"x" + path.read_bytes()[1:])
    elif damage == "cut":
        path.write_bytes(path.read_bytes()[:10])
    else:
        path.unlink()
    tokenizer = Counting()
    train, valid = pack(MANY, tokenizer, tmp_path)
    assert tokenizer.encoded == train.documents + valid.documents == 40
    assert train.sha256 == file_sha256(path)


def test_a_writer_goes_on_from_what_counts(tmp_path):
    path, dtype = tmp_path / "a", np.dtype("<u2")
    with SplitWriter(path, dtype) as writer:
        writer.append([1, 2], 1, 5)
        begin = writer.split
        writer.append([3], 1, 5)
    with SplitWriter(path, dtype, begin) as writer:
        writer.append([4], 1, 5)
    assert path.read_bytes() == b"\1\0\2\0\4\0"
    assert writer.split == Split(2, 3, 10, file_sha256(path))
    with pytest.raises(ValueError, match="not what was recorded"):
        SplitWriter(path, dtype, writer.split.__class__(2, 3, 10, "00"))


MEMORY = """
import resource, sys
from sympformer.data.encoding import pack
from sympformer.data.source import Document
from sympformer.data.tokenizer import ByteTokenizer
from pathlib import Path
line = "once upon a time " * 900
def peak(documents):
    pack((Document(line, False) for _ in range(documents)), ByteTokenizer(), Path(sys.argv[1]))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
few = peak(600)
print(peak(4 * 600) - few)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="measures memory")
def test_memory_does_not_grow_with_the_text(tmp_path):
    """Four times 9 MB of text and their tokens, within a few MB of what the first 9 took."""
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, str(tmp_path)], capture_output=True, text=True
    )
    assert int(done.stdout) < 30, done.stderr
