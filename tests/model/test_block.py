"""A layer outside of a language model is what it is inside."""

from functools import partial

import pytest
import torch

import sympformer as sf
from sympformer import InputError
from sympformer.attention.past import NoPast
from sympformer.model import MODELS
from sympformer.model import PRESETS as PRESETS_OF_ALL
from sympformer.model.layers import Stream

PRESETS = ["gpt", "yurii", "tmm", "symp-r2", "symp-exp-euler", "symp-etd-ab2", "symp-tao"]
PRESETS += ["gpt-inject", "gpt-euler", "linear-symp-ab2", "linear-symp-r2"]
D, HEADS = 16, 2


@pytest.fixture
def text():
    """Positions and momenta, `(2, 9, 16)` each."""
    return torch.randn(2, 9, D).double(), torch.randn(2, 9, D).double()


def bare(name, **options):
    """A block in float64 whose matrices are large, so that its tokens interact."""
    block = sf.Block.preset(name, D, HEADS, **options).double()
    with torch.no_grad():
        for p in block.parameters():
            p.add_(torch.randn_like(p) / 4)
    return block


@pytest.mark.parametrize("name", PRESETS)
def test_a_stack_of_bare_blocks_is_the_models(name, tiny):
    """The same weights from the same seed, and the same output from these weights."""
    model = sf.build(tiny(name, n_layer=3)).double()
    blocks = [sf.Block.preset(name, D, HEADS, last=i == 2).double() for i in range(3)]
    for mine, models in zip(blocks, model.blocks, strict=True):
        mine.load_state_dict(models.state_dict())
    tokens = torch.randint(0, 37, (2, 9))
    stream = model.inputs(tokens, NoPast())
    for block in blocks:
        stream = block(stream)
    hidden = model.norm(stream.x)
    torch.testing.assert_close(hidden @ model.inputs.usual.tokens.weight.T, model(tokens).logits)


@pytest.mark.parametrize("name", PRESETS)
def test_a_bare_block_initialises_itself_as_the_models_do(name, tiny):
    """In distribution: the same constants, and matrices of the same spread."""
    mine = sf.Block.preset(name, D, HEADS).state_dict()
    models = sf.build(tiny(name)).blocks[0].state_dict()
    assert list(mine) == list(models)
    for key, value in mine.items():
        drawn = value.ndim > 1 and value.unique().numel() > 2
        if drawn:
            assert value.std().item() == pytest.approx(0.02, rel=0.3)
            assert models[key].std().item() == pytest.approx(0.02, rel=0.3)
        else:
            torch.testing.assert_close(value, models[key], rtol=0, atol=0)


def test_shapes_that_do_not_fit_are_refused():
    block, x = sf.Block.preset("symp-r2", D, HEADS), torch.randn(2, 3, D)
    for wrong in (torch.randn(2, 3, D + 1), torch.randn(3, D)):
        for given in (wrong, Stream.start(wrong)):
            with pytest.raises(InputError, match="positions must be"):
                block(given)
    for wrong in (torch.ones(2, 3, D, dtype=torch.int64), [1.0]):
        with pytest.raises(InputError, match="real numbers"):
            block(wrong)
    with pytest.raises(InputError, match="momenta must have the shape"):
        block(x, torch.randn(1, 1, D))


def test_what_is_injected_is_asked_for():
    block, x = sf.Block.preset("gpt-inject", D, HEADS), torch.randn(2, 3, D)
    with pytest.raises(InputError, match=r"Stream.start\(x, injected="):
        block(x)
    assert block(Stream.start(x, injected=x)).x.shape == x.shape


def test_a_preset_that_is_more_than_its_layers_has_none():
    sf.register_model("whole", lambda _: torch.nn.Linear(2, 2), "whole")
    try:
        with pytest.raises(InputError, match="'whole' is a whole model"):
            sf.Block.preset("whole", D, HEADS)
        with pytest.raises(InputError, match="model is of a whole model"):
            sf.Block(D, HEADS, model="whole")
    finally:
        del MODELS["whole"], PRESETS_OF_ALL["whole"]
    with pytest.raises(InputError, match="'gpt-wide' sets the width"):
        sf.Block.preset("gpt-wide", D, HEADS)


