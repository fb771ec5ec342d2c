"""Golden trajectories: ten losses of a tiny run a family, which move only if numerics have moved.

Where they are meant to move: `python tests/test_golden.py` writes golden.json anew, and the commit
says why.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import sympformer as sf
from sympformer import machine
from sympformer.attention import forms
from sympformer.data import Loader
from sympformer.train.config import TrainConfig
from sympformer.train.engine import Engine

GOLDEN = Path(__file__).with_name("golden.json")
PRESETS = [
    *("gpt", "symp-r2", "symp-exp-euler", "linear-symp-h1"),
    *("deltanet", "gated-delta-symp"),
]
UPDATES = 10


def losses(preset):
    """In float64, whose initial weights are the same on every processor, and without compilers."""
    config = sf.ModelConfig.preset(
        preset, vocab_size=37, block_size=24, n_layer=2, n_head=2, n_embd=16
    )
    text = (np.cumsum(np.arange(600) ** 2 % 7) % 37).astype(np.uint16)
    recipe = TrainConfig(steps=UPDATES, batch_size=2, warmup=2)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with forms.using("naive"), machine.seeded(0, torch.device("cpu")):
            engine = Engine(sf.build(config), Loader(text, 24, 2, seed=0), recipe)
            return [engine.update()["loss"] for _ in range(UPDATES)]
    finally:
        torch.set_default_dtype(before)


@pytest.mark.parametrize("preset", PRESETS)
def test_the_losses_are_those_of_before(preset):
    golden = json.loads(GOLDEN.read_text(encoding="utf-8"))
    then, now = golden["losses"][preset], losses(preset)
    assert len(then) == UPDATES
    moved = [abs(a / b - 1) for a, b in zip(now, then, strict=True)]
    first = next((i for i, share in enumerate(moved) if share > 1e-9), None)
    assert first is None, (
        f"the numerics of {preset} have moved: from update {first} on, whose loss is "
        f"{now[first]!r} and was {then[first]!r} ({moved[first]:.1e} of it). "
        f"{'Initial weights, data or the pass' if first == 0 else 'Gradients or the optimizer'} "
        f"differ. If that is meant: {golden['command']}, and say why"
    )


if __name__ == "__main__":
    golden = {
        "command": "python tests/test_golden.py",
        "losses": {preset: losses(preset) for preset in PRESETS},
    }
    GOLDEN.write_text(json.dumps(golden, indent=1) + "\n", encoding="utf-8")
