import json
import os
from pathlib import Path

import numpy as np
import pytest

from sympformer.data import packing
from sympformer.data.corpus import cache_folder, fables, from_text, load, preview, summary
from sympformer.data.tokenizer import ByteTokenizer, load_tokenizer, save_tokenizer
from sympformer.errors import InputError

STORIES = [f"Once upon a time there were {i} cats.\nThey ran é." for i in range(200)]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    folder = tmp_path / "cache"
    monkeypatch.setenv("SYMPFORMER_CACHE", str(folder))
    return folder


@pytest.fixture
def text(tmp_path):
    return write(tmp_path / "stories.txt", STORIES)


def write(path, documents):
    path.write_text("\n<|endoftext|>\n".join(documents))
    return path


def folder_of(corpus) -> Path:
    assert corpus.folder is not None
    return corpus.folder


def stories(corpus, tokens):
    return corpus.tokenizer.decode(tokens.tolist()).split("<|endoftext|>")[:-1]


@pytest.mark.parametrize("tokenizer", ["byte", "bpe:300"])
def test_every_document_is_in_one_split(text, tokenizer):
    corpus = from_text(text, tokenizer=tokenizer, valid_fraction=0.2)
    train, valid = stories(corpus, corpus.train), stories(corpus, corpus.valid)
    assert sorted(train + valid) == sorted(STORIES)
    assert 20 < len(valid) < 60
    assert corpus.floor is None
    valid_bytes = sum(len(story.encode()) for story in valid)
    assert corpus.bytes_per_token == pytest.approx(valid_bytes / len(corpus.valid))


def test_a_validation_text_of_its_own(text, tmp_path):
    valid = write(tmp_path / "valid.txt", ["Another story."])
    corpus = from_text(text, valid, tokenizer="byte")
    assert stories(corpus, corpus.train) == STORIES
    assert stories(corpus, corpus.valid) == ["Another story."]


def test_bpe_is_learned_from_training_documents_only(text, tmp_path):
    one, two = (write(tmp_path / f"{i}.txt", [word * 500]) for i, word in enumerate(["xq", "zj"]))
    first, second = from_text(text, one, "bpe:300"), from_text(text, two, "bpe:300")
    assert first.tokenizer.digest == second.tokenizer.digest
    assert len(first.tokenizer.encode("xqxq")) == 4


def test_the_second_time_comes_from_the_cache(text, monkeypatch):
    first = from_text(text, tokenizer="bpe:300")

    def never(*_):
        raise AssertionError("prepared twice")

    monkeypatch.setattr("sympformer.data.corpus.pack", never)
    monkeypatch.setattr("sympformer.data.corpus.train_bpe", never)
    second = from_text(text, tokenizer="bpe:300")
    assert second.digest == first.digest
    assert np.array_equal(second.train, first.train)
    assert isinstance(second.train, np.memmap)
    assert load(folder_of(first)).digest == first.digest


def test_the_digest_follows_text_tokenizer_and_split(text, tmp_path):
    same = write(tmp_path / "copy.txt", STORIES)
    changed = write(tmp_path / "changed.txt", [*STORIES[:-1], "The end."])
    corpora = [
        from_text(text, tokenizer="byte"),
        from_text(text, tokenizer="bpe:300"),
        from_text(text, tokenizer="bpe:301"),
        from_text(text, tokenizer="byte", valid_fraction=0.3),
        from_text(text, changed, tokenizer="byte", separator=""),
        from_text(changed, tokenizer="byte"),
        from_text(text, changed, tokenizer="byte"),
    ]
    assert len({corpus.digest for corpus in corpora}) == len(corpora)
    assert len({corpus.folder for corpus in corpora}) == len(corpora)
    assert from_text(same, tokenizer="byte").digest == corpora[0].digest


def test_a_run_folder_lends_its_tokenizer(text, tmp_path):
    learned = from_text(text, tokenizer="bpe:300")
    save_tokenizer(learned.tokenizer, tmp_path / "run")
    other = write(tmp_path / "other.txt", [f"{i} dogs" for i in range(99)])
    borrowed = from_text(other, tokenizer=tmp_path / "run")
    assert borrowed.tokenizer.digest == learned.tokenizer.digest