@pytest.mark.parametrize("name", PRESETS)
def test_from_meta_it_is_the_same_block(name):
    torch.manual_seed(3)
    expected = sf.Block.preset(name, D, HEADS).state_dict()
    with torch.device("meta"):
        block = sf.Block.preset(name, D, HEADS)
    block.to_empty(device="cpu")
    with torch.no_grad():
        for p in block.parameters():
            p.fill_(torch.nan)
    torch.manual_seed(3)
    block.reset_parameters()
    torch.testing.assert_close(block.state_dict(), expected, rtol=0, atol=0)


@pytest.mark.parametrize("name", PRESETS)
def test_tensors_are_a_stream_at_its_start(name, text):
    x, p = text
    block = bare(name, injection=False) if name == "gpt-inject" else bare(name)
    stream = block(Stream.start(x, p))
    for got, want in zip(block(x, p), (stream.x, stream.p), strict=True):
        torch.testing.assert_close(got, want, rtol=0, atol=0)
    at_rest = block(x, torch.zeros_like(p))
    for got, want in zip(block(x), at_rest, strict=True):
        torch.testing.assert_close(got, want, rtol=0, atol=0)


@pytest.mark.parametrize("name", [name for name in PRESETS if name != "gpt-inject"])
def test_a_cache_by_parts_is_the_whole_pass(name, text):
    """Two layers, each with its part of the cache; in pieces, and token by token."""
    blocks = [bare(name), bare(name)]

    def run(x, p, cache=None):
        past, s = sf.Recorder(cache), sf.Stream.start(x, p)
        for i, block in enumerate(blocks):
            s = block(s, past=past.part(f"blocks.{i}"))
        return s.x, past.cache(x.shape[1])

    x, p = text
    with torch.no_grad():
        whole, _ = run(x, p)
        for pieces in ((5, 4), (1,) * 9):
            cache, start = None, 0
            for n in pieces:
                got, cache = run(x[:, start : start + n], p[:, start : start + n], cache)
                torch.testing.assert_close(got, whole[:, start : start + n])
                start += n
            assert cache.length == 9


@pytest.mark.parametrize("name", ["symp-exp-euler", "symp-exp-euler-published", "symp-ab2"])
def test_the_last_layer_moves_positions_as_any_other(name, text):
    """It has fewer parameters, a part of the full layer's, and the same positions behind it."""
    x, p = text
    full, last = bare(name), bare(name, last=True)
    assert sum(p.numel() for p in last.parameters()) < sum(p.numel() for p in full.parameters())
    last.load_state_dict(of_last(full.state_dict(), last.state_dict()))
    torch.testing.assert_close(last(x, p)[0], full(x, p)[0])
    gradients = torch.autograd.grad(last(x, p)[0].square().sum(), list(last.parameters()))
    assert all(g.any() for g in gradients)


def of_last(full, last):
    """The weights of a layer for one without values: queries and keys come first in `qkv`."""
    names = {name: name.replace(".qk.", ".qkv.") for name in last}
    return {name: full[names[name]][: len(value)] for name, value in last.items()}


@pytest.mark.parametrize(
    ("composition", "says"),
    [
        ({"dynamics": "symp", "form": "momentum", "connection": "proposal"}, "connection"),
        ({"scheme": "eulr"}, "euler"),
        ({"attention": "linaer"}, "linear"),
        ({"n_layer": 3}, "n_layer is of a whole model"),
        ({"initial_momentum": "embedding"}, "initial_momentum is of a whole model"),
    ],
)
def test_what_makes_no_sense_is_refused(composition, says):
    with pytest.raises(sf.InputError, match=says):
        sf.Block(D, HEADS, **composition)


def test_messages_call_the_arguments_by_their_names():
    for arguments in ((D, 3), (0, 1)):
        for make in (sf.Block, partial(sf.Block.preset, "symp-r2")):
            with pytest.raises(sf.InputError, match=r"^d (\(|must)"):
                make(*arguments)
