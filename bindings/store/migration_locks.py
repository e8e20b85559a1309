"""Locks of tables that are migrated, forwards or back, while other processes work on them (PostgreSQL)."""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from alembic import op
from sqlalchemy import exc

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sqlalchemy import Connection

LOCK_WAIT = "500ms"  # what waits behind the migration waits no longer than this
TRIES = 60
PAUSE_S = 1.0
LOCKED = "55P03", "40P01"


@contextmanager
def locked(table: str) -> Iterator[None]:
    """Lock a table exclusively for the block, which is a transaction of its own; commit at its end.

    Every statement on the table waits behind an exclusive lock that is waited for: hence half a second at a time,
    and a minute in all. VACUUM is kept out first, by a lock that blocks no reader or writer. Raises `DBAPIError`
    if a transaction keeps the table: then nothing of the block is done.
    """
    with op.get_context().autocommit_block():
        connection = op.get_bind()
        connection.exec_driver_sql("BEGIN")
        try:
            connection.exec_driver_sql(f"LOCK TABLE {table} IN SHARE UPDATE EXCLUSIVE MODE")
            _lock(connection, table)
            yield
            connection.exec_driver_sql("COMMIT")
        except BaseException:
            connection.exec_driver_sql("ROLLBACK")
            raise


def repeat_while_locked(attempt: Callable[[], None], *, states: tuple[str, ...] = LOCKED) -> None:
    """Make an attempt until no lock is in its way, at most `TRIES` times; raise what the last one raised.

    `states` are the SQLSTATEs of a lock that was not acquired; another error is raised immediately.
    """
    for remaining in reversed(range(TRIES)):
        try:
            attempt()
        except exc.DBAPIError as error:
            if not is_locked(error, states) or not remaining:
                raise
        else:
            return
        time.sleep(PAUSE_S)


def is_locked(error: exc.DBAPIError, states: tuple[str, ...] = LOCKED) -> bool:
    """Return whether an error says that a lock was not acquired."""
    return getattr(error.orig, "sqlstate", None) in states


def _lock(connection: Connection, table: str) -> None:
    def attempt() -> None:
        connection.exec_driver_sql("SAVEPOINT unlocked")
        try:
            connection.exec_driver_sql(f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE")
        except exc.DBAPIError:
            connection.exec_driver_sql("ROLLBACK TO unlocked")
            raise

    connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{LOCK_WAIT}'")
    repeat_while_locked(attempt)
