"""Serialization of records: plain JSON values, and lines of CSV and NDJSON. Pure.

Phones are masked unless the caller passes `revealed=True`, and records the reveal before. CSV is for spreadsheets:
it begins with the mark of UTF-8, and no text in it is read as a formula, a number or a date, with any list
separator. Codes and ids are written as they are.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import re
from datetime import UTC, datetime
from enum import Enum
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Mapping, Sequence

Record = TypeVar("Record")

FORMATS = ("csv", "ndjson")
UTF8_MARK = "\ufeff"  # without it Excel takes the file for the encoding of its own country
_FORMULA = r"[=+\-@\uff1d\uff0b\uff0d\uff20]"  # how a formula begins, full-width signs too
# A spreadsheet would evaluate a text that begins so, or show digits rounded or as a date.
_NOT_AS_TEXT = re.compile(rf"\s*{_FORMULA}|[0-9][0-9.,:/eE+-]*\Z")
# Where the list separator is a semicolon or a tab, a cell begins after it, even inside quotes.
_CELL_INSIDE = re.compile(rf'([;\t])(?=["\s]*{_FORMULA})')
# Columns whose values have a form of their own, and those forms: a code, a UUID.
_TYPED_COLUMNS = frozenset({"id", "binding_id", "export_id", "provider_status"})
_TYPED_VALUE = re.compile(r"-?[0-9]{1,15}|[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def to_plain(value: Any, *, revealed: bool = False) -> Any:
    """Return a value in JSON types: instants as RFC 3339 in UTC, phones masked unless `revealed`."""
    from bindings.domain.phone import Phone

    if isinstance(value, Phone):
        return value.digits if revealed else str(value)
    if isinstance(value, list | tuple):
        return [to_plain(item, revealed=revealed) for item in value]
    if dataclasses.is_dataclass(value):
        value = fields(value)
    if isinstance(value, dict):
        return {str(key): to_plain(item, revealed=revealed) for key, item in value.items()}
    if isinstance(value, datetime):
        return instant(value)
    return value.value if isinstance(value, Enum) else value


def fields(record: Any) -> dict[str, Any]:
    """Return the values of a dataclass instance by name, not converted."""
    return {name: getattr(record, name) for name in field_names(record)}


def field_names(record: Any) -> list[str]:
    """Return the names of the fields of a dataclass or its instance, in order."""
    return [field.name for field in dataclasses.fields(record)]


def instant(at: datetime) -> str:
    """Return an aware instant as RFC 3339 in UTC, with Z."""
    return at.astimezone(UTC).isoformat().replace("+00:00", "Z")


def batches(records: Iterable[Record], size: int = 1_000) -> Generator[list[Record], None, None]:
    """Yield the records in lists of at most `size`, in their order."""
    batch: list[Record] = []
    for record in records:
        batch.append(record)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def format_lines(records: Iterable[Mapping[str, Any]], names: Sequence[str], kind: str) -> str:
    """Return plain records as lines of a format ("csv" or "ndjson")."""
    if kind == "ndjson":
        return "".join(json.dumps(record) + "\n" for record in records)
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows(
        [_cell(name, record[name]) for name in names] for record in records
    )
    return out.getvalue()


def header_line(names: Sequence[str], kind: str) -> str:
    """Return the start of a file of a format: the mark of UTF-8 and the header line; empty for NDJSON."""
    return "" if kind == "ndjson" else UTF8_MARK + format_lines([{name: name for name in names}], names, kind)


def _cell(column: str, value: Any) -> str:
    """Return a CSV cell; a text that a spreadsheet would not take as text begins with an apostrophe."""
    if value is None:
        return ""
    if not isinstance(value, str):
        return _CELL_INSIDE.sub(r"\1'", json.dumps(value))
    if column in _TYPED_COLUMNS and _TYPED_VALUE.fullmatch(value):
        return value
    text = _CELL_INSIDE.sub(r"\1'", value)
    return f"'{text}" if _NOT_AS_TEXT.match(text) else text


def duration(seconds: float) -> str:
    """Return seconds as a short text: 12 s, 5 min, 3 h, 2 d; 0 s for less than none."""
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds // size:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"
