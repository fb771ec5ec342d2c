"""The grammar against enumerations of all its texts that do not use it."""

import math
import random
from collections import Counter
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sympformer.data.grammar import END, Grammar
from sympformer.errors import InputError

TALE = """
tale:                                # a comment
    2 <hero=girl> lost {hero.her} <toy=toy> . <weep> <friend=girl> found the {toy} .
    <hero=girl> sang <song-{hero.voice}> <place=place.in> the {place} .
weep:
    -
    3 {hero} wept .
girl: her=her voice=low
    Lily / Mia
    2 Zoe | voice=high
toy:
    kite / red ball
song-low:
    la
song-high:
    li / li la
place:
    park / wood | in=in
    2 hill | in=on
"""


def tale():
    """The distribution of TALE, written out by hand."""
    girls = {"Lily": (1, "low"), "Mia": (1, "low"), "Zoe": (2, "high")}
    places = {"park": (1, "in"), "wood": (1, "in"), "hill": (2, "on")}
    for hero, (weight, voice) in girls.items():
        p = weight / 4
        others = {name: w for name, (w, _) in girls.items() if name != hero}
        for toy, (weep, p_weep), (friend, w) in product(
            ("kite", "red ball"), (("", 1 / 4), (f"{hero} wept .", 3 / 4)), others.items()
        ):
            text = f"{hero} lost her {toy} . {weep} {friend} found the {toy} ."
            yield text, p * 2 / 3 * p_weep / 2 * w / sum(others.values())
        for song in ("la",) if voice == "low" else ("li", "li la"):
            for place, (w, prefix) in places.items():
                text = f"{hero} sang {song} {prefix} the {place} ."
                yield text, p / 3 * w / 4 / (1 if voice == "low" else 2)


AMBIGUOUS = """
s:
    <det> cat sat
    the cat <verb>
    2 the <pet=animal> ran
    <det> <det> cat ran
det:
    the / a / -
verb:
    sat / ran / ran away
animal:
    cat / dog
"""


def ambiguous():
    """The distribution of AMBIGUOUS, one entry for each derivation."""
    dets = ("the", "a", "")
    for det in dets:
        yield f"{det} cat sat", 1 / 5 / 3
        for other in dets:
            yield f"{det} {other} cat ran", 1 / 5 / 9
    for verb in ("sat", "ran", "ran away"):
        yield f"the cat {verb}", 1 / 5 / 3
    for animal in ("cat", "dog"):
        yield f"the {animal} ran", 2 / 5 / 2


def check_exact(grammar, derivations):
    """All conditional probabilities agree with sums over `derivations`, (tokens, p) pairs."""
    texts, prefixes = Counter(), Counter()
    for tokens, p in derivations:
        texts[tokens] += p
        for length in range(len(tokens) + 1):
            prefixes[tokens[:length]] += p
    assert math.isclose(sum(texts.values()), 1, abs_tol=1e-12)
    for tokens, p in texts.items():
        log_probs = grammar.log_probs(tokens)
        assert abs(log_probs.sum() - math.log(p)) < 1e-12
        for position, log_prob in enumerate(log_probs):
            ratio = prefixes[tokens[: position + 1]] / prefixes[tokens[:position]]
            assert abs(log_prob - math.log(ratio)) < 1e-12
    for prefix, mass in prefixes.items():
        expected = {
            longer[-1]: p / mass
            for longer, p in prefixes.items()
            if longer[:-1] == prefix and len(longer) == len(prefix) + 1
        }
        distribution = grammar.next_distribution(prefix)
        assert distribution.keys() == expected.keys()
        assert all(abs(distribution[token] - p) < 1e-12 for token, p in expected.items())
        if prefix[-1:] != (END,):
            assert abs(sum(distribution.values()) - 1) < 1e-12
    lengths = [len(tokens) - 1 for tokens in texts]
    assert grammar.shortest <= min(lengths)
    assert grammar.longest >= max(lengths)
    assert set(grammar.vocabulary) == {token for tokens in texts for token in tokens} - {END}


def spell(derivations):
    return [((*text.split(), END), p) for text, p in derivations]


@pytest.mark.parametrize(
    ("text", "start", "derivations"),
    [(TALE, "tale", tale), (AMBIGUOUS, "s", ambiguous)],
    ids=["variables", "ambiguous"],
)
def test_every_probability_is_exact(text, start, derivations):
    check_exact(Grammar(text, start), spell(derivations()))


@st.composite
def plain_rules(draw):
    """Rules 0, 1, 2, 3 over two letters, each using only later ones: very ambiguous."""
    rules = {}
    for name in range(4):
        items = ["a", "b", *range(name + 1, 4)]
        body = st.lists(st.sampled_from(items), max_size=3)
        rules[name] = draw(st.lists(st.tuples(st.integers(1, 3), body), min_size=1, max_size=3))
    return rules


