"""Comparisons as data: every shipped one is parsed, its models built without memory."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

import sympformer as sf
from sympformer import InputError
from sympformer.study import Plan

CONFIGS = Path(__file__).parents[2] / "configs"
SHIPPED = sorted(path.relative_to(CONFIGS).as_posix() for path in CONFIGS.rglob("*.toml"))


def test_the_tables_of_the_paper_are_there():
    assert {f"paper/table{n}.toml" for n in (1, 2, 3)} | {"causal-study.toml"} <= set(SHIPPED)


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_config(name):
    plan = Plan.load(CONFIGS / name)
    assert plan.baseline in plan.presets
    assert set(plan.variant) <= set(plan.presets)
    for run in plan.runs(vocab_size=300)[: len(plan.presets)]:
        with torch.device("meta"):
            model = sf.build(run.model)
        assert all(p.is_meta for p in model.parameters())
        assert run.model.vocab_size == plan.model.get("vocab_size", 300)


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
    plan = Plan.load(CONFIGS / name)
    assert training_tokens(plan) == tokens
    assert plan.train.scalar_lr == scalar_lr


def training_tokens(plan):
    t = plan.train
    return t.steps * t.accumulation * t.batch_size * plan.model["block_size"]


@pytest.mark.parametrize("share", [1.0, 0.1, 1e-3])
@pytest.mark.parametrize("name", SHIPPED)
def test_scaling(name, share):
    plan = Plan.load(CONFIGS / name)
    assert training_tokens(plan.scaled(share)) == pytest.approx(
        share * training_tokens(plan), rel=0.1
    )
    assert plan.scaled(1.0) == plan


def test_seeds_are_paired():
    plan = Plan.load(CONFIGS / "causal-study.toml")
    runs = plan.runs(300)
    assert len(runs) == len(plan.presets) * len(plan.seeds)
    assert all(run.train.seed == run.train.data_seed for run in runs)


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("baseline", "base-line", "lacks baseline"),
        ("[train]", "[train", "no TOML"),
        ("steps", "stepz", "did you mean 'steps'"),
        ("seeds = [", "sedes = [", "lacks seeds"),
    ],
)
def test_a_bad_file_is_refused(tmp_path, old, new, says):
    text = (CONFIGS / "causal-study.toml").read_text()
    path = tmp_path / "bad.toml"
    path.write_text(text.replace(old, new))
    with pytest.raises(InputError, match=says):
        Plan.load(path)


@pytest.mark.parametrize("share", [0, -1, 2])
def test_a_bad_scale_is_refused(share):
    with pytest.raises(InputError, match="scale"):
        Plan.load(CONFIGS / "causal-study.toml").scaled(share)


def test_entries_that_differ_in_case_only_are_refused():
    plan = Plan.load(CONFIGS / "causal-study.toml")
    own = {name: {"preset": "gpt"} for name in ("A", "a")}
    with pytest.raises(InputError, match="'A' and 'a' would share a folder"):
        replace(plan, variant=own).runs(300)
