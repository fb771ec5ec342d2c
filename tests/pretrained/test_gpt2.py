"""Models of the type of GPT-2: the same function, also with momentum that has not begun."""

import json

import pytest
import torch

import sympformer as sf
from sympformer.errors import InputError
from sympformer.model.continuation import accelerated, start_as
from sympformer.pretrained import ModelFolder, gpt2

transformers = pytest.importorskip("transformers")

SIZE = {"vocab_size": 61, "n_positions": 24, "n_layer": 2, "n_head": 2, "n_embd": 16}


def theirs(folder, **options):
    """A GPT-2 of random weights, biases and gains, saved."""
    config = transformers.GPT2Config(**SIZE, bos_token_id=0, eos_token_id=0, **options)
    model = transformers.GPT2LMHeadModel(config).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(p + 0.1 * torch.randn_like(p) if p.ndim < 2 else torch.randn_like(p) / 3)
    model.save_pretrained(folder)
    return model


def ids():
    return torch.randint(61, (2, 20), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("options", [{}, {"n_inner": 24}, {"activation_function": "gelu"}], ids=str)
def test_the_same_logits(options, tmp_path):
    other, model = theirs(tmp_path, **options), ModelFolder(tmp_path).model()
    expected = other(ids()).logits
    torch.testing.assert_close(model(ids()).logits, expected, rtol=1e-5, atol=1e-5)
    exact = other.double()(ids()).logits
    torch.testing.assert_close(model.double()(ids()).logits, exact, rtol=1e-10, atol=1e-10)
    cache = model(ids()[:, :7], use_cache=True).cache
    rest = model(ids()[:, 7:], cache=cache).logits
    torch.testing.assert_close(rest, exact[:, 7:], rtol=1e-10, atol=1e-10)
    assert sf.audit(model, length=8).passed


@pytest.mark.parametrize("name", ["yurii", "tmm", "symp-h1", "symp-r2", "symp-ab2", "symp-tao"])
def test_momentum_can_be_added(name, tmp_path):
    other = theirs(tmp_path).double()
    source = ModelFolder(tmp_path).model().double()
    model = sf.build(accelerated(source.config, name)).double().eval()
    start_as(model, source)
    expected = other(ids()).logits
    torch.testing.assert_close(model(ids()).logits, expected, rtol=1e-10, atol=1e-10)


def test_other_names_of_the_same(tmp_path):
    """Without the prefix, with a head and masks, as files on the hub are."""
    tensors = {f"transformer.{n}": p for n, p in theirs(tmp_path).transformer.state_dict().items()}
    bare = {name.removeprefix("transformer."): tensor for name, tensor in tensors.items()}
    old = {"h.0.attn.bias": torch.ones(1), "h.0.attn.masked_bias": torch.ones(1)}
    named = gpt2.weights({**tensors, "lm_head.weight": tensors["transformer.wte.weight"]})
    other = gpt2.weights({**bare, **old})
    assert named.keys() == other.keys()
    assert all(torch.equal(named[name], other[name]) for name in named)


@pytest.mark.parametrize(
    ("option", "value", "says"),
    [
        ("layer_norm_epsilon", 1e-6, "layer_norm_epsilon is 1e-06, and only models with 1e-05"),
        ("activation_function", "relu", "activation_function is 'relu', and what is known here is"),
        ("tie_word_embeddings", False, "tie_word_embeddings is False"),
        ("n_embd", "16", "n_embd must be a whole number"),
        ("n_layer", 1, "the weights 'blocks.1.attention.norm.bias' belong to another model"),
    ],
)
def test_what_is_refused(option, value, says, tmp_path):
    theirs(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), option: value}))
    with pytest.raises(InputError, match=says):
        ModelFolder(tmp_path).model()
