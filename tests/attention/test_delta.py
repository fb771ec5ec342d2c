"""The delta rule and decayed sums: every form against a recurrence written out in float64."""

import math

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks

from sympformer.attention import chunked, delta, forms, past, prefix_sums
from sympformer.attention.prefix_solve import solve_dense
from sympformer.attention.prefix_sums import accumulate
from sympformer.errors import InputError

LENGTHS = [1, 2, 15, 16, 17, 70]
FORMS = [delta.masked, delta.recurrent, delta.chunked, delta.scanned]
SUMS = [prefix_sums.masked, prefix_sums.recurrent, prefix_sums.chunked, prefix_sums.scanned]
FAST, FAST_SUMS = FORMS[2:], SUMS[2:]
D, E = 8, 16
"""Widths of keys and values: those of the form that is in C++."""
CHANNELS = [0, 1, D]
"""Numbers of a decay a token: none, one a head, one a key channel."""


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def unit(k):
    return k / k.norm(dim=-1, keepdim=True)


def problem(n, channels=1, *, carried=True, heads=(2, 3), d=D, e=E):
    """The arguments by name: unit keys, strengths of up to 2, decays of up to -3."""
    made = {
        "q": random(*heads, n, d, seed=1),
        "k": unit(random(*heads, n, d, seed=2)),
        "beta": 2 * random(*heads, n, 1, seed=3).sigmoid(),
        "y": random(*heads, n, e, seed=4),
    }
    if channels:
        made["decay"] = -3 * random(*heads, n, channels, seed=5).sigmoid()
    if carried:
        made["state"] = random(*heads, d, e, seed=6)
    return made


def recurrence(q, k, beta, y, decay=None, state=None):
    """The definition, token by token and number by number; beta None is a sum."""
    S = k.new_zeros(*k.shape[:-2], k.shape[-1], y.shape[-1]) if state is None else state
    read, written = [], []
    for i in range(k.shape[-2]):
        if decay is not None:
            S = torch.einsum("...c,...ce->...ce", decay[..., i, :].exp().expand_as(k[..., i, :]), S)
        w = y[..., i, :]
        if beta is not None:
            w = beta[..., i, :] * (w - torch.einsum("...ce,...c->...e", S, k[..., i, :]))
        S = S + torch.einsum("...c,...e->...ce", k[..., i, :], w)
        read.append(torch.einsum("...c,...ce->...e", q[..., i, :], S))
        written.append(w)
    return torch.stack(read, -2), torch.stack(written, -2), S


def results(form, given, *, solve=True):
    """Values, then the gradients of a weighted sum of them for all arguments."""
    given = {name: t.detach().clone().requires_grad_() for name, t in given.items()}
    if solve:
        read, w = form(given["q"], given["k"], given["beta"], given["y"], **rest(given))[:2]
        out = [read, w]
    else:
        given.pop("beta", None)
        out = [form(given["q"], given["k"], given["y"], **rest(given))]
    scalar = sum((o * random(*o.shape, seed=9).to(o)).sum() for o in out)
    return [*out, *torch.autograd.grad(scalar, list(given.values()))]


def rest(given):
    return {name: t for name, t in given.items() if name in ("decay", "state")}


def definition_of_a_sum(q, k, v, **options):
    return recurrence(q, k, None, v, **options)[0]


def assert_same(got, expected, tolerance=1e-11):
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=tolerance * max(1, b.abs().max().item()))


@pytest.mark.parametrize("n", LENGTHS)
@pytest.mark.parametrize("channels", CHANNELS)
@pytest.mark.parametrize("carried", [True, False])
def test_every_form_is_the_recurrence(n, channels, carried):
    given = problem(n, channels, carried=carried)
    expected, sums = results(recurrence, given), results(definition_of_a_sum, given, solve=False)
    for form, total in zip(FORMS, SUMS, strict=True):
        assert_same(results(form, given), expected)
        assert_same(results(total, given, solve=False), sums)


