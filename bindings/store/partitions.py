"""The partitions of `events` on PostgreSQL: start a new one each month, drop those that retention releases.

Partitioned by position, because every query that must stay cheap or unique has it: the feed reads the partition of
its cursor, the one before, and those that follow; a delivery finds its event in one; the primary key stays the
position alone. A month starts when the sequence is moved to the first position of the next partition, which exists
by then; until that is done, events go to the partition in use. So no insert fails because the partition of a month
is missing, for any reading of the clock, and there is no default partition to scan.

Nothing here locks a table for longer than `LOCK_WAIT`. All functions that write need the owner of the tables.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import timedelta
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from sqlalchemy import exists, func, select, text

from bindings.store import sql
from bindings.store.deliveries import DeliveryState, in_state
from bindings.store.events import PARTITION_SPAN
from bindings.store.schema import TERMINAL, deliveries, webhooks
from bindings.store.schema import bindings as bindings_table
from bindings.store.schema import events as events_table

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime

    from sqlalchemy import Connection

    from bindings.store.database import Database, Transaction

LOCK_WAIT = "500ms"  # for a lock behind which other statements queue
# No statement queues behind a concurrent detach, nor for a detached table. Long enough for the server to cancel an
# autovacuum that holds the lock; the next run continues what could not be finished.
DETACH_WAIT = "10s"
STRETCH = 1_000_000  # positions that one statement reads
SHORTEST = timedelta(days=1)  # no transaction is open for longer, so the feed looks back by one partition only
ONE_AT_A_TIME = 0x62696E64_70617274  # "bindpart"
GIVEN_UP = "given up by retention"

_PARTITIONS = text(
    "SELECT relname, inhdetachpending, pg_get_expr(relpartbound, pg_class.oid)"
    " FROM pg_inherits JOIN pg_class ON pg_class.oid = inhrelid WHERE inhparent = CAST('events' AS regclass)"
)
_REACHED = text("SELECT last_value FROM events_position_seq")
_DETACHED = text(
    "SELECT relname FROM pg_class WHERE relkind = 'r' AND NOT relispartition"
    " AND relnamespace = (SELECT relnamespace FROM pg_class WHERE oid = CAST('events' AS regclass))"
    " AND obj_description(oid, 'pg_class') = :given_up"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Partition:
    """One partition: its positions are [number, number + 1) x PARTITION_SPAN. `detaching`: no query sees it."""

    name: str
    number: int
    detaching: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class ClosedPartition:
    """A partition that is not in use any more; `over` is when the following one started."""

    name: str
    number: int
    over: datetime


@dataclass(frozen=True, kw_only=True, slots=True)
class DroppablePartition:
    """A partition that may be dropped; `last` is the position of its last event in the feed, (tx, position)."""

    name: str
    events: int
    last: tuple[int, int]


def number_of(bounds: str) -> int | None:
    """Return the number of the partition with these bounds, as PostgreSQL writes them; None for a default one."""
    return None if bounds == "DEFAULT" else int(re.findall(r"\d+", bounds)[-1]) // PARTITION_SPAN - 1


def list_partitions(connection: Connection) -> list[Partition]:
    """Return all partitions that have bounds, the oldest first: all but a default one, which an operator added."""
    partitions = []
    for name, detaching, bounds in connection.execute(_PARTITIONS):
        number = number_of(bounds)
        if number is not None:
            partitions.append(Partition(name=name, number=number, detaching=detaching))
    return sorted(partitions, key=lambda partition: partition.number)


def next_due(connection: Connection, now: datetime) -> int | None:
    """Return the number of the partition to start, or None if the one in use has no event of an earlier month."""
    in_use = int(connection.execute(_REACHED).scalar_one()) // PARTITION_SPAN
    started = _started(connection, in_use)
    month = now.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    return in_use + 1 if started is not None and started < min(month, now - SHORTEST) else None


def _started(connection: Connection, number: int) -> datetime | None:
    """Return when the first event of a partition was written, or None if it has none."""
    first = select(events_table.c.at).where(*_within(number)).order_by(events_table.c.position).limit(1)
    return connection.execute(first).scalar()


def _within(number: int) -> tuple[Any, Any]:
    lower = number * PARTITION_SPAN
    return events_table.c.position >= lower, events_table.c.position < lower + PARTITION_SPAN


def create(tx: Transaction, number: int, now: datetime) -> None:
    """Create and attach the partition with this number unless it exists. Blocks no reader and no writer."""
    tx.connection.execute(select(func.pg_advisory_xact_lock(ONE_AT_A_TIME)))
    if any(partition.number == number for partition in list_partitions(tx.connection)):
        return
    name = f"events_{now:%Y_%m}"
    if tx.connection.execute(select(func.to_regclass(name))).scalar() is not None:
        name = f"{name}_{number}"
    lower = number * PARTITION_SPAN
    for statement in (
        (
            f"CREATE TABLE {name} (LIKE events INCLUDING DEFAULTS INCLUDING CONSTRAINTS INCLUDING COMMENTS)"
            # Rows never change: frozen by the first vacuum, so that no later one rewrites an old month.
            " WITH (autovacuum_freeze_min_age = 0)"
        ),
        f"ALTER TABLE {name} ADD CONSTRAINT uq_{name}_binding_id_sequence UNIQUE (binding_id, sequence)",
        f"CREATE UNIQUE INDEX uq_{name}_terminal ON {name} (binding_id) WHERE {TERMINAL}",
        (
            f"CREATE TRIGGER events_refuse_truncate BEFORE TRUNCATE ON {name}"
            " FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()"
        ),
        # Attaching also creates the indexes and the row triggers of `events`.
        f"ALTER TABLE events ATTACH PARTITION {name} FOR VALUES FROM ({lower}) TO ({lower + PARTITION_SPAN})",
    ):
        tx.connection.execute(text(statement))


def switch_to(tx: Transaction, number: int) -> bool:
    """Move the sequence to the first position of a partition; return False if it is missing or already in use.

    The lock waits for statements that were planned before the partition existed: they could not insert its
    positions. The wait ends after `LOCK_WAIT`, because other writers queue behind it.
    """
    settings = {"statement_timeout": LOCK_WAIT, "synchronous_commit": "off"}  # no wait for a standby with the lock
    for name, value in settings.items():
        tx.connection.execute(select(func.set_config(name, value, True)))
    tx.connection.execute(text("LOCK TABLE ONLY events IN SHARE ROW EXCLUSIVE MODE"))
    lower = number * PARTITION_SPAN
    is_attached = any(partition.number == number for partition in list_partitions(tx.connection))
    if not is_attached or tx.connection.execute(_REACHED).scalar_one() >= lower:
        return False
    tx.connection.execute(text("SELECT setval('events_position_seq', :lower, false)"), {"lower": lower})
    return True


def ended(connection: Connection, before: datetime) -> list[ClosedPartition]:
    """Return the partitions that were over before an instant, the oldest first."""
    closed: list[ClosedPartition] = []
    attached = [partition for partition in list_partitions(connection) if not partition.detaching]
    for partition, following in pairwise(attached):
        over = _started(connection, following.number)
        if over is None or over >= before:
            break
        closed.append(ClosedPartition(name=partition.name, number=partition.number, over=over))
    return closed


def droppable(
    database: Database, closed: list[ClosedPartition], *, before: datetime, stays: Any
) -> Iterator[DroppablePartition]:
    """Yield the partitions of `closed` up to the first that is still needed; each is checked when it is reached.

    `stays` is the condition for bindings that are not deleted: their events are kept, and so are events that an
    enabled webhook has not been sent yet.
    """
    for partition in closed:
        last = database.read(_last_unneeded, partition, stays)
        if last is None:
            return
        events, newest = _count_events(database, partition.number)
        if newest is not None and newest >= before:  # the clock was set back
            return
        yield DroppablePartition(name=partition.name, events=events, last=last)


def _last_unneeded(connection: Connection, partition: ClosedPartition, stays: Any) -> tuple[int, int] | None:
    """Return the position of a partition's last event, or None if a binding or a webhook needs the partition."""
    # No event of a binding is older than its request, so only bindings requested before the end have events here.
    requested_before = select(bindings_table.c.id).where(bindings_table.c.requested_at < partition.over, stays)
    if connection.execute(requested_before.order_by(bindings_table.c.requested_at).limit(1)).first() is not None:
        return None
    order = events_table.c.tx, events_table.c.position
    latest = select(*order).where(*_within(partition.number)).order_by(*(column.desc() for column in order))
    last = connection.execute(latest.limit(1)).one_or_none()
    if last is None:
        return 0, 0
    if connection.execute(select(pending_for_webhooks(last.tx, last.position))).scalar():
        return None
    return last.tx, last.position


