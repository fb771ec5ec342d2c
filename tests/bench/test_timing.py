from dataclasses import replace

import pytest
import torch

from sympformer.bench import timing
from sympformer.bench.case import Case
from sympformer.bench.memory import fresh_peak
from sympformer.bench.roofline import matmul_peak
from sympformer.bench.timing import interleave

SMALL = Case("plain-gpt", length=16, batch_size=2, n_layer=1, n_head=2, n_embd=16, vocab_size=1000)


def test_every_function_has_its_turn_in_every_round(monkeypatch):
    monkeypatch.setattr(timing, "SHORT", 0.0)
    calls, ticks = [], []
    runs = {name: lambda name=name: calls.append(name) for name in "ABC"}
    seconds = interleave(runs, 3, warmup=1, tick=lambda: ticks.append(1))
    assert "".join(calls) == "ABC" * 4
    assert len(ticks) == 12
    assert {name: len(times) for name, times in seconds.items()} == {"A": 3, "B": 3, "C": 3}


def test_a_short_call_is_repeated():
    calls = []
    interleave({"A": lambda: calls.append(1)}, 2, warmup=0)
    assert len(calls) == 2 * timing.REPEATS


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory."),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
        MemoryError(),
    ],
)
def test_what_runs_out_of_memory_is_left_out(error):
    def fail():
        raise error

    seconds = interleave({"A": lambda: None, "B": fail}, 2)
    assert list(seconds) == ["A"]


def test_a_defect_is_not_hidden():
    def fail():
        raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes"):
        interleave({"A": fail}, 1)


def test_memory_that_the_allocator_does_not_have_is_recognised():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60)
    assert timing.out_of_memory(caught.value)


def test_a_fresh_process_holds_at_least_the_model_and_the_optimizer_state():
    peak = fresh_peak(replace(SMALL, measure="memory", vocab_size=100_000), threads=1)
    assert peak is not None
    assert peak.whole > peak.increment > 4 * 4 * 100_000 * 16  # weights, gradients, two moments


def test_matmul_peak():
    assert matmul_peak("cpu", "float32", calls=1) > 1e8
