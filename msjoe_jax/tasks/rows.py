"""Rows of annotation and prediction files: of JSON, JSON lines, CSV, TSV and parquet.

The form is told by the name's ending; a JSON file may also hold JSON lines. A folder is all files
of these forms in it, by name, as benchmarks come in parts. What is no object is a row too, so that
rows can be counted.
"""

import csv
import io
import json
import math
import sys
from collections.abc import Iterator
from typing import Any, NamedTuple

from etils import epath

from msjoe_jax.errors import UserError

LINES, TABLES = (".jsonl", ".ndjson"), {".csv": ",", ".tsv": "\t"}
# Names that tools give to the list of rows beside others, the first that is there counts.
LISTS = ("results", "res_list", "logs", "samples", "predictions", "data", "annotations")
NESTED = {"questions": "video_id", "qa": "key"}  # a list within a row, and a field of that row
FORMS = (".json", *LINES, *TABLES, ".parquet")


class Row(NamedTuple):
    """A row of a file.

    place: file and row, for people; number: the row's, from 0; values: by field; fault: why it is
    no row of values, or "".
    """

    place: str
    number: int
    values: dict[str, Any]
    fault: str = ""


def read_rows(path: epath.PathLike) -> list[Row]:
    """Reads the rows of a file, or of the files of a folder.

    Values that are not there (null, NaN) are left out.

    Raises:
      UserError: the file cannot be read, is damaged as a whole or of another form.
    """
    path = epath.Path(path)
    files = [path]
    if path.is_dir():
        files = sorted(p for p in path.iterdir() if p.suffix.lower() in FORMS)
        if not files:
            raise UserError(f"{path}: no file in it ends in {', '.join(FORMS)}")
    rows = []
    for number, (place, value) in enumerate(found for file in files for found in _found(file)):
        if isinstance(value, dict):
            values = {str(k): v for k, v in value.items() if not _missing(v)}
            rows.append(Row(place, number, values))
        else:
            rows.append(Row(place, number, {}, value or "not a JSON object"))
    return rows


def _missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


Found = Iterator[tuple[str, dict[str, Any] | str | None]]


def _found(path: epath.Path) -> Found:
    form = path.suffix.lower()
    try:
        data = path.read_bytes()
    except OSError as error:
        message = f"{path}: cannot be read ({error.strerror or error}); check the path"
        raise UserError(message) from None
    if form not in FORMS:
        raise UserError(f"{path}: none of the forms {', '.join(FORMS)}, which its name must end in")
    if form == ".parquet":
        return _parquet_rows(path, data)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise UserError(f"{path}: not UTF-8 text; save it as UTF-8") from None
    if form in TABLES:
        return _table_rows(path, text, TABLES[form])
    return _line_rows(path, text) if form in LINES else _json_rows(path, text)


def _line_rows(path: epath.Path, text: str) -> Found:
    # Not splitlines: JSON strings may hold U+2028 and other separators as they are.
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                value = json.loads(line)
            except (ValueError, RecursionError) as error:
                yield f"{path}:{number}", f"not JSON ({error})"
            else:
                yield f"{path}:{number}", value if isinstance(value, dict) else None


def _json_rows(path: epath.Path, text: str) -> Found:
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        lines = [line for line in text.split("\n") if line.strip()]
        if len(lines) > 1 and _is_object(lines[0]) and _is_object(lines[1]):
            yield from _line_rows(path, text)
            return
        raise UserError(f"{path}: not JSON ({error})") from None
    try:
        for place, row in _listed(content):
            yield f"{path}: {place}", row if isinstance(row, dict) else None
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def _is_object(line: str) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def _listed(content: Any) -> Iterator[tuple[str, Any]]:
    """Yields the rows of a JSON value: of a list, of a list in an object, or of an object.

    The list in an object has a name of `LISTS`, or is the only one of objects. Objects by name
    ({"id": {…}}) are rows with their name as `id`; texts and numbers by name ({"id": "B"}) are rows
    of `id` and `reply`.
    """
    if isinstance(content, dict):
        lists = {name: value for name, value in content.items() if _holds_rows(value)}
        named = [name for name in LISTS if name in lists] or list(lists)
        if any(inner in lists and video in content for inner, video in NESTED.items()):
            content = [content]
        elif named and (len(named) == 1 or named[0] in LISTS):
            content = lists[named[0]]
        elif named:
            raise UserError(f"rows in several lists ({', '.join(named)}); keep one of them")
        elif content and all(isinstance(value, dict) for value in content.values()):
            for name, value in content.items():
                yield repr(name), {"id": name, **value}
            return
        elif all(isinstance(value, str | int | float | None) for value in content.values()):
            for name, value in content.items():
                yield repr(name), {"id": name, "reply": value}
            return
        else:
            content = [content]
    for number, row in enumerate(content if isinstance(content, list) else [content], 1):
        yield f"row {number}", row


def _holds_rows(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(row, dict) for row in value)


def _table_rows(path: epath.Path, text: str, delimiter: str) -> Found:
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    try:
        names, *table = _cells(text, delimiter) or [[]]
    except csv.Error as error:
        raise UserError(f"{path}: no table ({error})") from None
    for number, cells in enumerate(table, 1):
        if len(cells) != len(names):
            yield f"{path}: row {number}", f"{len(cells)} cells under {len(names)} names"
        else:
            yield f"{path}: row {number}", dict(zip(names, cells, strict=True))


def _cells(text: str, delimiter: str) -> list[list[str]]:
    """Returns the cells of a table's lines.

    Quotes around cells are taken away. Where they are not paired as they should be (TSPO's tables
    are written without quoting: a cell may begin with a quotation) they may be part of the cells:
    the reading counts that leaves more rows as wide as the first.
    """

    def read(**how: Any) -> list[list[str]]:
        lines = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, **how)
        return [cells for cells in lines if cells]

    try:
        return read(strict=True)
    except csv.Error:
        ways = [read(quoting=csv.QUOTE_NONE), read()]
    return max(ways, key=lambda table: sum(len(cells) == len(table[0]) for cells in table))


def _parquet_rows(path: epath.Path, data: bytes) -> Found:
    try:
        from pyarrow import ArrowException, BufferReader, parquet
    except ImportError:
        raise UserError(f"{path}: reading parquet needs pyarrow: pip install pyarrow") from None
    try:
        table = parquet.read_table(BufferReader(data))
    except (ArrowException, OSError) as error:
        raise UserError(f"{path}: damaged parquet ({str(error).splitlines()[0]})") from None
    for number, row in enumerate(table.to_pylist(), 1):
        yield f"{path}: row {number}", row
