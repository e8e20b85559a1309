"""The rows of the sealed history: the seals, the events that are to be sealed, and a snapshot to verify.

A seal is inserted once and never changed; triggers refuse the rest. What a seal states is made and compared in
`bindings.sealing`.
"""

from __future__ import annotations

from contextlib import contextmanager
from itertools import takewhile
from typing import TYPE_CHECKING, Any

from sqlalchemy import select, text

from bindings.sealing.seals import BEGINNING, Seal
from bindings.store import sql
from bindings.store.events import PARTITION_SPAN, after_position, oldest_running
from bindings.store.schema import events
from bindings.store.schema import seals as table

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import Connection, Select

    from bindings.store.database import Transaction

_COLUMNS = sql.columns(table, Seal)
EVENT_COLUMNS = tuple(events.c)  # every one: a column that is added later is sealed too


def last(connection: Connection) -> Seal | None:
    """Return the last seal, or None if there is none."""
    row = connection.execute(select(*_COLUMNS).order_by(table.c.number.desc()).limit(1)).one_or_none()
    return None if row is None else sql.record(Seal, row)


def insert(tx: Transaction, seal: Seal) -> bool:
    """Insert a seal; False if its number is taken: another process was first."""
    values = {column.name: getattr(seal, column.name) for column in _COLUMNS}
    inserted = tx.dialect.insert(table).values(values).on_conflict_do_nothing(index_elements=["number"])
    return tx.connection.execute(inserted.returning(table.c.number)).scalar() is not None


def list_all(connection: Connection) -> Iterator[Seal]:
    """Yield every seal, in order."""
    with connection.execute(select(*_COLUMNS).order_by(table.c.number)) as rows:
        for row in rows:
            yield sql.record(Seal, row)


def unsealed(connection: Connection, after: Seal | None, *, limit: int) -> list[dict[str, Any]]:
    """Return up to `limit` final events after a seal, in the order of the feed, as dicts of their columns.

    They are of one partition: retention drops whole partitions, and so whole seals.
    """
    postgres = sql.is_postgres(connection)
    statement = _feed().where(after_position(_end(after), postgres=postgres)).limit(limit)
    if postgres:
        statement = statement.where(events.c.tx < oldest_running())
    rows = [row._asdict() for row in connection.execute(statement)]
    return list(takewhile(lambda row: _partition(row) == _partition(rows[0]), rows))


def _partition(row: dict[str, Any]) -> int:
    return int(row["position"]) // PARTITION_SPAN


def _end(seal: Seal | None) -> tuple[int, int]:
    return BEGINNING if seal is None else seal.end


def _feed() -> Select[*tuple[Any, ...]]:
    return select(*EVENT_COLUMNS).order_by(events.c.tx, events.c.position)


def list_events(connection: Connection) -> Iterator[dict[str, Any]]:
    """Yield every committed event, in the order of the feed, as dicts of their columns."""
    with connection.execute(_feed()) as rows:
        for row in rows:
            yield row._asdict()


@contextmanager
def snapshot(connection: Connection) -> Iterator[None]:
    """Let every statement of the block read the same state; on PostgreSQL its transaction sees to that already."""
    if sql.is_postgres(connection):
        yield
        return
    connection.execute(text("BEGIN"))
    try:
        yield
    finally:
        connection.execute(text("ROLLBACK"))
