"""Data sets of the hub: parsed, pinned, read through `datasets` from a local copy."""

import json
import sys
from types import SimpleNamespace

import pytest

from sympformer.commands.data import pinned
from sympformer.data import hub
from sympformer.data.corpus import from_text
from sympformer.data.hub import HubText
from sympformer.data.packing import read_manifest
from sympformer.errors import InputError
from sympformer.train import DataConfig

COMMIT = "0123456789abcdef" * 2 + "01234567"
STORIES = [f"Once there were {i} cats." for i in range(50)]


@pytest.fixture
def library(monkeypatch):
    """`datasets`, which shall not look for a network."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return pytest.importorskip("datasets")


@pytest.fixture
def parsed(monkeypatch):
    """Without the library: for what does not read."""
    monkeypatch.setattr(hub, "_library", lambda: None)
    monkeypatch.setattr(hub, "_commit_of", lambda name, revision: COMMIT)


@pytest.fixture
def local(tmp_path, library, monkeypatch):
    """A folder as `hf download` leaves it, with two splits."""
    folder = tmp_path / "copy"
    folder.mkdir()
    for split, stories in (("train", STORIES), ("validation", STORIES[:3])):
        lines = (json.dumps({"body": story, "id": 1}) for story in [*stories, None, " "])
        (folder / f"{split}.jsonl").write_text("\n".join(lines))
    monkeypatch.setattr(hub, "_commit_of", lambda name, revision: COMMIT)
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "datasets"))
    return folder


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("hub:stories", ("stories", None, "")),
        ("hub:me/my.stories-2", ("me/my.stories-2", None, "")),
        ("hub:me/stories:en-10BT", ("me/stories", "en-10BT", "")),
        ("hub:me/stories:en@refs/pr/1", ("me/stories", "en", "refs/pr/1")),
        (f"hub:stories@{COMMIT}", ("stories", None, COMMIT)),
    ],
)
def test_names(parsed, text, expected):
    found = HubText.parse(text)
    assert (found.name, found.subset, found.revision) == expected
    assert str(found) == text


@pytest.mark.parametrize("text", ["hub:", "hub:a/b/c", "hub:a b", "hub:a@", "hub:a:", "hub:/a"])
def test_bad_names(parsed, text):
    with pytest.raises(InputError, match="a data set is hub:NAME"):
        HubText.parse(text)


def test_a_revision_is_pinned_once(parsed, monkeypatch):
    assert HubText("stories", revision="main").pinned().revision == COMMIT
    data = DataConfig(text="hub:me/stories:en", valid_text="other.txt")
    again = pinned(data)
    assert (again.text, again.valid_text) == (f"hub:me/stories:en@{COMMIT}", "other.txt")

    def unreachable(name, revision):
        raise AssertionError("a commit needs no network")

    monkeypatch.setattr(hub, "_commit_of", unreachable)
    assert pinned(again) == again
    assert pinned(DataConfig()) == DataConfig()


def test_what_decides_the_documents(parsed):
    texts = [
        HubText("a", revision=COMMIT),
        HubText("b", revision=COMMIT),
        HubText("a", "en", COMMIT),
        HubText("a", revision="f" * 40),
        HubText("a", revision=COMMIT, split="validation"),
        HubText("a", revision=COMMIT, field="body"),
    ]
    assert len({json.dumps(text.made_from()) for text in texts}) == len(texts)


def test_documents_are_streamed(local):
    text = HubText(str(local), revision=COMMIT, field="body")
    assert list(text.documents()) == STORIES
    assert list(HubText(str(local), split="validation", field="body").documents()) == STORIES[:3]
    with pytest.raises(InputError, match=r"record 1 of .* has no field 'text', but body, id"):
        list(HubText(str(local)).documents())
    with pytest.raises(InputError, match=r"cannot read hub:.*Unknown split|Bad split"):
        list(HubText(str(local), split="test", field="body").documents())


def test_a_corpus_records_its_revision(local, tmp_path, monkeypatch):
    """Prepared once, it needs no network, if its text is given with the revision."""
    monkeypatch.setattr(
        HubText,
        "parse",
        lambda text, split="train", field="text": HubText(
            str(local), None, text.partition("@")[2], split, field
        ),
    )
    options = {"tokenizer": "byte", "field": "body", "cache": tmp_path / "cache"}
    corpus = from_text("hub:stories", "hub:stories", **options)
    ends = corpus.tokenizer.eos
    assert ((corpus.train == ends).sum(), (corpus.valid == ends).sum()) == (50, 3)
    made_from = read_manifest(corpus.folder).made_from
    assert made_from["text"]["revision"] == made_from["valid"]["revision"] == COMMIT
    monkeypatch.setattr(hub, "_commit_of", lambda *_: 1 / 0)
    pinned_text = f"hub:stories@{COMMIT}"
    assert from_text(pinned_text, pinned_text, **options).digest == corpus.digest


def test_without_a_network_a_copy_is_asked_for(library):
    pytest.importorskip("huggingface_hub")
    with pytest.raises(InputError) as error:
        from_text("hub:me/stories@v1")
    (line,) = str(error.value).splitlines()
    assert "cannot read hub:me/stories@v1 (" in line
    assert "`hf download me/stories --repo-type dataset --revision v1 --local-dir FOLDER`" in line
    with pytest.raises(InputError, match=f"--revision {COMMIT} --local-dir"):
        list(HubText("me/stories", revision=COMMIT).documents())


def test_a_stream_that_breaks_is_told_in_one_line(parsed, monkeypatch):
    def records():
        yield {"text": "one"}
        raise OSError("connection\nreset")

    library = SimpleNamespace(load_dataset=lambda *_, **__: records())
    monkeypatch.setattr(hub, "_library", lambda: library)
    documents = HubText("stories", revision=COMMIT).documents()
    assert next(documents) == "one"
    with pytest.raises(
        InputError, match=r"cannot read hub:stories@\w+ \(OSError: connection reset"
    ):
        next(documents)


def test_the_library_is_asked_for_by_name(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(InputError, match=r"needs datasets.*pip install 'sympformer\[hub\]'"):
        from_text("hub:stories")
