"""The fables: their floor, their English, and what makes them a fair corpus."""

import hashlib
import math
import re
from itertools import islice

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sympformer.data.fables import (
    FablesTokenizer,
    entropy_rate,
    grammar,
    stories,
    stream,
    vocabulary,
)
from sympformer.data.grammar import END
from sympformer.errors import InputError

TOKENIZER = FablesTokenizer()
# SHA-256 of the first 1000 tokens of seed 0, little-endian
GOLDEN = "1e620285422c0af67a7703369b0f7d4258c09d64e810fc479dcdd85de599b7ff"
TOYS = {"kite", "balloon", "flag", "plane", "boat", "ship", "raft", "doll", "train", "robot"}


@pytest.fixture(scope="module")
def valid():
    return stream(100_000, seed=1, with_floor=True)


@pytest.fixture(scope="module")
def train():
    return stream(300_000, seed=0)


def split(valid):
    """(tokens, floor) of each whole story, its end included."""
    ends = np.flatnonzero(valid.tokens == TOKENIZER.eos) + 1
    return list(
        zip(np.split(valid.tokens, ends)[:-1], np.split(valid.floor, ends)[:-1], strict=True)
    )


def test_story_lengths_are_bounded_by_the_grammar(valid):
    assert grammar().shortest >= 60
    assert grammar().longest <= 250
    for tokens, _ in split(valid):
        assert grammar().shortest <= len(tokens) - 1 <= grammar().longest


def test_a_few_hundred_words(train):
    words = vocabulary()
    assert words[0] == END
    assert len(set(words)) == len(words)
    assert 250 <= len(words) <= 500
    assert set(train.tokens.tolist()) == set(range(len(words)))


def test_choice_in_a_story(valid):
    bits = np.array([floor.sum(dtype=np.float64) for _, floor in split(valid)]) / math.log(2)
    assert bits.min() > 60
    assert 100 < bits.mean() < 140


def test_the_floor_agrees_with_the_entropy_rate(valid):
    rate, error = entropy_rate(n_stories=500, seed=7)
    floors = [floor for _, floor in split(valid)]
    deviations = [floor.sum() - rate * len(floor) for floor in floors]
    error_here = np.std(deviations) * math.sqrt(len(floors)) / sum(map(len, floors))
    assert error_here < 0.003
    assert abs(valid.floor.mean() - rate) < 4 * math.hypot(error, error_here)
    assert 0.79 < rate < 1.3


def test_the_floor_is_the_entropy_of_the_next_token(valid):
    """Surprise less entropy is a martingale difference exactly if the samples follow the floor."""
    differences = []
    for tokens, floor in split(valid)[:6]:
        story = [vocabulary()[number] for number in tokens]
        for position, surprise in enumerate(floor):
            p = np.array(list(grammar().next_distribution(story[:position]).values()))
            assert abs(p.sum() - 1) < 1e-12
            differences.append(surprise + (p * np.log(p)).sum())
    error = np.std(differences) / math.sqrt(len(differences))
    assert error < 0.06
    assert abs(np.mean(differences)) < 4 * error


def test_bigrams_stay_far_above_the_floor(train, valid):
    size = TOKENIZER.vocab_size
    pairs = train.tokens[:-1].astype(np.int64) * size + train.tokens[1:]
    counts = np.bincount(pairs, minlength=size * size).reshape(size, size)
    unigram = (np.bincount(train.tokens, minlength=size) + 1) / (len(train.tokens) + size)
    bigram = (counts + 5 * unigram) / (counts.sum(1, keepdims=True) + 5)
    previous, following = valid.tokens[:-1], valid.tokens[1:]
    bigram_loss = -np.log(bigram[previous, following]).mean()
    unigram_loss = -np.log(unigram[following]).mean()
    assert unigram_loss > bigram_loss > valid.floor.mean() + 0.3


def test_remembering_the_story_pays(valid):
    """The hero's name is a surprise the first time only."""
    first, later = [], []
    for tokens, floor in split(valid):
        words = [vocabulary()[number] for number in tokens]
        hero = next(word for word in words if word[0].isupper())
        surprises = [s for word, s in zip(words, floor, strict=True) if word == hero]
        first.append(surprises[0])
        later += surprises[1:]
    assert np.mean(first) > 2
    assert np.mean(later) < np.mean(first) - 1.5
    assert len(later) > 2 * len(first)


