"""Objects out of a user's own Python file, `FILE.py:NAME`."""

import inspect
import sys
import traceback
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from sympformer.errors import InputError, lookup, one_line


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
    made = lookup(vars(_imported(path)), name, f"name in {file}")
    if isinstance(made, nn.Module) or not _without_arguments(made):
        return made
    try:
        return made()
    except Exception as error:  # whatever the user's code raises
        raise InputError(_place(path, error)) from error


def _imported(path: Path) -> ModuleType:
    name = f"sympformer_object_{path.stem}"  # which hides no module of the file's name
    spec = spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise InputError(f"{path} cannot be imported")
    module = module_from_spec(spec)
    sys.path.insert(0, str(path.parent.resolve()))
    sys.modules[name] = module  # dataclasses look their module up
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # whatever the user's code raises
        raise InputError(_place(path, error)) from error
    return module


def _without_arguments(made: Any) -> bool:
    if not callable(made):
        return False
    try:
        inspect.signature(made).bind()
    except (TypeError, ValueError):
        return False
    return True


def _place(path: Path, error: Exception) -> str:
    """The exception, and the last line of the file that led to it."""
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if Path(frame.filename).resolve() == path.resolve()]
    where = f"line {lines[-1]} of {path}" if lines else str(path)
    return f"{where}: {one_line(error)}"
