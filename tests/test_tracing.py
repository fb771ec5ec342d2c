"""What `sympformer.trace` shows, against the model itself and the formulas."""

import numpy as np
import pytest
import torch
from torch.testing import assert_close

import sympformer as sf
from sympformer import InputError
from sympformer.attention import naive
from sympformer.attention.past import NoPast
from sympformer.attention.softmax import SoftmaxField
from sympformer.model.layers import merge_heads, split_heads
from sympformer.model.oracle import AttentionOracle


@pytest.fixture
def build(tiny):
    """A function that gives a float64 model whose tokens interact: its matrices are large."""

    def build(preset, **overrides):
        model = sf.build(tiny(preset, **overrides)).double().requires_grad_(False)
        for p in model.parameters():
            p.copy_(p + 0.1 * torch.randn_like(p) if p.ndim < 2 else torch.randn_like(p) / 3)
        return model

    return build


def traced(model, tokens, targets=None):
    """The trace, and the oracle, points and field of each evaluation."""
    calls = []
    oracles = [m for m in model.modules() if isinstance(m, AttentionOracle)]
    handles = [
        o.register_forward_hook(lambda m, given, field: calls.append((m, given[0], field)))
        for o in oracles
    ]
    found = sf.trace(model, tokens, targets)
    for handle in handles:
        handle.remove()
    return found, calls


@pytest.mark.parametrize("preset", sf.presets())
def test_weights_applied_to_values_are_what_the_layer_makes(preset, build):
    model, tokens = build(preset), torch.randint(37, (2, 9))
    found, calls = traced(model, tokens)
    assert found.positions.shape == found.momenta.shape == (3, 2, 9, 16)
    assert found.weights.shape == (2, 2, 2, 9, 9)
    assert found.kinetic.shape == found.potential.shape == (2, 2, 9)
    assert np.isfinite(found.kinetic).all()
    assert not np.triu(found.weights, 1).any()  # every preset is causal
    many = len(calls) // 2
    for layer in range(2):
        oracle, x, field = calls[layer * many]
        W, p = torch.from_numpy(found.weights[layer]), torch.from_numpy(found.momenta[layer])
        reads = oracle.reads
        if isinstance(getattr(field, "field", None), SoftmaxField):
            assert_close(W.sum(-1), torch.ones_like(W[..., 0]))
            if reads != "drift":  # has no values: it moves tokens along their own momenta
                assert_close(W @ field.field.values, field.field.attention)
            continue
        if reads in ("momentum", "drift"):
            values, project = split_heads(oracle.mobility(p), 2), oracle.mobility.weight.mT
            made = field.velocity(p)
        else:
            values = field._values
            values = values() if callable(values) else values[0]
            project, made = oracle.out.weight, field.attention()
        out = W @ values
        if oracle.outputs is not None:
            out = oracle.outputs(out, x)
        assert_close(merge_heads(out) @ project.mT, made)


def test_fast_weights_are_the_formula_of_the_docstring(build):
    model = build("deltanet")
    found, calls = traced(model, torch.randint(37, (1, 9)))
    _, _, field = calls[0]
    B, q, k = torch.diag_embed(field.beta.squeeze(-1)), field.q, field.k
    W = (q @ k.mT).tril() @ torch.linalg.inv(torch.eye(9) + B @ (k @ k.mT).tril(-1)) @ B
    assert_close(torch.from_numpy(found.weights[0]), W)


@pytest.mark.parametrize("preset", ["gpt", "symp-r2", "symp-tao", "linear-symp-ab2", "kda"])
def test_states_and_surprise_are_those_of_the_pass(preset, build):
    model, tokens = build(preset), torch.randint(37, (2, 9))
    found = sf.trace(model, tokens)
    with torch.no_grad():
        out = model(tokens[:, :-1], targets=tokens[:, 1:])
        last = model.norm(torch.from_numpy(found.positions[-1]))
        assert_close(last[:, :-1], out.hidden)
        stream = model.inputs(tokens, NoPast())
    assert_close(torch.from_numpy(found.positions[0]), stream.x)
    assert_close(torch.from_numpy(found.momenta[0]), stream.p)
    assert np.isnan(found.surprise[:, 0]).all()
    assert_close(torch.tensor(found.surprise[:, 1:]).mean(), out.loss)
    assert found.gradients is None
    assert found.parameter_gradients is None
    modules = list(model.modules())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in modules)  # nothing stays


