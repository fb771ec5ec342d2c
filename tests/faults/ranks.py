"""Kill one of several processes that train together, go on, and compare with an unbroken run.

    python tests/faults/ranks.py --kills 50

A run in 4 processes loses a random one at a random moment by SIGKILL. The others get a SIGTERM a
moment later, as from torchrun, and must end within `LIMIT` seconds and not with 0; then the run
goes on in 1, 2 or 4 processes, as the draw says. In 4 processes it must become the unbroken run,
weights and metrics bit for bit; in fewer, whose sums are rounded otherwise, its losses must be
equal to 5 digits. Exit code 0 if all do.
"""

import argparse
import json
import math
import os
import random
import shutil
import signal
import socket
import sys
import time
from functools import partial
from pathlib import Path

os.environ["TORCH_CPP_LOG_LEVEL"] = "ERROR"  # before torch is imported

from harness import command as harness_command
from harness import differences, fork, train, workplace

PROCESSES = 4
LIMIT = 30.0
CLOSE = 1e-5


def start(command: list[object], processes: int) -> list[int]:
    """Start a command in processes that join; return their ids."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    def process(rank: int) -> int:
        os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(processes)}
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        return harness_command(*command)[0]

    return [fork(partial(process, rank), wait=False) for rank in range(processes)]


def ends(children: list[int]) -> list[int]:
    """The exit codes of processes; of those that do not end within `LIMIT`, and are killed, 0."""
    codes: dict[int, int] = {}
    until = time.monotonic() + LIMIT
    while len(codes) < len(children):
        for child in set(children) - set(codes):
            late = time.monotonic() > until
            if late:
                os.kill(child, signal.SIGKILL)
            done, status = os.waitpid(child, 0 if late else os.WNOHANG)
            if done:
                codes[child] = 0 if late else os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    return [codes[child] for child in children]


def losses(run: Path) -> list[float]:
    """Training and validation losses, in order."""
    rows = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [row.get("loss", row.get("valid_loss")) for row in rows]


def compared(whole: Path, cut: Path, processes: int) -> list[str]:
    """In what a run that went on differs from the unbroken one."""
    if processes == PROCESSES:
        return differences(whole, cut)
    pairs = list(zip(losses(whole), losses(cut), strict=True))
    return ["losses"] if any(not math.isclose(a, b, rel_tol=CLOSE) for a, b in pairs) else []


def kill(folder: Path, draw: random.Random, longest: float, options: list[object]) -> list[str]:
    """Kill once and go on; tell what went wrong."""
    whole, cut = folder / "whole", folder / "cut"
    shutil.rmtree(cut, ignore_errors=True)
    children = start([*train(cut), *options], PROCESSES)
    victim, moment = draw.randrange(PROCESSES), draw.uniform(0, longest)
    time.sleep(moment)
    os.kill(children[victim], signal.SIGKILL)
    began = time.monotonic()
    time.sleep(0.1)
    for child in children:
        os.kill(
            child, signal.SIGTERM
        )  # of one that has ended nothing comes, until it is waited for
    codes = ends(children)
    finished = codes[victim] == 0  # it was faster than the kill
    found = [f"codes {codes}"] if not finished and not all(codes) else []
    found = [] if (cut / "summary.json").exists() else found
    processes = draw.choice([1, 2, 4])
    after = [*train(cut), *options, *([] if processes > 1 else ["--parallel", "none"])]
    again = ends(start(after, processes))
    found += [f"going on: {again}"] if any(again) else compared(whole, cut, processes)
    took = time.monotonic() - began
    told = f"{', '.join(found) or 'equal'} ({took:.1f} s)"
    print(f"  rank {victim} after {moment:.2f} s, then {processes}: {told}", flush=True)
    return found


def run() -> int:
    """Parse, kill, say."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--parallel", choices=("ddp", "fsdp"), default="ddp")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    draw, options = random.Random(given.seed), ["--batch-size", 4, "--parallel", given.parallel]
    with workplace() as folder:
        began = time.monotonic()
        assert not any(ends(start([*train(folder / "whole"), *options], PROCESSES)))
        longest = time.monotonic() - began
        wrong = sum(bool(kill(folder, draw, longest, options)) for _ in range(given.kills))
    print(f"{given.kills} kills of one of 4: {given.kills - wrong} went on to equal losses")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(run())
