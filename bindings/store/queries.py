"""Reads of bindings: lookup, trace, search, in doubt, export, counts. Nothing here writes.

The hot statements are built once, run in AUTOCOMMIT as a single statement, and reach their rows by the indexes
over (phone, held_until), (middle number, held_until) or (reference, requested_at) only: the inner part is
MATERIALIZED, so that no planner, with statistics or without, can start from the set of live bindings instead.
Tests pin the plans; tests/store/sql has the text of the statements.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import fields
from datetime import timedelta
from functools import cache, cached_property, partial
from typing import TYPE_CHECKING, Any, NamedTuple

from sqlalchemy import String, and_, bindparam, case, func, not_, null, or_, select, type_coerce, union_all

from bindings.domain.binding import EventKind, Mode, Reason, State
from bindings.domain.serialization import batches
from bindings.store import events, phones, sql, texts
from bindings.store.bindings import (
    COLUMNS,
    NAMES,
    has_key,
    in_state,
    middle_number_b_is,
    release_owed,
    to_binding,
    to_opened_binding,
)
from bindings.store.column_types import Instant
from bindings.store.compiled import CompiledStatement
from bindings.store.one_row import first_column, one_row
from bindings.store.schema import bindings
from bindings.store.schema import events as events_table

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from datetime import datetime

    from sqlalchemy import CTE, ColumnElement, CompoundSelect, Connection, Dialect, ScalarSelect, Select
    from sqlalchemy.sql.base import ReadOnlyColumnCollection

    from bindings.domain.binding import Binding, Event
    from bindings.domain.phone import Phone
    from bindings.domain.search_filters import SearchFilters
    from bindings.provider.outcome import ProviderBinding

IDS_PER_STATEMENT = 1_000
MAX_CANDIDATES = 20  # bindings that a row of the provider's list may be
# No binding outlasts its request by more: 72 h, the longest tolerance and guard, and the send window.
LONGEST_SPAN = timedelta(hours=72 + 24 + 24, minutes=5)
_PHONES = (bindings.c.phone_a, bindings.c.phone_b)
_MIDDLE_NUMBERS = (bindings.c.middle_number_a, bindings.c.middle_number_b)
# The columns of the bindings whose A, and of those whose B, is the phone that is asked for: without its sealed
# digits, which `lookup` has no use for.
_COLUMNS_OF_OTHER = tuple(
    tuple(
        type_coerce(null(), column.type).label(column.key)
        if column.key == f"{phone.key}{phones.SUFFIX}"
        else column
        for column in COLUMNS
    )
    for phone in _PHONES
)


class Lookups:
    """The hot statements for a database with the clock `now`, each built once, at its first use.

    A phone may be stored in `form_count` forms (`store.phones`).
    """

    def __init__(self, now: ColumnElement[datetime], *, postgres: bool, form_count: int = 1) -> None:
        self._now = now
        self._form_count = form_count
        self._postgres = postgres

    @cached_property
    def by_phone(self) -> CompiledStatement:
        """Active bindings of :phone."""
        return _active_of_party(self._now, *map(self._is_phone, _PHONES), columns=_COLUMNS_OF_OTHER)

    @cached_property
    def by_middle_number(self) -> CompiledStatement:
        """Active bindings with :middle_number."""
        number = bindparam("middle_number", type_=String)
        return _active_of_party(self._now, [bindings.c.middle_number_a == number], [middle_number_b_is(number)])

    @cached_property
    def by_party(self) -> CompiledStatement:
        """Active bindings in which :phone has :middle_number."""
        number = bindparam("middle_number", type_=String)
        # The phone's index is more selective: a middle number may serve thousands of pairs.
        return _active_of_party(
            self._now,
            *(
                [and_(is_phone, middle_number == number) for is_phone in self._is_phone(phone)]
                for phone, middle_number in zip(_PHONES, _MIDDLE_NUMBERS, strict=True)
            ),
            columns=_COLUMNS_OF_OTHER,
        )

    def _is_phone(self, column: ColumnElement[Any]) -> list[ColumnElement[bool]]:
        """Return conditions of which one is met if a column has :phone, in whichever form.

        All forms are asked for also if every row has the same one. A statement that would first read whether that
        is so, lest an older database was restored beneath it, takes as long (measured), and this is never wrong.
        """
        phone = phones.parameters("phone", self._form_count)
        if self._postgres:
            return [phones.is_any_of(column, phone)]
        return [column == form for form in phone]  # SQLite makes a table for an IN, at each run

    @cached_property
    def by_reference(self) -> CompiledStatement:
        """Active bindings of :reference."""
        reference = bindparam("reference", type_=String)
        # The lower bound keeps the older bindings of a reference that is used again and again from being read.
        recent = bindings.c.requested_at > sql.earlier(self._now, LONGEST_SPAN, postgres=self._postgres)
        return _active(self._now, select(*COLUMNS).where(bindings.c.reference == reference, recent))


def _active_of_party(
    now: ColumnElement[datetime],
    *conditions: Sequence[ColumnElement[bool]],
    columns: Sequence[Sequence[ColumnElement[Any]]] = (COLUMNS, COLUMNS),
) -> CompiledStatement:
    """Build the statement for active bindings that meet a condition of A or B; `columns` are those of either.

    No binding meets two: its parties differ.
    """
    held = bindings.c.held_until > now
    of_party = zip(columns, conditions, strict=True)
    return _active(now, *(select(*of).where(condition, held) for of, any_of in of_party for condition in any_of))


def _active(now: ColumnElement[datetime], *branches: Select[Any]) -> CompiledStatement:
    """Build the statement for those rows of the branches that are active now, newest first."""
    candidates = sql.materialized(*branches)
    return CompiledStatement(
        select(*(candidates.c[name] for name in NAMES))
        .where(_is_active(candidates.c, now))
        .order_by(candidates.c.requested_at.desc(), candidates.c.id.desc())
    )


def _is_active(columns: ReadOnlyColumnCollection[str, Any], now: ColumnElement[datetime]) -> ColumnElement[bool]:
    """Return the condition that a caller may rely on a binding now, as `Binding.is_active` has it."""
    return and_(
        sql.equals_literal(columns.state, State.ACTIVE),
        columns.expires_at > now,
        columns.unbind_requested_at.is_(None),
    )


def lookup(
    connection: Connection, /, statement: CompiledStatement, *, phone: Phone | None = None, **values: object
) -> list[Binding]:
    """Return the bindings that a statement of `Lookups` selects for these values."""
    phone_by_index = {}
    if phone is not None:
        forms = phones.forms(connection.dialect, phone)
        phone_by_index = dict.fromkeys(forms, phone)
        values |= zip(phones.parameter_names("phone", len(forms)), forms, strict=True)
    return [to_binding(row, phone_by_index) for row in statement.fetch_all(connection, values)]


def run(connection: Connection, statement: Select[Any] | CompoundSelect[Any], **values: object) -> list[Binding]:
    """Return the bindings that a statement over `COLUMNS` selects."""
    return [to_binding(row) for row in connection.execute(statement, values)]


def bindings_with_middle_number(
    connection: Connection, *, middle_number: str, party: Phone | None, since: datetime, until: datetime
) -> list[Binding]:
    """Return every binding that may have had the middle number at some time between `since` and `until`.

    With `party`, only bindings in which that phone had the middle number.
    """
    dialect = connection.dialect
    statement = _BETWEEN if party is None else _between_with_party(phones.form_count(dialect))
    values = {"middle_number": middle_number, "since": since, "until": until, "span": until + LONGEST_SPAN}
    if party is not None:
        values |= phones.parameter_values(dialect, phone=party)
    return [to_binding(row) for row in statement.fetch_all(connection, values)]


def is_between() -> tuple[ColumnElement[bool], ...]:
    """Return conditions on the index of a number that a binding meets if it existed between :since and :until.

    :span is `LONGEST_SPAN` after :until: without this bound the later history of a busy number would be read too.
    A binding is not sent before it is requested, so the last condition follows from one on the start.
    """
    since, until, span = (bindparam(name, type_=Instant) for name in ("since", "until", "span"))
    held_until = bindings.c.held_until
    # A planner that knew this value might begin with the index on requested_at, where it expects few bindings.
    unknown_until = select(until).scalar_subquery()
    return held_until >= since, held_until <= span, bindings.c.requested_at <= unknown_until


def _between(as_a: ColumnElement[bool], as_b: ColumnElement[bool]) -> CompiledStatement:
    """Build the statement for bindings that may have existed between :since and :until."""
    candidates = sql.materialized(*(select(*COLUMNS).where(match, *is_between()) for match in (as_a, as_b)))
    started = func.coalesce(candidates.c.sent_at, candidates.c.requested_at, type_=Instant)
    return CompiledStatement(
        select(*(candidates.c[name] for name in NAMES)).where(started <= bindparam("until", type_=Instant))
    )


_NUMBER = bindparam("middle_number", type_=String)
_BETWEEN = _between(bindings.c.middle_number_a == _NUMBER, middle_number_b_is(_NUMBER))


@cache
def _between_with_party(form_count: int) -> CompiledStatement:
    by_a, by_b = (phones.is_any_of(column, phones.parameters("phone", form_count)) for column in _PHONES)
    return _between(
        and_(by_a, bindings.c.middle_number_a == _NUMBER), and_(by_b, bindings.c.middle_number_b == _NUMBER)
    )


_FILTER_CONDITIONS: dict[str, Callable[[Any], ColumnElement[bool]]] = {
    "middle_number": lambda number: or_(bindings.c.middle_number_a == number, middle_number_b_is(number)),
    "state_reason": lambda reason: bindings.c.reason == reason,
    "idempotency_key": lambda key: or_(has_key(key), bindings.c.freed_key == key),
    "requested_from": lambda at: bindings.c.requested_at >= at,
    "requested_to": lambda at: bindings.c.requested_at < at,
}


def conditions(
    dialect: Dialect, filters: SearchFilters, now: ColumnElement[datetime]
) -> list[ColumnElement[bool]]:
    """Return the condition of each filter that is set: the one above, or equality with the column of its name."""
    postgres = dialect.name == "postgresql"
    special = _FILTER_CONDITIONS | {
        "phone": lambda phone: has_party(phones.forms(dialect, phone)),
        "active": lambda active: _activity(now, active=active, postgres=postgres),
        "reference_prefix": partial(sql.starts_with, bindings.c.reference, postgres=postgres),
    }
    values = ((field.name, getattr(filters, field.name)) for field in fields(filters))
    return [
        special[name](value) if name in special else bindings.c[name] == value
        for name, value in values
        if value is not None
    ]


def has_party(phone: Sequence[Any]) -> ColumnElement[bool]:
    """Return the condition that a binding has a party with one of the forms of a phone (`store.phones`)."""
    return or_(*(phones.is_any_of(column, phone) for column in _PHONES))


def _activity(now: ColumnElement[datetime], *, active: bool, postgres: bool) -> ColumnElement[bool]:
    """Return the condition that a binding is active now, or is not.

    An active one was requested not long ago: so a page of few is not looked for in the whole history.
    """
    if not active:
        return not_(_is_active(bindings.c, now))
    recent = bindings.c.requested_at > sql.earlier(now, LONGEST_SPAN, postgres=postgres)
    return and_(_is_active(bindings.c, now), recent)


def count_by_index(branches: Iterable[ColumnElement[bool]], limit: int) -> ScalarSelect[int]:
    """Return the number of bindings of the branches, each read as in `read_by_index`."""
    all_parts = read_by_index(branches, sql.literal_number(1).label("row"), limit).subquery()
    return select(func.count()).select_from(all_parts).scalar_subquery()


def read_by_index(
    branches: Iterable[ColumnElement[bool]], column: ColumnElement[Any], limit: int
) -> CompoundSelect[Any]:
    """Return a value of the bindings of the branches, each read by its index alone to at most `limit` rows.

    The index of a branch is one over (its column, `held_until`, `requested_at`), of which `column` may be one. The
    table is read only for rows of pages that were not vacuumed since their last change.
    """
    # In the order of the index: else a planner may read the whole table.
    order, most = bindings.c.held_until, sql.literal_number(limit)
    parts = (select(column).where(branch).order_by(order).limit(most).subquery() for branch in branches)
    return union_all(*(select(part) for part in parts))


def by_ids(connection: Connection, binding_ids: list[str]) -> list[Binding]:
    """Return the bindings with these ids, in no order."""
    return run(connection, select(*COLUMNS).where(bindings.c.id.in_(binding_ids))) if binding_ids else []


def doubts(
    connection: Connection,
    now: ColumnElement[datetime],
    *,
    limit: int,
    after: tuple[datetime, str] | None = None,
) -> list[Binding]:
    """Return bindings whose outcome is open, oldest first: in doubt, unsettled, or with an unconfirmed unbind."""
    candidates = _doubts(now, COLUMNS)
    order = candidates.c.requested_at, candidates.c.id
    statement = select(candidates).order_by(*order).limit(limit)
    if after is not None:
        statement = statement.where(sql.keyset_after(order, after))
    return run(connection, statement)


def _doubts(now: ColumnElement[datetime], columns: Sequence[ColumnElement[Any]]) -> CTE:
    conditions = (
        and_(in_state(State.IN_DOUBT), bindings.c.waits_for.is_(None)),
        and_(in_state(State.PENDING), bindings.c.settle_by <= now, bindings.c.waits_for.is_(None)),
        _is_unbinding(),
    )
    # MATERIALIZED: otherwise a planner may search the whole history, oldest first, for such rows.
    return sql.materialized(*(select(*columns).where(condition) for condition in conditions))


@one_row(lambda count, oldest: (count, oldest))
def count_doubts(now: ColumnElement[datetime], *, limit: int) -> Select[*tuple[Any, ...]]:
    """Return how many bindings `doubts` has, counted up to `limit`, and since when the oldest outcome is open."""
    columns = (bindings.c[name] for name in ("id", "state", "requested_at", "unbind_requested_at"))
    candidates = _doubts(now, tuple(columns))
    oldest = select(candidates).order_by(candidates.c.requested_at, candidates.c.id)
    oldest_doubts = oldest.limit(sql.literal_number(limit)).subquery()
    is_unbinding = and_(oldest_doubts.c.state == State.ACTIVE, oldest_doubts.c.unbind_requested_at.is_not(None))
    opened_at = case((is_unbinding, oldest_doubts.c.unbind_requested_at), else_=oldest_doubts.c.requested_at)
    return select(func.count(), func.min(opened_at, type_=Instant)).select_from(oldest_doubts)


@one_row(first_column)
def longest_overdue(now: ColumnElement[datetime]) -> Select[*tuple[Any, ...]]:
    """Return the oldest end of a binding that is over and still recorded as active, or None if there is none."""
    overdue = in_state(State.ACTIVE), bindings.c.expires_at <= now
    return select(func.min(bindings.c.expires_at, type_=Instant)).where(*overdue)


def unbinding(connection: Connection, *, limit: int) -> list[Binding]:
    """Return active bindings whose requested unbind is not confirmed yet, the oldest request first."""
    statement = select(*COLUMNS).where(_is_unbinding())
    return run(connection, statement.order_by(bindings.c.unbind_requested_at).limit(limit))


def releases_owed(connection: Connection, now: datetime, *, limit: int) -> list[Binding]:
    """Return expired bindings that the provider may still hold, up to `limit`, the longest expired first."""
    statement = select(*COLUMNS).where(release_owed(now)).order_by(bindings.c.ended_at).limit(limit)
    return run(connection, statement)


@one_row(lambda count, oldest: (count, oldest))
def count_releases_owed(now: ColumnElement[datetime], *, limit: int) -> Select[*tuple[Any, ...]]:
    """Return how many expired bindings the provider may still hold, up to `limit`, and their earliest end."""
    # Without the order of the index a planner may look for them in the whole table.
    by_end = select(bindings.c.ended_at).where(release_owed(now)).order_by(bindings.c.provider_expires_at)
    expired = by_end.limit(sql.literal_number(limit)).subquery()
    return select(func.count(), func.min(expired.c.ended_at, type_=Instant)).select_from(expired)


def is_bind_id_used_again(connection: Connection, binding: Binding) -> bool:
    """Return True if another active binding of the application has the bind_id: an unbind would end that one."""
    statement = select(bindings.c.id).where(
        bindings.c.app_id == binding.app_id,
        bindings.c.bind_id == binding.bind_id,
        in_state(State.ACTIVE),
        bindings.c.id != binding.id,
    )
    return connection.execute(statement.limit(1)).first() is not None


def overdue_successors(connection: Connection, now: datetime, *, limit: int) -> list[str]:
    """Return the ids of successors that still wait for their predecessor past `settle_by`, up to `limit`."""
    waiting = bindings.c.waits_for.is_not(None), bindings.c.ended_at.is_(None), bindings.c.settle_by <= now
    statement = select(bindings.c.id).where(*waiting).order_by(bindings.c.settle_by).limit(limit)
    return list(connection.execute(statement).scalars())


def _is_unbinding() -> ColumnElement[bool]:
    return and_(in_state(State.ACTIVE), bindings.c.unbind_requested_at.is_not(None))


def unsettled(connection: Connection, app_id: str | None) -> list[Binding]:
    """Return the bindings of an application (None: of all) whose bind_id, if there is one, is unknown here.

    A waiting successor was not sent, so it has none.
    """
    of_app = [*_of_app(app_id), bindings.c.waits_for.is_(None)]
    branches = (select(*COLUMNS).where(in_state(state), *of_app) for state in (State.PENDING, State.IN_DOUBT))
    return run(connection, union_all(*branches))


def youngest_doubts(connection: Connection, now: datetime, *, mode: Mode) -> dict[str, datetime]:
    """Return, for each application with bindings of a mode in doubt and past `settle_by`, the latest of those."""
    latest = func.max(bindings.c.settle_by, type_=Instant)
    statement = select(bindings.c.app_id, latest).where(
        in_state(State.IN_DOUBT),
        bindings.c.mode == mode,
        bindings.c.settle_by <= now,
        bindings.c.waits_for.is_(None),
    )
    return {row[0]: row[1] for row in connection.execute(statement.group_by(bindings.c.app_id))}


def count_active_since(connection: Connection, app_id: str | None, *, since: datetime, limit: int) -> int:
    """Count the active bindings of an application (None: all) among the first `limit` requested after `since`."""
    later = select(bindings.c.state, bindings.c.app_id).where(bindings.c.requested_at > since)
    later = later.order_by(bindings.c.requested_at, bindings.c.id).limit(limit)
    # MATERIALIZED, and the state outside: otherwise a planner may read the index of everything that is active.
    requested = later.cte("requested").prefix_with("MATERIALIZED")
    of_app = [] if app_id is None else [requested.c.app_id == app_id]
    statement = select(func.count()).select_from(requested).where(requested.c.state == State.ACTIVE, *of_app)
    return connection.execute(statement).scalar_one()


def _of_app(app_id: str | None) -> list[ColumnElement[bool]]:
    return [] if app_id is None else [bindings.c.app_id == app_id]


def of_unknown_row(connection: Connection, row: ProviderBinding) -> list[Binding]:
    """Return the bindings of a listed row's pair that are active, or ended without a bind_id, newest first."""
    pair = phones.forms(connection.dialect, row.phone_a, row.phone_b)
    statement = select(*COLUMNS).where(
        bindings.c.phone_a.in_(pair),
        bindings.c.phone_b.in_(pair),
        or_(
            bindings.c.state == State.ACTIVE,
            and_(bindings.c.bind_id.is_(None), bindings.c.state.in_((State.FAILED, State.LAPSED))),
        ),
    )
    return run(connection, statement.order_by(bindings.c.requested_at.desc()).limit(MAX_CANDIDATES))


