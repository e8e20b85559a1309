"""Records as rows of a file or an answer: plain values, lines of CSV and of NDJSON. Pure.

Phones are masked unless the caller says `revealed`, and whoever says so has recorded it before. No cell is taken
for a formula by a spreadsheet.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from datetime import UTC, datetime
from enum import Enum
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Mapping, Sequence

Record = TypeVar("Record")

FORMATS = ("csv", "ndjson")
FORMULA = tuple("=+-@\t\r")  # what a spreadsheet would run


def to_plain(value: Any, *, revealed: bool = False) -> Any:
    """A value as JSON has it: instants as RFC 3339 in UTC, phones masked unless `revealed`."""
    from bindings.domain.phone import Phone

    if isinstance(value, Phone):
        return value.digits if revealed else str(value)
    if isinstance(value, list | tuple):
        return [to_plain(each, revealed=revealed) for each in value]
    if dataclasses.is_dataclass(value):
        value = fields(value)
    if isinstance(value, dict):
        return {str(key): to_plain(each, revealed=revealed) for key, each in value.items()}
    if isinstance(value, datetime):
        return instant(value)
    return value.value if isinstance(value, Enum) else value


def fields(record: Any) -> dict[str, Any]:
    """A dataclass instance's values by name, not looked into."""
    return {name: getattr(record, name) for name in field_names(record)}


def field_names(record: Any) -> list[str]:
    """The fields of a dataclass or its instance, in order."""
    return [field.name for field in dataclasses.fields(record)]


def instant(at: datetime) -> str:
    """RFC 3339, UTC, with Z."""
    return at.astimezone(UTC).isoformat().replace("+00:00", "Z")


def batches(records: Iterable[Record], size: int = 1_000) -> Generator[list[Record], None, None]:
    """The records in lists of at most `size`, as they come."""
    batch: list[Record] = []
    for record in records:
        batch.append(record)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def format_lines(records: Iterable[Mapping[str, Any]], names: Sequence[str], kind: str) -> str:
    """Plain records as lines of a format."""
    if kind == "ndjson":
        return "".join(json.dumps(record) + "\n" for record in records)
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows([_cell(record[name]) for name in names] for record in records)
    return out.getvalue()


def header_line(names: Sequence[str], kind: str) -> str:
    """What a file of a format begins with."""
    return "" if kind == "ndjson" else format_lines([{name: name for name in names}], names, kind)


def _cell(value: Any) -> str:
    """A cell that no spreadsheet takes for a formula."""
    if value is None:
        return ""
    text = value if isinstance(value, str) else json.dumps(value)
    return f"'{text}" if text.startswith(FORMULA) else text


def duration(seconds: float) -> str:
    """Return seconds for people: 12 s, 5 min, 3 h, 2 d."""
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds // size:.0f} {unit}"
    return f"{seconds:.0f} s"
