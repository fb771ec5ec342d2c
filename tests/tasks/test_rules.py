"""Tasks against solvers of their own: every answer, and every optimum by enumeration."""

from collections import defaultdict
from itertools import permutations, product

import numpy as np
import pytest

from sympformer import InputError
from sympformer.tasks import IGNORED, TASKS, Setting, make_task

TINY = {
    "mqar": {"vocab_size": 8, "train": [[8, 2], [6, 1]], "test": [[8, 2], [12, 3]]},
    "mqar-overwrite": {"vocab_size": 8, "train": [[10, 2]], "test": [[10, 2], [16, 3]]},
    "selective-copying": {"vocab_size": 4, "train": [[6, 2]], "test": [[6, 2], [8, 3]]},
    "induction": {"vocab_size": 4, "train": [5], "test": [5, 9]},
    "noisy-recall": {
        "keys": 2,
        "values": 2,
        "noise_tokens": 1,
        "train": [6],
        "test": [6, 10],
    },
    "parity": {"train": 6, "test": [6, 12]},
    "s3": {"train": 4, "test": [4, 12]},
    "s5": {"train": 4, "test": [4, 12]},
    "a5": {"train": 4, "test": [4, 12]},
}


def mqar(row, task, i):
    """What stands behind the first of the keys."""
    return row[list(row).index(row[i]) + 1]


def overwrite(row, task, i):
    """What last stood behind the key."""
    return row[max(j for j in range(i) if row[j] == row[i]) + 1]


def copying(row, task, i):
    """The letter of as many letters as blanks behind the sign."""
    sign = list(row).index(task.vocab_size - 1)
    return [letter for letter in row[:sign] if letter < task.vocab_size - 2][i - sign - 1]


def induction(row, task, i):
    """What followed the sign."""
    return row[list(row).index(task.vocab_size - 1) + 1]


def noisy(row, task, i):
    """The value that the key had."""
    return mqar(row, task, i)


def words(elements):
    """Compose permutations one after another, as functions on points."""
    numbers = {p: n for n, p in enumerate(elements)}

    def answer(row, task, i):
        points = range(len(elements[0]))
        for number in reversed(row[: i + 1]):
            points = [elements[number][x] for x in points]
        # `a b` is b after a: the last element acts last.
        acted = []
        for x in range(len(elements[0])):
            for number in row[: i + 1]:
                x = elements[number][x]
            acted.append(x)
        return numbers[tuple(acted)]

    return answer


def even(p):
    """By counting cycles of even length."""
    seen, odd = set(), 0
    for start in range(len(p)):
        length, x = 0, start
        while x not in seen:
            seen.add(x)
            x, length = p[x], length + 1
        odd += length > 0 and length % 2 == 0
    return odd % 2 == 0


SOLVERS = {
    "mqar": mqar,
    "mqar-overwrite": overwrite,
    "selective-copying": copying,
    "induction": induction,
    "noisy-recall": noisy,
    "parity": lambda row, task, i: sum(row[: i + 1]) % 2,
    "s3": words(list(permutations(range(3)))),
    "s5": words(list(permutations(range(5)))),
    "a5": words([p for p in permutations(range(5)) if even(p)]),
}


def draws(task, setting, size=300):
    return task.draw(np.random.default_rng(1), size, setting)


def test_every_task_is_solved_here():
    assert TASKS.keys() == SOLVERS.keys() == TINY.keys()


@pytest.mark.parametrize("options", ["tiny", "published"])
@pytest.mark.parametrize("name", SOLVERS)
def test_answers(name, options):
    task = make_task(name, TINY[name] if options == "tiny" else {})
    for setting in {*task.training, *task.testing}:
        batch = draws(task, setting, 300 if options == "tiny" else 4)
        assert batch.tokens.shape == batch.targets.shape == (len(batch.tokens), setting.length)
        assert batch.tokens.dtype == batch.targets.dtype == np.int64
        assert 0 <= batch.tokens.min() <= batch.tokens.max() < task.vocabulary
        assert (batch.targets != IGNORED).any(1).all()
        for row, targets in zip(batch.tokens.tolist(), batch.targets.tolist(), strict=True):
            for i, target in enumerate(targets):
                assert target == IGNORED or target == SOLVERS[name](row, task, i)


@pytest.mark.parametrize("name", SOLVERS)
def test_the_tokens_so_far_decide(name):
    """So the loss of the best model is 0: equal beginnings have equal answers."""
    task = make_task(name, TINY[name])
    answers = defaultdict(set)
    batch = draws(task, task.training[0], 3000)
    for row, targets in zip(batch.tokens.tolist(), batch.targets.tolist(), strict=True):
        for i, target in enumerate(targets):
            if target != IGNORED:
                answers[tuple(row[: i + 1])].add(target)
    assert len(answers) < (batch.targets != IGNORED).sum()  # some beginnings came again
    assert {len(found) for found in answers.values()} == {1}
    counted = batch.targets != IGNORED
    assert not batch.floor[counted].any()
    assert (batch.ceiling[counted] == 1).all()


