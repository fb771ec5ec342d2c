"""The rates of a small model for a wide one: the coordinate check, and what is scaled."""

import numpy as np
import pytest
import torch

import sympformer as sf
from sympformer import InputError
from sympformer.data import Loader
from sympformer.train import RunConfig, TrainConfig, train
from sympformer.train.engine import Engine
from sympformer.train.optimizer import make_optimizer
from sympformer.train.width import scale_initial

WIDTHS = 16, 32, 64, 128


def sized(tiny, preset, width, **options):
    return tiny(preset, n_embd=width, n_head=width // 8, **options)


def moved(config, **options):
    """How far a few updates move the logits of a model: root of the mean square."""
    stream = ((np.cumsum(np.random.default_rng(0).integers(1, 3, 2000)) * 7) % 31).astype(np.uint16)
    model = sf.build(config)
    t = TrainConfig(batch_size=8, warmup=0, learning_rate=1e-2, **options)
    if t.base_width is not None:
        scale_initial(model, t.base_width)
    engine = Engine(model, Loader(stream, 24, 8, seed=0), t)
    tokens = torch.from_numpy(stream[:96].astype(np.int64)).view(4, 24)
    with torch.no_grad():
        before = model(tokens).logits
    for _ in range(4):
        engine.update()
    with torch.no_grad():
        return (model(tokens).logits - before).square().mean().sqrt().item()


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("preset", ["gpt", "symp-r2"])
def test_coordinate_check(tiny, preset, optimizer):
    """Logits move alike at every width with a base width; without, in proportion to the width."""

    def slope(base):
        found = []
        for width in WIDTHS:
            torch.manual_seed(0)
            config = sized(tiny, preset, width)
            found.append(moved(config, optimizer=optimizer, base_width=base))
        return np.polyfit(np.log(WIDTHS), np.log(found), 1)[0]

    assert slope(None) > 0.6
    assert -0.4 < slope(WIDTHS[0]) < 0.2


def test_the_base_width_changes_nothing(tiny):
    for optimizer in ("adamw", "muon"):
        found = []
        for base in (None, 16):
            torch.manual_seed(0)
            config = sized(tiny, "symp-exp-euler", 16)
            found.append(moved(config, optimizer=optimizer, base_width=base))
        assert found[0] == pytest.approx(found[1], rel=1e-4)


def test_what_is_scaled(tiny):
    torch.manual_seed(0)
    model = sf.build(sized(tiny, "symp-exp-euler", 64, mlp_width=192))
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    scale_initial(model, 16)
    ratio = {n: (p / before[n]).nanmean().item() for n, p in model.named_parameters()}
    assert ratio["blocks.0.attention.oracle.qkv.weight"] == pytest.approx(0.5)
    assert ratio["blocks.0.mlp.oracle.contract.weight"] == pytest.approx(0.5)
    assert ratio["norm.weight"] == pytest.approx(0.25)
    assert ratio["inputs.usual.tokens.weight"] == 1.0
    mobility = model.blocks[0].attention.oracle.mobility.weight
    assert torch.equal(mobility, torch.eye(64)), "which does not start at random"
    for optimizer, factor in (("adamw", 0.25), ("muon", 0.5)):
        t = TrainConfig(optimizer=optimizer, base_width=16)
        names = {p: n for n, p in model.named_parameters()}
        factors = {
            names[p]: group["factor"]
            for group in make_optimizer(model, t).param_groups
            for p in group["params"]
        }
        assert sorted(factors) == sorted(names.values())
        assert factors["blocks.0.attention.oracle.mobility.weight"] == factor
        assert factors["norm.weight"] == 0.25
        assert factors["inputs.usual.tokens.weight"] == 1.0
        assert factors["blocks.0.attention.norm_x.weight"] == 1.0
        assert {g["name"] for g in make_optimizer(model, t).param_groups} == {
            "embeddings",
            "scalars",
            "weights",
            "weights 2",
            "matrices",
        }


def test_where_there_is_no_base(tiny, config):
    t = TrainConfig(base_width=20)
    with pytest.raises(InputError, match="base_width must be a multiple of 8, the width of a head"):
        RunConfig("gpt", tiny("gpt"), train=t)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_run_resumes_exactly(tiny, corpus, config, tmp_path, optimizer):
    from dataclasses import replace

    options = {"optimizer": optimizer, "base_width": 16, "schedule": "wsd"}
    model = sized(tiny, "symp-h0", 32, vocab_size=257)
    config = replace(config, model=model, train=replace(config.train, **options))
    whole = train(config, corpus, tmp_path / "whole")
    stops = iter([0, 0, 0, 0, 15])
    with pytest.raises(sf.errors.Stopped):
        train(config, corpus, tmp_path / "torn", stop=lambda: next(stops))
    again = train(config, corpus, tmp_path / "torn", resume=True)
    assert again["final_loss"] == whole["final_loss"]
    contents = [(tmp_path / n / "model.safetensors").read_bytes() for n in ("whole", "torn")]
    assert contents[0] == contents[1]
