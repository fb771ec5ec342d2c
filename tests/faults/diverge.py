"""Let runs diverge: each is stopped with its last good state kept, and goes on from it.

    python tests/faults/diverge.py --runs 40

Every run makes a few good updates, then goes on at a rate that is far too high, then at a lower
one. Exit code 0 if each was stopped with exit code 2 and one line, kept a finite state, and
finished after that.
"""

import argparse
import itertools
import json
import sys
from pathlib import Path

from harness import OPTIONS, command, fork, torch, workplace

from sympformer.train.tensors import read_tensors

PRESETS = ("gpt", "gpt-untied", "yurii", "symp-h0", "symp-r2", "symp-exp-euler", "symp-ab2")
RATES = (1e2, 1e3, 1e4, 1e5, 1e6, 1e8)


def diverge(preset: str, rate: float, run: Path) -> int:
    """Take one run through it; 0 if all was right, 2 if the rate was survived, else 1."""
    code, _, err = command("train", preset, "--out", run, *OPTIONS)
    if code:
        print(f"  {preset}: exit {code}: {err[-200:]}")
        return 1
    high = ["--learning-rate", rate, "--steps", 60]
    code, _, err = command("train", "--resume", run, *high)
    if code == 0:
        return 2
    lines = [line for line in err.splitlines() if line.startswith("sympformer: ")]
    tensors, about = read_tensors(run / "state.safetensors")
    finite = all(bool(tensor.isfinite().all()) for tensor in tensors.values())
    good = code == 2 and len(lines) == 1 and "diverged at step" in lines[0] and finite
    good &= about["state"]["step"] >= 4
    # Lower than the command that the message names: half of a rate that is far too high is, too.
    low = ["--learning-rate", 1e-4, "--steps", about["state"]["step"] + 4]
    code, _, err = command("train", "--resume", run, *low)
    if not good or code or not json.loads((run / "summary.json").read_text())["changes"]:
        print(f"  {preset} at {rate:g}: {lines}, finite {finite}, then exit {code}: {err[-200:]}")
        return 1
    return 0


def run() -> int:
    """Parse, train, say."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, default=40)
    number = parser.parse_args().runs
    cases = list(itertools.product(RATES, PRESETS))[-number:]
    torch.manual_seed(0)
    with workplace() as folder:
        codes = [
            fork(lambda p=preset, r=rate, i=i: diverge(p, r, folder / f"{p}-{i}"))
            for i, (rate, preset) in enumerate(cases)
        ]
    stopped, survived = codes.count(0), codes.count(2)
    print(
        f"{len(codes)} runs at rates far too high: {stopped} stopped with a good state kept and "
        f"went on, {survived} did not diverge, {len(codes) - stopped - survived} went wrong"
    )
    return int(stopped + survived < len(codes))


if __name__ == "__main__":
    sys.exit(run())