def test_what_counts():
    """Each key once, every letter, the last place, every product, or those beyond other tests."""
    counts = {
        name: (draws(task, task.testing[-1], 5).targets != IGNORED).sum(1).tolist()
        for name, task in ((name, make_task(name, TINY[name])) for name in TINY)
    }
    assert counts["mqar"] == counts["mqar-overwrite"] == counts["selective-copying"] == [3] * 5
    assert counts["induction"] == [1] * 5
    assert counts["parity"] == [6] * 5
    assert counts["s3"] == counts["s5"] == counts["a5"] == [8] * 5


def test_corrupted_recall_by_enumeration():
    """Sum over all hidden values of all keys, and over what was corrupted."""
    task = make_task("noisy-recall", {**TINY["noisy-recall"], "values": 3, "corruption": 0.3})
    batch = draws(task, Setting(12), 60)
    assert len(set(batch.ceiling.round(6).flatten())) > 3
    for b, i in zip(*np.nonzero(batch.targets != IGNORED), strict=True):
        row = batch.tokens[b]
        pairs = [(row[j], row[j + 1] - 2) for j in range(0, i, 2) if row[j] < 2]
        chances = np.zeros(3)
        for truth in product(range(3), repeat=2):
            likelihood = np.prod([0.7 * (truth[key] == value) + 0.1 for key, value in pairs])
            for answer in range(3):
                chances[answer] += likelihood * (0.7 * (truth[row[i]] == answer) + 0.1)
        chances /= chances.sum()
        assert batch.ceiling[b, i] == pytest.approx(chances.max())
        assert batch.floor[b, i] == pytest.approx(-np.log(chances[batch.targets[b, i] - 2]))


def test_corrupted_recall_is_drawn_as_its_optimum_says():
    """The share of right answers of the best model, and its loss, are what was promised."""
    task = make_task("noisy-recall", {"corruption": 0.3})
    batch = draws(task, Setting(64), 2000)
    counted = batch.targets != IGNORED
    chances, surprise = batch.ceiling[counted], batch.floor[counted]
    clear = chances > 0.5  # there are no ties
    likely = np.exp(-surprise) > 0.5
    assert clear.mean() > 0.5
    assert likely[clear].mean() == pytest.approx(chances[clear].mean(), abs=0.01)
    for low, high in ((0.5, 0.6), (0.6, 0.7)):
        group = (chances > low) & (chances <= high)
        assert likely[group].mean() == pytest.approx(chances[group].mean(), abs=0.02)


def test_gaps_of_queries_follow_the_power_law():
    task = make_task("mqar", {"vocab_size": 64, "train": [[12, 1]], "test": [[12, 1]]})
    places = (draws(task, Setting(12, 1), 20_000).targets != IGNORED).argmax(1)
    expected = np.arange(1, 6) ** (0.01 - 1)
    found = np.bincount(places, minlength=12)[2::2] / 20_000
    np.testing.assert_allclose(found, expected / expected.sum(), atol=0.015)


def test_overwritten_keys_have_another_value():
    task = make_task("mqar-overwrite", {"vocab_size": 32, "train": [[32, 4]], "test": [[32, 4]]})
    for row in draws(task, Setting(32, 4)).tokens.tolist():
        first = {row[i]: row[i + 1] for i in range(0, 8, 2)}
        again = {row[i]: row[i + 1] for i in range(8, 12, 2)}
        assert len(first) == 4
        assert len(again) == 2
        assert all(first[key] != value for key, value in again.items())


def test_crowded_draws_are_distinct_and_uniform():
    from sympformer.tasks.recall import distinct

    random = np.random.default_rng(0)
    for below, count in ((5, 5), (1000, 4)):
        drawn = distinct(random, 2000, below, count)
        assert all(len(set(row)) == count for row in drawn.tolist())
        assert drawn.mean() == pytest.approx((below - 1) / 2, rel=0.05)


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("mqarr", {}, "did you mean 'mqar'"),
        ("mqar", {"pair": 3}, "unknown option in the options of task mqar 'pair'"),
        ("mqar", {"train": [[64]]}, "train must be a list, each a list of 2"),
        ("mqar", {"vocab_size": 64}, "32 pairs need a vocab_size of at least 66, not 64"),
        ("mqar", {"test": [[64, 17]]}, "17 pairs need an even length of at least 68, not 64"),
        ("mqar", {"train": []}, "needs a length to train"),
        ("mqar", {"power": 0}, "power must be greater than 0"),
        ("mqar-overwrite", {"train": [[256, 64]]}, "64 pairs .* at least 320"),
        ("mqar-overwrite", {"overwritten": 0}, "overwritten must be above 0"),
        ("selective-copying", {"train": [[32, 16]]}, "16 letters need a length of at least 33"),
        ("selective-copying", {"vocab_size": 3}, "at least 4"),
        ("induction", {"test": [2]}, "at least 3"),
        ("induction", {"vocab_size": 2}, "at least 3"),
        ("parity", {"train": 0}, "length must be at least 1"),
        ("parity", {"vocab_size": 8}, "unknown option"),
        ("noisy-recall", {"noise": 1}, "noise must be at least 0 and below 1"),
        ("noisy-recall", {"values": 1}, "two values at least"),
        ("noisy-recall", {"train": [7]}, "even and at least 4"),
    ],
)
def test_what_makes_no_sense_is_refused(name, options, says):
    with pytest.raises(InputError, match=says):
        make_task(name, options)
