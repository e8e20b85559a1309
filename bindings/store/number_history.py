"""Reads of the console about one number, a phone or a middle number, and about one reference or id.

The caller need not know which kind of number it is: each statement reads all four columns, each by its own index
over (column, held_until), and at most one page. Tests pin the plans. A statement that returns bindings is built
once: to build all columns of its branches takes longer than to run it. Nothing here writes.
"""

from __future__ import annotations

from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any

from sqlalchemy import String, and_, bindparam, func, select, union_all

from bindings.domain.binding import EventKind, State
from bindings.store import phones, sql
from bindings.store.bindings import COLUMNS, NAMES, has_key, in_state, middle_number_b_is, to_binding
from bindings.store.column_types import Instant
from bindings.store.compiled import MOST_CLOCKS, CompiledStatement
from bindings.store.events import COLUMNS as EVENT_COLUMNS
from bindings.store.events import from_rows, is_kind, read
from bindings.store.queries import LONGEST_SPAN, count_by_index, has_party, is_between
from bindings.store.schema import bindings, events

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

    from sqlalchemy import ColumnElement, Connection, Dialect, Select

    from bindings.domain.binding import Binding, Event
    from bindings.domain.phone import Phone

_STARTED = func.coalesce(bindings.c.sent_at, bindings.c.requested_at, type_=Instant)
_NOT_FAILED = ~in_state(State.FAILED)


def bindings_between(
    connection: Connection, number: Phone, *, party: Phone | None, since: datetime, until: datetime
) -> list[Binding]:
    """Return every binding with this number that may have existed at some time between `since` and `until`.

    Unlike `queries.bindings_with_middle_number`, which a trace uses, it also matches phones, and either party.
    """
    values = _values(connection.dialect, number, party) | {"since": since, "until": until}
    statement = _between(phones.form_count(connection.dialect), party is not None)
    return _unique(statement.fetch_all(connection, values | {"span": until + LONGEST_SPAN}))


@cache
def _between(form_count: int, of_party: bool) -> CompiledStatement:
    conditions = (*is_between(), bindparam("until", type_=Instant) >= _STARTED, _NOT_FAILED)
    conditions = (*conditions, *_with_party(form_count, of_party))
    branches = (select(*COLUMNS).where(match, *conditions) for match in _matches(form_count))
    return CompiledStatement(union_all(*branches))


def nearest(
    connection: Connection, number: Phone, *, party: Phone | None, at: datetime, actor: str | None
) -> list[Binding]:
    """Return for each column the binding that ended last before `at`, and the one that began first after it."""
    statement = _nearest(phones.form_count(connection.dialect), party is not None, actor is not None)
    values = _values(connection.dialect, number, party) | {"at": at, "actor": actor}
    return _unique(statement.fetch_all(connection, values))


@cache
def _nearest(form_count: int, of_party: bool, has_actor: bool) -> CompiledStatement:
    held_until, at = bindings.c.held_until, bindparam("at", type_=Instant)
    conditions = (_NOT_FAILED, *_with_party(form_count, of_party), *_requested_by(has_actor))
    matches = _matches(form_count)
    before = [_first(match, held_until <= at, *conditions, by=held_until.desc()) for match in matches]
    after = [_first(match, held_until > at, at < _STARTED, *conditions, by=held_until.asc()) for match in matches]
    return CompiledStatement(union_all(*before, *after))


def history(
    connection: Connection, number: Phone, *, actor: str | None, before: tuple[datetime, str] | None, limit: int
) -> list[Binding]:
    """Return up to `limit` bindings with this number, the latest `held_until` first, from after the row `before`.

    With `actor`, only the bindings that this actor requested.
    """
    statement = _history(phones.form_count(connection.dialect), before is not None, actor is not None, limit)
    values = _values(connection.dialect, number) | {"actor": actor}
    if before is not None:
        values |= {"before": before[0], "before_id": before[1]}
    unique = _unique(statement.fetch_all(connection, values))
    return sorted(unique, key=lambda binding: (binding.held_until, binding.id), reverse=True)[:limit]