def test_energies_are_the_hamiltonian_where_geometry_is_tied(build):
    options = {"attention": "tied-softmax", "n_head": 1, "causality": "joint"}
    model, tokens = build("symp-exp-euler", **options), torch.randint(37, (1, 9))
    found, calls = traced(model, tokens)
    for layer, (oracle, x, _) in enumerate(calls):
        A, L = oracle.matrices()
        p = torch.from_numpy(found.momenta[layer])
        whole = found.kinetic[layer].sum() + found.potential[layer].sum()
        assert_close(torch.tensor(whole), sf.lab.softmax_hamiltonian(x, p, A, L @ L.T).squeeze())


def test_energies_of_linear_attention_are_its_hamiltonian(build):
    options = {"attention": "tied-linear", "n_head": 1, "causality": "joint"}
    model, tokens = build("symp-exp-euler", **options), torch.randint(37, (1, 9))
    found, calls = traced(model, tokens)
    oracle, x, _ = calls[0]
    L, y = oracle.factor(), torch.from_numpy(found.momenta[0])
    velocity, _ = naive.linear_field(x, y, oracle.scale * L @ L.T, oracle.energy(), "joint")
    assert_close(torch.tensor(found.kinetic[0]), (y * velocity).sum(-1) / 2)
    assert_close(torch.tensor(found.potential[0]), -((x @ oracle.energy()) * x).sum(-1) / 2)


def test_gradients_are_slopes_of_the_loss(build):
    model = build("symp-r2").requires_grad_()
    tokens = torch.randint(37, (1, 9))
    found = sf.trace(model, tokens, tokens)
    loss = model(tokens, targets=tokens).loss
    loss.backward()
    norms = [
        torch.stack([p.grad.norm() for p in block.parameters()]).norm() for block in model.blocks
    ]
    assert_close(torch.from_numpy(found.parameter_gradients), torch.stack(norms))
    assert found.gradients is not None
    assert found.gradients.shape == (3, 1, 9)
    assert found.gradients.min() > 0
    frozen = sf.trace(model.requires_grad_(False), tokens, tokens)
    np.testing.assert_allclose(frozen.gradients, found.gradients)
    assert not frozen.parameter_gradients.any()
    last = torch.from_numpy(found.positions[-1]).requires_grad_()
    logits = model.norm(last) @ model.inputs.usual.tokens.weight.mT
    torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens.flatten()).backward()
    assert_close(torch.from_numpy(found.gradients[-1]), last.grad.norm(dim=-1))


def test_looped_blocks_are_traced_at_every_application(build):
    model = build("symp-h0", n_layer=4, unique_layers=2)
    found = sf.trace(model, torch.randint(37, (1, 9)))
    assert len(found.positions) == 5
    assert len(found.weights) == len(found.kinetic) == 4


def test_what_cannot_be_traced_is_refused(build, tiny):
    tokens = torch.randint(37, (1, 9))
    with pytest.raises(InputError, match="not made of layers of sympformer"):
        sf.trace(torch.nn.Linear(2, 2), tokens)
    with pytest.raises(InputError, match="ensemble of every prefix"):
        sf.trace(build("gpt", causality="ensembles"), tokens)


def test_attention_without_a_matrix_is_traced_but_for_its_weights(build, monkeypatch):
    model = build("gpt")
    field = type(model.blocks[0].attention.oracle(torch.zeros(1, 2, 16).double(), NoPast()))
    for name in ("weights", "energy"):
        monkeypatch.delattr(field, name)
    found = sf.trace(model, torch.randint(37, (1, 9)))
    assert np.isnan(found.potential).all()
    with pytest.raises(InputError, match=r"SoftmaxAttention gives no weights: .* weights\(\)"):
        _ = found.weights
