"""Locks of tables that are migrated, forwards or back, while other processes work on them (PostgreSQL).

The migrations import this module, and nothing else of the package: what they do with it must not change.
"""

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
LOCKED_OR_TIMED_OUT = (*LOCKED, "57014")  # for statements that a statement timeout bounds too


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


def lock_until_commit(*tables: str) -> None:
    """Lock tables exclusively until the end of the migration's transaction.

    Every statement on a table waits behind an exclusive lock that is waited for: hence half a second at a time for
    all of them, and a minute in all. VACUUM is kept out first, by a lock that blocks no reader or writer. Raises
    `TimeoutError` if a transaction keeps a table.
    """
    connection = op.get_bind()
    names = ", ".join(tables)

    def attempt() -> None:
        with connection.begin_nested():  # a rollback to the savepoint releases the locks
            connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{LOCK_WAIT}'")
            connection.exec_driver_sql(f"SET LOCAL statement_timeout = '{LOCK_WAIT}'")  # for all of them
            connection.exec_driver_sql(f"LOCK TABLE {names} IN ACCESS EXCLUSIVE MODE")
            connection.exec_driver_sql("SET LOCAL statement_timeout = 0")

    with explained_lock_timeout():
        connection.exec_driver_sql(f"LOCK TABLE {names} IN SHARE UPDATE EXCLUSIVE MODE")
        repeat_while_locked(attempt, states=LOCKED_OR_TIMED_OUT)


def execute_when_unlocked(statement: str) -> None:
    """Run a statement, which waits for locks as the session's timeouts say, until it has them; a minute in all.

    Raises `TimeoutError` if a transaction keeps a table.
    """
    with explained_lock_timeout():
        repeat_while_locked(lambda: op.execute(statement), states=LOCKED_OR_TIMED_OUT)


@contextmanager
def explained_lock_timeout() -> Iterator[None]:
    """Raise `TimeoutError`, which says what to do, if the block fails because a lock was not acquired."""
    try:
        yield
    except exc.DBAPIError as error:
        if not is_locked(error, LOCKED_OR_TIMED_OUT):
            raise
        raise TimeoutError(
            "a transaction or a VACUUM keeps a table locked; end it (pg_stat_activity) and migrate again"
        ) from None


@contextmanager
def outside_transaction(*, lock_timeout: str = "0") -> Iterator[None]:
    """Run statements outside of a transaction, with this lock timeout ("0": none).

    A concurrent build or removal of an index waits for every open transaction, and blocks no reader or writer.
    """
    with op.get_context().autocommit_block():
        configured = op.get_bind().exec_driver_sql("SHOW lock_timeout").scalar()
        op.execute(f"SET lock_timeout = '{lock_timeout}'")
        yield
        op.execute(f"SET lock_timeout = '{configured}'")


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