def test_only_the_lost_toy_can_be_found(valid):
    checked = 0
    for tokens, _ in split(valid)[:120]:
        words = [vocabulary()[number] for number in tokens]
        mentions = [position for position, word in enumerate(words) if word in TOYS]
        if len(mentions) < 2:
            continue
        toy = words[mentions[0]]
        assert {words[position] for position in mentions} == {toy}
        words[mentions[-1]] = next(iter(TOYS - {toy}))
        assert grammar().log_probs(words)[mentions[-1]] == -np.inf
        checked += 1
    assert checked > 10


def test_pronouns_agree():
    opening = "once there was a kind {} named {} who loved singing and reading ."
    after_girl = grammar().next_distribution(opening.format("girl", "Lily").split())
    after_boy = grammar().next_distribution(opening.format("boy", "Tom").split())
    assert {"she", "her"} <= after_girl.keys()
    assert {"he", "his"} <= after_boy.keys()
    assert not {"he", "his"} & after_girl.keys()
    assert not {"she", "her"} & after_boy.keys()


def test_streams_share_no_story():
    seeds = [set(map(tuple, islice(stories(seed), 1000))) for seed in range(4)]
    assert len(set.union(*seeds)) == 4 * 1000


def test_a_seed_gives_the_same_tokens_everywhere():
    tokens = stream(1000, seed=0).tokens
    assert tokens.dtype == np.uint16
    assert hashlib.sha256(tokens.astype("<u2").tobytes()).hexdigest() == GOLDEN
    assert TOKENIZER.digest == FablesTokenizer().digest


@pytest.mark.parametrize("n_tokens", [0, 1, 77, 500])
def test_streams_have_the_exact_length_and_begin_alike(n_tokens):
    long, short = stream(500, 5, with_floor=True), stream(n_tokens, 5, with_floor=True)
    assert long.floor is not None
    assert short.floor is not None
    np.testing.assert_array_equal(short.tokens, long.tokens[:n_tokens])
    np.testing.assert_array_equal(short.floor, long.floor[:n_tokens])
    assert short.floor.dtype == np.float32
    assert stream(n_tokens, 5).floor is None
    assert (short.floor >= 0).all()


def test_negative_numbers_are_refused():
    with pytest.raises(InputError, match="number of tokens"):
        stream(-1, seed=0)
    with pytest.raises(InputError, match="seed"):
        stream(10, seed=-1)


def test_text_is_english(valid):
    text = TOKENIZER.decode(valid.tokens)
    assert text.splitlines()[1::2] == [END] * text.count(END)
    for story in text.splitlines()[:-1:2]:
        assert not re.search(r" [,.!?”]|“ |  | 's|\ba [aeiou]", story)
        assert re.fullmatch(r"[A-Z“].*[.”]", story)
        assert story.count("“") == story.count("”")
        assert not re.search(r"\. [a-z]|“[a-z]|”[A-Za-z]", story)
        assert not re.search(r"\b(\w+) \1\b", story)


def test_text_round_trip(valid):
    text = TOKENIZER.decode(valid.tokens)
    assert TOKENIZER.encode(text) == valid.tokens.tolist()
    assert TOKENIZER.decode(TOKENIZER.encode(text)) == text


@given(st.lists(st.integers(0, TOKENIZER.vocab_size - 1)))
def test_any_ids_round_trip(ids):
    assert TOKENIZER.encode(TOKENIZER.decode(ids)) == ids


def test_rendering():
    text = "“Where is my kite?” asked Lily. “I will help you.” She ran to Anna's house.\n" + END
    assert TOKENIZER.decode(TOKENIZER.encode(text)) == text
    assert TOKENIZER.encode("Once") == TOKENIZER.encode("once")


def test_unknown_words_are_named():
    with pytest.raises(InputError, match=r"'zebra', '7', 'boxes'; .*vocabulary") as caught:
        TOKENIZER.encode("Lily saw a zebra and 7 boxes? A zebra!")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("number", [-1, len(vocabulary()), 50_000])
def test_unknown_ids_are_refused(number):
    with pytest.raises(InputError, match=str(number)):
        TOKENIZER.decode([1, number])
