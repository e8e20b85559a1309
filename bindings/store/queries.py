"""Reads: lookup, trace, search, doubts, export, stats. Nothing here writes.

The hot ones are built once, run in AUTOCOMMIT as a single statement, and reach their rows through
(phone, held_until) or (middle number, held_until) only: the inner part is MATERIALIZED, so that no planner,
with statistics or without, can start from the set of live bindings instead. Tests pin the plans.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import fields
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from sqlalchemy import String, and_, bindparam, func, literal_column, or_, select, tuple_, union_all

from bindings.domain.binding import EventKind, Reason, State
from bindings.domain.search_filters import SearchFilters
from bindings.store import events
from bindings.store.bindings import COLUMNS, FIELDS, middle_number_b_is, to_binding
from bindings.store.column_types import Instant, PhoneNumber
from bindings.store.compiled import CompiledStatement
from bindings.store.schema import bindings
from bindings.store.schema import events as events_table

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from datetime import datetime

    from sqlalchemy import ColumnElement, CompoundSelect, Connection, Select

    from bindings.domain.binding import Binding, Event
    from bindings.domain.phone import Phone
    from bindings.provider.outcome import ProviderBinding

# No binding outlasts its request by more: 72 h, the longest tolerance and guard, and the send window.
ORIGINS = 20
LONGEST_SPAN = timedelta(hours=72 + 24 + 24, minutes=5)


class Lookups:
    """The hot statements, built once for a database whose clock is `now`."""

    def __init__(self, now: ColumnElement[datetime]) -> None:
        phone = bindparam("phone", type_=PhoneNumber)
        number = bindparam("middle_number", type_=String)
        self.by_phone = _active(now, bindings.c.phone_a == phone, bindings.c.phone_b == phone)
        self.by_middle_number = _active(now, bindings.c.middle_number_a == number, middle_number_b_is(number))
        # A party narrows best by its own index: a middle number may serve thousands of pairs.
        self.by_party = _active(
            now,
            and_(bindings.c.phone_a == phone, bindings.c.middle_number_a == number),
            and_(bindings.c.phone_b == phone, bindings.c.middle_number_b == number),
        )


def _active(
    now: ColumnElement[datetime], as_a: ColumnElement[bool], as_b: ColumnElement[bool]
) -> CompiledStatement:
    """The bindings that a caller may rely on now, newest first. One that matches on both sides comes once."""
    live = bindings.c.held_until > now
    found = (
        union_all(select(*COLUMNS).where(as_a, live), select(*COLUMNS).where(as_b, ~as_a, live))
        .cte("found")
        .prefix_with("MATERIALIZED")
    )
    return CompiledStatement(
        select(*(found.c[name] for name in FIELDS))
        .where(
            found.c.state == literal_column("'active'"),
            found.c.expires_at > now,
            found.c.unbind_requested_at.is_(None),
        )
        .order_by(found.c.requested_at.desc(), found.c.id.desc())
    )


def lookup(connection: Connection, /, statement: CompiledStatement, **values: object) -> list[Binding]:
    """The bindings that a statement of `Lookups` selects."""
    return [to_binding(row) for row in statement.fetch_all(connection, values)]


def run(connection: Connection, statement: Select[Any] | CompoundSelect[Any], **values: object) -> list[Binding]:
    """The bindings that a statement of this module selects."""
    return [to_binding(row) for row in connection.execute(statement, values)]


def bindings_with_middle_number(
    connection: Connection, *, middle_number: str, party: Phone | None, since: datetime, until: datetime
) -> list[Binding]:
    """Every binding that may have had the middle number at some moment between `since` and `until`."""
    return run(
        connection,
        _AROUND if party is None else _AROUND_PARTY,
        middle_number=middle_number,
        since=since,
        until=until,
        span=until + LONGEST_SPAN,
        **({} if party is None else {"phone": party}),
    )


def _around(as_a: ColumnElement[bool], as_b: ColumnElement[bool]) -> Select[Any]:
    held_until = bindings.c.held_until
    # The upper bound on held_until keeps the later history of a busy number out of the range read.
    in_range = and_(
        held_until >= bindparam("since", type_=Instant), held_until <= bindparam("span", type_=Instant)
    )
    found = (
        union_all(select(*COLUMNS).where(as_a, in_range), select(*COLUMNS).where(as_b, ~as_a, in_range))
        .cte("found")
        .prefix_with("MATERIALIZED")
    )
    return select(*(found.c[name] for name in FIELDS)).where(
        func.coalesce(found.c.sent_at, found.c.requested_at, type_=Instant) <= bindparam("until", type_=Instant)
    )


_NUMBER = bindparam("middle_number", type_=String)
_PARTY = bindparam("phone", type_=PhoneNumber)
_AROUND = _around(bindings.c.middle_number_a == _NUMBER, middle_number_b_is(_NUMBER))
_AROUND_PARTY = _around(
    and_(bindings.c.phone_a == _PARTY, bindings.c.middle_number_a == _NUMBER),
    and_(bindings.c.phone_b == _PARTY, bindings.c.middle_number_b == _NUMBER),
)


def search(
    connection: Connection, filters: SearchFilters, *, before: tuple[datetime, str] | None, limit: int
) -> list[Binding]:
    """Up to `limit` bindings, newest first, that come after the position `before`."""
    statement = select(*COLUMNS).where(*_conditions(filters)).limit(limit)
    statement = statement.order_by(bindings.c.requested_at.desc(), bindings.c.id.desc())
    if before is not None:
        position = tuple_(bindings.c.requested_at, bindings.c.id)
        statement = statement.where(position < tuple_(*before, types=(Instant(), bindings.c.id.type)))
    return run(connection, statement)


_FILTER_CONDITIONS: dict[str, Callable[[Any], ColumnElement[bool]]] = {
    "phone": lambda phone: or_(bindings.c.phone_a == phone, bindings.c.phone_b == phone),
    "middle_number": lambda number: or_(bindings.c.middle_number_a == number, middle_number_b_is(number)),
    "requested_from": lambda at: bindings.c.requested_at >= at,
    "requested_to": lambda at: bindings.c.requested_at < at,
}


def _conditions(filters: SearchFilters) -> list[ColumnElement[bool]]:
    """Return the condition of each filter that is set: the one above, or equality with the column of its name."""
    values = ((field.name, getattr(filters, field.name)) for field in fields(filters))
    return [
        _FILTER_CONDITIONS[name](value) if name in _FILTER_CONDITIONS else bindings.c[name] == value
        for name, value in values
        if value is not None
    ]


def by_ids(connection: Connection, binding_ids: list[str]) -> list[Binding]:
    """The bindings with these ids, in no order."""
    return run(connection, select(*COLUMNS).where(bindings.c.id.in_(binding_ids))) if binding_ids else []


def doubts(
    connection: Connection,
    now: ColumnElement[datetime],
    *,
    limit: int,
    after: tuple[datetime, str] | None = None,
) -> list[Binding]:
    """What waits for an answer: in doubt, not settled in time, or an unbind that is not clear; oldest first."""
    conditions = (
        bindings.c.state == literal_column("'in_doubt'"),
        and_(bindings.c.state == literal_column("'pending'"), bindings.c.settle_by <= now),
        and_(bindings.c.state == literal_column("'active'"), bindings.c.unbind_requested_at.is_not(None)),
    )
    # MATERIALIZED: else a planner may look for the oldest through the whole history, in its order.
    found = (
        union_all(*(select(*COLUMNS).where(condition) for condition in conditions))
        .cte("found")
        .prefix_with("MATERIALIZED")
    )
    statement = select(found).order_by(found.c.requested_at, found.c.id).limit(limit)
    if after is not None:
        position = tuple_(found.c.requested_at, found.c.id)
        statement = statement.where(position > tuple_(*after, types=(Instant(), bindings.c.id.type)))
    return run(connection, statement)


def longest_overdue(connection: Connection, now: ColumnElement[datetime]) -> datetime | None:
    """The end of the binding that is over for the longest time and still marked active; None where none is."""
    active = bindings.c.state == literal_column("'active'")
    statement = select(func.min(bindings.c.expires_at, type_=Instant)).where(active, bindings.c.expires_at <= now)
    return connection.execute(statement).scalar()


def unbinding(connection: Connection, *, limit: int) -> list[Binding]:
    """The active bindings whose unbind has no clear answer yet, oldest wish first."""
    statement = select(*COLUMNS).where(
        bindings.c.state == literal_column("'active'"), bindings.c.unbind_requested_at.is_not(None)
    )
    return run(connection, statement.order_by(bindings.c.unbind_requested_at).limit(limit))


def unsettled(connection: Connection, app_id: str) -> list[Binding]:
    """The bindings of an application that may exist at the provider without our knowing their bind_id."""
    of_app = bindings.c.app_id == app_id
    states = ("pending", "in_doubt")
    branches = (
        select(*COLUMNS).where(bindings.c.state == literal_column(f"'{state}'"), of_app) for state in states
    )
    return run(connection, union_all(*branches))


def ended_without_bind_id(connection: Connection, app_id: str, row: ProviderBinding) -> list[Binding]:
    """The ended bindings of a row's pair that never learned a bind_id, newest first: its possible origins."""
    pair = (row.phone_a, row.phone_b)
    statement = select(*COLUMNS).where(
        bindings.c.phone_a.in_(pair),
        bindings.c.phone_b.in_(pair),
        bindings.c.app_id == app_id,
        bindings.c.bind_id.is_(None),
        bindings.c.state.in_((State.FAILED, State.LAPSED)),
    )
    return run(connection, statement.order_by(bindings.c.requested_at.desc()).limit(ORIGINS))


