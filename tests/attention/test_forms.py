"""Every fast form against the naive one, and the choice among them."""

import threading
from functools import partial

import pytest
import torch

import sympformer as sf
from sympformer.attention import forms, tiled
from sympformer.errors import InputError

LENGTHS = [1, 2, 63, 64, 65, 257]
FAST = ["fused", "tiled"]


def random(*shape, seed=0, dtype=torch.float64):
    return torch.randn(
        *shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    ).to(dtype)


def call(name, q, k, v, **options):
    """The average and, where the form has it, the log-sum-exp."""
    form = forms.SOFTMAX[name]
    return (
        form.attend(q, k, v, **options) if name != "fused" else [form.average(q, k, v, **options)]
    )


def results(name, inputs, weights, **options):
    """Values of a form, then the gradients of their weighted sum."""
    inputs = [t.detach().requires_grad_() for t in inputs]
    values = call(name, *inputs, **options)
    total = sum((v * w.to(v.dtype)).sum() for v, w in zip(values, weights, strict=False))
    return [*values, *torch.autograd.grad(total, inputs)]


def reference(name, inputs, weights, **options):
    """What `results` should be."""
    return results("naive", inputs, weights if name != "fused" else weights[:1], **options)


def drop_log_sum(name, values):
    return values if name != "fused" else [values[0], *values[2:]]


@pytest.mark.parametrize("name", FAST)
@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("width", [8, 3, 24])
@pytest.mark.parametrize("causality", ["prefix", "joint"])
def test_values_and_gradients_in_float64(name, length, width, causality):
    inputs = [3 * random(2, 2, length, 8), 3 * random(2, 2, length, 8, seed=1)]
    inputs.append(random(2, 2, length, width, seed=2))
    weights = [random(2, 2, length, width, seed=3), random(2, 2, length, 1, seed=4)]
    options = {"causality": causality, "scale": 0.7}
    expected = drop_log_sum(name, reference(name, inputs, weights, **options))
    got = results(name, inputs, weights, **options)
    for i, (fast, want) in enumerate(zip(got, expected, strict=True)):
        tolerance = 1e-10 if i < len(got) - 3 else 1e-8
        torch.testing.assert_close(fast, want, rtol=0, atol=tolerance)


@pytest.mark.parametrize("name", FAST)
def test_newest_queries_of_a_longer_prefix(name):
    inputs = [random(2, 5, 8), random(2, 70, 8, seed=1), random(2, 70, 8, seed=2)]
    weights = [random(2, 5, 8, seed=3), random(2, 5, 1, seed=4)]
    expected = drop_log_sum(name, reference(name, inputs, weights))
    for fast, want in zip(results(name, inputs, weights), expected, strict=True):
        torch.testing.assert_close(fast, want, rtol=0, atol=1e-10)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("length", [65, 257])
@pytest.mark.parametrize("size", [1, 30, 1000])
def test_tiles_are_as_exact_as_the_naive_form(dtype, length, size):
    """Scale-free: their error is at most twice (gradients three times) that of the naive form."""
    q, k, v = (random(4, length, 16, seed=s) for s in range(3))
    top = (q @ k.mT).abs().max()
    exact = [(q * size / top).to(dtype).double(), k.to(dtype).double(), v.to(dtype).double()]
    weights = [random(4, length, 16, seed=3), random(4, length, 1, seed=4)]
    truth = results("naive", exact, weights)
    rounded = [t.to(dtype) for t in exact]
    plain = results("naive", rounded, weights)
    fast = results("tiled", rounded, weights)
    for factor, t, p, f in zip([2, 2, 3, 3, 3], truth, plain, fast, strict=True):
        floor = torch.finfo(dtype).eps * t.abs().max()
        assert (f.double() - t).abs().max() <= factor * (p.double() - t).abs().max() + floor


@pytest.mark.parametrize("size", [1, 1000])
def test_products_of_single_heads_are_as_exact(size, each_by_itself):
    test_tiles_are_as_exact_as_the_naive_form(torch.float32, 257, size)


@pytest.mark.parametrize("causality", ["prefix", "joint"])
def test_gradcheck(causality):
    inputs = [random(1, 5, 3, seed=s).requires_grad_() for s in range(3)]
    assert torch.autograd.gradcheck(partial(tiled.attend, causality=causality), inputs)


def test_tiles_of_several_heads_and_rows(monkeypatch):
    inputs = [random(5, 23, 4, seed=s) for s in range(3)]
    weights = [random(5, 23, 4, seed=3), random(5, 23, 1, seed=4)]
    expected = results("naive", inputs, weights)
    monkeypatch.setattr(tiled, "ROWS", 7)
    monkeypatch.setattr(tiled, "ELEMENTS", 7 * 23 * 2)
    for fast, want in zip(results("tiled", inputs, weights), expected, strict=True):
        torch.testing.assert_close(fast, want, rtol=0, atol=1e-10)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_uninitialised_memory_does_not_matter(dtype, each_by_itself):
    """With deterministic algorithms, torch fills every new buffer with NaN."""
    inputs = [random(2, 130, 16, seed=s, dtype=dtype) for s in range(3)]
    weights = [random(2, 130, 16, seed=3)]
    torch.use_deterministic_algorithms(True)
    try:
        assert torch.utils.deterministic.fill_uninitialized_memory
        assert all(r.isfinite().all() for r in results("tiled", inputs, weights))
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("name", ["naive", *FAST])
def test_later_tokens_change_nothing(name):
    q, k, v = (random(2, 150, 4, seed=s, dtype=torch.float32) for s in range(3))
    before = call(name, q, k, v)
    for t in (q, k, v):
        t[:, 100:] = 7.0
    for old, new in zip(before, call(name, q, k, v), strict=True):
        assert torch.equal(old[:, :100], new[:, :100])


