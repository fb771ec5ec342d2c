"""Exact ridge regression over each prefix: every form against a solve a token, and its meaning."""

import pytest
import torch

from sympformer.attention import delta, mesa, past

FORMS = [mesa.masked, mesa.recurrent, mesa.chunked, mesa.scanned]


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def problem(n, *, decays=True, carried=True, heads=(2, 3), d=8, e=16):
    made = {
        "q": random(*heads, n, d, seed=1),
        "k": random(*heads, n, d, seed=2),
        "v": random(*heads, n, e, seed=3),
        "ridge": random(heads[-1], 1, d, seed=4).exp(),
        "beta": random(*heads, n, 1, seed=5).sigmoid(),
    }
    if decays:
        made["decay"] = -random(*heads, n, 1, seed=6).sigmoid()
    if carried:
        keys = random(*heads, 6, d, seed=7)
        made["state"] = mesa.accumulate(None, keys, random(*heads, 6, e, seed=8))
    return made


def definition(q, k, v, *, ridge, beta, decay=None, state=None):
    d = k.shape[-1]
    H, G = (k.new_zeros(*k.shape[:-2], d, m) for m in (d, v.shape[-1])) if state is None else state
    out = []
    for i in range(k.shape[-2]):
        left = 1 if decay is None else decay[..., i, :, None].exp()
        weighted = beta[..., i, :] * k[..., i, :]
        H = left * H + weighted[..., :, None] * k[..., i, None, :]
        G = left * G + weighted[..., :, None] * v[..., i, None, :]
        x = torch.linalg.inv(H + ridge.mT * torch.eye(d)) @ q[..., i, :, None]
        out.append((G.mT @ x).squeeze(-1))
    return torch.stack(out, -2)


def results(form, given):
    given = {
        n: tuple(x.detach().requires_grad_() for x in t)
        if n == "state"
        else t.detach().requires_grad_()
        for n, t in given.items()
    }
    leaves = [x for t in given.values() for x in (t if isinstance(t, tuple) else (t,))]
    out = form(**given)
    return [out, *torch.autograd.grad((out * random(*out.shape, seed=9).to(out)).sum(), leaves)]


@pytest.mark.parametrize("n", [1, 2, 15, 16, 17, 40])
@pytest.mark.parametrize("decays", [True, False])
@pytest.mark.parametrize("carried", [True, False])
@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_the_definition(form, n, decays, carried):
    given = problem(n, decays=decays, carried=carried)
    for got, want in zip(results(form, given), results(definition, given), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-8, atol=1e-8)


def test_second_derivatives_and_transforms(monkeypatch):
    monkeypatch.setattr(mesa, "ITERATIONS", 4)
    given = problem(3, heads=(1,), d=2, e=1)
    H, G = given.pop("state")
    names = list(given)

    def call(*tensors, form=mesa.chunked):
        return form(**dict(zip(names, tensors[:-2], strict=True)), state=tensors[-2:])

    inputs = [t.requires_grad_() for t in (*given.values(), H, G)]
    assert torch.autograd.gradgradcheck(call, inputs)
    tangents = tuple(random(*t.shape, seed=i) for i, t in enumerate(inputs))
    got, want = (
        torch.func.jvp(lambda *t, f=f: call(*t, form=f), tuple(inputs), tangents)[1]
        for f in (mesa.chunked, mesa.masked)
    )
    torch.testing.assert_close(got, want)
    many = tuple(torch.stack([t, t * 1.1]) for t in inputs)
    torch.testing.assert_close(torch.vmap(call)(*many)[1], call(*(t[1] for t in many)))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("split", [1, 16, 39])
def test_split_and_resume(form, split):
    given = problem(40)
    state, ridge = given.pop("state"), given.pop("ridge")
    whole, parts = form(**given, ridge=ridge, state=state), []
    for tokens in (slice(split), slice(split, None)):
        now = {n: t[..., tokens, :] for n, t in given.items()}
        parts.append(form(**now, ridge=ridge, state=state))
        state = mesa.accumulate(state, now["k"], now["v"], now["beta"], now["decay"])
    torch.testing.assert_close(torch.cat(parts, -2), whole, rtol=0, atol=1e-12)


@pytest.mark.parametrize("form", FORMS)
def test_later_tokens_and_padding_change_nothing(form):
    given = problem(40, carried=False)
    before = form(**given)
    for name in ("q", "k", "v", "beta", "decay"):
        given[name][..., 20:, :] -= 0.1
    assert torch.equal(form(**given)[..., :20, :], before[..., :20, :])
    count = torch.tensor([7, 0])
    given["k"] = past.erase(given["k"], count, 0)
    alone = {n: t if n == "ridge" else t[:1, :, 7:] for n, t in given.items()}
    torch.testing.assert_close(form(**given)[:1, :, 7:], form(**alone))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("d", [8, 64])
@pytest.mark.parametrize("form", FORMS[2:])
def test_half_precision_solves_in_float32(form, dtype, d):
    """Unit keys and a ridge of 0.25 or more, as in models: the steps suffice."""
    given = problem(200, heads=(2,), d=d, carried=False)
    given["k"] = given["k"] / given["k"].norm(dim=-1, keepdim=True)
    given["ridge"] = given["ridge"].clamp(min=0.25)
    given = {n: t.to(dtype) for n, t in given.items()}
    truth = results(mesa.masked, {n: t.double() for n, t in given.items()})
    for got, want in zip(results(form, given), truth, strict=True):
        floor = 0 if dtype == torch.float32 else torch.finfo(dtype).eps * want.norm()
        assert got.dtype == dtype
        assert (got - want).norm() <= 200 * torch.finfo(torch.float32).eps * want.norm() + floor


def test_ridge_regression_of_each_prefix():
    """Primal and dual: one full system over each prefix, as in the regularised Stein metric."""
    q, k, v = random(12, 4), random(12, 4, seed=1), random(12, 3, seed=2)
    rho = 0.7
    read = mesa.chunked(q, k, v, ridge=torch.full((4,), rho, dtype=torch.float64))
    for i in range(12):
        keys, values = k[: i + 1], v[: i + 1]
        w = torch.linalg.solve(keys @ keys.T + rho * torch.eye(i + 1), values)
        torch.testing.assert_close(read[i], q[i] @ keys.T @ w)
    # Of the first token the one-pass approximation is exact, of later ones it is not.
    one_pass, _ = delta.chunked(q, k, delta.write_strength(k, rho), v)
    torch.testing.assert_close(one_pass[0], read[0])
    assert (one_pass[1:] - read[1:]).abs().max() > 0.1
