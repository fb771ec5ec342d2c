import json
import os

import numpy as np
import pytest

from sympformer.data import packing
from sympformer.data.fables import FablesTokenizer
from sympformer.data.packing import Manifest, Split, SplitWriter
from sympformer.data.source import Document
from sympformer.data.text import file_sha256
from sympformer.data.tokenizer import ByteTokenizer, save_tokenizer, train_bpe
from sympformer.errors import InputError

DOCUMENTS = [Document("ab", False), Document("é", True), Document("c", False)]


class WideTokenizer(ByteTokenizer):
    """Bytes at the upper end of a vocabulary that needs 32 bits."""

    vocab_size = 1 << 17

    def encode(self, text):
        return [i + (1 << 16) for i in super().encode(text)]


def write_manifest(folder, **changes):
    split = Split(documents=1, tokens=2, text_bytes=3, sha256="ff")
    fields = {"name": "a", "made_from": {}, "tokenizer": "t", "dtype": "<u2", "floor": None}
    manifest = Manifest(**{**fields, "train": split, "valid": split, **changes})
    packing.write_manifest(manifest, folder)
    return manifest


@pytest.mark.parametrize("batch", [1, 3, 1 << 20])
def test_documents_go_to_their_split_each_closed_by_eos(tmp_path, monkeypatch, batch):
    monkeypatch.setattr(packing, "_BATCH_CHARACTERS", batch)
    train, valid = packing.pack(DOCUMENTS, ByteTokenizer(), tmp_path)
    assert (train.documents, train.tokens, train.text_bytes) == (2, 5, 3)
    assert (valid.documents, valid.tokens, valid.text_bytes) == (1, 3, 2)
    tokens = packing.open_array(tmp_path / "train.bin", "<u2", 5, train.sha256)
    assert tokens.dtype == np.uint16
    assert tokens.tolist() == [97, 98, 256, 99, 256]
    tokens = packing.open_array(tmp_path / "valid.bin", "<u2", 3, valid.sha256)
    assert tokens.tolist() == [0xC3, 0xA9, 256]


def test_wide_vocabularies_take_32_bits(tmp_path):
    assert packing.token_dtype(1 << 16) == np.uint16
    assert packing.token_dtype((1 << 16) + 1) == np.uint32
    train, _ = packing.pack(DOCUMENTS, WideTokenizer(), tmp_path)
    tokens = packing.open_array(tmp_path / "train.bin", "<u4", train.tokens, train.sha256)
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


def test_a_manifest_is_read_as_it_was_written(tmp_path):
    assert write_manifest(tmp_path) == packing.read_manifest(tmp_path)


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: "",
        lambda content: content[: len(content) // 2],
        lambda content: "[1]",
        lambda content: content.replace("tokens", "tokenz"),
        lambda content: content.replace("<u2", "words"),
        lambda content: content.replace('"format": 2', '"format": 99'),
        lambda content: json.dumps({**json.loads(content), "train": 3}),
        lambda content: json.dumps({**json.loads(content), "new": 3}),
    ],
)
def test_a_damaged_manifest_is_refused_with_a_remedy(tmp_path, damage):
    write_manifest(tmp_path)
    path = tmp_path / "manifest.json"
    path.write_text(damage(path.read_text()))
    with pytest.raises(InputError, match=r"cannot use .*manifest\.json.*: delete .* prepare"):
        packing.read_manifest(tmp_path)


def test_a_folder_without_a_manifest_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"cannot use .*manifest\.json"):
        packing.read_manifest(tmp_path)


def test_arrays_of_another_size_or_content_are_refused(tmp_path):
    path = tmp_path / "train.bin"
    path.write_bytes(bytes(20))
    sha256 = file_sha256(path)
    assert packing.open_array(path, "<u2", 10, sha256).tolist() == [0] * 10
    for length in (9, 11):
        with pytest.raises(InputError, match=r"train\.bin has 20 bytes instead of .*: delete"):
            packing.open_array(path, "<u2", length, sha256)
    with pytest.raises(InputError, match=r"absent\.bin has 0 bytes"):
        packing.open_array(tmp_path / "absent.bin", "<u2", 10, sha256)
    path.write_bytes(bytes(19) + b"1")
    with pytest.raises(InputError, match=r"train\.bin has been changed: delete"):
        packing.open_array(path, "<u2", 10, sha256)