@pytest.mark.parametrize("channels", CHANNELS)
def test_work_in_small_pieces(channels, monkeypatch):
    """Groups of few chunks, and a last one that is not full; keys wider than values too."""
    monkeypatch.setattr(chunked, "WORKSPACE", 6 * D * 32)
    for shape in ({}, {"e": 2}, {"heads": ()}, {"heads": (3,)}):
        given = problem(77, channels, **shape)
        assert_same(results(delta.chunked, given), results(recurrence, given))


@pytest.mark.parametrize("width", [4, 40, 70])
def test_every_size_of_chunk(width):
    given = problem(150, 1, heads=(2,), d=width, e=3)
    assert chunked.chunk_size(given["k"], given["y"]) == {4: 16, 40: 32, 70: 64}[width]
    assert_same(results(delta.chunked, given), results(recurrence, given))


@pytest.mark.parametrize("channels", CHANNELS)
@pytest.mark.parametrize("fast", FAST)
def test_a_part_of_the_results(fast, channels):
    """Only what is read, only what is written, nothing read; as where the rest is not used."""
    given = {n: t.requires_grad_() for n, t in problem(40, channels).items()}
    for pick in (0, 1):
        got, expected = (
            form(given["q"], given["k"], given["beta"], given["y"], **rest(given))[pick]
            for form in (fast, delta.masked)
        )
        assert got is not None
        assert expected is not None
        torch.testing.assert_close(got, expected)
        weight = random(*got.shape, seed=9)
        every = list(given.values())
        found = torch.autograd.grad((got * weight).sum(), every, allow_unused=True)
        wanted = torch.autograd.grad((expected * weight).sum(), every, allow_unused=True)
        for a, b in zip(found, wanted, strict=True):
            torch.testing.assert_close(torch.zeros(()) if a is None else a, a if b is None else b)
    for form in FORMS:
        read, w = form(None, given["k"], given["beta"], given["y"], **rest(given))
        assert read is None
        torch.testing.assert_close(w, expected)


@pytest.mark.parametrize("channels", CHANNELS)
@pytest.mark.parametrize("split", [1, 16, 23, 39])
@pytest.mark.parametrize("form", FORMS)
def test_split_and_resume(form, split, channels):
    given = problem(40, channels)
    args, state = [given[n] for n in ("q", "k", "beta", "y")], given["state"]
    decay = given.get("decay")
    read, w = form(*args, decay=decay, state=state)
    left = accumulate(state, given["k"], w, decay)
    torch.testing.assert_close(left, recurrence(*args, decay=decay, state=state)[2])
    reads, parts = [], []
    for tokens in (slice(split), slice(split, None)):
        now = [t[..., tokens, :] for t in args]
        g = None if decay is None else decay[..., tokens, :]
        some, written = form(*now, decay=g, state=state)
        state = accumulate(state, now[1], written, g)
        reads.append(some)
        parts.append(written)
    assert_same([torch.cat(reads, -2), torch.cat(parts, -2), state], [read, w, left], 1e-12)


EXTREME = [0.0, -1e-30, -1e4, -3e38, -math.inf]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("channels", CHANNELS[1:])
@pytest.mark.parametrize("solve", [True, False])
@pytest.mark.parametrize("which", range(len(FAST)))
def test_extreme_decays(which, solve, channels, dtype):
    """Finite, and as exact as without them: nothing forgotten spoils what comes after."""
    given = {n: t.to(dtype) for n, t in problem(70, channels).items()}
    for i, g in enumerate(EXTREME):
        given["decay"][..., i + 5 :: 11, :1] = g
        given["decay"][..., i + 6 :: 17, :] = g
    exact = {n: t.double() for n, t in given.items()}
    fast, plain = (FAST, recurrence) if solve else (FAST_SUMS, definition_of_a_sum)
    form = fast[which]
    tolerance = 1e-11 if dtype == torch.float64 else 1e-5
    for got, want in zip(
        results(form, given, solve=solve), results(plain, exact, solve=solve), strict=True
    ):
        assert got.isfinite().all()
        assert (got - want).norm() <= tolerance * want.norm()
    for other in (delta.masked, delta.recurrent) if solve else SUMS[:2]:
        assert all(r.isfinite().all() for r in results(other, given, solve=solve))


