"""Every form of a prefix sum, and of a prefix system, against its formula."""

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import sympformer as sf
from sympformer.attention import chunked as in_chunks
from sympformer.attention.prefix_solve import solve_chunked, solve_dense, solve_scanned
from sympformer.attention.prefix_sums import accumulate, chunked, masked, recurrent, scanned

LENGTHS = [1, 2, 63, 64, 65, 257]
CAUSALITIES = ["prefix", "joint"]
SUMS, SOLVES = [chunked, scanned], [solve_chunked, solve_scanned]


def random(*shape, seed=0, dtype=torch.float64):
    return torch.randn(
        *shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    ).to(dtype)


def sum_inputs(length, d=8, e=16, *, carried=True):
    """Queries, keys and values, and the state that earlier tokens left."""
    shapes = [(2, 3, length, d), (2, 3, length, d), (2, 3, length, e), (2, 3, d, e)]
    return [random(*shape, seed=s) for s, shape in enumerate(shapes[: 3 + carried])]


def system(length, d=8, e=16, *, carried=True):
    """Keys, diagonal, right-hand sides of a system, and a state."""
    k, _, b, *state = sum_inputs(length, d, e, carried=carried)
    return [k, random(2, 1, length, 1, seed=5).exp(), b, *state]


def call(form, inputs, **options):
    return form(*inputs[:3], state=inputs[3] if len(inputs) > 3 else None, **options)


def results(form, inputs, **options):
    """Values, then the gradients of a weighted sum of them."""
    inputs = [t.detach().requires_grad_() for t in inputs]
    out = call(form, inputs, **options)
    weight = random(*out.shape, seed=9).to(out.dtype)
    return [out, *torch.autograd.grad((out * weight).sum(), inputs)]


def assert_same(got, expected):
    for i, (a, b) in enumerate(zip(got, expected, strict=True)):
        size = max(1.0, b.abs().max().item())
        torch.testing.assert_close(a, b, rtol=0, atol=(1e-8 if i else 1e-10) * size)


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("causality", CAUSALITIES)
@pytest.mark.parametrize("carried", [True, False])
@pytest.mark.parametrize("form", [recurrent, *SUMS])
def test_sums_in_float64(form, length, causality, carried):
    inputs = sum_inputs(length, carried=carried)
    expected = results(masked, inputs, causality=causality)
    assert_same(results(form, inputs, causality=causality), expected)


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("causality", CAUSALITIES)
@pytest.mark.parametrize("carried", [True, False])
@pytest.mark.parametrize("form", SOLVES)
def test_systems_in_float64(form, length, causality, carried):
    inputs = system(length, carried=carried)
    expected = results(solve_dense, inputs, causality=causality)
    assert_same(results(form, inputs, causality=causality), expected)


def test_a_system_is_solved():
    k, rho, b, state = system(130)
    y = solve_chunked(k, rho, b, state=state)
    torch.testing.assert_close(rho * y + masked(k, k, y, state=state), b)


