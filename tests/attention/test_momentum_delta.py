"""The delta rule with momentum along the text: every form against the recurrence."""

import pytest
import torch

from sympformer.attention import delta, momentum_delta, past

FORMS = [momentum_delta.masked, momentum_delta.recurrent, momentum_delta.chunked]


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def problem(n, *, decays=True, carried=True, heads=(2, 3), d=4, e=5):
    k = random(*heads, n, d, seed=2)
    made = {
        "q": random(*heads, n, d, seed=1),
        "k": k / k.norm(dim=-1, keepdim=True),
        "y": random(*heads, n, e, seed=3),
    }
    for i, name in enumerate(("beta", "eta", "mu")):
        made[name] = random(*heads, n, 1, seed=4 + i).sigmoid()
    if decays:
        made["decay"] = -random(*heads, n, 1, seed=7).sigmoid()
    if carried:
        made["state"] = random(*heads, d, e, seed=8), random(*heads, d, e, seed=9)
    return made


def definition(q, k, y, beta, eta, mu, decay=None, state=None):
    zero = k.new_zeros(*k.shape[:-2], k.shape[-1], y.shape[-1])
    S, M = (zero, zero) if state is None else state
    read = []
    for i in range(k.shape[-2]):
        S = S if decay is None else decay[..., i, :, None].exp() * S
        r = y[..., i, :] - torch.einsum("...ce,...c->...e", S, k[..., i, :])
        new = torch.einsum("...c,...e->...ce", k[..., i, :], r)
        M = mu[..., i, :, None] * M + eta[..., i, :, None] * new
        S = S + beta[..., i, :, None] * M
        read.append(torch.einsum("...c,...ce->...e", q[..., i, :], S))
    return torch.stack(read, -2), (S, M)


def results(form, given):
    leaves = [x for t in given.values() for x in (t if isinstance(t, tuple) else (t,))]
    leaves = [t.detach().clone().requires_grad_() for t in leaves]
    rest = iter(leaves)
    given = {
        n: (next(rest), next(rest)) if isinstance(t, tuple) else next(rest)
        for n, t in given.items()
    }
    read, (S, M) = form(**given)
    out = [read, S, M]
    scalar = sum((o * random(*o.shape, seed=9).to(o)).sum() for o in out)
    return [*out, *torch.autograd.grad(scalar, leaves)]


@pytest.mark.parametrize("n", [1, 2, 15, 16, 17, 40])
@pytest.mark.parametrize("decays", [True, False])
@pytest.mark.parametrize("carried", [True, False])
@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_the_recurrence(form, n, decays, carried):
    given = problem(n, decays=decays, carried=carried)
    for got, want in zip(results(form, given), results(definition, given), strict=True):
        torch.testing.assert_close(got, want, rtol=0, atol=1e-11 * max(1, want.abs().max().item()))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("split", [1, 16, 39])
def test_split_and_resume(form, split):
    given = problem(40)
    state = given.pop("state")
    whole, end = form(**given, state=state)
    parts = []
    for tokens in (slice(split), slice(split, None)):
        read, state = form(**{n: t[..., tokens, :] for n, t in given.items()}, state=state)
        parts.append(read)
    torch.testing.assert_close(torch.cat(parts, -2), whole, rtol=0, atol=1e-12)
    torch.testing.assert_close(state, end, rtol=0, atol=1e-12)


@pytest.mark.parametrize("form", FORMS)
def test_without_momentum_it_is_the_gated_delta_rule(form):
    given = problem(40, carried=False)
    given["mu"], given["beta"] = torch.zeros_like(given["mu"]), torch.ones_like(given["beta"])
    expected, _ = delta.chunked(
        given["q"], given["k"], given["eta"], given["y"], decay=given["decay"]
    )
    torch.testing.assert_close(form(**given)[0], expected)


@pytest.mark.parametrize("form", FORMS)
def test_later_tokens_and_padding_change_nothing(form):
    given = problem(40, carried=False)
    before = form(**given)[0]
    for name, t in given.items():
        given[name] = torch.cat([t[..., :20, :], t[..., 20:, :] * 0.9], -2)
    assert torch.equal(form(**given)[0][..., :20, :], before[..., :20, :])
    for name in ("k", "eta", "y"):
        given[name] = past.erase(given[name], torch.tensor([7, 0]), 0)
    alone = {n: t[:1, :, 7:] for n, t in given.items()}
    torch.testing.assert_close(form(**given)[0][:1, :, 7:], form(**alone)[0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("g", [0.0, -1e4, -torch.inf])
def test_extreme_decays_and_half_precision(g, dtype):
    given = {n: t.to(dtype) for n, t in problem(40, carried=False).items()}
    given["decay"][..., ::3, :] = g
    truth = results(definition, {n: t.double() for n, t in given.items()})
    for got, want in zip(results(momentum_delta.chunked, given), truth, strict=True):
        assert got.isfinite().all()
        assert (got - want).norm() <= 50 * torch.finfo(got.dtype).eps * want.norm()


def test_second_derivatives_and_transforms():
    given = problem(3, heads=(1,), d=2, e=1, carried=False)
    names, inputs = list(given), [t.requires_grad_() for t in given.values()]

    def call(*tensors):
        return momentum_delta.chunked(**dict(zip(names, tensors, strict=True)))[0]

    assert torch.autograd.gradgradcheck(call, inputs, check_fwd_over_rev=True)
    many = tuple(torch.stack([t, t * 0.9]) for t in inputs)
    torch.testing.assert_close(torch.vmap(call)(*many)[1], call(*(t[1] for t in many)))
