"""Batches of tasks: the same whenever they are asked for, whoever asks."""

from dataclasses import dataclass
from itertools import combinations, islice
from typing import ClassVar

import numpy as np
import pytest
import torch

from sympformer import InputError
from sympformer.model.loss import IGNORED as IGNORED_BY_LOSSES
from sympformer.tasks import (
    IGNORED,
    TASKS,
    Batch,
    Setting,
    Task,
    TaskLoader,
    make_task,
    register_task,
)


def task(**options):
    return make_task(
        "mqar", {"vocab_size": 32, "train": [[16, 2], [24, 3]], "test": [[16, 2]], **options}
    )


def test_the_loss_ignores_what_tasks_do():
    assert IGNORED == IGNORED_BY_LOSSES


def test_batches_follow_the_seed():
    a, b, other = (list(islice(TaskLoader(task(), 4, seed), 20)) for seed in (1, 1, 2))
    assert all(torch.equal(x, y) for x, y in zip(sum(a, ()), sum(b, ()), strict=True))
    assert not all(torch.equal(x[0], y[0]) for x, y in zip(a, other, strict=True))
    assert {tuple(inputs.shape) for inputs, _ in a} == {(4, 16), (4, 24)}
    assert len({str(inputs.tolist()) for inputs, _ in a}) == 20


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_ranks_share_one_stream_and_go_on_from_a_state(ranks):
    """Also with another number of ranks."""
    whole = list(islice(TaskLoader(task(), 4, 0), 12))
    loaders = [TaskLoader(task(), 4, 0, rank, ranks) for rank in range(ranks)]
    for step in range(6 // ranks):
        for rank, loader in enumerate(loaders):
            assert torch.equal(next(loader)[0], whole[step * ranks + rank][0])
    states = [loader.state_dict() for loader in loaders]
    assert all(state == states[0] for state in states)
    again = TaskLoader(task(), 4, 0)
    again.load_state_dict(states[0])
    assert all(torch.equal(next(again)[1], batch[1]) for batch in whole[6:])


@pytest.mark.parametrize(
    ("other", "says"),
    [
        (TaskLoader(task(), 4, 1), "seed was 0, now it is 1"),
        (TaskLoader(task(), 8, 0), "batch_size was 4, now it is 8"),
        (TaskLoader(task(power=0.5), 4, 0), "task was"),
    ],
)
def test_a_state_of_another_stream_is_refused(other, says):
    with pytest.raises(InputError, match=says):
        other.load_state_dict(TaskLoader(task(), 4, 0).state_dict())


def test_validation_and_tests_are_fixed_and_apart_from_training():
    setting = Setting(16, 2)
    sets = [
        np.concatenate([batch.tokens for batch in batches])
        for batches in (
            task(train=[[16, 2]]).validation_batches(64, 8),
            task(train=[[16, 2]]).test_batches(setting, 64, 8),
            task().test_batches(setting, 64, 12),
        )
    ]
    assert [len(rows) for rows in sets] == [64, 64, 64]
    trained = [x[0].numpy() for x in islice(TaskLoader(task(train=[[16, 2]]), 8, 0), 8)]
    rows = [{tuple(row) for row in rows.tolist()} for rows in (*sets[:2], np.concatenate(trained))]
    assert [a & b for a, b in combinations(rows, 2)] == [set(), set(), set()]
    again = np.concatenate([b.tokens for b in task().test_batches(setting, 64, 12)])
    assert np.array_equal(again, sets[2])


def test_long_tests_take_no_more_tokens_at_a_time():
    batches = list(make_task("parity").test_batches(Setting(256), 20, 16))
    assert [b.tokens.shape for b in batches] == [(2, 256)] * 10
    assert len(next(iter(make_task("parity").test_batches(Setting(256), 20, 1))).tokens) == 1


def test_the_digest_is_of_options_and_sequences(monkeypatch):
    assert task().digest == task().digest
    assert len({task().digest, task(power=0.5).digest, make_task("parity").digest}) == 3
    before = make_task("s3").digest
    monkeypatch.setattr(TASKS["s3"], "table", TASKS["parity"].table)
    assert make_task("s3").digest != before


@dataclass(frozen=True)
class Empty(Task):
    """Nothing counts."""

    name: ClassVar[str] = "empty"
    vocabulary: ClassVar[int] = 3  # pyright: ignore[reportIncompatibleMethodOverride]
    training: ClassVar[tuple] = (Setting(4),)  # pyright: ignore[reportIncompatibleMethodOverride]
    testing: ClassVar[tuple] = (Setting(4),)  # pyright: ignore[reportIncompatibleMethodOverride]

    def draw(self, random, size, setting):
        tokens = random.integers(3, size=(size, setting.length))
        return Batch.certain(tokens, np.full_like(tokens, IGNORED))


def test_a_task_of_one_s_own(monkeypatch):
    monkeypatch.setattr("sympformer.tasks.table.TASKS", dict(TASKS))
    register_task(Empty)
    register_task(Empty)
    with pytest.raises(InputError, match="without a target that counts"):
        next(TaskLoader(make_task("empty"), 2, 0))
    with pytest.raises(InputError, match="there is a task 'parity' already"):
        register_task(type("Mine", (Empty,), {"name": "parity", "__module__": "elsewhere"}))
    with pytest.raises(InputError, match="needs a name"):
        register_task(type("Mine", (Task,), {}))
