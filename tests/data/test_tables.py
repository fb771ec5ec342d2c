import gzip
import json
import subprocess
import sys

import pytest

from sympformer.data.text import Text
from sympformer.errors import InputError

TEXTS = ["Lily had a cat.\nIt was red.", "<|endoftext|>\nTom ran.", "Größe 🙂"]


def jsonl(path, texts=TEXTS, field="text"):
    content = "\n".join(json.dumps({"id": i, field: text}) for i, text in enumerate(texts))
    path.write_bytes(gzip.compress(content.encode()) if path.suffix == ".gz" else content.encode())
    return path


def parquet(path, texts=TEXTS, field="text", **options):
    pyarrow = pytest.importorskip("pyarrow")
    write_table = pytest.importorskip("pyarrow.parquet").write_table
    write_table(pyarrow.table({"id": range(len(texts)), field: texts}), path, **options)
    return path


WRITERS = {"a.jsonl": jsonl, "a.ndjson": jsonl, "a.jsonl.gz": jsonl, "a.parquet": parquet}


def read(path, **options):
    return list(Text(path, **options).documents())


@pytest.mark.parametrize(("name", "write"), WRITERS.items())
def test_every_record_is_a_document(tmp_path, name, write):
    assert read(write(tmp_path / name)) == TEXTS
    assert read(write(tmp_path / name, field="body"), field="body") == TEXTS
    assert Text(tmp_path / name).name == "a"


@pytest.mark.parametrize(("name", "write"), WRITERS.items())
def test_blank_and_null_texts_are_left_out_and_line_ends_unified(tmp_path, name, write):
    path = write(tmp_path / name, ["a\r\nb\rc", None, "", " \n", "d"])
    assert read(path) == ["a\nb\nc", "d"]


@pytest.mark.parametrize(("name", "write"), WRITERS.items())
def test_a_missing_field_names_the_others(tmp_path, name, write):
    with pytest.raises(InputError, match=r"a\.\w+.* has no field 'body', but id, text: choose"):
        read(write(tmp_path / name), field="body")
    with pytest.raises(InputError, match=r"id in \w+ 1 of .*a\.[\w.]+ is no text but 0: choose"):
        read(tmp_path / name, field="id")


@pytest.mark.parametrize(("name", "write"), WRITERS.items())
def test_a_document_has_a_longest_length(tmp_path, name, write, monkeypatch):
    monkeypatch.setattr("sympformer.data.plain.LONGEST", 100)
    with pytest.raises(InputError, match=r"a\.\w+.* has a document of more than .*several"):
        read(write(tmp_path / name, ["a", "b" * 101]))


@pytest.mark.parametrize("size", [1, 7, 1 << 20])
def test_lines_do_not_depend_on_how_the_file_is_cut_into_reads(tmp_path, monkeypatch, size):
    monkeypatch.setattr("sympformer.data.unpack._READ_BYTES", size)
    path = jsonl(tmp_path / "a.jsonl")
    lines = path.read_bytes().replace(b"\n", b"\r\n\n  \n")
    path.write_bytes(b"\xef\xbb\xbf" + lines + b"\n")
    assert read(path) == TEXTS


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 2 of .* is no JSON: "),
        ("[" * 100000, "line 2 of .* is no JSON"),
        ("[1]", "line 2 of .* is no JSON object"),
        ('{"text": "\\ud800"}', "text in line 2 of .* is no text: surrogates"),
        ('{"text": ["a"]}', r"is no text but \['a'\]"),
    ],
)
def test_a_bad_line_is_numbered(tmp_path, line, message):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "a"}\n' + line + "\n")
    with pytest.raises(InputError, match=message):
        read(path)


def test_bytes_that_are_not_utf8_are_named(tmp_path):
    (tmp_path / "a.jsonl").write_bytes('{"text": "Größe"}'.encode("latin-1"))
    with pytest.raises(InputError, match="0xf6 at byte 12"):
        read(tmp_path / "a.jsonl")


def test_a_damaged_table(tmp_path):
    path = parquet(tmp_path / "a.parquet", TEXTS * 200)
    whole = path.read_bytes()
    end = len(whole) - 8 - int.from_bytes(whole[-8:-4], "little")
    pages = whole[:4] + b"x" * (end - 4) + whole[end:]
    for damaged in (b"", b"no table", whole[:-9], pages):
        path.write_bytes(damaged)
        with pytest.raises(InputError, match=r"cannot read .*a\.parquet: ") as error:
            read(path)
        assert "\n" not in str(error.value)


def test_pyarrow_is_asked_for_by_name(tmp_path, monkeypatch):
    path = tmp_path / "a.parquet"
    path.write_bytes(b"PAR1")
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(InputError, match=r"needs pyarrow.*pip install 'sympformer\[parquet\]'"):
        read(path)


MEMORY = """
import resource, sys
from pathlib import Path
from sympformer.data.text import Text
def peak(path):
    read = sum(map(len, Text(Path(path)).documents()))
    return read, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
peak(sys.argv[1])
few, many = peak(sys.argv[1]), peak(sys.argv[2])
print(many[0] // few[0], many[1] - few[1])
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="measures memory")
@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_memory_does_not_grow_with_the_file(tmp_path, kind):
    """One group of rows is 100 MB; it is read page by page, and lines one by one."""
    write = {"jsonl": jsonl, "parquet": parquet}[kind]
    texts = [f"{i} " + "once upon a time " * 60 for i in range(2000)]
    few = write(tmp_path / f"few.{kind}", texts)
    many = write(tmp_path / f"many.{kind}", texts * 50)
    done = subprocess.run([sys.executable, "-c", MEMORY, few, many], capture_output=True, text=True)
    times, grown = map(int, done.stdout.split())
    assert times == 50
    assert grown < 30, "MB"
