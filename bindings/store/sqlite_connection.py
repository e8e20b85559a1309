"""A connection to an SQLite file that knows which file it is, and that a forked child leaves to its parent.

A file may be moved, deleted or replaced while it is open. A connection goes on with the file that it has opened,
under any name or none, and what is written there is lost with the process: `file_change` notices it.

A child must not use, close or free a connection of its parent, as SQLite demands. What SQLite knows of a file, its
locks among it, is shared by all connections of a process, and a child has a copy of that: while a connection of
the parent is in it, new connections to the same file would believe locks that the child does not have. So a file
that was open at the fork is refused in the child. `ForkGate` closes the files before a fork, so that this is rare.

A new file is for its owner only, before it has a row. SQLite gives the -wal and -shm files the mode of the file.
"""

from __future__ import annotations

import os
import sqlite3
import stat
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeAlias

from sqlalchemy.exc import DontWrapMixin

from bindings.fork_safety import ForkedProcessError, ForkSafeLock, ForkSensitive, keep_alive

if TYPE_CHECKING:
    from sqlalchemy import Connection

FileIdentity: TypeAlias = tuple[int, int]  # device and inode

WAL_CHECK_INTERVAL_S = 1.0
OWNER_ONLY = stat.S_IRUSR | stat.S_IWUSR
MISSING = "the SQLite file was deleted or moved away while it was open here"
REPLACED = "another SQLite file is at the path of the one that was open here"
MIXED = "another SQLite file is at the path of the one that was open here, beside the -wal file of that one"
EMPTIED = "the SQLite file was emptied while it was open here"
WAL_REPLACED = "the -wal file of the SQLite database was deleted or replaced while it was open here"

_files_open_at_a_fork: set[FileIdentity] = set()
_creation_lock = ForkSafeLock()


class FileOpenAtForkError(ForkedProcessError, DontWrapMixin):
    """The SQLite file was open at the fork, and this process is the child; nothing was done."""


class SqliteConnection(sqlite3.Connection, ForkSensitive):
    """A connection of the driver, for its argument `factory`."""

    def __init__(self, database: str, *args: Any, **kwargs: Any) -> None:
        self._path = os.path.abspath(database)  # noqa: PTH100 -- a Path would cost more at each write
        self._inherited = False
        self._closed = True
        self._require_unshared(identify(self._path))
        if database not in ("", ":memory:") and not kwargs.get("uri"):
            _create_for_owner(os.path.realpath(self._path))
        super().__init__(database, *args, **kwargs)
        self.file = identify(self._path)
        self._wal_path = wal_path(self._path)
        self._wal: FileIdentity | None = None
        self._wal_checked_at = 0.0
        self._has_content = False
        self._has_wal = True
        self._closed = False
        self.watch_forks()

    def note_wal(self) -> None:
        """Record the -wal file; call it when the connection has opened that."""
        self._wal_path = wal_path(self._path)
        self._wal = identify(self._wal_path)
        status = _status(self._path)
        self._has_content = status is not None and status.st_size > 0

    def file_change(self) -> str | None:
        """Return what happened to the file at the path since it was opened, or None: it is the open one."""
        status = _status(self._path)
        file = None if status is None else (status.st_dev, status.st_ino)
        if file != self.file:
            if file is None:
                return MISSING
            # SQLite would apply the former file's -wal to the new file, and damage it.
            return MIXED if identify(wal_path(self._path)) == self._wal is not None else REPLACED
        if self._has_content and status is not None and status.st_size == 0:
            return EMPTIED
        now = time.monotonic()
        if now >= self._wal_checked_at + WAL_CHECK_INTERVAL_S:
            self._wal_checked_at = now
            self._has_wal = self._has_wal and identify(self._wal_path) == self._wal
        return None if self._has_wal else WAL_REPLACED

    def after_fork_in_child(self) -> None:
        """Leave the connection to the parent, and refuse its file in this process."""
        if not self._closed:
            self._inherited = True
            if self.file is not None:
                _files_open_at_a_fork.add(self.file)
            keep_alive(self)

    def cursor(self, *args: Any, **kwargs: Any) -> Any:
        """Return a cursor; every statement begins with this."""
        self._require_own()
        return super().cursor(*args, **kwargs)

    def commit(self) -> None:
        """Commit the transaction, if there is one."""
        self._require_own()
        super().commit()

    def rollback(self) -> None:
        """Roll the transaction back, if there is one."""
        self._require_own()
        super().rollback()

    def close(self) -> None:
        """Close the connection; without effect in a child of the process that opened it."""
        if not self._inherited:
            super().close()
            self._closed = True

    def _require_own(self) -> None:
        if self._inherited:
            self._require_unshared(self.file)

    def _require_unshared(self, file: FileIdentity | None) -> None:
        if file in _files_open_at_a_fork:
            raise FileOpenAtForkError(
                "the SQLite file was in use when this process was forked, and SQLite forbids its use here; nothing"
                " was done: open the service after the fork, or fork while no export and no call is under way"
            )


def _create_for_owner(path: str) -> None:
    """Create an empty file that only its owner may open, with any umask; without effect if there is a file.

    SQLite reports why a file cannot be created.
    """
    with _creation_lock, suppress(OSError):  # closing the file would drop SQLite's locks of another connection
        if identify(path) is None:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, OWNER_ONLY)
            try:
                if hasattr(os, "fchmod"):  # not on Windows
                    os.fchmod(descriptor, OWNER_ONLY)
            finally:
                os.close(descriptor)


def files_open_to_others(connection: Connection) -> dict[str, int]:
    """Return the mode of each file of the SQLite database that allows more than its owner, by path.

    Empty on Windows, where the mode does not say who may open a file.
    """
    if os.name == "nt":
        return {}
    main = next(row.file for row in connection.exec_driver_sql("PRAGMA database_list") if row.name == "main")
    modes: dict[str, int] = {}
    for path in (main, f"{main}-wal", f"{main}-shm"):
        with suppress(OSError):
            mode = stat.S_IMODE(os.stat(path).st_mode)  # noqa: PTH116 -- as above
            if mode & (stat.S_IRWXG | stat.S_IRWXO):
                modes[path] = mode
    return modes


def identify(path: str) -> FileIdentity | None:
    """Return which file is at the path, or None if there is none."""
    status = _status(path)
    return None if status is None else (status.st_dev, status.st_ino)


def _status(path: str) -> os.stat_result | None:
    try:
        return os.stat(path)  # noqa: PTH116 -- as above
    except OSError:
        return None


def wal_path(path: str) -> str:
    """Return the path of the -wal file: SQLite writes it beside the file to which symbolic links lead."""
    return os.path.realpath(path) + "-wal"
