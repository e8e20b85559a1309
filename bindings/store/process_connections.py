"""The connections of one process to a database: two engines, their limits and locks, made again in a forked child.

A child never uses, returns or closes a connection of its parent: two processes on one connection read each other's
answers. What the child inherits is never freed there, since freeing a connection closes it.

On SQLite the file that is open must be the one at the path: before each write, and when a check asks. If it is
missing, writes are refused until it is back. If another one is there, the former connections are left alone as
well (closing the last one deletes the -wal file at the path, which may be the new file's), and the new file is
treated as restored.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from sqlalchemy import event

from bindings.errors import Busy, InvalidRequest
from bindings.fork_safety import ForkSensitive, keep_alive, run_missed_hooks
from bindings.store.engine import Connections, driver_url
from bindings.store.failures import READ_ONLY, URL_VARIABLE
from bindings.store.fork_gate import ForkGate
from bindings.store.sqlite_connection import (
    EMPTIED,
    MISSING,
    MIXED,
    REPLACED,
    WAL_REPLACED,
    SqliteConnection,
    identify,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import Connection
    from sqlalchemy.engine import ExceptionContext

    from bindings.store.phone_keys import PhoneKeys
    from bindings.store.sqlite_connection import FileIdentity

_log = logging.getLogger(__name__)

REMEDIES = {
    MISSING: "put it back to the path in BINDINGS_DATABASE_URL, or restore a backup to it",
    REPLACED: "run `bindings reconcile`: until then binds wait, as after a restore",
    MIXED: "stop every process that uses the database, move the -wal and -shm files away, start them again, and"
    " run `bindings db restored`",
    EMPTIED: "stop every process that uses the database, restore a backup, start them again, and run"
    " `bindings db restored`",
    WAL_REPLACED: "stop every process that uses the database, start them again, and run `bindings db restored`",
}


class ProcessConnections(ForkSensitive):
    """The connections of this process: one pool for transactions, one for reads in AUTOCOMMIT. Thread-safe."""

    def __init__(self, url: str, pool_size: int, pool_idle: int | None, phone_keys: PhoneKeys | None) -> None:
        self._url, self._path = _absolute(url)
        self._pool_size = pool_size
        self._pool_idle = pool_idle
        self.phone_keys = phone_keys
        self._inherited = False
        self._file: FileIdentity | None = None
        self._replaced = False
        self.when_replaced: Callable[[], None] | None = None  # called before the first use of another SQLite file
        self._open()
        self.postgres = self._engine.dialect.name == "postgresql"
        self.watch_forks()

    def open_in_child(self) -> None:
        """Make new connections if those here are the parent's. Every use of a connection begins with this."""
        run_missed_hooks()
        if self._inherited:
            with self._reopening:
                if self._inherited:
                    self._open()
                    self._inherited = False

    def after_fork_in_child(self) -> None:
        """Leave the connections to the parent."""
        if not self._inherited:
            self._abandon()
        self._inherited = True
        self._reopening = threading.Lock()

    @property
    def missing_file(self) -> str | None:
        """Return the path at which the first connection would create an SQLite file, or None."""
        if self._file is not None or not self._path or identify(self._path) is not None:
            return None
        target = Path(os.path.realpath(self._path))
        can_create = os.access(target.parent, os.W_OK | os.X_OK) and not target.is_symlink()
        return self._path if can_create else None

    def connections_in_use(self) -> int:
        """Return how many connections of this process are in use, or were dropped and still work at the server."""
        return 0 if self._inherited else self._writes.count + self._reads.count

    def close(self) -> None:
        """Close the connections of this process, those in use at their return. Every later use is `Busy`."""
        self.open_in_child()
        self._writes.close()
        self._reads.close()

    def _open(self) -> None:
        """Make the engines, their limits and the locks of this process; nothing has connected yet."""
        self._gate = ForkGate(self._close_idle) if self._path is not None else None
        connections = partial(
            Connections,
            self._url,
            self._pool_size,
            self._gate,
            idle=self._pool_idle,
            phone_keys=self.phone_keys,
        )
        self._writes = connections()
        self._reads = connections(autocommit=True)
        self._engine, self._reader = self._writes.engine, self._reads.engine
        if self._engine.dialect.name == "postgresql":
            event.listen(self._engine, "handle_error", self._drop_read_only_connections)
        # SQLite's own lock lets the threads of a process starve each other; this one is fair.
        self._one_writer = threading.Lock()
        if self._path is not None:
            for engine in (self._engine, self._reader):
                event.listen(engine, "do_connect", self._require_present)
                event.listen(engine, "connect", self._require_same)

    def require_file(self, connection: Connection) -> None:
        """Raise `Busy` unless the SQLite file at the path is the one that this connection has open."""
        raw = connection.connection.driver_connection
        if not isinstance(raw, SqliteConnection):
            return
        change = raw.file_change()
        if change == REPLACED and raw.file == self._file:
            self._start_over()
        if change is not None:
            refuse(change)

    def _require_present(self, *_: object) -> None:
        if self._file is not None and identify(self._path or "") is None:
            refuse(MISSING)  # SQLite would create an empty file

    def _require_same(self, raw: SqliteConnection, _record: object) -> None:
        if self._file is None:
            self._file = raw.file
        elif self._file != raw.file:
            self._start_over()
            refuse(REPLACED)

    def _start_over(self) -> None:
        """Leave the former file, and open the one that is at the path now."""
        self._abandon()
        self._file = None
        self._open()
        self._replaced = True

    def _abandon(self) -> None:
        """Never use, close or free the connections that were opened so far."""
        keep_alive(self._writes)
        keep_alive(self._reads)
        if self._gate is not None:
            self._gate.close_nothing()

    def _close_idle(self) -> None:
        self._writes.close_idle()
        self._reads.close_idle()

    def _drop_read_only_connections(self, context: ExceptionContext) -> None:
        """Drop every connection to a server that accepts no writes any more: new ones go to the primary.

        A demotion does not break those connections, and the reader's would go on returning data that no longer
        changes.
        """
        if getattr(context.original_exception, "sqlstate", None) == READ_ONLY:
            context.is_disconnect = True
            self._reads.drop()


def _absolute(url: str) -> tuple[str, str | None]:
    """Return the URL with the absolute path of its SQLite file, and that path; None for a server or a URI."""
    target = driver_url(url)
    if target.get_backend_name() != "sqlite" or not target.database or target.database.startswith("file:"):
        return url, None
    try:
        path = str(Path(target.database).absolute())
        os.fsencode(path)
        path.encode()
    except FileNotFoundError:
        message = "is a relative path, and the working directory of this process was deleted"
        raise InvalidRequest.of_field(URL_VARIABLE, message) from None
    except UnicodeEncodeError:
        encoding = sys.getfilesystemencoding()
        message = f"has a character that file names of this process ({encoding}) cannot have: set PYTHONUTF8=1"
        raise InvalidRequest.of_field(URL_VARIABLE, message) from None
    return target.set(database=path).render_as_string(hide_password=False), path


def refuse(change: str) -> NoReturn:
    """Log a change of the SQLite file, and raise `Busy` with what to do about it."""
    _log.error("%s", change)
    raise Busy(f"{change}; nothing was done", todo=REMEDIES[change])
