"""The partitions of `events` on PostgreSQL: begin the next one each month, drop what retention has given up.

Partitioned by position, because everything that must stay cheap and unique knows it: the feed reads the partition
of its cursor, the one before, and what follows; a delivery finds its event in one; the primary key stays the
position alone. A month begins when the sequence moves on to the next partition, which is there by then: until
somebody does that, events go on where they are. So no insert ever fails because a month is missing, whatever the
clock says, and there is no default partition to scan.

Nothing here keeps anybody out of a table for longer than `LOCK_WAIT`. All of it needs the owner of the tables.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import timedelta
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from sqlalchemy import exists, func, select, text, tuple_

from bindings.store.events import PARTITION_SPAN
from bindings.store.schema import TERMINAL, deliveries, webhooks
from bindings.store.schema import bindings as bindings_table
from bindings.store.schema import events as events_table

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime

    from sqlalchemy import Connection

    from bindings.store.database import Database, Transaction

LOCK_WAIT = "500ms"  # for a lock that others queue behind
# Nobody queues behind a concurrent detach, nor for what was detached. It is long enough for the server to end an
# autovacuum that is in the way; what could not be finished, the next run does.
DETACH_WAIT = "10s"
STRETCH = 1_000_000  # positions that are looked at in one read
SHORTEST = timedelta(days=1)  # no transaction is open for longer, so the feed need look back by one partition only
ONE_AT_A_TIME = 0x62696E64_70617274  # "bindpart"
GIVEN_UP = "given up by retention"

_PARTITIONS = text(
    "SELECT relname, inhdetachpending, pg_get_expr(relpartbound, pg_class.oid)"
    " FROM pg_inherits JOIN pg_class ON pg_class.oid = inhrelid WHERE inhparent = CAST('events' AS regclass)"
)
_OWNED = text("SELECT pg_has_role(relowner, 'USAGE') FROM pg_class WHERE oid = CAST('events' AS regclass)")
_REACHED = text("SELECT last_value FROM events_position_seq")
_LEFT_OVER = text(
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
    """A partition that is not in use any more; `over` is when the following one began."""

    name: str
    number: int
    over: datetime


@dataclass(frozen=True, kw_only=True, slots=True)
class DroppablePartition:
    """A partition that may go; (tx, position) is its last event's place in the feed."""

    name: str
    events: int
    last: tuple[int, int]


def is_owner(connection: Connection) -> bool:
    """Whether this role may change partitions."""
    return bool(connection.execute(_OWNED).scalar())


def list_partitions(connection: Connection) -> list[Partition]:
    """All partitions, the oldest first."""
    found = []
    for name, detaching, bounds in connection.execute(_PARTITIONS):
        upper = int(re.findall(r"\d+", bounds)[-1])
        found.append(Partition(name=name, number=upper // PARTITION_SPAN - 1, detaching=detaching))
    return sorted(found, key=lambda partition: partition.number)


def next_due(connection: Connection, now: datetime) -> int | None:
    """The number of the partition that is to be begun, where the one in use has an event of an earlier month."""
    in_use = int(connection.execute(_REACHED).scalar_one()) // PARTITION_SPAN
    began = _began(connection, in_use)
    month = now.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    return in_use + 1 if began is not None and began < min(month, now - SHORTEST) else None


def _began(connection: Connection, number: int) -> datetime | None:
    """When the first event of a partition was written; None where it has none."""
    first = select(events_table.c.at).where(*_within(number)).order_by(events_table.c.position).limit(1)
    return connection.execute(first).scalar()


def _within(number: int) -> tuple[Any, Any]:
    lower = number * PARTITION_SPAN
    return events_table.c.position >= lower, events_table.c.position < lower + PARTITION_SPAN


def create(tx: Transaction, number: int, now: datetime) -> None:
    """Make the partition of a number and attach it, where it is not there yet. Locks nobody out."""
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
            # Written once: frozen when first vacuumed, so that no later vacuum writes an old month again.
            " WITH (autovacuum_freeze_min_age = 0)"
        ),
        f"ALTER TABLE {name} ADD CONSTRAINT uq_{name}_binding_id_sequence UNIQUE (binding_id, sequence)",
        f"CREATE UNIQUE INDEX uq_{name}_terminal ON {name} (binding_id) WHERE {TERMINAL}",
        (
            f"CREATE TRIGGER events_refuse_truncate BEFORE TRUNCATE ON {name}"
            " FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()"
        ),
        # ... which makes the indexes and the row triggers of the whole.
        f"ALTER TABLE events ATTACH PARTITION {name} FOR VALUES FROM ({lower}) TO ({lower + PARTITION_SPAN})",
    ):
        tx.connection.execute(text(statement))


