"""Files of an example a line, as text or as JSON."""

import json
from pathlib import Path
from typing import Any

from sympformer.errors import InputError
from sympformer.files import reason


def lines_of(path: Path) -> list[str]:
    """The lines of a file; other separators of Unicode, which JSON has inside of strings, end none.

    Raises:
        InputError: it cannot be read, or is not UTF-8 text.
    """
    try:
        return path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        why = reason(error) if isinstance(error, OSError) else "it is not UTF-8 text"
        raise InputError(f"cannot read {path}: {why}") from None


def json_lines(path: Path) -> list[tuple[int, dict[str, Any]]]:
    """The objects of a file, one a line, and the numbers of their lines; blank lines are none.

    Raises:
        InputError: it cannot be read, has none, or a line is no JSON object.
    """
    rows = []
    for number, line in enumerate(lines_of(path), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if not isinstance(row, dict):
            raise InputError(f"line {number} of {path} is no JSON object")
        rows.append((number, row))
    if not rows:
        raise InputError(f"{path} holds nothing")
    return rows
