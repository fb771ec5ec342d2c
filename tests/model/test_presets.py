"""What must hold for every architecture, always."""

import pytest
import torch

import sympformer as sf
from sympformer.attention import forms, tiled
from sympformer.dynamics import Scheme
from sympformer.errors import InputError
from sympformer.train.config import TrainConfig
from sympformer.train.engine import clip_gradients, gradient_norms
from sympformer.train.optimizer import adamw

EXTRAS = {"convolution": 4, "activation": "silu", "keys": "unit", "output_norm": True}
VARIANTS = [
    *((name, {}) for name in sf.presets()),
    ("symp-exp-euler", {"heads": "averaged"}),
    ("symp-exp-euler", {"mlp_velocity": "own", "damping": "constant"}),
    ("symp-exp-euler", {"mlp_velocity": "momentum", "damping": "nesterov", "lookahead": False}),
    ("symp-exp-euler", {"initial_momentum": "zero", "tie_embeddings": False}),
    ("symp-r2", {"heads": "averaged", "mlp_velocity": "own", "lookahead": True}),
    ("gpt", {"heads": "averaged"}),
    ("gpt", {"attention": "tied-softmax", "n_head": 1}),
    ("symp-exp-euler", {"attention": "tied-softmax", "n_head": 1}),
    ("symp-r2", {"attention": "tied-softmax", "n_head": 1}),
    ("linear-symp-exp-euler", {"attention": "tied-linear", "n_head": 1}),
    ("linear-symp-r2", {"attention": "tied-linear", "n_head": 1}),
    ("linear-symp-r2", {"heads": "averaged", "ridge": 1.0}),
    ("symp-ab2", {"unique_layers": 1}),
    ("symp-r2", {"gradual": True}),
    ("symp-exp-euler-published", {"gradual": True, "mlp_velocity": "own"}),
    ("linear-symp-tao", {"gradual": True}),
    ("gated-delta-symp", {"gradual": True}),
    *(
        (name, {"bias": True, "mlp": "gelu-tanh"})
        for name in ("gpt", "symp-r2", "symp-exp-euler", "linear-symp-h1", "gated-deltanet")
    ),
    ("linear-symp-strang", {"bias": True, "gradual": True}),
    ("yurii", {"injection": True, "initial_momentum": "zero"}),
    *(("deltanet", {"rule": rule}) for rule in ("implicit", "ridge", "ridge-n")),
    ("deltanet", {"strength": "double", "output_gate": True, "convolution": 0}),
    ("linear-symp-r2", EXTRAS),
    ("linear-symp-exp-euler", EXTRAS),
    ("symp-exp-euler", {"convolution": 3, "keys": "unit"}),
    ("kda", {"dynamics": "symp", "form": "momentum", "repulsion": False}),
    *((name, {"causality": "ensembles"}) for name in ("gpt", "symp-exp-euler", "linear-symp-r2")),
    ("symp-r2", {"initial_momentum": "difference", "tie_embeddings": False, "token_shift": True}),
]


def label(variant):
    name, overrides = variant
    return "-".join([name, *(f"{k}={v}" for k, v in overrides.items())])


@pytest.mark.parametrize("variant", VARIANTS, ids=label)
def test_audit(variant, tiny):
    name, overrides = variant
    report = sf.audit(sf.build(tiny(name, **overrides)), length=10)
    assert report.passed, str(report)
    assert report.cache_consistent is True


@pytest.mark.parametrize("name", sf.presets())
def test_audit_in_every_form(name, tiny, monkeypatch):
    """Also in tiles of a few rows, whose edges lie within the audited length."""
    monkeypatch.setattr(tiled, "ROWS", 3)
    model = sf.build(tiny(name, block_size=10))
    momentum, connection = model.config.in_momentum_form, model.config.connection
    if model.config.attention in ("linear", "fast-weights"):
        kind = list(forms.LINEAR)
        if model.config.options.get("rule") == "momentum":
            kind.remove("scan")  # a momentum along the text has none
    else:
        kind = ["naive", "tiled"]
        kind += [] if momentum else ["fused"]  # it gives no log-sum-exp
        swept = connection == "proposal" and not model.config.convolution
        kind += ["sweep"] if momentum or swept else []  # others average once
    for form in kind:
        with forms.using(form), forms.recorded() as used:
            report = sf.audit(model, length=10)
        assert report.passed, (form, str(report))
        assert form in {line.split()[0] for line in used}


