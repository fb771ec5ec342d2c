import json

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import decoders, models, pre_tokenizers

from sympformer.data import tokenizer as module
from sympformer.data.tokenizer import (
    ByteTokenizer,
    SubwordTokenizer,
    encode_batch,
    load_tokenizer,
    save_tokenizer,
    train_bpe,
)
from sympformer.errors import InputError

TEXTS = ["Lily had a red cat. The cat had a red hat."] * 20 + ["Größe 🙂"]
BPE = train_bpe(TEXTS, 280)


def gpt2_folder(path):
    """Byte-level BPE in the two files of GPT-2."""
    path.mkdir()
    characters = [*pre_tokenizers.ByteLevel.alphabet(), "he", "hel", "<|endoftext|>"]
    vocabulary = {character: i for i, character in enumerate(characters)}
    (path / "vocab.json").write_text(json.dumps(vocabulary))
    (path / "merges.txt").write_text("#version: 0.2\nh e\nhe l\n")
    return path


@pytest.mark.parametrize("tokenizer", [ByteTokenizer(), BPE], ids=lambda t: t.name)
@given(text=st.text() | st.text(alphabet="<|endoftext> \n\t'llé🙂"))
def test_round_trip(tokenizer, text):
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert all(0 <= i < tokenizer.vocab_size for i in ids)
    assert encode_batch(tokenizer, [text, "x"]) == [ids, tokenizer.encode("x")]


@pytest.mark.parametrize("tokenizer", [ByteTokenizer(), BPE], ids=lambda t: t.name)
def test_only_the_end_of_a_document_is_eos(tokenizer):
    ids = tokenizer.encode("a<|endoftext|>b")
    assert tokenizer.eos not in ids
    assert tokenizer.decode([*tokenizer.encode("a"), tokenizer.eos]) == "a<|endoftext|>"


def test_bytes():
    tokenizer = ByteTokenizer()
    assert tokenizer.encode("aé") == [97, 0xC3, 0xA9]
    assert tokenizer.decode([97, 0xC3]) == "a\ufffd"
    assert tokenizer.decode([97, 300, 98]) == "a\ufffdb"
    assert (tokenizer.vocab_size, tokenizer.eos) == (257, 256)


def test_bpe_learns_what_is_frequent():
    assert BPE.vocab_size == 280
    assert BPE.name == "bpe:280"
    assert len(BPE.encode(" had a red cat")) == 4
    assert len(train_bpe([], 257).encode("abcé")) == 5


def test_bpe_is_as_large_as_its_text_allows():
    assert 257 < train_bpe(["aa aa bb"], 1000).vocab_size < 270


def test_words_that_nobody_wrote_are_learned_in_parts():
    """Learning takes quadratic time in the length of a word."""
    words = module._short_words("one two " + "a" * 1500 + " three" + "\n" * 600)
    assert [len(word) for word in words] == [8 + 512, 512, 476 + 6 + 512, 88]
    assert "".join(module._short_words("one two")) == "one two"
    assert train_bpe(["ab" * 10_000], 300).encode("ab" * 128) != []


def test_bpe_is_the_same_every_time_and_its_digest_follows_it():
    assert train_bpe(TEXTS, 280).digest == BPE.digest
    assert train_bpe(TEXTS, 279).digest != BPE.digest
    assert train_bpe(TEXTS[:-1] + ["other words"] * 30, 280).digest != BPE.digest


def test_bpe_too_small_or_too_large():
    with pytest.raises(InputError, match="bpe:257"):
        train_bpe(TEXTS, 256)
    with pytest.raises(InputError, match="too large"):
        train_bpe(TEXTS, 10**9)


@pytest.mark.parametrize("name", ["byte", "fables"])
def test_built_in_tokenizers_save_and_load(tmp_path, name):
    tokenizer = load_tokenizer(name)
    save_tokenizer(tokenizer, tmp_path)
    loaded = load_tokenizer(tmp_path)
    assert type(loaded) is type(tokenizer)
    assert (loaded.name, loaded.digest) == (name, tokenizer.digest)
    assert (loaded.vocab_size, loaded.eos) == (tokenizer.vocab_size, tokenizer.eos)


def test_bpe_saves_and_loads(tmp_path):
    save_tokenizer(BPE, tmp_path)
    for source in (tmp_path, str(tmp_path), tmp_path / "tokenizer.json"):
        loaded = load_tokenizer(source)
        assert (loaded.name, loaded.digest, loaded.eos) == (BPE.name, BPE.digest, BPE.eos)
        assert loaded.encode(TEXTS[0]) == BPE.encode(TEXTS[0])
    tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))


def test_gpt2_from_its_two_files(tmp_path):
    tokenizer = load_tokenizer(gpt2_folder(tmp_path / "gpt2"))
    hel = tokenizer.vocab_size - 2
    assert tokenizer.encode("hell hel")[0] == hel
    assert tokenizer.decode(tokenizer.encode(" hello\n\n é")) == " hello\n\n é"
    assert tokenizer.eos == hel + 1
    save_tokenizer(tokenizer, tmp_path)
    assert load_tokenizer(tmp_path).digest == tokenizer.digest