def must_be_listed(
    connection: Connection, app_id: str | None, *, since: datetime, until: datetime
) -> Iterator[tuple[str, str]]:
    """Yield (id, bind_id) of the bindings (`app_id` None: of all) that live from `since` until after `until`."""
    statement = select(bindings.c.id, bindings.c.bind_id).where(
        in_state(State.ACTIVE),
        *_of_app(app_id),
        bindings.c.answered_at <= since,
        bindings.c.expires_at > until,
        bindings.c.unbind_requested_at.is_(None),
    )
    for row in connection.execute(statement):
        yield row.id, str(row.bind_id)


def by_bind_ids(connection: Connection, bind_ids: list[str]) -> dict[str, list[Binding]]:
    """Return our bindings, of any application and in any state, by these provider ids."""
    apps = list(connection.execute(_APPS_WITH_BIND_IDS).scalars())
    bindings_by_bind_id: dict[str, list[Binding]] = {}
    for start in range(0, len(bind_ids), IDS_PER_STATEMENT):  # the databases limit the values of a statement
        ids = bind_ids[start : start + IDS_PER_STATEMENT]
        statement = select(*COLUMNS).where(bindings.c.app_id.in_(apps), bindings.c.bind_id.in_(ids))
        for binding in run(connection, statement):
            bindings_by_bind_id.setdefault(str(binding.bind_id), []).append(binding)
    return bindings_by_bind_id


