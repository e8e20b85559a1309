"""The list of bindings by filters: a page, how many have each value of a filter, and all of it for an export.

A page and the counts read at most `ROWS_READ` bindings, so a filter that few bindings match never reads the whole
history: the caller goes on from where the page has stopped. A filter with an index of its own is read by that
one, if it matches no more than that; everything else in the order of the list. Each inner part is a CTE that is
MATERIALIZED, or has a LIMIT, so that no planner can start from another index. Nothing here writes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

from sqlalchemy import and_, func, literal_column, select
from sqlalchemy.sql.util import ClauseAdapter

from bindings.domain.binding import State
from bindings.domain.search_filters import Order
from bindings.domain.value_counts import ValueCount
from bindings.store import sql
from bindings.store.binding_columns import stored_columns, to_record_columns
from bindings.store.bindings import COLUMNS, in_state
from bindings.store.phone_keys import keys_of
from bindings.store.queries import LONGEST_SPAN, conditions, run
from bindings.store.schema import bindings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from datetime import datetime

    from sqlalchemy import ColumnElement, Connection, Dialect, FromClause
    from sqlalchemy.sql.base import ReadOnlyColumnCollection

    from bindings.domain.binding import Binding
    from bindings.domain.record_lines import RecordColumns
    from bindings.domain.search_filters import SearchFilters

    Columns = ReadOnlyColumnCollection[str, Any]

ROWS_READ = 10_000
COUNTED = ("state", "mode", "app_id", "pool_number", "provider_status", "actor")
_NO_COUNTED_FILTER: dict[str, None] = dict.fromkeys(COUNTED)


class Position(NamedTuple):
    """A binding's place in the order of the list; `at` is its time of the request, or its end."""

    at: datetime
    id: str


def read_page(
    connection: Connection,
    filters: SearchFilters,
    now: ColumnElement[datetime],
    *,
    order: Order,
    after: tuple[datetime, str] | None,
    limit: int,
) -> tuple[list[Binding], Position | None]:
    """Return up to `limit` bindings, from after the position `after` of the order.

    If there are fewer, also the position of the last binding that was read, or None if it was the last one.
    `ENDS_SOONEST` needs `filters.active`.
    """
    source = _source(connection, filters, now, order, after)
    rows = source.rows.c
    statement = select(*rows).where(*source.conditions(connection.dialect, filters, now))
    if after is not None:
        statement = statement.where(_comes_after(rows, order, after))
    listed = run(connection, statement.order_by(*_order_by(rows, order)).limit(limit))
    # A binding that was inserted meanwhile moves the end nearer: then a few are read again, and none is left out.
    stopped_at = None if len(listed) == limit else source.end(connection)
    return listed, stopped_at


def count_values(
    connection: Connection, filters: SearchFilters, now: ColumnElement[datetime], *, only_actor: str | None
) -> tuple[list[ValueCount], Position | None]:
    """Count the newest bindings by the values of `COUNTED`; the filters of those columns are ignored.

    With `only_actor` those that this actor requested. Also returns the position of the last binding that was read,
    or None if all were.
    """
    uncounted = replace(filters, **_NO_COUNTED_FILTER)
    source = _source(connection, uncounted, now, Order.NEWEST, None)
    columns = [source.rows.c[name] for name in COUNTED]
    statement = select(*columns, func.count()).group_by(*columns)
    statement = statement.where(*source.conditions(connection.dialect, uncounted, now))
    if only_actor is not None:
        statement = statement.where(source.rows.c.actor == only_actor)
    counts = [
        ValueCount(dict(zip(COUNTED, row[:-1], strict=True)), row[-1]) for row in connection.execute(statement)
    ]
    return counts, source.end(connection)


def count_requested(connection: Connection, *, since: datetime | None, until: datetime | None) -> int:
    """Count the bindings requested in [since, until), in the index of that time."""
    statement = select(func.count()).select_from(bindings)
    if since is not None:
        statement = statement.where(bindings.c.requested_at >= since)
    if until is not None:
        statement = statement.where(bindings.c.requested_at < until)
    return connection.execute(statement).scalar_one()


def position_of(binding: Binding, order: Order) -> Position:
    """Return the place of a binding in the order."""
    at = binding.expires_at if order is Order.ENDS_SOONEST else binding.requested_at
    if at is None:
        raise AssertionError("unreachable: an active binding has an end")
    return Position(at, binding.id)


def export(
    connection: Connection,
    filters: SearchFilters,
    now: ColumnElement[datetime],
    *,
    order: Order,
    file_format: str,
) -> Iterator[RecordColumns]:
    """Yield every binding that matches, in this order, in batches: memory stays constant.

    The batches are for lines of the `file_format`.
    """
    columns = stored_columns(postgres=sql.is_postgres(connection), file_format=file_format)
    matching = conditions(connection.dialect, filters, now)
    statement = select(*columns.values()).where(*matching).order_by(*_order_by(bindings.c, order))
    keys = keys_of(connection.dialect)
    with connection.execute(statement) as result:  # also closed if the caller stops early
        for rows in sql.batches(connection, result):
            yield to_record_columns(rows, columns, keys)


