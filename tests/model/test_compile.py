"""Under torch.compile: one graph of a block in training, one of the model in decoding."""

import os

import pytest
import torch
import torch._dynamo

import sympformer as sf
from sympformer.attention import forms
from sympformer.model import generation
from sympformer.model.cache import Cache


@pytest.fixture(autouse=True)
def fresh():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


LONG = os.environ.get("SYMPFORMER_FAULTS") == "long"
# Every kind of block and of state, every scheme at least once; a table more changes no block.
KINDS = [
    *("gpt", "gpt-extras", "yurii", "tmm", "symp-h0", "symp-h1", "symp-r2", "symp-exp-euler"),
    *("symp-ab2", "symp-tao", "symp-euler-published", "linear-gpt", "linear-symp-r2-extras"),
    *("linear-symp-strang", "mamba2", "deltanet", "kda", "mesanet", "momentum-deltanet"),
    *("delta-symp-etd-ab2", "delta-symp-h0", "gated-delta-symp"),
]
PRESETS = [name for name in sf.presets() if not name.endswith("-untied")] if LONG else KINDS


def step(model, tokens):
    """Loss and gradients; a graph may give zeros where nothing arrives."""
    model.zero_grad()
    loss = model(tokens, tokens).loss
    loss.backward()
    return [
        loss.detach(),
        *(torch.zeros_like(p) if p.grad is None else p.grad for p in model.parameters()),
    ]


@pytest.mark.parametrize("name", PRESETS)
def test_one_graph_without_recompilation(name, tiny):
    """A graph break (a host synchronisation would be one) and a second compilation are errors."""
    model = sf.build(tiny(name, block_size=70, n_layer=4))
    tokens, graphs = torch.randint(0, 37, (2, 70)), []

    def backend(graph, _):
        graphs.append(graph)
        return graph

    expected = step(model, tokens)
    for block in model.blocks:
        block.compile(backend=backend, fullgraph=True, dynamic=False)
    got = step(model, tokens)
    atol = 1e-5 if name == "mesanet" else 1e-6  # compiled, its systems are solved in another way
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=atol)
    assert len(graphs) <= 3  # the first layers have no gradient yet, or no past
    with torch._dynamo.config.patch(error_on_recompile=True):
        step(model, tokens.roll(1, 0))


@pytest.mark.parametrize("name", ["gpt", "symp-r2", "symp-exp-euler", "linear-symp-exp-euler"])
def test_forward_and_backward_graphs_are_traced(name, tiny):
    model, tokens = sf.build(tiny(name, block_size=70)), torch.randint(0, 37, (2, 70))
    expected = step(model, tokens)
    for block in model.blocks:
        block.compile(backend="aot_eager", fullgraph=True, dynamic=False)
    torch.testing.assert_close(step(model, tokens), expected, rtol=1e-4, atol=1e-6)


def test_a_compiled_block_heeds_the_form(tiny):
    """A graph that was made for one form is not run under another."""
    model, tokens = sf.build(tiny("symp-h0")), torch.randint(0, 37, (1, 9))
    ran = []

    def backend(graph, _):
        softmax = any("softmax" in str(node.target) for node in graph.graph.nodes)

        def run(*inputs):
            ran.append("naive" if softmax else "fused")
            return graph(*inputs)

        return run

    for block in model.blocks:
        block.compile(backend=backend, fullgraph=True, dynamic=False)
    for form, kind in [("auto", "fused"), ("naive", "naive"), ("auto", "fused")]:
        ran.clear()
        with forms.using(form), torch.no_grad():
            model(tokens)
        assert set(ran) == {kind}
    with torch.no_grad(), torch._dynamo.config.patch(error_on_recompile=True):
        model(tokens)
        with forms.using("naive"):
            model(tokens)


@pytest.mark.parametrize("name", PRESETS)
def test_one_graph_decodes_at_every_length(name, redrawn, monkeypatch):
    step = torch.compile(generation._step, backend="eager", dynamic=True, fullgraph=True)
    monkeypatch.setattr(generation, "_compiled_step", step)
    model = redrawn(name, block_size=40)
    tokens = torch.randint(0, 37, (2, 5))
    expected = model.generate(tokens, 30)
    assert torch.equal(model.generate(tokens, 4, compile=True), expected[:, :9])
    with torch._dynamo.config.patch(error_on_recompile=True):
        assert torch.equal(model.generate(tokens, 30, compile=True), expected)
        assert torch.equal(model.generate(expected[:, :9], 26, compile=True), expected)


def test_generation_is_compiled(redrawn):
    """By the compiler that users have; padding and sampling as without it."""
    model = redrawn("symp-r2", n_layer=1)
    tokens, mask = generation.pad_left([[1, 2, 3], [4]])
    options = {"temperature": 1.0, "seed": 0, "attention_mask": mask}
    expected = model.generate(tokens, 6, **options)
    assert torch.equal(model.generate(tokens, 6, **options, compile=True), expected)


@torch.no_grad()
def test_single_precision_is_compiled():
    """Products of one row take another way there (`sympformer.products`)."""
    options = {"vocab_size": 37, "n_layer": 1, "n_head": 2, "n_embd": 16, "block_size": 24}
    model = sf.build(sf.ModelConfig.preset("symp-exp-euler", **options))
    for p in model.parameters():
        p.copy_(torch.randn_like(p) / 3)
    tokens = torch.randint(0, 37, (1, 9))
    _, cache = generation._step(model, tokens[:, :5], Cache(capacity=9))
    for i in range(5, 9):
        expected, after = generation._step(model, tokens[:, i : i + 1], cache)
        got, cache = generation._compiled_step(model, tokens[:, i : i + 1], cache)
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)
        assert after.length == cache.length
