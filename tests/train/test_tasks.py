"""Training on a task: what counts, what is measured and left behind, exact resuming."""

import json
from dataclasses import replace
from importlib import import_module

import numpy as np
import pytest
import torch
from torch.nn import functional as F

import sympformer as sf
from sympformer import InputError
from sympformer.errors import Stopped
from sympformer.model import MODELS, PRESETS
from sympformer.tasks import IGNORED, TaskLoader, make_task
from sympformer.train import DataConfig, RunConfig, TrainConfig, load_model, train
from sympformer.train.engine import Engine
from sympformer.train.evaluate import evaluate_task, state_bytes
from sympformer.train.examples import run_tests
from sympformer.train.folder import RunFolder
from sympformer.train.parallel import Ranks

OPTIONS = {"vocab_size": 20, "train": [[16, 2], [24, 3]], "test": [[16, 2], [24, 4]]}
TRAIN = TrainConfig(steps=6, batch_size=4, warmup=2, eval_every=3, eval_blocks=10, dtype="float32")


@pytest.fixture
def task():
    return make_task("mqar", OPTIONS)


@pytest.fixture
def config(tiny):
    model = tiny("linear-symp-h0", vocab_size=20, mlp="none", positions="none")
    return RunConfig("linear-symp-h0", model, DataConfig("mqar", OPTIONS), TRAIN)


def metrics(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_an_update_is_the_mean_over_the_targets_that_count(task, config):
    """Of all micro-batches together, however many each has; what does not count has no weight."""
    torch.manual_seed(0)
    model = sf.build(config.model)
    engine = Engine(model, TaskLoader(task, 4, 0), replace(TRAIN, accumulation=3))
    loader, losses = TaskLoader(task, 4, 0), []
    for _ in range(3):
        tokens, targets = next(loader)
        logits = model(tokens).logits.detach()
        losses.append(
            F.cross_entropy(logits[targets != -100], targets[targets != -100], reduction="none")
        )
    row = engine.update()
    assert len({len(loss) for loss in losses}) == 2
    assert row["loss"] == pytest.approx(torch.cat(losses).mean().item(), rel=1e-5)
    assert engine.tokens == sum(map(len, losses)) < 3 * 4 * 16


@pytest.mark.parametrize("rows", [1, 3, 1000])
def test_evaluation_against_a_loop_over_positions(task, config, rows, monkeypatch):
    """However many logits are made at a time."""
    monkeypatch.setattr(import_module("sympformer.train.evaluate"), "LOGITS", rows * 20)
    model = sf.build(config.model).eval()
    batches = list(task.validation_batches(10, 4))
    found = evaluate_task(model, batches)
    losses, right = [], 0
    for batch in batches:
        logits = model(torch.from_numpy(batch.tokens)).logits
        for b, i in zip(*np.nonzero(batch.targets != IGNORED), strict=True):
            target = int(batch.targets[b, i])
            losses.append(-logits[b, i].log_softmax(-1)[target].item())
            right += int(logits[b, i].argmax()) == target
    assert found.tokens == len(losses) == 5 * 2 + 5 * 3
    assert found.loss == pytest.approx(np.mean(losses), rel=1e-5)
    assert (found.accuracy, found.ceiling, found.floor) == (right / len(losses), 1.0, 0.0)


@pytest.mark.parametrize("number", [1, 5, 6, 7])
def test_processes_share_an_evaluation(number):
    """All make as many passes, each batch counts once, and sums are in the order of batches."""
    totals = import_module("sympformer.train.evaluate")._totals
    seen = []

    def measure(batch):
        seen[-1].append(batch)
        return batch, 1.0

    shares = []
    for rank in range(3):
        seen.append([])
        shares.append(totals(iter(range(number)), measure, Ranks(rank, 3)))
    assert np.sum(shares, axis=0).tolist() == [sum(range(number)), number]
    assert [len(batches) for batches in seen] == [-(-number // 3)] * 3


def test_the_optimum_of_a_task_with_noise_stands_beside(tiny):
    noisy = make_task("noisy-recall", {"corruption": 0.3, "train": [16], "test": [16, 24]})
    model = sf.build(tiny("gpt", vocab_size=32))
    row = run_tests(model, noisy, 20, 4)[1]
    assert (row["setting"], row["length"]) == ("24", 24)
    assert row["floor"] > 0.5
    assert row["accuracy"] < row["ceiling"] < 0.9
    assert row["loss"] > row["floor"]


def test_bytes_of_the_state_at_the_length_of_the_test(tiny, task):
    grows, stays = (sf.build(tiny(n, vocab_size=20)) for n in ("gpt", "linear-gpt"))
    assert [row["state_bytes"] for row in run_tests(grows, task, 4, 4)] == [
        2 * 2 * 16 * 4 * length for length in (16, 24)
    ]
    assert state_bytes(stays, 8) == state_bytes(stays, 24)


def test_a_run_on_a_task_leaves_a_whole_folder(task, config, tmp_path):
    summary = train(config, task, tmp_path)
    assert not (tmp_path / "tokenizer.json").exists()
    assert RunConfig.load(tmp_path / "config.toml") == config
    assert summary == RunFolder(tmp_path).summary()
    assert summary["audit"]["passed"] is True
    assert summary["corpus"] == str(task)
    assert "vocab_size=20" in summary["corpus"]
    assert (summary["floor"], summary["ceiling"]) == (0.0, 1.0)
    evals = [row for row in metrics(tmp_path) if row["event"] == "eval"]
    assert [row["step"] for row in evals] == [3, 6]
    assert evals[-1]["accuracy"] == summary["accuracy"]
    assert [row["setting"] for row in summary["tests"]] == ["16x2", "24x4"]
    again = run_tests(load_model(tmp_path), task, 10, 4)
    assert again == summary["tests"]
    assert 6 * 4 * 2 <= summary["tokens"] <= 6 * 4 * 3
    with pytest.raises(InputError, match="was trained on task mqar, which is no text"):
        RunFolder(tmp_path).tokenizer()


def test_resuming_repeats_the_uninterrupted_run(task, config, tmp_path):
    train(config, task, tmp_path / "whole")
    asked = iter([0, 0, 0, 0, 15])
    with pytest.raises(Stopped):
        train(config, task, tmp_path / "cut", stop=lambda: next(asked))
    train(config, task, tmp_path / "cut", resume=True)
    whole, cut = metrics(tmp_path / "whole"), metrics(tmp_path / "cut")
    for a, b in zip(whole, cut, strict=True):
        for name in ("event", "step", "tokens", "loss", "valid_loss", "accuracy", "grad_norm"):
            assert a.get(name) == b.get(name), (a, b)
    models = (load_model(tmp_path / name).state_dict() for name in ("whole", "cut"))
    assert all(map(torch.equal, *(state.values() for state in models)))


def test_another_task_is_refused(task, config, tmp_path):
    train(config, task, tmp_path)
    longer = replace(config, train=replace(TRAIN, steps=8))
    with pytest.raises(InputError, match=r"trained on other data .* text, tokenizer or task"):
        train(longer, make_task("mqar", {**OPTIONS, "power": 0.5}), tmp_path, resume=True)


def test_presets_see_the_same_batches(task, tiny, tmp_path):
    loaders = [
        Engine(sf.build(tiny(name, vocab_size=20)), TaskLoader(task, 4, 0), TRAIN).loader
        for name in ("gpt", "symp-r2")
    ]
    assert all(torch.equal(a, b) for a, b in zip(*map(next, loaders), strict=True))


def test_a_model_learns_the_task(tiny, tmp_path):
    """From a guess to the optimum, in a second."""
    options = {"vocab_size": 4, "train": [12], "test": [12, 24]}
    model = tiny("gpt-shift", vocab_size=4, positions="none", n_layer=1, mlp="none")
    t = TrainConfig(steps=150, batch_size=32, learning_rate=3e-2, warmup=10, eval_every=150)
    summary = train(
        RunConfig("gpt-shift", model, DataConfig("induction", options), t),
        make_task("induction", options),
        tmp_path,
    )
    assert [row["accuracy"] > 0.9 for row in summary["tests"]] == [True, True]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"vocab_size": 19}, "vocab_size 19 is smaller than that of task mqar, 20"),
        ({"block_size": 23}, "block_size 23 is smaller than the longest .* mqar, 24 tokens"),
    ],
)
def test_a_model_that_is_too_small_is_refused(task, config, tmp_path, changes, says):
    with pytest.raises(InputError, match=says):
        train(replace(config, model=replace(config.model, **changes)), task, tmp_path)


