"""Texts, differences, pairs and last words: models whose probabilities are known."""

import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import sympformer as sf
from sympformer import evaluation
from sympformer.data.tokenizer import ByteTokenizer
from sympformer.errors import InputError
from sympformer.evaluation.intervals import ratio, share
from sympformer.evaluation.text import encoded

TOKENIZER = ByteTokenizer()


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    options = {"n_layer": 1, "n_head": 2, "n_embd": 16, "block_size": 32}
    return sf.build(sf.ModelConfig.preset("gpt", vocab_size=257, **options))


@pytest.fixture(scope="module")
def certain(model):
    """It expects the next byte of the alphabet, after `!` a space and after that `a`, with
    probability close to 1.
    """
    following = torch.arange(1, 258) % 257
    following[ord("!")], following[ord(" ")] = ord(" "), ord("a")

    class Next(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = torch.nn.Parameter(torch.tensor(9.0))
            self.config = model.config

        def forward(self, tokens, targets=None):
            logits = self.scale * torch.nn.functional.one_hot(following[tokens], 257).float()
            return SimpleNamespace(logits=logits)

    return Next()


DOCUMENTS = ["abcdef", "a b", "ä", "xyz" * 30]


def test_a_text(model):
    scores = evaluation.score_text(model, TOKENIZER, DOCUMENTS, context=16, stride=5)
    expected = evaluation.score(
        model, [encoded(TOKENIZER, d, closed=True) for d in DOCUMENTS], context=16, stride=5
    )
    assert scores.tokens.tolist() == [7, 4, 3, 91]
    assert scores.bytes.tolist() == [6, 3, 2, 90]
    np.testing.assert_allclose(scores.nats, [s.nats.sum() for s in expected])
    found = scores.summary()
    mean = scores.nats.sum() / 105
    assert found["nats_per_token"]["value"] == pytest.approx(mean)
    assert found["perplexity"]["value"] == pytest.approx(math.exp(mean))
    bits = scores.nats.sum() / math.log(2) / 101
    assert found["bits_per_byte"]["value"] == pytest.approx(bits)
    assert found["bits_per_byte"]["low"] < bits < found["bits_per_byte"]["high"]
    assert (found["documents"], found["tokens"], found["bytes"]) == (4, 105, 101)
    rows = found["by_position"]
    assert [(r["from"], r["to"]) for r in rows] == [
        (1, 1), (2, 3), (4, 7), (8, 15), (16, 31), (32, 63), (64, 91),
    ]  # fmt: skip
    assert sum(r["tokens"] for r in rows) == 105
    total = sum(r["tokens"] * r["nats_per_token"] for r in rows)
    assert total == pytest.approx(scores.nats.sum())
    assert json.loads(json.dumps(found)) == found


def test_the_same_whatever_the_group(model, monkeypatch):
    whole = evaluation.score_text(model, TOKENIZER, DOCUMENTS)
    monkeypatch.setattr(evaluation.text, "GROUP", 2)
    seen = []
    parts = evaluation.score_text(model, TOKENIZER, iter(DOCUMENTS), progress=seen.append)
    np.testing.assert_allclose(parts.nats, whole.nats, rtol=1e-6)
    assert seen == [2, 2]
    with pytest.raises(InputError, match="no document"):
        evaluation.score_text(model, TOKENIZER, [])


def test_intervals():
    """Coverage: of a hundred samples, about 95 intervals hold the truth."""
    random, held = np.random.default_rng(0), 0
    for i in range(100):
        below = random.integers(5, 20, size=60).astype(float)
        above = below * (2 + random.standard_normal(60) / 2)
        low, high = ratio(above, below, seed=i)[1:]
        held += low < 2 < high
    assert 88 <= held <= 100
    assert ratio(np.array([3.0]), np.array([2.0]))[0] == 1.5
    assert math.isnan(ratio(np.array([3.0]), np.array([2.0])).low)
    assert share(8, 10).value == 0.8
    assert share(8, 10).low == pytest.approx(0.4902, abs=1e-4)  # Wilson 1927
    assert share(8, 10).high == pytest.approx(0.9433, abs=1e-4)


def test_a_difference(model):
    one = evaluation.score_text(model, TOKENIZER, DOCUMENTS)
    same = evaluation.compare_texts(one, one)
    assert same.bits_per_byte == (0, 0, 0)
    assert same.wilcoxon == 1
    assert same.better.value == 0.5
    many = [f"{i} {i * i}" for i in range(60)]
    torch.manual_seed(1)
    other = sf.build(model.config)
    a, b = (evaluation.score_text(m, TOKENIZER, many) for m in (model, other))
    ab, ba = evaluation.compare_texts(a, b), evaluation.compare_texts(b, a)
    expected = (a.nats.sum() - b.nats.sum()) / math.log(2) / a.bytes.sum()
    assert ab.bits_per_byte.value == pytest.approx(expected)
    assert ab.bits_per_byte.value == pytest.approx(-ba.bits_per_byte.value)
    assert ab.wilcoxon == ba.wilcoxon < 1
    with pytest.raises(InputError, match="other documents"):
        evaluation.compare_texts(one, a)


def test_minimal_pairs(certain, tmp_path):
    """The model counts on: `abc` is likelier than `acb`; a tie is not right."""
    rows = [
        {"sentence_good": "abcd", "sentence_bad": "acbd", "UID": "order"},
        {"sentence_good": "acbd", "sentence_bad": "abcd", "UID": "order"},
        {"sentence_good": "xyz", "sentence_bad": "xzz", "UID": "other"},
        {"sentence_good": "same", "sentence_bad": "same", "UID": "other"},
    ]
    file = tmp_path / "pairs.jsonl"
    lines = "\r\n".join(map(json.dumps, rows))
    file.write_text(f"\ufeff{lines}\r\n\r\n", encoding="utf-8")  # as some editors leave it
    found = evaluation.minimal_pairs(certain, TOKENIZER, evaluation.read_pairs(file))
    assert found.right == (True, False, True, False)
    summary = found.summary()
    assert summary["accuracy"]["value"] == 0.5
    assert {kind: row["value"] for kind, row in summary["kinds"].items()} == {
        "order": 0.5,
        "other": 0.5,
    }
    with pytest.raises(InputError, match="pair 1 has 40 tokens, and the model reads 32"):
        evaluation.minimal_pairs(certain, TOKENIZER, [evaluation.Pair("a" * 40, "b")])


def test_last_words(certain, tmp_path):
    passages = ["hi abc", "hi acb", "one two three abcd", "z" * 50 + " abc"]
    file = tmp_path / "passages.jsonl"
    file.write_text("\n".join(json.dumps({"text": text}) for text in passages))
    assert evaluation.read_passages(file) == passages
    plain = tmp_path / "passages.txt"
    plain.write_text("\n\n".join(passages))
    assert evaluation.read_passages(plain) == passages
    separated = "one\u2028line\u0085still"
    file.write_text(json.dumps({"text": separated}, ensure_ascii=False), encoding="utf-8")
    assert evaluation.read_passages(file) == [separated]
    found = evaluation.last_words(certain, TOKENIZER, passages)
    assert found.tokens.tolist() == [4, 4, 5, 4]  # the space before is a byte of the word
    assert not found.right.any()  # which nothing announces
    counted = evaluation.last_words(certain, TOKENIZER, ["hi! abc\n"])
    assert counted.right.tolist() == [True]
    assert counted.summary()["accuracy"]["value"] == 1
    with pytest.raises(InputError, match="passage 2 has a single word"):
        evaluation.last_words(certain, TOKENIZER, ["a b", "word"])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "holds nothing"),
        ("[1]", "line 1 of .* is no JSON object"),
        ('{"sentence_good": "a"}', "no 'sentence_good' and 'sentence_bad'"),
        ("{", "line 1 of .* is no JSON object"),
    ],
)
def test_files_of_another_kind(content, message, tmp_path):
    file = tmp_path / "f.jsonl"
    file.write_text(content)
    with pytest.raises(InputError, match=message):
        evaluation.read_pairs(file)
    with pytest.raises(InputError, match=r"cannot read .*: No such file"):
        evaluation.read_passages(tmp_path / "absent")


def test_classes_of_tokens(certain):
    """Tokens that the rules determine are what a model that knows them has no loss of."""
    stream = np.array([65, 66, 67, 9, 10, 3, 4] * 4, np.int64)
    floor = np.where(np.diff(stream, prepend=0) == 1, 0.0, 1.5)
    blocks = [
        (
            torch.from_numpy(stream[None, i : i + 8]),
            torch.from_numpy(stream[None, i + 1 : i + 9]),
            np.arange(i + 1, i + 9)[None],
        )
        for i in (0, 8, 16)
    ]
    found = evaluation.token_classes(certain, blocks, floor)
    assert found["determined"]["tokens"] + found["free"]["tokens"] == 24
    assert found["determined"]["loss"] < 0.05 < 5 < found["free"]["loss"]
    assert found["free"]["floor"] == 1.5
