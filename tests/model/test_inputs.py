"""What tokens start with."""

import pytest
import torch

import sympformer as sf
from sympformer.attention.past import NoPast
from sympformer.errors import InputError
from sympformer.model.cache import Recorder


@pytest.fixture
def tokens():
    return torch.randint(0, 37, (2, 11))


def unit_input(model, tokens):
    own, norm = model.inputs.own, model.inputs.norm
    return norm(own(tokens, torch.arange(tokens.shape[1])))


def start(model, tokens, past=None):
    return model.inputs(tokens, NoPast() if past is None else past.part("inputs"))


def test_untied_input_has_unit_size(tiny, tokens):
    size = start(sf.build(tiny("gpt-untied")), tokens).x.std(-1)
    assert ((size - 1).abs() < 0.1).all()


def test_a_momentum_model_may_start_at_rest(tiny, tokens):
    stream = start(sf.build(tiny("yurii", initial_momentum="zero")), tokens)
    assert not stream.p.any()


def test_difference_is_the_text_in_motion(tiny, tokens):
    model = sf.build(tiny("symp-difference")).double()
    inputs = model.inputs
    with torch.no_grad():
        inputs.difference.a.normal_()
        inputs.difference.b.normal_()
    e, p = unit_input(model, tokens), start(model, tokens).p
    torch.testing.assert_close(p[:, 0], inputs.difference.a * e[:, 0])
    expected = inputs.difference.a * e[:, 1:] - inputs.difference.b * e[:, :-1]
    torch.testing.assert_close(p[:, 1:], expected)


def test_difference_starts_from_one_and_shift_from_zero(tiny, tokens):
    difference = sf.build(tiny("symp-difference")).inputs.difference
    assert (difference.a == 1).all()
    assert (difference.b == 1).all()
    shifted = sf.build(tiny("gpt-shift"))
    assert not shifted.inputs.shift.weight.any()
    plain = sf.build(tiny("gpt-untied"))
    plain.load_state_dict(shifted.state_dict(), strict=False)
    torch.testing.assert_close(shifted(tokens).logits, plain(tokens).logits)
    with torch.no_grad():
        shifted.inputs.shift.weight.fill_(0.5)
    e = unit_input(shifted, tokens)
    moved = start(shifted, tokens).x - start(plain, tokens).x
    torch.testing.assert_close(moved[:, 1:], e[:, :-1] / 2)
    assert not moved[:, 0].any()


@pytest.mark.parametrize("preset", ["symp-difference", "gpt-shift"])
def test_the_cache_keeps_the_last_input(preset, tiny, tokens):
    model = sf.build(tiny(preset))
    if model.inputs.shift is not None:
        torch.nn.init.ones_(model.inputs.shift.weight)
    whole = start(model, tokens)
    past = Recorder(None)
    start(model, tokens[:, :4], past)
    rest = start(model, tokens[:, 4:], Recorder(past.cache(4)))
    torch.testing.assert_close(rest.p, whole.p[:, 4:])
    torch.testing.assert_close(rest.x, whole.x[:, 4:])


def test_injected_table_enters_every_layer(tiny, tokens):
    model = sf.build(tiny("gpt-inject"))
    table = start(model, tokens).injected
    for block in model.blocks:
        for oracle in (block.attention.oracle.out, block.mlp.oracle.contract):
            torch.nn.init.zeros_(oracle.weight)
    stream = start(model, tokens)
    with torch.no_grad():
        model.blocks[1].injection.raw.fill_(-3.0)
    moved = model.blocks[1](model.blocks[0](stream))
    torch.testing.assert_close(moved.x - stream.x, -2 * table)


@pytest.mark.parametrize("preset", ["gpt", "gpt-untied", "symp-r2", "gpt-shift", "symp-difference"])
@pytest.mark.parametrize("causality", ["prefix", "ensembles"])
def test_vectors_in_the_place_of_ids(tiny, tokens, preset, causality):
    model = sf.build(tiny(preset, causality=causality, injection=preset == "symp-r2"))
    vectors = model.inputs.embed(tokens)
    assert torch.equal(model(vectors).logits, model(tokens).logits)
    begun = model(tokens[:, :4], use_cache=True).cache
    rest = model(vectors[:, 4:], cache=begun).logits
    assert torch.equal(rest, model(tokens[:, 4:], cache=begun).logits)
    assert torch.equal(model(vectors, targets=tokens).loss, model(tokens, targets=tokens).loss)


def test_vectors_of_another_width(tiny, tokens):
    model = sf.build(tiny("symp-r2"))
    with pytest.raises(InputError, match=r"must be \(batch, time, 32\), 2 tables side by side"):
        model(torch.zeros(2, 3, 16))
    with pytest.raises(InputError, match="ids must be int64"):
        model(torch.zeros(2, 3))
