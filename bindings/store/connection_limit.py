"""How many connections this process has at the server, also those that it has dropped.

A connection that is dropped while the server works for it stays there until the server notices: a COMMIT that
waits for a standby, or a statement that waits for a lock, ends first. Until then the connection counts here, or a
server that answers slowly would get ever more connections. Its socket tells when the server has closed it; what
arrives on it meanwhile is no answer to anything, and is dropped.

Nothing here knows SQLAlchemy or psycopg; `engine` and `deadline_connection` use this.
"""

from __future__ import annotations

import math
import os
import socket
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from bindings.errors import Busy
from bindings.fork_safety import ForkSensitive
from bindings.store.failures import DatabaseWaitTimeout

if TYPE_CHECKING:
    from collections.abc import Callable

POLL_S = 0.05  # how late it is noticed that the server has closed a socket
PROBE_INTERVAL_S = 1.0
_MAX_READ = 65_536
_READS = 16  # at a time: other callers wait


class ConnectionLimit(ForkSensitive):
    """At most `size` connections, in use or dropped and not yet closed by the server. Thread-safe.

    With several servers only the dropped connections to the current one count: to the one that the newest
    connection leads to. `find_server` opens a connection if a caller has waited for a while, in case that the
    current server is another one by now; None if there is only one.
    """

    def __init__(self, size: int, find_server: Callable[[], None] | None = None) -> None:
        self._size = size
        self._several_servers = find_server is not None
        self._find_server = find_server or _do_nothing
        self._in_use = 0
        self._dropped: list[tuple[Any, socket.socket]] = []  # with the server's address
        self._server: Any = None
        self._probe_at = math.inf if find_server is None else 0.0
        self._closed = False
        self._waiting = 0
        # Taken by itself: an interrupt at the edge of a block would leave the lock held if a condition took it.
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self.watch_forks()

    def after_fork_in_child(self) -> None:
        """Forget the threads that held the lock or waited; the child makes its connections under another limit."""
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._waiting = 0

    @property
    def count(self) -> int:
        """Return how many connections are in use, or dropped and not yet closed by the server."""
        with self._lock:
            return self._in_use + self._count_dropped()

    @property
    def closed(self) -> bool:
        """Return whether `close` was called."""
        return self._closed

    def acquire(self, wait_until: float) -> None:
        """Take the right to one connection; raises `DatabaseWaitTimeout` at `wait_until` (monotonic clock).

        Raises `Busy` after `close`.
        """
        with self._lock:
            if not self._dropped and self._in_use < self._size and not self._closed:
                self._in_use += 1
                return
        while not self._take(wait_until):
            try:
                self._find_server()
            finally:
                self._probe_at = time.monotonic() + PROBE_INTERVAL_S

    def _take(self, wait_until: float) -> bool:
        """Wait for the right to one connection; return False if the caller must look for another server first."""
        with self._lock:
            while self._closed or self._in_use + (self._count_dropped() if self._dropped else 0) >= self._size:
                if self._closed:
                    raise Busy("the service is closed; nothing was done", todo="open another one")
                remaining_s = wait_until - time.monotonic()
                if remaining_s <= 0:
                    raise DatabaseWaitTimeout(self._explanation())
                if self._dropped and self._in_use < self._size and time.monotonic() >= self._probe_at:
                    self._probe_at = math.inf  # one caller at a time
                    return False
                self._waiting += 1
                try:
                    self._changed.wait(min(remaining_s, POLL_S) if self._dropped else remaining_s)
                finally:
                    self._waiting -= 1
            self._in_use += 1
            return True

    def release(self) -> None:
        """Give back the right that `acquire` took."""
        with self._lock:
            self._in_use -= 1
            if self._waiting:
                self._changed.notify()

    def opened(self, file_number: int) -> None:
        """Record the server that a new connection leads to."""
        with suppress(OSError), _duplicate(file_number) as connection, self._lock:  # too many open files
            self._server = _server_of(connection)
            self._changed.notify_all()

    def drop(self, file_number: int, finish: Callable[[], None]) -> None:
        """Close a connection by `finish`, and count its socket until the server has closed it too."""
        try:
            duplicate = _duplicate(file_number)
        except OSError:  # this process may open no more files; the connection must be closed all the same
            finish()
            return
        server = _server_of(duplicate)
        finish()
        with suppress(OSError):  # the server is gone
            duplicate.shutdown(socket.SHUT_WR)  # the duplicate alone would keep the connection open on this side
        duplicate.setblocking(False)
        with self._lock:
            if self._closed:
                duplicate.close()
            else:
                self._dropped.append((server, duplicate))

    def close(self) -> None:
        """Give no right to a connection, and count no dropped one, from now on."""
        with self._lock:
            self._closed = True
            self._changed.notify_all()
            for _, dropped in self._dropped:
                dropped.close()
            self._dropped.clear()

    def _count_dropped(self) -> int:
        self._dropped = [(server, dropped) for server, dropped in self._dropped if not _closed_by_server(dropped)]
        return sum(server == self._server or not self._several_servers for server, _ in self._dropped)

    def _explanation(self) -> str:
        dropped = len(self._dropped)
        waiting = f"; {dropped} of them still wait at the database server for an earlier call" if dropped else ""
        return f"no connection to the database was free in time (BINDINGS_POOL_SIZE is {self._size}{waiting})"


def _do_nothing() -> None:
    """Find no other server: there is only one."""


def _duplicate(file_number: int) -> socket.socket:
    return socket.socket(fileno=os.dup(file_number))


def _server_of(connection: socket.socket) -> Any:
    """Return the server's address, or None if the server has closed the connection."""
    try:
        return connection.getpeername()
    except OSError:
        return None


def _closed_by_server(dropped: socket.socket) -> bool:
    """Read and drop what has arrived; close the socket and return True if the server has closed it."""
    try:
        if all(dropped.recv(_MAX_READ) for _ in range(_READS)):
            return False
    except BlockingIOError:
        return False
    except OSError:  # the server or its host is gone
        pass
    dropped.close()
    return True
