"""What several modules of the store share to build a statement and to read its rows. Knows no table.

Rows become dataclasses by `record`, whose fields have the names of the columns; the two hot ones have mappings of
their own (`bindings.to_binding`, `events.to_event`). Lists are read by keyset pagination: a page is what comes
after a position in the order of the list, and needs no OFFSET.
"""

from __future__ import annotations

import re
from dataclasses import fields
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeVar

from sqlalchemy import (
    ARRAY,
    JSON,
    Integer,
    Interval,
    and_,
    any_,
    bindparam,
    func,
    literal,
    literal_column,
    select,
    tuple_,
    union_all,
)

from bindings.store.column_types import Instant

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from datetime import timedelta
    from enum import StrEnum

    from sqlalchemy import CTE, Column, ColumnElement, Connection, CursorResult, Row, Select, Table

Record = TypeVar("Record")

EXPORT_BATCH = 1_000  # rows of an export that are in memory at a time
LAST_CHARACTER = "\U0010ffff"  # sorts after every other, and is not a character of any text


def columns(table: Table, record_type: type[Any]) -> tuple[Column[Any], ...]:
    """Return the columns of `table` that a dataclass has fields for, in the order of the fields."""
    return tuple(table.c[field.name] for field in fields(record_type) if field.name in table.c)


def record(record_type: type[Record], row: Row[*tuple[Any, ...]], **converted: Any) -> Record:
    """Return the row as a dataclass; `converted` replaces the values of columns, further columns are left out."""
    values = row._asdict() | converted
    names = (field.name for field in fields(record_type))  # type: ignore[arg-type]  # no bound for dataclasses
    return record_type(**{name: values[name] for name in names if name in values})


def keyset_before(order: Sequence[ColumnElement[Any]], position: Sequence[Any]) -> ColumnElement[bool]:
    """Return the condition that a row comes before `position` in ascending order, so after it in descending."""
    return tuple_(*order) < _position(order, position)


def keyset_after(order: Sequence[ColumnElement[Any]], position: Sequence[Any]) -> ColumnElement[bool]:
    """Return the condition that a row comes after `position` in ascending order."""
    return tuple_(*order) > _position(order, position)


def _position(order: Sequence[ColumnElement[Any]], position: Sequence[Any]) -> ColumnElement[Any]:
    return tuple_(*position, types=[column.type for column in order])


def materialized(*branches: Select[Any]) -> CTE:
    """Return UNION ALL of the branches as a CTE that a planner may not merge into the outer query.

    Its name is short: psycopg parses a statement of more than 4 096 characters anew at each run.
    """
    return union_all(*branches).cte("c").prefix_with("MATERIALIZED")


def member(words: type[StrEnum], text: str) -> str:
    """Return the member of `words` with this value, or the text itself if only a later version knows it."""
    try:
        return words(text)
    except ValueError:
        return text


def equals_literal(column: ColumnElement[Any], value: StrEnum) -> ColumnElement[bool]:
    """Return `column = 'value'` with a literal, not a bound value.

    So a partial index over that value also serves if the server plans without values.
    """
    return column == literal_column(f"'{value}'")


def without_index(column: ColumnElement[datetime], *, postgres: bool) -> ColumnElement[datetime]:
    """Return an instant's column as an expression with the same value that no index has, to sort by."""
    return literal_column(f"{column} + interval '0'" if postgres else f"+{column}", Instant)


def literal_number(number: int) -> ColumnElement[int]:
    """Return a number that is part of the statement, such as a LIMIT that a plan without values should know."""
    return literal_column(str(number), Integer)


def is_in_list(column: ColumnElement[Any], name: str, *, postgres: bool) -> ColumnElement[bool]:
    """Return the condition that a column has one of the values of the parameter :name, a list of any length."""
    if postgres:
        return column == any_(bindparam(name, type_=ARRAY(column.type)))
    values = func.json_each(bindparam(name, type_=JSON)).table_valued("value")
    return column.in_(select(values.c.value))


def earlier(instant: ColumnElement[datetime], span: timedelta, *, postgres: bool) -> ColumnElement[datetime]:
    """Return the instant `span` before another one; on SQLite rounded to a millisecond."""
    if postgres:
        return instant - literal(span, Interval)
    return func.strftime("%Y-%m-%dT%H:%M:%fZ", instant, f"-{span.total_seconds()} seconds", type_=Instant)


def starts_with(column: ColumnElement[Any], prefix: str, *, postgres: bool) -> ColumnElement[bool]:
    """Return the condition that a text begins with `prefix`, exactly, in the form that an index serves.

    PostgreSQL uses an index in byte order for LIKE; the LIKE of SQLite ignores case and uses none.
    """
    if postgres:
        return column.like(re.sub(r"([\\%_])", r"\\\1", prefix) + "%")
    return and_(column >= prefix, column < prefix + LAST_CHARACTER)


def is_postgres(connection: Connection) -> bool:
    """Return True for PostgreSQL, False for SQLite."""
    return connection.dialect.name == "postgresql"


def batches(connection: Connection, result: CursorResult[Any]) -> Iterator[Sequence[Sequence[Any]]]:
    """Yield the rows of a result that is streamed (`yield_per`), `EXPORT_BATCH` at a time.

    On PostgreSQL no other statement can run on the connection meanwhile.
    """
    if not is_postgres(connection):
        return result.partitions(EXPORT_BATCH)
    from bindings.store import read_ahead  # which needs the driver for PostgreSQL

    return read_ahead.batches(connection, result, size=EXPORT_BATCH)


def to_json_value(value: Any) -> Any:
    """Return a value as in the detail of an event: an instant as ISO 8601 text."""
    return value.isoformat() if isinstance(value, datetime) else value