def test_mapped_arrays_cannot_be_changed(tmp_path):
    path = tmp_path / "train.bin"
    path.write_bytes(bytes(20))
    tokens = packing.open_array(path, "<u2", 10, file_sha256(path))
    with pytest.raises(ValueError, match="read-only"):
        tokens[0] = 1


def test_another_tokenizer_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"no tokenizer.*: delete"):
        packing.open_tokenizer(tmp_path, ByteTokenizer.digest)
    save_tokenizer(ByteTokenizer(), tmp_path)
    assert packing.open_tokenizer(tmp_path, ByteTokenizer.digest).name == "byte"
    with pytest.raises(InputError, match=r"packed with another tokenizer: delete"):
        packing.open_tokenizer(tmp_path, "other")


def test_a_folder_appears_whole_or_not_at_all(tmp_path):
    target = tmp_path / "cache" / "a"

    def interrupted():
        with packing.whole_folder(target) as partial:
            (partial / "x").write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert list(target.parent.iterdir()) == []
    with packing.whole_folder(target) as partial:
        (partial / "x").write_text("whole")
        assert not target.exists()
    assert [path.name for path in target.parent.iterdir()] == ["a"]
    assert (target / "x").read_text() == "whole"


def test_the_first_to_finish_wins(tmp_path):
    target = tmp_path / "a"
    with packing.whole_folder(target) as slow:
        (slow / "x").write_text("slow")
        with packing.whole_folder(target) as fast:
            (fast / "x").write_text("fast")
    assert (target / "x").read_text() == "fast"
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_what_a_killed_preparation_left_goes_with_the_next(tmp_path):
    """Of a dead process only, and only what is there itself: links are not followed."""
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "x").write_text("mine")
    child = os.fork()
    if child == 0:
        with packing.whole_folder(tmp_path / "cache" / "dead") as partial:
            (partial / "link").symlink_to(tmp_path / "outside")
            os._exit(9)
    os.waitpid(child, 0)
    (left,) = (tmp_path / "cache").iterdir()
    assert {path.name for path in left.iterdir()} == {".sympformer", "link"}
    with packing.whole_folder(tmp_path / "cache" / "alive") as alive:
        with packing.whole_folder(tmp_path / "cache" / "b"):
            pass
        assert {path.name for path in (tmp_path / "cache").iterdir()} == {alive.name, "b"}
    assert {path.name for path in (tmp_path / "cache").iterdir()} == {"alive", "b"}
    assert (tmp_path / "outside" / "x").read_text() == "mine"


def test_a_link_to_what_looks_abandoned_is_not_followed(tmp_path):
    target = tmp_path / "elsewhere"
    target.mkdir()
    (target / ".sympformer").write_text(packing._OURS)
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "a.1.partial").symlink_to(target)
    (tmp_path / "cache" / "a.2.partial").mkdir()
    (tmp_path / "cache" / "a.2.partial" / ".sympformer").symlink_to(target / ".sympformer")
    with packing.whole_folder(tmp_path / "cache" / "b"):
        pass
    assert (target / ".sympformer").exists()
    assert len(list((tmp_path / "cache").iterdir())) == 3


def test_long_documents_are_encoded_in_parts(tmp_path, monkeypatch):
    """The tokens are those of the whole, and it has one end."""
    text = "Once upon a time there was a cat.\nIt ran  and ran, " * 40
    tokenizer = train_bpe([text], 300)
    monkeypatch.setattr("sympformer.data.text._PART", 100)
    monkeypatch.setattr(packing, "_BATCH_CHARACTERS", 250)
    train, _ = packing.pack([Document(text, False)], tokenizer, tmp_path)
    assert (train.documents, train.text_bytes) == (1, len(text))
    tokens = packing.open_array(tmp_path / "train.bin", "<u2", train.tokens, train.sha256)
    assert tokens.tolist() == [*tokenizer.encode(text), tokenizer.eos]


def test_no_tokenizer_ends_a_document_in_its_middle(tmp_path):
    documents = [Document("once upon a time <|endoftext|> she", False)]
    with pytest.raises(InputError, match="fables takes a part of a document for its end"):
        packing.pack(documents, FablesTokenizer(), tmp_path)


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with (
        pytest.raises(InputError, match="cannot write to"),
        packing.whole_folder(tmp_path / "file" / "a"),
    ):
        pass


def test_a_full_disk(tmp_path):
    with pytest.raises(InputError, match="No space left"), packing.whole_folder(tmp_path / "a"):
        raise OSError(28, "No space left on device")
    assert list(tmp_path.iterdir()) == []
