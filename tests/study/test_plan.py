"""Comparisons as data: every shipped one is parsed, its models built without memory."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

import sympformer as sf
from sympformer import InputError
from sympformer.model import PRESETS
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
        assert plan.baseline in plan.entries
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
        ("baseline", "base-line", "did you mean 'baseline'"),
        ("[train]", "[train", "no TOML"),
        ("steps", "stepz", "did you mean 'steps'"),
        ("seeds = [", "sedes = [", "did you mean 'seeds'"),
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


def plan_of(tmp_path, text, presets=("symp-h0", "symp-r2")):
    path = tmp_path / "plan.toml"
    path.write_text(text)
    return Plan.load(path, presets)


def test_what_a_file_leaves_out_has_its_default(tmp_path):
    plan = plan_of(tmp_path, "[train]\nsteps = 7\n")
    assert (plan.presets, plan.seeds, plan.train.steps) == (("symp-h0", "symp-r2"), (0,), 7)
    assert plan.baseline == "symp-h0"
    assert plan_of(tmp_path, "presets = ['yurii', 'gpt']").baseline == "gpt"
    assert plan_of(tmp_path, "[variant.x]\npreset = 'yurii'").presets == ("x",)


def test_a_file_imports_what_it_lists(tmp_path):
    mine = tmp_path / "own_of_plan.py"
    mine.write_text(
        "import sympformer as sf\nsf.register_preset('own-of-plan', sf.Preset('', {}))\n"
    )
    try:
        plan = plan_of(tmp_path, f"imports = ['{mine.as_posix()}']\npresets = ['own-of-plan']\n")
        assert plan.runs(300)[0].preset == "own-of-plan"
        with pytest.raises(InputError, match="must be text"):
            plan_of(tmp_path, "imports = [3]")
    finally:
        PRESETS.pop("own-of-plan", None)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[variant.x]\nmlp_width = 8", "'x' needs preset ="),
        ("presets = ['symp-h0']\nbaseline = 'gpt'", "--baseline symp-h0"),
        ("[variant.x]\npreset = 'gpt'\nlearnign_rate = 1.0", "did you mean 'learning_rate'"),
        ("[variant.x]\npreset = 'gpt'\nlearning-rate = 1.0", "did you mean 'learning_rate'"),
        (
            "presets = ['gpt']\n[variant.x]\npreset = 'gpt'\nlearning_rate = 3e-3",
            "variant 'x' is the same as 'gpt'",
        ),
    ],
)
def test_a_plan_that_makes_no_sense_is_refused(text, says, tmp_path):
    with pytest.raises(InputError, match=says):
        plan_of(tmp_path, text).runs(300)


def test_entries_that_differ_in_case_only_are_refused():
    plan = Plan.load(CONFIGS / "causal-study.toml")
    own = {name: {"preset": "gpt"} for name in ("A", "a")}
    with pytest.raises(InputError, match="'A' and 'a' would share a folder"):
        replace(plan, variant=own).runs(300)
