"""The training loop: exact resuming, pairing, accumulation, and stopping before damage."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from sympformer import InputError
from sympformer.data import Corpus, load_tokenizer
from sympformer.train import RunConfig, TrainConfig, load_model, loop, train
from sympformer.train.loop import Run, resolve_device


@pytest.fixture
def corpus():
    """Noisy counting: next = this + 1 or + 2, so that there is something to learn."""
    steps = np.random.default_rng(0).integers(1, 3, size=4000)
    stream = (np.cumsum(steps) % 200).astype(np.uint16)
    floor = np.full(1000, np.log(2), dtype=np.float32)
    return Corpus(
        name="counting",
        train=stream[:3000],
        valid=stream[3000:],
        tokenizer=load_tokenizer("byte"),
        floor=floor,
        digest="counting-1",
        bytes_per_token=1.0,
    )


@pytest.fixture
def config(tiny):
    return RunConfig(
        preset="symp-h0",
        model=tiny("symp-h0", vocab_size=257),
        train=TrainConfig(steps=6, batch_size=4, warmup=2, eval_every=3, eval_blocks=8),
    )


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


def test_a_run_leaves_a_whole_folder(corpus, config, tmp_path):
    folder = tmp_path / "run"
    summary = train(config, corpus, folder)
    assert {p.name for p in folder.iterdir()} == {
        "config.toml",
        "environment.json",
        "metrics.jsonl",
        "model.safetensors",
        "checkpoint.pt",
        "tokenizer.json",
        "summary.json",
    }
    assert summary == json.loads((folder / "summary.json").read_text())
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


def test_looped_blocks_are_saved_once_and_read_back(corpus, config, tiny, tmp_path):
    looped = tiny("symp-exp-euler", vocab_size=257, n_layer=4, unique_layers=2, loop_scalars="own")
    train(replace(config, preset="symp-exp-euler", model=looped), corpus, tmp_path)
    model = load_model(tmp_path)
    assert model.blocks[2].mlp.oracle is model.blocks[0].mlp.oracle
    stored = sum(p.numel() * 4 for p in model.parameters())
    assert (tmp_path / "model.safetensors").stat().st_size < stored + 20_000


def test_resuming_repeats_the_uninterrupted_run(corpus, config, tmp_path):
    train(config, corpus, tmp_path / "whole")
    run = Run(config, corpus, tmp_path / "cut")
    run.start()
    for _ in range(5):  # the checkpoint is at step 3; the updates after it are lost
        run.update()
        if run.step == 3:
            run.evaluate()
            run.save()
    train(config, corpus, tmp_path / "cut", resume=True)
    whole, cut = metrics(tmp_path / "whole"), metrics(tmp_path / "cut")
    for a, b in zip(whole, cut, strict=True):
        for name in ("event", "step", "loss", "valid_loss", "grad_norm"):
            assert a.get(name) == b.get(name), (a, b)


def test_a_run_killed_before_its_first_checkpoint_starts_again(corpus, config, tmp_path):
    run = Run(config, corpus, tmp_path)
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


def test_a_half_written_line_of_metrics_is_dropped(corpus, config, tmp_path):
    train(replace(config, train=replace(config.train, steps=3)), corpus, tmp_path)
    with open(tmp_path / "metrics.jsonl", "a") as stream:
        stream.write('{"event": "tra')
    train(config, corpus, tmp_path, resume=True)
    assert metrics(tmp_path)[-1]["step"] == 6


def test_presets_see_the_same_batches(corpus, config, tiny, tmp_path):
    runs = [
        Run(replace(config, preset=name, model=tiny(name, vocab_size=257)), corpus, tmp_path / name)
        for name in ("gpt", "symp-r2")
    ]
    for _ in range(3):
        (a, b), (c, d) = (next(run.loader) for run in runs)
        assert torch.equal(a, c)
        assert torch.equal(b, d)


def test_accumulation_is_one_large_batch(corpus, config, tmp_path):
    large = replace(config, train=replace(config.train, batch_size=4, accumulation=1))
    small = replace(config, train=replace(config.train, batch_size=2, accumulation=2))
    rows = []
    for name, c in (("large", large), ("small", small)):
        run = Run(c, corpus, tmp_path / name)
        run.start()
        rows.append(run.update())
    assert rows[0]["loss"] == pytest.approx(rows[1]["loss"], rel=1e-5)
    assert rows[0]["grad_norm"] == pytest.approx(rows[1]["grad_norm"], rel=1e-4)


def test_divergence_stops_before_the_update(corpus, config, tmp_path):
    run = Run(config, corpus, tmp_path)
    run.start()
    for _ in range(3):
        run.update()
    run.evaluate()
    run.save()
    kept = (tmp_path / "model.safetensors").read_bytes()
    with torch.no_grad():
        run.model.norm.weight[0] = float("nan")
    before = run.model.blocks[0].mlp.oracle.expand.weight.clone()
    with pytest.raises(
        InputError, match="diverged at step 3: the loss and the gradient of the embeddings"
    ):
        run.update()
    assert torch.equal(before, run.model.blocks[0].mlp.oracle.expand.weight)
    assert (tmp_path / "model.safetensors").read_bytes() == kept


def test_a_folder_with_a_run_is_not_overwritten(corpus, config, tmp_path):
    train(config, corpus, tmp_path)
    with pytest.raises(InputError, match="already holds a run"):
        train(config, corpus, tmp_path)


def test_other_data_is_refused_on_resume(corpus, config, tmp_path):
    train(config, corpus, tmp_path)
    with pytest.raises(InputError, match="other data"):
        train(config, replace(corpus, digest="other"), tmp_path, resume=True)


def test_a_corrupt_file_is_refused(corpus, config, tmp_path):
    train(config, corpus, tmp_path)
    for name in ("checkpoint.pt", "model.safetensors"):
        content = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match=r"checkpoint\.pt is corrupt"):
        train(config, corpus, tmp_path, resume=True)
    with pytest.raises(InputError, match=r"model\.safetensors is corrupt"):
        load_model(tmp_path)


def test_bad_input(corpus, config, tmp_path, tiny):
    with pytest.raises(InputError, match="smaller than the tokenizer's 257"):
        train(replace(config, model=tiny("gpt")), corpus, tmp_path)
    with pytest.raises(InputError, match="needs 25"):
        train(config, replace(corpus, train=corpus.train[:20]), tmp_path)
    with pytest.raises(InputError, match="not available"):
        resolve_device("cuda:7" if not torch.cuda.is_available() else "nonsense")
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
