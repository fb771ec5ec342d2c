"""What is said of a run before it is started, against what is counted and measured of it."""

from dataclasses import replace

import pytest
import torch
from torch import nn

import sympformer as sf
from sympformer.bench import flops
from sympformer.cli import main
from sympformer.estimate import Hardware, here, memory, one_pass, passes, speed
from sympformer.estimate.passes import Pass, _counted
from sympformer.train import RunConfig, TrainConfig
from sympformer.train.sizes import parameters


class Chain(nn.Module):
    """Three results of 4,000 bytes: the first two are kept by the backward pass."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1000))

    def forward(self, tokens, targets):
        self.loss = (self.weight * tokens.float()).exp().exp().sum()
        return self


def test_what_is_held_and_moved():
    found = _counted(Chain(), torch.zeros(1000).long(), "float32")
    # tokens as floats, two exponentials, products on the way back; no gradient, no weight
    assert 3 * 4000 <= found.held < 6 * 4000
    # the pass forward alone: to float 12, product 12, two exponentials 8 each, sum 4
    assert 44_000 <= found.moved < 3 * 44_000


@pytest.mark.parametrize("name", ["gpt", "symp-r2", "gated-delta-symp"])
def test_layers_and_rows_are_extrapolated(name, tiny):
    config = tiny(name, n_layer=5, n_embd=32, block_size=64)
    told = one_pass(config, 4, 64)
    counted = _counted(sf.build(config), torch.zeros(4, 64).long(), "float32")
    assert told.moved == pytest.approx(counted.moved, rel=0.01)
    assert told.held == pytest.approx(counted.held, rel=0.1)


def test_a_model_beyond_this_machine_is_counted(tiny):
    """None of its numbers are made: a matrix alone would take 200 GB."""
    config = tiny("gpt", n_layer=96, n_head=8, n_embd=2**17, block_size=64)
    small = replace(config, n_embd=2**16)
    wide, less = (one_pass(c, 1, 64) for c in (config, small))
    assert wide.held > less.held
    assert wide.moved == pytest.approx(4 * less.moved, rel=0.1)


def test_ids_are_extrapolated(tiny, monkeypatch):
    config = tiny("gpt", n_layer=3, n_embd=32, block_size=64, vocab_size=3000)
    monkeypatch.setattr(passes, "MOST_IDS", 500)
    told = one_pass(config, 4, 64)
    counted = _counted(sf.build(config), torch.zeros(4, 64).long(), "float32")
    assert told.moved == pytest.approx(counted.moved, rel=0.02)


@pytest.mark.parametrize(("optimizer", "moments"), [("adamw", 8), ("muon", 4)])
def test_memory_by_formula(optimizer, moments, tiny):
    model = tiny("gpt", n_layer=4)
    passed = Pass(1000.0, 0.0)
    run = RunConfig("gpt", model, train=TrainConfig(optimizer=optimizer))
    n = parameters(model)
    alone = memory(run, passed)
    assert alone[:2] == (4 * n, 4 * n)
    matrices = sum(
        m.weight.numel()
        for m in sf.build(model).blocks.modules()
        if hasattr(m, "weight") and m.weight.ndim == 2
    )
    assert alone.moments == 8 * n - (8 - moments) * matrices
    assert (alone.exchange, alone.activations) == (0, 1000)
    assert memory(run, passed, 2).exchange == 4 * n


def test_memory_of_shares(tiny):
    model = tiny("gpt", n_layer=4)
    run = RunConfig("gpt", model, train=TrainConfig(parallel="fsdp"))
    block = sum(p.numel() for p in sf.build(model).blocks[0].parameters())
    n = parameters(model)
    held = memory(run, Pass(0.0, 0.0), 4)
    assert held.weights + held.gradients + held.moments == 16 * n / 4
    assert held.exchange == 4 * (4 * block + 3 * (n - 4 * block))


def test_memory_of_shares_of_a_model_in_one_piece(tiny):
    model = tiny("symp-h0", n_layer=4, unique_layers=2, loop_scalars="own")
    run = RunConfig("symp-h0", model, train=TrainConfig(parallel="fsdp"))
    assert memory(run, Pass(0.0, 0.0), 4).exchange == 4 * 3 * parameters(model)


def test_the_speed_of_a_roofline(tiny):
    model = tiny("symp-h0")
    machine = Hardware("slow", peak=1e6, bandwidth=1e6, memory=None)
    found = speed(model, Pass(0.0, 5e6), passes=2, rows=3, length=16, hardware=machine)
    assert found.operations == 6 * flops.step(model, 16).total
    assert found.moved == 1e7 + 28 * parameters(model)
    assert found.most == pytest.approx(96 / (found.operations / 1e6))
    assert found.uncached == pytest.approx(96 / (found.operations / 1e6 + found.moved / 1e6))
    shared = speed(model, Pass(0.0, 5e6), 2, 3, 16, machine, sharers=4)
    assert shared.moved == 1e7 + 28 * parameters(model) / 4
    busy = replace(model, vocab_size=100_000)  # an update moves more than products take
    quick = machine._replace(peak=1e18)
    assert speed(busy, Pass(0.0, 0.0), 1, 1, 16, quick).most == pytest.approx(
        16 / (28 * parameters(busy) / 1e6)
    )


def test_this_machine_is_measured():
    found = here()
    assert 1e8 < found.peak < 1e16
    assert 1e7 < found.bandwidth < 1e14
    assert found.memory is None or found.memory > 2**20


def test_the_command(tmp_path, capsys):
    file = tmp_path / "big.toml"
    file.write_text('preset = "gpt"\n[model]\nn_layer = 3\nn_embd = 32\n[train]\nsteps = 7\n')
    options = ["--hardware", "h100", "--processes", "4", "--parallel", "fsdp"]
    line = ["estimate", "--config", str(file), "--block-size", "32", *options]
    assert main(line) == 0
    said = capsys.readouterr().out
    assert "gpt, 4 processes" in said
    assert f"| tokens of the run | {7 * 16 * 32:,} |" in said
    assert "memory: exchange" in said
    assert "3.35 TB a second" in said
    assert "exchanges between processes are not counted" in said


def test_sequences_of_a_task_are_those_of_training(capsys):
    settings = ["--task-set", "vocab_size=64", "train=[[16,2]]", "test=[[64,4]]"]
    options = ["--n-layer", "2", "--n-embd", "16", "--steps", "3", "--hardware", "h100"]
    assert main(["estimate", "gpt", "--task", "mqar", *settings, *options]) == 0
    assert f"| tokens of an update | {16 * 16:,} |" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--hardware", "h300"], "h300"),
        (["--processes", "0"], "processes must be greater than 0"),
        (["--processes", "3"], "3 processes cannot share the 16 rows"),
        (["--hardware", "h100", "--dtype", "float32"], "is that of bfloat16"),
        (["--peak", "-1"], "peak must be greater than 0"),
        (["--processes", "2", "--parallel", "none"], "none in 2 processes is refused"),
        (["plan.toml"], "plan.toml is no preset: a file goes after --config"),
    ],
)
def test_what_cannot_be_estimated(options, says, capsys):
    preset = [] if options[0].endswith(".toml") else ["gpt"]
    assert main(["estimate", *preset, *options]) == 2
    error = capsys.readouterr().err
    assert says in error
    assert len(error.strip().splitlines()) == 1
