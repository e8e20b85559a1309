"""The connections of one process to a database: two engines, their limits and locks, made again in a forked child.

A child never uses, returns or closes a connection of its parent: two processes on one connection read each other's
answers. What the child inherits is never freed there, since freeing a connection closes it.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from sqlalchemy import event

from bindings.fork_safety import ForkSensitive, keep_alive
from bindings.store.engine import Connections
from bindings.store.failures import READ_ONLY
from bindings.store.fork_gate import ForkGate

if TYPE_CHECKING:
    from sqlalchemy.engine import ExceptionContext


class ProcessConnections(ForkSensitive):
    """The connections of this process: one pool for transactions, one for reads in AUTOCOMMIT. Thread-safe."""

    def __init__(self, url: str, pool_size: int) -> None:
        self._url = url
        self._pool_size = pool_size
        self._inherited = False
        self._open()
        self.postgres = self._engine.dialect.name == "postgresql"
        self.watch_forks()

    def open_in_child(self) -> None:
        """Make new connections if those here are the parent's. Every use of a connection begins with this."""
        if self._inherited:
            with self._reopening:
                if self._inherited:
                    self._open()
                    self._inherited = False

    def after_fork_in_child(self) -> None:
        """Leave the connections to the parent."""
        if not self._inherited:
            keep_alive(self._writes)
            keep_alive(self._reads)
        self._inherited = True
        self._reopening = threading.Lock()

    def connections_in_use(self) -> int:
        """Return how many connections of this process are in use, or were dropped and still work at the server."""
        return 0 if self._inherited else self._writes.count + self._reads.count

    def close(self) -> None:
        """Close every connection of this process."""
        if not self._inherited:
            self._writes.close()
            self._reads.close()

    def _open(self) -> None:
        """Make the engines, their limits and the locks of this process; nothing has connected yet."""
        gate = ForkGate(self._close_idle) if self._url.startswith("sqlite") else None
        self._writes = Connections(self._url, self._pool_size, gate)
        self._reads = Connections(self._url, self._pool_size, gate, autocommit=True)
        self._engine, self._reader = self._writes.engine, self._reads.engine
        # From the writer's pool: a wait for a commit must never keep a lookup from its connection.
        self._autocommit_writer = self._engine.execution_options(isolation_level="AUTOCOMMIT")
        if self._engine.dialect.name == "postgresql":
            event.listen(self._engine, "handle_error", self._drop_read_only_connections)
        # SQLite's own lock lets the threads of a process starve each other; this one is fair.
        self._one_writer = threading.Lock()

    def _close_idle(self) -> None:
        self._engine.dispose()
        self._reader.dispose()

    def _drop_read_only_connections(self, context: ExceptionContext) -> None:
        """Drop every connection to a server that accepts no writes any more: new ones go to the primary.

        A demotion does not break those connections, and the reader's would go on returning data that no longer
        changes.
        """
        if getattr(context.original_exception, "sqlstate", None) == READ_ONLY:
            context.is_disconnect = True
            self._reader.dispose()
