"""The state of each webhook's deliveries, for people: what waits, what was given up, and how the last ones went.

One statement for all webhooks, whose work is bounded for each: no count goes further than a limit, and nothing
depends on how many deliveries are stored. Nothing here writes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import func, select

from bindings.store import sql, webhooks
from bindings.store.column_types import Instant
from bindings.store.deliveries import DeliveryState, in_state
from bindings.store.schema import deliveries
from bindings.store.schema import webhooks as table

if TYPE_CHECKING:
    from datetime import datetime

    from sqlalchemy import ColumnElement, Connection, Subquery

    from bindings.store.webhooks import Webhook

MAX_PENDING = 1_000  # counted for one webhook
MAX_DEAD = 10_000  # counted for all webhooks together
RECENT = 100  # the newest deliveries of a webhook, by their events


@dataclass(frozen=True, kw_only=True, slots=True)
class WebhookHealth:
    """A webhook and its deliveries. `pending` counts up to `MAX_PENDING`, `dead` up to `MAX_DEAD` of all webhooks.

    `oldest_pending_at` is when the oldest of the counted ones was created. `recent` is how many of the newest
    `RECENT` deliveries there are, `recent_delivered` how many of them were accepted; `last_error` is the error of
    the newest of them whose last attempt failed. Instants are aware UTC, None if there is none.
    """

    webhook: Webhook
    pending: int
    oldest_pending_at: datetime | None
    dead: int
    recent: int
    recent_delivered: int
    last_delivered_at: datetime | None
    last_error: str | None

    @property
    def pending_is_at_least(self) -> bool:
        """Return whether more deliveries may be pending than were counted."""
        return self.pending >= MAX_PENDING


def list_all(connection: Connection) -> list[WebhookHealth]:
    """Return all webhooks, oldest first, with the disabled ones."""
    # The second condition on the state is the one of the partial index.
    dead = (
        select(deliveries.c.webhook_id)
        .where(in_state(DeliveryState.DEAD), ~in_state(DeliveryState.PENDING))
        .limit(MAX_DEAD)
        .subquery()
    )
    dead_counts = (
        select(dead.c.webhook_id, func.count().label("dead")).group_by(dead.c.webhook_id).subquery("dead_counts")
    )
    pending, recent = _pending(), _recent()
    of_pending, of_recent = select(func.count()).select_from(pending), select(func.count()).select_from(recent)
    oldest_pending_at = select(func.min(pending.c.created_at, type_=Instant))
    last_delivered_at = select(func.max(recent.c.finished_at, type_=Instant)).where(_delivered(recent))
    last_error = (
        select(recent.c.error).where(recent.c.error.is_not(None)).order_by(recent.c.event_position.desc()).limit(1)
    )
    statement = (
        select(
            *webhooks.COLUMNS,
            of_pending.scalar_subquery().label("pending"),
            oldest_pending_at.scalar_subquery().label("oldest_pending_at"),
            func.coalesce(dead_counts.c.dead, 0).label("dead"),
            of_recent.scalar_subquery().label("recent"),
            of_recent.where(_delivered(recent)).scalar_subquery().label("recent_delivered"),
            last_delivered_at.scalar_subquery().label("last_delivered_at"),
            last_error.scalar_subquery().label("last_error"),
        )
        .select_from(table.outerjoin(dead_counts, dead_counts.c.webhook_id == table.c.id))
        .order_by(table.c.id)
    )
    return [
        WebhookHealth(
            webhook=webhooks.to_webhook(row),
            pending=row.pending,
            oldest_pending_at=row.oldest_pending_at,
            dead=row.dead,
            recent=row.recent,
            recent_delivered=row.recent_delivered,
            last_delivered_at=row.last_delivered_at,
            last_error=row.last_error,
        )
        for row in connection.execute(statement)
    ]


def _pending() -> Subquery:
    """Return the first pending deliveries of a webhook by their next attempt, as the index has them."""
    return (
        select(deliveries.c.created_at)
        .where(deliveries.c.webhook_id == table.c.id, in_state(DeliveryState.PENDING))
        .order_by(deliveries.c.next_at)
        .limit(MAX_PENDING)
        .correlate(table)
        .subquery()
    )


def _recent() -> Subquery:
    """Return the deliveries of the newest events of a webhook."""
    columns = deliveries.c.state, deliveries.c.event_position, deliveries.c.finished_at, deliveries.c.error
    return (
        select(*columns)
        .where(deliveries.c.webhook_id == table.c.id)
        .order_by(deliveries.c.event_position.desc())
        .limit(RECENT)
        .correlate(table)
        .subquery()
    )


def _delivered(recent: Subquery) -> ColumnElement[bool]:
    return sql.equals_literal(recent.c.state, DeliveryState.DELIVERED)