def must_be_listed(
    connection: Connection, app_id: str, *, since: datetime, until: datetime
) -> Iterator[tuple[str, str]]:
    """(id, bind_id) of what must have been in the provider's list all the time from `since` to `until`."""
    statement = select(bindings.c.id, bindings.c.bind_id).where(
        bindings.c.state == literal_column("'active'"),
        bindings.c.app_id == app_id,
        bindings.c.answered_at < since,
        bindings.c.expires_at > until,
        bindings.c.unbind_requested_at.is_(None),
    )
    for row in connection.execute(statement):
        yield row.id, str(row.bind_id)


def by_bind_ids(connection: Connection, app_id: str, bind_ids: list[str]) -> dict[str, Binding]:
    """The bindings of ours, in any state, that have one of these provider ids."""
    statement = select(*COLUMNS).where(bindings.c.app_id == app_id, bindings.c.bind_id.in_(bind_ids))
    return {str(binding.bind_id): binding for binding in run(connection, statement)}


def newest_calls(connection: Connection, *, limit: int) -> list[tuple[datetime, datetime, datetime]]:
    """(requested_at, sent_at, answered_at) of the answered among the newest `limit` bindings, the newest first."""
    newest = (
        select(bindings.c.requested_at, bindings.c.sent_at, bindings.c.answered_at)
        .order_by(bindings.c.requested_at.desc(), bindings.c.id.desc())
        .limit(limit)
    )
    rows = connection.execute(newest).all()
    return [(row.requested_at, row.sent_at, row.answered_at) for row in rows if row.answered_at and row.sent_at]


