"""Deliveries: one row for each event and each webhook that receives it.

Events become rows as each webhook's cursor moves along the feed. Delivery is at least once: a row is `pending`
until a sender records that the receiver accepted it. A sender leases rows by setting their `next_at` to the end of
the lease; if it dies, they become due again. A result counts only if its lease still holds.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from sqlalchemy import delete, func, or_, select, update

from bindings.domain.acts import Act
from bindings.domain.binding import EventKind
from bindings.store import events, sql, webhooks
from bindings.store.column_types import Instant
from bindings.store.one_row import one_row
from bindings.store.schema import deliveries
from bindings.store.schema import events as events_table
from bindings.store.schema import webhooks as webhooks_table

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime

    from sqlalchemy import ColumnElement, Connection, ScalarSelect, Select

    from bindings.domain.binding import Caller, Event
    from bindings.store.database import Transaction
    from bindings.store.webhooks import Target

HTTP_GONE = 410  # the HTTP status of a receiver that wants no more deliveries
LONGEST_ERROR = 255  # characters that are stored


class DeliveryState(StrEnum):
    """The state of a delivery; `dead` is given up."""

    PENDING = "pending"
    DELIVERED = "delivered"
    DEAD = "dead"


@dataclass(frozen=True, kw_only=True, slots=True)
class Delivery:
    """One event for one webhook. `status` and `error` are those of the last attempt; `attempts` counts them.

    `state` is a `DeliveryState`, or another text if a later version wrote it.
    """

    id: str
    webhook_id: str
    state: str
    attempts: int
    created_at: datetime
    next_at: datetime
    finished_at: datetime | None
    status: int | None
    error: str | None
    event: Event


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """The result of one attempt. `error` None: the receiver accepted it; `retry_s` None: no further attempt.

    `retry_s` is in seconds from now.
    """

    delivery: Delivery
    status: int | None
    error: str | None
    retry_s: float | None

    @property
    def receiver_is_gone(self) -> bool:
        """Return True if the receiver answered 410: it wants no more deliveries."""
        return self.status == HTTP_GONE


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """Deliveries that are leased to one sender, and their webhook."""

    target: Target
    deliveries: tuple[Delivery, ...]


_COLUMNS = sql.columns(deliveries, Delivery)


def in_state(state: DeliveryState) -> ColumnElement[bool]:
    """Return the condition that a delivery is in this state, as the partial indexes have it."""
    return sql.equals_literal(deliveries.c.state, state)


def webhooks_with_work(connection: Connection, now: ColumnElement[datetime] | datetime) -> Sequence[str]:
    """Return the ids of enabled webhooks that lag behind the feed or have a due delivery: one query for all."""
    behind = _first_after_cursor(events_table.c.position, postgres=sql.is_postgres(connection))
    due = _first_due(deliveries.c.event_position, now)
    statement = select(webhooks_table.c.id).where(
        webhooks_table.c.disabled_at.is_(None), or_(behind.is_not(None), due.is_not(None))
    )
    return connection.execute(statement.order_by(webhooks_table.c.id)).scalars().all()


@one_row(lambda behind, due: min((at for at in (behind, due) if at is not None), default=None), by_dialect=True)
def waiting_since(now: ColumnElement[datetime], *, postgres: bool) -> Select[Any]:
    """Return since when an enabled webhook has an event or a delivery to be sent; None if there is none."""
    behind = _first_after_cursor(events_table.c.at, postgres=postgres)
    firsts = behind, _first_due(deliveries.c.next_at, now)
    return select(*(func.min(first, type_=Instant) for first in firsts)).where(
        webhooks_table.c.disabled_at.is_(None)
    )


# LIMIT 1 in index order keeps both subqueries to one step in an index, for any estimate of the planner.


def _first_after_cursor(column: ColumnElement[Any], *, postgres: bool) -> ScalarSelect[Any]:
    """Return a column of the first final event after the cursor of the webhook."""
    return (
        events.final_events(postgres=postgres)
        .with_only_columns(column)
        .where(events.after_position((webhooks_table.c.tx, webhooks_table.c.position), postgres=postgres))
        .limit(1)
        .scalar_subquery()
    )


def _first_due(column: ColumnElement[Any], now: ColumnElement[datetime] | datetime) -> ScalarSelect[Any]:
    """Return a column of the webhook's delivery that has been due for longest."""
    return (
        select(column)
        .where(
            deliveries.c.webhook_id == webhooks_table.c.id,
            in_state(DeliveryState.PENDING),
            deliveries.c.next_at <= now,
        )
        .order_by(deliveries.c.next_at)
        .limit(1)
        .scalar_subquery()
    )


def _as_read(at: datetime) -> datetime:
    return at


