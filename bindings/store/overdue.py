"""What time alone brings: ends, warnings of ends, intents that nobody settled, doubts that can be true no longer.

Set-based, in batches; replicas skip each other's rows, and the state is checked again.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from sqlalchemy import Integer, bindparam, insert, select, update

from bindings.binding import EventKind, Reason, State
from bindings.store import events
from bindings.store.bindings import counted, in_state
from bindings.store.schema import bindings
from bindings.store.schema import events as events_table

if TYPE_CHECKING:
    from datetime import datetime

    from sqlalchemy import Column, ColumnElement, Executable

    from bindings.binding import Caller
    from bindings.store.database import Flavour, Transaction


def expire(tx: Transaction, caller: Caller, *, limit: int) -> int:
    """End up to `limit` bindings whose time is over, the longest overdue first; returns how many.

    `ended_at` is the nominal end, not this moment. One statement on PostgreSQL, where replicas skip each
    other's rows and the state is checked again: each binding gets one `expired` event. Set-based on SQLite.
    """
    return _run(tx, _expiry(tx.flavour), EventKind.EXPIRED, caller, limit)


def warn(tx: Transaction, caller: Caller, *, limit: int) -> int:
    """Announce the end of up to `limit` bindings, the longest due first; returns how many.

    One `expires_soon` event each, whoever else runs this: `warn_at` goes in the same statement. None for what has
    ended, is over, or is to be unbound.
    """
    return _run(tx, _warning(tx.flavour), EventKind.EXPIRES_SOON, caller, limit)


def _to_warn(now: ColumnElement[datetime]) -> tuple[ColumnElement[bool], ...]:
    wanted = bindings.c.unbind_requested_at.is_(None), bindings.c.expires_at > now
    return in_state(State.ACTIVE), bindings.c.warn_at.is_not(None), bindings.c.warn_at <= now, *wanted


def _run(tx: Transaction, batch: tuple[Executable, ...], kind: EventKind, caller: Caller, limit: int) -> int:
    event = events.said(kind, caller, {}) | {"due_limit": limit}
    changed = 0
    for statement, values in zip(batch, (event, {"due_limit": limit}), strict=False):
        done = tx.connection.execute(statement, values, execution_options={"preserve_rowcount": True})
        changed = done.rowcount
    return changed


@cache
def _expiry(flavour: Flavour) -> tuple[Executable, ...]:
    due = in_state(State.ACTIVE), bindings.c.expires_at <= flavour.now_once
    ended_by_time = {"state": State.EXPIRED, "ended_at": bindings.c.expires_at}
    return _batch(flavour, due, bindings.c.expires_at, ended_by_time)


@cache
def _warning(flavour: Flavour) -> tuple[Executable, ...]:
    return _batch(flavour, _to_warn(flavour.now_once), bindings.c.warn_at, {"warn_at": None})


def _batch(
    flavour: Flavour, due: tuple[ColumnElement[bool], ...], deadline: Column[datetime], values: dict[str, Any]
) -> tuple[Executable, ...]:
    """The statements that change the rows that are due and write an event each; the last one counts them."""
    found = select(bindings.c.id).where(*due).order_by(deadline).limit(bindparam("due_limit", type_=Integer))
    changed_by_time = values | counted(flavour)
    if not flavour.postgres:
        found = found.order_by(bindings.c.id)  # both statements must pick the same rows
        rows = events.told(flavour, events.this_tx(flavour), bindings.c.id, bindings.c.version + 1)
        log = insert(events_table).from_select(events.WRITTEN, rows.where(bindings.c.id.in_(found)))
        return log, update(bindings).where(bindings.c.id.in_(found)).values(changed_by_time)
    # MATERIALIZED keeps LIMIT and SKIP LOCKED to one evaluation: joined in, they may run again and change more.
    locked = found.with_for_update(skip_locked=True).cte("due").prefix_with("MATERIALIZED")
    changed = (
        update(bindings)
        .where(bindings.c.id == locked.c.id, *due)
        .values(changed_by_time)
        .returning(bindings.c.change_tx, bindings.c.id, bindings.c.version)
        .cte("changed")
    )
    rows = events.told(flavour, changed.c.change_tx, changed.c.id, changed.c.version)
    return (insert(events_table).from_select(events.WRITTEN, rows),)


def doubt_unsettled(tx: Transaction, caller: Caller, *, limit: int) -> int:
    """Move pending bindings past `settle_by` to in_doubt: their caller died or never came back."""
    detail = {"reason": Reason.NOT_SETTLED, "status": None}
    statement = _overdue(tx.flavour, State.PENDING, "settle_by", State.IN_DOUBT)
    return len(statement.run(tx, EventKind.IN_DOUBT, caller, detail, overdue_limit=limit))


def lapse(tx: Transaction, caller: Caller, *, limit: int) -> int:
    """End doubts whose longest possible life is over."""
    statement = _overdue(tx.flavour, State.IN_DOUBT, "held_until", State.LAPSED)
    return len(statement.run(tx, EventKind.LAPSED, caller, {}, overdue_limit=limit))


@cache
def _overdue(flavour: Flavour, leaves: State, deadline: str, becomes: State) -> events.Recorded:
    overdue = (
        select(bindings.c.id)
        .where(in_state(leaves), bindings.c[deadline] <= flavour.now_once)
        .order_by(bindings.c[deadline])
        .limit(bindparam("overdue_limit", type_=Integer))
        .with_for_update(skip_locked=True)  # nothing on SQLite, where the write lock is held anyway
    )
    values: dict[str, Any] = {"state": becomes}
    values |= {"ended_at": bindings.c.held_until} if becomes.terminal else {"reason": Reason.NOT_SETTLED}
    statement = (
        update(bindings)
        .where(bindings.c.id.in_(overdue), in_state(leaves))
        .values(values | counted(flavour))
        .returning(bindings.c.id, bindings.c.version, bindings.c.change_tx)
    )
    return events.Recorded(flavour, statement)
