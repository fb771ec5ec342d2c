"""Shared by the tests of models."""

import pytest
import torch

import sympformer as sf


@pytest.fixture
def redrawn(tiny):
    """A function that gives a float64 model whose tokens interact: its matrices are large."""

    def build(preset, **overrides):
        model = sf.build(tiny(preset, **overrides)).double().eval().requires_grad_(False)
        for p in model.parameters():
            p.copy_(p + 0.1 * torch.randn_like(p) if p.ndim < 2 else torch.randn_like(p) / 3)
        return model

    return build
