"""Rounding is told from faults, in whatever precision a model computes."""

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sympformer.causality import audit, copies, measure
from sympformer.causality.precision import coarsest_dtype, jolted
from sympformer.errors import InputError

V, LENGTH = 31, 16


class Rounding(nn.Module):
    """Casts to a coarser type on its way, as norms and rotations do; deep enough to amplify it.

    `divides`: by the length of the text. `late`: how much of the next token reaches an output.
    """

    def __init__(self, dtype=torch.float32, divides: bool = False, late: float = 0.0):
        super().__init__()
        self.dtype, self.divides, self.late = dtype, divides, late
        self.embedding, self.head = nn.Embedding(V, 32), nn.Linear(32, V)
        self.layers = nn.ModuleList([nn.Linear(32, 32) for _ in range(6)])

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embedding(ids)
        n = ids.shape[1]
        for layer in self.layers:
            seen = torch.ones(n, n).tril().to(x)
            weights = (x @ x.mT).masked_fill(seen == 0, -torch.inf).softmax(-1)
            mixed = (weights.to(self.dtype) @ x.to(self.dtype)).to(x.dtype)
            x = F.layer_norm(x + layer(mixed), (32,))
            if self.divides:
                x = x * (1 + 0.01 * n)
        if self.late:
            x = x + self.late * F.pad(x[:, 1:], (0, 0, 0, 1))
        return self.head(x)


def test_float32_inside_is_rounding():
    report = audit(Rounding(), LENGTH, vocab_size=V)
    assert report.where == "in float64, float32 inside"
    assert report.passed
    assert report.prefix
    assert 1e-6 < report.prefix.allowed < 1e-2


def test_without_it_nothing_is_loosened():
    report = audit(Rounding(torch.float64), LENGTH, vocab_size=V)
    assert report.where == "in float64"
    assert report.prefix
    assert report.prefix.allowed == 1e-6


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_faults_are_found_beside_rounding(dtype):
    report = audit(Rounding(dtype, divides=True), LENGTH, vocab_size=V)
    assert report.causal
    assert report.verdict.startswith("LENGTH DEPENDENT")
    assert audit(Rounding(dtype, late=1e-5), LENGTH, vocab_size=V).influence.failed
    tiny = audit(Rounding(dtype, late=1e-12), LENGTH, vocab_size=V)
    assert tiny.verdict.startswith("LEAK: output")
    assert tiny.gradient.failed


def test_half_precision_inside_is_too_coarse_to_tell():
    report = audit(Rounding(torch.bfloat16), LENGTH, vocab_size=V)
    assert report.causal
    assert "bfloat16 rounds too much" in report.not_made["prefix"]


def test_a_function_in_float32_and_in_half_precision():
    model = Rounding(torch.float32)
    report = audit(lambda ids: model(ids), LENGTH, vocab_size=V)
    assert report.where == "in float32"
    assert report.passed
    assert report.prefix
    half = audit(lambda ids: model(ids).half(), LENGTH, vocab_size=V)
    assert half.causal
    assert half.prefix_consistent is None
    assert "float16 rounds too much" in half.not_made["prefix"]
    wrong = Rounding(torch.float32, divides=True)
    assert audit(lambda ids: wrong(ids), LENGTH, vocab_size=V).prefix_consistent is False


def test_which_type_is_the_coarsest():
    x = torch.ones(3, dtype=torch.float64)
    assert coarsest_dtype(lambda: x * 2) == torch.float64
    assert coarsest_dtype(lambda: x.bfloat16().double()) == torch.bfloat16
    assert coarsest_dtype(lambda: (x.float() + x.half()).double()) == torch.float16
    constant = torch.ones(3, 3)
    assert coarsest_dtype(lambda: x * constant.tril()[0]) == torch.float64, "a constant"
    weight = torch.ones(3, 3, dtype=torch.bfloat16)
    assert coarsest_dtype(lambda: F.linear(weight, weight).float()) == torch.bfloat16
    assert coarsest_dtype(lambda: x * x[:1].float()) == torch.float64, "a single number"


def test_jolted_weights_come_back():
    module = nn.Linear(3, 3).double().requires_grad_(False)
    before = module.weight.clone()
    with jolted(module, torch.float32, torch.Generator()):
        moved = (module.weight / before - 1).abs()
    assert (moved - torch.finfo(torch.float32).eps).abs().max() < 1e-12
    assert torch.equal(module.weight, before)


def test_a_device_without_float64(monkeypatch):
    """MPS has none: the copy goes to the CPU, and the report says so."""
    for module in (copies, measure):
        device_of = module.device_of
        monkeypatch.setattr(
            module,
            "device_of",
            lambda m, found=device_of: torch.device("mps") if m is original else found(m),
        )
    original = Rounding(torch.float64)
    report = audit(original, LENGTH, vocab_size=V)
    assert report.passed
    assert report.where == "in float64, on the cpu (mps has no float64)"
    assert "on the cpu" in str(report)


def test_weights_that_are_not_there_yet():
    with torch.device("meta"):
        model = Rounding()
    with pytest.raises(InputError, match="device meta"):
        audit(model, LENGTH, vocab_size=V)


def test_functional_lookups_are_seen_in_functions():
    weight = torch.randn(V, 8)

    def looked_up(ids):
        x = F.embedding(ids, weight)
        return SimpleNamespace(logits=(x + x.flip(1)) @ weight.T)

    report = audit(looked_up, LENGTH, vocab_size=V)
    assert report.gradient
    assert report.gradient.failed