def _apps_with_bind_ids() -> Select[Any]:
    """Build the statement for the applications that have provider ids, by one step in the index for each."""
    next_rows = bindings.alias()
    apps = (
        select(func.min(bindings.c.app_id).label("app_id"))
        .where(bindings.c.bind_id.is_not(None))
        .cte("apps", recursive=True)
    )
    following = (
        select(func.min(next_rows.c.app_id))
        .where(next_rows.c.app_id > apps.c.app_id, next_rows.c.bind_id.is_not(None))
        .scalar_subquery()
    )
    apps = apps.union_all(select(following).where(apps.c.app_id.is_not(None)))
    return select(apps.c.app_id).where(apps.c.app_id.is_not(None))


_APPS_WITH_BIND_IDS = _apps_with_bind_ids()


class Outcome(NamedTuple):
    """When a bind was requested, sent and answered, and how it ended or is now."""

    requested_at: datetime
    sent_at: datetime | None
    answered_at: datetime | None
    settle_by: datetime
    state: State
    provider_status: str | None
    reason: str | None

    @property
    def response_s(self) -> float | None:
        """Return how long the provider took to answer; None if it did not answer.

        That of an adopted binding is not known: its `answered_at`, after `settle_by`, is when a scan saw it.
        """
        if self.sent_at is None or self.answered_at is None or self.answered_at >= self.settle_by:
            return None
        return (self.answered_at - self.sent_at).total_seconds()


