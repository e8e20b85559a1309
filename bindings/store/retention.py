"""What retention deletes: bindings that are over, holds, reports, deliveries; and events where they are one table.

The mark in `account` is written first, and never goes back: the triggers let nothing be deleted that lies above
it, and the feed says that what lies below is gone. Every function is one small batch and safe to repeat. A
binding goes by its end and an event by its own age: one that is younger than its binding's end, such as
`revealed`, outlives it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import and_, delete, exists, func, not_, or_, select, true, tuple_, update

from bindings.domain.binding import State
from bindings.store.schema import account, bindings, deliveries, events, holds, reports, webhooks

if TYPE_CHECKING:
    from datetime import datetime, timedelta

    from sqlalchemy import ColumnElement, Connection

    from bindings.store.database import Transaction

ENDED = tuple(state for state in State if state.terminal)


def deletable(before: datetime) -> ColumnElement[bool]:
    """Which bindings go: over, and nobody's phones are held by them, since before an instant."""
    return and_(
        bindings.c.state.in_(ENDED),
        bindings.c.requested_at < before,  # follows from the others, and is what the index knows
        bindings.c.held_until < before,
        bindings.c.ended_at < before,
    )


def not_deletable(before: datetime) -> ColumnElement[bool]:
    """Which bindings stay."""
    return not_(deletable(before))


def all_bindings() -> ColumnElement[bool]:
    """As `stays`, where every binding that is there counts."""
    return true()


def set_kept_from(tx: Transaction, keep: timedelta) -> datetime:
    """Say from when on everything is kept, before anything is deleted; returns that instant."""
    wanted = tx.instant() - keep
    later = or_(account.c.kept_from.is_(None), account.c.kept_from < wanted)
    tx.connection.execute(update(account).where(later).values(kept_from=wanted))
    return wanted


def mark_events(tx: Transaction, last: tuple[int, int]) -> None:
    """Say that the feed's events up to here are gone, before they are."""
    tx_column, position = account.c.gone_tx, account.c.gone_position
    earlier = or_(tx_column.is_(None), tuple_(tx_column, position) < tuple_(*last))
    tx.connection.execute(update(account).where(earlier).values(gone_tx=last[0], gone_position=last[1]))


def delete_bindings(tx: Transaction, before: datetime, *, limit: int, since: datetime) -> tuple[int, datetime]:
    """Delete the oldest of the bindings that go, of those requested from `since` on.

    Returns how many, and the request that it came to. From there the next batch goes on: what was deleted stands
    in the index until it is vacuumed, and each batch would step over all of it anew.
    """
    chosen = select(bindings.c.id).where(deletable(before), bindings.c.requested_at >= since)
    chosen = chosen.order_by(bindings.c.requested_at).limit(limit)
    deleted = delete(bindings).where(bindings.c.id.in_(chosen)).returning(bindings.c.requested_at)
    requested = tx.connection.execute(deleted).scalars().all()
    return len(requested), max(requested, default=since)


def delete_holds(tx: Transaction, before: datetime, *, limit: int) -> int:
    """Delete holds that ended before; how many."""
    chosen = select(holds.c.id).where(holds.c.held_until < before).limit(limit)
    return tx.connection.execute(delete(holds).where(holds.c.id.in_(chosen))).rowcount


def delete_reports(tx: Transaction, before: datetime, *, limit: int) -> int:
    """Delete the reports of reconciliations that ended before; how many."""
    chosen = select(reports.c.id).where(reports.c.began_at < before, reports.c.finished_at < before)
    chosen = chosen.order_by(reports.c.began_at).limit(limit)
    return tx.connection.execute(delete(reports).where(reports.c.id.in_(chosen))).rowcount


def delete_deliveries(tx: Transaction, *, limit: int) -> int:
    """Delete deliveries of events that are gone; how many."""
    without_event = and_(
        deliveries.c.event_position <= select(account.c.gone_position).scalar_subquery(),
        not_(exists().where(events.c.position == deliveries.c.event_position)),
    )
    chosen = select(deliveries.c.id).where(without_event).limit(limit)
    return tx.connection.execute(delete(deliveries).where(deliveries.c.id.in_(chosen))).rowcount


def delete_events(tx: Transaction, before: datetime, *, limit: int) -> int:
    """Delete the oldest events up to the first that stays (SQLite; PostgreSQL drops partitions); how many.

    One stays that is younger, or whose binding stays, or that a webhook has still to be sent.
    """
    needed = exists().where(bindings.c.id == events.c.binding_id)
    oldest = select(events.c.position, or_(events.c.at >= before, needed)).order_by(events.c.position).limit(limit)
    last = deleted = 0
    unsent = first_unsent(tx.connection)
    for position, kept in tx.connection.execute(oldest):
        if kept or (unsent is not None and position >= unsent):
            break
        last, deleted = position, deleted + 1
    if deleted:
        mark_events(tx, (0, last))
        tx.connection.execute(delete(events).where(events.c.position <= last))
    return deleted


def first_unsent(connection: Connection) -> int | None:
    """The first position that an enabled webhook may still have to be sent (SQLite); None where there is none."""
    enabled = webhooks.c.disabled_at.is_(None)
    pending = select(func.min(deliveries.c.event_position)).where(
        deliveries.c.state == "pending", deliveries.c.webhook_id == webhooks.c.id, enabled
    )
    behind = select(func.min(webhooks.c.position) + 1).where(enabled)
    found = (connection.execute(statement).scalar() for statement in (pending, behind))
    return min((position for position in found if position is not None), default=None)


def count(connection: Connection, before: datetime) -> dict[str, int]:
    """How many rows of each table a run would delete, events aside."""
    conditions: dict[str, tuple[Any, ColumnElement[bool]]] = {
        "bindings": (bindings, deletable(before)),
        "holds": (holds, holds.c.held_until < before),
        "reports": (reports, reports.c.finished_at < before),
    }
    return {
        name: connection.execute(select(func.count()).select_from(table).where(condition)).scalar_one()
        for name, (table, condition) in conditions.items()
    }


def count_events(connection: Connection, before: datetime) -> int:
    """How many events a run would delete where they are one table."""
    needed = exists().where(bindings.c.id == events.c.binding_id, not_deletable(before))
    kept = select(func.min(events.c.position)).where(or_(events.c.at >= before, needed))
    bounds = [connection.execute(kept).scalar(), first_unsent(connection)]
    statement = select(func.count()).select_from(events)
    known = [bound for bound in bounds if bound is not None]
    return connection.execute(statement.where(events.c.position < min(known)) if known else statement).scalar_one()