@cache
def _history(form_count: int, is_later_page: bool, has_actor: bool, limit: int) -> CompiledStatement:
    order = (bindings.c.held_until.desc(), bindings.c.id.desc())
    conditions = (*((_COMES_AFTER,) if is_later_page else ()), *_requested_by(has_actor))
    branches = (_first(match, *conditions, by=order, limit=limit) for match in _matches(form_count))
    return CompiledStatement(union_all(*branches))


def count(
    connection: Connection, number: Phone, *, actor: str | None, now: ColumnElement[datetime], limit: int
) -> tuple[int, int]:
    """Return how many bindings have this number, and how many of them hold it now, each up to about `limit`."""
    counts = _counts(now, phones.form_count(connection.dialect), actor is not None, limit)
    ((total, holding),) = counts.fetch_all(connection, _values(connection.dialect, number) | {"actor": actor})
    return total, holding


@lru_cache(maxsize=MOST_CLOCKS)
def _counts(now: ColumnElement[datetime], form_count: int, has_actor: bool, limit: int) -> CompiledStatement:
    matches = [and_(match, *_requested_by(has_actor)) for match in _matches(form_count)]
    holding = [and_(match, bindings.c.held_until > now, _NOT_FAILED) for match in matches]
    return CompiledStatement(
        select(count_by_index(matches, limit).label("total"), count_by_index(holding, limit).label("holding"))
    )


def find_by_name(connection: Connection, words: str, *, actor: str | None, limit: int) -> list[Binding]:
    """Return up to `limit` bindings with this reference, key or bind_id, or changed by this request."""
    changed_by_request = select(events.c.binding_id).where(_of_request(words), events.c.binding_id.is_not(None))
    conditions = (
        bindings.c.reference == words,
        has_key(words),
        and_(bindings.c.app_id.in_(select(_apps())), bindings.c.bind_id == words),
        bindings.c.id.in_(changed_by_request),
    )
    newest = bindings.c.requested_at.desc()
    of_actor = _requested_by(actor is not None)
    branches = (_first(condition, *of_actor, by=newest, limit=limit) for condition in conditions)
    unique = _unique(connection.execute(union_all(*branches), {"actor": actor}))
    return sorted(unique, key=lambda binding: (binding.requested_at, binding.id), reverse=True)[:limit]


def unbinds_of_request(connection: Connection, request_id: str, *, actor: str | None, limit: int) -> list[Binding]:
    """Return up to `limit` bindings whose unbind this request has requested, the oldest first."""
    requested = select(events.c.binding_id).where(_of_request(request_id), is_kind(EventKind.UNBIND_REQUESTED))
    statement = select(*COLUMNS).where(bindings.c.id.in_(requested), *_requested_by(actor is not None))
    order = bindings.c.requested_at, bindings.c.id
    rows = connection.execute(statement.order_by(*order).limit(limit), {"actor": actor})
    return [to_binding(row) for row in rows]


def refusals_of_request(connection: Connection, request_id: str, *, limit: int) -> list[Event]:
    """Return the refusals of a request before the provider was called; they belong to no binding."""
    statement = select(*EVENT_COLUMNS).where(_of_request(request_id), is_kind(EventKind.REFUSED))
    return read(connection, statement.order_by(events.c.position).limit(limit))


def reveals_of(connection: Connection, binding_ids: list[str], *, since: datetime, limit: int) -> list[Event]:
    """Return up to `limit` reveals of full phones of these bindings, and as many exports in full of periods.

    The newest of each, in no order; exports only if they were made at or after `since`.
    """
    values = {"binding_ids": binding_ids, "since": since}
    return from_rows(connection, _reveals(sql.is_postgres(connection), limit).fetch_all(connection, values))


