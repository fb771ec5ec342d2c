"""The Triton kernels against the naive form: on a GPU if there is one, else in the interpreter."""

import os
import subprocess
import sys
from functools import partial

import numpy as np
import pytest
import torch

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
pytest.importorskip("triton")

from sympformer.attention import forms, kernels, naive  # noqa: E402
from sympformer.causality import audit, checks, copies  # noqa: E402
from sympformer.errors import InputError  # noqa: E402
from sympformer.model import build  # noqa: E402

CAUSALITIES = ["prefix", "joint"]
LENGTHS = [1, 2, 63, 64, 65, 257]


@pytest.fixture(autouse=DEVICE == "cpu")
def _bfloat16_in_the_interpreter(monkeypatch):
    """As on a GPU: the interpreter of Triton 3.9 multiplies bit patterns, and truncates."""
    from triton import language as tl  # pyright: ignore[reportMissingImports]
    from triton.runtime import interpreter  # pyright: ignore[reportMissingImports]

    builder = interpreter.InterpreterBuilder
    cast, dot = builder.cast_impl, builder.create_dot

    def rounding_cast(self, src, dst_type):
        if (src.dtype.scalar, dst_type.scalar) != (tl.float32, tl.bfloat16):
            return cast(self, src, dst_type)
        bits = torch.from_numpy(src.data).bfloat16().view(torch.int16).numpy().view(np.uint16)
        return interpreter.TensorHandle(bits, tl.bfloat16)

    def float_dot(self, a, b, *rest):
        if a.dtype.scalar == tl.bfloat16:
            a, b = (self.cast_impl(t, tl.float32) for t in (a, b))
        return dot(self, a, b, *rest)

    monkeypatch.setattr(builder, "cast_impl", rounding_cast)
    monkeypatch.setattr(builder, "create_dot", float_dot)


@pytest.fixture
def cut(monkeypatch):
    """A function that sets the queries and the keys of a block."""
    return lambda rows, keys: monkeypatch.setattr(
        kernels, "blocks", lambda *_: kernels.Blocks(rows, keys, 1)
    )


def random(*shape, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64).to(DEVICE, dtype)


def both(q, k, v, **options):
    return naive.average(q, k, v, **options), naive.log_sum_exp(q, k, **options)


def results(form, inputs, weights, **options):
    """Values of a form, then the gradients of their weighted sum."""
    inputs = [t.detach().requires_grad_() for t in inputs]
    values = form(*inputs, **options)
    total = sum((v * w.to(v.dtype)).sum() for v, w in zip(values, weights, strict=True))
    return [*values, *torch.autograd.grad(total, inputs)]


def check(inputs, **options):
    """Values within 1e-10 of the naive form, and gradients within 1e-8; float64."""
    shape = torch.broadcast_shapes(*(t.shape[:-2] for t in inputs))
    n, width = inputs[0].shape[-2], inputs[2].shape[-1]
    weights = [random(*shape, n, e, seed=9) for e in (width, 1)]
    got = results(kernels.attend, inputs, weights, **options)
    expected = results(both, inputs, weights, **options)
    for tolerance, fast, want in zip([1e-10] * 2 + [1e-8] * 3, got, expected, strict=True):
        torch.testing.assert_close(fast, want, rtol=0, atol=tolerance)


def problem(n, n_key, d, e, batch=(1,), **options):
    shapes = (n, d), (n_key, d), (n_key, e)
    return [random(*batch, *shape, seed=s, **options) for s, shape in enumerate(shapes)]


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("causality", CAUSALITIES)
def test_values_and_gradients_in_float64(length, causality, cut):
    cut(64, 64)
    q, k, v = problem(length, length, 8, 8)
    check([3 * q, 3 * k, v], causality=causality, scale=0.7)


@pytest.mark.parametrize(("rows", "keys"), [(16, 32), (32, 16)])
@pytest.mark.parametrize(("n", "n_key"), [(40, 40), (5, 37), (32, 48), (1, 33)])
@pytest.mark.parametrize("causality", CAUSALITIES)
def test_newest_queries_in_blocks_of_any_shape(rows, keys, n, n_key, causality, cut):
    cut(rows, keys)
    check(problem(n, n_key, 8, 8), causality=causality)


@pytest.mark.parametrize(("d", "e"), [(3, 5), (8, 24), (48, 144), (16, 130), (64, 10), (130, 16)])
def test_widths_of_keys_and_values(d, e, cut):
    cut(32, 32)
    check(problem(33, 33, d, e), scale=d**-0.5)


def test_more_keys_than_a_causal_query_would_need(cut):
    cut(16, 16)
    check(problem(20, 7, 4, 4), causality="joint")


@pytest.mark.parametrize("scale", [-0.5, 0.0])
def test_scales_that_are_not_positive(scale, cut):
    cut(16, 16)
    check(problem(18, 18, 4, 4), scale=scale)


