import bz2
import gzip
import lzma
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import zstandard

from sympformer.data.source import parts
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
    write(tmp_path / "c.MD", "5")
    write(tmp_path / "d.jsonl.gz", '{"text": "6"}')
    write(tmp_path / "notes.rst", "not this")
    (tmp_path / "folder.txt").mkdir()
    assert read(tmp_path) == ["1", "2", "3", "4", "5", "6"]


def test_a_pattern_is_read_in_the_order_of_its_names(tmp_path):
    for name in ("b/1.txt", "a/2.txt", "a/3.md", "c.txt"):
        write(tmp_path / name, name)
    assert read(tmp_path / "*" / "*.txt") == ["a/2.txt", "b/1.txt"]
    assert read(tmp_path / "**" / "*.txt") == ["a/2.txt", "b/1.txt", "c.txt"]
    assert read(tmp_path / "[ac]*") == ["a/2.txt", "a/3.md", "c.txt"], "folders are read as such"
    assert Text(tmp_path / "a" / "*.txt").name == "a"
    with pytest.raises(InputError, match=r"no text at .*x\*: no file or folder is so called"):
        Text(tmp_path / "x*")
    assert read(write(tmp_path / "what?.txt", "x")) == ["x"], "a name that is there is no pattern"


def test_the_hash_follows_the_content_only(tmp_path):
    first = Text(write(tmp_path / "a.txt")).made_from()
    assert Text(write(tmp_path / "b.txt")).made_from() == first
    assert Text(write(tmp_path / "c.txt", CONTENT + " ")).made_from() != first
    write(tmp_path / "two" / "1.txt", "ab")
    write(tmp_path / "two" / "2.txt", "c")
    write(tmp_path / "other" / "1.txt", "a")
    write(tmp_path / "other" / "2.txt", "bc")
    assert Text(tmp_path / "two").made_from() != Text(tmp_path / "other").made_from()


def test_and_how_it_is_read(tmp_path):
    names = "a.txt", "a.jsonl"
    paths = [write(tmp_path / name, '{"text": "a", "b": "c"}') for name in names]
    texts = [Text(path, field=field) for path in paths for field in ("text", "b")]
    assert len({text.made_from() for text in texts}) == 3, "plain text has no fields"
    assert Text(paths[0], "").made_from() != texts[0].made_from()
    assert Text(paths[1], "").made_from() == texts[2].made_from()


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


@pytest.mark.parametrize(
    ("content", "byte", "at"),
    [
        ("Größe".encode("latin-1"), "0xf6", 2),
        ("Größe 🙂".encode()[:-1], "0xf0", 8),
        ("\ufeffGrö\r\nß".encode() + b"\xff\n", "0xff", 11),
        (b"\xff\xfea\0", "0xff", 0),
    ],
)
@pytest.mark.parametrize("size", [1, 4, 1 << 20])
def test_bytes_that_are_not_utf8_are_named(tmp_path, monkeypatch, content, byte, at, size):
    monkeypatch.setattr("sympformer.data.unpack._READ_BYTES", size)
    for name, stored in (("a.txt", content), ("a.txt.gz", gzip.compress(content))):
        (tmp_path / name).write_bytes(stored)
        with pytest.raises(InputError, match=rf"{name} is not UTF-8 text: {byte} at byte {at} "):
            read(tmp_path / name)


def test_a_document_has_a_longest_length(tmp_path, monkeypatch):
    monkeypatch.setattr("sympformer.data.plain.LONGEST", 100)
    monkeypatch.setattr("sympformer.data.unpack._READ_BYTES", 10)
    story = "a" * 79 + "\n"
    many = write(tmp_path / "many.txt", f"{story}<|endoftext|>\n" * 9)
    assert read(many) == ["a" * 79] * 9
    for content in ("a" * 101, "a\n" * 51, "\n" * 101, f"x\n<|endoftext|>\n{story}{story}"):
        with pytest.raises(InputError, match=r"long\.txt has a document of more than"):
            read(write(tmp_path / "long.txt", content))


def test_short_lines_are_packed_while_a_document_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr("sympformer.data.plain._PACK_LINES", 3)
    content = "\na\n\n\nb\nc\n d\n" * 5
    assert read(write(tmp_path / "a.txt", content + "<|endoftext|>\nx")) == [content[:-1], "x"]


def test_one_long_line_takes_linear_time(tmp_path, monkeypatch):
    """Joined anew in each of 2048 reads, it would take 30 GB of copies: ten seconds."""
    monkeypatch.setattr("sympformer.data.unpack._READ_BYTES", 1 << 14)
    path = tmp_path / "line.txt"
    path.write_bytes(b"abcdefg " * (1 << 22))
    began = time.process_time()
    (line,) = read(path)
    assert time.process_time() - began < 3
    assert len(line) == 1 << 25


