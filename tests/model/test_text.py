"""Text from a model: pieces that join to the whole, whatever the tokenizer."""

import pytest
import tokenizers
import torch
from tokenizers import decoders, models, pre_tokenizers

import sympformer as sf
from sympformer import InputError
from sympformer.data.fables import FablesTokenizer
from sympformer.data.tokenizer import ByteTokenizer, SubwordTokenizer, train_bpe
from sympformer.model import generation
from sympformer.model.text import (
    continue_text,
    continue_texts,
    decode_stream,
    sample_text,
    stream_text,
)

TEXT = "Ünïcödé: 你好, 👩‍🚀 — naïve “quotes”\n"


@pytest.fixture(params=["byte", "bpe"])
def tokenizer(request):
    return ByteTokenizer() if request.param == "byte" else train_bpe([TEXT] * 3, 280)


@pytest.fixture
def model(tiny, tokenizer):
    return sf.build(tiny("symp-r2", vocab_size=tokenizer.vocab_size, block_size=64))


def test_characters_come_whole(tokenizer):
    ids = tokenizer.encode(TEXT)
    for n in (0, 3, len(ids)):
        pieces = list(decode_stream(tokenizer, ids[:n], iter(ids[n:])))
        assert "".join(pieces) == TEXT
        assert not any("\ufffd" in piece for piece in pieces)
        assert len(pieces) > len(ids[n:]) / 4, "as they come, not at the end"


def test_what_is_no_character_is_shown_in_the_end():
    broken = [*b"a", 0xE4, 0xBD, *b"b", 0xE4]
    assert "".join(decode_stream(ByteTokenizer(), [], iter(broken))) == "a\ufffdb\ufffd"


def test_the_end_of_the_document_ends_the_text(tokenizer):
    ids = tokenizer.encode("abc")
    assert "".join(decode_stream(tokenizer, ids, iter([*ids, tokenizer.eos, *ids]))) == "abcabc"


class Counting:
    """A tokenizer that counts the tokens that it decodes."""

    def __init__(self, tokenizer):
        self.tokenizer, self.decoded = tokenizer, 0
        self.eos, self.vocab_size = tokenizer.eos, tokenizer.vocab_size

    def encode(self, text):
        return self.tokenizer.encode(text)

    def decode(self, ids):
        self.decoded += len(ids)
        return self.tokenizer.decode(ids)


def library(model, pre_tokenizer=None, decoder=None):
    made = tokenizers.Tokenizer(model)
    if pre_tokenizer is not None:
        made.pre_tokenizer = pre_tokenizer
    if decoder is not None:
        made.decoder = decoder
    return SubwordTokenizer(made.to_str())


def foreign(kind):
    """Tokenizers whose decoded words depend on their place in a text."""
    words = [
        "[UNK]",
        "<|endoftext|>",
        "un",
        "##aff",
        "##able",
        "cat",
        "the",
        "a",
        ".",
        "##s",
        "n't",
    ]
    if kind == "WordLevel":
        return library(models.WordLevel({w: i for i, w in enumerate(words)}, "[UNK]"))
    if kind == "WordPiece":
        pieces = models.WordPiece({w: i for i, w in enumerate(words)})
        return library(pieces, pre_tokenizers.BertPreTokenizer(), decoders.WordPiece())
    scores = [
        (w, -1.0 - i) for i, w in enumerate(["<unk>", "<|endoftext|>", "▁", "▁the", "▁cat", "s"])
    ]
    if kind == "Unigram":
        return library(models.Unigram(scores, 0), pre_tokenizers.Metaspace(), decoders.Metaspace())
    scores += [(f"<0x{byte:02X}>", -20.0) for byte in range(256)]
    fallback = models.Unigram(scores, 0, byte_fallback=True)
    steps = [decoders.ByteFallback(), decoders.Metaspace()]
    return library(fallback, pre_tokenizers.Metaspace(), decoders.Sequence(steps))


@pytest.mark.parametrize("kind", ["WordLevel", "WordPiece", "Unigram", "fallback", "byte", "bpe"])
def test_tokens_are_decoded_a_few_times_each_and_as_in_the_whole(kind):
    text = "the cats the cat. a unaffable cat" if kind == "WordPiece" else "the cat the cats the"
    if kind in ("fallback", "byte", "bpe"):
        text = TEXT.strip() + " the cats the " + "你好" * 9 + "\U0001f642" * 5
    build = {"byte": ByteTokenizer, "bpe": lambda: train_bpe([text] * 3, 280)}
    tokenizer = Counting(build.get(kind, lambda: foreign(kind))())
    ids = [i for _ in range(40) for i in tokenizer.encode(text)]
    whole = tokenizer.decode(ids)
    for n in (0, 1, 7, 600):
        tokenizer.decoded = 0
        pieces = list(decode_stream(tokenizer, ids[:n], iter(ids[n:])))
        assert "".join(pieces) == whole
        assert len(pieces) > (len(ids) - n) / 5, "as they come, not at the end"
        assert tokenizer.decoded < 50 * len(ids) + 20 * n


