"""Bindings by column, for exports: no object is made for a row, as `bindings.to_binding` makes one.

The statement reads every value in a form in which it can be written: an instant as text, a phone as it is stored.
"""

from __future__ import annotations

import json
from functools import cache
from typing import TYPE_CHECKING, Any

from sqlalchemy import Text, case, cast, func, type_coerce
from sqlalchemy.types import NullType

from bindings.domain.phone import PhoneColumn
from bindings.domain.record_lines import FinishedCells, RecordColumns
from bindings.domain.serialization import stored_instants
from bindings.store.bindings import COLUMNS, FIELDS, NAMES, PHONES
from bindings.store.column_types import Instant
from bindings.store.phone_keys import BLIND, data_key
from bindings.store.phones import SUFFIX, read_digits
from bindings.store.schema import bindings

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from sqlalchemy import ColumnElement

    from bindings.store.phone_keys import PhoneKeys

_INSTANTS = tuple(name for name, column in zip(NAMES, COLUMNS, strict=True) if isinstance(column.type, Instant))

_FINISHED = "instants"  # the name of all of them in one column; they are consecutive fields


@cache
def stored_columns(*, postgres: bool, file_format: str) -> Mapping[str, ColumnElement[Any]]:
    """Return the columns to select for `to_record_columns`, by name.

    PostgreSQL writes all instants of a row as they stand in a line of the format: so a client neither receives nor
    converts each of them.
    """
    columns: dict[str, ColumnElement[Any]] = {
        name: type_coerce(column, NullType) for name, column in zip(NAMES, COLUMNS, strict=True)
    }
    if not postgres:
        return columns
    without_instants = {name: column for name, column in columns.items() if name not in _INSTANTS}
    return without_instants | {_FINISHED: _finished_instants(file_format)}


def to_record_columns(
    rows: Sequence[Sequence[Any]], names: Iterable[str], keys: PhoneKeys | None
) -> RecordColumns:
    """Return bindings from their rows (the columns `stored_columns`, with these names), with their phones opened.

    `Busy` if a phone does not open.
    """
    columns: dict[str, Any] = dict(zip(names, zip(*rows, strict=True), strict=True))
    by_name = {name: columns[name] for name in FIELDS if name in columns}
    if _FINISHED in columns:
        by_name[_INSTANTS[0]] = FinishedCells(columns[_FINISHED])
    else:
        by_name |= {name: _instants(columns[name]) for name in _INSTANTS}
    by_name |= {name: PhoneColumn(texts) for name, texts in _opened_phones(columns, keys).items()}
    return RecordColumns(by_name, len(rows))


def _finished_instants(file_format: str) -> ColumnElement[Any]:
    """Return the cells of all instants with what separates them."""
    cells: list[Any] = []
    for name in _INSTANTS:
        text = _rfc_3339(cast(bindings.c[name], Text))
        if file_format == "csv":
            cells += ",", text
        else:
            cells += f", {json.dumps(name)}: ", func.coalesce('"' + text + '"', "null")
    return func.concat(*cells[1:])


def _rfc_3339(text: ColumnElement[Any]) -> ColumnElement[Any]:
    """Return `serialization.instant` of a text in UTC; PostgreSQL leaves out zeros at the end of a fraction."""
    in_form = func.replace(func.left(text, -len("+00")), " ", "T")
    is_whole = func.length(text) == len("2026-11-30 12:00:00+00")
    return case((is_whole, in_form), else_=func.rpad(in_form, len("2026-11-30T12:00:00.000000"), "0")) + "Z"


def _instants(column: Sequence[Any]) -> Sequence[str | None]:
    stored = [text for text in column if text is not None] if None in column else column
    texts = stored_instants(stored)
    if len(texts) == len(column):
        return texts
    present = iter(texts)
    return [None if text is None else next(present) for text in column]


def _opened_phones(columns: dict[str, Sequence[Any]], keys: PhoneKeys | None) -> dict[str, Sequence[str]]:
    phones = {name: columns[name] for name in PHONES}
    numbers = columns["phone_key"]
    if numbers.count(None) == len(numbers) and not any(BLIND in "".join(texts) for texts in phones.values()):
        return phones
    sealed_rows = [
        number is not None or any(text.startswith(BLIND) for text in texts)
        for number, *texts in zip(numbers, *phones.values(), strict=True)
    ]
    data_keys = {number: None if number is None else data_key(keys, number) for number in set(numbers)}
    opened: dict[str, Sequence[str]] = {}
    for name, texts in phones.items():
        column, sealed = f"bindings.{name}", columns[f"{name}{SUFFIX}"]
        opened[name] = [
            read_digits(data_keys[number], column, row_id, text, sealed_digits) if is_sealed else text
            for is_sealed, number, row_id, text, sealed_digits in zip(
                sealed_rows, numbers, columns["id"], texts, sealed, strict=True
            )
        ]
    return opened
