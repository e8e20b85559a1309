"""Bindings by column, for exports: no object is made for a row, as `bindings.to_binding` makes one.

The statement reads every value in a form in which it can be written: an instant as text, a phone as it is stored.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from sqlalchemy import Text, cast, func, type_coerce
from sqlalchemy.types import NullType

from bindings.domain.phone import PhoneColumn
from bindings.domain.record_lines import FinishedCells, RecordColumns
from bindings.domain.serialization import instants_in_csv, instants_in_json, stored_instants
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

# The names of all of them in one column, by its form; they are consecutive fields.
_IN_CSV, _IN_JSON = "instants_in_csv", "instants_in_json"


@cache
def stored_columns(*, postgres: bool, file_format: str) -> Mapping[str, ColumnElement[Any]]:
    """Return the columns to select for `to_record_columns`, by name.

    PostgreSQL writes all instants of a row as one text, separated as in a line of CSV or as a JSON array: a client
    receives one value in place of ten.
    """
    columns: dict[str, ColumnElement[Any]] = {
        name: type_coerce(column, NullType) for name, column in zip(NAMES, COLUMNS, strict=True)
    }
    if not postgres:
        return columns
    instants = [bindings.c[name] for name in _INSTANTS]
    finished: dict[str, ColumnElement[Any]]
    if file_format == "csv":
        in_csv: list[Any] = [part for column in instants for part in (",", column)]
        finished = {_IN_CSV: func.concat(*in_csv[1:])}
    else:
        finished = {_IN_JSON: cast(func.json_build_array(*instants), Text)}
    return {name: column for name, column in columns.items() if name not in _INSTANTS} | finished


def to_record_columns(
    rows: Sequence[Sequence[Any]], names: Iterable[str], keys: PhoneKeys | None
) -> RecordColumns:
    """Return bindings from their rows (the columns `stored_columns`, with these names), with their phones opened.

    `Busy` if a phone does not open.
    """
    columns: dict[str, Any] = dict(zip(names, zip(*rows, strict=True), strict=True))
    by_name = {name: columns[name] for name in FIELDS if name in columns}
    if _IN_CSV in columns:
        by_name[_INSTANTS[0]] = FinishedCells(instants_in_csv(columns[_IN_CSV]))
    elif _IN_JSON in columns:
        cells = instants_in_json(columns[_IN_JSON])
        by_name |= {name: FinishedCells(cells[place :: len(_INSTANTS)]) for place, name in enumerate(_INSTANTS)}
    else:
        by_name |= {name: _instants(columns[name]) for name in _INSTANTS}
    by_name |= {name: PhoneColumn(texts) for name, texts in _opened_phones(columns, keys).items()}
    return RecordColumns(by_name, len(rows))


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
