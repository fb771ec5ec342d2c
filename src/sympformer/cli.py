"""The command line: parses, calls, prints."""

import os
import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from typing import Any, TextIO

from sympformer.errors import Ended, InputError, Stopped
from sympformer.files import reason
from sympformer.shown import visible

# All else is imported by `main`, which answers whatever happens meanwhile.

WELCOME = """\
Transformers whose layers are steps of an accelerated flow. To begin:

  sympformer compare             train and audit six models side by side (about four minutes)
  sympformer presets             list the architectures
  sympformer train symp-r2       train one, on the embedded stories, into runs/symp-r2-s0
  sympformer generate runs/symp-r2-s0 --prompt "once upon a time"
  sympformer audit symp-r2       does any output depend on a later token?
  sympformer --help              all commands; each has its own --help
"""

_NO_MEMORY = (
    "allocate memory",
    "failed to map segment",
    "not enough memory",
    "out of memory",
    "start new thread",
)


def main(arguments: list[str] | None = None) -> int:
    """Run a command; return its exit code.

    0: done. 2: wrong usage or input, or the surroundings fail: a full disk, too little memory, a
    reader that has gone. 130: interrupted. 1: a leak was found; so ends a defect of ours, too,
    which shows a traceback.
    """
    try:
        _mend_streams()
        given = [_decoded(a) for a in (sys.argv[1:] if arguments is None else arguments)]
        with _plain_warnings(), _together(given) as speaks:
            code = _run(given, speaks)
            sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        return _end("interrupted; a run continues from its last saved state", 130)
    except Stopped as stopped:
        return _end(str(stopped), stopped.code)
    except Ended as ended:
        return ended.code
    except Exception as error:
        if (line := _explanation(error)) is None:
            raise
        return _end(line, 2)


@contextmanager
def _plain_warnings() -> Iterator[None]:
    """Inside, what this package warns of is shown as one line of ours."""
    before, here = warnings.formatwarning, str(Path(__file__).parent)

    def formatted(message, category, filename, lineno, line=None):
        if filename.startswith(here) and issubclass(category, UserWarning):
            return f"sympformer: {message}\n"
        return before(message, category, filename, lineno, line)

    warnings.formatwarning = formatted
    try:
        yield
    finally:
        warnings.formatwarning = before


@contextmanager
def _together(arguments: list[str]) -> Iterator[bool]:
    """Join the processes that train together; tell whether this one speaks, as the first does.

    What the others find wrong they say all the same, unless one has said it.
    """
    if "RANK" not in os.environ or "train" not in arguments:
        yield True
        return
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # what is wrong we say, in one line
    from sympformer.train.parallel import joined

    with joined() as ranks:
        if ranks.first:
            yield True
            return
        with open(os.devnull, "w", encoding="utf-8") as null, redirect_stdout(null):
            yield False


def _run(arguments: list[str], speaks: bool) -> int:
    if not arguments:
        sys.stderr.write(WELCOME)
        return 2
    try:
        # What a parser finds wrong, it finds in every process.
        with open(os.devnull, "w") as null, nullcontext() if speaks else redirect_stderr(null):
            run = _command(arguments)
        return run()
    except SystemExit as end:  # the parser has shown its help or what is wrong
        return end.code if isinstance(end.code, int) else 2


def _command(arguments: list[str]) -> Callable[[], int]:
    """What the arguments ask for.

    Raises:
        SystemExit: help, or wrong usage, which has been shown.
    """
    with _interrupt_at_once():
        import tyro

        from sympformer.commands import COMMANDS
        from sympformer.commands.estimate import Estimate
        from sympformer.commands.lab import experiments
        from sympformer.commands.repeated import gathered
        from sympformer.commands.study import Compare
        from sympformer.commands.train import Train

        arguments, file, run, start = _first(arguments)
        lab = arguments[:1] == ["lab"]
        commands: dict[str, Any] = experiments() if lab else COMMANDS
        first = 2 if lab else 1
        if command := commands.get("".join(arguments[first - 1 : first])):
            arguments = arguments[:first] + gathered(command, arguments[first:])
    if lab:
        found = _parse(commands, "sympformer lab", arguments[1:])
        return lambda: found
    kinds = {"compare": Compare, "train": Train, "estimate": Estimate}
    if file is not None and (name := "".join(arguments[:1])) in kinds:
        default = kinds[name].load(file)
        program = f"sympformer {name}"
        return tyro.cli(kinds[name], prog=program, default=default, args=arguments[1:]).run
    if arguments[:1] == ["train"] and (run is not None or start is not None):
        default = Train.of_model(str(start)) if run is None else Train.of_run(run)
        return tyro.cli(Train, prog="sympformer train", default=default, args=arguments[1:]).run
    return _parse(commands, "sympformer", arguments).run


