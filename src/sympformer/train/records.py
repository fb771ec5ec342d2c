"""Plain files of a run: JSON with a digest, and what is said where one is damaged."""

import hashlib
import json
from pathlib import Path
from typing import Any

from sympformer.errors import InputError
from sympformer.files import atomic, read_bytes, reason


def corrupt(folder: Path, what: object, remedy: str = "train this run again") -> InputError:
    """The error to raise where a file of the run does not hold what it should."""
    return InputError(f"{folder} is corrupt ({what}): {remedy}")


def signed(values: dict[str, Any]) -> dict[str, Any]:
    """Plain values and, under `sha256`, the digest of the others."""
    own = {name: value for name, value in values.items() if name != "sha256"}
    text = json.dumps(own, sort_keys=True)
    return {**own, "sha256": hashlib.sha256(text.encode()).hexdigest()}


def write_json(path: Path, value: Any) -> None:
    """Write a file in one step.

    Raises:
        InputError: it cannot be written.
    """
    with atomic(path) as partial:
        partial.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def read(path: Path) -> bytes:
    """The content of a file that a run must have.

    Raises:
        InputError: it cannot be read.
    """
    try:
        return read_bytes(path)
    except OSError as error:
        what = f"{path.name}: {reason(error)}"
        raise corrupt(path.parent, what, "restore it, or train again") from None


def parse(folder: Path, name: str, text: bytes) -> Any:
    """What JSON in `folder` says; `name` tells where it stands.

    Raises:
        InputError: it is no JSON.
    """
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise corrupt(folder, f"{name}: {error}") from None


def read_signed(path: Path, remedy: str) -> dict[str, Any]:
    """What was written `signed`, verified, without its digest.

    Raises:
        InputError: missing or damaged; it says the remedy.
    """
    try:
        values = parse(path.parent, path.name, read(path))
    except InputError as error:
        raise InputError(f"{error}, or {remedy}") from None
    if not isinstance(values, dict) or signed(values) != values:
        what = f"{path.name} does not have the digest that was stored in it"
        raise corrupt(path.parent, what, f"restore it, or {remedy}")
    return {name: value for name, value in values.items() if name != "sha256"}