@dataclass(frozen=True, slots=True)
class _Source:
    """What a page or the counts read: `rows`, and how to find the end of them where there may be more."""

    rows: FromClause
    end: Callable[[Connection], Position | None]

    def conditions(
        self, dialect: Dialect, filters: SearchFilters, now: ColumnElement[datetime]
    ) -> Iterator[ColumnElement[bool]]:
        """Yield the condition of each filter that is set, on the columns of `rows`."""
        adapter = ClauseAdapter(self.rows)
        yield from (adapter.traverse(condition) for condition in conditions(dialect, filters, now))


def _source(
    connection: Connection,
    filters: SearchFilters,
    now: ColumnElement[datetime],
    order: Order,
    after: tuple[datetime, str] | None,
) -> _Source:
    """Return the bindings of a filter that has its own index, if they are few, else a part of the list's order."""
    for condition, index_order in _indexed(filters, postgres=sql.is_postgres(connection)):
        if _count(connection, condition, index_order) <= ROWS_READ:
            return _Source(sql.materialized(select(*COLUMNS).where(condition)), _no_end)
    columns = bindings.c
    in_range = list(_order_conditions(filters, now, order, postgres=sql.is_postgres(connection)))
    if after is not None:
        in_range.append(_comes_after(columns, order, after))
    part = select(*COLUMNS).where(*in_range).order_by(*_order_by(columns, order))
    last = select(_order_column(columns, order), columns.id).where(*in_range)
    last = last.order_by(*_order_by(columns, order)).offset(ROWS_READ - 1).limit(1)

    def end(connection: Connection) -> Position | None:
        row = connection.execute(last).one_or_none()
        return None if row is None else Position(*row)

    return _Source(part.limit(ROWS_READ).subquery("part"), end)


def _no_end(_connection: Connection) -> None:
    """Return that nothing follows: all bindings are in the rows."""


def _indexed(
    filters: SearchFilters, *, postgres: bool
) -> Iterator[tuple[ColumnElement[bool], ColumnElement[Any]]]:
    """Yield the conditions of filters that have an index of their own, each with the order of that index."""
    columns = bindings.c
    if filters.reference is not None:
        yield columns.reference == filters.reference, columns.requested_at
    if filters.reference_prefix is not None:
        # The order of the index, which compares byte by byte.
        byte_order: ColumnElement[Any] = literal_column("reference USING ~<~") if postgres else columns.reference
        yield sql.starts_with(columns.reference, filters.reference_prefix, postgres=postgres), byte_order
    if filters.state is State.IN_DOUBT:
        yield in_state(State.IN_DOUBT), columns.held_until
    if filters.state is State.PENDING:
        yield in_state(State.PENDING), columns.settle_by
    if filters.state is State.ACTIVE or filters.active:
        yield in_state(State.ACTIVE), columns.expires_at


def _count(connection: Connection, condition: ColumnElement[bool], index_order: ColumnElement[Any]) -> int:
    """Return how many bindings meet the condition, at most one more than `ROWS_READ`."""
    # Without the order of the index a planner may look for them in the whole table.
    matching = select(bindings.c.id).where(condition).order_by(index_order).limit(ROWS_READ + 1).subquery()
    return connection.execute(select(func.count()).select_from(matching)).scalar_one()


def _order_conditions(
    filters: SearchFilters, now: ColumnElement[datetime], order: Order, *, postgres: bool
) -> Iterator[ColumnElement[bool]]:
    """Yield the conditions that the index of the order serves."""
    columns = bindings.c
    if order is Order.ENDS_SOONEST:
        yield in_state(State.ACTIVE)
        yield columns.expires_at > now
        return
    if filters.active:
        yield columns.requested_at > sql.earlier(now, LONGEST_SPAN, postgres=postgres)
    if filters.requested_from is not None:
        yield columns.requested_at >= filters.requested_from
    if filters.requested_to is not None:
        yield columns.requested_at < filters.requested_to


def _order_column(columns: Columns, order: Order) -> ColumnElement[datetime]:
    column: ColumnElement[datetime] = columns.expires_at if order is Order.ENDS_SOONEST else columns.requested_at
    return column


def _order_by(columns: Columns, order: Order) -> tuple[ColumnElement[Any], ...]:
    ordered = _order_column(columns, order), columns.id
    return tuple(column.desc() for column in ordered) if order is Order.NEWEST else ordered


def _comes_after(columns: Columns, order: Order, position: tuple[datetime, str]) -> ColumnElement[bool]:
    """Return the condition that a binding comes after a position of the order."""
    column = _order_column(columns, order)
    if order is Order.NEWEST:
        return sql.keyset_before((column, columns.id), position)
    # The first condition follows from the second: it gives an index over the first column alone a start.
    return and_(column >= position[0], sql.keyset_after((column, columns.id), position))
