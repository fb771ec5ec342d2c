"""The time of one decoded token: eager, compiled in the process, compiled ahead (AOTInductor).

    python benchmarks/ahead.py [--presets gpt symp-r2] [--rounds 15] [--threads 1]

All three decode the same tokens behind the same prompt, in turn, in one process; what is printed is
the median over the rounds of the time of a token, and of its ratio to the eager one of its round.
Their logits are compared, too. Compiling takes minutes.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

import sympformer as sf
from sympformer.compiler import compile_step
from sympformer.exporting import exported, write_program
from sympformer.exporting.past import parts_of
from sympformer.model import Cache
from sympformer.model.generation import _step

PRESETS = ("gpt", "symp-r2", "deltanet", "gated-delta-symp")
POSITION, TOKENS, VOCABULARY = 100, 8, 1024
Decoded = tuple[float, Tensor]


def by_model(step: Callable, model: nn.Module, text: Tensor) -> Decoded:
    """Milliseconds a token of a step of ours, and its last logits."""
    _, cache = _step(model, text[:, :POSITION], Cache(capacity=POSITION + TOKENS))
    logits, began = text, time.perf_counter()
    for i in range(POSITION, POSITION + TOKENS):
        logits, cache = step(model, text[:, i : i + 1], cache)
    return 1e3 * (time.perf_counter() - began) / TOKENS, logits


def by_package(package: Callable, model: nn.Module, text: Tensor) -> Decoded:
    """The same of a package compiled ahead."""
    cache, growing = parts_of(model(text[:, :POSITION]).cache.entries, POSITION)
    if not growing:
        cache["length"] = torch.tensor(POSITION)
    tokens = [text[:, i : i + 1].contiguous() for i in range(POSITION, POSITION + TOKENS)]
    logits, began = text, time.perf_counter()
    for new in tokens:
        logits, cache = package(new, cache)
    return 1e3 * (time.perf_counter() - began) / TOKENS, logits


@torch.inference_mode()
def measure(preset: str, rounds: int, folder: Path) -> str:
    """The row of a preset."""
    sizes = {"n_layer": 8, "n_head": 8, "n_embd": 64, "block_size": 256}
    model = sf.build(sf.ModelConfig.preset(preset, vocab_size=VOCABULARY, **sizes)).eval()
    file = folder / f"{preset}.pt2"
    with torch.inference_mode(False):
        write_program(exported(model, "step"), file, "aoti")
    package = torch._inductor.aoti_load_package(str(file))
    ways = {
        "eager": partial(by_model, _step),
        "compiled": partial(by_model, compile_step(_step)),
        "ahead": partial(by_package, package),
    }
    text = torch.randint(VOCABULARY, (1, POSITION + TOKENS))
    made = {name: way(model, text)[1] for name, way in ways.items()}  # the warm-up
    apart = max(float((logits - made["eager"]).abs().max()) for logits in made.values())
    times = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            times[name].append(min(way(model, text)[0] for _ in range(3)))
    cells = []
    for found in times.values():
        ratio = statistics.median(t / e for t, e in zip(found, times["eager"], strict=True))
        cells.append(f"{statistics.median(found):.2f} ({ratio:.2f})")
    return f"| `{preset}` | {' | '.join(cells)} | {apart:.0e} |"


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--presets", nargs="+", default=PRESETS)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    print("| ms a token (over eager) | eager | compiled | ahead | logits apart |")
    print("|---|--:|--:|--:|--:|")
    with tempfile.TemporaryDirectory() as folder:
        for preset in given.presets:
            print(measure(preset, given.rounds, Path(folder)), flush=True)
