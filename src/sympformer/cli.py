"""The command line: parses, calls, prints."""

import os
import sys
from pathlib import Path
from typing import Any

import tyro

from sympformer.commands import COMMANDS
from sympformer.commands.lab import experiments
from sympformer.commands.study import Compare
from sympformer.errors import InputError


def main(arguments: list[str] | None = None) -> int:
    """Run a command; return its exit code: 0 done, 2 wrong usage or input, 1 a defect or a leak."""
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        if arguments[:1] == ["lab"]:
            return _parse(experiments(), "sympformer lab", arguments[1:])
        if arguments[:1] == ["compare"] and (file := _config_file(arguments)) is not None:
            return tyro.cli(
                Compare, prog="sympformer compare", default=Compare.load(file), args=arguments[1:]
            ).run()
        return _parse(COMMANDS, "sympformer", arguments).run()
    except InputError as error:
        print(f"sympformer: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # the reader, `head` say, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        print("sympformer: interrupted; a run continues from its last checkpoint", file=sys.stderr)
        return 130


def _parse(commands: dict[str, Any], program: str, arguments: list[str]) -> Any:
    return tyro.extras.subcommand_cli_from_dict(
        commands,
        prog=program,
        description="Transformers whose layers are steps of an accelerated flow.",
        args=arguments,
    )


def _config_file(arguments: list[str]) -> Path | None:
    """The file named by --config, whose values become the defaults of the other options."""
    for i, argument in enumerate(arguments):
        name, _, value = argument.partition("=")
        if name == "--config":
            return Path(value or "".join(arguments[i + 1 : i + 2]))
    return None


if __name__ == "__main__":
    sys.exit(main())