def switch_to(tx: Transaction, number: int) -> bool:
    """Let the next position be the first one of a partition; False where it is not there, or begun already.

    The lock waits for the statements that were planned before the partition was there: they know no place for its
    positions. It is given up after `LOCK_WAIT`, because other writers queue behind it.
    """
    settings = {"statement_timeout": LOCK_WAIT, "synchronous_commit": "off"}  # no standby is waited for under it
    for name, value in settings.items():
        tx.connection.execute(select(func.set_config(name, value, True)))
    tx.connection.execute(text("LOCK TABLE ONLY events IN SHARE ROW EXCLUSIVE MODE"))
    lower = number * PARTITION_SPAN
    there = any(partition.number == number for partition in list_partitions(tx.connection))
    if not there or tx.connection.execute(_REACHED).scalar_one() >= lower:
        return False
    tx.connection.execute(text("SELECT setval('events_position_seq', :lower, false)"), {"lower": lower})
    return True


def ended(connection: Connection, before: datetime) -> list[ClosedPartition]:
    """The partitions that were over before an instant, the oldest first."""
    found: list[ClosedPartition] = []
    attached = [partition for partition in list_partitions(connection) if not partition.detaching]
    for partition, following in pairwise(attached):
        over = _began(connection, following.number)
        if over is None or over >= before:
            break
        found.append(ClosedPartition(name=partition.name, number=partition.number, over=over))
    return found


def droppable(
    database: Database, found: list[ClosedPartition], *, before: datetime, stays: Any
) -> Iterator[DroppablePartition]:
    """Those of what `ended` found, up to the first that something still needs; each is looked at when asked for.

    `stays` says which bindings stay: the events of those are kept, and so is what a webhook that is enabled has
    not been sent yet.
    """
    for partition in found:
        last = database.read(_last_unneeded, partition, stays)
        if last is None:
            return
        events, newest = _counted(database, partition.number)
        if newest is not None and newest >= before:  # the clock was set back
            return
        yield DroppablePartition(name=partition.name, events=events, last=last)


def _last_unneeded(connection: Connection, partition: ClosedPartition, stays: Any) -> tuple[int, int] | None:
    """Where a partition ends in the feed; None where a binding or a webhook needs it."""
    # No event of a binding is older than its request: without a binding from before the end, none has one here.
    asked_before = select(bindings_table.c.id).where(bindings_table.c.requested_at < partition.over, stays)
    if connection.execute(asked_before.order_by(bindings_table.c.requested_at).limit(1)).first() is not None:
        return None
    place = events_table.c.tx, events_table.c.position
    latest = select(*place).where(*_within(partition.number)).order_by(*(part.desc() for part in place)).limit(1)
    last = connection.execute(latest).one_or_none()
    if last is None:
        return 0, 0
    if connection.execute(select(pending_for_webhooks(last.tx, last.position))).scalar():
        return None
    return last.tx, last.position


def _counted(database: Database, number: int) -> tuple[int, datetime | None]:
    """How many events a partition has, and the newest one's instant; in stretches, since no read may take long."""
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
    """Whether a webhook that is enabled has still to be sent something up to a place of the feed."""
    enabled = webhooks.c.disabled_at.is_(None)
    behind = exists().where(enabled, tuple_(webhooks.c.tx, webhooks.c.position) < tuple_(tx, position))
    pending = exists().where(
        enabled,
        deliveries.c.webhook_id == webhooks.c.id,
        deliveries.c.state == "pending",
        deliveries.c.event_position <= position,
    )
    return behind | pending


def detach(database: Database, name: str) -> None:
    """Take a partition out of `events`, where it is one. `Busy` where it must go on later; safe to repeat."""

    def work(connection: Connection) -> None:
        found = {partition.name: partition for partition in list_partitions(connection)}
        if name not in found:
            return
        connection.execute(text(f"COMMENT ON TABLE {name} IS '{GIVEN_UP}'"))
        how = "FINALIZE" if found[name].detaching else "CONCURRENTLY"
        connection.execute(text(f"ALTER TABLE events DETACH PARTITION {name} {how}"))

    database.run_outside_transaction(work, lock_wait=DETACH_WAIT)


def half_detached(connection: Connection) -> list[str]:
    """The partitions whose detaching was begun and not finished."""
    return [partition.name for partition in list_partitions(connection) if partition.detaching]


def detached_tables(connection: Connection) -> list[str]:
    """The tables that were detached here, and not dropped yet."""
    return list(connection.execute(_LEFT_OVER, {"given_up": GIVEN_UP}).scalars())


def drop(database: Database, name: str) -> None:
    """Drop a table that was detached."""
    database.run_outside_transaction(
        lambda connection: connection.execute(text(f"DROP TABLE IF EXISTS {name}")), lock_wait=DETACH_WAIT
    )