def test_a_model_of_one_s_own(task, config, tmp_path, monkeypatch):
    monkeypatch.setitem(PRESETS, "own", sf.Preset("mine", {"model": "own"}))
    monkeypatch.setitem(MODELS, "own", Own)
    model = sf.ModelConfig.preset("own", vocab_size=20, block_size=24)
    summary = train(replace(config, preset="own", model=model, name="own"), task, tmp_path)
    assert [row["state_bytes"] for row in summary["tests"]] == [None, None]
    assert 0 <= summary["accuracy"] <= 1


class Own(torch.nn.Module):
    """A bigram model."""

    def __init__(self, config):
        super().__init__()
        self.table = torch.nn.Embedding(config.vocab_size, config.vocab_size)

    def forward(self, tokens, targets=None):
        logits = self.table(tokens)
        if targets is None:
            return logits
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten()), logits


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ({"task": "mqar", "text": "a.txt"}, "text has no effect on task mqar"),
        ({"task": "mqar", "tokenizer": "byte"}, "tokenizer = .byte. is about a text"),
        ({"task": "mqar", "train_tokens": 5}, "train_tokens has no effect"),
        ({"task": "maqr"}, "did you mean 'mqar'"),
        ({"task": "parity", "options": {"vocab_size": 3}}, "unknown option .* 'vocab_size'"),
        ({"options": {"vocab_size": 3}}, "vocab_size: options of a task need a task"),
    ],
)
def test_what_makes_no_sense_is_refused(data, says):
    with pytest.raises(InputError, match=says):
        DataConfig(**data)


def test_options_are_the_same_in_toml_and_in_python():
    tuples = {**OPTIONS, "train": ((16, 2), (24, 3))}
    assert DataConfig("mqar", tuples) == DataConfig("mqar", OPTIONS)


def test_memory_is_estimated_from_the_lengths_of_training(monkeypatch, config):
    from sympformer.train import sizes

    monkeypatch.setattr(sizes.machine, "free_memory", lambda _: 3_000_000)
    large = replace(config, model=replace(config.model, block_size=2**20))
    sizes.require_memory(large, torch.device("cpu"), 24)
    with pytest.raises(InputError, match="of memory"):
        sizes.require_memory(large, torch.device("cpu"))
