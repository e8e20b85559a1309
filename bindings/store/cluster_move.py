"""A move to another PostgreSQL cluster, by dump and load: its transaction ids may begin below those of the events.

The feed is in the order of transactions, and a reader waits until each may be final. With smaller ids new events
would stand before older ones, and the older ones would wait for years. So an offset is added to every later id:
the numbers of the feed continue, the cursors of webhooks and of feed readers stay valid, and no event is changed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import func, select, text, update
from uuid_utils import uuid7

from bindings.store import events
from bindings.store.deliveries import pending_row
from bindings.store.schema import account, deliveries, tally_marks, webhooks
from bindings.store.schema import events as events_table

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from bindings.store.database import Database, Transaction

BATCH = 1_000
LOCK_WAIT_S = 5


@dataclass(frozen=True, kw_only=True, slots=True)
class _Numbers:
    """The highest number that is recorded anywhere, and the next one of this cluster."""

    highest: int
    next: int

    @property
    def behind(self) -> bool:
        """Return whether the cluster will give numbers that are recorded already."""
        return self.highest >= self.next


def numbers_are_behind(database: Database) -> bool:
    """Return True if new events would stand before older ones: the database was moved. Always False on SQLite."""
    return database.postgres and database.read(_numbers).behind


def continue_numbers(database: Database) -> bool:
    """Continue the numbers of this cluster after the recorded ones; return False if they are not behind.

    Safe to repeat, and beside running processes: each event is written before or after. `Busy` if a transaction
    keeps the table of events locked.
    """
    return numbers_are_behind(database) and database.write(_continue)


def _numbers(connection: Connection) -> _Numbers:
    newest = select(events_table.c.tx).order_by(events_table.c.tx.desc(), events_table.c.position.desc()).limit(1)
    highest = func.greatest(
        newest.scalar_subquery(),
        select(func.max(webhooks.c.tx)).scalar_subquery(),
        select(func.max(tally_marks.c.tx)).scalar_subquery(),
        select(func.max(account.c.gone_tx)).scalar_subquery(),
        0,
    )
    row = connection.execute(select(highest.label("highest"), events.next_tx().label("next"))).one()
    return _Numbers(highest=row.highest, next=row.next)


def _continue(tx: Transaction) -> bool:
    connection = tx.connection
    connection.execute(text(f"SET LOCAL lock_timeout = '{LOCK_WAIT_S}s'"))
    # Running writers commit first; those that wait here read the new offset, in a snapshot that is younger.
    connection.execute(text("LOCK TABLE events IN SHARE ROW EXCLUSIVE MODE"))
    numbers = _numbers(connection)
    if not numbers.behind:  # another process was first
        return False
    _catch_up(tx, numbers)
    missing = numbers.highest + 1 - events.oldest_running()
    connection.execute(update(account).values(tx_offset=account.c.tx_offset + missing))
    return True


def _catch_up(tx: Transaction, numbers: _Numbers) -> None:
    """Send the events that were written since the move to the webhooks, whose cursors are further on.

    A webhook that was added since gets none of the older ones: its cursor moves to their end.
    """
    connection = tx.connection
    last = connection.execute(
        select(events_table.c.position, events_table.c.at)
        .order_by(events_table.c.tx.desc(), events_table.c.position.desc())
        .limit(1)
    ).one_or_none()
    if last is None:
        return
    receivers = connection.execute(
        select(webhooks.c.id, webhooks.c.kinds, webhooks.c.created_at).with_for_update()
    ).all()
    since = webhooks.c.created_at > last.at, webhooks.c.tx < numbers.next
    connection.execute(update(webhooks).where(*since).values(tx=numbers.highest, position=last.position))
    after, now = last.position, tx.instant()
    while True:
        written = connection.execute(
            select(events_table.c.position, events_table.c.kind, events_table.c.at)
            .where(events_table.c.position > after, events_table.c.tx < numbers.next)
            .order_by(events_table.c.position)
            .limit(BATCH)
        ).all()
        if not written:
            return
        after = written[-1].position
        rows = [
            pending_row(str(uuid7()), receiver.id, event.position, now)
            for receiver in receivers
            for event in written
            if (receiver.kinds is None or event.kind in receiver.kinds) and event.at >= receiver.created_at
        ]
        if rows:
            connection.execute(tx.dialect.insert(deliveries).on_conflict_do_nothing(), rows)
