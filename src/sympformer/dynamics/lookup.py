"""One way to look a name up in a table, with a helpful refusal."""

from collections.abc import Mapping
from difflib import get_close_matches
from typing import TypeVar

from sympformer.errors import InputError

T = TypeVar("T")


def lookup(table: Mapping[str, T], name: str, what: str) -> T:
    """Return `table[name]`; raise InputError naming the nearest entry if there is none."""
    if name in table:
        return table[name]
    near = get_close_matches(str(name), table, n=1, cutoff=0.0)[0]
    raise InputError(f"unknown {what} {name!r}: did you mean {near!r}? (one of {', '.join(table)})")
