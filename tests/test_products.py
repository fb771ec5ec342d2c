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


def check_as_exact_as_torch(form, x, weight):
    truth = both(F.linear, x.double(), weight.double())
    plain, fast = both(F.linear, x, weight), both(form, x, weight)
    for t, p, f in zip(truth, plain, fast, strict=True):
        assert f.dtype == p.dtype
        assert f.shape == p.shape
        floor = torch.finfo(p.dtype).eps * t.abs().max()
        assert (f.double() - t).abs().max() <= 2 * (p.double() - t).abs().max() + floor


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("shape", [(1, 8), (5, 3), (2, 3, 7), (2, 2, 33, 65)])
@pytest.mark.parametrize("n_out", [1, 5, 100])
def test_as_exact_as_torch(dtype, shape, n_out):
    x, weight = torch.randn(shape, dtype=dtype), torch.randn(n_out, shape[-1], dtype=dtype)
    check_as_exact_as_torch(products.linear, x, weight)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("shape", [(8,), (1, 8), (1, 1, 65), (2, 1, 65)])
@pytest.mark.parametrize("strided", [False, True])
def test_compiled_as_exact_as_torch(dtype, shape, strided):
    """Of a single row the compiler gets a sum instead of a product."""
    torch._dynamo.reset()
    compiled = torch.compile(products.linear, backend="eager", fullgraph=True)
    x, weight = torch.randn(shape, dtype=dtype), torch.randn(5, shape[-1], dtype=dtype)
    x = torch.stack([x, x], dim=-1)[..., 1] if strided else x
    check_as_exact_as_torch(compiled, x, weight)


def test_one_row_is_summed_under_the_compiler():
    torch._dynamo.reset()
    graphs = []

    def backend(graph, _):
        graphs.append({node.target for node in graph.graph.nodes})
        return graph

    compiled = torch.compile(products.linear, backend=backend, dynamic=False)
    for rows in (1, 2):
        compiled(torch.randn(rows, 8), torch.randn(5, 8))
    with torch.autocast("cpu", torch.bfloat16):
        compiled(torch.randn(1, 8), torch.randn(5, 8))
    assert [F.linear in targets for targets in graphs] == [False, True, True]


def test_few_rows_of_a_large_weight_suit(monkeypatch):
    monkeypatch.setattr(products, "WORTHWHILE", 2**40)
    monkeypatch.setattr(products, "_better", lambda: True)
    x = torch.randn(1, 256)
    assert products.suits(x, torch.empty(256, 256))
    assert not products.suits(x, torch.empty(64, 256))


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
