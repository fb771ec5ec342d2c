"""Momentum for a trained model: the same function at the start, in every accelerated preset."""

import pytest
import torch

import sympformer as sf
from sympformer.errors import InputError
from sympformer.model.continuation import MOTION, accelerated, base, start_as
from sympformer.model.layers import LearnedScalar
from sympformer.model.presets import PRESETS

MOVING = [name for name in sf.presets() if PRESETS[name].fields.get("dynamics", "none") != "none"]


@pytest.fixture
def pair(tiny, redrawn):
    """A function that gives a trained model, and its accelerated form at the start."""

    def pair(name, **options):
        fields = {k: v for k, v in PRESETS[name].fields.items() if k not in MOTION}
        source = redrawn("gpt", **{**fields, **options})
        model = sf.build(accelerated(source.config, name)).double().eval()
        start_as(model, source)
        return source, model

    return pair


def tokens(n=9):
    return torch.randint(37, (2, n), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", MOVING)
def test_the_same_function_at_the_start(name, pair):
    source, model = pair(name)
    ids = tokens()
    expected = source(ids).logits
    torch.testing.assert_close(model(ids).logits, expected, rtol=1e-10, atol=1e-10)
    cache = model(ids[:, :4], use_cache=True).cache
    rest = model(ids[:, 4:], cache=cache).logits
    torch.testing.assert_close(rest, expected[:, 4:], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", MOVING)
def test_momentum_comes_in_by_training(name, pair):
    """The shares have gradients at the start; once tokens move, every parameter has one."""
    _, model = pair(name)
    model.float().requires_grad_(True).train()
    ids = tokens(17)

    def idle():
        model.zero_grad()
        model(ids[:, :-1], ids[:, 1:]).loss.backward()
        return [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]

    assert not [n for n in idle() if n.endswith("kappa.raw")]
    for part in model.modules():
        if isinstance(part, LearnedScalar) and part.domain == "signed":
            torch.nn.init.constant_(part.raw, 0.3)
    if model.inputs.momentum is not None:
        model.inputs.momentum.tokens.reset_parameters()
    assert not idle()


@pytest.mark.parametrize("name", ["yurii", "tmm", "symp-h1", "symp-r2", "symp-strang"])
def test_with_a_share_of_one_it_is_the_preset(name, redrawn, tiny):
    model = redrawn(name)
    gradual = sf.build(tiny(name, gradual=True)).double().eval()
    known = model.state_dict()
    for n, p in gradual.state_dict().items():
        if n.endswith("kappa.raw"):
            p.fill_(40.0)
        elif n.endswith("mu.raw"):
            p.copy_(torch.atanh(known[n].sigmoid()))
        else:
            p.copy_(known[n])
    ids = tokens()
    torch.testing.assert_close(gradual(ids).logits, model(ids).logits, rtol=1e-8, atol=1e-8)


def test_a_model_of_every_kind_of_tables(pair):
    """A shifted input, an injected table, an untied one, loops, other positions."""
    for options in (
        {"tie_embeddings": False, "token_shift": True},
        {"injection": True, "positions": "none"},
        {"unique_layers": 1, "n_layer": 2, "mlp_width": 24},
        {"heads": "averaged"},
    ):
        source, model = pair("symp-exp-euler", **options)
        torch.testing.assert_close(model(tokens()).logits, source(tokens()).logits)
    source, model = pair("yurii-euler")
    assert source.config.splitting == "euler"


def test_what_is_another_function_is_refused(tiny, redrawn):
    gpt = redrawn("gpt")
    for preset, says in (
        ("linear-symp-r2", "has attention = 'linear', and this model 'softmax'"),
        ("symp-difference", "has tie_embeddings = False, and this model True"),
        ("symp-r2-extras", "has convolution = 4, and this model 0"),
        ("yurii-euler", "has splitting = 'euler', and this model 'lie-trotter'"),
    ):
        with pytest.raises(InputError, match=says):
            accelerated(gpt.config, preset)
    with pytest.raises(InputError, match="only a model without momentum can be given one"):
        accelerated(tiny("yurii"), "symp-r2")
    with pytest.raises(InputError, match="no place in the momentum form"):
        accelerated(tiny("gpt-extras"), "symp-exp-euler")
    assert accelerated(gpt.config, "gpt") == gpt.config
    assert base(accelerated(gpt.config, "symp-tao", damping="constant")) == gpt.config
    before = sf.build(tiny("symp-r2", gradual=True, n_layer=3))
    with pytest.raises(InputError, match="n_layer is 3 here, 2 there"):
        start_as(before, gpt)
    with pytest.raises(InputError, match="dynamics is 'symp' here, 'none' there"):
        start_as(sf.build(tiny("symp-r2")), gpt)
    with pytest.raises(InputError, match="gradual = True needs dynamics other than 'none'"):
        tiny("gpt", gradual=True)
