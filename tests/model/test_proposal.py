"""The written-out derivative of R2's proposal against autograd."""

import pytest
import torch

from sympformer.model.proposal import Proposal


@pytest.fixture
def proposal():
    return Proposal(2)


def inputs():
    """Attention, log-sum-exp, p, k, v by heads; β, γ; the output and the key map."""
    by_heads = [torch.randn(3, 2, 5, 8, dtype=torch.float64) for _ in range(3)]
    p, maps = torch.randn(3, 5, 16, dtype=torch.float64), torch.randn(2, 16, 16).double()
    attention, k, v = by_heads
    scalars = torch.tensor([0.7, 1.3], dtype=torch.float64).unbind()
    return [attention, torch.zeros(3, 2, 5, 1), p, k, v, *scalars, *maps]


@pytest.mark.parametrize("moved", [True, False], ids=["both", "values_only"])
def test_derivative(proposal, moved):
    given = [t.clone().requires_grad_() for t in inputs()]
    outputs = proposal(*given)
    incoming = [torch.randn_like(outputs[0]), torch.randn_like(outputs[1]) if moved else None]
    used = [(o, g) for o, g in zip(outputs, incoming, strict=True) if g is not None]
    targets, slopes = zip(*used, strict=True)
    expected = torch.autograd.grad(targets, given, slopes, allow_unused=True)
    with torch.no_grad():
        got = proposal.backward(given, outputs, incoming)
    for found, want in zip(got, expected, strict=True):
        if want is None:
            assert found is None
        else:
            torch.testing.assert_close(found, want, rtol=1e-12, atol=1e-12)
