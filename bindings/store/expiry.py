"""Changes that are due by time alone: ends, warnings of ends, overdue intents, and doubts past `held_until`.

Set-based, in batches; replicas skip each other's rows, and the state is checked again in the change.
"""

from __future__ import annotations

from datetime import UTC, datetime
from functools import cache
from typing import TYPE_CHECKING, Any

from sqlalchemy import Integer, and_, any_, bindparam, case, false, func, insert, select, true, update

from bindings.domain.binding import EventKind, Reason, State
from bindings.store import events
from bindings.store.bindings import in_state, require_transition, version_columns
from bindings.store.schema import bindings
from bindings.store.schema import events as events_table

if TYPE_CHECKING:
    from sqlalchemy import Column, ColumnElement, Executable

    from bindings.domain.binding import Caller
    from bindings.store.database import SqlDialect, Transaction


BEGINNING = datetime.min.replace(tzinfo=UTC)


def expire(tx: Transaction, caller: Caller, *, limit: int, since: datetime = BEGINNING) -> tuple[int, datetime]:
    """Expire up to `limit` bindings whose time is over, the longest overdue first.

    Returns how many, and the latest end among them. `ended_at` is the nominal end, not this moment. One statement
    on PostgreSQL, where replicas skip each other's rows and the state is checked again: each binding gets one
    `expired` event. Two statements on SQLite.

    Pass the returned end as `since` of the next batch, so that it need not step over the index entries of what
    this one ended: the index keeps those as long as an older snapshot is open.
    """
    return _run(tx, _expiry(tx.dialect), events.event_params(EventKind.EXPIRED, caller, {}), limit, since)


def warn(tx: Transaction, caller: Caller, *, limit: int, since: datetime = BEGINNING) -> tuple[int, datetime]:
    """Announce the end of up to `limit` bindings, the longest due first; return what `expire` returns.

    Each gets one `expires_soon` event with its end, however many replicas run this: `warn_at` is cleared in the
    same transaction. A binding that has ended, is past its end, or is to be unbound gets none.
    """
    return _run(tx, _warning(tx.dialect), events.event_params(EventKind.EXPIRES_SOON, caller, {}), limit, since)


def _warning_due(now: ColumnElement[datetime]) -> tuple[ColumnElement[bool], ...]:
    in_use = bindings.c.unbind_requested_at.is_(None), bindings.c.expires_at > now
    return in_state(State.ACTIVE), bindings.c.warn_at.is_not(None), bindings.c.warn_at <= now, *in_use


def _run(
    tx: Transaction, batch: tuple[Executable, ...], event: dict[str, Any], limit: int, since: datetime
) -> tuple[int, datetime]:
    values = event | {"due_limit": limit, "due_since": since}
    if tx.dialect.postgres:
        [statement] = batch
        changed, reached = tx.connection.execute(statement, values).one()
        return changed, reached or since
    log, change = batch  # without `since`: on SQLite the index has only what is due
    tx.connection.execute(log, values)
    result = tx.connection.execute(change, {"due_limit": limit}, execution_options={"preserve_rowcount": True})
    return result.rowcount, since


@cache
def _expiry(dialect: SqlDialect) -> tuple[Executable, ...]:
    require_transition((State.ACTIVE,), State.EXPIRED)
    due = in_state(State.ACTIVE), bindings.c.expires_at <= dialect.now_once
    values = {"state": State.EXPIRED, "ended_at": bindings.c.expires_at}
    return _batch(dialect, due, bindings.c.expires_at, values)


@cache
def _warning(dialect: SqlDialect) -> tuple[Executable, ...]:
    return _batch(dialect, _warning_due(dialect.now_once), bindings.c.warn_at, {"warn_at": None}, ("expires_at",))


