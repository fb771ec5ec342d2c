"""Every shipped comparison is parsed, and each of its models built, without memory."""

import dataclasses
import tomllib
from pathlib import Path

import pytest
import torch

import sympformer as sf
from sympformer.errors import lookup
from sympformer.train.config import DataConfig, TrainConfig

CONFIGS = Path(__file__).parents[2] / "configs"
SHIPPED = sorted(path.relative_to(CONFIGS).as_posix() for path in CONFIGS.rglob("*.toml"))
KEYS = {"presets", "baseline", "seeds", "model", "model_of", "data", "train"}


def load(name):
    return tomllib.loads((CONFIGS / name).read_text())


def test_the_tables_of_the_paper_are_there():
    assert {f"paper/table{n}.toml" for n in (1, 2, 3)} | {"causal-study.toml"} <= set(SHIPPED)


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_config(name):
    config = load(name)
    assert set(config) <= KEYS
    assert config["baseline"] in config["presets"]
    assert set(config.get("model_of", {})) <= set(config["presets"])
    for cls, table in ((DataConfig, "data"), (TrainConfig, "train")):
        for field in config[table]:
            lookup({f.name: f for f in dataclasses.fields(cls)}, field, f"{table} option")
        cls(**config[table])
    for preset in config["presets"]:
        options = {**config["model"], **config.get("model_of", {}).get(preset, {})}
        with torch.device("meta"):
            model = sf.build(sf.ModelConfig.preset(preset, **options))
        assert all(p.is_meta for p in model.parameters())


@pytest.mark.parametrize(
    ("name", "tokens", "scalar_lr"),
    [
        ("paper/table1.toml", 10_000 * 16 * 6 * 512, 5),
        ("paper/table2.toml", 10_000 * 12 * 6 * 128, 100),
        ("paper/table3.toml", 10_000 * 12 * 6 * 1024, 100),
        ("causal-study.toml", 6_103 * 16_384, 10),
    ],
)
def test_protocols_are_the_published_ones(name, tokens, scalar_lr):
    config = load(name)
    train = TrainConfig(**config["train"])
    update = train.batch_size * train.accumulation * config["model"]["block_size"]
    assert train.steps * update == tokens
    assert train.scalar_lr == scalar_lr
