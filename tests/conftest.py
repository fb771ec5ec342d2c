"""Shared by all tests."""

import pytest
import torch

from sympformer.model import ModelConfig

TINY = {"vocab_size": 37, "block_size": 24, "n_layer": 2, "n_head": 2, "n_embd": 16}


@pytest.fixture(autouse=True)
def _repeatable():
    torch.manual_seed(0)


@pytest.fixture
def tiny():
    """A function that gives the tiny config of a preset."""
    return lambda preset, **overrides: ModelConfig.preset(preset, **{**TINY, **overrides})