def _batch(
    dialect: SqlDialect,
    due: tuple[ColumnElement[bool], ...],
    deadline: Column[datetime],
    values: dict[str, Any],
    facts: tuple[str, ...] = (),
) -> tuple[Executable, ...]:
    """Build the statements that change the due rows and write an event for each, with the row's `facts`.

    One on PostgreSQL, which returns the number of rows and the latest deadline among them; two on SQLite.
    """
    batch = select(bindings.c.id).where(*due).order_by(deadline).limit(bindparam("due_limit", type_=Integer))
    new_values = values | version_columns(dialect)
    if not dialect.postgres:
        batch = batch.order_by(bindings.c.id)  # both statements must select the same rows
        own: dict[str, ColumnElement[Any]] = {name: bindings.c[name] for name in facts}
        rows = events.event_select(dialect, events.this_tx(dialect), bindings.c.id, bindings.c.version + 1, **own)
        log = insert(events_table).from_select(events.INSERT_COLUMNS, rows.where(bindings.c.id.in_(batch)))
        return log, update(bindings).where(bindings.c.id.in_(batch)).values(new_values)
    batch = batch.add_columns(deadline.label("deadline")).where(
        deadline >= bindparam("due_since", type_=deadline.type)
    )
    # MATERIALIZED: LIMIT and SKIP LOCKED are evaluated once. Inlined, they might run again and change more rows.
    locked = batch.with_for_update(skip_locked=True).cte("due").prefix_with("MATERIALIZED")
    # An array and not a join: for a join each batch may read every row that is due.
    ids = any_(func.array(select(locked.c.id).scalar_subquery()))
    # As the value of a CASE no index serves this: by the one of what is due, each batch would read all of it.
    still_due = case((and_(*due), true()), else_=false())
    changed = (
        update(bindings)
        .where(bindings.c.id == ids, still_due)
        .values(new_values)
        .returning(bindings.c.change_tx, bindings.c.id, bindings.c.version, *(bindings.c[name] for name in facts))
        .cte("changed")
    )
    own = {name: changed.c[name] for name in facts}
    rows = events.event_select(dialect, changed.c.change_tx, changed.c.id, changed.c.version, **own)
    logged = insert(events_table).from_select(events.INSERT_COLUMNS, rows).cte("logged")
    reached = select(func.max(locked.c.deadline)).scalar_subquery()
    return (select(func.count(), reached).select_from(changed).add_cte(logged),)


def mark_unsettled_in_doubt(tx: Transaction, caller: Caller, *, limit: int) -> int:
    """Move up to `limit` pending bindings past `settle_by` to in_doubt; return how many.

    The process that reserved them stopped before it recorded a result. A waiting successor was not sent: it is not
    in doubt.
    """
    detail = {"reason": Reason.NOT_SETTLED, "status": None}
    statement = _overdue(tx.dialect, State.PENDING, "settle_by", State.IN_DOUBT)
    return len(statement.run(tx, EventKind.IN_DOUBT, caller, detail, {"overdue_limit": limit}))


def lapse(tx: Transaction, caller: Caller, *, limit: int) -> int:
    """Move up to `limit` bindings in doubt past `held_until` to lapsed; return how many."""
    statement = _overdue(tx.dialect, State.IN_DOUBT, "held_until", State.LAPSED)
    return len(statement.run(tx, EventKind.LAPSED, caller, {}, {"overdue_limit": limit}))


@cache
def _overdue(dialect: SqlDialect, from_state: State, deadline: str, to_state: State) -> events.ChangeWithEvents:
    require_transition((from_state,), to_state)
    overdue = (
        select(bindings.c.id)
        .where(in_state(from_state), bindings.c[deadline] <= dialect.now_once, bindings.c.waits_for.is_(None))
        .order_by(bindings.c[deadline])
        .limit(bindparam("overdue_limit", type_=Integer))
        .with_for_update(skip_locked=True)  # not on SQLite, where the transaction has the write lock
    )
    values: dict[str, Any] = {"state": to_state}
    values |= {"ended_at": bindings.c.held_until} if to_state.terminal else {"reason": Reason.NOT_SETTLED}
    statement = (
        update(bindings)
        .where(bindings.c.id.in_(overdue), in_state(from_state))
        .values(values | version_columns(dialect))
        .returning(bindings.c.id, bindings.c.version, bindings.c.change_tx)
    )
    return events.ChangeWithEvents(dialect, statement)