@pytest.mark.parametrize("channels", CHANNELS[1:])
@pytest.mark.parametrize("g", EXTREME)
@pytest.mark.parametrize("form", FAST)
def test_the_same_extreme_decay_everywhere(form, g, channels):
    given = problem(40, channels)
    given["decay"] = torch.full_like(given["decay"], g)
    got = results(form, given)
    assert all(r.isfinite().all() for r in got)
    if g < -1:  # each token stands for itself
        torch.testing.assert_close(got[1], given["beta"] * given["y"])
    elif g == 0:
        del given["decay"]
        assert_same(got[:2], results(delta.masked, given)[:2])


@pytest.mark.parametrize("channels", CHANNELS)
@pytest.mark.parametrize("beta", [0.0, 1e-30, 1.0, 2.0])
@pytest.mark.parametrize("same", [True, False])
@pytest.mark.parametrize("form", FAST)
def test_extreme_strengths_in_float32(form, channels, beta, same):
    """2 is a reflection; with one key everywhere, the hardest system there is."""
    given = problem(200, channels)
    given["beta"] = torch.full_like(given["beta"], beta)
    if same:
        given["k"] = given["k"][..., :1, :].expand_as(given["k"]).clone()
    truth = results(recurrence, given)
    rounded = {n: t.float() for n, t in given.items()}
    for got, want in zip(results(form, rounded), truth, strict=True):
        assert (got - want).norm() <= 1e-4 * want.norm() + 1e-30


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("n", [17, 257])
@pytest.mark.parametrize("channels", CHANNELS)
@pytest.mark.parametrize("size", [1e-3, 1, 1e3])
@pytest.mark.parametrize("form", FAST)
def test_as_exact_as_the_formula(form, size, channels, n, dtype):
    """Scale-free: the error is at most twice (gradients three times) that of the recurrence."""
    given = {name: t.to(dtype) for name, t in problem(n, channels).items()}
    given["k"] = (given["k"] * size).to(dtype)
    given["beta"] = delta.write_strength(given["k"], given["beta"]).to(dtype)
    truth = results(recurrence, {name: t.double() for name, t in given.items()})
    plain = results(delta.recurrent, given)
    for i, (t, p, f) in enumerate(zip(truth, plain, results(form, given), strict=True)):
        assert f.dtype == p.dtype
        floor = (16 if i > 1 else 4) * torch.finfo(f.dtype).eps * t.norm()
        assert (f.double() - t).norm() <= (3 if i > 1 else 2) * (p.double() - t).norm() + floor


