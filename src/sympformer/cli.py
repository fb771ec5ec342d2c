"""The command line: parses, calls, prints."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import tyro

from sympformer.commands import COMMANDS, Compare, Flat
from sympformer.errors import InputError


def main(arguments: list[str] | None = None) -> int:
    """Run a command; return its exit code: 0 done, 2 wrong usage or input, 1 a defect or a leak."""
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        if arguments[:1] == ["lab"]:
            return _parse(_experiments(), "sympformer lab", arguments[1:])
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


def _experiments() -> dict[str, Callable[..., int]]:
    """The particle lab's commands, made from its table."""
    from sympformer.lab import EXPERIMENTS, perform

    def command(name: str) -> Callable[..., int]:
        experiment = EXPERIMENTS[name]

        def run(
            config: Annotated[Any, Flat],
            out: Path = Path("runs/lab"),
            animate: bool = False,
        ) -> int:
            result = perform(name, config, out, animate)
            for key, value in result.numbers.items():
                print(f"{key}: {value:.4g}")
            for claim in result.claims:
                print(claim)
            print(f"written: {out / name}.npz, .json, .png, .svg" + (", .gif" if animate else ""))
            return 0 if all(claim.holds for claim in result.claims) else 1

        run.__annotations__["config"] = Annotated[experiment.config, Flat]
        run.__doc__ = f"""{experiment.help[0].upper()}{experiment.help[1:]}.

        Args:
            out: Folder for data, figure and measured claims.
            animate: Also write an animation.
        """
        return run

    return {name: command(name) for name in EXPERIMENTS}


if __name__ == "__main__":
    sys.exit(main())
