import builtins
import gzip
import lzma

import pytest
import zstandard

from sympformer.data.text import Text, file_sha256
from sympformer.errors import InputError

STORIES = ["Lily had a cat.\nIt was red.", "Tom ran.", "Größe 🙂"]
CONTENT = "\n<|endoftext|>\n".join([*STORIES, ""])


def write(path, content=CONTENT):
    path.parent.mkdir(parents=True, exist_ok=True)
    pack = {".gz": gzip.compress, ".xz": lzma.compress, ".zst": zstandard.compress}
    path.write_bytes(pack.get(path.suffix, bytes)(content.encode()))
    return path


def read(path, **options):
    return list(Text(path, **options).documents())


@pytest.mark.parametrize("name", ["a.txt", "a.txt.gz", "a.txt.xz", "a.txt.zst", "noending"])
def test_every_format_gives_the_same_documents(tmp_path, name):
    assert read(write(tmp_path / name)) == STORIES


@pytest.mark.parametrize("ending", ["", "\n", "\n<|endoftext|>", "\n<|endoftext|>\n"])
def test_the_end_of_the_file_ends_the_last_document(tmp_path, ending):
    content = "\n<|endoftext|>\n".join(STORIES) + ending
    assert read(write(tmp_path / "a.txt", content)) == STORIES


def test_a_separator_inside_a_line_separates_nothing(tmp_path):
    content = "one <|endoftext|> two\n<|endoftext|>.\nthree"
    assert read(write(tmp_path / "a.txt", content)) == [content]


def test_white_space_beside_a_separator_does_not_count(tmp_path):
    content = "one\n <|endoftext|>\t\ntwo\n \nthree\n<|endoftext|> "
    path = write(tmp_path / "a.txt", content)
    assert read(path) == ["one", "two\n \nthree"]
    assert read(path, separator="") == ["one\n <|endoftext|>\t\ntwo", "three\n<|endoftext|> "]


def test_other_separators(tmp_path):
    path = write(tmp_path / "a.txt", "a\nb\n\nc\n\n\n\nd\n***\ne")
    assert read(path, separator="") == ["a\nb", "c", "d\n***\ne"]
    assert read(path, separator="***") == ["a\nb\n\nc\n\n\n\nd", "e"]
    with pytest.raises(InputError, match="one whole line"):
        Text(path, separator="\n\n")


def test_line_ends_and_byte_order_mark_are_normalised(tmp_path):
    path = write(tmp_path / "a.txt", "\ufeff" + CONTENT.replace("\n", "\r\n"))
    assert read(path) == STORIES


def test_blank_documents_are_skipped(tmp_path):
    assert read(write(tmp_path / "a.txt", "<|endoftext|>\n \n<|endoftext|>\nx\n")) == ["x"]
    assert read(write(tmp_path / "empty.txt", "")) == []


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_documents_do_not_depend_on_how_the_file_is_cut_into_reads(tmp_path, monkeypatch, size):
    monkeypatch.setattr("sympformer.data.unpack._READ_BYTES", size)
    for name in ("a.txt", "a.txt.gz", "a.txt.xz", "a.txt.zst"):
        assert read(write(tmp_path / name, "\ufeff" + CONTENT.replace("\n", "\r\n"))) == STORIES


def test_archives_one_after_another_are_one_text(tmp_path):
    for suffix, pack in (
        (".gz", gzip.compress),
        (".xz", lzma.compress),
        (".zst", zstandard.compress),
    ):
        path = tmp_path / f"a.txt{suffix}"
        path.write_bytes(pack(b"one\n") + pack(b"two\n"))
        assert read(path) == ["one\ntwo"]


def test_a_folder_is_read_in_the_order_of_its_names(tmp_path):
    write(tmp_path / "b" / "c.txt.zst", "3")
    write(tmp_path / "b.txt", "4")
    write(tmp_path / "a.txt.gz", "1")
    write(tmp_path / "b" / "a.txt.xz", "2")
    write(tmp_path / "readme.md", "not this")
    (tmp_path / "folder.txt").mkdir()
    assert read(tmp_path) == ["1", "2", "3", "4"]


def test_the_hash_follows_the_content_only(tmp_path):
    first = Text(write(tmp_path / "a.txt")).sha256()
    assert Text(write(tmp_path / "b.txt")).sha256() == first
    assert Text(write(tmp_path / "c.txt", CONTENT + " ")).sha256() != first
    write(tmp_path / "two" / "1.txt", "ab")
    write(tmp_path / "two" / "2.txt", "c")
    write(tmp_path / "other" / "1.txt", "a")
    write(tmp_path / "other" / "2.txt", "bc")
    assert Text(tmp_path / "two").sha256() != Text(tmp_path / "other").sha256()


def test_name_has_no_endings(tmp_path):
    assert Text(write(tmp_path / "my.stories.txt.xz")).name == "my.stories"
    assert Text(tmp_path).name == tmp_path.name


def test_what_cannot_be_found(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        Text(tmp_path / "absent.txt")
    with pytest.raises(InputError, match="cannot read"):
        file_sha256(tmp_path)
    with pytest.raises(InputError, match=r"no \.txt"):
        Text(tmp_path)


def test_not_utf8(tmp_path):
    for content in ("Größe".encode("latin-1"), "Größe 🙂".encode()[:-1]):
        (tmp_path / "a.txt").write_bytes(content)
        with pytest.raises(InputError, match=r"a\.txt is not UTF-8"):
            read(tmp_path / "a.txt")


@pytest.mark.parametrize("suffix", [".gz", ".xz", ".zst"])
def test_damaged_archives(tmp_path, suffix):
    path = write(tmp_path / f"a.txt{suffix}", "".join(map(chr, range(1000))))
    whole = path.read_bytes()
    for damaged in (whole[:-9], b"", b"no archive", whole + b"rest", whole[:30] + whole[40:]):
        path.write_bytes(damaged)
        with pytest.raises(InputError, match="cannot read"):
            read(path)


def test_zstandard_is_asked_for_by_name(tmp_path, monkeypatch):
    path = write(tmp_path / "a.txt.zst")
    original = builtins.__import__

    def without(name, *args, **kwargs):
        if name == "zstandard":
            raise ImportError(name)
        return original(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(InputError, match=r"pip install 'sympformer\[zst\]'"):
        read(path)