def test_tokens_are_summed_in_groups(monkeypatch):
    inputs = sum_inputs(70), system(70)
    expected = [results(chunked, inputs[0]), results(solve_chunked, inputs[1])]
    monkeypatch.setattr(in_chunks, "WORKSPACE", 6 * 8 * 32)
    assert len(in_chunks.groups(inputs[0][1], 16)) == 3
    assert_same(results(chunked, inputs[0]), expected[0])
    assert_same(results(solve_chunked, inputs[1]), expected[1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("length", LENGTHS[2:])
@pytest.mark.parametrize("size", [1e-3, 1, 1e3])
@pytest.mark.parametrize("fast", [*SUMS, *SOLVES])
def test_as_exact_as_the_formula(dtype, length, size, fast):
    """Scale-free: the error is at most twice (gradients three times) that of the formula."""
    naive = masked if fast in SUMS else solve_dense
    inputs = sum_inputs(length) if fast in SUMS else system(length)
    keys = inputs[1] if fast in SUMS else inputs[0]
    top = (inputs[0] @ keys.mT).abs().max()
    inputs[0] = inputs[0] * (size / top if fast in SUMS else (size / top).sqrt())
    rounded = [t.to(dtype) for t in inputs]
    truth = results(naive, [t.double() for t in rounded])
    plain = results(naive, rounded)
    for i, (t, p, f) in enumerate(zip(truth, plain, results(fast, rounded), strict=True)):
        floor = torch.finfo(f.dtype).eps * t.norm()
        error, allowed = (f.double() - t).norm(), (p.double() - t).norm()
        assert error <= (3 if i else 2) * allowed + floor


@pytest.mark.parametrize("form", [*SUMS, *SOLVES])
@pytest.mark.parametrize("carried", [True, False])
def test_gradcheck(form, carried, monkeypatch):
    monkeypatch.setattr(in_chunks, "chunk_size", lambda k, y: 4)
    inputs = [random(1, 5, 8, seed=s) for s in range(3)]
    if form in SOLVES:
        inputs[1] = inputs[1][..., :1].exp()
    if carried:
        inputs.append(random(1, 8, 8, seed=3))
    inputs = [t.requires_grad_() for t in inputs]
    assert torch.autograd.gradcheck(lambda *t: call(form, t), inputs)
    assert torch.autograd.gradgradcheck(lambda *t: call(form, t), inputs)


@pytest.mark.parametrize("split", [1, 40, 64, 129])
@pytest.mark.parametrize(("sums", "solves"), list(zip(SUMS, SOLVES, strict=True)))
def test_split_and_resume(sums, solves, split):
    """What a text leaves is all that the rest of it needs."""
    q, k, v, state = sum_inputs(130)
    whole = sums(q, k, v, state=state)
    now, later = slice(split), slice(split, None)
    left = accumulate(state, k[..., now, :], v[..., now, :])
    rest = sums(*(t[..., later, :] for t in (q, k, v)), state=left)
    torch.testing.assert_close(rest, whole[..., later, :])

    k, rho, b, state = system(130)
    y = solves(k, rho, b, state=state)
    left = accumulate(state, k[..., now, :], y[..., now, :])
    rest = solves(*(t[..., later, :] for t in (k, rho, b)), state=left)
    torch.testing.assert_close(rest, y[..., later, :])


@pytest.mark.parametrize("form", [*SUMS, *SOLVES])
@pytest.mark.parametrize("j", [0, 31, 32, 100, 129])
def test_later_tokens_change_nothing(form, j):
    inputs = system(130) if form in SOLVES else sum_inputs(130)
    inputs = [t.float() for t in inputs]
    before = call(form, inputs)
    for t in inputs[:3]:
        t[..., j:, :] += 1
    after = call(form, inputs)
    assert torch.equal(after[..., :j, :], before[..., :j, :])
    assert (after[..., j, :] != before[..., j, :]).any()


@pytest.mark.parametrize("form", [*SUMS, *SOLVES])
def test_nan_stays_in_its_chunk_and_behind(form):
    """Within a chunk it spreads, as in the formula: zero times NaN is NaN."""
    inputs = system(200) if form in SOLVES else sum_inputs(200)
    for t in inputs[:3]:
        t[..., 150, :] = torch.nan
    assert call(form, inputs)[..., :128, :].isfinite().all()


def test_uninitialised_memory_does_not_matter():
    """With deterministic algorithms, torch fills every new buffer with NaN."""
    torch.use_deterministic_algorithms(True)
    try:
        assert torch.utils.deterministic.fill_uninitialized_memory
        for sums, solves in zip(SUMS, SOLVES, strict=True):
            assert all(r.isfinite().all() for r in results(sums, sum_inputs(130)))
            assert all(r.isfinite().all() for r in results(solves, system(130)))
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("form", [*SUMS, recurrent])
@pytest.mark.parametrize("causality", CAUSALITIES)
@pytest.mark.parametrize("length", [20, 2000])
def test_autocast_leaves_sums_in_float32(form, causality, length):
    if form is recurrent:
        length = length // 20
    inputs = [t.float().requires_grad_() for t in sum_inputs(length)]
    expected = results(masked, [t.double() for t in inputs], causality=causality)
    with torch.autocast("cpu", torch.bfloat16):
        out = form(*inputs[:3], state=inputs[3], causality=causality)
        assert accumulate(None, inputs[1].bfloat16(), inputs[2].bfloat16()).dtype == torch.float32
    weight = random(*out.shape, seed=9).float()
    got = [out, *torch.autograd.grad((out * weight).sum(), inputs)]
    for a, b in zip(got, expected, strict=True):
        assert a.dtype == torch.float32
        assert (a - b).abs().max() < 1e-5 * b.abs().max()


@pytest.mark.parametrize("form", SUMS)
def test_only_the_arguments_are_kept(form):
    kept = []
    inputs = [t.requires_grad_() for t in sum_inputs(500, carried=False)]
    with saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
        form(*inputs)
    assert sum(kept) <= 1.1 * sum(t.numel() for t in inputs)


LINEAR = [n for n in sf.presets() if sf.ModelConfig.preset(n).attention != "softmax"]


class Largest(TorchDispatchMode):
    """The number of elements of the largest tensor that is made."""

    size = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        sizes = [t.numel() for t in tree_leaves(out) if isinstance(t, torch.Tensor)]
        self.size = max([self.size, *sizes])
        return out


@pytest.mark.parametrize("name", LINEAR)
def test_no_model_makes_a_matrix_of_tokens(name, tiny):
    """In a training step, the largest tensor is linear in the length of the text."""
    length = 1024
    model = sf.build(tiny(name, block_size=length, n_layer=1))
    tokens = torch.randint(37, (1, length))
    with Largest() as largest:
        model(tokens, tokens).loss.backward()
    assert 0 < largest.size <= 128 * length < length**2
