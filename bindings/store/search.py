"""The search for bindings by filters, newest first: one page at a time.

The planner decides between the indexes of the filters and the order of the list, unless a phone or a middle number
is a filter. Its statistics say how often a number occurs, and not when it occurred last: a page of one that it
overrates would be looked for in the whole history, newest first. Therefore the bindings of a number are counted
first, by index and up to `MOST_SORTED`; if there are no more, they are all read and sorted. Nothing here
writes.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from sqlalchemy import String, bindparam, func, select, union_all

from bindings.store import phones, sql
from bindings.store.bindings import COLUMNS, middle_number_b_is
from bindings.store.compiled import CompiledStatement
from bindings.store.queries import conditions, run
from bindings.store.schema import bindings

if TYPE_CHECKING:
    from datetime import datetime

    from sqlalchemy import ColumnElement, Connection

    from bindings.domain.binding import Binding
    from bindings.domain.search_filters import SearchFilters

MOST_SORTED = 5_000  # bindings of a number that are read for one page


def search(
    connection: Connection,
    filters: SearchFilters,
    now: ColumnElement[datetime],
    *,
    before: tuple[datetime, str] | None,
    limit: int,
) -> list[Binding]:
    """Return up to `limit` bindings, newest first, from after the position `before` of that order."""
    dialect, requested_at = connection.dialect, bindings.c.requested_at
    statement = select(*COLUMNS).where(*conditions(dialect, filters, now))
    if before is not None:
        statement = statement.where(sql.keyset_before((requested_at, bindings.c.id), before))
    newest: ColumnElement[datetime] = requested_at
    if _has_rare_number(connection, filters):
        newest = sql.without_index(requested_at, postgres=sql.is_postgres(connection))
    return run(connection, statement.order_by(newest.desc(), bindings.c.id.desc()).limit(limit))


def _has_rare_number(connection: Connection, filters: SearchFilters) -> bool:
    """Return True if a phone or a middle number is a filter and has at most `MOST_SORTED` bindings."""
    dialect = connection.dialect
    if filters.phone is not None:
        statement = _count_of_phone(phones.form_count(dialect), MOST_SORTED)
        values: dict[str, Any] = dict(phones.parameter_values(dialect, phone=filters.phone))
    elif filters.middle_number is not None:
        statement, values = _count_of_middle_number(MOST_SORTED), {"middle_number": filters.middle_number}
    else:
        return False
    ((count,),) = statement.fetch_all(connection, values)
    return bool(count <= MOST_SORTED)


@cache
def _count_of_phone(form_count: int, most: int) -> CompiledStatement:
    forms = phones.parameters("phone", form_count)
    return _count(
        *(phones.is_any_of(column, forms) for column in (bindings.c.phone_a, bindings.c.phone_b)), most=most
    )


@cache
def _count_of_middle_number(most: int) -> CompiledStatement:
    number = bindparam("middle_number", type_=String)
    return _count(bindings.c.middle_number_a == number, middle_number_b_is(number), most=most)


def _count(*branches: ColumnElement[bool], most: int) -> CompiledStatement:
    """Build the statement that counts the bindings of both branches, each up to one more than `most`."""
    # Without the order of the index a planner may look for them in the whole table.
    up_to, row = sql.literal_number(most + 1), sql.literal_number(1).label("row")
    parts = (
        select(row).where(branch).order_by(bindings.c.held_until).limit(up_to).subquery() for branch in branches
    )
    return CompiledStatement(select(func.count()).select_from(union_all(*map(select, parts)).subquery()))