_OUTCOME_COLUMNS = tuple(bindings.c[name] for name in Outcome._fields)


def newest_outcomes(connection: Connection, *, limit: int) -> list[Outcome]:
    """Return how the newest `limit` binds ended, the newest first."""
    newest = select(*_OUTCOME_COLUMNS).order_by(bindings.c.requested_at.desc(), bindings.c.id.desc()).limit(limit)
    return [Outcome(*row)._replace(state=State(row.state)) for row in connection.execute(newest)]


def open_apps(connection: Connection) -> list[str]:
    """Return the applications that have pending, in doubt or active bindings."""
    states = (State.PENDING, State.IN_DOUBT, State.ACTIVE)
    statement = select(bindings.c.app_id).where(bindings.c.state.in_(states)).distinct()
    return sorted(connection.execute(statement).scalars())


def all_apps(connection: Connection) -> list[str]:
    """Return every application that ever had a binding. Reads every row."""
    return sorted(connection.execute(select(bindings.c.app_id).distinct()).scalars())


def export_bindings(
    connection: Connection, *, since: datetime | None, until: datetime | None
) -> Iterator[Binding]:
    """Yield every binding requested in [since, until), oldest first, in batches: memory stays constant."""
    statement = select(*COLUMNS).order_by(bindings.c.requested_at, bindings.c.id)
    if since is not None:
        statement = statement.where(bindings.c.requested_at >= since)
    if until is not None:
        statement = statement.where(bindings.c.requested_at < until)
    with connection.execute(statement) as rows:  # also closed if the caller stops early
        for row in rows:
            yield to_opened_binding(row)


