"""What time alone brings: ends, warnings of ends, intents that nobody settled, doubts that can be true no longer.

Set-based, in batches; replicas skip each other's rows, and the state is checked again.
"""

from __future__ import annotations

from datetime import UTC, datetime
from functools import cache
from typing import TYPE_CHECKING, Any

from sqlalchemy import Integer, any_, bindparam, func, insert, select, update

from bindings.domain.binding import EventKind, Reason, State
from bindings.store import events
from bindings.store.bindings import in_state, version_columns
from bindings.store.schema import bindings
from bindings.store.schema import events as events_table

if TYPE_CHECKING:
    from sqlalchemy import Column, ColumnElement, Executable

    from bindings.domain.binding import Caller
    from bindings.store.database import SqlDialect, Transaction


BEGINNING = datetime.min.replace(tzinfo=UTC)


def expire(tx: Transaction, caller: Caller, *, limit: int, since: datetime = BEGINNING) -> tuple[int, datetime]:
    """End up to `limit` bindings whose time is over, the longest overdue first; how many, and up to which end.

    `ended_at` is the nominal end, not this moment. One statement on PostgreSQL, where replicas skip each
    other's rows and the state is checked again: each binding gets one `expired` event. Set-based on SQLite.

    The next batch may begin at the end that this one came to (`since`), and need not step over what it has ended:
    while anybody holds an older snapshot, the index keeps that.
    """
    return _run(tx, _expiry(tx.dialect), events.event_params(EventKind.EXPIRED, caller, {}), limit, since)


def warn(tx: Transaction, caller: Caller, *, limit: int, since: datetime = BEGINNING) -> tuple[int, datetime]:
    """Announce the end of up to `limit` bindings, the longest due first; returns what `expire` does.

    One `expires_soon` event each, with the end that it announces, whoever else runs this: `warn_at` goes in the
    same statement. None for what has ended, is over, or is to be unbound.
    """
    return _run(tx, _warning(tx.dialect), events.event_params(EventKind.EXPIRES_SOON, caller, {}), limit, since)


def _warning_due(now: ColumnElement[datetime]) -> tuple[ColumnElement[bool], ...]:
    wanted = bindings.c.unbind_requested_at.is_(None), bindings.c.expires_at > now
    return in_state(State.ACTIVE), bindings.c.warn_at.is_not(None), bindings.c.warn_at <= now, *wanted


def _run(
    tx: Transaction, batch: tuple[Executable, ...], event: dict[str, Any], limit: int, since: datetime
) -> tuple[int, datetime]:
    values = event | {"due_limit": limit, "due_since": since}
    if tx.dialect.postgres:
        [statement] = batch
        changed, reached = tx.connection.execute(statement, values).one()
        return changed, reached or since
    log, change = batch  # the index has nothing but what is due
    tx.connection.execute(log, values)
    done = tx.connection.execute(change, {"due_limit": limit}, execution_options={"preserve_rowcount": True})
    return done.rowcount, since


@cache
def _expiry(dialect: SqlDialect) -> tuple[Executable, ...]:
    due = in_state(State.ACTIVE), bindings.c.expires_at <= dialect.now_once
    ended_by_time = {"state": State.EXPIRED, "ended_at": bindings.c.expires_at}
    return _batch(dialect, due, bindings.c.expires_at, ended_by_time)


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
    """The statements that change the rows that are due and write an event each, which tells its row's `facts`.

    One on PostgreSQL, which tells how many and the last deadline among them; two on SQLite.
    """
    found = select(bindings.c.id).where(*due).order_by(deadline).limit(bindparam("due_limit", type_=Integer))
    changed_by_time = values | version_columns(dialect)
    if not dialect.postgres:
        found = found.order_by(bindings.c.id)  # both statements must pick the same rows
        own: dict[str, ColumnElement[Any]] = {name: bindings.c[name] for name in facts}
        rows = events.event_select(dialect, events.this_tx(dialect), bindings.c.id, bindings.c.version + 1, **own)
        log = insert(events_table).from_select(events.INSERT_COLUMNS, rows.where(bindings.c.id.in_(found)))
        return log, update(bindings).where(bindings.c.id.in_(found)).values(changed_by_time)
    found = found.add_columns(deadline.label("deadline")).where(
        deadline >= bindparam("due_since", type_=deadline.type)
    )
    # MATERIALIZED keeps LIMIT and SKIP LOCKED to one evaluation: joined in, they may run again and change more.
    locked = found.with_for_update(skip_locked=True).cte("due").prefix_with("MATERIALIZED")
    # By an array and not by a join: for a join every row that is due may be read, once in each batch.
    ids = any_(func.array(select(locked.c.id).scalar_subquery()))
    changed = (
        update(bindings)
        .where(bindings.c.id == ids, *due)
        .values(changed_by_time)
        .returning(bindings.c.change_tx, bindings.c.id, bindings.c.version, *(bindings.c[name] for name in facts))
        .cte("changed")
    )
    own = {name: changed.c[name] for name in facts}
    rows = events.event_select(dialect, changed.c.change_tx, changed.c.id, changed.c.version, **own)
    logged = insert(events_table).from_select(events.INSERT_COLUMNS, rows).cte("logged")
    reached = select(func.max(locked.c.deadline)).scalar_subquery()
    return (select(func.count(), reached).select_from(changed).add_cte(logged),)


def mark_unsettled_in_doubt(tx: Transaction, caller: Caller, *, limit: int) -> int:
    """Move pending bindings past `settle_by` to in_doubt: their caller died or never came back."""
    detail = {"reason": Reason.NOT_SETTLED, "status": None}
    statement = _overdue(tx.dialect, State.PENDING, "settle_by", State.IN_DOUBT)
    return len(statement.run(tx, EventKind.IN_DOUBT, caller, detail, overdue_limit=limit))


def lapse(tx: Transaction, caller: Caller, *, limit: int) -> int:
    """End doubts whose longest possible life is over."""
    statement = _overdue(tx.dialect, State.IN_DOUBT, "held_until", State.LAPSED)
    return len(statement.run(tx, EventKind.LAPSED, caller, {}, overdue_limit=limit))


@cache
def _overdue(dialect: SqlDialect, leaves: State, deadline: str, becomes: State) -> events.ChangeWithEvents:
    overdue = (
        select(bindings.c.id)
        .where(in_state(leaves), bindings.c[deadline] <= dialect.now_once)
        .order_by(bindings.c[deadline])
        .limit(bindparam("overdue_limit", type_=Integer))
        .with_for_update(skip_locked=True)  # nothing on SQLite, where the write lock is held anyway
    )
    values: dict[str, Any] = {"state": becomes}
    values |= {"ended_at": bindings.c.held_until} if becomes.terminal else {"reason": Reason.NOT_SETTLED}
    statement = (
        update(bindings)
        .where(bindings.c.id.in_(overdue), in_state(leaves))
        .values(values | version_columns(dialect))
        .returning(bindings.c.id, bindings.c.version, bindings.c.change_tx)
    )
    return events.ChangeWithEvents(dialect, statement)
