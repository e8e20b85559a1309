"""A connection to an SQLite file that a forked child never uses, never closes and never frees.

SQLite forbids all three. What it knows of a file, its locks among it, is shared by all connections of a process,
and a child has a copy of that: while a connection of the parent is in it, new connections of the child to the same
file would believe locks that the child does not have. So a file that was open at the fork is refused in the child.
`ForkGate` closes the files before a fork, so that this is rare.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

from sqlalchemy.exc import DontWrapMixin

from bindings.fork_safety import ForkedProcessError, ForkSensitive, keep_alive

_files_open_at_a_fork: set[Path] = set()


class FileOpenAtForkError(ForkedProcessError, DontWrapMixin):
    """The SQLite file was open at the fork, and this process is the child; nothing was done."""


class SqliteConnection(sqlite3.Connection, ForkSensitive):
    """A connection of the driver, for its argument `factory`."""

    def __init__(self, database: str, *args: Any, **kwargs: Any) -> None:
        self._path = Path(database).resolve()
        self._inherited = False
        self._closed = True
        self._check_process()
        super().__init__(database, *args, **kwargs)
        self._closed = False
        self.watch_forks()

    def after_fork_in_child(self) -> None:
        """Leave the connection to the parent, and refuse its file in this process."""
        if not self._closed:
            self._inherited = True
            _files_open_at_a_fork.add(self._path)
            keep_alive(self)

    def cursor(self, *args: Any, **kwargs: Any) -> Any:
        """Return a cursor; every statement begins with this."""
        self._check_process()
        return super().cursor(*args, **kwargs)

    def commit(self) -> None:
        """Commit the transaction, if there is one."""
        self._check_process()
        super().commit()

    def rollback(self) -> None:
        """Roll the transaction back, if there is one."""
        self._check_process()
        super().rollback()

    def close(self) -> None:
        """Close the connection; without effect in a child of the process that opened it."""
        if not self._inherited:
            super().close()
            self._closed = True

    def _check_process(self) -> None:
        if self._path in _files_open_at_a_fork:
            raise FileOpenAtForkError(
                "the SQLite file was in use when this process was forked, and SQLite forbids its use here; nothing"
                " was done: open the service after the fork, or fork while no export and no call is under way"
            )
