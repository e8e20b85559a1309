"""The processes that use the database: one row for each, written when it opens a service and once a minute.

A child of a fork is a process of its own, with its own row. A row that is a day old is deleted.
"""

from __future__ import annotations

import os
import socket
import threading
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from typing import TYPE_CHECKING, Any

from sqlalchemy import delete, exists, inspect, literal_column, or_, select
from uuid_utils import uuid7

from bindings import __version__
from bindings.store import sql
from bindings.store.phone_keys import keys_of
from bindings.store.schema import HEAD, replicas

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from sqlalchemy import ColumnElement, Connection, Dialect

    from bindings.clock import HostClock
    from bindings.store.database import Database, SqlDialect, Transaction

INTERVAL_S = 60.0
RETRY_S = 5.0  # after a record that failed
RECENT = timedelta(seconds=3 * INTERVAL_S)  # a process that was recorded since then is at work
RETENTION = timedelta(days=1)
CLOSE_WAIT_S = 1.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Replica:
    """A process that uses the database. `phone_key_ids` are those of the keys for phones that it has.

    `schema_revision` is the revision that its code was made for; None: one before this was recorded.
    """

    id: str
    name: str
    version: str
    phone_key_ids: list[str]
    schema_revision: str | None
    started_at: datetime
    seen_at: datetime


def seen_since(connection: Connection, instant: datetime) -> list[Replica]:
    """Return the processes that used the database at `instant` or later, the most recent first."""
    columns = sql.columns(replicas, Replica)
    newest = select(*columns).where(replicas.c.seen_at >= instant).order_by(replicas.c.seen_at.desc())
    return [sql.record(Replica, row) for row in connection.execute(newest)]


def older_than(connection: Connection, revision: str, instant: datetime) -> list[Replica]:
    """Return the processes that used the database at `instant` or later with code made for an older revision."""
    return [
        replica
        for replica in seen_since(connection, instant)
        if replica.schema_revision is None or replica.schema_revision < revision
    ]


def names_of_newer(connection: Connection, revision: str, instant: datetime) -> list[str]:
    """Return the processes that used the database at `instant` or later with code made for a newer revision.

    Each is its name with the revision that it needs. Works on every schema from 0011 on, and finds none before.
    """
    if replicas.c.schema_revision.name not in {
        column["name"] for column in inspect(connection).get_columns(replicas.name)
    }:
        return []
    newer = select(replicas.c.name, replicas.c.schema_revision).where(
        replicas.c.seen_at >= instant, replicas.c.schema_revision > revision
    )
    rows = connection.execute(newer.order_by(replicas.c.name))
    return [f"{name} (for {needed})" for name, needed in rows]


def is_older_at_work(dialect: SqlDialect, revision: str) -> ColumnElement[bool]:
    """Return the condition that a process with code made for an older revision is at work."""
    since = sql.earlier(dialect.now_once, RECENT, postgres=dialect.postgres)
    is_older = or_(
        replicas.c.schema_revision.is_(None), replicas.c.schema_revision < literal_column(f"'{revision}'")
    )
    return exists().where(replicas.c.seen_at >= since, is_older)


def record(tx: Transaction) -> None:
    """Record that this process uses the database now, and delete the rows that are a day old. Safe to repeat."""
    now = tx.instant()
    values: dict[str, Any] = {
        "name": process_name(),
        "version": __version__,
        "phone_key_ids": key_ids(tx.connection.dialect),
        "schema_revision": HEAD,
        "seen_at": now,
    }
    statement = tx.dialect.insert(replicas).values(id=_process_id(os.getpid()), started_at=now, **values)
    tx.connection.execute(statement.on_conflict_do_update(index_elements=["id"], set_=values))
    tx.connection.execute(delete(replicas).where(replicas.c.seen_at < now - RETENTION))


def key_ids(dialect: Dialect) -> list[str]:
    """Return the ids of the keys for phones that this process has, as `kind:number:check`."""
    keys = keys_of(dialect)
    return [] if keys is None else [f"{name}:{check}" for name, check in keys.checks.items()]


def process_name() -> str:
    """Return the host and the number of this process."""
    return f"{socket.gethostname()}:{os.getpid()}"


@cache
def _process_id(pid: int) -> str:  # noqa: ARG001 -- a child of a fork has another number, and so another id
    return str(uuid7())


class Heartbeat:
    """Records this process once a minute while it uses the database, in a thread of its own.

    So no call waits for it, and none fails because of it. Thread-safe.
    """

    def __init__(self, database: Database, clock: HostClock, check_again: Callable[[], None]) -> None:
        self._database = database
        self._clock = clock
        self._check_again = check_again
        self._thread: threading.Thread | None = None
        self._closed = False
        self._pid = os.getpid()
        self._due = clock.monotonic() + INTERVAL_S

    def on_use(self) -> None:
        """Record the process if that is due. Returns immediately.

        After a silence for which others took the process for ended, the database is checked again before its next
        use: its phones may have been encrypted meanwhile.
        """
        now = self._clock.monotonic()
        if now < self._due and self._pid == os.getpid():
            return
        if now - self._due > RECENT.total_seconds() - 2 * INTERVAL_S:
            self._database.defer(self._check_again)
        self._due, self._pid = now + INTERVAL_S, os.getpid()  # a second thread here only records it twice
        self._thread = threading.Thread(target=self._record, name="bindings-heartbeat", daemon=True)
        with suppress(RuntimeError):  # the interpreter is ending
            self._thread.start()

    def close(self) -> None:
        """Record nothing more; wait a second at most for a record that is being written."""
        self._closed = True
        if self._thread is not None and self._thread.is_alive():
            self._thread.join(CLOSE_WAIT_S)

    def _record(self) -> None:
        try:
            if not self._closed:
                self._database.write(record)
        except Exception:  # noqa: BLE001 -- the database is away, or is being closed
            self._due = self._clock.monotonic() + RETRY_S
