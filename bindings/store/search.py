"""The search for bindings by filters, newest first: one page at a time.

The planner decides between the indexes of the filters and the order of the list, unless a phone or a middle number
is a filter. Its statistics say how often a number occurs, and not when it occurred last: a page of one that it
overrates would be looked for in the whole history, newest first. Therefore the bindings of a number are counted
first, by index; if they are at most `MOST_SORTED`, all of them are read and sorted. Nothing here writes.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from sqlalchemy import String, bindparam, select

from bindings.store import phones, sql
from bindings.store.bindings import COLUMNS, middle_number_b_is
from bindings.store.compiled import CompiledStatement
from bindings.store.queries import conditions, count_by_index, run
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
        statement = _count_of_phone(phones.form_count(dialect))
        values = phones.parameter_values(dialect, phone=filters.phone)
    elif filters.middle_number is not None:
        statement, values = _count_of_middle_number(), {"middle_number": filters.middle_number}
    else:
        return False
    ((count,),) = statement.fetch_all(connection, values)
    return bool(count <= MOST_SORTED)


@cache
def _count_of_phone(form_count: int) -> CompiledStatement:
    forms = phones.parameters("phone", form_count)
    return _count(*(phones.is_any_of(column, forms) for column in (bindings.c.phone_a, bindings.c.phone_b)))


@cache
def _count_of_middle_number() -> CompiledStatement:
    number = bindparam("middle_number", type_=String)
    return _count(bindings.c.middle_number_a == number, middle_number_b_is(number))


def _count(*branches: ColumnElement[bool]) -> CompiledStatement:
    return CompiledStatement(select(count_by_index(branches, MOST_SORTED + 1).label("bindings")))
