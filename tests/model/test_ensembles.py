"""Every prefix as an ensemble of its own."""

import pytest
import torch

import sympformer as sf
from sympformer.errors import InputError

PRESETS = ["gpt", "symp-exp-euler", "symp-r2", "linear-symp-exp-euler", "symp-difference"]


@pytest.fixture(params=PRESETS)
def models(request, redrawn):
    """A model of ensembles, and one with its weights whose sums are joint."""
    ensembles = redrawn(request.param, causality="ensembles")
    joint = redrawn(request.param, causality="joint")
    joint.load_state_dict(ensembles.state_dict())
    return ensembles, joint


def test_a_prefix_is_the_last_token_of_a_joint_text(models):
    ensembles, joint = models
    tokens = torch.randint(0, 37, (3, 11))
    got = ensembles(tokens).logits
    for i in range(11):
        want = joint(tokens[:, : i + 1]).logits[:, -1]
        torch.testing.assert_close(got[:, i], want)


def test_padding_changes_nothing(models):
    ensembles, _ = models
    tokens = torch.randint(0, 37, (1, 7))
    padded = torch.cat([tokens.new_zeros(1, 4), tokens], dim=1)
    mask = torch.arange(11)[None] >= 4
    got = ensembles(padded, attention_mask=mask).logits[:, 4:]
    torch.testing.assert_close(got, ensembles(tokens).logits)


def test_a_crop_of_its_cache_goes_on(models):
    ensembles, _ = models
    tokens = torch.randint(0, 37, (2, 9))
    cache = ensembles(tokens[:, :6]).cache.crop(4)
    torch.testing.assert_close(
        ensembles(tokens[:, 4:], cache=cache).logits, ensembles(tokens).logits[:, 4:]
    )


def test_it_learns(tiny):
    model = sf.build(tiny("symp-exp-euler", causality="ensembles"))
    tokens = torch.randint(0, 37, (2, 9))
    model(tokens, tokens).loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_what_has_no_joint_sums_is_refused(tiny):
    with pytest.raises(InputError, match="no joint sums"):
        tiny("deltanet", causality="ensembles")
    with pytest.raises(InputError, match="of a whole model"):
        sf.Block(16, 2, causality="ensembles")