def test_layouts(cut):
    """Heads behind tokens, one key head for several query heads, no or many leading axes."""
    cut(16, 16)
    q, k, v = (t.transpose(1, 2) for t in problem(2, 2, 4, 4, batch=(2, 9)))
    check([q, k, v])
    check([q, k[:, :1], v[:1]])
    check([q[0, 0], k[0, 0], v[0, 0]])
    check([t[None, :, None] for t in (q, k, v)])
    check([t.mT.contiguous().mT for t in (q, k, v)])


def test_no_queries():
    out, log_sum = kernels.attend(*problem(0, 5, 4, 6))
    assert out.shape == (1, 0, 6)
    assert log_sum.shape == (1, 0, 1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", [1, 30, 1000])
@pytest.mark.filterwarnings("ignore:overflow:RuntimeWarning")  # keys past the end: never stored
def test_as_exact_as_the_naive_form(dtype, size, cut):
    """Scale-free: the error is at most twice (gradients three times) that of the naive form.

    The largest errors are a few rounded ties; with many heads they do not depend on luck.
    """
    cut(64, 64)
    q, k, v = problem(65, 65, 16, 16, batch=(6,))
    exact = [t.to(dtype).double() for t in (q * size / (q @ k.mT).abs().max(), k, v)]
    weights = [random(6, 65, 16, seed=3), random(6, 65, 1, seed=4)]
    truth = results(both, exact, weights)
    plain = results(both, [t.to(dtype) for t in exact], weights)
    fast = results(kernels.attend, [t.to(dtype) for t in exact], weights)
    assert [f.dtype for f in fast] == [p.dtype for p in plain]
    for factor, t, p, f in zip([2, 2, 3, 3, 3], truth, plain, fast, strict=True):
        floor = torch.finfo(dtype).eps * t.abs().max()
        assert (f.double() - t).abs().max() <= factor * (p.double() - t).abs().max() + floor


def test_a_single_key_has_weight_one():
    q, k, v = problem(3, 3, 8, 8, dtype=torch.float32)
    assert torch.equal(kernels.average(1e3 * q, k, v)[:, 0], v[:, 0])


def test_values_of_another_dtype():
    q, k, v = problem(5, 5, 8, 8)
    out, log_sum = kernels.attend(q.float(), k.float(), v)
    assert (out.dtype, log_sum.dtype) == (torch.float64, torch.float32)
    torch.testing.assert_close(out, naive.average(q, k, v), rtol=0, atol=1e-5)


def test_later_tokens_change_nothing(cut):
    """Nor is there any gradient to them, whatever the blocks."""
    cut(32, 16)
    inputs = problem(60, 60, 8, 8, dtype=torch.float32)
    before = kernels.attend(*inputs)
    changed = [torch.cat([t[:, :41], 7 + t[:, 41:]], dim=1).requires_grad_() for t in inputs]
    after = [t[:, :41] for t in kernels.attend(*changed)]
    assert all(torch.equal(b[:, :41], a) for b, a in zip(before, after, strict=True))
    for gradient in torch.autograd.grad(sum(t.sum() for t in after), changed):
        assert not gradient[:, 41:].any()


def test_a_longer_context_changes_nothing_earlier(cut):
    cut(16, 16)
    q, k, v = problem(50, 50, 8, 8, dtype=torch.float32)
    for whole, part in zip(
        kernels.attend(q, k, v), kernels.attend(*(t[:, :35] for t in (q, k, v))), strict=True
    ):
        assert torch.equal(whole[:, :35], part)
    newest = kernels.average(q[:, 40:], k, v)
    torch.testing.assert_close(newest, kernels.average(q, k, v)[:, 40:])


def test_uninitialised_memory_does_not_matter(cut):
    """With deterministic algorithms, torch fills every new buffer with NaN."""
    cut(32, 16)
    weights = [random(1, 37, 5, seed=3), random(1, 37, 1, seed=4)]
    torch.use_deterministic_algorithms(True)
    try:
        assert torch.utils.deterministic.fill_uninitialized_memory
        got = results(kernels.attend, problem(37, 41, 5, 5), weights)
    finally:
        torch.use_deterministic_algorithms(False)
    assert all(r.isfinite().all() for r in got)


def test_gradcheck(cut):
    cut(16, 16)
    inputs = [t.requires_grad_() for t in problem(2, 3, 2, 2)]
    assert torch.autograd.gradcheck(kernels.attend, inputs)


@pytest.mark.parametrize("causality", CAUSALITIES)
def test_derivatives_of_every_kind(causality, cut):
    """Second ones, forward mode, batches of gradients; transforms."""
    cut(16, 16)
    inputs = [t.requires_grad_() for t in problem(2, 3, 2, 2)]
    form = partial(kernels.attend, causality=causality, scale=0.7)
    options = {"check_batched_grad": True}
    assert torch.autograd.gradcheck(form, inputs, check_forward_ad=True, **options)
    assert torch.autograd.gradgradcheck(form, inputs, check_fwd_over_rev=True, **options)

    def value(form, *inputs):
        out, log_sum = form(*inputs, causality=causality, scale=0.7)
        return out.square().sum() + log_sum.exp().sum()

    every = (0, 1, 2)
    got, expected = (
        torch.func.hessian(partial(value, f), every)(*inputs) for f in (kernels.attend, both)
    )
    torch.testing.assert_close(got, expected)


def test_a_transform_of_values_of_more_heads():
    q, k, v = problem(3, 3, 2, 2)
    wide = torch.cat([v, v + 1])
    got = torch.func.vmap(kernels.attend, (None, None, 0))(q, k, torch.stack([wide, wide]))
    for values, want in zip(got, kernels.attend(q, k, wide), strict=True):
        torch.testing.assert_close(values, torch.stack([want, want]))


def test_the_operators_are_well_formed():
    """Shapes without data, gradient and schema, as torch checks them."""
    inputs = [t.requires_grad_() for t in problem(3, 5, 4, 6, batch=(1, 2))]
    torch.library.opcheck(kernels._forward, (*inputs, True, 0.5))


def test_one_graph(cut):
    cut(16, 16)
    compiled = torch.compile(kernels.attend, fullgraph=True, backend="aot_eager")
    inputs, weights = problem(20, 20, 4, 12), [random(1, 20, 12, seed=3), random(1, 20, 1, seed=4)]
    for fast, want in zip(
        results(compiled, inputs, weights), results(kernels.attend, inputs, weights), strict=True
    ):
        assert torch.equal(fast, want)


AUDITED = [("gpt", "prefix"), ("symp-r2", "prefix")]
if os.environ.get("SYMPFORMER_FAULTS") == "long":  # the interpreter takes its time
    AUDITED += [("symp-exp-euler", "prefix"), ("gpt", "joint")]


@pytest.mark.parametrize(("name", "causality"), AUDITED)
def test_the_audit_of_models(name, causality, tiny, cut, monkeypatch):
    """Influence, gradient, prefix and cache, in blocks shorter than the text; one set of weights,
    large enough for tokens to interact.
    """
    cut(16, 16)
    monkeypatch.setattr(forms, "_has_triton", lambda: True)
    monkeypatch.setattr(copies, "SCALES", ())
    monkeypatch.setattr(checks, "ROWS", 2)
    model = build(tiny(name, n_layer=1, n_head=1, causality=causality)).to(DEVICE)
    for p in model.parameters():
        if p.ndim > 1:
            torch.nn.init.normal_(p, std=p.shape[1] ** -0.5)
    with forms.using("triton"), forms.recorded() as used:
        report = audit(model, length=18)
    assert {line.split()[0] for line in used} == {"triton"}
    assert report.passed == (causality == "prefix")
    assert report.causal == (causality == "prefix")


@pytest.mark.parametrize(
    ("shapes", "says"),
    [
        (((2, 300), (2, 300), (2, 4)), "another attention form"),
        (((2, 4), (2, 4), (2, 600)), "another attention form"),
        (((3, 4), (2, 4), (2, 4)), "pass the keys of all"),
    ],
)
def test_what_is_not_served_is_refused_in_one_line(shapes, says):
    with pytest.raises(InputError, match=says) as refused:
        kernels.attend(*(torch.zeros(shape, device=DEVICE) for shape in shapes))
    assert "\n" not in str(refused.value)
    q = torch.zeros(2, 4, device=DEVICE)
    with pytest.raises(InputError, match="one dtype"):
        kernels.attend(q, q.double(), q)


COMPILE = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from sympformer.attention import kernels, triton_code

sizes = {"D": 16, "E": 48, "SCALE": 0.5, "CAUSAL": True, "BLOCK_D": 16, "BLOCK_E": 16}
for kernel in kernels.BLOCKS:
    rows, keys, stages = kernels.blocks(kernel, 64, 2)
    constants = {**sizes, "ROWS": rows, "KEYS": keys}
    def kind(name):
        if name in constants:
            return "constexpr"
        if name.endswith("_strides"):
            return ("i32",) * 3
        if name in ("heads", "n_query", "n_key"):
            return "i32"
        return "*fp32" if name in ("log_sum", "top", "inverse", "delta", "h") else "*bf16"
    signature = {name: kind(name) for name in kernel.arg_names}
    at = {(kernel.arg_names.index(name),): value for name, value in constants.items()}
    source = ASTSource(kernel, signature, at)
    options = {"num_warps": kernels.WARPS, "num_stages": stages, "enable_fp_fusion": True}
    code = triton.compile(source, target=GPUTarget("cuda", 80, 32), options=options)
    assert len(code.asm["cubin"]) > 0
    print(kernel.__name__, code.metadata.shared)
"""


def test_the_kernels_compile_for_a_gpu(tmp_path):
    """The interpreter runs much that the compiler, which needs no GPU, refuses."""
    done = subprocess.run(
        [sys.executable, "-c", COMPILE],
        env={**os.environ, "TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    shared = dict(line.split() for line in done.stdout.splitlines())
    assert set(shared) == {"forward", "backward_queries", "backward_keys"}
    assert max(map(int, shared.values())) <= 99 * 1024
