"""The training loop: exact resuming, pairing, accumulation, and stopping before damage."""

import json
import time
from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pytest
import torch

from sympformer import InputError, machine
from sympformer.data import load_tokenizer
from sympformer.errors import Stopped
from sympformer.train import RunConfig, examples, load_model, loop, train
from sympformer.train.engine import DivergenceError
from sympformer.train.folder import RunFolder
from sympformer.train.loop import Run
from sympformer.train.onlooker import Onlooker
from sympformer.train.shards import read_state


def new_run(config, corpus, path):
    """A run with the weights of seed 0."""
    torch.manual_seed(0)
    return Run(config, corpus, RunFolder(path), torch.device("cpu"))


def metrics(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_a_compiled_run_evaluates_and_samples(corpus, config, tmp_path, monkeypatch):
    """The sample's lengths are not compiled: that would be one graph for each."""
    graphs = []

    def backend(graph, _):
        graphs.append(graph)
        return graph

    def compile_blocks(blocks):
        for block in blocks:
            block.compile(backend=backend, fullgraph=True, dynamic=False)

    monkeypatch.setattr(loop, "compile_blocks", compile_blocks)
    torch.compiler.reset()
    compiled = replace(config, train=replace(config.train, compile=True))
    losses = [
        train(c, corpus, tmp_path / name)["final_loss"]
        for c, name in ((config, "plain"), (compiled, "compiled"))
    ]
    torch.compiler.reset()
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    # First and later layers, in training and in evaluation with its shorter last batch.
    assert 0 < len(graphs) <= 6


def test_a_state_that_a_thread_writes_is_the_same(corpus, config, tmp_path, monkeypatch):
    """However long it takes: the updates that follow are made meanwhile."""
    plain, threaded = (
        replace(config, train=replace(config.train, async_save=own)) for own in (False, True)
    )
    train(plain, corpus, tmp_path / "plain")
    save, made = RunFolder.save, []

    def slow(folder, model, state, metrics, group):
        made.append((state["step"], folder.log.kept["bytes"] > metrics["bytes"]))
        time.sleep(0.3)
        save(folder, model, state, metrics, group)

    monkeypatch.setattr(RunFolder, "save", slow)
    train(replace(threaded, train=replace(threaded.train, keep_last=2)), corpus, tmp_path / "own")
    assert [step for step, _ in made] == [3, 6]
    one, other = (read_state(tmp_path / n / "state.safetensors")[0] for n in ("plain", "own"))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    early, about = read_state(tmp_path / "own" / "state-00000003.safetensors")
    assert about["state"]["step"] == 3
    assert any(not torch.equal(early[name], other[name]) for name in other)
    rows = [[row.get("loss") for row in metrics(tmp_path / name)] for name in ("plain", "own")]
    assert rows[0] == rows[1]


def test_a_state_that_a_thread_cannot_write_ends_the_run(corpus, config, tmp_path, monkeypatch):
    def full(folder, model, state, metrics, group):
        raise InputError("no space left")

    monkeypatch.setattr(RunFolder, "save", full)
    threaded = replace(config, train=replace(config.train, async_save=True))
    with pytest.raises(InputError, match="no space left"):
        train(threaded, corpus, tmp_path / "run")
    assert RunFolder(tmp_path / "run").state() is None


def test_a_run_keeps_the_precision_that_was_the_default_where_it_began(
    corpus, config, tmp_path, monkeypatch
):
    folder = RunFolder(tmp_path / "run")
    half = replace(config, train=replace(config.train, steps=3, dtype="auto"))
    train(half, corpus, folder.path)
    assert folder.began_as().train.dtype == "float32"
    monkeypatch.setattr(machine, "default_dtype", lambda device: "bfloat16")
    summary = train(folder.config(), corpus, folder.path, resume=True)
    assert folder.config().train.dtype == "float32"
    assert summary["steps"] == 3
    train(half, corpus, tmp_path / "there")
    assert RunFolder(tmp_path / "there").began_as().train.dtype == "bfloat16"


def test_a_run_leaves_a_whole_folder(corpus, config, tmp_path):
    folder = tmp_path / "run"
    summary = train(config, corpus, folder)
    assert {p.name for p in folder.iterdir()} == {
        "config.toml",
        "environment.json",
        "metrics.jsonl",
        "model.safetensors",
        "state.safetensors",
        "best.safetensors",
        "lock",
        "tokenizer.json",
        "summary.json",
    }
    assert summary == RunFolder(folder).summary()
    assert summary["audit"]["passed"] is True
    assert summary["floor"] == pytest.approx(np.log(2))
    assert summary["tokens"] == 6 * 4 * 24
    evals = [row for row in metrics(folder) if row["event"] == "eval"]
    assert [row["step"] for row in evals] == [3, 6]
    assert evals[-1]["valid_loss"] == summary["final_loss"] >= summary["best_loss"]
    assert RunConfig.load(folder / "config.toml") == config
    assert load_tokenizer(folder).decode([72, 105]) == "Hi"


def test_the_saved_model_has_the_final_loss(corpus, config, tmp_path):
    from sympformer.data import valid_blocks
    from sympformer.train import evaluate

    summary = train(config, corpus, tmp_path / "run")
    model = load_model(tmp_path / "run")
    found = evaluate(model, valid_blocks(corpus.valid, 24, 4, 8), corpus.floor)
    assert found.loss == pytest.approx(summary["final_loss"], abs=1e-6)


def test_resuming_repeats_the_uninterrupted_run(corpus, config, tmp_path):
    train(config, corpus, tmp_path / "whole")
    run = new_run(config, corpus, tmp_path / "cut")
    run.start()
    for _ in range(5):  # the checkpoint is at step 3; the updates after it are lost
        run.update()
        if run.evaluation_is_due:
            run.evaluate()
            run.save()
    train(config, corpus, tmp_path / "cut", resume=True)
    whole, cut = metrics(tmp_path / "whole"), metrics(tmp_path / "cut")
    for a, b in zip(whole, cut, strict=True):
        for name in ("event", "step", "loss", "valid_loss", "grad_norm"):
            assert a.get(name) == b.get(name), (a, b)


def test_a_run_killed_before_its_first_checkpoint_starts_again(corpus, config, tmp_path):
    run = new_run(config, corpus, tmp_path)
    run.start()
    run.update()
    train(config, corpus, tmp_path, resume=True)
    assert [row["step"] for row in metrics(tmp_path) if row["event"] == "train"] == [
        1,
        2,
        3,
        4,
        5,
        6,
    ]


def test_presets_see_the_same_batches(corpus, config, tiny, tmp_path):
    runs = [
        new_run(replace(config, model=tiny(name, vocab_size=257)), corpus, tmp_path / name)
        for name in ("gpt", "symp-r2")
    ]
    for _ in range(3):
        (a, b), (c, d) = (next(run.engine.loader) for run in runs)
        assert torch.equal(a, c)
        assert torch.equal(b, d)


def test_divergence_keeps_the_last_checkpoint(corpus, config, tmp_path, monkeypatch):
    whole = Run.update

    def update(self):
        if self.engine.step == 4:
            with torch.no_grad():
                self.model.norm.weight[0] = float("nan")
        return whole(self)

    monkeypatch.setattr(Run, "update", update)
    with pytest.raises(
        InputError,
        match=r"diverged at step 4: the loss and .* not applied; go on from step 3, which is "
        r"saved, with `sympformer train --resume .* --learning-rate 0.0015`",
    ):
        train(config, corpus, tmp_path)
    assert RunFolder(tmp_path).state()["step"] == 3
    assert all(p.isfinite().all() for p in load_model(tmp_path).parameters())


@pytest.mark.parametrize("loss", [float("nan"), float("inf"), 1e9])
def test_an_evaluation_of_a_diverged_run_replaces_nothing(
    corpus, config, tmp_path, monkeypatch, loss
):
    """Not finite, or far above the best: the state before it stays, and can be gone on from."""
    whole = examples.evaluate
    found = iter([False, True])

    def evaluate(*given):
        real = whole(*given)
        return replace(real, loss=loss) if next(found, False) else real

    monkeypatch.setattr(examples, "evaluate", evaluate)
    says = (
        r"step 6: the validation loss is .*, the best so far 5\.\d+; go on from step 3, .*0\.0015`"
    )
    with pytest.raises(InputError, match=says):
        train(config, corpus, tmp_path)
    assert RunFolder(tmp_path).state()["step"] == 3
    lower = replace(config, train=replace(config.train, learning_rate=0.0015))
    summary = train(lower, corpus, tmp_path, resume=True)
    assert summary["changes"] == [{"from_step": 3, "learning_rate": 0.0015}]
    assert summary["learning_rate"] == 0.003  # a comparison knows it by what it began with
    assert [row["step"] for row in metrics(tmp_path) if row["event"] == "eval"] == [3, 6]


def test_a_first_evaluation_far_above_a_guess_is_of_a_diverged_run(
    corpus, config, tmp_path, monkeypatch
):
    whole = examples.evaluate
    monkeypatch.setattr(examples, "evaluate", lambda *given: replace(whole(*given), loss=19.0))
    with pytest.raises(InputError, match=r"twice that of a guess 5\.\d+; go on from the start"):
        train(config, corpus, tmp_path)
    assert RunFolder(tmp_path).state() is None


def test_weights_that_are_not_finite_are_named(corpus, config, tmp_path):
    run = new_run(config, corpus, tmp_path)
    run.start()
    with torch.no_grad():
        run.model.norm.weight[0] = float("nan")
    with pytest.raises(DivergenceError, match=r"loss is nan \(the weights are not"):
        run.evaluate()
    with pytest.raises(DivergenceError, match="step 0: the weights are not finite"):
        run.save()


def test_a_run_goes_on_with_other_options(corpus, config, tmp_path):
    """What may change is kept with its step, the rest is refused with the difference."""
    train(config, corpus, tmp_path)
    more = replace(config, train=replace(config.train, steps=9, eval_every=2))
    summary = train(more, corpus, tmp_path, resume=True)
    assert summary["changes"] == [{"from_step": 6, "steps": 9, "eval_every": 2}]
    assert [row["step"] for row in metrics(tmp_path) if row["event"] == "eval"] == [3, 6, 8, 9]
    run = RunFolder(tmp_path)
    assert (run.began_as(), run.config()) == (config, more)
    assert train(more, corpus, tmp_path, resume=True) == summary
    other = replace(more, train=replace(more.train, clip=2.0))
    with pytest.raises(InputError, match=r"train\.clip from 1\.0 to 2\.0"):
        train(other, corpus, tmp_path, resume=True)
    with pytest.raises(InputError, match="has made 9 updates already"):
        train(config, corpus, tmp_path, resume=True)
    assert run.finished


def test_a_run_goes_on_with_states_written_in_a_thread(config, corpus, tmp_path):
    train(config, corpus, tmp_path / "plain")
    longer = replace(config.train, steps=9)
    whole = train(replace(config, train=longer), corpus, tmp_path / "plain", resume=True)
    train(config, corpus, tmp_path / "other")
    threaded = replace(config, train=replace(longer, async_save=True))
    summary = train(threaded, corpus, tmp_path / "other", resume=True)
    assert summary["final_loss"] == whole["final_loss"]
    assert summary["changes"] == [{"from_step": 6, "steps": 9, "async_save": True}]
    assert RunFolder(tmp_path / "other").config() == threaded


@pytest.mark.parametrize("change", [{}, {"learning_rate": 1e-4, "eval_every": 2, "threads": 1}])
def test_a_finished_run_is_left_as_it_is(change, corpus, config, tmp_path):
    """Its tables would speak of a change that was of no update."""
    train(config, corpus, tmp_path)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    train(replace(config, train=replace(config.train, **change)), corpus, tmp_path, resume=True)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


@pytest.mark.parametrize("missing", ["metrics.jsonl", "tokenizer.json", "environment.json"])
def test_a_run_that_only_began_is_begun_again(corpus, config, tmp_path, missing):
    new_run(config, corpus, tmp_path).start()
    (tmp_path / missing).unlink()
    train(config, corpus, tmp_path, resume=True)
    assert (tmp_path / missing).exists()


def test_a_run_stops_when_asked_and_goes_on(corpus, config, tmp_path):
    """Between two evaluations, too; its weights and rows are those of a run that never stopped."""
    train(config, corpus, tmp_path / "whole")
    asked = iter([0, 0, 15, 0, 0, 0, 15])
    with pytest.raises(Stopped, match=r"step 2, which is saved: `sympformer train --resume") as end:
        train(config, corpus, tmp_path / "cut", stop=lambda: next(asked))
    assert end.value.code == 143
    with pytest.raises(Stopped, match="step 5"):
        train(config, corpus, tmp_path / "cut", resume=True, stop=lambda: next(asked))
    train(config, corpus, tmp_path / "cut", resume=True)
    pairs = zip(metrics(tmp_path / "whole"), metrics(tmp_path / "cut"), strict=True)
    for a, b in pairs:
        for name in ("event", "step", "loss", "valid_loss", "grad_norm"):
            assert a.get(name) == b.get(name), (a, b)
    whole, cut = (tmp_path / name / "model.safetensors" for name in ("whole", "cut"))
    assert whole.read_bytes() == cut.read_bytes()


def test_a_signal_before_or_during_the_audit_is_obeyed(corpus, config, tmp_path):
    updates = config.train.steps
    asked = iter([*[0] * updates, 15])
    with pytest.raises(Stopped, match=f"step {updates}, which is saved") as end:
        train(config, corpus, tmp_path, stop=lambda: next(asked))
    assert end.value.code == 143
    assert not RunFolder(tmp_path).finished
    asked = iter([0, 15])
    with pytest.raises(Stopped, match="which is complete") as end:
        train(config, corpus, tmp_path, resume=True, stop=lambda: next(asked))
    assert end.value.code == 143
    assert RunFolder(tmp_path).summary()["audit"]["passed"]


def test_the_audit_says_what_it_is_of(corpus, config, tmp_path):
    own = replace(config, train=replace(config.train, form="naive"))
    where = train(own, corpus, tmp_path)["audit"]["where"]
    assert where == "in float64 on the cpu, attention form naive"


def test_an_onlooker_writes_nothing(corpus, config, tmp_path):
    """The folder of the processes that are not the first."""
    torch.manual_seed(0)
    run = Run(config, corpus, Onlooker(tmp_path / "run"), torch.device("cpu"))
    run.start()
    assert run.update()["step"] == 1
    run.evaluate()
    run.save()
    run.summarise()
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("fails", [False, True])
def test_the_process_is_left_as_it_was(corpus, config, tmp_path, fails, monkeypatch):
    """Its threads and its random state; what is drawn inside comes from the config's seed."""
    inside = []
    whole = Run.update

    def update(self):
        inside.append((torch.get_num_threads(), torch.rand(1).item()))
        if fails:
            raise RuntimeError("inside")
        return whole(self)

    monkeypatch.setattr(Run, "update", update)
    monkeypatch.setattr(machine, "keep_freed_memory", lambda: pytest.fail("of the whole process"))
    threads = torch.get_num_threads()
    own = replace(config, train=replace(config.train, threads=threads + 1))
    states = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        with pytest.raises(RuntimeError, match="inside") if fails else nullcontext():
            train(own, corpus, tmp_path / str(seed))
        assert torch.get_num_threads() == threads
        assert torch.equal(torch.get_rng_state(), before)
        states.append(inside[:])
        inside.clear()
    assert states[0] == states[1]
    assert states[0][0][0] == threads + 1


def test_a_folder_with_a_run_is_not_overwritten(corpus, config, tmp_path):
    train(config, corpus, tmp_path)
    with pytest.raises(InputError, match="already holds a run"):
        train(config, corpus, tmp_path)


def test_other_data_is_refused_on_resume(corpus, config, tmp_path):
    train(config, corpus, tmp_path)
    with pytest.raises(InputError, match="other data"):
        train(config, replace(corpus, digest="other"), tmp_path, resume=True)


def test_bad_input(corpus, config, tmp_path, tiny):
    with pytest.raises(InputError, match="smaller than the tokenizer's 257"):
        train(replace(config, model=tiny("gpt")), corpus, tmp_path)
    with pytest.raises(InputError, match="needs 25"):
        train(config, replace(corpus, train=corpus.train[:20]), tmp_path)
    far = replace(config, train=replace(config.train, device="cuda:77"))
    with pytest.raises(InputError, match="not available"):
        train(far, corpus, tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write"):
        train(config, corpus, tmp_path / "file" / "run")


def test_forms_of_attention_are_recorded_and_can_be_chosen(corpus, config, tmp_path):
    own = replace(config, train=replace(config.train, steps=1, form="naive"))
    summary = train(own, corpus, tmp_path / "run")
    assert [form.split()[0] for form in summary["attention"]] == ["naive"] * len(
        summary["attention"]
    )
    assert json.loads((tmp_path / "run" / "environment.json").read_text())["attention"]
    wrong = replace(config, train=replace(config.train, form="nave"))
    with pytest.raises(InputError, match="did you mean 'naive'"):
        train(wrong, corpus, tmp_path / "wrong")
    assert not (tmp_path / "wrong").exists()
