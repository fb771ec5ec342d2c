import json

import pytest

from sympformer.data import packing
from sympformer.data.packing import Manifest, Split
from sympformer.data.text import file_sha256
from sympformer.data.tokenizer import ByteTokenizer, save_tokenizer
from sympformer.errors import InputError


def write_manifest(folder, **changes):
    split = Split(documents=1, tokens=2, text_bytes=3, sha256="ff")
    fields = {"name": "a", "made_from": {}, "tokenizer": "t", "dtype": "<u2", "floor": None}
    manifest = Manifest(**{**fields, "train": split, "valid": split, **changes})
    packing.write_manifest(manifest, folder)
    return manifest


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
