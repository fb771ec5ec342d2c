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

from harness import OPTIONS, differences, fork, train, workplace
from harness import command as harness_command

PROCESSES = 4
LIMIT, WHOLE = 30.0, 600.0
"""Seconds in which processes end of which one was killed, and in which a run is made."""
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


def ends(children: list[int], limit: float) -> list[int | None]:
    """The exit codes of processes; None of those that do not end in time, and are killed."""
    codes: dict[int, int | None] = {}
    until = time.monotonic() + limit
    while len(codes) < len(children):
        for child in set(children) - set(codes):
            late = time.monotonic() > until
            if late:
                os.kill(child, signal.SIGKILL)
            done, status = os.waitpid(child, 0 if late else os.WNOHANG)
            if done:
                codes[child] = None if late else os.waitstatus_to_exitcode(status)
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


def kill(
    folder: Path, draw: random.Random, longest: float, options: list[object]
) -> tuple[bool, bool]:
    """Kill once and go on; tell whether the process was still running, and if all is well."""
    whole, cut = folder / "whole", folder / "cut"
    shutil.rmtree(cut, ignore_errors=True)
    children = start([*train(cut), *options], PROCESSES)
    victim, moment = draw.randrange(PROCESSES), draw.uniform(0, longest)
    time.sleep(moment)
    os.kill(children[victim], signal.SIGKILL)
    began = time.monotonic()
    time.sleep(0.1)
    for child in children:
        os.kill(child, signal.SIGTERM)
    codes = ends(children, LIMIT)
    killed = codes[victim] != 0
    complete = (cut / "summary.json").exists()  # the others needed it no more
    found = [f"codes {codes}"] if killed and not complete and not all(codes) else []
    processes = draw.choice([1, 2, 4])
    after = [*train(cut), *options, *([] if processes > 1 else ["--parallel", "none"])]
    again = ends(start(after, processes), WHOLE)
    found += [f"going on: {again}"] if again != [0] * processes else compared(whole, cut, processes)
    told = f"{', '.join(found) or 'equal'} ({time.monotonic() - began:.1f} s)"
    when = "" if killed else " (it had ended)"
    print(f"  process {victim} after {moment:.2f} s{when}, then {processes}: {told}", flush=True)
    return killed, not found


def run() -> int:
    """Parse, kill, say."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--parallel", choices=("ddp", "fsdp"), default="ddp")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--async-save", action="store_true")
    given = parser.parse_args()
    if given.async_save:
        OPTIONS.append("--async-save")
    draw, options = random.Random(given.seed), ["--batch-size", 4, "--parallel", given.parallel]
    with workplace() as folder:
        began = time.monotonic()
        whole = start([*train(folder / "whole"), *options], PROCESSES)
        assert ends(whole, WHOLE) == [0] * PROCESSES
        longest = time.monotonic() - began
        done = [kill(folder, draw, longest, options) for _ in range(given.kills)]
    killed, well = (sum(column) for column in zip(*done, strict=True))
    print(
        f"{given.parallel}: {given.kills} kills of one of {PROCESSES}, {killed} before it had "
        f"ended: {well} went on to equal losses"
    )
    return int(well < given.kills)


if __name__ == "__main__":
    sys.exit(run())
