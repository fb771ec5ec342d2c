"""Configs: every preset builds, nonsense is refused in one line that says what to change."""

import pytest

from sympformer import InputError, ModelConfig, presets
from sympformer.dynamics import schemes


def test_every_preset_is_causal_and_round_trips():
    for name in presets():
        config = ModelConfig.preset(name)
        assert config.causality == "prefix"
        assert not config.leaking
        assert ModelConfig.from_dict(config.to_dict()) == config


def test_the_contract_names_are_there():
    assert {"gpt", "gpt-untied", "yurii", "symp-h0", "symp-h1", "symp-r2"} <= set(presets())
    assert {f"symp-{scheme}" for scheme in schemes()} <= set(presets())


def test_joint_is_marked_as_leaking():
    assert ModelConfig.preset("symp-r2", causality="joint").leaking


@pytest.mark.parametrize(
    ("preset", "overrides", "says"),
    [
        ("symp-r3", {}, "did you mean 'symp-r2'"),
        ("gpt", {"n_embed": 64}, "did you mean 'n_embd'"),
        ("symp-exp-euler", {"scheme": "exp-eular"}, "did you mean 'exp-euler'"),
        ("gpt", {"n_embd": 30, "n_head": 4}, "multiple of n_head"),
        ("gpt", {"n_layer": 0}, "at least 1"),
        ("gpt", {"n_layer": 2.5}, "whole number"),
        ("gpt", {"tie_embeddings": "no"}, "true or false"),
        ("gpt", {"causality": "causal"}, "unknown causality"),
        ("gpt", {"connection": "proposal"}, "form 'velocity'"),
        ("gpt", {"initial_momentum": "embedding"}, "dynamics"),
        ("symp-exp-euler", {"connection": "incoming"}, "form 'velocity'"),
        ("symp-r2", {"scheme": "euler"}, "form 'momentum'"),
        ("yurii", {"mlp_velocity": "own"}, "dynamics 'symp'"),
    ],
)
def test_nonsense_is_refused_in_one_line(preset, overrides, says):
    with pytest.raises(InputError, match=says) as refused:
        ModelConfig.preset(preset, **overrides)
    assert "\n" not in str(refused.value)
