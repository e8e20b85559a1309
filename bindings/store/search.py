"""The search for bindings by filters, newest first: one page at a time.

The planner decides between the indexes of the filters and the order of the list, unless a phone or a middle number
is a filter. Its statistics say how often a number occurs, and not when it occurred last: a page of one that it
overrates would be looked for in the whole history, newest first. Therefore the bindings of a number are counted
first, by index. If they are at most `MOST_SORTED` and the number is the only filter, the index also says which of
them are on the page, and only these are read; with further filters all of them are read and sorted. Nothing here
writes.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from sqlalchemy import Integer, String, bindparam, func, select, true

from bindings.domain.search_filters import SearchFilters
from bindings.store import phones, sql
from bindings.store.bindings import COLUMNS, NAMES, middle_number_b_is, to_binding
from bindings.store.column_types import Instant
from bindings.store.compiled import CompiledStatement
from bindings.store.queries import conditions, count_by_index, read_by_index, run
from bindings.store.schema import bindings

if TYPE_CHECKING:
    from datetime import datetime

    from sqlalchemy import ColumnElement, Connection

    from bindings.domain.binding import Binding

MOST_SORTED = 5_000  # bindings of a number that are read for one page
_REQUESTED_AT, _ID = bindings.c.requested_at, bindings.c.id
_LIMIT = bindparam("limit", type_=Integer)
_BEFORE = bindparam("before", type_=Instant), bindparam("before_id", type_=_ID.type)


def search(
    connection: Connection,
    filters: SearchFilters,
    now: ColumnElement[datetime],
    *,
    before: tuple[datetime, str] | None,
    limit: int,
) -> list[Binding]:
    """Return up to `limit` bindings, newest first, from after the position `before` of that order."""
    newest: ColumnElement[datetime] = _REQUESTED_AT
    if filters.phone is not None or filters.middle_number is not None:
        if filters in {SearchFilters(phone=filters.phone), SearchFilters(middle_number=filters.middle_number)}:
            page = _page_of_rare_number(connection, filters, before=before, limit=limit)
            if page is not None:
                return page
        elif _has_rare_number(connection, filters):
            newest = sql.without_index(_REQUESTED_AT, postgres=sql.is_postgres(connection))
    statement = select(*COLUMNS).where(*conditions(connection.dialect, filters, now))
    if before is not None:
        statement = statement.where(sql.keyset_before((_REQUESTED_AT, _ID), before))
    return run(connection, statement.order_by(newest.desc(), _ID.desc()).limit(limit))


def _page_of_rare_number(
    connection: Connection, filters: SearchFilters, *, before: tuple[datetime, str] | None, limit: int
) -> list[Binding] | None:
    """Return the page of a phone or a middle number; None if it has more than `MOST_SORTED` bindings."""
    values = _values(connection, filters) | {"limit": limit}
    if before is not None:
        values |= zip(("before", "before_id"), before, strict=True)
    statement = _page(_form_count(connection, filters), is_later_page=before is not None)
    rows = statement.fetch_all(connection, values)
    if rows[0].number > MOST_SORTED:
        return None
    return [to_binding(row) for row in rows if row.id is not None]


@cache
def _page(form_count: int, *, is_later_page: bool) -> CompiledStatement:
    """Build the statement for a page, each row with the `number` of bindings; one row without a binding if empty.

    One statement has one snapshot: a binding that is deleted meanwhile cannot shorten the page.
    """
    matches = _matches(form_count)
    times = read_by_index(matches, _REQUESTED_AT, MOST_SORTED + 1).cte("t").prefix_with("MATERIALIZED")
    newest = select(times.c.requested_at).order_by(times.c.requested_at.desc()).limit(_LIMIT)
    if is_later_page:
        newest = newest.where(times.c.requested_at < _BEFORE[0])
    of_page = newest.subquery("n")
    earliest: ColumnElement[datetime] = select(func.min(of_page.c.requested_at, type_=Instant)).scalar_subquery()
    if is_later_page:  # those of the same instant as `before` come after it by their ids
        earliest = func.coalesce(earliest, _BEFORE[0], type_=Instant)
    facts = select(func.count().label("number"), earliest.label("earliest")).select_from(times)
    of_number = facts.cte("f").prefix_with("MATERIALIZED")
    conditions = [
        select(of_number.c.number).scalar_subquery() <= sql.literal_number(MOST_SORTED),
        select(of_number.c.earliest).scalar_subquery() <= _REQUESTED_AT,
    ]
    if is_later_page:
        # A planner that knew this value might begin with the index on requested_at, where it expects few bindings.
        unknown_before = select(_BEFORE[0]).scalar_subquery()
        conditions.append(sql.keyset_before((_REQUESTED_AT, _ID), (unknown_before, _BEFORE[1])))
    candidates = sql.materialized(*(select(*COLUMNS).where(match, *conditions) for match in matches))
    columns = (candidates.c[name] for name in NAMES)
    page = select(*columns, of_number.c.number).select_from(of_number.outerjoin(candidates, true()))
    order = candidates.c.requested_at.desc(), candidates.c.id.desc()
    return CompiledStatement(page.order_by(*order).limit(_LIMIT))


def _has_rare_number(connection: Connection, filters: SearchFilters) -> bool:
    """Return True if the phone, or else the middle number, has at most `MOST_SORTED` bindings."""
    statement = _count(_form_count(connection, filters))
    ((count,),) = statement.fetch_all(connection, _values(connection, filters))
    return bool(count <= MOST_SORTED)


@cache
def _count(form_count: int) -> CompiledStatement:
    return CompiledStatement(select(count_by_index(_matches(form_count), MOST_SORTED + 1).label("bindings")))


def _form_count(connection: Connection, filters: SearchFilters) -> int:
    """Return in how many forms the phone may be stored; 0 if a middle number is the filter."""
    return 0 if filters.phone is None else phones.form_count(connection.dialect)


def _values(connection: Connection, filters: SearchFilters) -> dict[str, object]:
    """Return the values of the parameters of `_matches`."""
    if filters.phone is None:
        return {"middle_number": filters.middle_number}
    return {**phones.parameter_values(connection.dialect, phone=filters.phone)}


@cache
def _matches(form_count: int) -> tuple[ColumnElement[bool], ColumnElement[bool]]:
    """Return the conditions that A, and that B, has the number: a phone in so many forms, or a middle number."""
    if form_count:
        forms = phones.parameters("phone", form_count)
        return phones.is_any_of(bindings.c.phone_a, forms), phones.is_any_of(bindings.c.phone_b, forms)
    number = bindparam("middle_number", type_=String)
    return bindings.c.middle_number_a == number, middle_number_b_is(number)
