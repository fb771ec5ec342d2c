"""Memory of a training process whose model is sharded, against the formula of docs/training.md.

    python benchmarks/sharded_memory.py
    torchrun --nproc-per-node=4 benchmarks/sharded_memory.py

Each process prints its parameters and, in MB above what it took before the model was built: the
memory between two updates, and the most in one (Linux, on a processor; 128 tokens an update).
"""

import argparse
import ctypes
import gc
from pathlib import Path

import numpy as np
import torch

import sympformer as sf
from sympformer.data import Loader
from sympformer.model import LanguageModel, ModelConfig
from sympformer.train.batches import share
from sympformer.train.config import TrainConfig
from sympformer.train.engine import Engine
from sympformer.train.parallel import Ranks, joined

TOKENS, ROWS = 32, 4
ALWAYS_RETURN, MMAP = (-1, 0), (-3, 2**16)  # <malloc.h>: what is freed shall not count


def memory(name: str) -> float:
    """An entry of /proc/self/status, in MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) * 1024 / 1e6


def give_back_at_once() -> None:
    """Let freed memory go back to the system, so that only what is held counts."""
    for option in (ALWAYS_RETURN, MMAP):
        ctypes.CDLL(None).mallopt(*option)


def make(ranks: Ranks, d: int, layers: int, vocab_size: int) -> Engine:
    """An engine whose model is sharded where there are several processes."""
    torch.manual_seed(0)
    sizes = {"n_layer": layers, "n_head": 4, "n_embd": d, "block_size": TOKENS}
    model = sf.build(ModelConfig.preset("symp-r2", vocab_size=vocab_size, **sizes))
    config = TrainConfig(batch_size=ROWS, parallel="fsdp" if ranks.size > 1 else "none")
    rows = ROWS // share(ROWS, 1, ranks.size).parts
    text = (np.arange(4000) % vocab_size).astype(np.uint16)
    return Engine(model, Loader(text, TOKENS, rows, 0, ranks.rank, ranks.size), config, ranks)


def measure(ranks: Ranks, sizes: tuple[int, int, int]) -> dict[str, float]:
    """What this process holds, in MB and in parameters."""
    give_back_at_once()
    engine = make(ranks, 16, 1, 64)  # what libraries take once
    for _ in range(2):
        engine.update()
    del engine
    gc.collect()
    before = memory("VmRSS")
    engine = make(ranks, *sizes)
    assert isinstance(engine.model, LanguageModel)
    blocks = [sum(p.numel() for p in block.parameters()) for block in engine.model.blocks]
    whole = sum(p.numel() for p in engine.model.parameters())
    for _ in range(2):
        engine.update()
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    between = memory("VmRSS") - before
    Path("/proc/self/clear_refs").write_text("5")
    engine.update()
    return {
        "parameters": whole,
        "of a block": max(blocks),
        "beside the blocks": whole - sum(blocks),
        "between updates, MB": round(between, 1),
        "most in an update, MB": round(memory("VmHWM") - before, 1),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--n-embd", type=int, default=384)
    parser.add_argument("--n-layer", type=int, default=12)
    parser.add_argument("--vocab-size", type=int, default=1024)
    given = parser.parse_args()
    with joined() as ranks:
        found = measure(ranks, (given.n_embd, given.n_layer, given.vocab_size))
        print(f"process {ranks.rank} of {ranks.size}: {found}", flush=True)
