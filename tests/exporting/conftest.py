"""Models whose parts all matter, and how a step program is used."""

import pytest
import torch

import sympformer as sf
from sympformer.exporting import about

VOCABULARY, BLOCK = 37, 20


@pytest.fixture(scope="session")
def made():
    """A model of a preset with large random matrices."""

    def make(name, dtype=torch.float64, **options):
        sizes = {"block_size": BLOCK, "n_layer": 2, "n_head": 2, "n_embd": 16}
        config = sf.ModelConfig.preset(name, vocab_size=VOCABULARY, **{**sizes, **options})
        torch.manual_seed(0)
        model = sf.build(config).to(dtype).eval()
        for p in model.parameters():
            if p.ndim > 1:
                torch.nn.init.normal_(p, std=0.3)
        return model

    return make


@pytest.fixture(scope="session")
def start():
    """The cache before the first token, as a program says."""

    def make(program, rows):
        known = {"batch": rows, "length": 0}
        return {
            name: torch.zeros(
                [known.get(size, size) for size in entry["shape"]],
                dtype=getattr(torch, entry["dtype"]),
            )
            for name, entry in about(program)["inputs"].items()
            if name != "tokens"
        }

    return make
