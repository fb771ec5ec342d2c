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
from typing import Any

from sympformer.errors import InputError, one_line
from sympformer.typed import check

_imported: dict[str, str] = {}
_given: set[str] = set()
"""What was asked for in this process, rather than by a run."""


def imported() -> dict[str, str]:
    """What was imported so far, files by their path and modules by name, each with its SHA-256."""
    return dict(_imported)


def import_from(name: str) -> ModuleType:
    """Import a file (`FILE.py`) or a module, and remember it; a file may import its neighbours.

    Raises:
        InputError: there is none, or it raises; the line of the file is named.
    """
    before = set(_imported)
    module = _import(name)
    _given.update((_key(name), *(set(_imported) - before)))
    return module


def _key(name: str) -> str:
    return str(Path(name).resolve()) if Path(name).suffix == ".py" else name


def _import(name: str) -> ModuleType:
    """Import a file or a module, and remember it with its neighbours that it imports."""
    path, before = Path(name), set(sys.modules)
    if path.suffix == ".py":
        if not path.is_file():
            raise InputError(f"{name} does not exist")
        module = _neighbour(path) or import_file(path)
    else:
        try:
            module = importlib.import_module(name)
        except (Exception, SystemExit) as error:  # whatever the user's code raises
            raise InputError(f"module {name!r} cannot be imported: {one_line(error)}") from error
    _imported[_key(name)] = _digest(module)
    for other in sorted(set(sys.modules) - before):
        if other != module.__name__ and (file := _beside(module, sys.modules[other])):
            _imported.setdefault(file, _digest(sys.modules[other]))
    return module


def _neighbour(path: Path) -> ModuleType | None:
    """The module that a file is already, for another has imported it."""
    place = str(path.resolve())
    if place not in _imported:
        return None
    loaded = list(sys.modules.values())
    return next((m for m in loaded if getattr(m, "__file__", None) == place), None)


def _beside(module: ModuleType, other: ModuleType) -> str | None:
    """The file of `other`, if it is source in the folder of `module` or below."""
    mine, file = getattr(module, "__file__", None), getattr(other, "__file__", None)
    if not mine or not file or Path(file).suffix != ".py":
        return None
    place = Path(file).resolve()
    installed = {"site-packages", "dist-packages"} & set(place.parts)
    return str(place) if Path(mine).resolve().parent in place.parents and not installed else None


def import_again(needed: Mapping[str, str], who: str) -> None:
    """Import what `who` was made with; what is imported already, from any place, is enough.

    What has changed is refused, unless it was asked for in this process (`--import`): then it is
    taken as it is, and said so on standard error.

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
            found = _digest(_import(name))
        if found == digest:
            continue
        digests = f"(SHA-256 {digest[:12]} then, {found[:12]} now)"
        if _key(name) not in _given:
            raise InputError(
                f"{name} has changed since {who} was made {digests}: restore it, or name a copy of "
                "what it was with --import; --import of the file itself takes it as it is now"
            )
        said = f"{name} has changed since {who} was made {digests}, and is taken as it is now"
        print(f"sympformer: {said}", file=sys.stderr)
    for name, digest in needed.items():
        if _key(name) not in _imported and digest not in _imported.values():
            _import(name)


def import_listed(listed: Any, who: str) -> None:
    """Import what a file lists as its imports: names, or names with their digests.

    Raises:
        InputError: neither, or what `import_from` and `import_again` refuse.
    """
    if isinstance(listed, list):
        for name in listed:
            check(f"a name in the imports of {who}", name, str)
            import_from(name)
        return
    check("imports", listed, Mapping[str, Any])
    import_again(listed, who)


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
