"""Closes the connections to an SQLite file before this process forks; meanwhile no thread begins to use one."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from bindings.fork_safety import ForkSensitive

if TYPE_CHECKING:
    from collections.abc import Callable

LONGEST_WAIT_S = 5.0  # past the longest wait of a write; an export may take longer


class ForkGate(ForkSensitive):
    """Counts the uses of connections, each from `enter` to `leave`; a fork waits until no other thread has one.

    It waits for `LONGEST_WAIT_S` at most. If no connection is in use then, `close_idle` closes them. Thread-safe.
    """

    def __init__(self, close_idle: Callable[[], None]) -> None:
        self._close_idle = close_idle
        self._open_again()
        self.watch_forks()

    def _open_again(self) -> None:
        # Taken by itself: an interrupt at the edge of a block would leave the lock held if a condition took it.
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._uses: dict[int, int] = {}  # by thread: one that has a use may begin another
        self._forks = 0

    def before_fork(self) -> None:
        """Let new uses wait, wait for those of other threads to end, and close the connections."""
        with self._lock:
            self._forks += 1
            self._changed.wait_for(self._is_unused_elsewhere, LONGEST_WAIT_S)
            if not self._uses:  # otherwise the file stays open, and a pool that is replaced now would keep it open
                self._close_idle()  # under the lock: another thread that forks waits until they are closed

    def after_fork_in_parent(self) -> None:
        """Let the uses that wait begin."""
        with self._lock:
            self._forks = max(0, self._forks - 1)
            self._changed.notify_all()

    def after_fork_in_child(self) -> None:
        """Leave the connections to the parent: the child makes a gate and connections of its own."""
        self._open_again()
        self.close_nothing()

    def close_nothing(self) -> None:
        """Never close the connections from now on."""
        self._close_idle = _do_nothing

    def enter(self) -> int:
        """Begin a use; return what `leave` needs: an export may end in another thread than it began in."""
        thread = threading.get_ident()
        with self._lock:
            while self._forks and thread not in self._uses:
                self._changed.wait()
            self._uses[thread] = self._uses.get(thread, 0) + 1
        return thread

    def leave(self, thread: int) -> None:
        """End a use that `enter` began in this thread."""
        with self._lock:
            uses = self._uses.pop(thread, 0)
            if uses > 1:
                self._uses[thread] = uses - 1
            if self._forks:
                self._changed.notify_all()

    def _is_unused_elsewhere(self) -> bool:
        return not self._uses.keys() - {threading.get_ident()}


def _do_nothing() -> None:
    """Close no connection."""
