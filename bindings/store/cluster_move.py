"""A move to another PostgreSQL cluster, by dump and load: its transaction ids may begin below those of the events.

The feed is in the order of transactions, and a reader waits until each may be final. With smaller ids new events
would stand before older ones, and the older ones would wait for years. So an offset is added to every later id:
the numbers of the feed continue, the cursors of webhooks and of feed readers stay valid, and no event is changed.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import Text, cast, func, select, text, update
from uuid_utils import uuid7

from bindings.domain.acts import Act
from bindings.store import events
from bindings.store.deliveries import pending_row
from bindings.store.one_row import one_row
from bindings.store.schema import account, deliveries, seals, tally_marks, webhooks
from bindings.store.schema import events as events_table
from bindings.store.webhooks import is_sent

if TYPE_CHECKING:
    from sqlalchemy import Connection, Select

    from bindings.domain.binding import Caller
    from bindings.store.database import Database, Transaction
    from bindings.store.read_once import Reads

BATCH = 1_000
WRITERS_WAIT_S = 10.0  # for the statements that were under way
POLL_S = 0.05


@dataclass(frozen=True, kw_only=True, slots=True)
class _Numbers:
    """The highest number that is recorded anywhere, and the next one of this cluster."""

    highest: int
    next: int

    @property
    def behind(self) -> bool:
        """Return whether the cluster will give numbers that are recorded already."""
        return self.highest >= self.next


@dataclass(frozen=True, kw_only=True, slots=True)
class _Move:
    """The offset that was added, the id of the transaction that did it, and the last position before."""

    offset: int
    made_by: str
    last_position: int


def numbers_are_behind(database: Reads) -> bool:
    """Return True if new events would stand before older ones: the database was moved. Always False on SQLite."""
    return database.postgres and database.read(numbers).behind


def continue_numbers(database: Database, caller: Caller) -> bool:
    """Continue the numbers of this cluster after the recorded ones; return False if they are not behind.

    Safe to repeat, and beside running processes: what a statement that is under way still writes with a smaller
    number is sent to the webhooks when it has ended.
    """
    move = database.write(lambda tx: _continue(tx, caller)) if numbers_are_behind(database) else None
    if move is None:
        return False
    _wait_for_writers(database, move)
    database.write(lambda tx: _catch_up(tx, move))
    return True


@one_row(lambda highest, next_number: _Numbers(highest=highest, next=next_number))
def numbers() -> Select[Any]:
    """Return the highest number that is recorded anywhere, and the next one of this cluster (PostgreSQL)."""
    newest = select(events_table.c.tx).order_by(events_table.c.tx.desc(), events_table.c.position.desc()).limit(1)
    highest = func.greatest(
        newest.scalar_subquery(),
        select(func.max(webhooks.c.tx)).scalar_subquery(),
        select(func.max(tally_marks.c.tx)).scalar_subquery(),
        select(func.max(account.c.gone_tx)).scalar_subquery(),
        select(func.max(seals.c.to_tx)).scalar_subquery(),
        0,
    )
    return select(highest.label("highest"), events.next_tx().label("next"))


def _wait_for_writers(database: Database, move: _Move) -> None:
    """Wait for what may still write an event with a smaller number; not longer than `WRITERS_WAIT_S`.

    These are the transactions that got their ids until the move was committed, and the statements that began
    before and have no id yet. Statements of other roles are not visible.
    """
    newest = database.write(_take_number)
    give_up_at = time.monotonic() + WRITERS_WAIT_S
    while database.read(events.running_tx)[1] <= newest or database.read(_has_older_snapshot, move):
        if time.monotonic() > give_up_at:
            return
        time.sleep(POLL_S)


def _take_number(tx: Transaction) -> int:
    return tx.connection.execute(select(events.this_tx(tx.dialect))).scalar_one()


def _has_older_snapshot(connection: Connection, move: _Move) -> bool:
    """Return whether a statement reads the database as it was before the move."""
    is_older = text(
        "SELECT coalesce(bool_or(age(backend_xmin) >= age(CAST(CAST(:made_by AS xid8) AS xid))), false)"
        " FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    return bool(connection.execute(is_older, {"made_by": move.made_by}).scalar_one())


def _continue(tx: Transaction, caller: Caller) -> _Move | None:
    """Record the offset; None if another process was first."""
    connection = tx.connection
    connection.execute(select(account.c.id).with_for_update())
    before = numbers(connection)
    if not before.behind:
        return None
    offset = connection.execute(select(before.highest + 1 - events.oldest_running())).scalar_one()
    last = connection.execute(
        select(events_table.c.position, events_table.c.at)
        .order_by(events_table.c.tx.desc(), events_table.c.position.desc())
        .limit(1)
    ).one_or_none()
    moved_by = update(account).values(tx_offset=account.c.tx_offset + offset).returning(account.c.tx_offset)
    total = connection.execute(moved_by).scalar_one()
    move = _Move(
        offset=offset,
        made_by=connection.execute(select(cast(func.pg_current_xact_id(), Text))).scalar_one(),
        last_position=0 if last is None else last.position,
    )
    if last is not None:
        since = webhooks.c.created_at > last.at, webhooks.c.tx < before.next
        moved = {"tx": before.highest, "position": last.position}
        connection.execute(update(webhooks).where(*since).values(moved))
    _catch_up(tx, move)
    facts = {"tx_offset": total, "highest": before.highest, "last_position": move.last_position}
    events.append_act(tx, Act.DATABASE_MOVED, caller, facts)
    return move


def _catch_up(tx: Transaction, move: _Move) -> None:
    """Send the events that were written since the move to the webhooks, whose cursors are further on.

    A webhook that was added since gets none of the older ones.
    """
    connection = tx.connection
    receivers = connection.execute(
        select(webhooks.c.id, webhooks.c.kinds, webhooks.c.created_at).with_for_update()
    ).all()
    after, now = move.last_position, tx.instant()
    next_without_offset = connection.execute(select(events.next_tx() - move.offset)).scalar_one()
    while True:
        written = connection.execute(
            select(events_table.c.position, events_table.c.kind, events_table.c.at)
            .where(events_table.c.position > after, events_table.c.tx < next_without_offset)
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
            if is_sent(event.kind, receiver.kinds) and event.at >= receiver.created_at
        ]
        if rows:
            connection.execute(tx.dialect.insert(deliveries).on_conflict_do_nothing(), rows)
