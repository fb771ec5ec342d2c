"""Matched widths and looped blocks."""

import pytest
import torch

import sympformer as sf
from sympformer import InputError
from sympformer.model.layers import LearnedScalar


@pytest.mark.parametrize("preset", ["gpt-untied", "symp-r2", "linear-symp-tao"])
def test_a_matched_model_has_the_parameters_asked_for(preset, tiny):
    matched = sf.build(tiny("gpt", match_parameters=preset))
    target = sf.build(tiny(preset)).num_parameters()
    of_unit = 2 * 16 * 2  # one more unit in the MLPs of both layers
    assert abs(matched.num_parameters() - target) <= of_unit / 2
    assert sf.build(matched.config).num_parameters() == matched.num_parameters()


def test_a_width_that_cannot_be_matched_is_refused(tiny):
    with pytest.raises(InputError, match="choose a larger preset"):
        sf.build(tiny("yurii", tie_embeddings=False, match_parameters="gpt", vocab_size=5000))


def test_looped_blocks_are_the_same_blocks(tiny):
    """Two blocks over four layers are four blocks with equal weights."""
    looped = sf.build(tiny("symp-r2", n_layer=4, unique_layers=2)).double()
    plain = sf.build(tiny("symp-r2", n_layer=4)).double()
    assert len(looped.blocks) == 2
    for layer, block in enumerate(plain.blocks):
        block.load_state_dict(looped.blocks[layer % 2].state_dict())
    plain.inputs.load_state_dict(looped.inputs.state_dict())
    tokens = torch.randint(0, 37, (2, 9))
    torch.testing.assert_close(looped(tokens).logits, plain(tokens).logits)


def test_more_loops_at_inference(tiny):
    model = sf.build(tiny("symp-exp-euler", n_layer=4, unique_layers=2)).double()
    tokens = torch.randint(0, 37, (2, 9))
    torch.testing.assert_close(model.with_loops(2)(tokens).logits, model(tokens).logits)
    longer = model.with_loops(3)
    again = sf.build(longer.config).double()
    again.load_state_dict(model.state_dict())
    torch.testing.assert_close(longer(tokens).logits, again(tokens).logits)
    assert (longer(tokens).logits - model(tokens).logits).abs().max() > 1e-4
    assert model.config.n_layer == 4
    assert next(longer.parameters()) is next(model.parameters())
    out = longer(tokens[:, :5])
    rest = longer(tokens[:, 5:], cache=out.cache)
    torch.testing.assert_close(rest.logits, longer(tokens).logits[:, 5:])


def test_loops_with_scalars_of_their_own(tiny):
    """Matrices and gains are shared, learned scalars are not; shared ones start out the same."""
    sizes = {"n_layer": 4, "unique_layers": 2}
    own = sf.build(tiny("symp-exp-euler", loop_scalars="own", **sizes)).double()
    shared = sf.build(tiny("symp-exp-euler", **sizes)).double()
    scalars = sum(isinstance(m, LearnedScalar) for m in shared.modules())
    assert own.num_parameters() == shared.num_parameters() + scalars
    assert own.blocks[2].attention.oracle is own.blocks[0].attention.oracle
    assert own.blocks[2].attention.h_x is not own.blocks[0].attention.h_x
    shared.load_state_dict(own.state_dict(), strict=False)
    tokens = torch.randint(0, 37, (2, 9))
    torch.testing.assert_close(own(tokens).logits, shared(tokens).logits)
    with torch.no_grad():
        own.blocks[3].attention.h_x.raw += 1
    assert (own(tokens).logits - shared(tokens).logits).abs().max() > 1e-6
    torch.testing.assert_close(
        own.with_loops(1)(tokens).logits, shared.with_loops(1)(tokens).logits
    )
    with pytest.raises(InputError, match="loop_scalars = 'shared'"):
        own.with_loops(3)
    assert sf.audit(own, length=9).passed


def test_a_model_without_looped_blocks_can_be_looped(tiny):
    model = sf.build(tiny("gpt"))
    twice = model.with_loops(2)
    assert (twice.config.n_layer, twice.config.unique_layers) == (4, 2)
    assert twice.with_loops(1).config == model.config


@pytest.mark.parametrize("loops", [0, 1.5, "2"])
def test_bad_loops_are_refused(loops, tiny):
    with pytest.raises(InputError, match="loops must be a whole number"):
        sf.build(tiny("gpt")).with_loops(loops)


@pytest.mark.parametrize("name", sf.presets())
def test_a_model_from_meta_is_the_same_model(name, tiny):
    """Built without memory, emptied and initialised: every tensor is as if built at once."""
    torch.manual_seed(3)
    expected = sf.build(tiny(name)).state_dict()
    with torch.device("meta"):
        model = sf.build(tiny(name))
    model.to_empty(device="cpu")
    with torch.no_grad():
        for p in model.parameters():
            p.fill_(torch.nan)
    torch.manual_seed(3)
    model.reset_parameters()
    torch.testing.assert_close(model.state_dict(), expected, rtol=0, atol=0)
    torch.manual_seed(3)
    model.reset_parameters()
    torch.testing.assert_close(model.state_dict(), expected, rtol=0, atol=0)


@pytest.mark.parametrize(
    "options",
    [
        {"attention": "tied-softmax", "n_head": 1},
        {"attention": "tied-linear", "n_head": 1},
        {"n_layer": 4, "unique_layers": 2, "loop_scalars": "own"},
    ],
)
def test_so_are_its_variants(options, tiny):
    torch.manual_seed(3)
    expected = sf.build(tiny("symp-exp-euler", **options)).state_dict()
    with torch.device("meta"):
        model = sf.build(tiny("symp-exp-euler", **options))
    model.to_empty(device="cpu")
    torch.manual_seed(3)
    model.reset_parameters()
    torch.testing.assert_close(model.state_dict(), expected, rtol=0, atol=0)


def test_no_parameter_is_without_an_axis(tiny):
    """Sharded training refuses them."""
    for name in sf.presets():
        assert all(p.ndim for p in sf.build(tiny(name)).parameters())


def test_a_model_that_hands_no_momentum_on_cannot_be_looped(tiny):
    with pytest.raises(InputError, match="unique_layers"):
        sf.build(tiny("symp-exp-euler")).with_loops(2)
