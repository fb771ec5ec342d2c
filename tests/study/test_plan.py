"""Comparisons as data: every shipped one is parsed, its models built without memory."""

from pathlib import Path

import pytest
import torch

import sympformer as sf
from sympformer import InputError
from sympformer.study import Plan
from sympformer.tasks import TASKS, make_task

CONFIGS = Path(__file__).parents[2] / "configs"
SHIPPED = sorted(path.relative_to(CONFIGS).as_posix() for path in CONFIGS.rglob("*.toml"))


def test_the_tables_of_the_paper_are_there():
    assert {f"paper/table{n}.toml" for n in (1, 2, 3)} | {"causal-study.toml"} <= set(SHIPPED)


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_config(name):
    whole = Plan.load(CONFIGS / name)
    for plan in whole.suite().values() or [whole]:
        assert plan.baseline in plan.presets
        assert set(plan.variant) <= set(plan.presets)
        for run in plan.runs(vocab_size=9000)[:: max(1, len(plan.learning_rates))]:
            with torch.device("meta"):
                model = sf.build(run.model)
            assert all(p.is_meta for p in model.parameters())
            assert run.model.vocab_size == plan.model.get("vocab_size", 9000)
            if run.data.task:
                assert run.model.block_size == run.data.make_task().longest


def test_the_tasks_are_all_in_the_published_suite():
    suite = Plan.load(CONFIGS / "tasks-published.toml").suite()
    assert {plan.data.task for plan in suite.values()} == set(TASKS)
    for plan in suite.values():
        options = plan.data.options.keys() - {"corruption"}
        assert make_task(plan.data.task, {n: plan.data.options[n] for n in options}).options == {}
    small = Plan.load(CONFIGS / "tasks.toml")
    assert len(small.learning_rates) == 4
    assert {plan.learning_rates for plan in suite.values()} == {(1e-3, 3.2e-3, 1e-2, 3.2e-2)}


def test_a_plan_tries_every_rate_on_every_entry():
    plan = Plan.load(CONFIGS / "tasks.toml").suite()["s3"]
    runs = plan.runs(6)
    found = {(run.name, run.train.seed, run.train.learning_rate) for run in runs}
    assert len(found) == len(runs) == 4 * len(plan.presets) * len(plan.seeds)
    assert {run.train.steps for run in runs} == {plan.train.steps}


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
    return t.steps * t.accumulation * t.batch_size * plan.model.get("block_size", 1)


@pytest.mark.parametrize("share", [1.0, 0.1, 1e-3])
@pytest.mark.parametrize("name", SHIPPED)
def test_scaling(name, share):
    plan = Plan.load(CONFIGS / name)
    update = training_tokens(plan) / plan.train.steps / plan.train.accumulation
    assert training_tokens(plan.scaled(share)) == pytest.approx(
        max(share * training_tokens(plan), update), rel=0.1
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
