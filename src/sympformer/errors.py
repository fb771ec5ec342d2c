"""Errors that a user can mend, and the tables of names in which most of them arise."""

import re
from collections.abc import Mapping, MutableMapping
from difflib import get_close_matches
from textwrap import shorten
from typing import TypeVar

T = TypeVar("T")


class InputError(ValueError):
    """Wrong usage or input; the message is one line that says what to change (exit code 2)."""


class Stopped(Exception):  # noqa: N818 - nothing is wrong
    """The work ended early because it was asked to, and is saved; the message says how to go on."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code
        """The exit code of a program that ends so."""


class Ended(Exception):  # noqa: N818 - it is said elsewhere what is wrong
    """Another process of the same run has ended, and has said why: this one ends in silence."""

    def __init__(self, code: int) -> None:
        super().__init__(f"another process has ended with code {code}")
        self.code = code
        """The exit code of a program that ends so."""


def one_line(error: BaseException) -> str:
    """An exception in one line that is not too long."""
    return shorten(f"{type(error).__name__}: {error}", 120, placeholder=" ...")


def shown(value: object) -> str:
    """A value as a message shows it: not longer than a line."""
    if isinstance(value, int) and abs(value) >= 1 << 64:  # Python refuses to write out many digits
        return f"a whole number of {value.bit_length()} bits"
    text = repr(value)
    return text if len(text) <= 60 else text[:56] + " ..."


def lookup(table: Mapping[str, T], name: str, what: str) -> T:
    """Return `table[name]`; raise InputError naming the nearest entry if there is none."""
    if not isinstance(name, str):  # a list or a number, where TOML should have a name
        raise InputError(f"{what} must be text, not {shown(name)}")
    if name in table:
        return table[name]
    close = get_close_matches(name, table, n=1, cutoff=0.5)
    hint = f"did you mean {close[0]!r}?" if close else f"choose from {', '.join(table)}"
    raise InputError(f"unknown {what} {shown(name)}: {hint}")


def enter(table: MutableMapping[str, T], name: str, entry: T, what: str) -> None:
    """Set `table[name]`; the same class or function may come again, as when a file is read twice.

    Raises:
        InputError: the name is no word, or stands for something else.
    """
    # Folders of runs are called by it, and options name it.
    if not isinstance(name, str) or not re.fullmatch(r"\w[\w.+-]*", name):
        raise InputError(
            f"a {what} needs a name of letters, digits, '-', '_', '.' and '+', not {shown(name)}"
        )
    known = table.get(name, entry)
    if known != entry and _origin(known) != _origin(entry):
        raise InputError(f"there is a {what} {name!r} already: choose another name")
    table[name] = entry


def _origin(entry: object) -> object:
    """Where a class or function is written; anything else is itself."""
    place = getattr(entry, "__module__", None), getattr(entry, "__qualname__", None)
    return id(entry) if None in place else place