def fan_out(
    tx: Transaction,
    webhook_id: str,
    new_id: Callable[[], str],
    *,
    limit: int,
    trusted: Callable[[datetime], datetime] = _as_read,
) -> tuple[int, bool]:
    """Make deliveries of up to `limit` events after a webhook's cursor, and move the cursor.

    Returns how many deliveries were made, and whether there may be more events. The cursor moves in the same
    transaction, with its row locked, so that neither a replica nor a crash makes a delivery twice. A row that
    another replica has locked is skipped. `trusted` turns a reading of the clock into the instant to go by, as in
    `lease` and `record`: what a wrong clock wrote would be due when that clock is right.
    """
    row = tx.connection.execute(
        select(webhooks_table.c.tx, webhooks_table.c.position, webhooks_table.c.kinds)
        .where(webhooks_table.c.id == webhook_id, webhooks_table.c.disabled_at.is_(None))
        .with_for_update(skip_locked=True)
    ).one_or_none()
    # A separate statement: the feed's snapshot must be younger than the lock.
    batch = [] if row is None else events.feed(tx.connection, after=(row.tx, row.position), limit=limit)
    if row is None or not batch:
        return 0, False
    now = trusted(tx.instant())
    new_deliveries = [
        pending_row(new_id(), webhook_id, events.parse_cursor(event.cursor)[1], now)
        for event in batch
        if webhooks.is_sent(event.kind, row.kinds)
    ]
    if new_deliveries:
        tx.connection.execute(tx.dialect.insert(deliveries).on_conflict_do_nothing(), new_deliveries)
    cursor_tx, position = events.parse_cursor(batch[-1].cursor)
    move_cursor = update(webhooks_table).where(webhooks_table.c.id == webhook_id)
    tx.connection.execute(move_cursor.values(tx=cursor_tx, position=position))
    return len(new_deliveries), len(batch) == limit


def pending_row(delivery_id: str, webhook_id: str, event_position: int, now: datetime) -> dict[str, Any]:
    """Return the row of a new delivery, which is due now."""
    return {
        "id": delivery_id,
        "webhook_id": webhook_id,
        "event_position": event_position,
        "state": DeliveryState.PENDING,
        "attempts": 0,
        "created_at": now,
        "next_at": now,
    }


def lease(
    tx: Transaction,
    webhook_id: str,
    *,
    limit: int,
    lease_s: float,
    due_at: datetime | None = None,
    trusted: Callable[[datetime], datetime] = _as_read,
) -> Batch | None:
    """Lease up to `limit` due deliveries for `lease_s` seconds, the longest due first.

    Returns None if none is due or the webhook is disabled. Each lease counts as an attempt, so that a delivery
    that crashes its sender is given up eventually. `due_at` stands for the clock while that is in doubt.
    """
    due = (
        select(deliveries.c.id)
        .join(webhooks_table, webhooks_table.c.id == deliveries.c.webhook_id)
        .where(
            deliveries.c.webhook_id == webhook_id,
            in_state(DeliveryState.PENDING),
            deliveries.c.next_at <= (tx.dialect.now_once if due_at is None else due_at),
            webhooks_table.c.disabled_at.is_(None),
        )
        .order_by(deliveries.c.next_at, deliveries.c.event_position)
        .limit(limit)
        .with_for_update(skip_locked=True, of=deliveries)
    )
    ids = tx.connection.execute(due).scalars().all()
    now = trusted(tx.instant())
    target = webhooks.target(tx.connection, webhook_id, now) if ids else None
    if target is None:
        return None
    tx.connection.execute(
        update(deliveries)
        .where(deliveries.c.id.in_(ids))
        .values(next_at=now + timedelta(seconds=lease_s), attempts=deliveries.c.attempts + 1)
    )
    rows = tx.connection.execute(
        _with_events().where(deliveries.c.id.in_(ids)).order_by(deliveries.c.event_position)
    )
    leased = [_to_delivery(row) for row in rows]
    if not webhooks.is_sent(EventKind.REVEALED, target.kinds):
        leased = _without_reveals(tx.connection, leased)
    return Batch(target=target, deliveries=tuple(leased))


def _without_reveals(connection: Connection, leased: list[Delivery]) -> list[Delivery]:
    """Return the deliveries with the `sequence` of their events not counting reveals; a reveal itself stays."""
    renumbered = {
        event.cursor: event for event in events.without_reveals(connection, [row.event for row in leased])
    }
    return [replace(delivery, event=renumbered.get(delivery.event.cursor, delivery.event)) for delivery in leased]


def release(tx: Transaction, unsent: Sequence[Delivery]) -> None:
    """End the lease of deliveries that were not attempted: they are due again, and the attempt is not counted."""
    for delivery in unsent:
        tx.connection.execute(
            update(deliveries)
            .where(*_leased(delivery))
            .values(next_at=delivery.created_at, attempts=deliveries.c.attempts - 1)
        )


def record(
    tx: Transaction,
    results: Sequence[Result],
    caller: Caller,
    *,
    trusted: Callable[[datetime], datetime] = _as_read,
) -> None:
    """Record the results of attempts; a delivery that another sender leased meanwhile is left as it is.

    A webhook whose receiver answered 410 is disabled in the same transaction.
    """
    now = trusted(tx.instant())
    for result in results:
        tx.connection.execute(
            update(deliveries).where(*_leased(result.delivery)).values(_result_columns(result, now))
        )
        if result.receiver_is_gone:
            webhooks.disable(tx, result.delivery.webhook_id, caller, "the receiver answered 410")


