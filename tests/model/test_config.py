"""Configs: every preset builds, nonsense is refused in one line that says what to change."""

import copy
import pickle
from dataclasses import replace

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
    assert {"gpt-wide", "gpt-inject", "gpt-shift", "gpt-euler"} <= set(presets())
    assert {"yurii-euler", "polyak", "tmm", "symp-difference"} <= set(presets())
    assert {f"symp-{scheme}" for scheme in schemes()} <= set(presets())
    symp = {n for n in presets() if n.startswith("symp-") and not n.endswith("-extras")}
    linear = {"linear-gpt", "linear-gpt-untied", "linear-yurii", *(f"linear-{n}" for n in symp)}
    plain = {name for name in presets() if not name.endswith("-extras")}
    assert linear == {name for name in plain if name.startswith("linear-")}
    extras = {name for name in presets() if name.endswith("-extras")}
    assert {f"linear-{n}" for n in extras if not n.startswith("linear-")} <= extras


def test_a_config_of_before_still_loads():
    """Fields that were added later have defaults."""
    first = {"vocab_size": 99, "dynamics": "symp", "form": "momentum", "scheme": "exp-euler"}
    assert ModelConfig.from_dict(first) == ModelConfig(**first)


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
        ("gpt", {"n_head": True}, "whole number"),
        ("gpt", {"connection": "proposal"}, "form 'velocity'"),
        ("gpt", {"initial_momentum": "embedding"}, "dynamics"),
        ("symp-exp-euler", {"connection": "incoming"}, "form 'velocity'"),
        ("symp-r2", {"scheme": "euler"}, "form 'momentum'"),
        ("yurii", {"mlp_velocity": "own"}, "dynamics 'symp'"),
        ("yurii", {"lookahead": False}, "'polyak'"),
        ("symp-h0", {"splitting": "euler"}, "another dynamics"),
        ("gpt-euler", {"mlp": "none"}, "splitting = 'euler' needs .* mlp 'gelu'"),
        ("symp-h0", {"mlp": "none", "mlp_velocity": "own"}, "mlp_velocity = 'own' needs .* mlp"),
        ("gpt", {"mlp": "none", "mlp_width": 32}, "mlp_width = 32 needs mlp 'gelu'"),
        ("gpt-wide", {"mlp": "none"}, "match_parameters = 'gpt-untied' needs a model .* an MLP"),
        ("gpt", {"mlp": "relu"}, "unknown mlp"),
        ("gpt", {"positions": "rotary"}, "unknown positions"),
        ("linear-symp-exp-euler", {"normalizer": "length"}, "of attention 'softmax'"),
        ("symp-r2", {"normalizer": "length"}, "needs form 'momentum'"),
        ("symp-r2", {"ridge": 0.5}, "of attention 'linear' and 'tied-linear', not of 'softmax'"),
        ("linear-symp-h0", {"ridge": 0.5}, "needs a connection"),
        ("linear-symp-r2", {"ridge": 0}, "greater than 0"),
        ("linear-symp-r2", {"ridge": "small"}, "ridge must be a finite number"),
        ("linear-symp-r2", {"ridge": float("nan")}, "ridge must be a finite number"),
        ("symp-r2", {"attention": "sofmax"}, "did you mean 'softmax'"),
        ("symp-r2", {"attention": "tied-softmax"}, "n_head = 1"),
        (
            "symp-r2",
            {"attention": "tied-softmax", "n_head": 1, "heads": "averaged"},
            "not of 'tied",
        ),
        ("symp-r2", {"drift": "before"}, "form 'momentum' and a scheme of first order"),
        ("symp-ab2", {"drift": "before"}, "a scheme of first order"),
        ("symp-h0", {"initial_step": 0.1}, "form 'momentum'"),
        ("symp-ab2", {"initial_step": -0.1}, "greater than 0"),
        ("symp-ab2", {"initial_step": float("inf")}, "finite"),
        ("gpt", {"token_shift": True}, "tie_embeddings = false"),
        ("yurii", {"initial_momentum": "difference"}, "tie_embeddings = false"),
        ("gpt-untied", {"initial_momentum": "difference"}, "dynamics"),
        ("gpt", {"unique_layers": 3}, "multiple of unique_layers"),
        ("gpt", {"unique_layers": 8}, "at least twice"),
        ("gpt", {"unique_layers": -1}, "at least 0"),
        ("gpt", {"match_parameters": "gpt-unties"}, "did you mean 'gpt-untied'"),
        ("gpt-wide", {"mlp_width": 512}, "match_parameters"),
    ],
)
def test_nonsense_is_refused_in_one_line(preset, overrides, says):
    with pytest.raises(InputError, match=says) as refused:
        ModelConfig.preset(preset, **overrides)
    assert "\n" not in str(refused.value)


def test_options_of_the_attention_are_fields_by_name():
    config = ModelConfig.preset("linear-symp-r2", ridge=0.3)
    assert config.ridge == config.options["ridge"] == 0.3
    assert config.options["heads"] == "independent"
    assert config.options["convolution"] == 0  # of the group of extras
    assert ModelConfig(**config.to_dict()) == config
    assert replace(config, ridge=0.4).ridge == 0.4
    assert replace(config, n_layer=3).ridge == 0.3
    assert copy.deepcopy(config) == pickle.loads(pickle.dumps(config)) == config
    assert hash(config) == hash(ModelConfig(**config.to_dict()))
    with pytest.raises(AttributeError, match="normalizer"):
        _ = config.normalizer


def test_an_unknown_option_gets_a_hint():
    with pytest.raises(InputError, match="did you mean 'ridge'"):
        ModelConfig.preset("linear-symp-r2", rigde=0.3)