@pytest.mark.parametrize("seed", range(20))
def test_any_ids_are_decoded_in_time(seed, tokenizer):
    """An untrained model's: mostly no characters at all."""
    random = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, tokenizer.vocab_size, (400,), generator=random)
    if seed % 2:
        ids = ids % 64 + 128 + (1 if tokenizer.vocab_size > 257 else 0)
    ids = ids[ids != tokenizer.eos].tolist()
    counting = Counting(tokenizer)
    n = seed % 3
    assert "".join(decode_stream(counting, ids[:n], iter(ids[n:]))) == tokenizer.decode(ids)
    assert counting.decoded < 120 * len(ids)


def test_ids_beyond_the_tokenizer_are_never_made(tiny):
    """A vocabulary that is rounded up: the fables would refuse to decode them."""
    tokenizer = FablesTokenizer()
    model = sf.build(tiny("gpt", vocab_size=2 * tokenizer.vocab_size))
    with torch.no_grad():
        model.inputs.usual.tokens.weight[tokenizer.vocab_size :] *= 100
    for temperature in (0.0, 2.0):
        assert continue_text(model, tokenizer, "She", temperature=temperature, seed=0)
        assert len(continue_texts(model, tokenizer, ["She", "He"], temperature=temperature)) == 2


def test_a_sample_never_stops_its_caller(model, tokenizer, tiny):
    assert sample_text(model, tokenizer) == continue_text(model, tokenizer, seed=0)
    one = sf.build(tiny("gpt", vocab_size=tokenizer.vocab_size, block_size=1))
    assert "no room" in sample_text(one, tokenizer)

    class Broken(ByteTokenizer):
        def decode(self, ids):
            raise KeyError("unknown")

    assert "KeyError" in sample_text(model, Broken())
    with torch.no_grad():
        model.norm.weight.fill_(float("nan"))
    assert "not finite" in sample_text(model, tokenizer)


@pytest.mark.parametrize("prompt", ["\udcff\udcfe", "a\ud800"])
def test_prompts_that_are_no_text(model, tokenizer, prompt):
    for ask in (continue_text, lambda *given: continue_texts(*given[:2], ["a", given[2]])):
        with pytest.raises(InputError, match="not UTF-8"):
            ask(model, tokenizer, prompt)


def test_fables_keep_their_capitals():
    tokenizer = FablesTokenizer()
    ids = tokenizer.encode("once upon a time")
    text = tokenizer.decode([*ids, *ids])
    assert "".join(decode_stream(tokenizer, ids, iter(ids))) == text


def test_pieces_join_to_the_text(model, tokenizer):
    options = {"max_new_tokens": 20, "seed": 5}
    pieces = list(stream_text(model, tokenizer, "naïve", **options))
    assert pieces[0] == "naïve"
    assert "".join(pieces) == continue_text(model, tokenizer, "naïve", **options)
    ids = model.generate(torch.tensor([tokenizer.encode("naïve")]), 20, 0.8, seed=5)[0].tolist()
    if tokenizer.eos not in ids:
        assert "".join(pieces) == tokenizer.decode(ids)


def test_a_new_document_starts_without_its_mark(model, tokenizer):
    assert "endoftext" not in continue_text(model, tokenizer, max_new_tokens=10, temperature=0)


def test_many_prompts_as_each_alone(model, tokenizer):
    prompts = ["a longer prompt", "b", "naïve"]
    got = continue_texts(model, tokenizer, prompts, max_new_tokens=20, temperature=0)
    alone = [continue_text(model, tokenizer, p, max_new_tokens=20, temperature=0) for p in prompts]
    assert got == alone


def test_no_new_tokens(model, tokenizer):
    assert continue_text(model, tokenizer, "abc", max_new_tokens=0) == "abc"
    assert continue_texts(model, tokenizer, ["abc", "d"], max_new_tokens=0) == ["abc", "d"]


@pytest.mark.parametrize(("prompt", "says"), [("", "no tokens"), ("a" * 64, "no room")])
def test_bad_prompts(model, prompt, says):
    with pytest.raises(InputError, match=says):
        stream_text(model, ByteTokenizer(), prompt)
    with pytest.raises(InputError, match=says):
        continue_texts(model, ByteTokenizer(), ["b", prompt])


def test_compiled_steps_give_the_same_text(model, tokenizer, monkeypatch):
    steps = []
    monkeypatch.setattr(
        generation, "_compiled_step", lambda *given: steps.append(1) or generation._step(*given)
    )
    options = {"max_new_tokens": 5, "temperature": 0.0}
    for form, prompt in ((continue_text, "The fox"), (continue_texts, ["The fox", "A"])):
        plain = form(model, tokenizer, prompt, **options)
        assert not steps
        assert form(model, tokenizer, prompt, **options, compile=True) == plain
        assert steps
        steps.clear()
