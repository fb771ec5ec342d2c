"""Errors that a user can mend."""

from collections.abc import Mapping
from difflib import get_close_matches
from textwrap import shorten
from typing import TypeVar

T = TypeVar("T")


class InputError(ValueError):
    """Wrong usage or input; the message is one line that says what to change (exit code 2)."""


def one_line(error: BaseException) -> str:
    """An exception in one line that is not too long."""
    return shorten(f"{type(error).__name__}: {error}", 120, placeholder=" ...")


def lookup(table: Mapping[str, T], name: str, what: str) -> T:
    """Return `table[name]`; raise InputError naming the nearest entry if there is none."""
    if name in table:
        return table[name]
    close = get_close_matches(str(name), table, n=1, cutoff=0.5)
    hint = f"did you mean {close[0]!r}?" if close else f"choose from {', '.join(table)}"
    raise InputError(f"unknown {what} {name!r}: {hint}")
