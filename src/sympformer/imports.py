"""A user's own Python files and modules: what they register can then be used by name.

What was imported is remembered with its digest, so that a run can say what it needs, and have it
again.
"""

import hashlib
import importlib
import importlib.util
import sys
import traceback
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

from sympformer.errors import InputError, one_line
from sympformer.typed import check

_imported: dict[str, str] = {}


def imported() -> dict[str, str]:
    """What was imported so far, files by their path and modules by name, each with its SHA-256."""
    return dict(_imported)


def import_from(name: str) -> ModuleType:
    """Import a file (`FILE.py`) or a module, and remember it; a file may import its neighbours.

    Raises:
        InputError: there is none, or it raises; the line of the file is named.
    """
    path = Path(name)
    if path.suffix == ".py":
        if not path.is_file():
            raise InputError(f"{name} does not exist")
        module, key = import_file(path), str(path.resolve())
    else:
        try:
            module, key = importlib.import_module(name), name
        except (Exception, SystemExit) as error:  # whatever the user's code raises
            raise InputError(f"module {name!r} cannot be imported: {one_line(error)}") from error
    _imported[key] = _digest(module)
    return module


def import_again(needed: Mapping[str, str], who: str) -> None:
    """Import what `who` was made with; what is imported already, from any place, is enough.

    Raises:
        InputError: something of it is gone, or has changed since.
    """
    for name, digest in needed.items():
        check(f"the digest of {name}", digest, str)
        if digest and digest in _imported.values():  # from wherever: a run may have been moved
            continue
        path = Path(name)
        if path.suffix == ".py" and path.is_file():  # what has changed is not run
            found = hashlib.sha256(path.read_bytes()).hexdigest()
        else:
            found = _digest(import_from(name))
        if found != digest:
            raise InputError(
                f"{name} has changed since {who} was made (SHA-256 {digest[:12]} then, "
                f"{found[:12]} now): restore it, or name a copy of what it was with --import"
            )
        import_from(name)


def import_file(path: Path) -> ModuleType:
    """Run a file as a module of its own, once in a process.

    Raises:
        InputError: an exception from the file, with its line.
    """
    place = str(path.resolve())
    name = f"sympformer_user_{hashlib.sha256(place.encode()).hexdigest()[:12]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise InputError(f"{path} cannot be imported")
    module = importlib.util.module_from_spec(spec)
    if (folder := str(path.parent.resolve())) not in sys.path:
        sys.path.insert(0, folder)
    sys.modules[name] = module  # dataclasses look their module up
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # whatever the user's code raises
        del sys.modules[name]
        raise InputError(where(path, error)) from error
    return module


def where(path: Path, error: BaseException) -> str:
    """The exception, and the last line of the file that led to it."""
    if isinstance(error, SyntaxError) and error.lineno:
        return f"line {error.lineno} of {path}: {one_line(error)}"
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if Path(frame.filename).resolve() == path.resolve()]
    place = f"line {lines[-1]} of {path}" if lines else str(path)
    return f"{place}: {one_line(error)}"


def _digest(module: ModuleType) -> str:
    file = getattr(module, "__file__", None)
    return hashlib.sha256(Path(file).read_bytes()).hexdigest() if file else ""
