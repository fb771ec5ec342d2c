"""One check of types for every option, wherever it comes from: TOML, the command line, Python."""

import dataclasses
import math
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from sympformer.errors import InputError, lookup

_NAMES: dict[Any, str] = {
    int: "a whole number",
    float: "a finite number",
    bool: "true or false",
    str: "text",
    Path: "a path",
    type(None): "nothing",
}


def check_fields(instance: Any) -> None:
    """Check every field of a dataclass against its annotation.

    Raises:
        InputError: a value of another type; the message names the field and what it may be.
    """
    kinds = get_type_hints(type(instance))
    for field in dataclasses.fields(instance):
        check(field.name, getattr(instance, field.name), kinds[field.name])


def check(name: str, value: Any, kind: Any) -> None:
    """Check one value: numbers are finite, truth values are no numbers, a Literal is one of its.

    Raises:
        InputError: it is of another type than `kind`.
    """
    if get_origin(kind) is Literal and isinstance(value, str):
        lookup(dict.fromkeys(get_args(kind)), value, name)
    elif not _fits(value, kind):
        raise InputError(f"{name} must be {describe(kind)}, not {value!r}")


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
        return type(value) in (int, float) and math.isfinite(value)
    if kind is int:
        return type(value) is int
    return isinstance(value, kind)