def test_an_exception_half_way_leaves_nothing_that_loads(text, cache, monkeypatch):
    monkeypatch.setattr("sympformer.data.encoding._BATCH_CHARACTERS", 1000)
    encode = ByteTokenizer.encode

    def interrupted(self, document):
        if "100" in document:
            raise KeyboardInterrupt
        return encode(self, document)

    monkeypatch.setattr(ByteTokenizer, "encode", interrupted)
    with pytest.raises(KeyboardInterrupt):
        from_text(text, tokenizer="byte")
    assert list(cache.iterdir()) == []
    monkeypatch.setattr(ByteTokenizer, "encode", encode)
    corpus = from_text(text, tokenizer="byte")
    assert len(stories(corpus, corpus.train)) + len(stories(corpus, corpus.valid)) == 200


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_killed_process_leaves_nothing_that_loads(text, cache):
    child = os.fork()
    if child == 0:
        packing.write_manifest = lambda *_: os._exit(9)
        from_text(text, tokenizer="byte")
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    (left,) = cache.iterdir()
    with pytest.raises(InputError, match=r"manifest\.json"):
        load(left)
    corpus = from_text(text, tokenizer="byte")
    assert list(cache.iterdir()) == [corpus.folder], "what was left is gone"
    assert len(stories(corpus, corpus.train)) + len(stories(corpus, corpus.valid)) == 200


def test_two_preparations_at_once_share_the_first_result(text, cache, monkeypatch):
    encode, raced = ByteTokenizer.encode, []

    def race(self, document):
        if not raced:
            raced.append(None)
            raced.append(from_text(text, tokenizer="byte"))
        return encode(self, document)

    monkeypatch.setattr(ByteTokenizer, "encode", race)
    corpus = from_text(text, tokenizer="byte")
    assert corpus.digest == raced[1].digest
    assert list(cache.iterdir()) == [corpus.folder]


@pytest.mark.parametrize("file", ["train.bin", "valid.bin", "manifest.json", "tokenizer.json"])
def test_a_damaged_entry_of_the_cache_is_named_and_prepared_again(text, cache, file, capsys):
    first = from_text(text, tokenizer="bpe:300")
    train, path = first.train.tolist(), folder_of(first) / file
    os.truncate(path, path.stat().st_size - 2)
    with pytest.raises(InputError, match=rf"{file}.*: delete .* and prepare the corpus again"):
        load(folder_of(first))
    second = from_text(text, tokenizer="bpe:300")
    assert file in capsys.readouterr().err
    assert (second.digest, second.folder) == (first.digest, first.folder)
    assert second.train.tolist() == train
    assert not list(cache.glob("*.partial"))


def test_a_damaged_tokenizer_is_learned_again(text, cache, capsys):
    first = from_text(text, tokenizer="bpe:300")
    (learned,) = cache.glob("bpe-*/tokenizer.json")
    os.truncate(learned, 100)
    assert from_text(text, tokenizer="bpe:300").digest == first.digest
    assert "learned again" in capsys.readouterr().err


def test_another_tokenizer_in_the_cache_is_noticed(text, capsys):
    first = from_text(text, tokenizer="bpe:300")
    save_tokenizer(ByteTokenizer(), first.folder)
    assert from_text(text, tokenizer="bpe:300").digest == first.digest
    assert "packed with another tokenizer" in capsys.readouterr().err


def test_what_is_in_the_place_of_an_entry_but_not_ours_stays(text, tmp_path):
    folder = folder_of(from_text(text, tokenizer="byte"))
    (folder / "notes.txt").write_text("mine")
    (folder / "manifest.json").write_text("")
    with pytest.raises(InputError, match="no folder of prepared text"):
        from_text(text, tokenizer="byte")
    assert (folder / "notes.txt").read_text() == "mine"
    folder.rename(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "notes.txt").unlink()
    folder.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InputError, match="no folder of prepared text"):
        from_text(text, tokenizer="byte")
    assert (tmp_path / "elsewhere" / "train.bin").exists()


def test_the_cache_holds_other_things_too(text, cache):
    """A folder and a file of the user's own, whose names look like unfinished preparations."""
    (cache / "thesis.partial").mkdir(parents=True)
    (cache / "thesis.partial" / "chapter.tex").write_text("mine")
    (cache / "download.partial").write_text("x")
    for path in (cache / "thesis.partial" / "chapter.tex", cache / "thesis.partial"):
        os.utime(path, (0, 0))
    from_text(text, tokenizer="byte")
    assert (cache / "thesis.partial" / "chapter.tex").read_text() == "mine"
    assert (cache / "download.partial").read_text() == "x"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("damaged", [False, True])
