"""Run configurations: round trip through TOML, and refusals."""

import pytest

from sympformer import InputError
from sympformer.train.config import DataConfig, RunConfig, TrainConfig


def test_round_trip(tmp_path, tiny):
    config = RunConfig(
        "symp-r2", tiny("symp-r2"), DataConfig(text="a.txt"), TrainConfig(steps=3, threads=1)
    )
    config.save(tmp_path / "config.toml")
    assert RunConfig.load(tmp_path / "config.toml") == config


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("steps = 3", "steps = ", "no TOML"),
        ("[model]", "[[model]]", "model must be a table"),
        ("preset = ", "color = 1\npreset = ", "unknown option"),
        ('preset = "symp-r2"', "preset = 2", "preset must be text"),
        ("steps = 3", "stepz = 3", "did you mean 'steps'"),
        ("[train]", "[trained]", "corrupt"),
        ('connection = "proposal"', 'connection = "proposed"', "did you mean 'proposal'"),
    ],
)
def test_a_corrupt_config_is_refused(tmp_path, tiny, old, new, says):
    path = tmp_path / "config.toml"
    RunConfig("symp-r2", tiny("symp-r2"), DataConfig(), TrainConfig(steps=3)).save(path)
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    with pytest.raises(InputError, match=says):
        RunConfig.load(path)


def test_no_run(tmp_path):
    with pytest.raises(InputError, match="a run folder"):
        RunConfig.load(tmp_path / "config.toml")


@pytest.mark.parametrize(
    "bad", [{"steps": 0}, {"learning_rate": 0.0}, {"min_lr_ratio": 2.0}, {"warmup": -1}]
)
def test_bad_options(bad):
    with pytest.raises(InputError, match=next(iter(bad))):
        TrainConfig(**bad)