def test_parts_of_a_document(monkeypatch):
    monkeypatch.setattr("sympformer.data.source._PART", 10)
    for text in (
        "",
        "abc",
        "one two three four five",
        "a" * 35,
        "one  two\nthree\n four",
        " " * 25,
    ):
        got = list(parts(text))
        assert "".join(got) == text
        assert all(0 < len(part) <= 10 for part in got) or text == ""
    assert list(parts("one two three four five")) == ["one two", " three", " four five"]


BOMBS = """
import resource, sys
from sympformer.data import plain, text
from sympformer.errors import InputError
plain.LONGEST = 1 << 22
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (56 << 20),) * 2)
for path in map(text.Path, sys.argv[1:]):
    try:
        print(path.name, len(list(text.Text(path).documents())))
    except InputError as error:
        print(path.name, "more than" in str(error))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits memory")
def test_bombs_are_unpacked_in_bounded_memory(tmp_path):
    """64 MiB of one letter, and of blank lines, in a process that may take 56."""
    expected = []
    for content in ("a", "\n"):
        bomb = content.encode() * (1 << 26)
        fast = {".gz": gzip.compress(bomb, 1), ".zst": zstandard.compress(bomb, 1)}
        for suffix, packed in {**fast, ".xz": lzma.compress(bomb, preset=0)}.items():
            name = f"{ord(content)}.txt{suffix}"
            (tmp_path / name).write_bytes(packed)
            expected.append(f"{name} True")
    names = [str(tmp_path / line.split()[0]) for line in expected]
    # What is freed is given back, or room that a freed block left between others counts as taken.
    surroundings = {**os.environ, "MALLOC_MMAP_THRESHOLD_": str(1 << 20), "MALLOC_ARENA_MAX": "1"}
    command = [sys.executable, "-c", BOMBS, *names]
    done = subprocess.run(command, capture_output=True, text=True, env=surroundings)
    assert done.stdout.splitlines() == expected, done.stderr


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_what_can_be_read_only_once_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # a socket's path must be short
    os.mkfifo("pipe.txt")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("socket.txt")
        cases = {"pipe.txt": "a pipe", "socket.txt": "a socket", "/dev/zero": "a device"}
        for path, kind in cases.items():
            with pytest.raises(InputError, match=rf"{path}: it is {kind}.*a file first"):
                Text(Path(path))
    with pytest.raises(InputError, match=r"(pipe|socket)\.txt: it is a"):
        Text(tmp_path)


def test_a_link_to_nothing_is_no_text_that_may_be_left_out(tmp_path):
    write(tmp_path / "a.txt")
    (tmp_path / "b.txt").symlink_to(tmp_path / "absent")
    with pytest.raises(InputError, match=r"b\.txt"):
        Text(tmp_path)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("a.JSON", "JSON"),
        ("a.txt.bz2", "packed with bzip2"),
        ("a.jsonl.br.txt.bz2", "packed with bzip2"),
        ("a.parquet.gz", "packed twice"),
        ("a.zip", "a zip archive"),
        ("a.7z", "a 7z archive"),
        ("a.tar.gz", "a tar archive"),
    ],
)
def test_other_files_are_named_for_what_they_are(tmp_path, name, kind):
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(InputError, match=rf"{name} is {kind}.*: give plain text"):
        Text(tmp_path / name)
    packed = kind.startswith("packed")
    if not packed:
        with pytest.raises(InputError, match=rf"no \.txt.*, but {kind}"):
            Text(tmp_path)
    write(tmp_path / "b.txt")
    if packed:
        with pytest.raises(InputError, match=f"{name} is {kind}"):
            Text(tmp_path)
    else:
        assert read(tmp_path) == STORIES


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (gzip.compress(b"a", mtime=0), "packed with gzip, but not named .gz"),
        (lzma.compress(b"a"), "packed with xz, but not named .xz"),
        (bz2.compress(b"a"), "packed with bzip2"),
        (b"PAR1\x15\0", "a Parquet table"),
        (b"PK\x03\x04abc", "a zip archive"),
    ],
)
def test_and_so_are_files_with_the_ending_of_a_text(tmp_path, content, kind):
    (tmp_path / "a.txt").write_bytes(content)
    (tmp_path / "b.txt.zst").write_bytes(zstandard.compress(content))
    for name in ("a.txt", "b.txt.zst"):
        with pytest.raises(InputError, match=f"{name} is {kind}"):
            read(tmp_path / name)


def test_names_that_only_look_like_other_files(tmp_path):
    for name in ("a.json.txt", "v1.json.notes", "readme.md", "BZh"):
        assert read(write(tmp_path / name)) == STORIES
    assert read(write(tmp_path / "b.txt", "BZh and PAR1 are words")) == ["BZh and PAR1 are words"]


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
    monkeypatch.setitem(sys.modules, "zstandard", None)
    with pytest.raises(InputError, match=r"pip install 'sympformer\[zst\]'"):
        read(path)
