"""Groups and clipping of the published recipe; Muon beside AdamW."""

import copy

import pytest
import torch

import sympformer as sf
from sympformer import InputError
from sympformer.train.config import TrainConfig
from sympformer.train.engine import clip_gradients, gradient_norms, set_learning_rate
from sympformer.train.optimizer import (
    adamw,
    learned_scalars,
    make_optimizer,
    muon,
    parameter_groups,
)


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


MUON = TrainConfig(optimizer="muon", matrix_lr=2.0, learning_rate=1e-2)


@pytest.mark.parametrize("preset", ["symp-exp-euler", "gpt-untied-extras", "kda", "mesanet"])
def test_matrices_are_those_of_linear_maps(preset, tiny):
    model = sf.build(tiny(preset))
    groups = parameter_groups(model, matrices=True)
    listed = [id(p) for group in groups.values() for p in group]
    assert sorted(listed) == sorted(id(p) for p in model.parameters())
    names = {p: name for name, p in model.named_parameters()}
    assert all(p.ndim == 2 for p in groups["matrices"])
    assert all(names[p].startswith("blocks.") for p in groups["matrices"])
    left = [names[p] for p in groups["weights"]]
    assert not [name for name in left if "qk" in name or "expand" in name]
    if "extras" in preset:
        assert any("convolution" in name for name in left), "two axes, but no matrix"


def test_a_head_of_rows_is_no_matrix(model):
    """Of a model of the user's own, whose head may be a linear map."""
    model.head = torch.nn.Linear(16, model.config.vocab_size, bias=False)
    groups = parameter_groups(model, matrices=True)
    assert any(p is model.head.weight for p in groups["weights"])


def test_muon_moves_matrices_and_adamw_all_else(model):
    """A matrix by 0.2 √max(a, b) U Vᵀ of its gradient, about; the others as without Muon."""
    other = sf.build(model.config)
    other.load_state_dict(model.state_dict())
    both = make_optimizer(model, MUON), adamw(other, TrainConfig(learning_rate=1e-2))
    for optimizer, moved in zip(both, (model, other), strict=True):
        set_learning_rate(optimizer, 1e-2)
        torch.manual_seed(1)
        for p in moved.parameters():
            p.grad = torch.randn_like(p)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for optimizer in both:
        optimizer.step()
    matrices = {id(p) for p in parameter_groups(model, matrices=True)["matrices"]}
    for (name, p), q in zip(model.named_parameters(), other.parameters(), strict=True):
        if id(p) not in matrices:
            torch.testing.assert_close(p, q, rtol=0, atol=0)
            continue
        step = (before[name] - p).detach()
        sizes = torch.linalg.svdvals(step) / (2e-2 * 0.2 * max(p.shape) ** 0.5)
        assert ((sizes > 0.5) & (sizes < 1.5)).all()


def test_the_state_of_both_is_that_of_one(model):
    def moved(optimizer, seed):
        torch.manual_seed(seed)
        for p in model.parameters():
            p.grad = torch.randn_like(p)
        optimizer.step()
        return [p.detach().clone() for p in model.parameters()]

    first = muon(model, MUON)
    moved(first, 1)
    state = copy.deepcopy(first.state_dict())
    weights = [p.detach().clone() for p in model.parameters()]
    assert len(first.state) == len(list(model.parameters()))
    expected = moved(first, 2)
    again = muon(model, MUON)
    again.load_state_dict(state)
    with torch.no_grad():
        for p, value in zip(model.parameters(), weights, strict=True):
            p.copy_(value)
    assert all(map(torch.equal, moved(again, 2), expected))
    assert {len(state) for state in again.state.values()} == {1, 3}


def test_options_without_effect_are_refused():
    for options, says in (
        ({"matrix_lr": 2.0}, "matrix_lr = 2.0 has an effect with optimizer = 'muon' only"),
        ({"decay": 0.5}, "decay = 0.5 has an effect with schedule = 'wsd' only"),
        ({"decay": 0.0, "schedule": "wsd"}, "decay must be above 0"),
        ({"optimizer": "muoon"}, "did you mean 'muon'"),
    ):
        with pytest.raises(InputError, match=says):
            TrainConfig(**options)


def test_learned_scalars_by_name(model):
    found = learned_scalars(model)
    assert len(found) == len(parameter_groups(model)["scalars"])
    oracle = model.blocks[1].attention
    assert found["blocks.1.attention.h_x"] == pytest.approx(oracle.h_x().item())
    assert any("c_log" in name for name in found), "damping"
    assert learned_scalars(torch.nn.Linear(2, 2)) == {}
