"""Binds that were refused before the provider was called: their record, and the search for them.

The history has an event of each, but events name no phone and are deleted only by age. The phones are in
rows of this table, which may be deleted. A row is written with its event, in one statement where the database can.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from sqlalchemy import Integer, and_, bindparam, func, insert, select, true, union_all

from bindings.domain.binding import EventKind, Holder, Mode, RefusedBind, State
from bindings.store import account, events, phones, sql
from bindings.store.bindings import PHONES
from bindings.store.compiled import CompiledStatement
from bindings.store.one_row import first_column, one_row
from bindings.store.phone_keys import PLAIN, keys_of
from bindings.store.reserve import seconds_until
from bindings.store.schema import bindings, refusals
from bindings.store.schema import events as events_table

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import datetime, timedelta

    from sqlalchemy import ColumnElement, Connection, Row, Select

    from bindings.domain.binding import BindRequest, Caller
    from bindings.domain.search_filters import RefusalFilters
    from bindings.store.database import SqlDialect, Transaction


def record(
    tx: Transaction,
    refusal_id: str,
    request: BindRequest,
    caller: Caller,
    *,
    code: str,
    event_detail: dict[str, Any],
    provider_status: str | None = None,
    holder: Holder | None = None,
) -> bool:
    """Record a refused bind, with a `refused` event; return True.

    Safe to repeat with the same id: after a COMMIT whose response was lost, the row is found. Raises `Busy` if
    this process lacks the keys that phones are written with.
    """
    if tx.attempt > 1 and _exists(tx.connection, refusal_id):
        return True
    names = ("mode", "pool_number", "app_id", "reference")
    both = {name: getattr(request, name) for name in PHONES}
    # Without keys one statement, which writes digits only if `account` says so, saves a round trip.
    is_one_statement = tx.dialect.postgres and keys_of(tx.connection.dialect) is None
    numbers = PLAIN if is_one_statement else account.key_numbers(tx.connection)
    row: dict[str, Any] = {name: getattr(request, name) for name in names} | {
        **phones.stored(tx.connection.dialect, numbers, "refusals", refusal_id, both),
        "id": refusal_id,
        "code": code,
        "provider_status": provider_status,
        "actor": caller.actor,
        "request_id": caller.request_id,
        "holder_id": holder and holder.id,
        "held_by": holder and holder.why,
        "held_until": holder and holder.held_until,
    }
    values = {f"new_{name}": value for name, value in row.items()}
    if request.reference is not None:
        event_detail = event_detail | {events.REFUSAL_ID: refusal_id}
    event_detail = events.with_trace(event_detail)
    event = events.event_params(EventKind.REFUSED, caller, event_detail) | events.WITHOUT_BINDING
    if tx.dialect.postgres:
        both_rows = _insert_with_event(tx.dialect, tuple(row), is_one_statement=is_one_statement)
        if not both_rows.fetch_all(tx.connection, values | event):
            phones.require_keys(tx.connection.dialect, account.key_numbers(tx.connection))
        return True
    logged = events.event_insert(tx.dialect).returning(events_table.c.position, events_table.c.at)
    position, at = tx.connection.execute(logged, event).one()
    tx.connection.execute(insert(refusals), row | {"at": at, "event_position": position})
    return True


@one_row(first_column, by_dialect=True)
def count_account_refusals(
    now: ColumnElement[datetime], *, period: timedelta, limit: int, postgres: bool
) -> Select[Any]:
    """Return how many binds of a period until now were refused because the account was, counted up to `limit`."""
    since = sql.earlier(now, period, postgres=postgres)
    refused = select(refusals.c.id).where(refusals.c.at >= since, refusals.c.held_by.is_(None))
    newest = refused.order_by(refusals.c.at.desc(), refusals.c.id.desc()).limit(sql.literal_number(limit))
    return select(func.count()).select_from(newest.subquery())


def _exists(connection: Connection, refusal_id: str) -> bool:
    return connection.execute(select(refusals.c.id).where(refusals.c.id == refusal_id)).scalar() is not None


@cache
def _insert_with_event(
    dialect: SqlDialect, names: tuple[str, ...], *, is_one_statement: bool
) -> CompiledStatement:
    """Build the statement that writes the event and the row with its position (PostgreSQL)."""
    event = events.event_row(dialect)
    if is_one_statement:
        event = event.where(account.WRITES_DIGITS)
    logged = insert(events_table).from_select(events.INSERT_COLUMNS, event)
    written = logged.returning(events_table.c.position, events_table.c.at).cte("logged")
    new_values = (bindparam(f"new_{name}", type_=refusals.c[name].type) for name in names)
    row = select(*new_values, written.c.at, written.c.position)
    recorded = (
        insert(refusals)
        .from_select([*names, "at", "event_position"], row)
        .returning(refusals.c.id)
        .cte("recorded")
    )
    return CompiledStatement(select(recorded.c.id))


def search(
    connection: Connection, filters: RefusalFilters, *, before: tuple[datetime, str] | None, limit: int
) -> list[RefusedBind]:
    """Return up to `limit` refused binds, newest first, from after the position `before` of that order."""
    equal = {"reference": filters.reference, "request_id": filters.request_id, "actor": filters.actor}
    values: dict[str, Any] = {name: value for name, value in equal.items() if value is not None}
    dialect, form_count = connection.dialect, 0
    if filters.phone is not None:
        form_count = phones.form_count(dialect)
        values |= phones.parameter_values(dialect, phone=filters.phone)
    names = tuple(name for name in equal if name in values)
    values["rows"] = limit
    if filters.reference_prefix is None and before is None:
        return _to_refused_binds(_first_page(names, form_count).fetch_all(connection, values))
    conditions = _equal_to_parameters(names)
    if filters.reference_prefix is not None:
        postgres = sql.is_postgres(connection)
        conditions.append(sql.starts_with(refusals.c.reference, filters.reference_prefix, postgres=postgres))
    if before is not None:
        conditions.append(sql.keyset_before((refusals.c.at, refusals.c.id), before))
    return _to_refused_binds(connection.execute(_newest(conditions, _is_party(form_count)), values))


@cache
def _first_page(names: tuple[str, ...], form_count: int) -> CompiledStatement:
    """Build the usual statement once: that takes longer than to run it."""
    return CompiledStatement(_newest(_equal_to_parameters(names), _is_party(form_count)))


def _equal_to_parameters(names: Iterable[str]) -> list[ColumnElement[bool]]:
    return [refusals.c[name] == bindparam(name, type_=refusals.c[name].type) for name in names]


def _is_party(form_count: int) -> list[ColumnElement[bool]]:
    """Return the conditions of which one holds if a bind has :phone, which has so many forms; 0: it has any."""
    if not form_count:
        return [true()]
    forms = phones.parameters("phone", form_count)
    return [phones.is_any_of(column, forms) for column in (refusals.c.phone_a, refusals.c.phone_b)]


def find_by_name(connection: Connection, words: str, *, actor: str | None, limit: int) -> list[RefusedBind]:
    """Return up to `limit` refused binds with this reference, or of the request with this id, newest first."""
    by_reference, by_request = refusals.c.reference == words, refusals.c.request_id == words
    names = [by_reference, and_(by_request, refusals.c.reference.is_distinct_from(words))]
    statement = _newest([] if actor is None else [refusals.c.actor == actor], names)
    return _to_refused_binds(connection.execute(statement, {"rows": limit}))


def references(connection: Connection, refusal_ids: Sequence[str]) -> dict[str, str | None]:
    """Return the references of those of these refused binds that are recorded, by id."""
    statement = select(refusals.c.id, refusals.c.reference).where(refusals.c.id.in_(refusal_ids))
    return {row.id: row.reference for row in connection.execute(statement)} if refusal_ids else {}


def _to_refused_binds(rows: Iterable[Row[Any]]) -> list[RefusedBind]:
    return [_to_refused_bind(row) for row in rows]


def _newest(conditions: Sequence[ColumnElement[bool]], alternatives: Sequence[ColumnElement[bool]]) -> Select[Any]:
    """Build the statement for :rows refused binds that meet all conditions and an alternative, newest first.

    No two alternatives hold for one row. Each is a branch that reads its own index as far as the page goes.
    """
    order, limit = (refusals.c.at.desc(), refusals.c.id.desc()), bindparam("rows", type_=Integer)
    branches = (
        select(refusals).where(*conditions, alternative).order_by(*order).limit(limit).subquery()
        for alternative in alternatives
    )
    matches = union_all(*map(select, branches)).subquery("matches")
    holder = (bindings.c[name].label(f"holder_{name}") for name in ("actor", "reference", "mode", "state"))
    return (
        select(matches, *holder)
        .select_from(matches.outerjoin(bindings, bindings.c.id == matches.c.holder_id))
        .order_by(matches.c.at.desc(), matches.c.id.desc())
        .limit(limit)
    )


def _to_refused_bind(row: Row[*tuple[Any, ...]]) -> RefusedBind:
    holder = None
    if row.held_until is not None:
        holder = Holder(
            id=row.holder_id,
            actor=row.holder_actor,
            reference=row.holder_reference,
            mode=row.holder_mode and Mode(row.holder_mode),
            state=row.holder_state and State(row.holder_state),
            held_until=row.held_until,
            retry_after_s=seconds_until(row.held_until, row.at),
            why=row.held_by,
        )
    opened = phones.opened(row, "refusals", PHONES)
    return sql.record(RefusedBind, row, mode=Mode(row.mode), holder=holder, **opened)
