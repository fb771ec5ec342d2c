"""What is timed is what it says."""

from dataclasses import replace
from functools import partial

import pytest
import torch
import torch._dynamo

from sympformer.attention import forms
from sympformer.bench import Case
from sympformer.bench.case import DECODED
from sympformer.bench.operations import operation
from sympformer.bench.timing import REPEATS
from sympformer.model import generation

TINY = {"length": 16, "batch_size": 2, "n_layer": 1, "n_head": 2, "n_embd": 16, "vocab_size": 37}
FIRST = Case("plain-gpt", **TINY)


@pytest.fixture
def quick_compiler(monkeypatch):
    """Graphs are made and guarded as ever, but run as they are."""
    torch._dynamo.reset()
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    step = torch.compile(generation._step, dynamic=True, fullgraph=True)
    monkeypatch.setattr(generation, "_compiled_step", step)
    yield
    torch._dynamo.reset()


def test_generate_and_recompute_count_the_same_tokens():
    whole = operation(replace(FIRST, measure="generate", length=64), turns=1)
    parts = operation(replace(FIRST, measure="recompute", length=64), turns=1)
    assert whole.tokens == 2 * 64
    assert parts.tokens == 2 * 2  # two lengths stand for 64
    assert parts.flops / parts.tokens > whole.flops / whole.tokens


def test_an_operation_runs_in_its_form():
    with forms.recorded() as used:
        operation(replace(FIRST, model="symp-r2", form="tiled"), turns=1).run()
    assert {line.split()[0] for line in used} == {"tiled"}


@pytest.mark.parametrize("model", ["plain-gpt", "symp-r2"])
@pytest.mark.parametrize("measure", ["step", "decode", "generate"])
def test_what_is_compiled_is_compiled_by_the_first_call(model, measure, quick_compiler):
    case = replace(FIRST, model=model, measure=measure, compile=True)
    made = operation(case, turns=1)
    before = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    made.run()
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > before
    with torch._dynamo.config.patch(error_on_recompile=True):
        for _ in range(REPEATS - 1):
            made.run()


@pytest.mark.parametrize("model", ["plain-gpt", "gpt"])
def test_decoding_has_room_for_the_turns_that_were_said(model):
    made = operation(replace(FIRST, model=model, measure="decode"), turns=2)
    for _ in range(2 * REPEATS):
        made.run()
    assert made.tokens == 2 * DECODED
    with pytest.raises(StopIteration):
        made.run()


def test_many_sizes_are_compiled_in_one_process(quick_compiler):
    """More than the compiler's own limit."""
    limit = torch._dynamo.config.recompile_limit
    for length in range(3, 5 + limit):
        operation(replace(FIRST, model="gpt", length=length, compile=True), turns=1).run()
