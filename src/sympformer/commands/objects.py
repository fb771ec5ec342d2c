"""Objects out of a user's own Python file, `FILE.py:NAME`."""

import inspect
from pathlib import Path
from typing import Any

from torch import nn

from sympformer.errors import InputError, lookup
from sympformer.imports import import_file, where


def names_object(target: str) -> bool:
    """Whether a target is `FILE.py:NAME`."""
    return Path(target.rpartition(":")[0]).suffix == ".py"


def load_object(target: str) -> Any:
    """What `NAME` in `FILE.py` makes: the result, if it can be called without arguments, else it.

    A module of torch is taken as it is. The file may import its neighbours.

    Raises:
        InputError: no such file or name, or an exception from the file, with its line.
    """
    file, _, name = target.rpartition(":")
    path = Path(file)
    if not path.is_file():
        raise InputError(f"{file} does not exist")
    names = {n: made for n, made in vars(import_file(path)).items() if not n.startswith("__")}
    if not name:
        raise InputError(
            f"say what to audit in {file}: {file}:NAME, e.g. one of {', '.join(names)}"
        )
    made = lookup(names, name, f"name in {file}")
    if isinstance(made, nn.Module) or not _without_arguments(made):
        return made
    try:
        return made()
    except (Exception, SystemExit) as error:  # whatever the user's code raises
        raise InputError(where(path, error)) from error


def _without_arguments(made: Any) -> bool:
    if not callable(made):
        return False
    try:
        inspect.signature(made).bind()
    except (TypeError, ValueError):
        return False
    return True