def expand(rules, items):
    if not items:
        return [((), 1.0)]
    first, *rest = items
    if isinstance(first, str):
        heads = [((first,), 1.0)]
    else:
        total = sum(weight for weight, _ in rules[first])
        heads = [
            (tokens, p * weight / total)
            for weight, body in rules[first]
            for tokens, p in expand(rules, body)
        ]
    tails = expand(rules, rest)
    return [(head + tail, p * q) for head, p in heads for tail, q in tails]


@settings(max_examples=40, deadline=None)
@given(plain_rules())
def test_random_grammars_are_exact(rules):
    derivations = expand(rules, [0])
    if len(derivations) > 2000:
        return
    text = ""
    for name, alternatives in rules.items():
        text += f"rule{name}:\n"
        for weight, body in alternatives:
            items = [item if isinstance(item, str) else f"<rule{item}>" for item in body]
            text += f"    {weight} {' '.join(items) or '-'}\n"
    grammar = Grammar(text, "rule0")
    check_exact(grammar, [((*tokens, END), p) for tokens, p in derivations])
    lengths = [len(tokens) for tokens, _ in derivations]
    assert (grammar.shortest, grammar.longest) == (min(lengths), max(lengths))


@pytest.mark.parametrize(
    ("text", "start", "derivations"),
    [(TALE, "tale", tale), (AMBIGUOUS, "s", ambiguous)],
    ids=["variables", "ambiguous"],
)
def test_samples_follow_the_distribution(text, start, derivations):
    expected = Counter()
    for tokens, p in spell(derivations()):
        expected[tokens] += p
    grammar, rng, n = Grammar(text, start), random.Random(1), 20_000
    counts = Counter(tuple(grammar.sample(rng)) for _ in range(n))
    assert counts.keys() <= expected.keys()
    for tokens, p in expected.items():
        assert abs(counts[tokens] - n * p) < 5 * math.sqrt(n * p * (1 - p))


def test_equal_states_merge():
    """Each text has 3^60 derivations: without merging this would never end."""
    grammar = Grammar("s:\n" + "    " + "<x> " * 60 + "\nx:\n    a / a / <y> / b\ny:\n    a\n", "s")
    log_probs = grammar.log_probs(["a"] * 60)
    np.testing.assert_allclose(log_probs, math.log(3 / 4), atol=1e-12)


def test_impossible_tokens():
    grammar = Grammar(AMBIGUOUS, "s")
    log_probs = grammar.log_probs(["the", "cat", "flew", "away", END])
    assert np.isfinite(log_probs[:2]).all()
    assert (log_probs[2:] == -np.inf).all()
    assert grammar.next_distribution(["the", "fish"]) == {}
    assert grammar.next_distribution(["cat", "sat", END]) == {}


def test_a_value_is_not_drawn_twice():
    grammar = Grammar("s:\n    <one=x> <two=x> <three=x>\nx:\n    a / b / c d\n", "s")
    rng = random.Random(0)
    texts = {" ".join(grammar.sample(rng)[:-1]) for _ in range(200)}
    assert len(texts) == 6
    assert all(sorted(text.split()) == ["a", "b", "c", "d"] for text in texts)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("    a\n", "line 1 .* neither a rule nor an alternative"),
        ("s:\n  a | b\n", "line 2 .* neither a rule nor an alternative"),
        ("s:\n  <a b>\n", "line 2 .*cannot read <a b>"),
        ("s:\n  {a\n", "line 2 .*cannot read {"),
        ("s:\n  a <t>\n", "no alternatives for t"),
        ("s:\n  a <t>\nt:\n", "no alternatives for t"),
        ("s:\n  a <t>\nt:\n  b / <s>\n", "calls itself"),
        ("s:\n  a {t}\n", "never draws"),
        ("s:\n  <t=t> {t.x}\nt:\n  b | x=y\n  c\n", "'c'.* has no x"),
        ("s:\n  <t=t>\nt:\n  b <u>\nu:\n  c\n", "not plain words"),
        ("s:\n  <t=t> <u-{t}>\nt:\n  b / c\nu-b:\n  d\n", "no alternatives for u-c"),
    ],
)
def test_rules_that_make_no_sense_are_refused(text, message):
    with pytest.raises(InputError, match=message):
        Grammar(text, "s")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("s:\n  {t} <t=t>\nt:\n  b\n", "says t before it draws it"),
        ("s:\n  <t=t> <u=t>\nt:\n  b\n", "used up"),
    ],
)
def test_orders_that_make_no_sense_are_refused(text, message):
    grammar = Grammar(text, "s")
    with pytest.raises(InputError, match=message):
        grammar.sample(random.Random(0))
    with pytest.raises(InputError, match=message):
        grammar.log_probs(["b", "b"])
