"""Products through oneDNN against torch's own."""

import pytest
import torch
import torch.nn.functional as F

from sympformer import products


@pytest.fixture(autouse=True)
def every_size(monkeypatch):
    monkeypatch.setattr(products, "WORTHWHILE", 0)


def both(form, x, weight):
    inputs = [t.detach().requires_grad_() for t in (x, weight)]
    out = form(*inputs)
    weights = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view(out.shape)
    return [out, *torch.autograd.grad((out * weights).sum(), inputs)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("shape", [(1, 8), (5, 3), (2, 3, 7), (2, 2, 33, 65)])
@pytest.mark.parametrize("n_out", [1, 5, 100])
def test_as_exact_as_torch(dtype, shape, n_out):
    x, weight = torch.randn(shape, dtype=dtype), torch.randn(n_out, shape[-1], dtype=dtype)
    truth = both(F.linear, x.double(), weight.double())
    plain, fast = both(F.linear, x, weight), both(products.linear, x, weight)
    for t, p, f in zip(truth, plain, fast, strict=True):
        assert f.dtype == dtype
        assert f.shape == p.shape
        floor = torch.finfo(dtype).eps * t.abs().max()
        assert (f.double() - t).abs().max() <= 2 * (p.double() - t).abs().max() + floor


def test_transposed_and_sliced_arguments():
    weight = torch.randn(12, 20)
    x = torch.randn(4, 30, 9).transpose(0, 1)[..., :9]
    for form in (weight[:5, :9], weight.mT[:9, :9].mT, weight[3:12, 2:11].mT):
        torch.testing.assert_close(products.linear(x, form), F.linear(x, form))


def test_tokens_do_not_meet():
    x, weight = torch.randn(50, 16), torch.randn(24, 16)
    before = products.linear(x, weight)
    x[30:] = float("nan")
    assert torch.equal(products.linear(x, weight)[:30], before[:30])


def test_autocast_is_heeded():
    x, weight = torch.randn(50, 16), torch.randn(24, 16)
    with torch.autocast("cpu", torch.bfloat16):
        assert products.linear(x, weight).dtype == torch.bfloat16
