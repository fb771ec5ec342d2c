"""Blocks under torch.compile: one graph, which stands for all steps of one shape."""

import pytest
import torch
import torch._dynamo

import sympformer as sf


@pytest.fixture(autouse=True)
def fresh():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def step(model, tokens):
    """Loss and gradients; a graph may give zeros where nothing arrives."""
    model.zero_grad()
    loss = model(tokens, tokens).loss
    loss.backward()
    return [
        loss.detach(),
        *(torch.zeros_like(p) if p.grad is None else p.grad for p in model.parameters()),
    ]


@pytest.mark.parametrize("name", sf.presets())
def test_one_graph_without_recompilation(name, tiny):
    """A graph break (a host synchronisation would be one) and a second compilation are errors."""
    model, tokens = sf.build(tiny(name, block_size=70)), torch.randint(0, 37, (2, 70))
    expected = step(model, tokens)
    for block in model.blocks:
        block.compile(backend="eager", fullgraph=True, dynamic=False)
    got = step(model, tokens)
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-6)
    with torch._dynamo.config.patch(error_on_recompile=True):
        step(model, tokens.roll(1, 0))


@pytest.mark.parametrize("name", ["gpt", "symp-r2", "symp-exp-euler", "linear-symp-exp-euler"])
def test_forward_and_backward_graphs_are_traced(name, tiny):
    model, tokens = sf.build(tiny(name, block_size=70)), torch.randint(0, 37, (2, 70))
    expected = step(model, tokens)
    for block in model.blocks:
        block.compile(backend="aot_eager", fullgraph=True, dynamic=False)
    torch.testing.assert_close(step(model, tokens), expected, rtol=1e-4, atol=1e-6)