@pytest.mark.parametrize("name", sf.presets())
def test_joint_is_caught(name, tiny):
    if tiny(name).attention == "fast-weights":
        with pytest.raises(InputError, match="no joint sums"):
            tiny(name, causality="joint")
        return
    report = sf.audit(sf.build(tiny(name, causality="joint")), length=5)
    assert not report.causal
    assert report.max_future_influence > 1e-3


def test_the_published_normaliser_depends_on_the_length(tiny):
    report = sf.audit(sf.build(tiny("symp-exp-euler", normalizer="length")), length=12)
    assert report.causal
    assert not report.prefix_consistent


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", sf.presets())
def test_learns(name, dtype, tiny):
    """Twenty steps on one batch: finite, and the loss falls."""
    model = sf.build(tiny(name))
    config = TrainConfig(learning_rate=3e-3)
    optimizer = adamw(model, config)
    tokens = torch.randint(0, 37, (4, 17))
    losses = []
    for _ in range(20):
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            loss = model(tokens[:, :-1], tokens[:, 1:]).loss
        loss.backward()
        clip_gradients(optimizer, gradient_norms(optimizer), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.3, losses


@pytest.mark.parametrize("variant", VARIANTS[len(sf.presets()) :], ids=label)
def test_variants_run_in_bfloat16(variant, tiny):
    name, overrides = variant
    model = sf.build(tiny(name, **overrides))
    tokens = torch.randint(0, 37, (4, 17))
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(tokens[:, :-1], tokens[:, 1:]).loss
        start = model(tokens[:, :9])
        rest = model(tokens[:, 9:], cache=start.cache).logits
        whole = model(tokens).logits[:, 9:]
    loss.backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
    assert (rest - whole).abs().max() < 0.05 * whole.std()


@pytest.mark.parametrize("name", sf.presets())
def test_every_parameter_is_trained(name, tiny):
    """One backward pass reaches every parameter: nothing is carried along for show."""
    model = sf.build(tiny(name))
    tokens = torch.randint(0, 37, (4, 17))
    model(tokens[:, :-1], tokens[:, 1:]).loss.backward()
    idle = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert not idle


def test_gpt_untied_is_the_fair_control(tiny):
    """Its tables are those of a momentum model; what is left are gains and scalars."""
    count = {name: sf.build(tiny(name)).num_parameters() for name in sf.presets()}
    tables = 37 * 16 + 24 * 16
    assert count["gpt-untied"] - count["gpt"] == tables + 16
    for name in ("yurii", "symp-h0", "symp-h1", "symp-r2"):
        assert 0 <= count[name] - count["gpt-untied"] < 0.01 * count["gpt-untied"]


@pytest.mark.parametrize("name", sf.presets())
def test_runs_in_pure_bfloat16(name, tiny):
    model, tokens = sf.build(tiny(name)).bfloat16(), torch.randint(0, 37, (2, 17))
    loss = model(tokens, tokens).loss
    loss.backward()
    assert loss.isfinite()
    assert model.generate(tokens[:, :5], max_new_tokens=2).shape == (2, 7)


@pytest.mark.parametrize(
    ("name", "preset", "says"),
    [
        ("p", {"dynamics": "symp"}, "'p' must be a Preset"),
        ("a/b", sf.Preset("", {}), "needs a name of letters"),
        (".p", sf.Preset("", {}), "needs a name of letters"),
        ("p", sf.Preset("", {"lookahed": True}), "preset 'p': unknown .*did you mean 'lookahead'"),
        ("p", sf.Preset("", {"dynamics": "sympl"}), "preset 'p': .*did you mean 'symp'"),
    ],
)
def test_a_preset_is_checked_when_it_is_registered(name, preset, says):
    with pytest.raises(sf.InputError, match=says):
        sf.register_preset(name, preset)
    assert name not in sf.presets()


@pytest.mark.parametrize("scheme", [int, Scheme, "euler", 3])
def test_a_scheme_is_checked_when_it_is_registered(scheme):
    with pytest.raises(sf.InputError, match="must be a class below Scheme"):
        sf.register_scheme("xx", scheme)
    assert "xx" not in sf.dynamics.schemes()
