"""A command in a process of its own: what it says, how it ends, how long and how large it was."""

import contextlib
import os
import re
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass

from harness import main

SECONDS, BYTES = 60, 2 * 10**9
"""More is a fault."""
STOPPED = {128 + signal.SIGTERM, -signal.SIGTERM}
"""How a command ends that was asked to: what it made is saved; or there was nothing to save."""


@dataclass
class Outcome:
    """How a command went."""

    code: int
    """Exit code; minus the number of the signal that ended it."""
    out: str
    err: str
    seconds: float
    """Of the processor: the machine may have other work."""
    peak: int
    """Bytes in memory at most."""

    def fault(self, codes: set[int], silent: bool = False) -> str | None:
        """What is wrong with it, given the exit codes that are right; None if nothing is.

        Args:
            codes: the exit codes that are right.
            silent: where nothing can be said.
        """
        said = self.out + self.err
        if "Traceback" in said:
            return f"a traceback: {self.err[-300:]}"
        if self.seconds > SECONDS:
            return f"{self.seconds:.0f} s"
        if self.peak > BYTES:
            return f"{self.peak / 1e9:.1f} GB"
        if self.code not in codes:
            return f"exit {self.code}: {self.err[-300:]}"
        if self.code == 2 and not self.refused and not silent:
            return f"exit 2 without its one line: {self.err[-300:]!r}"
        return None

    @property
    def refused(self) -> bool:
        """Whether the errors are one line of ours, or the parser's box about the usage."""
        return len(self.lines) == 1 or bool(re.search(r"^╭─ .*─╮$", self.err, re.MULTILINE))

    @property
    def lines(self) -> list[str]:
        """The lines that say what is wrong."""
        return [line for line in self.err.splitlines() if line.startswith("sympformer: ")]


def apart(
    arguments: list[str],
    surroundings: Callable[[], None] | None = None,
    patience: float = 3 * SECONDS,
    stop: int = signal.SIGKILL,
    environment: dict[str, str] | None = None,
) -> Outcome:
    """Run a command in a fork, as `python -m sympformer` would; or a program, by its path.

    Args:
        arguments: of the command.
        surroundings: called in the fork before it: limits, closed streams, another folder.
        patience: seconds after which `stop` is sent; some more, and it is killed.
        stop: a signal.
        environment: all that the environment of a program is to hold.
    """
    with tempfile.TemporaryFile("w+b") as out, tempfile.TemporaryFile("w+b") as err:
        began = time.monotonic()
        child = os.fork()
        if not child:
            _be_a_process(arguments, surroundings, out.fileno(), err.fileno(), environment)
        asked = False
        while True:
            done, status, usage = os.wait4(child, os.WNOHANG)
            seconds = time.monotonic() - began
            if done:
                break
            if seconds > patience + 3 * SECONDS:
                os.kill(child, signal.SIGKILL)
            elif seconds > patience and not asked:
                asked = True
                os.kill(child, stop)
            time.sleep(0.005)
        texts = []
        for file in (out, err):
            file.seek(0)
            texts.append(file.read().decode(errors="backslashreplace"))
    code = os.waitstatus_to_exitcode(status)
    return Outcome(code, *texts, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024)


def _be_a_process(
    arguments: list[str],
    surroundings: Callable[[], None] | None,
    out: int,
    err: int,
    environment: dict[str, str] | None,
) -> None:
    code = 1
    try:
        os.dup2(out, 1)
        os.dup2(err, 2)
        # The parser takes its width from the terminal; without one its box is cut.
        os.environ["COLUMNS"] = "100"
        sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
        sys.stderr = open(2, "w", encoding="utf-8", closefd=False, buffering=1)  # noqa: SIM115
        if surroundings is not None:
            surroundings()
        if environment is not None:
            os.execve(arguments[0], arguments, environment)
        try:
            code = main(arguments)
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 1
        except BaseException:
            traceback.print_exc()
        try:
            sys.stdout.flush()
        except (OSError, ValueError):
            code = 120  # so ends Python
    finally:
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.flush()
        os._exit(code)


def limited(kind: int, size: int) -> Callable[[], None]:
    """Surroundings with less of a resource, such as RLIMIT_FSIZE."""
    return lambda: resource.setrlimit(kind, (size, size))


def output_to(path: str, encoding: str = "utf-8", numbers: tuple[int, ...] = (1,)):
    """Surroundings where the output, or other streams, go to a file."""

    def use() -> None:
        for number in numbers:
            handle = os.open(path, os.O_WRONLY)
            os.dup2(handle, number)
            name = {1: "stdout", 2: "stderr"}[number]
            setattr(sys, name, open(number, "w", encoding=encoding, closefd=False))  # noqa: SIM115

    return use


def without_streams() -> None:
    """Surroundings where all streams are closed, as Python starts then."""
    for number in range(3):
        os.close(number)
    sys.stdin = sys.stdout = sys.stderr = None


def without_reader() -> None:
    """Surroundings where nobody reads the output."""
    reader, writer = os.pipe()
    os.close(reader)
    os.dup2(writer, 1)