def _parse(commands: dict[str, Any], program: str, arguments: list[str]) -> Any:
    import tyro

    return tyro.extras.subcommand_cli_from_dict(
        commands,
        prog=program,
        description="Transformers whose layers are steps of an accelerated flow. Everywhere, "
        "--import FILE.py or MODULE first imports code of your own (docs/extending.md).",
        args=arguments,
    )


def _first(
    arguments: list[str],
) -> tuple[list[str], Path | None, Path | None, str | None]:
    """What must be known before options are parsed: imports add names, a file or run the defaults.

    Returns:
        The arguments without `--import`, which has been done; the file of `--config`; the run of
        `--resume`; the model of `--start-from`.
    """
    import argparse

    from sympformer.imports import import_from

    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    imports = parser.add_argument("--import", action="append", default=[])
    config = parser.add_argument("--config", type=Path)
    resume = parser.add_argument("--resume", type=Path)
    start = parser.add_argument("--start-from")
    try:
        found, rest = parser.parse_known_args(arguments)
    except argparse.ArgumentError as error:
        wanted = {"--config": "a FILE.toml", "--resume": "a run folder", "--start-from": "a run"}
        name = str(error.argument_name)
        raise InputError(f"{name} needs {wanted.get(name, 'a FILE.py or a MODULE')}") from None
    for name in getattr(found, imports.dest):
        import_from(name)
    flags = {"--config": config, "--resume": resume, "--start-from": start}
    values = {flag: getattr(found, action.dest) for flag, action in flags.items()}
    for flag, value in values.items():
        rest += [] if value is None else [flag, str(value)]
    return rest, *values.values()


def _decoded(argument: str) -> str:
    """An argument as text, in a locale that is not UTF-8 too.

    Raises:
        InputError: it is no text: what is asked for is written to files, which are UTF-8.
    """
    try:
        return os.fsencode(argument).decode() if not _is_text(argument) else argument
    except UnicodeError:
        raise InputError(
            f"the argument {argument!a} is not UTF-8 text: if it names a file, rename that"
        ) from None


def _is_text(argument: str) -> bool:
    """Whether a string has no stand-ins for bytes that could not be decoded."""
    try:
        argument.encode()
    except UnicodeEncodeError:
        return False
    return True


@contextmanager
def _interrupt_at_once() -> Iterator[None]:
    """Ctrl-C ends the process: nothing has begun, and no library shall meet an exception."""

    def stop(*_: object) -> None:
        with suppress(OSError):
            os.write(2, b"sympformer: interrupted\n")
        os._exit(130)

    before = signal.getsignal(signal.SIGINT)
    if before is not signal.default_int_handler:  # somebody cares already, or wants none
        yield
        return
    with suppress(ValueError):  # not the main thread
        signal.signal(signal.SIGINT, stop)
    try:
        yield
    finally:
        with suppress(ValueError):
            signal.signal(signal.SIGINT, before)


def _mend_streams() -> None:
    """Show what an encoding lacks as its escape; stand in for a stream that is closed."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def _explanation(error: Exception) -> str | None:
    """What to tell the user; None of a defect, which needs its traceback."""
    match error:
        case InputError():
            return str(error)
        case BrokenPipeError():
            return "nobody reads the output any more"
        case UnicodeEncodeError() if error.encoding == sys.getfilesystemencoding() != "utf-8":
            lacking = ascii(error.object[error.start : error.end])
            return f"the locale's encoding, {error.encoding}, lacks {lacking}: set PYTHONUTF8=1"
        case MemoryError():
            return f"not enough memory: {error}".rstrip(": ")
        case RuntimeError() | ImportError() | OSError() if any(w in str(error) for w in _NO_MEMORY):
            return f"not enough memory: {str(error).splitlines()[0]}"
        case OSError():
            return f"{reason(error)}: {error.filename}" if error.filename else reason(error)
    return None


def _end(line: str, code: int) -> int:
    """Say one line, whatever the streams are worth by now."""
    _flush(sys.stdout)
    try:
        print(f"sympformer: {visible(' '.join(line.splitlines()))}", file=sys.stderr, flush=True)
    except OSError:
        _drop(sys.stderr)
    return code


def _flush(stream: TextIO) -> None:
    try:
        stream.flush()
    except (OSError, ValueError):
        _drop(stream)


def _drop(stream: TextIO) -> None:
    """Let a stream end in nothing, or Python would try once more and end with a code of its own."""
    with suppress(OSError, ValueError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)


if __name__ == "__main__":
    sys.exit(main())