def test_no_look_ahead_in_products_of_single_heads(each_by_itself):
    q, k, v = (random(2, 300, 8, seed=s, dtype=torch.float32) for s in range(3))
    before = call("tiled", q, k, v)
    for t in (q, k, v):
        t[:, 150:] = 7.0
    for old, new in zip(before, call("tiled", q, k, v), strict=True):
        assert torch.equal(old[:, :150], new[:, :150])


def test_the_operator_is_well_formed():
    """Its shapes without data, its gradient and its schema, as torch checks them."""
    q, k, v = (random(2, 9, 4, seed=s).requires_grad_() for s in range(3))
    for log_sum in (True, False):
        torch.library.opcheck(tiled._forward, (q, k, v, True, log_sum))


def chosen(n, n_key, width, log_sum=False, heads=8):
    q, k, v = torch.randn(2, n, heads), torch.randn(2, n_key, heads), torch.randn(2, n_key, width)
    with forms.recorded() as used:
        forms.attend(q, k, v) if log_sum else forms.average(q, k, v)
    (line,) = used
    return line.split()[0]


def test_the_choice():
    assert chosen(1, 300, 8) == "naive"
    assert chosen(64, 64, 8) == "fused"
    assert chosen(300, 300, 8) == "tiled"
    assert chosen(300, 300, 16, heads=16) == "fused"
    assert chosen(600, 600, 16, heads=16) == "tiled"
    assert chosen(64, 64, 24) == "tiled"
    assert chosen(64, 64, 8, log_sum=True) == "tiled"
    with forms.using("naive"):
        assert chosen(64, 64, 24) == "naive"
        with forms.using("auto"):
            assert chosen(64, 64, 8) == "fused"
    assert chosen(64, 64, 8) == "fused"


def test_threads_have_forms_of_their_own():
    found, q = {}, torch.randn(2, 5, 8)

    def other():
        found["before"] = chosen(64, 64, 24)
        with forms.using("fused"):
            forms.average(q, q, q)
            inside.set()
            left.wait(10)
            found["inside"] = chosen(64, 64, 24)
        found["after"] = chosen(64, 64, 24)

    inside, left = threading.Event(), threading.Event()
    thread = threading.Thread(target=other)
    with forms.using("naive"), forms.recorded() as used:
        thread.start()
        assert inside.wait(10)
        assert chosen(64, 64, 24) == "naive"
    assert chosen(64, 64, 24) == "tiled"
    left.set()
    thread.join()
    assert found == {"before": "tiled", "inside": "fused", "after": "tiled"}
    assert used == set()


def test_a_form_ends_with_an_error():
    with pytest.raises(ZeroDivisionError), forms.using("naive"), forms.recorded():
        raise ZeroDivisionError
    assert chosen(64, 64, 24) == "tiled"
    assert forms._state.used is None


def test_the_choice_of_linear_forms(tiny):
    model, tokens = sf.build(tiny("linear-symp-r2")), torch.randint(0, 37, (1, 9))
    choices = [("auto", "scan"), ("chunked", "chunked"), ("masked", "masked"), ("tiled", "scan")]
    for asked, runs in choices:
        with forms.using(asked), forms.recorded() as used:
            model(tokens)
        assert {line.split()[0] for line in used} == {runs}
    for asked in ("auto", "scan"):  # heads of 4 numbers
        narrow = sf.build(tiny("linear-symp-r2", n_embd=8))
        with forms.using(asked), forms.recorded() as used:
            narrow(tokens)
        assert {line.split()[0] for line in used} == {"chunked"}


def test_a_compiled_layer_is_recorded_in_two_passes(tiny):
    model, tokens = sf.build(tiny("symp-r2")), torch.randint(0, 37, (1, 9))
    for compiled, runs in [(False, {"sweep"}), (True, {"fused", "tiled"})]:
        with forms.recorded(compiled) as used:
            model(tokens)
        assert {line.split()[0] for line in used} == runs


def test_the_record_says_what_decided():
    q = torch.randn(2, 5, 8)
    with forms.recorded() as used:
        forms.attend(q, q, torch.cat([q, q], dim=-1))
    assert used == {"tiled for values of width 16 and log-sum-exp (cpu float32, heads of width 8)"}


@pytest.mark.parametrize(
    ("name", "says"), [("tilde", "did you mean 'tiled'"), ("triton", "CUDA"), ("fused", "naive")]
)
def test_a_form_that_cannot_run_is_refused_in_one_line(name, says):
    if name == "triton" and torch.cuda.is_available():
        pytest.skip("it can")
    q = torch.randn(2, 5, 8)
    with pytest.raises(InputError, match=says) as refused, forms.using(name):
        forms.attend(q, q, q)
    assert "\n" not in str(refused.value)
