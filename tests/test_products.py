"""Products through oneDNN against torch's own."""

import pytest
import torch
import torch._dynamo
import torch.nn.functional as F

from sympformer import products, torch_private
from sympformer.compiler import compile_step


@pytest.fixture(autouse=True)
def every_size(monkeypatch):
    monkeypatch.setattr(products, "WORTHWHILE", 0)
    monkeypatch.setattr(products, "_better", lambda: True)  # slower or not, on this processor


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


ROWS = {
    "whole": lambda x: x[None],
    "slice": lambda x: x.chunk(3, -1)[1][None, None],
    "strided": lambda x: x.view(-1, 3)[:, 2][None],
    "heads": lambda x: (x.view(1, 1, 3, -1).transpose(1, 2) * 2).transpose(1, 2).flatten(-2),
}


@pytest.mark.parametrize("view", ROWS)
@torch.no_grad()
def test_one_row_is_summed_in_the_compiled_graph(view):
    """By the compiler that users have: whatever view of something computed the row is."""
    torch._dynamo.reset()

    def form(x, weight, linear):
        return linear(ROWS[view](x.sin()), weight)

    x = torch.randn(195)
    weight = torch.randn(50, ROWS[view](x).shape[-1])
    got = compile_step(form)(x, weight, products.linear)
    torch.testing.assert_close(got, form(x, weight, F.linear), rtol=1e-5, atol=1e-5)


def test_when_one_row_is_summed():
    """Under the compiler, for one row in float32, where no gradient is recorded."""
    torch._dynamo.reset()
    graphs = []

    def backend(graph, _):
        graphs.append({node.target for node in graph.graph.nodes})
        return graph

    compiled = torch.compile(products.linear, backend=backend, dynamic=False)
    x, weight = torch.randn(2, 8), torch.randn(5, 8)
    compiled(x[:1], weight)
    with torch.no_grad():
        compiled(x[:1], weight)
        compiled(x, weight)
        compiled(x[:1].double(), weight.double())
        with torch.autocast("cpu", torch.bfloat16):
            compiled(x[:1], weight)
    assert [F.linear in targets for targets in graphs] == [True, False, True, True, True]


def test_few_rows_of_a_large_weight_suit(monkeypatch):
    monkeypatch.setattr(products, "WORTHWHILE", 2**40)
    x = torch.randn(1, 256)
    assert products.suits(x, torch.empty(256, 256))
    assert not products.suits(x, torch.empty(64, 256))


def test_the_same_where_no_gradient_is_recorded():
    x, weight = torch.randn(3, 1, 33), torch.randn(20, 33)
    recorded = products.linear(x, weight)
    with torch.no_grad():
        assert torch.equal(products.linear(x, weight), recorded)


def test_transposed_and_sliced_arguments():
    weight = torch.randn(12, 20)
    x = torch.randn(4, 30, 9).transpose(0, 1)[..., :9]
    for form in (weight[:5, :9], weight.mT[:9, :9].mT, weight[3:12, 2:11].mT):
        torch.testing.assert_close(products.linear(x, form), F.linear(x, form))


def test_products_go_through_onednn(monkeypatch):
    """So that the other tests here compare two different things."""
    calls, onednn = [], torch_private.onednn_product
    monkeypatch.setattr(
        torch_private, "onednn_product", lambda *a: (calls.append(len(a)), onednn(*a))[1]
    )
    both(products.linear, torch.randn(3, 8), torch.randn(5, 8))
    assert len(calls) == 3


def test_tokens_do_not_meet():
    x, weight = torch.randn(50, 16), torch.randn(24, 16)
    before = products.linear(x, weight)
    x[30:] = float("nan")
    assert torch.equal(products.linear(x, weight)[:30], before[:30])


def test_autocast_is_heeded():
    x, weight = torch.randn(50, 16), torch.randn(24, 16)
    with torch.autocast("cpu", torch.bfloat16):
        assert products.linear(x, weight).dtype == torch.bfloat16