def _result_columns(result: Result, now: datetime) -> dict[str, Any]:
    if result.error is None:
        return {"status": result.status, "error": None, "state": DeliveryState.DELIVERED, "finished_at": now}
    columns = {"status": result.status, "error": result.error[:LONGEST_ERROR]}
    if result.retry_s is None:
        return columns | {"state": DeliveryState.DEAD, "finished_at": now}
    return columns | {"next_at": now + timedelta(seconds=result.retry_s)}


def _leased(delivery: Delivery) -> tuple[Any, ...]:
    """Return the conditions that the lease of a delivery still holds: a further lease counts a further attempt."""
    return (
        deliveries.c.id == delivery.id,
        in_state(DeliveryState.PENDING),
        deliveries.c.attempts == delivery.attempts,
    )


def page(
    connection: Connection, webhook_id: str, *, state: DeliveryState | None, before: int | None, limit: int
) -> list[Delivery]:
    """Return up to `limit` deliveries of a webhook, the newest event first, of events before position `before`."""
    statement = _with_events().where(deliveries.c.webhook_id == webhook_id)
    if state is not None:
        statement = statement.where(in_state(state))
    if before is not None:
        statement = statement.where(deliveries.c.event_position < before)
    rows = connection.execute(statement.order_by(deliveries.c.event_position.desc()).limit(limit))
    return [_to_delivery(row) for row in rows]


@one_row(lambda pending, dead: {DeliveryState.PENDING: pending, DeliveryState.DEAD: dead})
def backlog(*, limit: int) -> Select[Any]:
    """Return how many deliveries are pending and how many are dead; each is counted up to `limit`."""
    pending = (in_state(DeliveryState.PENDING),)
    dead = in_state(DeliveryState.DEAD), ~in_state(DeliveryState.PENDING)  # the second is the index's condition
    rows = (
        select(deliveries.c.webhook_id).where(*conditions).limit(sql.literal_number(limit)).subquery()
        for conditions in (pending, dead)
    )
    return select(*(select(func.count()).select_from(of_state).scalar_subquery() for of_state in rows))


def redeliver(tx: Transaction, delivery_id: str, caller: Caller) -> Delivery | None:
    """Make a delivered or dead delivery pending again, with all its attempts; a pending one stays as it is.

    Returns the delivery, or None if there is none with this id.
    """
    count = _reset_to_pending(tx, deliveries.c.id == delivery_id, ~in_state(DeliveryState.PENDING))
    row = tx.connection.execute(_with_events().where(deliveries.c.id == delivery_id)).one_or_none()
    if row is None:
        return None
    if count:
        facts = {"id": row.webhook_id, "delivery_id": delivery_id, "deliveries": count}
        events.append_act(tx, Act.WEBHOOK_REDELIVERED, caller, facts)
    return _to_delivery(row)


def redeliver_dead(tx: Transaction, webhook_id: str, caller: Caller) -> int:
    """Make every dead delivery of a webhook pending again; return how many."""
    count = _reset_to_pending(tx, deliveries.c.webhook_id == webhook_id, in_state(DeliveryState.DEAD))
    if count:
        events.append_act(tx, Act.WEBHOOK_REDELIVERED, caller, {"id": webhook_id, "deliveries": count})
    return count


def _reset_to_pending(tx: Transaction, *conditions: Any) -> int:
    values = {"state": DeliveryState.PENDING, "attempts": 0, "next_at": tx.instant(), "finished_at": None}
    return tx.connection.execute(update(deliveries).where(*conditions).values(values)).rowcount


def prune(tx: Transaction, *, delivered_s: float, dead_s: float, limit: int) -> int:
    """Delete up to `limit` that were delivered, or given up, longer ago than these seconds; return how many."""
    now = tx.instant()
    finished_before = {
        DeliveryState.DELIVERED: now - timedelta(seconds=delivered_s),
        DeliveryState.DEAD: now - timedelta(seconds=dead_s),
    }
    deleted = 0
    for state, before in finished_before.items():
        old = (
            select(deliveries.c.id)
            .where(in_state(state), ~in_state(DeliveryState.PENDING), deliveries.c.finished_at < before)
            .limit(limit - deleted)
        )
        deleted += tx.connection.execute(delete(deliveries).where(deliveries.c.id.in_(old))).rowcount
    return deleted


def _with_events() -> Select[*tuple[Any, ...]]:
    return select(*_COLUMNS, *events.COLUMNS).join(
        events_table, events_table.c.position == deliveries.c.event_position
    )


def _to_delivery(row: Any) -> Delivery:
    event = events.to_event(row[len(_COLUMNS) :])
    return sql.record(Delivery, row, state=sql.member(DeliveryState, row.state), event=event)
