"""Every option, given every kind of wrong value: taken where it is right, else refused by name."""

import dataclasses
import os
import typing
from collections.abc import Mapping

import pytest
import torch

from sympformer import InputError, ModelConfig
from sympformer.bench import BenchReport, Case
from sympformer.commands.options import Size
from sympformer.lab.problems import matrix
from sympformer.study import Plan
from sympformer.train import DataConfig, TrainConfig, load_model
from sympformer.train.config import RunConfig
from sympformer.train.tensors import read_tensors
from sympformer.typed import from_table, read_toml

WRONG = [
    *("no", "", "a\0b", 5.5, -1, 0, True, [], [0.9], [[1], 2], {}, {"a": 1}),
    *(float("nan"), float("inf"), 10**30, 10**400, 10**5000),
]


def cases():
    for cls in (TrainConfig, DataConfig, ModelConfig, Size, Case, Plan, RunConfig):
        for field in dataclasses.fields(cls):
            for i, value in enumerate(WRONG):
                yield pytest.param(cls, field.name, value, id=f"{cls.__name__}-{field.name}-{i}")


NEEDED = {
    Case: {"model": "gpt"},
    Plan: {"presets": ["gpt"], "baseline": "gpt", "seeds": [0], "model": {}}
    | {"data": DataConfig(), "train": TrainConfig()},
    RunConfig: {"preset": "gpt", "model": ModelConfig()},
}
"""What a table must hold beside the one wrong value."""


@pytest.mark.parametrize(("cls", "name", "value"), list(cases()))
def test_one_wrong_value(cls, name, value):
    """What is taken has the type that is declared; what is refused is named in one line."""
    refusal = made = None
    try:
        table = {**NEEDED.get(cls, {}), name: value}
        made = cls(**table) if cls is ModelConfig else from_table(cls, "table", table)
    except InputError as error:
        refusal = str(error)
    if refusal is not None:
        assert "\n" not in refusal
        # Looked up in a table, an entry is named as what it is; an option by its own name.
        assert name.split("_")[0] in refusal or name == "options" or "unknown preset" in refusal
        return
    kind, kept = typing.get_type_hints(cls)[name], getattr(made, name)
    assert not (isinstance(kept, bool) and kind is not bool)
    assert not (isinstance(kept, float) and kind is int)
    assert not (isinstance(kept, float) and kept - kept != 0), "not finite"
    assert not isinstance(kept, dict) or typing.get_origin(kind) is Mapping


@pytest.mark.parametrize("value", [3, (0, 1), "0"])
def test_whole_numbers_are_floats_where_these_are_asked_for(value):
    """Torch's AdamW tells them apart."""
    made = {
        3: lambda: TrainConfig(learning_rate=3).learning_rate,
        (0, 1): lambda: TrainConfig(betas=(0, 0)).betas,
        "0": lambda: ModelConfig.preset("linear-symp-r2", ridge=1).ridge,
    }[value]()
    numbers = made if isinstance(made, tuple) else (made,)
    assert all(type(number) is float for number in numbers)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
@pytest.mark.parametrize(
    "read",
    [
        read_toml,
        BenchReport.load,
        read_tensors,
        lambda path: matrix(path, "A", torch.eye(2)),
        lambda path: load_model(path.parent),
    ],
)
def test_what_never_ends_is_not_read(read, tmp_path):
    """A pipe that nobody writes to would be waited for, a device read until memory ends."""
    pipe = tmp_path / "state.safetensors"
    os.mkfifo(pipe)
    (tmp_path / "config.toml").symlink_to("/dev/zero")
    with pytest.raises(InputError, match=r"(pipe|device).*a file first|does not exist"):
        read(pipe)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("seeds = 1", "seeds"),
        ("seeds = [0.5]", "seeds"),
        ("seeds = [true]", "seeds"),
        ("seeds = [0, 0]", "twice"),
        ("presets = 'gpt'", "presets"),
        ("presets = [1]", "presets"),
        ("baseline = 3", "baseline"),
        ("baseline = 'gtp'", "baseline"),
        ("seeds = [-1]", "seed"),
        ("variant = { '' = { preset = 'gpt' } }", "folder"),
        ("variant = { a = { preset = ['gpt'] } }", "preset"),
        ("variant = { a = { preset = 'gpt', learning_rate = '1' } }", "learning_rate"),
        ("model = 3", "model"),
        ("train = 3", "table"),
        ("data = [1]", "table"),
        ("variant = 3", "variant"),
        ("variant = { a = 3 }", "variant.a"),
        ("data = { valid_text = 'a.txt' }", "valid_text.*without one"),
        ("data = { tokenizer = 'byte' }", "tokenizer.*without one"),
        ("train = { compile = 'no' }", "compile"),
        ("train = { steps = 5.5 }", "steps"),
        ("train = { betas = [0.9] }", "betas"),
        ("train = { betas = [0.9, 1.0] }", "betas"),
        ("train = { dtype = 'float64' }", "dtype"),
        ("train = { weight_decay = nan }", "weight_decay"),
        ("train = { threads = 0 }", "threads"),
    ],
)
def test_one_wrong_value_in_a_file(text, says, tmp_path):
    file, name = tmp_path / "plan.toml", text.split(" ")[0]
    whole = {
        "presets": "presets = ['gpt']",
        "seeds": "seeds = [0]",
        "baseline": "baseline = 'gpt'",
        "model": "model = { n_layer = 1 }",
    }
    file.write_text("\n".join([*(v for k, v in whole.items() if k != name), text]))
    with pytest.raises(InputError, match=says) as refused:
        Plan.load(file).runs(300)
    assert "\n" not in str(refused.value)
