"""Lines of CSV and NDJSON from records, a column of a batch at a time. Pure.

CSV is for spreadsheets: it begins with the mark of UTF-8, and no text in it is read as a formula, a number or a
date, with any list separator. Codes and ids are written as they are. NDJSON has the texts of `to_plain`.

A column whose values have one type is converted by functions that run in C. The result is that of `_csv_cell` or
`json.dumps` for each plain value; the tests hold every kind of column to that.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from itertools import chain, repeat
from json.encoder import encode_basestring_ascii
from operator import attrgetter, itemgetter
from typing import TYPE_CHECKING, Any, TypeAlias

from bindings.domain.phone import Phone, PhoneColumn
from bindings.domain.serialization import instant, reader, to_plain

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    Column: TypeAlias = Sequence[Any] | PhoneColumn | "JsonColumn" | "FinishedCells"

FORMATS = ("csv", "ndjson")
UTF8_MARK = "\ufeff"  # without it Excel takes the file for the encoding of its own country
CACHED_TEXTS = 4_096  # most columns repeat few values: an application, a pool, an actor
_FORMULA = r"[=+\-@\uff1d\uff0b\uff0d\uff20]"  # how a formula begins, full-width signs too
_DIGITS = r"[0-9][0-9.,:/eE+-]*"
# A spreadsheet would evaluate a text that begins so, or show digits rounded or as a date.
_NOT_AS_TEXT = re.compile(rf"\s*{_FORMULA}|{_DIGITS}\Z")
_ANY_NOT_AS_TEXT = re.compile(rf"\n(?:\s*{_FORMULA}|{_DIGITS}\n)")  # in texts between line feeds
# Where the list separator is a semicolon or a tab, a cell begins after it, even inside quotes.
_CELL_INSIDE = re.compile(rf'([;\t])(?=["\s]*{_FORMULA})')
# Columns whose values have a form of their own, and those forms: a code, a UUID.
_TYPED_COLUMNS = frozenset({"id", "binding_id", "export_id", "provider_status"})
_TYPED_VALUE = re.compile(r"-?[0-9]{1,15}|[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_NEEDS_QUOTES = re.compile(r'[",\r\n]')
_UTC = "+00:00"


@dataclass(frozen=True, slots=True, eq=False)
class RecordColumns:
    """A batch of records by column; its length is the number of records.

    A column is a sequence of plain values, with instants as their texts; phones are a `PhoneColumn`, and objects
    a `JsonColumn`. Columns that the database has written for one format are `FinishedCells`, by the name of the
    first of them.
    """

    by_name: Mapping[str, Any]
    row_count: int

    def __len__(self) -> int:
        return self.row_count


class EventColumns(RecordColumns):
    """A batch of events by column; `detail` is a `JsonColumn`."""

    __slots__ = ()


@dataclass(frozen=True, slots=True, eq=False)
class JsonColumn:
    """A column of objects, each as the text that `json.dumps` returns for it."""

    texts: list[str]


@dataclass(frozen=True, slots=True, eq=False)
class FinishedCells:
    """The cells of consecutive columns for one format: in each text those of a row, with what separates them.

    None of them needs quotes in CSV.
    """

    texts: Sequence[str]


class LineEncoder:
    """Encodes records (dataclass instances or mappings with the same names) as lines of one format.

    Phones are masked except in records for which the caller says otherwise, and records the reveal before.
    """

    def __init__(self, names: Sequence[str], file_format: str) -> None:
        self._names = names
        self._encode = _csv_lines if file_format == "csv" else _json_lines
        self.header = (
            UTF8_MARK + _csv_lines({name: (name,) for name in names}, [False]) if file_format == "csv" else ""
        )

    def lines(self, records: Sequence[Any] | RecordColumns, *, revealed: bool | Sequence[bool] = False) -> str:
        """Return the lines of some records; `revealed` says whether phones are in full, in all or in each."""
        if not records:
            return ""
        in_full = [revealed] * len(records) if isinstance(revealed, bool) else revealed
        if isinstance(records, RecordColumns):
            columns = {name: records.by_name[name] for name in self._names if name in records.by_name}
        else:
            read = reader(self._names, itemgetter if isinstance(records[0], dict) else attrgetter)
            values = zip(*map(read, records), strict=True)
            columns = dict(zip(self._names, values, strict=True))
        return self._encode(columns, in_full)


def json_lines(records: Iterable[Mapping[str, Any]]) -> str:
    """Return plain records, each with names of its own, as lines of NDJSON."""
    return "".join(json.dumps(record) + "\n" for record in records)


def _csv_lines(columns: Mapping[str, Column], in_full: Sequence[bool]) -> str:
    cells = [
        column.texts if isinstance(column, FinishedCells) else _csv_column(name, column, in_full)
        for name, column in columns.items()
    ]
    return "\n".join([*map(",".join, zip(*cells, strict=True)), ""])


def _json_lines(columns: Mapping[str, Column], in_full: Sequence[bool]) -> str:
    parts: list[Iterable[str]] = []
    for name, column in columns.items():
        parts += repeat(f"{', ' if parts else '{'}{json.dumps(name)}: "), _json_column(column, in_full)
    return "".join(chain.from_iterable(zip(*parts, repeat("}\n"), strict=False)))


def _csv_column(
    name: str, column: Sequence[Any] | PhoneColumn | JsonColumn, in_full: Sequence[bool]
) -> Sequence[str]:
    """Return the cells of a column, in quotes where they need them."""
    if isinstance(column, JsonColumn):
        return _quoted(_json_cells(column.texts))
    if isinstance(column, PhoneColumn):
        texts = column.texts(revealed=in_full)
        # Masked ones are read as text.
        return _quoted(_text_cells(name, texts, _text_cell) if any(in_full) else texts)
    kind = _kind(column)
    if kind in _CONVERTERS:
        return _once_if_equal(column, lambda values: _with("", _CONVERTERS[kind](values)))
    if kind == "text":
        return _once_if_equal(
            column, lambda values: _quoted(_text_cells(name, _with("", values), _cached_text_cell))
        )
    if kind == "phone":
        return _quoted(_text_cells(name, list(map(_phone_text, column, in_full)), _text_cell))
    return _quoted([_csv_cell(name, value) for value in _plain(column, in_full)])


def _quoted(cells: list[str]) -> list[str]:
    """Return the cells, in quotes if they have a quote or what separates cells or lines."""
    joined = "\n".join(cells)
    if joined.count("\n") == len(cells) - 1 and not any(sign in joined for sign in '",\r'):
        return cells
    return ['"' + cell.replace('"', '""') + '"' if _NEEDS_QUOTES.search(cell) else cell for cell in cells]


def _json_column(column: Column, in_full: Sequence[bool]) -> Sequence[str]:
    """Return the JSON texts of a column."""
    if isinstance(column, FinishedCells | JsonColumn):
        return column.texts
    if isinstance(column, PhoneColumn):
        return list(map(encode_basestring_ascii, column.texts(revealed=in_full)))
    kind = _kind(column)
    if kind == "instant":
        return ["null" if text is None else f'"{text}"' for text in _instants(column)]
    if kind in _CONVERTERS:
        return _once_if_equal(column, lambda values: _with("null", _CONVERTERS[kind](values)))
    if kind == "text":
        return _once_if_equal(
            column,
            lambda values: ["null" if value is None else encode_basestring_ascii(value) for value in values],
        )
    return [json.dumps(value) for value in _plain(column, in_full)]


def _once_if_equal(column: Sequence[Any], convert: Callable[[Sequence[Any]], list[str]]) -> list[str]:
    """Return the converted values of a column; if all are equal, only one of them is converted."""
    if column.count(column[0]) == len(column):
        return convert(column[:1]) * len(column)
    return convert(column)


def _with(absent: str, texts: Sequence[str | None]) -> list[str]:
    """Return the texts with `absent` in place of None."""
    return [absent if text is None else text for text in texts]


def _plain(column: Sequence[Any], in_full: Sequence[bool]) -> Iterable[Any]:
    return (to_plain(value, revealed=full) for value, full in zip(column, in_full, strict=True))


def _kind(column: Sequence[Any]) -> str:
    """Return what the values of a column are, besides None: "text", "integer", "instant", "phone", "other"."""
    types = set(map(type, column)) - {type(None)}
    if not types:
        return "none"
    if all(issubclass(value_type, str) for value_type in types):
        return "text"
    for kind, value_type in (("integer", int), ("instant", datetime), ("phone", Phone)):
        if types == {value_type}:
            return kind
    return "other"


def _nothing(column: Sequence[Any]) -> Sequence[str | None]:
    return column


def _integers(column: Sequence[Any]) -> Sequence[str | None]:
    return [None if value is None else str(value) for value in column]


def _instants(column: Sequence[Any]) -> Sequence[str | None]:
    values = [value for value in column if value is not None]
    joined = "\n".join(map(datetime.isoformat, values))
    in_utc = joined.count(_UTC) == len(values)
    texts = iter(joined.replace(_UTC, "Z").split("\n") if in_utc else map(instant, values))
    return [None if value is None else next(texts) for value in column]


_CONVERTERS: dict[str, Callable[[Sequence[Any]], Sequence[str | None]]] = {
    "none": _nothing,
    "integer": _integers,
    "instant": _instants,
}


def _phone_text(phone: Phone | None, revealed: bool) -> str:
    return "" if phone is None else phone.digits if revealed else str(phone)


def _text_cells(name: str, texts: list[str], cell: Callable[[str], str]) -> list[str]:
    """Return texts as cells of a column; `cell` converts one of them."""
    if name in _TYPED_COLUMNS:
        return [text if _TYPED_VALUE.fullmatch(text) else cell(text) for text in texts]
    if _are_numbers(texts):
        return [text and f"'{text}" for text in texts]
    joined = "\n".join(["", *texts, ""])
    is_plain = ";" not in joined and "\t" not in joined and joined.count("\n") == len(texts) + 1
    return texts if is_plain and not _ANY_NOT_AS_TEXT.search(joined) else list(map(cell, texts))


def _are_numbers(texts: Sequence[str]) -> bool:
    """Return whether every text that is not empty is of digits and minus signs: a number, a date or a formula."""
    joined = "".join(texts).replace("-", "")
    return joined.isascii() and joined.isdigit()


def _csv_cell(column: str, value: Any) -> str:
    """Return a plain value as a CSV cell; a text that is not read as text begins with an apostrophe."""
    if value is None:
        return ""
    if not isinstance(value, str):
        return _json_cells([json.dumps(value)])[0]
    is_typed = column in _TYPED_COLUMNS and _TYPED_VALUE.fullmatch(value)
    return value if is_typed else _text_cell(value)


def _json_cells(texts: list[str]) -> list[str]:
    """Return JSON texts as cells of CSV, before they are put in quotes."""
    if ";" not in "".join(texts):  # the only separator that JSON can have
        return texts
    return [_CELL_INSIDE.sub(r"\1'", text) for text in texts]


def _text_cell(value: str) -> str:
    text = _CELL_INSIDE.sub(r"\1'", value) if ";" in value or "\t" in value else value
    return f"'{text}" if _NOT_AS_TEXT.match(text) else text


_cached_text_cell = lru_cache(CACHED_TEXTS)(_text_cell)
