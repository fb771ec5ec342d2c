"""What several processes do in the tests: `torchrun ... together.py WHAT OUT [OPTION ...]`.

Every function makes what one process makes, and the first writes what came of it to OUT, as JSON.
`here` runs the same function in one process, for comparison.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

import sympformer as sf
from sympformer.data import Loader
from sympformer.model import ModelConfig
from sympformer.tasks import TaskLoader, make_task
from sympformer.train.batches import share
from sympformer.train.config import TrainConfig
from sympformer.train.engine import Engine
from sympformer.train.parallel import Ranks, joined

SIZES = {"vocab_size": 61, "block_size": 16, "n_layer": 2, "n_head": 2, "n_embd": 16}
MODELS = {
    "gpt": {},
    "symp-r2": {},
    "symp-exp-euler": {},
    "linear-symp-h1": {},
    "deltanet": {},
    "looped": {"unique_layers": 2, "n_layer": 4},
    "looped, scalars of each loop": {"unique_layers": 2, "n_layer": 4, "loop_scalars": "own"},
}
MODES = "ddp", "fsdp"


def engine(name: str, mode: str, ranks: Ranks, task: bool = False, **options) -> Engine:
    """An engine in float64; rows of 12, in 2 micro-batches of 6 by default."""
    preset = "symp-exp-euler" if name.startswith("looped") else name
    sizes = {**SIZES, "n_layer": 2, **MODELS.get(name, {})}
    torch.manual_seed(0)
    model = sf.build(ModelConfig.preset(preset, **sizes)).double()
    config = TrainConfig(
        **{
            "steps": 50,
            "batch_size": 6,
            "accumulation": 2,
            "warmup": 5,
            "parallel": mode,
            **options,
        }
    )
    own = share(config.batch_size, config.accumulation, ranks.size)
    if task:
        words = make_task("mqar", {"vocab_size": 61, "train": [[8, 2], [16, 4]], "test": [[16, 4]]})
        loader = TaskLoader(words, config.batch_size, 0, ranks.rank, ranks.size, own.parts)
    else:
        text = np.random.default_rng(0).integers(61, size=4000).astype(np.uint16)
        rows = config.batch_size // own.parts
        loader = Loader(text, SIZES["block_size"], rows, 0, ranks.rank, ranks.size)
    return Engine(model, loader, config, ranks)


def losses(ranks: Ranks, modes: Sequence[str], updates: int) -> dict[str, list[list[float]]]:
    """Losses and gradient norms of each update, by mode and model."""
    found = {}
    for mode in modes:
        for name in MODELS:
            made = engine(name, mode, ranks)
            rows = [made.update() for _ in range(updates)]
            found[f"{mode} {name}"] = [[row["loss"], row["grad_norm"]] for row in rows]
        made = engine("gpt", mode, ranks, task=True)
        found[f"{mode} task"] = [[made.update()["loss"], made.tokens] for _ in range(updates)]
    return found


if __name__ == "__main__":
    what, out, *given = sys.argv[1:]
    with joined() as ranks:
        result = globals()[what](ranks, *map(json.loads, given))
        if ranks.first:
            Path(out).write_text(json.dumps(result))
