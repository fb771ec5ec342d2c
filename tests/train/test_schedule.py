"""The learning rate over a run."""

import pytest

from sympformer.train.config import TrainConfig
from sympformer.train.engine import learning_rate


def rates(**options):
    config = TrainConfig(steps=100, warmup=10, learning_rate=1.0, min_lr_ratio=0.4, **options)
    return [learning_rate(step, config) for step in range(101)]


def test_a_cosine():
    found = rates()
    assert found[0] == pytest.approx(0.1)
    assert found[9] == found[10] == pytest.approx(1.0)
    assert found[55] == pytest.approx(0.7)
    assert found[100] == pytest.approx(0.4)
    assert found[10:] == sorted(found[10:], reverse=True)


def test_warm_up_stable_decay():
    found = rates(schedule="wsd", decay=0.3)
    assert found[:10] == rates()[:10]
    assert found[9:71] == [1.0] * 62
    assert found[85] == pytest.approx(0.7)
    assert found[100] == pytest.approx(0.4)


def test_the_stable_part_knows_no_end():
    short, long = (
        TrainConfig(steps=steps, warmup=10, schedule="wsd", decay=0.1) for steps in (100, 1000)
    )
    assert [learning_rate(s, short) for s in range(90)] == [
        learning_rate(s, long) for s in range(90)
    ]


def test_a_decay_from_the_first_update():
    config = TrainConfig(steps=10, warmup=0, schedule="wsd", decay=1.0, min_lr_ratio=0.0)
    assert learning_rate(0, config) == config.learning_rate
    assert learning_rate(10, config) == 0
