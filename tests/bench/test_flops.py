"""The formulas against the operations that are really made, and against counting by hand."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from sympformer.attention import naive, prefix_sums
from sympformer.bench import flops
from sympformer.bench.yardstick import PlainGPT
from sympformer.dynamics import SCHEMES
from sympformer.dynamics.trial import Calls
from sympformer.errors import InputError
from sympformer.model import build
from sympformer.model.softmax_attention import SoftmaxAttention

B, T = 2, 24


def counted(function) -> dict[str, int]:
    """Operations by kind, as torch counts them; fused attention on the CPU is not among them."""
    with FlopCounterMode(display=False) as counter:
        function()
    return {str(op): n for op, n in counter.get_flop_counts().get("Global", {}).items()}


def products_of_maps(function) -> int:
    """Linear maps are products of matrices; attention is made of batches of products."""
    return sum(n for op, n in counted(function).items() if op in ("aten.mm", "aten.addmm"))


def forward_and_backward(model):
    tokens = torch.randint(37, (B, T))
    return lambda: model(tokens).logits.sum().backward()


@pytest.mark.parametrize(
    "preset", ["gpt", "gpt-wide", "gpt-euler", "yurii", "symp-h0", "linear-gpt", "linear-symp-h0"]
)
def test_maps_and_vocabulary_of_a_step(preset, tiny):
    config = tiny(preset)
    expected = flops.step(config, T) * B
    assert (
        products_of_maps(forward_and_backward(build(config))) == expected.maps + expected.vocabulary
    )


def test_the_yardstick_has_the_operations_of_gpt(tiny):
    expected = flops.step(tiny("gpt"), T) * B
    model, tokens = PlainGPT(37, T, 2, 2, 16), torch.randint(37, (B, T))
    count = products_of_maps(lambda: model(tokens, targets=tokens).loss.backward())
    assert count == expected.maps + expected.vocabulary


@pytest.mark.parametrize(("preset", "maps"), [("symp-r2", 7), ("symp-exp-euler", 7)])
def test_maps_by_hand(preset, maps, tiny):
    """q, k, v, O, W_Q u, W_K u, O; and q, k, v, U p, U p', Uᵀ, O."""
    assert flops.forward(tiny(preset), T).maps == 2 * T * 2 * (maps * 16**2 + 8 * 16**2)


def test_a_scheme_is_asked_what_it_needs(tiny):
    one, tao = (Calls.of(SCHEMES[name]) for name in ("conformal-euler", "tao"))
    assert (one.fields, one.velocities, one.forces, one.momenta) == (1, 1, 1, 2)
    assert (tao.fields, tao.velocities, tao.forces, tao.momenta) == (4, 4, 4, 4)


@pytest.mark.parametrize(("preset", "widths"), [("gpt", 1), ("symp-r2", 4), ("symp-exp-euler", 2)])
def test_softmax_attention_is_the_naive_form_s(preset, widths, tiny):
    """Scores once, and averages of so many widths; the naive form computes the whole square."""
    q, k, v = (torch.randn(B, 2, T, 8, requires_grad=True) for _ in range(3))
    wide = torch.cat([v] * widths, dim=-1)
    seen = sum(
        counted(lambda: naive.average(q, k, wide, causality="joint").sum().backward()).values()
    )
    square = flops.step(tiny(preset, causality="joint"), T) * B
    assert seen == square.attention / 2  # two layers
    half = flops.step(tiny(preset), T) * B
    assert half.attention == square.attention * (T + 1) / (2 * T)


def test_linear_attention_is_the_recurrent_form_s(tiny):
    q, k, v = (torch.randn(B, 2, T, 8) for _ in range(3))
    seen = sum(counted(lambda: prefix_sums.recurrent(q, k, v)).values())
    assert seen == B * flops.forward(tiny("linear-gpt"), T).attention / 2
    # Plain attention 2; the solve 1 and 2, two repulsions' 1, inertia 2, rate 2.
    r2, h0 = (flops.forward(tiny(f"linear-symp-{name}"), T) for name in ("r2", "h0"))
    assert r2.attention == 5 * h0.attention


def test_decoding_sees_the_whole_context(tiny):
    config = tiny("symp-r2")
    one = [flops.forward(config, 1, past=i).attention for i in range(T)]
    assert sum(one) == flops.forward(config, T).attention
    only_last = flops.forward(config, T, logits=1)
    assert only_last.vocabulary * T == flops.forward(config, T).vocabulary


def test_the_last_layer_makes_no_kick_where_the_drift_comes_first(tiny):
    """The second of two: q, k, U p, Uᵀ, and scores only."""
    both, one = (flops.forward(tiny("symp-exp-euler-published", n_layer=n), T) for n in (2, 1))
    first = 2 * T * (6 * 16**2 + 8 * 16**2)
    assert one.maps == 2 * T * (4 * 16**2 + 8 * 16**2)
    assert both.maps == first + one.maps
    assert both.attention == 4 * one.attention


def test_tied_attention_is_counted(tiny):
    """A x, its average and B; and (once a momentum) Lᵀp, L."""
    plain = tiny("gpt", attention="tied-softmax", n_head=1)
    assert flops.forward(plain, T).maps == 2 * T * 2 * (3 * 16**2 + 8 * 16**2)
    moving = tiny("symp-conformal-euler", attention="tied-softmax", n_head=1)
    assert flops.forward(moving, T).maps == 2 * T * 2 * (4 * 16**2 + 8 * 16**2)


def test_an_attention_that_does_not_say_what_it_costs_is_refused(tiny, monkeypatch):
    monkeypatch.delattr(SoftmaxAttention, "cost")
    with pytest.raises(InputError, match="not counted"):
        flops.forward(tiny("gpt"), T)
