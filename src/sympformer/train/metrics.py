"""The log of a run: a line of JSON for each update and evaluation, and the digest of them all."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sympformer.errors import InputError
from sympformer.files import atomic, reason, sync_file
from sympformer.train.records import corrupt, parse, read


class MetricsLog:
    """The lines in a file, of which a state says how many bytes count, and their digest."""

    def __init__(self, path: Path):
        self.path = path
        self._digest, self._bytes = hashlib.sha256(), 0

    @property
    def kept(self) -> dict[str, Any]:
        """What a state has to say of the lines so far."""
        return {"bytes": self._bytes, "sha256": self._digest.hexdigest()}

    def sync(self) -> None:
        """Make sure that the lines are on disk."""
        sync_file(self.path)

    def record(self, row: dict[str, Any]) -> None:
        """Append a line.

        Raises:
            InputError: it cannot be written.
        """
        line = (json.dumps(row) + "\n").encode()
        try:
            with open(self.path, "ab") as stream:
                stream.write(line)
        except OSError as error:
            raise InputError(f"cannot write {self.path}: {reason(error)}") from None
        self._digest.update(line)
        self._bytes += len(line)

    def keep(self, kept: Mapping[str, Any] | None) -> None:
        """Drop the lines that no state counts; all of them if `kept`, what it says, is None.

        Raises:
            InputError: the lines that count are damaged; the message names the first.
        """
        content = self._counted(kept) if kept else b""
        self._digest, self._bytes = hashlib.sha256(content), len(content)
        if not kept or self.path.stat().st_size != len(content):
            with atomic(self.path) as partial:
                partial.write_bytes(content)

    def rows(self, kept: Mapping[str, Any] | None) -> list[dict[str, Any]]:
        """The rows that count, verified; all that are there if `kept` is None.

        Raises:
            InputError: missing or damaged; the line is named.
        """
        folder, rows = self.path.parent, []
        content = self._counted(kept) if kept is not None else read(self.path)
        for number, line in enumerate(content.splitlines(), 1):
            row = parse(folder, f"line {number} of {self.path.name}", line)
            if not isinstance(row, dict):
                raise corrupt(folder, f"line {number} of {self.path.name} is no table")
            rows.append(row)
        return rows

    def _counted(self, kept: Mapping[str, Any]) -> bytes:
        """The lines that count, verified."""
        name = self.path.name
        content = read(self.path)[: kept["bytes"]]
        if hashlib.sha256(content).hexdigest() == kept["sha256"]:
            return content
        what = f"{name} is not what was recorded"
        for number, line in enumerate(content.splitlines(), 1):
            try:
                json.loads(line)
            except ValueError:
                what = f"line {number} of {name} is damaged"
                break
        raise corrupt(self.path.parent, what, "restore the file, or train this run again")
