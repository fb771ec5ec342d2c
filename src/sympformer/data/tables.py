"""Documents in a field of records: JSON lines and Parquet tables."""

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from sympformer.data import plain
from sympformer.data.plain import decoded, too_long
from sympformer.errors import InputError, shown
from sympformer.optional import require

_ROWS = 16
_BUFFER = 1 << 20


def json_documents(path: Path, field: str, advance: Callable[[int], None]) -> Iterator[str]:
    """The text in `field` of every line, each a JSON object; null and blank texts are left out.

    `advance` is called with the number of bytes read.

    Raises:
        InputError: a line is no object, or has no text there; it is numbered.
    """
    for number, line in enumerate(_lines(path, advance), 1):
        if line.isspace() or not line:
            continue
        where = f"line {number:,} of {path}"
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise InputError(f"{where} is no JSON: {error}") from None
        if not isinstance(record, dict):
            raise InputError(f"{where} is no JSON object: documents stand in a field of one")
        yield from text_in(record, field, where)


def parquet_documents(path: Path, field: str, advance: Callable[[int], None]) -> Iterator[str]:
    """The text in column `field` of every row; null and blank texts are left out.

    `advance` is called with the number of bytes read, as far as rows tell.

    Raises:
        InputError: pyarrow is missing, the file is damaged, or has no such column of text.
    """
    parquet = require("pyarrow.parquet", "parquet", "a .parquet file")
    damaged = require("pyarrow", "parquet", "a .parquet file").ArrowException
    try:
        # With a buffer, a column is read page by page, and not a group of a million rows at once.
        with parquet.ParquetFile(path, buffer_size=_BUFFER, pre_buffer=False) as table:
            names, rows = table.schema_arrow.names, max(1, table.metadata.num_rows)
            if field not in names:
                raise _no_field(str(path), field, names)
            share, read, given = path.stat().st_size / rows, 0, 0
            for batch in table.iter_batches(batch_size=_ROWS, columns=[field]):
                for value in batch.column(0).to_pylist():
                    read += 1
                    yield from text_in({field: value}, field, f"row {read:,} of {path}")
                advance(int(read * share) - given)
                given = int(read * share)
    except (OSError, UnicodeDecodeError, damaged) as error:
        raise InputError(f"cannot read {path}: {' '.join(str(error).split())}") from None


def text_in(record: Mapping[str, Any], field: str, where: str) -> Iterator[str]:
    """The text of one record, line ends unified; nothing if it is null or blank.

    Raises:
        InputError: there is no such field, or it holds something else.
    """
    if field not in record:
        raise _no_field(where, field, record)
    text = record[field]
    if text is None:
        return
    if not isinstance(text, str):
        raise InputError(f"{field} in {where} is no text but {shown(text)}: choose another --field")
    if len(text) > plain.LONGEST:
        raise too_long(Path(where), "cut it in several records")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError(f"{field} in {where} is no text: {error.reason}") from None
    if text and not text.isspace():
        yield text.replace("\r\n", "\n").replace("\r", "\n") if "\r" in text else text


def _lines(path: Path, advance: Callable[[int], None]) -> Iterator[str]:
    line: list[str] = []
    length = 0
    for text in decoded(path, advance):
        first, *others = text.split("\n")
        line.append(first)
        length += len(first)
        for following in others:
            yield "".join(line)
            line, length = [following], len(following)
        if length > plain.LONGEST:
            raise too_long(path, "cut it in several records")
    yield "".join(line)


def _no_field(where: str, field: str, names: Any) -> InputError:
    return InputError(
        f"{where} has no field {shown(field)}, but {', '.join(map(str, names)) or 'none'}: choose "
        "with --field"
    )
