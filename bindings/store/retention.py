"""Deletion by retention: ended bindings, refused binds, holds, reports, deliveries, and events on SQLite.

The mark in `account` is written first, and never moves back: the triggers let only rows below it be deleted, and
the feed reports that events below it are deleted. Every function is one small batch and safe to repeat. A binding
is deleted by its end and an event by its own age: an event younger than the end of its binding, such as
`revealed`, outlives it.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from sqlalchemy import and_, delete, exists, func, not_, or_, select, true, update

from bindings.domain.acts import Act
from bindings.domain.binding import State
from bindings.store import events as events_store
from bindings.store import seals, sql
from bindings.store.deliveries import DeliveryState, in_state
from bindings.store.schema import account, bindings, deliveries, events, holds, refusals, reports, texts, webhooks

if TYPE_CHECKING:
    from datetime import datetime

    from sqlalchemy import ColumnElement, Connection

    from bindings.domain.binding import Caller
    from bindings.store.database import Transaction

ENDED = tuple(state for state in State if state.terminal)
MOVE_INTERVAL = timedelta(days=1)
MARKED = 50_000  # events that are marked with one event of their own (SQLite)


def deletable(before: datetime) -> ColumnElement[bool]:
    """Return the condition for bindings to delete: ended, and holding no phones, since before an instant."""
    return and_(
        bindings.c.state.in_(ENDED),
        bindings.c.requested_at < before,  # follows from the others; the index has this one
        bindings.c.held_until < before,
        bindings.c.ended_at < before,
    )


def not_deletable(before: datetime) -> ColumnElement[bool]:
    """Return the condition for bindings that stay."""
    return not_(deletable(before))


def all_bindings() -> ColumnElement[bool]:
    """Return the condition that every recorded binding stays."""
    return true()


@dataclass(frozen=True, kw_only=True, slots=True)
class Limit:
    """The limit of a deletion: what ended before `kept_from` is deleted, for the setting `keep_days`."""

    kept_from: datetime
    keep_days: int


def set_limit(tx: Transaction, keep_days: int, caller: Caller) -> Limit:
    """Record, before a deletion, the instant from which everything is kept, and return it. It never moves back.

    It moves once a day, and each move is an event.
    """
    kept_from = tx.instant() - timedelta(days=keep_days)
    recorded = tx.connection.execute(select(account.c.kept_from).with_for_update()).scalar()
    if recorded is None or recorded <= kept_from - MOVE_INTERVAL:
        tx.connection.execute(update(account).values(kept_from=kept_from))
    elif seals.is_deletion_recorded(tx.connection, recorded):  # an older version recorded it only if it deleted
        return Limit(kept_from=min(recorded, kept_from), keep_days=keep_days)
    else:
        kept_from = recorded
    limit = Limit(kept_from=kept_from, keep_days=keep_days)
    events_store.append_act(tx, Act.RETENTION_APPLIED, caller, asdict(limit) | {"earlier": recorded})
    return limit


def mark_events(tx: Transaction, limit: Limit, caller: Caller, *, last: tuple[int, int], count: int) -> None:
    """Record, before the deletion and with its event, the position up to which events of the feed are deleted."""
    tx_column, position = account.c.gone_tx, account.c.gone_position
    earlier = or_(tx_column.is_(None), sql.keyset_before((tx_column, position), last))
    mark = {"gone_tx": last[0], "gone_position": last[1]}
    if tx.connection.execute(update(account).where(earlier).values(mark)).rowcount:
        events_store.append_act(tx, Act.RETENTION_APPLIED, caller, asdict(limit) | mark | {"events": count})


def delete_bindings(tx: Transaction, before: datetime, *, limit: int, since: datetime) -> tuple[int, datetime]:
    """Delete the oldest deletable bindings that were requested from `since` on.

    Returns how many, and the latest `requested_at` among them, for `since` of the next batch: deleted rows stay in
    the index until a vacuum, and each batch would step over all of them again.
    """
    chosen = select(bindings.c.id).where(deletable(before), bindings.c.requested_at >= since)
    chosen = chosen.order_by(bindings.c.requested_at).limit(limit)
    deleted = delete(bindings).where(bindings.c.id.in_(chosen)).returning(bindings.c.requested_at)
    requested = tx.connection.execute(deleted).scalars().all()
    return len(requested), max(requested, default=since)


def delete_holds(tx: Transaction, before: datetime, *, limit: int) -> int:
    """Delete holds that ended before an instant; return how many."""
    chosen = select(holds.c.id).where(holds.c.held_until < before).limit(limit)
    return tx.connection.execute(delete(holds).where(holds.c.id.in_(chosen))).rowcount


def delete_refusals(tx: Transaction, before: datetime, *, limit: int) -> int:
    """Delete binds that were refused before an instant; return how many."""
    chosen = select(refusals.c.id).where(refusals.c.at < before).order_by(refusals.c.at).limit(limit)
    return tx.connection.execute(delete(refusals).where(refusals.c.id.in_(chosen))).rowcount


def delete_reports(tx: Transaction, before: datetime, *, limit: int) -> int:
    """Delete the reports of reconciliations that ended before an instant; return how many."""
    chosen = select(reports.c.id).where(reports.c.began_at < before, reports.c.finished_at < before)
    chosen = chosen.order_by(reports.c.began_at).limit(limit)
    return tx.connection.execute(delete(reports).where(reports.c.id.in_(chosen))).rowcount


def delete_deliveries(tx: Transaction, *, limit: int) -> int:
    """Delete deliveries of deleted events; return how many."""
    chosen = select(deliveries.c.id).where(_of_deleted_event(deliveries.c.event_position)).limit(limit)
    return tx.connection.execute(delete(deliveries).where(deliveries.c.id.in_(chosen))).rowcount


def delete_texts(tx: Transaction, *, limit: int) -> int:
    """Delete texts of deleted events; return how many."""
    chosen = select(texts.c.event_position).where(_of_deleted_event(texts.c.event_position)).limit(limit)
    return tx.connection.execute(delete(texts).where(texts.c.event_position.in_(chosen))).rowcount


def _of_deleted_event(position: ColumnElement[int]) -> ColumnElement[bool]:
    return and_(
        position <= select(account.c.gone_position).scalar_subquery(),
        not_(exists().where(events.c.position == position)),
    )


def mark_oldest_events(tx: Transaction, limit: Limit, caller: Caller) -> int:
    """Mark the oldest events up to the first that stays, at most `MARKED`; return how many (SQLite).

    An event stays if it is younger, if its binding is recorded, or if a webhook has not been sent it yet.
    In a sealed history whole seals are marked.
    """
    needed = exists().where(bindings.c.id == events.c.binding_id)
    oldest = select(events.c.position, or_(events.c.at >= limit.kept_from, needed)).order_by(events.c.position)
    positions: list[int] = []
    unsent = first_unsent(tx.connection)
    for position, stays in tx.connection.execute(oldest.limit(MARKED)):
        if stays or (unsent is not None and position >= unsent):
            break
        positions.append(position)
    if positions and seals.last(tx.connection) is not None:
        sealed_to = seals.end_up_to(tx.connection, positions[-1]) or 0
        positions = [position for position in positions if position <= sealed_to]
    if positions:
        mark_events(tx, limit, caller, last=(0, positions[-1]), count=len(positions))
    return len(positions)


def delete_marked_events(tx: Transaction, *, limit: int) -> int:
    """Delete the oldest events up to the mark (SQLite; PostgreSQL drops partitions); return how many."""
    marked = events.c.position <= select(account.c.gone_position).scalar_subquery()
    chosen = select(events.c.position).where(marked).order_by(events.c.position).limit(limit)
    return tx.connection.execute(delete(events).where(events.c.position.in_(chosen))).rowcount


def first_unsent(connection: Connection) -> int | None:
    """Return the first position that an enabled webhook may not have been sent yet, or None (SQLite)."""
    enabled = webhooks.c.disabled_at.is_(None)
    pending = select(func.min(deliveries.c.event_position)).where(
        in_state(DeliveryState.PENDING), deliveries.c.webhook_id == webhooks.c.id, enabled
    )
    behind = select(func.min(webhooks.c.position) + 1).where(enabled)
    positions = (connection.execute(statement).scalar() for statement in (pending, behind))
    return min((position for position in positions if position is not None), default=None)


def count(connection: Connection, before: datetime) -> dict[str, int]:
    """Return how many rows of each table a run would delete, except events."""
    conditions: dict[str, tuple[Any, ColumnElement[bool]]] = {
        "bindings": (bindings, deletable(before)),
        "holds": (holds, holds.c.held_until < before),
        "refusals": (refusals, refusals.c.at < before),
        "reports": (reports, reports.c.finished_at < before),
    }
    return {
        name: connection.execute(select(func.count()).select_from(table).where(condition)).scalar_one()
        for name, (table, condition) in conditions.items()
    }


def count_events(connection: Connection, before: datetime) -> int:
    """Return how many events a run would delete on SQLite."""
    needed = exists().where(bindings.c.id == events.c.binding_id, not_deletable(before))
    first_kept = select(func.min(events.c.position)).where(or_(events.c.at >= before, needed))
    limits = (connection.execute(first_kept).scalar(), first_unsent(connection))
    bounds = [position for position in limits if position is not None]
    statement = select(func.count()).select_from(events)
    if bounds:
        statement = statement.where(events.c.position < min(bounds))
    return connection.execute(statement).scalar_one()