def _count_events(database: Database, number: int) -> tuple[int, datetime | None]:
    """Return the number of events of a partition and the newest instant; in parts, because no read may be long."""
    position = events_table.c.position
    bounds = select(func.min(position), func.max(position)).where(*_within(number))
    first, last = database.read(lambda connection: connection.execute(bounds).one())
    total, newest = 0, None
    for lower in range(first or 0, (last or -1) + 1, STRETCH):
        stretch = select(func.count(), func.max(events_table.c.at)).where(
            *_within(number), position >= lower, position < lower + STRETCH
        )
        events, at = database.read(lambda connection: connection.execute(stretch).one())  # noqa: B023
        total, newest = total + events, max(filter(None, (newest, at)), default=None)
    return total, newest


def pending_for_webhooks(tx: int, position: int) -> Any:
    """Return the condition that an enabled webhook has not been sent all events up to a position of the feed."""
    enabled = webhooks.c.disabled_at.is_(None)
    behind = exists().where(enabled, sql.keyset_before((webhooks.c.tx, webhooks.c.position), (tx, position)))
    pending = exists().where(
        enabled,
        deliveries.c.webhook_id == webhooks.c.id,
        in_state(DeliveryState.PENDING),
        deliveries.c.event_position <= position,
    )
    return behind | pending


def detach(database: Database, name: str) -> None:
    """Detach a partition from `events` if it is attached. Raises `Busy` if a lock is not free; safe to repeat."""

    def detach_if_attached(connection: Connection) -> None:
        attached = {partition.name: partition for partition in list_partitions(connection)}
        if name not in attached:
            return
        connection.execute(text(f"COMMENT ON TABLE {name} IS '{GIVEN_UP}'"))
        mode = "FINALIZE" if attached[name].detaching else "CONCURRENTLY"
        connection.execute(text(f"ALTER TABLE events DETACH PARTITION {name} {mode}"))

    database.run_outside_transaction(detach_if_attached, lock_wait=DETACH_WAIT)


def half_detached(connection: Connection) -> list[str]:
    """Return the partitions whose concurrent detach was started and not finished."""
    return [partition.name for partition in list_partitions(connection) if partition.detaching]


def detached_tables(connection: Connection) -> list[str]:
    """Return the tables that `detach` detached and that are not dropped yet."""
    return list(connection.execute(_DETACHED, {"given_up": GIVEN_UP}).scalars())


def drop(database: Database, name: str) -> None:
    """Drop a detached table. Safe to repeat."""
    database.run_outside_transaction(
        lambda connection: connection.execute(text(f"DROP TABLE IF EXISTS {name}")), lock_wait=DETACH_WAIT
    )
