"""Both averages of an accelerated layer in one sweep, against two passes of the naive form."""

import pytest
import torch

import sympformer as sf
from sympformer.attention import forms, naive, tiled
from sympformer.attention.sweep import sweep

SOFTMAX = [n for n in sf.presets() if sf.ModelConfig.preset(n).attention == "softmax"]


def random(*shape, seed=0, dtype=torch.float64):
    return torch.randn(
        *shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    ).to(dtype)


def revalue(average, log_sum, p, v, matrix):
    """All that the layers do: heads mixed by a matrix, a speed, the log-sum-exp, wide values."""
    w = p + average.transpose(1, 2).flatten(2) @ matrix
    s = w.square().sum(-1)[:, None, :, None] * (2 + log_sum.tanh())
    return torch.cat([w.unflatten(-1, (average.shape[1], -1)).transpose(1, 2), s * v], dim=-1), w


def one(q, k, v, p, matrix):
    average, log_sum, second, _, w = sweep(revalue, q, k, v, (p, v), (matrix,), scale=0.5)
    return average, log_sum, second, w


def two(q, k, v, p, matrix):
    average, log_sum = naive.attend(q, k, v, scale=0.5)
    values, w = revalue(average, log_sum, p, v, matrix)
    return average, log_sum, naive.average(q, k, values.to(v.dtype), scale=0.5), w


def results(form, inputs):
    inputs = [t.detach().requires_grad_() for t in inputs]
    values = form(*inputs)
    weights = [random(*v.shape, seed=9 + i).to(v.dtype) for i, v in enumerate(values)]
    return [*values, *torch.autograd.grad(values, inputs, weights)]


def inputs(n, dtype=torch.float64, size=1.0, heads=2, width=4, batch=3):
    q, k, v = (random(batch, heads, n, width, seed=s, dtype=dtype) for s in range(3))
    p, matrix = (
        random(batch, n, heads * width, seed=3),
        random(heads * width, heads * width, seed=4),
    )
    return [q * size, k, v, p.to(dtype), matrix.to(dtype) / 4]


@pytest.mark.parametrize("length", [1, 2, 63, 64, 65, 257])
def test_values_and_gradients_in_float64(length):
    given = inputs(length)
    for i, (got, want) in enumerate(zip(results(one, given), results(two, given), strict=True)):
        torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-10 if i < 4 else 1e-8)


def test_tiles_of_several_rows_of_the_batch(monkeypatch):
    given = inputs(23)
    expected = results(two, given)
    monkeypatch.setattr(tiled, "ROWS", 7)
    monkeypatch.setattr(tiled, "ELEMENTS", 7 * 23 * 2 * 2)
    for got, want in zip(results(one, given), expected, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-8)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", [1.0, 300.0])
@pytest.mark.parametrize("width", [4])
def test_as_exact_as_two_passes(dtype, size, width):
    """Scale-free: the error is at most twice (gradients three times) that of the naive form."""
    rounded = inputs(130, dtype, size, width=width)
    truth = results(two, [t.double() for t in rounded])
    plain, fast = results(two, rounded), results(one, rounded)
    for i, (t, p, f) in enumerate(zip(truth, plain, fast, strict=True)):
        floor = torch.finfo(dtype).eps * t.abs().max()
        allowed = (2 if i < 4 else 3) * (p.double() - t).abs().max() + floor
        assert (f.double() - t).abs().max() <= allowed, i


@pytest.mark.parametrize("size", [1.0, 300.0])
def test_products_of_single_heads_are_as_exact(size, each_by_itself):
    test_as_exact_as_two_passes(torch.float32, size, width=16)


def test_gradcheck(monkeypatch):
    monkeypatch.setattr(tiled, "ROWS", 2)
    given = [t.requires_grad_() for t in inputs(5, heads=2, width=2, batch=1)]
    assert torch.autograd.gradcheck(one, given)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_uninitialised_memory_does_not_matter(dtype, each_by_itself):
    torch.use_deterministic_algorithms(True)
    try:
        assert all(r.isfinite().all() for r in results(one, inputs(130, dtype, width=16)))
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_model_in_mixed_precision(dtype, tiny):
    """The backward pass makes the second values again, in the precision of the forward pass."""
    model, tokens = sf.build(tiny("symp-r2")), torch.randint(0, 37, (2, 17))
    losses, gradients = {}, {}
    for form in ("sweep", "naive"):
        model.zero_grad()
        with forms.using(form), torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            losses[form] = model(tokens, tokens).loss
        losses[form].backward()
        gradients[form] = torch.cat([p.grad.flatten() for p in model.parameters()])
    tolerance = 1e-5 if dtype == torch.float32 else 2e-2
    torch.testing.assert_close(losses["sweep"], losses["naive"], rtol=tolerance, atol=0)
    error = (gradients["sweep"] - gradients["naive"]).norm() / gradients["naive"].norm()
    assert error < 3 * tolerance


@pytest.mark.parametrize("name", SOFTMAX)
def test_every_form_makes_the_same_model(name, tiny, monkeypatch):
    monkeypatch.setattr(tiled, "ROWS", 5)
    model, tokens = sf.build(tiny(name)).double(), torch.randint(0, 37, (2, 17))
    found = {}
    for form in ("naive", "tiled", "auto"):
        model.zero_grad()
        with forms.using(form), forms.recorded() as used:
            loss = model(tokens, tokens).loss
            loss.backward()
        found[form] = loss.detach(), [p.grad for p in model.parameters() if p.grad is not None]
        kinds = {line.split()[0] for line in used}
        proposes = model.config.connection == "proposal" and not model.config.convolution
        swept = model.config.in_momentum_form or proposes
        fastest = {"sweep"} if swept else {"fused", "tiled"}
        fastest |= {"tiled"} if model.config.drifts_last else set()  # whose last layer has no force
        assert kinds == {form} if form != "auto" else kinds and kinds <= fastest
    for form in ("tiled", "auto"):
        torch.testing.assert_close(found[form], found["naive"], rtol=1e-9, atol=1e-12)
