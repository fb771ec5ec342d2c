"""Attention whose past is one matrix a head, against its rules token by token."""

import pytest
import torch

import sympformer as sf
from sympformer.attention.past import NoPast
from sympformer.errors import InputError
from sympformer.model.extras import Extras
from sympformer.model.fast_weights import FastWeights
from sympformer.model.layers import in_heads, merge_heads, split_heads
from sympformer.testing import check_oracle

D, HEADS, T = 12, 3, 9
UNIT = Extras(keys="unit")
ALL = Extras(convolution=4, activation="silu", keys="unit", output_norm=True, output_gate=True)
RULES = ["sum", "delta", "implicit", "ridge", "ridge-n", "mesa", "momentum"]


def oracle(reads="attention", **options):
    torch.manual_seed(1)
    made = FastWeights(D, HEADS, reads=reads, **{"extras": UNIT, **options}).double()
    with torch.no_grad():
        for p in made.parameters():
            p.add_(torch.randn_like(p) / 2)
    return made.requires_grad_(False)


def inputs():
    return torch.randn(2, 2, T, D, dtype=torch.float64)


@pytest.mark.parametrize("decay", ["none", "head", "channel"])
@pytest.mark.parametrize("rule", ["sum", "delta", "implicit", "ridge", "ridge-n"])
def test_a_rule_is_its_recurrence(rule, decay):
    """Written out for one head at a time, without a function of the package but the projections."""
    made, (x, _) = oracle(rule=rule, decay=decay), inputs()
    q, k, v = in_heads(made.qkv(x), D, HEADS)
    q, k = (t / (t.square().sum(-1, keepdim=True) + 1e-6).sqrt() for t in (q, k))
    g = torch.zeros_like(k) if made.forget is None else made.forget(x)[0].expand_as(k)
    out = torch.empty_like(v)
    for b, h in torch.cartesian_prod(torch.arange(2), torch.arange(HEADS)).tolist():
        S = torch.zeros(D // HEADS, D // HEADS, dtype=torch.float64)
        for i in range(T):
            key, squared = k[b, h, i], k[b, h, i] @ k[b, h, i]
            S = g[b, h, i].exp()[:, None] * S
            if made.ridge is not None:
                rho = made.ridge() * (i + 1 if rule == "ridge-n" else 1)
                beta = 1 / (squared + rho)
            else:
                assert made.write is not None
                beta = made.write(x)[b, i, h].sigmoid()
                beta = beta / (1 + beta * squared) if rule == "implicit" else beta
            seen = 0 if rule == "sum" else S.T @ key
            S = S + torch.outer(key, beta * (v[b, h, i] - seen))
            out[b, h, i] = S.T @ q[b, h, i]
    torch.testing.assert_close(made(x, NoPast()).attention(), made.out(merge_heads(out)))


def test_mesa_is_a_ridge_regression_of_each_prefix():
    made, (x, _) = oracle(rule="mesa"), inputs()
    q, k, v = in_heads(made.qkv(x), D, HEADS)
    q, k = (t / (t.square().sum(-1, keepdim=True) + 1e-6).sqrt() for t in (q, k))
    assert made.write is not None
    assert made.penalty is not None
    beta, penalty = split_heads(made.write(x).sigmoid(), HEADS), made.penalty()
    out = torch.empty_like(v)
    for i in range(T):
        key, value, weight = (t[..., : i + 1, :] for t in (k, v, beta))
        H = (weight * key).mT @ key + torch.diag_embed(penalty.squeeze(-2))
        weights = torch.linalg.solve(H, (weight * key).mT @ value)
        out[..., i, :] = (q[..., i : i + 1, :] @ weights).squeeze(-2)
    torch.testing.assert_close(made(x, NoPast()).attention(), made.out(merge_heads(out)))


def test_the_force_is_that_of_the_regularised_flow():
    """With one strength, unit keys and no decay it is the derivative of the joint Hamiltonian's
    part that tokens before leave: `V x - W_Kᵀ ρ S w`, from the solved system.
    """
    made, (x, p) = oracle("momentum"), inputs()
    assert made.write is not None
    assert made.potential is not None
    _, k = in_heads(made.qk(x), D, HEADS)
    k = k / (k.square().sum(-1, keepdim=True) + 1e-6).sqrt()
    pi, beta = split_heads(made.mobility(p), HEADS), split_heads(made.write(x).sigmoid(), HEADS)
    rho = 1 / beta - k.square().sum(-1, keepdim=True)
    system = (k @ k.mT).tril() + torch.diag_embed(rho.squeeze(-1))
    w = torch.linalg.solve(system, pi)
    pull = merge_heads(rho * ((w @ w.mT).tril() @ k))
    expected = made.potential(x) - pull @ made.qk.weight[D:]
    torch.testing.assert_close(made(x, NoPast()).force(p), expected)


@pytest.mark.parametrize("first", ["velocity", "force"])
def test_velocity_and_force_share_one_state(first, monkeypatch):
    """Whichever is asked first; and another momentum has another one."""
    from sympformer.attention import forms

    made, (x, p) = oracle("momentum", decay="head"), inputs()
    solved, solve = [], forms.delta_rule
    monkeypatch.setattr(forms, "delta_rule", lambda *a, **o: (solved.append(1), solve(*a, **o))[1])
    expected = {name: getattr(made(x, NoPast()), name)(p) for name in ("velocity", "force")}
    solved.clear()
    field = made(x, NoPast())
    for name in sorted(expected, key=lambda name: name != first):
        torch.testing.assert_close(getattr(field, name)(p), expected[name])
    assert len(solved) == 1
    field.velocity(p.clone())
    assert len(solved) == 2


@pytest.mark.parametrize("extras", [UNIT, ALL], ids=["unit", "all"])
@pytest.mark.parametrize("rule", ["sum", "delta", "implicit", "ridge", "ridge-n"])
def test_the_contract(rule, extras):
    check_oracle(FastWeights, rule=rule, extras=extras)


@pytest.mark.parametrize(
    "options",
    [
        {"decay": "head", "extras": ALL},
        {"strength": "double", "extras": UNIT},
        {"bias": True, "extras": UNIT},
        {"rule": "sum", "decay": "head", "strength": "step"},
    ],
    ids=str,
)
def test_the_contract_of_options(options):
    check_oracle(FastWeights, **options)


@pytest.mark.parametrize("rule", RULES)
def test_a_state_is_as_large_for_any_text(rule, tiny):
    model = sf.build(tiny("deltanet", rule=rule)).eval()
    short, long = (model(torch.zeros(1, n, dtype=torch.int64)).cache.nbytes for n in (4, 20))
    assert short == long


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"causality": "joint"}, "no joint sums"),
        ({"rule": "ridge", "strength": "double"}, "has its own"),
        ({"rule": "sum", "strength": "double"}, "needs rule 'delta'"),
        ({"strength": "step"}, "needs rule 'sum'"),
        ({"repulsion": False}, "needs a momentum"),
        ({"rule": "mesa", "decay": "channel"}, "a decay a head"),
        ({"reads": "momentum", "decay": "channel"}, "no repulsion"),
        ({"reads": "momentum", "rule": "momentum"}, "no repulsion"),
        ({"reads": "connection"}, "cannot be read for connection"),
    ],
    ids=str,
)
def test_what_makes_no_sense_is_refused(options, says):
    with pytest.raises(InputError, match=says):
        FastWeights(D, HEADS, **options)


def test_a_negative_step_is_reached_by_a_doubled_strength():
    """Parity needs an eigenvalue below 0 (Grazzi et al., 2024)."""
    made, (x, _) = oracle(strength="double"), inputs()
    field = made(x, NoPast())
    assert 1 < field.beta.max() < 2
