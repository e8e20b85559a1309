"""What is sent to webhooks: one row for each event and each webhook that it goes to, until it is delivered.

Events become rows as each webhook's cursor moves along the feed. At least once: a row is `pending` until a sender
records that the receiver took it. A sender leases rows by moving their `next_at` ahead; if it dies, they fall due
again by themselves. A result counts only from the lease that it was sent under.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from sqlalchemy import delete, func, literal_column, or_, select, update

from bindings.store import events, webhooks
from bindings.store.schema import deliveries
from bindings.store.schema import events as events_table
from bindings.store.schema import webhooks as webhooks_table

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime

    from sqlalchemy import ColumnElement, Connection, Select

    from bindings.domain.binding import Event
    from bindings.store.database import Transaction
    from bindings.store.webhooks import Target

GONE = 410  # the receiver wants nothing any more
LONGEST_ERROR = 255


class DeliveryState(StrEnum):
    """Where a delivery stands; `dead` is given up."""

    PENDING = "pending"
    DELIVERED = "delivered"
    DEAD = "dead"


@dataclass(frozen=True, kw_only=True, slots=True)
class Delivery:
    """One event for one webhook. `status` and `error` tell of the last try, `attempts` counts the tries."""

    id: str
    webhook_id: str
    state: DeliveryState
    attempts: int
    created_at: datetime
    next_at: datetime
    finished_at: datetime | None
    status: int | None
    error: str | None
    event: Event


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """What came of one try. `error` None: the receiver took it; `again_s` None: it is given up."""

    delivery: Delivery
    status: int | None
    error: str | None
    again_s: float | None

    @property
    def gone(self) -> bool:
        """Whether the receiver wants nothing any more."""
        return self.status == GONE


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """Deliveries that are leased to one sender, and where they go."""

    target: Target
    deliveries: tuple[Delivery, ...]


_COLUMNS = tuple(column for column in deliveries.c if column.name != "event_position")


def in_state(state: DeliveryState) -> ColumnElement[bool]:
    """A literal, so that the partial indexes serve also where the server plans without values."""
    return deliveries.c.state == literal_column(f"'{state}'")


def webhooks_with_work(connection: Connection, now: ColumnElement[datetime]) -> Sequence[str]:
    """The enabled webhooks that lag behind the feed or have a delivery that is due: one query for all."""
    postgres = connection.dialect.name == "postgresql"
    # LIMIT 1 in the feed's order keeps both to one step in an index, whatever the planner believes.
    behind = (
        events.final_events(postgres=postgres)
        .with_only_columns(events_table.c.position)
        .where(events.after_position((webhooks_table.c.tx, webhooks_table.c.position), postgres=postgres))
        .limit(1)
        .scalar_subquery()
    )
    due = (
        select(deliveries.c.event_position)
        .where(
            deliveries.c.webhook_id == webhooks_table.c.id,
            in_state(DeliveryState.PENDING),
            deliveries.c.next_at <= now,
        )
        .order_by(deliveries.c.next_at)
        .limit(1)
        .scalar_subquery()
    )
    statement = select(webhooks_table.c.id).where(
        webhooks_table.c.disabled_at.is_(None), or_(behind.is_not(None), due.is_not(None))
    )
    return connection.execute(statement.order_by(webhooks_table.c.id)).scalars().all()


def fan_out(tx: Transaction, webhook_id: str, new_id: Callable[[], str], *, limit: int) -> tuple[int, bool]:
    """Turn up to `limit` events behind a webhook's cursor into deliveries, and move the cursor.

    Returns how many deliveries were made, and whether there may be more events. The cursor moves in the
    transaction that writes them, with the row locked: no replica doubles it, and no crash comes between. A row
    that another replica has locked is left to it.
    """
    row = tx.connection.execute(
        select(webhooks_table.c.tx, webhooks_table.c.position, webhooks_table.c.kinds)
        .where(webhooks_table.c.id == webhook_id, webhooks_table.c.disabled_at.is_(None))
        .with_for_update(skip_locked=True)
    ).one_or_none()
    # A statement of its own: the feed's snapshot must be younger than the lock.
    found = [] if row is None else events.feed(tx.connection, after=(row.tx, row.position), limit=limit)
    if row is None or not found:
        return 0, False
    now = tx.instant()
    made = [
        {
            "id": new_id(),
            "webhook_id": webhook_id,
            "event_position": events.parse_cursor(event.cursor)[1],
            "state": "pending",
            "attempts": 0,
            "created_at": now,
            "next_at": now,
        }
        for event in found
        if row.kinds is None or event.kind in row.kinds
    ]
    if made:
        tx.connection.execute(tx.dialect.insert(deliveries).on_conflict_do_nothing(), made)
    at_tx, position = events.parse_cursor(found[-1].cursor)
    moved = update(webhooks_table).where(webhooks_table.c.id == webhook_id)
    tx.connection.execute(moved.values(tx=at_tx, position=position))
    return len(made), len(found) == limit


def lease(tx: Transaction, webhook_id: str, *, limit: int, lease_s: float) -> Batch | None:
    """Lease up to `limit` deliveries that are due, the longest due first; None where none is, or disabled.

    Each counts as a try from now on, so that one which kills its sender is given up in the end.
    """
    due = (
        select(deliveries.c.id)
        .join(webhooks_table, webhooks_table.c.id == deliveries.c.webhook_id)
        .where(
            deliveries.c.webhook_id == webhook_id,
            in_state(DeliveryState.PENDING),
            deliveries.c.next_at <= tx.dialect.now_once,
            webhooks_table.c.disabled_at.is_(None),
        )
        .order_by(deliveries.c.next_at, deliveries.c.event_position)
        .limit(limit)
        .with_for_update(skip_locked=True, of=deliveries)
    )
    ids = tx.connection.execute(due).scalars().all()
    now = tx.instant()
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
    return Batch(target=target, deliveries=tuple(_delivery(row) for row in rows))


def release(tx: Transaction, unsent: Sequence[Delivery]) -> None:
    """End the lease of what was not tried after all: it is due again, and no try is counted."""
    for each in unsent:
        tx.connection.execute(
            update(deliveries)
            .where(*_leased(each))
            .values(next_at=each.created_at, attempts=deliveries.c.attempts - 1)
        )


def record(tx: Transaction, results: Sequence[Result]) -> None:
    """Write down what came of tries; one whose lease is over, and was taken by another sender, is left alone.

    A receiver that answered 410 is disabled in the same transaction.
    """
    now = tx.instant()
    for result in results:
        known = {"status": result.status, "error": None if result.error is None else result.error[:LONGEST_ERROR]}
        tx.connection.execute(
            update(deliveries).where(*_leased(result.delivery)).values(known | _result_columns(result, now))
        )
        if result.gone:
            webhooks.disable(tx, result.delivery.webhook_id, "the receiver answered 410")


def _result_columns(result: Result, now: datetime) -> dict[str, Any]:
    if result.error is None:
        return {"state": DeliveryState.DELIVERED, "finished_at": now}
    if result.again_s is None:
        return {"state": DeliveryState.DEAD, "finished_at": now}
    return {"next_at": now + timedelta(seconds=result.again_s)}


def _leased(delivery: Delivery) -> tuple[Any, ...]:
    return (
        deliveries.c.id == delivery.id,
        in_state(DeliveryState.PENDING),
        deliveries.c.attempts == delivery.attempts,
    )


def page(
    connection: Connection, webhook_id: str, *, state: DeliveryState | None, before: int | None, limit: int
) -> list[Delivery]:
    """Up to `limit` deliveries of a webhook, the newest event first, from below the position `before`."""
    statement = _with_events().where(deliveries.c.webhook_id == webhook_id)
    if state is not None:
        statement = statement.where(in_state(state))
    if before is not None:
        statement = statement.where(deliveries.c.event_position < before)
    rows = connection.execute(statement.order_by(deliveries.c.event_position.desc()).limit(limit))
    return [_delivery(row) for row in rows]


def backlog(connection: Connection, *, limit: int) -> dict[DeliveryState, int]:
    """How many deliveries wait, and how many were given up; each is counted up to `limit`."""
    waiting = (in_state(DeliveryState.PENDING),)
    given_up = in_state(DeliveryState.DEAD), ~in_state(DeliveryState.PENDING)
    found = {}
    for state, conditions in ((DeliveryState.PENDING, waiting), (DeliveryState.DEAD, given_up)):
        some = select(deliveries.c.webhook_id).where(*conditions).limit(limit).subquery()
        found[state] = connection.execute(select(func.count()).select_from(some)).scalar_one()
    return found


def redeliver(tx: Transaction, delivery_id: str) -> Delivery | None:
    """Send a delivered or dead one again, with all its tries; None where there is none. A pending one is left."""
    _reset_to_pending(tx, deliveries.c.id == delivery_id, ~in_state(DeliveryState.PENDING))
    row = tx.connection.execute(_with_events().where(deliveries.c.id == delivery_id)).one_or_none()
    return None if row is None else _delivery(row)


def redeliver_dead(tx: Transaction, webhook_id: str) -> int:
    """Send every dead one of a webhook again; how many."""
    return _reset_to_pending(tx, deliveries.c.webhook_id == webhook_id, in_state(DeliveryState.DEAD))


def _reset_to_pending(tx: Transaction, *which: Any) -> int:
    fresh = {"state": DeliveryState.PENDING, "attempts": 0, "next_at": tx.instant(), "finished_at": None}
    return tx.connection.execute(update(deliveries).where(*which).values(fresh)).rowcount


def prune(tx: Transaction, *, delivered_s: float, dead_s: float, limit: int) -> int:
    """Forget up to `limit` that were delivered, or given up, longer ago than these seconds; how many."""
    now = tx.instant()
    longest = {
        DeliveryState.DELIVERED: now - timedelta(seconds=delivered_s),
        DeliveryState.DEAD: now - timedelta(seconds=dead_s),
    }
    forgotten = 0
    for state, before in longest.items():
        old = (
            select(deliveries.c.id)
            .where(in_state(state), ~in_state(DeliveryState.PENDING), deliveries.c.finished_at < before)
            .limit(limit - forgotten)
        )
        forgotten += tx.connection.execute(delete(deliveries).where(deliveries.c.id.in_(old))).rowcount
    return forgotten


def _with_events() -> Select[*tuple[Any, ...]]:
    return select(*_COLUMNS, *events.COLUMNS).join(
        events_table, events_table.c.position == deliveries.c.event_position
    )


def _delivery(row: Any) -> Delivery:
    of_delivery = dict(zip((column.name for column in _COLUMNS), row, strict=False))
    of_delivery["state"] = DeliveryState(of_delivery["state"])
    return Delivery(event=events.to_event(row[len(_COLUMNS) :]), **of_delivery)
