"""Groups, schedule and clipping of the published recipe."""

import pytest
import torch

import sympformer as sf
from sympformer.train.config import TrainConfig
from sympformer.train.engine import (
    clip_gradients,
    gradient_norms,
    learning_rate,
    set_learning_rate,
)
from sympformer.train.optimizer import adamw, parameter_groups


@pytest.fixture
def model(tiny):
    return sf.build(tiny("symp-exp-euler"))


def test_every_parameter_is_in_one_group(model):
    groups = parameter_groups(model)
    assert sorted(groups) == ["embeddings", "scalars", "weights"]
    listed = [id(p) for group in groups.values() for p in group]
    assert sorted(listed) == sorted(id(p) for p in model.parameters())
    assert all(p.shape == (1,) for p in groups["scalars"])
    assert all(p.shape[-1] == 16 and p.shape[0] in (37, 24) for p in groups["embeddings"])


def test_decay_and_rates(model):
    optimizer = adamw(model, TrainConfig(weight_decay=0.1, scalar_lr=5))
    set_learning_rate(optimizer, 1e-3)
    groups = {g["name"]: g for g in optimizer.param_groups}
    assert {n: g["weight_decay"] for n, g in groups.items()} == {
        "embeddings": 0.1,
        "scalars": 0.0,
        "weights": 0.0,
    }
    assert groups["scalars"]["lr"] == pytest.approx(5e-3)
    assert groups["weights"]["lr"] == pytest.approx(1e-3)


def test_the_update_is_that_of_the_formula(model):
    """Decoupled weight decay, then m / (√v + ε) with both averages corrected for their start."""
    config = TrainConfig(weight_decay=0.1, betas=(0.9, 0.95), learning_rate=1e-2)
    optimizer = adamw(model.double(), config)
    table = model.inputs.usual.tokens.weight
    expected, m, v = table.detach().clone(), 0.0, 0.0
    for step in (1, 2, 3):
        for p in model.parameters():
            p.grad = torch.randn_like(p)
        m, v = 0.9 * m + 0.1 * table.grad, 0.95 * v + 0.05 * table.grad.square()
        rate = (m / (1 - 0.9**step)) / ((v / (1 - 0.95**step)).sqrt() + 1e-8)
        expected = expected * (1 - 1e-2 * 0.1) - 1e-2 * rate
        optimizer.step()
        torch.testing.assert_close(table.detach(), expected, rtol=1e-12, atol=1e-12)


def test_schedule():
    config = TrainConfig(steps=100, warmup=10, learning_rate=1.0, min_lr_ratio=0.4)
    rates = [learning_rate(step, config) for step in range(101)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[9] == rates[10] == pytest.approx(1.0)
    assert rates[55] == pytest.approx(0.7)
    assert rates[100] == pytest.approx(0.4)
    assert rates[10:] == sorted(rates[10:], reverse=True)


@pytest.fixture
def gradients(model):
    """Of ones, and of halves in the scalars."""
    for name, group in parameter_groups(model).items():
        for p in group:
            p.grad = torch.full_like(p, 0.5 if name == "scalars" else 1.0)


def test_norms_of_the_groups(model, gradients):
    norms = gradient_norms(adamw(model, TrainConfig()))
    for name, group in parameter_groups(model).items():
        numbers = sum(p.numel() for p in group)
        each = 0.5 if name == "scalars" else 1.0
        assert norms[name].item() == pytest.approx(each * numbers**0.5)


def test_a_group_without_gradients_has_norm_0(model):
    assert [norm.item() for norm in gradient_norms(adamw(model, TrainConfig())).values()] == [0] * 3


@pytest.mark.parametrize("bound", [1.0, 1e6])
def test_clipping_leaves_scalars_out(model, gradients, bound):
    optimizer = adamw(model, TrainConfig())
    groups = parameter_groups(model)
    expected = sum(p.numel() for g in ("embeddings", "weights") for p in groups[g]) ** 0.5
    found = clip_gradients(optimizer, gradient_norms(optimizer), bound)
    assert found.item() == pytest.approx(expected)
    assert all(p.grad == 0.5 for p in groups["scalars"])
    rest = [p.grad for g in ("embeddings", "weights") for p in groups[g]]
    left = torch.nn.utils.get_total_norm(rest).item()
    assert left == pytest.approx(min(bound, expected), rel=1e-4)