def open_apps(connection: Connection) -> list[str]:
    """The applications that have pending, doubtful or active bindings."""
    states = (State.PENDING, State.IN_DOUBT, State.ACTIVE)
    statement = select(bindings.c.app_id).where(bindings.c.state.in_(states)).distinct()
    return sorted(connection.execute(statement).scalars())


def all_apps(connection: Connection) -> list[str]:
    """Every application that ever had a binding. Reads every row."""
    return sorted(connection.execute(select(bindings.c.app_id).distinct()).scalars())


def export_bindings(
    connection: Connection, *, since: datetime | None, until: datetime | None
) -> Iterator[Binding]:
    """Every binding requested in [since, until), oldest first, in batches: memory stays flat."""
    conditions = _conditions(SearchFilters(requested_from=since, requested_to=until))
    statement = select(*COLUMNS).where(*conditions).order_by(bindings.c.requested_at, bindings.c.id)
    with connection.execute(statement) as rows:  # closed also where the reader stops half-way
        for row in rows:
            yield to_binding(row)


def export_events(connection: Connection, *, since: datetime | None, until: datetime | None) -> Iterator[Event]:
    """Every event that happened in [since, until), in the feed's order, in batches: memory stays flat."""
    statement = events.committed_events()
    if since is not None:
        statement = statement.where(events_table.c.at >= since)
    if until is not None:
        statement = statement.where(events_table.c.at < until)
    with connection.execute(statement) as rows:
        for row in rows:
            yield events.to_event(row)


def counts(connection: Connection) -> dict[str, dict[str, int]]:
    """How many bindings by state, pool and provider status, how many events by kind, and what met. Reads all.

    `by_met` is the evidence about the conflict policy: each phone that the provider found in use although it was
    free here, by the mode that was asked and by what of ours stood beside it ("nothing of ours": a stranger).
    """
    grouped = {
        "by_state": bindings.c.state,
        "by_pool": bindings.c.pool_number,
        "by_provider_status": bindings.c.provider_status,
        "by_event": events_table.c.kind,
    }
    told = {
        name: {
            str(value): number
            for value, number in connection.execute(
                select(column, func.count()).where(column.is_not(None)).group_by(column).order_by(column)
            )
        }
        for name, column in grouped.items()
    }
    return told | {"by_met": dict(sorted(_conflict_evidence(connection).items()))}


def _conflict_evidence(connection: Connection) -> Counter[str]:
    detail = events_table.c.detail
    failed = select(detail).where(
        events_table.c.kind == EventKind.FAILED, detail["reason"].as_string() == Reason.IN_USE
    )
    met: Counter[str] = Counter()
    for told in connection.execute(failed).scalars():
        beside = {f"{own['mode']} {own['state']}" for own in told.get("met", told["own"])} or {"nothing of ours"}
        met.update(f"{told['mode']} met {other}" for other in beside)
    return met
