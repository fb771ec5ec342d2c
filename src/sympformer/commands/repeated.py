"""Options of several values, given several times."""

import dataclasses
from collections.abc import Iterator
from typing import Any, get_args, get_origin, get_type_hints

from tyro.conf import UseAppendAction

from sympformer.commands.options import Flat


def gathered(command: Any, arguments: list[str]) -> list[str]:
    """The arguments of a command with all values of an option where it comes first.

    The parser by itself would keep those of its last place only.
    """
    lists = set(_lists(command))
    parts: list[list[str]] = [[]]
    places: dict[str, list[str]] = {}
    for argument in arguments:
        flag, equals, value = argument.partition("=")
        flag = flag.replace("_", "-")
        if not argument.startswith("--"):
            parts[-1].append(argument)
        elif flag not in lists:
            parts.append([argument])
        else:
            # What follows is added to `parts[-1]`: a place that is known comes to the end.
            place = places.setdefault(flag, [flag])
            parts = [part for part in parts if part is not place]
            parts.append(place)
            place += [value] if equals else []
    return [argument for part in parts for argument in part]


def _lists(command: Any) -> Iterator[str]:
    """The options `--name` of a command, a dataclass or a function, that take any number of values.

    An option that takes one value at a time is left to the parser, which then gathers them itself.
    """
    for name, hint in get_type_hints(command, include_extras=True).items():
        kind, *extras = get_args(hint) if hasattr(hint, "__metadata__") else (hint,)
        if Flat in extras and dataclasses.is_dataclass(kind):
            yield from _lists(kind)
        elif (
            get_origin(kind) is tuple
            and get_args(kind)[-1] is ...
            and UseAppendAction not in extras
        ):
            yield "--" + name.replace("_", "-")
