"""Ingredients that any attention may have."""

import pytest
import torch
import torch.nn.functional as F

import sympformer as sf
from sympformer.attention.past import NoPast
from sympformer.errors import InputError
from sympformer.model.extras import Convolution, Extras, Features, Outputs
from sympformer.model.linear_attention import LinearAttention
from sympformer.model.softmax_attention import SoftmaxAttention
from sympformer.testing import check_oracle

D, HEADS = 8, 2
EXTRAS = [
    Extras(convolution=4),
    Extras(activation="silu"),
    Extras(keys="unit"),
    Extras(convolution=2, activation="silu", keys="unit"),
]


def test_a_convolution_is_torchs():
    made, x = Convolution(D, 4), torch.randn(2, 9, D)
    expected = F.conv1d(F.pad(x.mT, (3, 0)), made.weight.flip(0).mT.unsqueeze(1), groups=D).mT
    torch.testing.assert_close(made(x, NoPast()), expected)


@pytest.mark.parametrize("extras", EXTRAS, ids=str)
def test_rates_are_those_of_forward_mode(extras):
    """How queries and keys move with their tokens, which a connection needs."""
    made = Features.of(D, HEADS, extras, values=True).double()
    z, dz = torch.randn(2, 2, 7, 3 * D, dtype=torch.float64)
    expected = torch.func.jvp(lambda z: tuple(made(z, NoPast()).heads[:2]), (z,), (dz,))[1]
    torch.testing.assert_close(made(z, NoPast()).tangent(dz[..., : 2 * D]), list(expected))
    (keys,) = made(z, NoPast()).tangent(dz[..., D : 2 * D], first=1)
    torch.testing.assert_close(keys, expected[1])


def test_nothing_is_made_without_extras():
    assert Features.of(D, HEADS, Extras(), values=True) is None
    assert Outputs.of(D, HEADS, Extras()) is None
    # Values are never of unit length, and are convolved with queries and keys.
    assert Features.of(D, HEADS, Extras(keys="unit"), values=True).count == 2
    assert Features.of(D, HEADS, Extras(convolution=4), values=True).count == 3


@pytest.mark.parametrize("extras", EXTRAS, ids=str)
def test_contracts_of_softmax(extras):
    check_oracle(SoftmaxAttention, extras=extras)


@pytest.mark.parametrize("extras", [*EXTRAS, Extras(output_norm=True, output_gate=True)], ids=str)
def test_contracts_of_linear(extras):
    check_oracle(LinearAttention, extras=extras)


def test_they_are_options_by_name(tiny):
    config = tiny("gpt", convolution=3, keys="unit")
    assert sf.ModelConfig.from_dict(config.to_dict()) == config
    assert sf.build(config).blocks[0].attention.oracle.features.extras == Extras(3, keys="unit")
    with pytest.raises(InputError, match="convolution must be 0"):
        tiny("gpt", convolution=1)
    with pytest.raises(InputError, match="keys"):
        tiny("gpt", keys="units")
    with pytest.raises(InputError, match="output_norm = true has no place"):
        tiny("symp-exp-euler", output_norm=True)


def test_scores_of_unit_vectors_have_a_learned_scale(tiny):
    model = sf.build(tiny("gpt", keys="unit"))
    scale = model.blocks[0].attention.oracle.sharpness
    assert scale().item() == pytest.approx(8**0.5)  # the root of the width of a head
    tokens = torch.randint(37, (2, 9))
    model(tokens, tokens).loss.backward()
    assert scale.raw.grad.any()