@pytest.mark.parametrize("form", FORMS)
def test_half_precision_solves_in_float32(form):
    given = {n: t.bfloat16() for n, t in problem(40).items()}
    exact = {n: t.double() for n, t in given.items()}
    with torch.autocast("cpu", torch.bfloat16):
        read, w = form(given["q"], given["k"], given["beta"], given["y"], **rest(given))
        left = accumulate(given["state"], given["k"], w, given["decay"])
    assert (read.dtype, w.dtype, left.dtype) == (torch.bfloat16, torch.float32, torch.float32)
    expected = recurrence(**exact)
    torch.testing.assert_close(w.double(), expected[1], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(left.double(), expected[2], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("channels", CHANNELS)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("j", [0, 7, 15, 16, 33, 69])
def test_later_tokens_change_nothing(form, channels, j):
    given = {n: t.float() for n, t in problem(70, channels).items()}
    total = SUMS[FORMS.index(form)]

    def values():
        args = [given[n] for n in ("q", "k", "beta", "y")]
        return [*form(*args, **rest(given)), total(args[0], args[1], args[3], **rest(given))]

    before = values()
    for name in ("q", "k", "beta", "y", "decay"):
        if name in given:
            given[name][..., j:, :] -= 0.7
    for a, b in zip(values(), before, strict=True):
        assert torch.equal(a[..., :j, :], b[..., :j, :])
        assert (a[..., j, :] != b[..., j, :]).any()


@pytest.mark.parametrize("channels", CHANNELS)
@pytest.mark.parametrize("form", FORMS)
def test_padding_changes_nothing(form, channels):
    """Its decay does not matter either: the state before the text is zero."""
    given = problem(30, channels, carried=False)
    count = torch.tensor([7, 0])
    for name in ("k", "beta", "y"):
        given[name] = past.erase(given[name], count, 0)
    args = [given[n] for n in ("q", "k", "beta", "y")]
    read, w = form(*args, **rest(given))
    alone = form(*(t[:1, :, 7:] for t in args), **{n: t[:1, :, 7:] for n, t in rest(given).items()})
    torch.testing.assert_close(read[:1, :, 7:], alone[0])
    torch.testing.assert_close(w[:1, :, 7:], alone[1])
    assert not w[:1, :, :7].any()


@pytest.mark.parametrize("channels", [0, 1])
@pytest.mark.parametrize("name", ["masked", "recurrent", "chunked", "scan"])
def test_the_state_read_from_its_other_side(name, channels):
    given = problem(40, channels)
    args, options = [given[n] for n in ("q", "k", "beta", "y")], rest(given)
    with forms.using(name):
        _, w = forms.delta_rule(*args, **options)
        got = forms.state_read(w, given["k"], **options)
    for i in (0, 15, 16, 39):
        now = {n: t if n == "state" else t[..., : i + 1, :] for n, t in given.items()}
        _, written, S = recurrence(**now)
        expected = torch.einsum("...ce,...e->...c", S, written[..., -1, :])
        torch.testing.assert_close(got[..., i, :], expected)


@pytest.mark.parametrize("form", FAST)
def test_what_is_kept(form):
    """The arguments and the errors."""
    kept = {}
    given = {n: t.requires_grad_() for n, t in problem(480, 1, heads=(3,), d=16, e=16).items()}
    with saved_tensors_hooks(lambda t: kept.setdefault(t.data_ptr(), t) is None or t, lambda t: t):
        form(given["q"], given["k"], given["beta"], given["y"], **rest(given))
    arguments = sum(t.numel() for t in given.values())
    assert sum(t.numel() for t in kept.values()) <= arguments + 1.1 * given["y"].numel()


# Whose update it is: docs/linear.md.


def test_deltanet():
    """`S_i = (I - β k kᵀ) S_{i-1} + β k vᵀ`, read with q: Yang et al. 2024."""
    q, k, beta, v = (problem(33, 0, heads=())[n] for n in ("q", "k", "beta", "y"))
    read, _ = delta.chunked(q, k, beta, v)
    S = torch.zeros(D, E, dtype=torch.float64)
    for i in range(33):
        S = S - beta[i] * torch.outer(k[i], k[i]) @ S + beta[i] * torch.outer(k[i], v[i])
        torch.testing.assert_close(read[i], S.T @ q[i])


@pytest.mark.parametrize("channels", [1, D])
def test_gated_deltanet_and_kda(channels):
    """`S_i = (I - β k kᵀ) D_i S_{i-1} + β k vᵀ`: Yang et al. 2025, Kimi Team 2025."""
    q, k, beta, v, g = problem(33, channels, heads=(), carried=False).values()
    read, _ = delta.chunked(q, k, beta, v, decay=g)
    S, eye = torch.zeros(D, E, dtype=torch.float64), torch.eye(D)
    for i in range(33):
        forgotten = g[i].exp().expand(D).diag() @ S
        S = (eye - beta[i] * torch.outer(k[i], k[i])) @ forgotten + beta[i] * torch.outer(
            k[i], v[i]
        )
        torch.testing.assert_close(read[i], S.T @ q[i])


@pytest.mark.parametrize("channels", [1, D])
def test_mamba2_and_gated_linear_attention(channels):
    """`S_i = D_i S_{i-1} + k vᵀ`: Dao and Gu 2024, Yang et al. 2024; nothing is solved."""
    q, k, _, v, g = problem(33, channels, heads=(), carried=False).values()
    read = forms.weighted_sum(q, k, v, decay=g)
    S = torch.zeros(D, E, dtype=torch.float64)
    for i in range(33):
        S = g[i].exp().expand(D).diag() @ S + torch.outer(k[i], v[i])
        torch.testing.assert_close(read[i], S.T @ q[i])


def test_a_triangular_system_of_the_kernel():
    """`(tril(k kᵀ) + diag ρ) w = y`, with keys of any length."""
    k, y, rho = random(60, D), random(60, E, seed=1), random(60, 1, seed=2).exp()
    _, w = delta.chunked(None, k, delta.write_strength(k, rho), y)
    torch.testing.assert_close((k @ k.T).tril() @ w + rho * w, y)
    torch.testing.assert_close(w, solve_dense(k, rho, y))


def test_the_exact_implicit_step():
    """Longhorn, not made diagonal: `S_i` minimises `ρ |S - S_{i-1}|² + |y_i - Sᵀk_i|²`."""
    k, y, rho = random(20, D), random(20, E, seed=1), random(20, 1, seed=2).exp()
    _, w = delta.chunked(None, k, delta.write_strength(k, rho), y)
    S = torch.zeros(D, E, dtype=torch.float64)
    for i in range(20):
        normal = rho[i] * torch.eye(D) + torch.outer(k[i], k[i])
        S = torch.linalg.solve(normal, rho[i] * S + torch.outer(k[i], y[i]))
        torch.testing.assert_close(accumulate(None, k[: i + 1], w[: i + 1]), S)


def test_limits_of_the_regulariser():
    """ρ → ∞: `ρ w → y`, a plain sum (Stein). ρ → 0: each step answers its own key exactly."""
    given = problem(40, 0, carried=False)
    q, k, y = given["q"], 3 * given["k"], given["y"]
    errors = []
    for rho in (1e4, 1e6):
        read, _ = delta.chunked(q, k, delta.write_strength(k, rho), y)
        errors.append((rho * read - prefix_sums.masked(q, k, y)).norm().item())
    assert errors[0] / errors[1] == pytest.approx(100, rel=0.2)
    answers, _ = delta.chunked(k, k, delta.write_strength(k, 1e-13), y)
    torch.testing.assert_close(answers, y, rtol=1e-8, atol=1e-8)
    _, w = delta.chunked(k, k, delta.write_strength(k, 0.5), y)
    answers, _ = delta.chunked(k, k, delta.write_strength(k, 0.5), y)
    torch.testing.assert_close(answers, y - 0.5 * w)  # the velocity is K w = y - ρ w


@pytest.mark.parametrize("name", ["masked", "recurrent", "chunked", "scan"])
def test_the_choice_of_a_form(name):
    """Every operation runs in the form that is asked for, and says so."""
    q, k, beta, v, g = problem(5, 1, heads=(1,), carried=False).values()
    with forms.using(name), forms.recorded() as used:
        forms.weighted_sum(q, k, v, decay=g)
        forms.delta_rule(q, k, beta, v, decay=g)
        forms.prefix_ridge(q, k, v, ridge=torch.ones(D, dtype=torch.float64), decay=g)
        forms.momentum_delta_rule(q, k, v, beta=beta, eta=beta, mu=beta, decay=g)
    assert len(used) == 4
    for line in used:  # a momentum along the text has no code in C++
        assert line.split()[0] == ("chunked" if name == "scan" and "momentum" in line else name)
    with pytest.raises(InputError, match="causality 'prefix'"):
        forms.weighted_sum(q, k, v, causality="joint", decay=g)


@pytest.mark.parametrize("form", ["masked", "recurrent", "chunked", "scan"])
def test_a_decay_is_of_every_token(form):
    """A constant one for all would be summed once, and forms would differ in silence."""
    given = problem(20, carried=False)
    given["decay"] = given["decay"][..., :1, :]
    with forms.using(form), pytest.raises(InputError, match="give one to each"):
        forms.delta_rule(**given)
    with forms.using(form), pytest.raises(InputError, match="give one to each"):
        forms.weighted_sum(given["q"], given["k"], given["y"], decay=given["decay"])
