"""What happens to objects when this process forks: `os.fork` and all that uses it (gunicorn, Celery and others).

A child has a copy of every object, but only the forking thread: a lock that another thread held is never freed, a
thread pool has no threads, and a connection is shared with the parent. An object that has one of these is
`ForkSensitive` and replaces it in the child. What cannot be replaced has a `ProcessMark` and refuses to go on.

A server written in C may fork without Python's hooks (uWSGI does, by default): `run_missed_hooks` stands where the
use of such an object begins. Nothing was called in the parent then, which is assumed to fork in its only thread.

Nothing here knows what an object is for.
"""

from __future__ import annotations

import os
import sys
import threading
import time
import weakref
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import FrameType, ModuleType, TracebackType

LONGEST_IMPORT_S = 5.0
_IMPORT_POLL_S = 0.01

_objects: weakref.WeakSet[ForkSensitive] = weakref.WeakSet()
_objects_lock = threading.Lock()
_process = os.getpid()  # in which the hooks were called last
_missed_hooks_lock = threading.Lock()


class ForkedProcessError(RuntimeError):
    """An object of the parent process was used in a forked child; nothing was done."""


class ForkSensitive:
    """An object with hooks that are called at each fork, for as long as it is referenced. They must not raise."""

    def watch_forks(self) -> None:
        """Call the hooks from now on; `__init__` calls it last."""
        with _objects_lock:
            _objects.add(self)

    def before_fork(self) -> None:
        """Prepare for the fork, in the parent; its other threads still run."""

    def after_fork_in_parent(self) -> None:
        """Undo what `before_fork` did; also called for an object that was made since."""

    def after_fork_in_child(self) -> None:
        """Replace what belongs to the parent, with memory only: no lock of the parent is taken here."""


class ForkSafeLock(ForkSensitive):
    """A lock that is free in a child, whichever thread held it at the fork. For short blocks that do not fork."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.watch_forks()

    def after_fork_in_child(self) -> None:
        """Forget the thread that held the lock: it does not exist here."""
        self._lock = threading.Lock()

    def __enter__(self) -> None:
        run_missed_hooks()
        self._lock.acquire()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lock.release()


class ProcessMark:
    """The process in which an object was made."""

    def __init__(self) -> None:
        self._process = os.getpid()

    @property
    def is_this_process(self) -> bool:
        """Return whether this is that process, and no child of it."""
        return self._process == os.getpid()

    def check(self, name: str, remedy: str) -> None:
        """Raise `ForkedProcessError` in a child of that process; `name` is the object, `remedy` what to do."""
        if self._process != os.getpid():
            raise ForkedProcessError(
                f"{name} belongs to process {self._process}, from which this one was forked: nothing was done;"
                f" {remedy}"
            )


def keep_alive(inherited: object) -> None:
    """Never free this object in this process, not even at its end: that would touch the parent's connection."""
    import ctypes

    ctypes.pythonapi.Py_IncRef(ctypes.py_object(inherited))


def _before_fork() -> None:
    with _objects_lock:
        watched_objects = list(_objects)
    for watched in watched_objects:  # without the lock: a thread that one of them waits for may need it
        watched.before_fork()
    _finish_imports()
    _objects_lock.acquire()


def _finish_imports() -> None:
    """Wait for the imports of other threads: a child would wait without end for the locks of their modules.

    For `LONGEST_IMPORT_S` at most: a module may run a whole server while it is imported. What this thread itself
    imports goes on in the child.
    """
    give_up_at = time.monotonic() + LONGEST_IMPORT_S
    for module in list(sys.modules.values()):
        if _is_being_imported(module) and not _runs_in_this_thread(module):
            while _is_being_imported(module) and time.monotonic() < give_up_at:
                time.sleep(_IMPORT_POLL_S)


def _is_being_imported(module: ModuleType) -> bool:
    return bool(getattr(getattr(module, "__spec__", None), "_initializing", False))


def _runs_in_this_thread(module: ModuleType) -> bool:
    frame: FrameType | None = sys._getframe()  # noqa: SLF001 -- the only way to see which code calls
    while frame is not None and frame.f_globals is not vars(module):
        frame = frame.f_back
    return frame is not None


def _after_fork_in_parent() -> None:
    watched_objects = list(_objects)
    _objects_lock.release()
    for watched in watched_objects:
        watched.after_fork_in_parent()


def _after_fork_in_child() -> None:
    global _process, _missed_hooks_lock  # noqa: PLW0603 -- the state of a process
    watched_objects = list(_objects)
    _objects_lock.release()
    for watched in watched_objects:
        watched.after_fork_in_child()
    _missed_hooks_lock = threading.Lock()
    _process = os.getpid()


def run_missed_hooks() -> None:
    """Call the hooks of this process if it was forked without them; other threads of it wait for that."""
    global _process  # noqa: PLW0603 -- the state of a process
    if _process == os.getpid():
        return
    with _missed_hooks_lock:
        if _process != os.getpid():
            for watched in list(_objects):
                watched.after_fork_in_child()
            _process = os.getpid()


if hasattr(os, "register_at_fork"):  # not on Windows, which has no fork
    os.register_at_fork(
        before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child
    )
