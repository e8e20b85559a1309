"""Reads of the console about one number, whether it is somebody's phone or a middle number, and about one word.

Who asks need not know which it is: each statement looks in all four columns, each by its own index over
(column, held_until), and never further than a page. Tests pin the plans. Nothing here writes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import and_, func, literal_column, or_, select, tuple_, union_all

from bindings.domain.binding import EventKind, State
from bindings.store.bindings import COLUMNS, FIELDS, middle_number_b_is, to_binding
from bindings.store.column_types import BindingId, Instant
from bindings.store.events import COLUMNS as EVENT_COLUMNS
from bindings.store.events import to_event
from bindings.store.queries import LONGEST_SPAN
from bindings.store.schema import bindings, events

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

    from sqlalchemy import Column, ColumnElement, Connection, Select

    from bindings.domain.binding import Binding, Event
    from bindings.domain.phone import Phone

_PHONES = (bindings.c.phone_a, bindings.c.phone_b)
_COLUMNS = (*_PHONES, bindings.c.middle_number_a, bindings.c.middle_number_b)
_BEGAN = func.coalesce(bindings.c.sent_at, bindings.c.requested_at, type_=Instant)
_FAILED = bindings.c.state == literal_column(f"'{State.FAILED}'")


def bindings_between(
    connection: Connection, number: Phone, *, party: Phone | None, since: datetime, until: datetime
) -> list[Binding]:
    """Every binding with this number that may have been there at some moment between `since` and `until`."""
    held_until = bindings.c.held_until
    conditions = [held_until >= since, held_until <= until + LONGEST_SPAN, until >= _BEGAN, ~_FAILED]
    return _of_number(connection, number, *conditions, *_with_party(party))


def nearest(
    connection: Connection, number: Phone, *, party: Phone | None, at: datetime, actor: str | None
) -> list[Binding]:
    """For each column the binding that ended last before `at`, and the one that began first after it."""
    held_until = bindings.c.held_until
    same = (~_FAILED, *_with_party(party), *_asked_by(actor))
    before = [
        _first(_column_is(column, number), held_until <= at, *same, by=held_until.desc()) for column in _COLUMNS
    ]
    after = [
        _first(_column_is(column, number), held_until > at, at < _BEGAN, *same, by=held_until.asc())
        for column in _COLUMNS
    ]
    return _unique(connection.execute(union_all(*before, *after)))


def history(
    connection: Connection, number: Phone, *, actor: str | None, before: tuple[datetime, str] | None, limit: int
) -> list[Binding]:
    """Up to `limit` bindings with this number, those that hold it longest first, after the position `before`."""
    order = (bindings.c.held_until.desc(), bindings.c.id.desc())
    beyond = () if before is None else (_beyond(before),)
    parts = [
        _first(_column_is(column, number), *beyond, *_asked_by(actor), by=order, limit=limit)
        for column in _COLUMNS
    ]
    found = _unique(connection.execute(union_all(*parts)))
    return sorted(found, key=lambda each: (each.held_until, each.id), reverse=True)[:limit]


def find_by_name(connection: Connection, words: str, *, actor: str | None, limit: int) -> list[Binding]:
    """Up to `limit` bindings that have these words as reference, as bind_id, or that this request changed."""
    by_request = select(events.c.binding_id).where(_of_request(words), events.c.binding_id.is_not(None))
    parts = (
        bindings.c.reference == words,
        and_(bindings.c.app_id.in_(select(_apps())), bindings.c.bind_id == words),
        bindings.c.id.in_(by_request),
    )
    newest = bindings.c.requested_at.desc()
    found = union_all(*(_first(part, *_asked_by(actor), by=newest, limit=limit) for part in parts))
    bound = _unique(connection.execute(found))
    return sorted(bound, key=lambda each: (each.requested_at, each.id), reverse=True)[:limit]


def refusals_of_request(connection: Connection, request_id: str, *, limit: int) -> list[Event]:
    """What a request came to that made no binding: refusals before the call."""
    statement = select(*EVENT_COLUMNS).where(_of_request(request_id), events.c.binding_id.is_(None))
    return [to_event(row) for row in connection.execute(statement.order_by(events.c.position).limit(limit))]


def reveals_of(connection: Connection, binding_ids: list[str], *, limit: int) -> list[Event]:
    """Who was shown full phones of these bindings, newest first."""
    statement = select(*EVENT_COLUMNS).where(
        events.c.binding_id.in_(binding_ids), events.c.kind == literal_column(f"'{EventKind.REVEALED}'")
    )
    return [to_event(row) for row in connection.execute(statement.order_by(events.c.at.desc()).limit(limit))]


def _of_number(connection: Connection, number: Phone, *conditions: ColumnElement[bool]) -> list[Binding]:
    parts = (select(*COLUMNS).where(_column_is(column, number), *conditions) for column in _COLUMNS)
    return _unique(connection.execute(union_all(*parts)))


def _column_is(column: Column[Any], number: Phone) -> ColumnElement[bool]:
    if column is bindings.c.middle_number_b:
        return middle_number_b_is(number.digits)
    return column == (number if column in set(_PHONES) else number.digits)


def _with_party(party: Phone | None) -> tuple[ColumnElement[bool], ...]:
    return () if party is None else (or_(bindings.c.phone_a == party, bindings.c.phone_b == party),)


def _asked_by(actor: str | None) -> tuple[ColumnElement[bool], ...]:
    return () if actor is None else (bindings.c.actor == actor,)


def _beyond(before: tuple[datetime, str]) -> ColumnElement[bool]:
    at, last_id = before
    position = tuple_(bindings.c.held_until, bindings.c.id)
    # Said twice: the first is what an index over held_until alone can start from.
    return and_(bindings.c.held_until <= at, position < tuple_(at, last_id, types=(Instant(), BindingId())))


def _first(*conditions: ColumnElement[bool], by: Any, limit: int = 1) -> Select[Any]:
    """The first rows of one branch. As a subquery: a branch of a union takes no ORDER BY on SQLite."""
    order = by if isinstance(by, tuple) else (by,)
    part = select(*COLUMNS).where(*conditions).order_by(*order).limit(limit).subquery()
    return select(*(part.c[name] for name in FIELDS))


def _of_request(request_id: str) -> ColumnElement[bool]:
    return and_(
        events.c.request_id == request_id,
        events.c.kind != literal_column(f"'{EventKind.ACTIVATED}'"),  # as the index says it
        events.c.request_id.is_not(None),
    )


def _apps() -> ColumnElement[Any]:
    """Every application that has a bind_id, one probe of the unique index for each."""
    known = bindings.c.bind_id.is_not(None)
    first = select(func.min(bindings.c.app_id).label("app_id")).where(known)
    apps = first.cte("apps", recursive=True)
    later = select(func.min(bindings.c.app_id)).where(known, bindings.c.app_id > apps.c.app_id).scalar_subquery()
    walked = apps.union_all(select(later).where(apps.c.app_id.is_not(None)))
    return walked.c.app_id


def _unique(rows: Iterable[Any]) -> list[Binding]:
    """The bindings, each once: one may have the number on both sides."""
    found = {row.id: row for row in rows}
    return [to_binding(row) for row in found.values()]
