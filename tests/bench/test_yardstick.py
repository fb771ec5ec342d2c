"""The yardstick is the same model as our `gpt`: same parameters, same function."""

import torch

from sympformer.bench.yardstick import PlainGPT
from sympformer.model import build

SIZES = {"vocab_size": 37, "block_size": 24, "n_layer": 2, "n_head": 2, "d": 16}


def both(tiny):
    """Our model and the yardstick with its weights: they lie in the same order."""
    own, plain = build(tiny("gpt")), PlainGPT(**SIZES)
    theirs = [p for name, p in plain.named_parameters() if "norm" not in name]
    ours = [p for name, p in own.named_parameters() if "norm" not in name]
    assert [p.shape for p in theirs] == [p.shape for p in ours]
    with torch.no_grad():
        for a, b in zip(theirs, ours, strict=True):
            a.copy_(b)
    assert own.num_parameters() == sum(p.numel() for p in plain.parameters())
    return own.double(), plain.double()


def test_loss_and_gradients_are_those_of_gpt(tiny):
    own, plain = both(tiny)
    tokens = torch.randint(37, (3, 20))
    losses = [model(tokens, targets=tokens.roll(-1, 1)).loss for model in (own, plain)]
    torch.testing.assert_close(*losses, rtol=1e-12, atol=1e-12)
    for loss in losses:
        loss.backward()
    torch.testing.assert_close(
        plain.tokens.weight.grad, own.inputs.usual.tokens.weight.grad, rtol=1e-9, atol=1e-12
    )


def test_cached_decoding_is_recomputation(tiny):
    own, plain = both(tiny)
    prompt = torch.randint(37, (2, 5))
    whole = torch.cat([prompt, *plain.stream(prompt, 12)], dim=1)
    again = prompt
    for _ in range(12):
        again = torch.cat([again, *plain.stream(again, 1)], dim=1)
    assert torch.equal(whole, again)
    assert torch.equal(whole, own.generate(prompt, 12))
