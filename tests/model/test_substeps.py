"""Time discretisations in a stack of layers, whose state others move in between."""

import pytest
import torch

import sympformer as sf
from sympformer.attention.past import NoPast
from sympformer.dynamics import SCHEMES, schemes


@pytest.fixture
def stack(tiny):
    """A model in float64 whose layers differ in their step sizes, and a stream at its start."""

    def stack(scheme, **options):
        model = sf.build(tiny(f"symp-{scheme}", n_layer=3, **options)).double()
        for layer, block in enumerate(model.blocks[:2]):
            with torch.no_grad():
                block.attention.h_x.raw.fill_(-1.0 + layer)
                block.attention.h_p.raw.fill_(-1.5 + 2 * layer)
        return model.blocks[:2], model.inputs(torch.randint(0, 37, (2, 7)), NoPast())

    return stack


@pytest.mark.parametrize("scheme", ["ab2", "etd-ab2"])
def test_two_step_schemes_remember_the_layer_below(scheme, stack):
    """With the weights 1 + ρ/2 and -ρ/2, ρ the ratio of the two layers' own steps."""
    (first, second), start = stack(scheme)
    past = NoPast()
    between = first(start)
    after = second.attention(between, past)
    alone = second.attention(between._replace(memory=None), NoPast())
    h, before = second.attention.h_x(), first.attention.h_x()
    now = (alone.x - between.x) / h
    mean = now + h / before / 2 * (now - between.memory.velocity)
    torch.testing.assert_close(after.x, between.x + h * mean)


def test_a_copy_of_the_state_is_made_anew_in_every_layer(stack):
    """The MLP and the normalisation moved the state after the copy was made."""
    (first, second), start = stack("tao")
    between = first(start)
    after = second(between)
    fresh = second(between._replace(memory=None))
    torch.testing.assert_close(after.x, fresh.x, rtol=0, atol=0)


@pytest.mark.parametrize("scheme", schemes())
def test_step_sizes_and_constants_are_learned(scheme, stack):
    (first, _), start = stack(scheme, initial_step=0.2)
    assert set(first.attention.constants) == set(SCHEMES[scheme].constants())
    out = first.attention(start, NoPast())
    (out.x.square().sum() + (out.p * torch.arange(16)).sum()).backward()
    learned = [
        first.attention.h_x,
        first.attention.h_p,
        *first.attention.coefficients.values(),
        *first.attention.constants.values(),
    ]
    assert all(scalar.raw.grad.abs() > 0 for scalar in learned)


def test_the_clock_moves_with_the_momentum(stack):
    (first, second), start = stack("exp-euler")
    end = second(first(start))
    torch.testing.assert_close(end.t, 1 + first.attention.h_p() + second.attention.h_p())


def test_initial_step(tiny):
    block = sf.build(tiny("symp-strang", initial_step=0.01)).blocks[0].attention
    assert block.h_x().item() == pytest.approx(0.01)
    assert block.h_p().item() == pytest.approx(0.01)
