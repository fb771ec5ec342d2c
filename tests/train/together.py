"""What several processes do in the tests; they are forks of one that has imported this.

Functions that take `ranks` are such that one process gives what several give.
"""

import copy
import json
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import sympformer as sf
from sympformer.cli import main
from sympformer.data import Loader
from sympformer.model import ModelConfig
from sympformer.tasks import TaskLoader, make_task
from sympformer.train.batches import share
from sympformer.train.config import TrainConfig
from sympformer.train.engine import Engine
from sympformer.train.parallel import SINGLE, Ranks, joined
from sympformer.train.spread import whole

SIZES = {"vocab_size": 61, "block_size": 16, "n_layer": 2, "n_head": 2, "n_embd": 16}
TWICE = {"unique_layers": 2, "n_layer": 4}
MODELS = {
    "gpt": ("gpt", {}),
    "symp-r2": ("symp-r2", {}),
    "symp-exp-euler": ("symp-exp-euler", {}),
    "linear-symp-h1": ("linear-symp-h1", {}),
    "deltanet": ("deltanet", {}),
    "looped": ("symp-exp-euler", TWICE),
    "looped, own scalars": ("symp-exp-euler", {**TWICE, "loop_scalars": "own"}),
}


def model(name: str) -> nn.Module:
    """A model in float64, the same in every process."""
    preset, options = MODELS[name]
    torch.manual_seed(0)
    return sf.build(ModelConfig.preset(preset, **{**SIZES, **options})).double()


def engine(name: str, mode: str, ranks: Ranks, task: bool = False) -> Engine:
    """An engine whose updates have 12 rows, in 2 micro-batches.

    The rate is small: at 3e-3 the early updates of DeltaNet amplify what rounding does in one
    process whose batch is split otherwise, to 3e-9 after 50 updates.
    """
    recipe = {"steps": 50, "warmup": 5, "learning_rate": 1e-3, "clip": 0.1}
    config = TrainConfig(batch_size=6, accumulation=2, parallel=mode, **recipe)
    own = share(config.batch_size, config.accumulation, ranks.size)
    if task:
        options = {"vocab_size": 61, "train": [[8, 2], [16, 4]], "test": [[16, 4]]}
        words = make_task("mqar", options)
        loader = TaskLoader(words, config.batch_size, 0, ranks.rank, ranks.size, own.parts)
    else:
        text = np.random.default_rng(0).integers(61, size=4000).astype(np.uint16)
        rows = config.batch_size // own.parts
        loader = Loader(text, SIZES["block_size"], rows, 0, ranks.rank, ranks.size)
    return Engine(model(name), loader, config, ranks)


def losses(ranks: Ranks, mode: str, updates: int, names: Sequence[str]) -> dict[str, Any]:
    """By model: loss and gradient norm of each update; of a task, tokens so far."""
    found = {}
    for name in names:
        made = engine(name, mode, ranks)
        rows = [made.update() for _ in range(updates)]
        found[name] = [[row["loss"], row["grad_norm"]] for row in rows]
    made = engine("gpt", mode, ranks, task=True)
    found["a task"] = [[made.update()["loss"], made.tokens] for _ in range(updates)]
    return found


def going_on(ranks: Ranks, mode: str, updates: int) -> list[float]:
    """Losses from the state of one process, and from one's own, which one process goes on from."""
    alone = engine("symp-r2", "none", SINGLE)
    for _ in range(updates):
        alone.update()
    after = engine("symp-r2", mode, ranks)
    after.load_state_dict(copy.deepcopy(alone.state_dict()))
    found = [after.update()["loss"]]
    state = after.state_dict()
    for name in "model", "optimizer":
        state[name] = gathered(state[name])
    alone.load_state_dict(copy.deepcopy(state))
    return [*found, alone.update()["loss"]]


def gathered(values: dict[str, Any]) -> dict[str, Any]:
    """Nested dictionaries with all their tensors whole."""
    inner = (gathered(v) if isinstance(v, dict) else whole(v) for v in values.values())
    return dict(zip(values, inner, strict=True))


def static_graph(ranks: Ranks) -> float:
    """The norm of the mean gradient by DDP, for which the graph is the same in every pass."""
    own = model("gpt")
    rows = torch.randint(61, (4, 16), generator=torch.Generator().manual_seed(1))
    rows = rows.chunk(ranks.size)[ranks.rank]
    spread: Any = own
    if ranks.size > 1:
        spread = nn.parallel.DistributedDataParallel(own, static_graph=True)
    spread(rows, rows.roll(-1, 1)).loss.backward()
    return nn.utils.get_total_norm([p.grad for p in own.parameters()]).item()


def logits(ranks: Ranks, mode: str) -> list[float]:
    """What is read of a pass after it: while training, and measured."""
    made = engine("symp-r2", mode, ranks)
    rows = torch.arange(32).reshape(2, 16)
    made.model.train()
    trained = (made.spread or made.model)(rows, rows)
    found = [trained.logits.sum().item()]
    trained.loss.backward()
    with torch.no_grad():
        out = made.model.eval()(rows)
    return [*found, out.logits.std().item(), out.last_logits.std().item()]


def everything(ranks: Ranks, updates: int, *names: str) -> dict[str, Any]:
    """All of it, by what it is and how a model is spread."""
    found: dict[str, Any] = {"static graph": static_graph(ranks)}
    for mode in ("ddp", "fsdp") if ranks.size > 1 else ("none",):
        found[f"losses, {mode}"] = losses(ranks, mode, updates, names)
        found[f"going on, {mode}"] = going_on(ranks, mode, updates)
        found[f"logits, {mode}"] = logits(ranks, mode)
    return found


def write_everything(out: str, updates: str, *names: str) -> int:
    """Make everything with the other processes; the first writes it."""
    with joined() as ranks:
        found = everything(ranks, int(updates), *names)
        if ranks.first:
            Path(out).write_text(json.dumps(found))
    return 0


def command(*words: str) -> int:
    """A command line."""
    return main(list(words))


def process(rank: int, whole: dict[str, str], said: str, run: Callable[..., int], *given: Any):
    """What one process does, its output and errors in files: `run`, whose code it ends with."""
    os.environ |= {**whole, "RANK": str(rank), "LOCAL_RANK": str(rank)}
    for number, name in ((1, "out"), (2, "err")):
        handle = os.open(f"{said}.{rank}.{name}", os.O_WRONLY | os.O_CREAT)
        os.dup2(handle, number)
    sys.stdout, sys.stderr = (os.fdopen(n, "w", closefd=False) for n in (1, 2))
    signal.signal(signal.SIGINT, signal.default_int_handler)  # multiprocessing ignores it
    sys.exit(run(*given))
