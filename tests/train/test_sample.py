"""Text from a model: pieces that join to the whole, whatever the tokenizer."""

import pytest
import torch

import sympformer as sf
from sympformer import InputError
from sympformer.data.fables import FablesTokenizer
from sympformer.data.tokenizer import ByteTokenizer, train_bpe
from sympformer.model import generation
from sympformer.train.sample import continue_text, continue_texts, decode_stream, stream_text

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