@cache
def _reveals(postgres: bool, limit: int) -> CompiledStatement:
    of_bindings = sql.is_in_list(events.c.binding_id, "binding_ids", postgres=postgres)
    of_periods = and_(events.c.at >= bindparam("since", type_=Instant), events.c.binding_id.is_(None))
    newest, most = (events.c.at.desc(), events.c.position.desc()), sql.literal_number(limit)
    branches = (
        select(*EVENT_COLUMNS)
        .where(is_kind(EventKind.REVEALED), condition)
        .order_by(*newest)
        .limit(most)
        .subquery()
        for condition in (of_bindings, of_periods)
    )
    return CompiledStatement(union_all(*map(select, branches)))


def _values(dialect: Dialect, number: Phone, party: Phone | None = None) -> dict[str, Any]:
    """Return the values of the parameters of `_matches` and `_with_party`."""
    by_party = {} if party is None else phones.parameter_values(dialect, party=party)
    return phones.parameter_values(dialect, phone=number) | by_party | {"middle_number": number.digits}


@cache
def _matches(form_count: int) -> tuple[ColumnElement[bool], ...]:
    """Return the condition of each column that it has :phone or :middle_number; each has an index of its own."""
    forms, number = phones.parameters("phone", form_count), bindparam("middle_number", type_=String)
    by_phone = [phones.is_any_of(column, forms) for column in (bindings.c.phone_a, bindings.c.phone_b)]
    return (*by_phone, bindings.c.middle_number_a == number, middle_number_b_is(number))


def _with_party(form_count: int, of_party: bool) -> tuple[ColumnElement[bool], ...]:
    return (has_party(phones.parameters("party", form_count)),) if of_party else ()


def _requested_by(has_actor: bool) -> tuple[ColumnElement[bool], ...]:
    return (bindings.c.actor == bindparam("actor", type_=String),) if has_actor else ()


# A binding comes after (:before, :before_id) in the order by `held_until`, newest first. The first condition
# follows from the second: it gives an index over held_until alone a start.
_BEFORE = bindparam("before", type_=Instant)
_COMES_AFTER = and_(
    bindings.c.held_until <= _BEFORE,
    sql.keyset_before(
        (bindings.c.held_until, bindings.c.id), (_BEFORE, bindparam("before_id", type_=bindings.c.id.type))
    ),
)


def _first(*conditions: ColumnElement[bool], by: Any, limit: int = 1) -> Select[Any]:
    """Return the first rows of one branch, as a subquery: on SQLite a branch of a union has no ORDER BY."""
    order = by if isinstance(by, tuple) else (by,)
    branch = select(*COLUMNS).where(*conditions).order_by(*order).limit(sql.literal_number(limit)).subquery()
    return select(*(branch.c[name] for name in NAMES))


def _of_request(request_id: str) -> ColumnElement[bool]:
    return and_(
        events.c.request_id == request_id,
        ~is_kind(EventKind.ACTIVATED),  # the index's condition
        events.c.request_id.is_not(None),
    )


def _apps() -> ColumnElement[Any]:
    """Return every application that has a bind_id: a skip scan, one probe of the unique index for each."""
    has_bind_id = bindings.c.bind_id.is_not(None)
    first = select(func.min(bindings.c.app_id).label("app_id")).where(has_bind_id)
    apps = first.cte("apps", recursive=True)
    following = select(func.min(bindings.c.app_id)).where(has_bind_id, bindings.c.app_id > apps.c.app_id)
    all_apps = apps.union_all(select(following.scalar_subquery()).where(apps.c.app_id.is_not(None)))
    return all_apps.c.app_id


def _unique(rows: Iterable[Any]) -> list[Binding]:
    """Return the bindings without duplicates: one may have the number on both sides."""
    by_id = {row.id: row for row in rows}
    return [to_binding(row) for row in by_id.values()]