def test_gpt2_by_name(tmp_path, monkeypatch):
    class Hub:
        @staticmethod
        def from_pretrained(name):
            raise OSError(f"no network for {name}")

    monkeypatch.setattr(module.tokenizers, "Tokenizer", Hub)
    with pytest.raises(InputError, match=r"cannot fetch the gpt2 tokenizer.*merges\.txt"):
        load_tokenizer("gpt2")


def test_settings_of_a_foreign_tokenizer_neither_cut_nor_add():
    foreign = tokenizers.Tokenizer(models.WordLevel({"a": 0, "[CLS]": 1, "</s>": 7}, "a"))
    foreign.pre_tokenizer = pre_tokenizers.Whitespace()
    foreign.post_processor = tokenizers.processors.TemplateProcessing(
        single="[CLS] $A", special_tokens=[("[CLS]", 1)]
    )
    foreign.enable_truncation(2)
    foreign.enable_padding(length=9)
    tokenizer = SubwordTokenizer(foreign.to_str())
    assert tokenizer.encode("a a a") == [0, 0, 0]
    assert tokenizer.encode_batch(["a a a", "a"]) == [[0, 0, 0], [0]]
    assert (tokenizer.vocab_size, tokenizer.eos) == (8, 7)


def foreign(kind, unknown="[UNK]"):
    """Tokenizers that know the end of a text as a word of their own."""
    end = "<|endoftext|>"
    words = {"a": 0, "b": 1, end: 2, "[UNK]": 3}
    if kind == "Unigram":
        scores = [("[UNK]", 0.0), (end, -1.0), ("▁a", -2.0), ("a", -3.0), ("▁", -3.0), ("b", -3.0)]
        made = tokenizers.Tokenizer(models.Unigram(scores, 0))
        made.pre_tokenizer, made.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
        return made
    model = models.WordPiece if kind == "WordPiece" else models.WordLevel
    made = tokenizers.Tokenizer(model(words, unk_token=unknown))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if kind == "added":
        made.add_tokens([end])
    return made


@pytest.mark.parametrize("kind", ["WordLevel", "WordPiece", "Unigram", "added"])
def test_the_words_for_the_end_of_a_text_are_words(kind):
    tokenizer = SubwordTokenizer(foreign(kind).to_str())
    for text in ("a b <|endoftext|> a", "<|endoftext|>", "a<|endoftext|>b"):
        ids = tokenizer.encode(text)
        assert ids
        assert tokenizer.eos not in ids
        batch = tokenizer.encode_batch(["a", text, "b"])
        assert batch == [tokenizer.encode("a"), ids, tokenizer.encode("b")]
    assert tokenizer.decode([*tokenizer.encode("a"), tokenizer.eos]).endswith("<|endoftext|>")


def test_unknown_words_are_never_the_end_of_a_text():
    tokenizer = SubwordTokenizer(foreign("WordLevel", unknown="<|endoftext|>").to_str())
    assert tokenizer.encode("a b") == [0, 1]
    for text in ("a c", "<|endoftext|>"):
        with pytest.raises(InputError, match=r"cannot encode|does not know"):
            tokenizer.encode(text)


def test_what_a_tokenizer_cannot_encode():
    tokenizer = SubwordTokenizer(foreign("WordLevel", unknown="absent").to_str())
    for text in ("c", "\udcff"):
        with pytest.raises(InputError, match="cannot encode"):
            tokenizer.encode(text)


def test_what_is_no_tokenizer(tmp_path):
    with pytest.raises(InputError, match=r"no tokenizer 'gtp2': give byte, fables"):
        load_tokenizer("gtp2")
    with pytest.raises(InputError, match="no tokenizer"):
        load_tokenizer(tmp_path)
    path = tmp_path / "tokenizer.json"
    for content in ("", "{", "[]", "{}", "[" * 10**5, BPE.serialized[:-100], '{"sympformer": []}'):
        path.write_text(content)
        with pytest.raises(InputError, match=r"tokenizer\.json"):
            load_tokenizer(tmp_path)


def test_a_built_in_tokenizer_of_another_version_is_refused(tmp_path):
    path = tmp_path / "tokenizer.json"
    for fields in ({"sympformer": "byte", "digest": "old"}, {"sympformer": "new", "digest": ""}):
        path.write_text(json.dumps(fields))
        with pytest.raises(InputError, match="another version"):
            load_tokenizer(path)


def test_a_tokenizer_without_an_end_of_text_is_refused():
    endless = tokenizers.Tokenizer(models.WordLevel({"a": 0}, "a"))
    with pytest.raises(InputError, match="no token that ends a text"):
        SubwordTokenizer(endless.to_str())


def test_damaged_gpt2_files(tmp_path):
    folder = gpt2_folder(tmp_path / "gpt2")
    (folder / "merges.txt").write_text("not merges at all\n")
    with pytest.raises(InputError, match=r"cannot read vocab\.json and merges\.txt"):
        load_tokenizer(folder)