def export_events(connection: Connection, *, since: datetime | None, until: datetime | None) -> Iterator[Event]:
    """Yield every event that happened in [since, until), in feed order, in batches: memory stays constant."""
    with connection.execute(events.committed_events(since=since, until=until)) as rows:
        for batch in batches(map(events.to_event, rows)):
            yield from texts.with_texts(connection, batch)


def counts(connection: Connection, *, since: datetime | None) -> dict[str, dict[str, int]]:
    """Count bindings by state, pool and provider status, and events by kind. Reads every row.

    With `since` only bindings that were requested, and events that happened, at that time or later.

    `by_met` counts the refusals of the provider for a phone that was free here, by the requested mode and by the
    mode and state of our bindings that held the phone ("nothing of ours": no such binding).
    """
    grouped = {
        "by_state": bindings.c.state,
        "by_pool": bindings.c.pool_number,
        "by_provider_status": bindings.c.provider_status,
        "by_event": events_table.c.kind,
    }
    groups = {}
    for name, column in grouped.items():
        at = bindings.c.requested_at if column.table is bindings else events_table.c.at
        statement = select(column, func.count()).where(column.is_not(None), *_since(at, since))
        rows = connection.execute(statement.group_by(column).order_by(column))
        groups[name] = {str(value): number for value, number in rows}
    return groups | {"by_met": dict(sorted(_conflict_evidence(connection, since).items()))}


def _since(at: ColumnElement[datetime], since: datetime | None) -> list[ColumnElement[bool]]:
    return [] if since is None else [at >= since]


def _conflict_evidence(connection: Connection, since: datetime | None) -> Counter[str]:
    detail_column = events_table.c.detail
    refusals = select(detail_column).where(
        events_table.c.kind == EventKind.FAILED,
        detail_column["reason"].as_string() == Reason.IN_USE,
        *_since(events_table.c.at, since),
    )
    evidence: Counter[str] = Counter()
    for detail in connection.execute(refusals).scalars():
        holders = {f"{holder['mode']} {holder['state']}" for holder in detail.get("met", detail["own"])}
        evidence.update(f"{detail['mode']} met {holder}" for holder in holders or {"nothing of ours"})
    return evidence
