"""Shared by all tests."""

import os
import signal

# Of a run in the background, whose commands would ignore interrupts as it does.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Before torch is imported: the models are tiny, and workers that each start a team of threads
# spend their time waiting for one another. Commands that tests start inherit it.
os.environ["OMP_NUM_THREADS"] = "1"

import pytest
import torch

if not torch.cuda.is_available():  # read when Triton is imported, which the compiler does
    os.environ["TRITON_INTERPRET"] = "1"

from sympformer.model import ModelConfig

TINY = {"vocab_size": 37, "block_size": 24, "n_layer": 2, "n_head": 2, "n_embd": 16}


@pytest.fixture(autouse=True)
def _repeatable():
    torch.manual_seed(0)


@pytest.fixture
def tiny():
    """A function that gives the tiny config of a preset."""
    return lambda preset, **overrides: ModelConfig.preset(preset, **{**TINY, **overrides})
