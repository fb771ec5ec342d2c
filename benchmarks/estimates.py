"""What `sympformer estimate` says of a training run, against what it takes.

    python benchmarks/estimates.py

For each model, memory in a fresh process, above what its libraries take (Linux, on a processor;
what is freed is given back at once), and tokens a second, beside the estimates. Use an otherwise
idle machine.
"""

import json
import statistics
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
from sharded_memory import give_back_at_once, memory

import sympformer as sf
from sympformer import estimate, machine
from sympformer.data import Loader
from sympformer.model import ModelConfig
from sympformer.train import RunConfig, TrainConfig
from sympformer.train.engine import Engine

NAMES = "gpt", "symp-r2", "linear-symp-h1", "gated-delta-symp"
SIZES = {"n_layer": 6, "n_head": 8, "n_embd": 256, "block_size": 512, "vocab_size": 2048}
ROWS, UPDATES, THREADS = 8, 5, 2


def engine(name: str, sizes: dict[str, int], rows: int) -> Engine:
    """An engine of a preset."""
    with machine.seeded(0):
        model = sf.build(ModelConfig.preset(name, **sizes))
    length = sizes["block_size"]
    text = (np.arange(rows * length * 4) % sizes["vocab_size"]).astype(np.uint16)
    return Engine(model, Loader(text, length, rows, 0), TrainConfig(batch_size=rows))


def measure(name: str) -> dict[str, float]:
    """What a run takes, in this fresh process: bytes, and tokens a second."""
    torch.set_num_threads(THREADS)
    give_back_at_once()
    engine(
        name, {"n_layer": 2, "n_head": 2, "n_embd": 16, "block_size": 64, "vocab_size": 64}, 2
    ).update()
    before = memory("VmRSS")
    own = engine(name, SIZES, ROWS)
    own.update()
    Path("/proc/self/clear_refs").write_text("5")
    own.update()
    held = memory("VmHWM") - before
    speeds = [own.update()["tokens_per_second"] for _ in range(UPDATES)]
    return {"bytes": held * 1e6, "tokens_per_second": statistics.median(speeds)}


def compared(name: str, hardware: estimate.Hardware) -> str:
    """A line: the estimate, the measurement, and their ratio."""
    child = [sys.executable, __file__, name]
    found = json.loads(subprocess.run(child, capture_output=True, text=True, check=True).stdout)
    model, length = ModelConfig.preset(name, **SIZES), SIZES["block_size"]
    passed = estimate.one_pass(model, ROWS, length)
    held = estimate.memory(RunConfig(name, model), passed).total
    told = estimate.speed(model, passed, 1, ROWS, length, hardware)
    return (
        f"| `{name}` | {held / 1e6:,.0f} "
        f"| {found['bytes'] / 1e6:,.0f} ({found['bytes'] / held:.2f}) "
        f"| {told.uncached:,.0f} to {told.most:,.0f} | {found['tokens_per_second']:,.0f} |"
    )


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(json.dumps(measure(sys.argv[1])))
        sys.exit()
    torch.set_num_threads(THREADS)
    hardware = estimate.here()
    peak, bandwidth = hardware.peak / 1e9, hardware.bandwidth / 1e9
    print(f"{hardware.name}: {peak:.0f} 10^9 operations, {bandwidth:.1f} GB a second")
    print("| | MB: estimate | measured | tokens a second: estimate | measured |")
    print("| --- | --: | --: | --: | --: |")
    for name in NAMES:
        print(compared(name, hardware), flush=True)
