"""One check of types for every option, wherever it comes from: TOML, the command line, Python."""

import dataclasses
import math
import tomllib
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from sympformer.errors import InputError, lookup, one_line, shown
from sympformer.files import read_bytes, reason

T = TypeVar("T")

_NAMES: dict[Any, str] = {
    int: "a whole number (below 2^63)",
    float: "a finite number",
    bool: "true or false",
    str: "text",
    Path: "a path",
    type(None): "nothing",
}


def check_fields(instance: Any) -> None:
    """Check every field of a dataclass against its annotation; see `check`.

    Raises:
        InputError: a value of another type; the message names the field and what it may be.
    """
    kinds = get_type_hints(type(instance))
    for field in dataclasses.fields(instance):
        value = check(field.name, getattr(instance, field.name), kinds[field.name])
        object.__setattr__(instance, field.name, value)


def read_toml(path: Path) -> dict[str, Any]:
    """The tables of a TOML file.

    Raises:
        InputError: it cannot be read, or is no TOML.
    """
    try:
        return tomllib.loads(read_bytes(path).decode())
    except OSError as error:
        raise InputError(f"cannot read {path}: {reason(error)}") from None
    except (ValueError, RecursionError) as error:  # no UTF-8, no TOML, or tables without end
        raise InputError(f"{path} is no TOML: {one_line(error)}") from None


def from_table(cls: type[T], name: str, table: Any) -> T:
    """Build a dataclass, which checks its own fields, from a table called `name`.

    Lists become tuples: TOML has none.

    Raises:
        InputError: no table, an unknown or missing option, or a value that the class refuses.
    """
    if not isinstance(table, Mapping):
        raise InputError(f"{name} must be a table, not {shown(table)}")
    known = {field.name: field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    for option in table:
        lookup(known, option, f"option in {name}")
    missing = [option for option, field in known.items() if option not in table and _needed(field)]
    if missing:
        raise InputError(f"{name} lacks {', '.join(missing)}")
    return cls(**{option: _without_lists(value) for option, value in table.items()})


def check(name: str, value: Any, kind: Any) -> Any:
    """Check one value: numbers are finite, truth values are no numbers, a Literal is one of its.

    Returns:
        The value; a whole number as a float where that is its type, for libraries tell them apart.

    Raises:
        InputError: it is of another type than `kind`.
    """
    if get_origin(kind) is Literal and isinstance(value, str):
        lookup(dict.fromkeys(get_args(kind)), value, name)
    elif not _fits(value, kind):
        raise InputError(f"{name} must be {describe(kind)}, not {shown(value)}")
    return _converted(value, kind)


def describe(kind: Any) -> str:
    """What a value of this type is, in words."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Literal:
        return "one of " + ", ".join(map(repr, arguments))
    if origin in (Union, types.UnionType):
        return " or ".join(map(describe, arguments))
    if origin is tuple:
        if arguments[-1:] == (...,):
            return f"a list, each {describe(arguments[0])}"
        return f"a list of {len(arguments)}: " + ", ".join(map(describe, arguments))
    if origin is not None and issubclass(origin, Mapping):
        return "a table"
    return _NAMES.get(kind, getattr(kind, "__name__", str(kind)))


def _fits(value: Any, kind: Any) -> bool:
    origin, arguments = get_origin(kind), get_args(kind)
    if kind is Any:
        return True
    if origin is Literal:
        return any(value == a and type(value) is type(a) for a in arguments)
    if origin in (Union, types.UnionType):
        return any(_fits(value, option) for option in arguments)
    if origin is tuple:
        if not isinstance(value, tuple):
            return False
        if arguments[-1:] == (...,):
            return all(_fits(item, arguments[0]) for item in value)
        pairs = zip(value, arguments, strict=False)
        return len(value) == len(arguments) and all(_fits(*pair) for pair in pairs)
    if origin is not None:
        return isinstance(value, origin)
    if kind is float:
        return _fits(value, int) or (type(value) is float and math.isfinite(value))
    if kind is int:  # what TOML, torch and NumPy can hold
        return type(value) is int and -(2**63) <= value < 2**63
    if kind is str:
        return isinstance(value, str) and "\0" not in value  # no name of a file holds one
    return isinstance(value, kind)


def _converted(value: Any, kind: Any) -> Any:
    origin, arguments = get_origin(kind), get_args(kind)
    if kind is float:
        return float(value)
    if origin in (Union, types.UnionType):
        return _converted(value, next(option for option in arguments if _fits(value, option)))
    if origin is tuple:
        kinds = arguments[:1] * len(value) if arguments[-1:] == (...,) else arguments
        return tuple(map(_converted, value, kinds))
    return value


def _needed(field: "dataclasses.Field[Any]") -> bool:
    missing = dataclasses.MISSING
    return field.default is missing and field.default_factory is missing


def _without_lists(value: Any) -> Any:
    return tuple(map(_without_lists, value)) if isinstance(value, list) else value
