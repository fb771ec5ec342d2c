"""The audit of compiled models: what it judges is the compiled code."""

from functools import partial

import pytest
import torch
import torch._dynamo
from torch import Tensor, nn

import sympformer as sf
from sympformer.causality import audit
from sympformer.compiler import compile_step

LENGTH = 12


class Toy(nn.Module):
    """Embedding, mean of the tokens that are seen, head."""

    def __init__(self, causal: bool):
        super().__init__()
        self.causal = causal
        self.embedding, self.head = nn.Embedding(11, 8), nn.Linear(8, 11)

    def forward(self, tokens: Tensor) -> Tensor:
        e = self.embedding(tokens)
        past = e.cumsum(1) if self.causal else e.sum(1, keepdim=True)
        return self.head(e + past / torch.arange(1, e.shape[1] + 1)[:, None])


@pytest.fixture
def compiler(monkeypatch):
    """A function that sets what becomes of the results of compiled code, by default nothing."""
    torch._dynamo.reset()
    compile_step.cache_clear()
    compile, lengths = torch.compile, []

    def use(change=lambda result: result):
        def note(result):
            if not isinstance(result, Tensor) or result.ndim != 3:
                return result
            lengths.append(result.shape[1])
            return change(result)

        def backend(graph, _inputs, **_settings):
            return lambda *inputs: [note(result) for result in graph(*inputs)]

        monkeypatch.setattr(torch, "compile", partial(compile, backend=backend))
        return lengths

    yield use
    torch._dynamo.reset()
    compile_step.cache_clear()


@pytest.mark.parametrize("name", ["gpt", "symp-r2", "linear-symp-exp-euler", "symp-difference"])
def test_training_and_decoding_run_compiled(name, tiny, compiler):
    ran = compiler()
    report = audit(sf.build(tiny(name)), LENGTH, compile=True)
    assert report.passed
    assert report.cache_consistent
    assert report.max_future_gradient == 0
    assert set(ran) == {1, LENGTH}
    assert ran.count(1) >= 4 * (LENGTH - 1)  # each set of weights decodes all but the first token


def test_a_leaking_model_is_caught(tiny, compiler):
    compiler()
    report = audit(sf.build(tiny("symp-h0", causality="joint")), LENGTH, compile=True)
    assert report.max_future_influence > 1e-3
    assert report.gradient.value > 1e-3


def test_a_compiler_that_leaks_is_caught(tiny, compiler):
    compiler(lambda r: r + r.mean(1, keepdim=True) if r.shape[1] > 1 else r)
    model = sf.build(tiny("symp-r2"))
    report = audit(model, LENGTH, compile=True)
    assert report.max_future_influence > 1e-3
    assert report.gradient.value > 1e-3
    assert audit(model, LENGTH).passed


def test_a_compiler_that_decodes_wrongly_is_caught(tiny, compiler):
    compiler(lambda r: 1.01 * r if r.shape[1] == 1 else r)
    report = audit(sf.build(tiny("symp-r2")), LENGTH, compile=True)
    assert report.causal
    assert report.cache_consistent is False


def test_any_other_module_is_compiled_as_a_whole(compiler):
    ran = compiler()
    report = audit(Toy(causal=True), LENGTH, vocab_size=11, compile=True)
    assert report.passed
    assert report.max_future_gradient == 0, "the embeddings are watched in compiled code too"
    assert LENGTH in ran
    report = audit(Toy(causal=False), LENGTH, vocab_size=11, compile=True)
    assert report.max_future_influence > 1e-3
    assert report.gradient.value > 1e-3
