"""Closes the connections to an SQLite file before this process forks, and keeps threads away from it meanwhile."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from bindings.fork_safety import ForkSensitive

if TYPE_CHECKING:
    from collections.abc import Callable

LONGEST_WAIT_S = 5.0  # past the longest wait of a write; an export may take longer


class ForkGate(ForkSensitive):
    """Each use of a connection happens inside; a fork waits until no other thread is.

    It waits for `LONGEST_WAIT_S` at most. If none is in use then, `close_idle` closes them.
    """

    def __init__(self, close_idle: Callable[[], None]) -> None:
        self._close_idle = close_idle
        self._open_again()
        self.watch_forks()

    def _open_again(self) -> None:
        self._changed = threading.Condition()
        self._users: dict[int, int] = {}  # by thread: a thread that is inside may enter again
        self._forks = 0

    def before_fork(self) -> None:
        """Let no thread in, wait for those inside, and close the connections."""
        with self._changed:
            self._forks += 1
            self._changed.wait_for(self._no_other_thread_inside, LONGEST_WAIT_S)
            if (
                not self._users
            ):  # otherwise the file stays open, and a pool that is replaced now would keep it open
                self._close_idle()  # inside of the lock: another thread that forks waits until they are closed

    def after_fork_in_parent(self) -> None:
        """Let threads in again."""
        with self._changed:
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
        """Go inside, and return what `leave` needs: an export may end in another thread than it began in."""
        thread = threading.get_ident()
        with self._changed:
            while self._forks and thread not in self._users:
                self._changed.wait()
            self._users[thread] = self._users.get(thread, 0) + 1
        return thread

    def leave(self, thread: int) -> None:
        """Go outside again."""
        with self._changed:
            uses = self._users.pop(thread, 0)
            if uses > 1:
                self._users[thread] = uses - 1
            if self._forks:
                self._changed.notify_all()

    def _no_other_thread_inside(self) -> bool:
        return not self._users.keys() - {threading.get_ident()}


def _do_nothing() -> None:
    """Close no connection."""