def test_several_processes_prepare_one_text(text, cache, damaged):
    if damaged:
        os.truncate(folder_of(from_text(text, tokenizer="byte")) / "train.bin", 3)
    children = []
    for _ in range(4):
        children.append(os.fork())
        if children[-1] == 0:
            code = 9
            try:
                code = 0 if len(from_text(text, tokenizer="byte", quiet=True).train) else 8
            finally:
                os._exit(code)
    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0] * 4
    assert len(list(cache.iterdir())) == 1


def test_texts_without_enough_documents(tmp_path, text):
    empty = write(tmp_path / "empty.txt", ["", " \n"])
    for tokenizer in ("byte", "bpe:300"):
        with pytest.raises(InputError, match=r"empty\.txt holds no text"):
            from_text(empty, tokenizer=tokenizer)
    with pytest.raises(InputError, match=r"empty\.txt holds no text"):
        from_text(text, empty, tokenizer="byte")
    one = write(tmp_path / "one.txt", ["One story.\n\nIn two parts."])
    with pytest.raises(InputError, match=r"1 document.*blank lines"):
        from_text(one, tokenizer="byte")


def test_wrong_input_leaves_no_trace(text, cache):
    for options in ({"tokenizer": "bpe:20"}, {"tokenizer": "bbpe"}, {"valid_fraction": 2.0}):
        with pytest.raises(InputError):
            from_text(text, **options)
    with pytest.raises(InputError, match="no such file"):
        from_text("absent.txt")
    assert not cache.exists()


def test_where_the_cache_is(tmp_path, cache, monkeypatch):
    assert cache_folder() == cache
    assert cache_folder(tmp_path) == tmp_path
    monkeypatch.delenv("SYMPFORMER_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache/sympformer"


def test_a_user_without_a_home(monkeypatch):
    def nowhere(self):
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("SYMPFORMER_CACHE")
    monkeypatch.setattr("pathlib.Path.expanduser", nowhere)
    with pytest.raises(InputError, match="set SYMPFORMER_CACHE"):
        cache_folder()


def test_fables_know_their_floor(cache):
    corpus = fables(train_tokens=3000, valid_tokens=1000)
    assert len(corpus.train) == 3000
    assert corpus.floor is not None
    assert corpus.valid.shape == corpus.floor.shape == (1000,)
    assert corpus.floor.dtype == np.float32
    assert (corpus.floor >= 0).all()
    assert 0.1 < corpus.floor.mean() < np.log(corpus.tokenizer.vocab_size)
    assert corpus.train.max() < corpus.tokenizer.vocab_size
    assert load_tokenizer(corpus.folder).digest == corpus.tokenizer.digest
    assert [path.parent for path in corpus.folder.iterdir()] == [corpus.folder] * 5

    again = fables(train_tokens=3000, valid_tokens=1000)
    assert again.folder == corpus.folder
    other = fables(seed=1, train_tokens=3000, valid_tokens=1000)
    assert other.digest != corpus.digest


def test_fables_train_and_validate_on_different_streams():
    corpus = fables(train_tokens=1000, valid_tokens=1000)
    assert not np.array_equal(corpus.train, corpus.valid)


def test_empty_or_endless_fables_are_refused(cache):
    for options in ({"train_tokens": 0}, {"valid_tokens": 0}, {"train_tokens": -1}):
        with pytest.raises(InputError, match="at least 1"):
            fables(**options)
    for options in ({"train_tokens": 10**20}, {"valid_tokens": 10**400}):
        with pytest.raises(InputError, match="has room for"):
            fables(**options)
    assert not list(cache.iterdir())


def test_summary_and_preview(text):
    corpus = from_text(text, tokenizer="byte")
    result = json.loads(json.dumps(summary(corpus)))
    assert sum(result["documents"].values()) == 200
    assert result["tokens"] == {"train": len(corpus.train), "valid": len(corpus.valid)}
    assert result["vocab_size"] == 257
    assert result["folder"] == str(corpus.folder)
    assert result["floor"] is None
    assert preview(corpus, 40).startswith("Once upon a time there were")

    told = fables(train_tokens=1000, valid_tokens=1000)
    assert summary(told)["floor"] == pytest.approx(told.floor.mean(dtype=float))
