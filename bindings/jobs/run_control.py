"""Lets a process end the run of a job early, and see whether the run makes progress.

A job checks `is_stopping` between two units of its work, a page or a batch, so that the process ends within the
time of one unit. What a run has not done is left to the next one.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

Item = TypeVar("Item")


class RunControl:
    """Tells the runs of one job to stop, and when they last made progress. Thread-safe.

    `stop_event` is an event of the caller that has the same effect as `stop`.
    """

    def __init__(self, stop_event: threading.Event | None = None) -> None:
        self._stop_event = stop_event or threading.Event()
        self._progressed_at = float("-inf")

    def stop(self) -> None:
        """Let the run end after its current unit of work. Safe to repeat."""
        self._stop_event.set()

    def is_stopping(self) -> bool:
        """Return True if the run is to end."""
        return self._stop_event.is_set()

    @property
    def progressed_at(self) -> float:
        """Return when a unit of work was last done, by the monotonic clock; minus infinity if none was."""
        return self._progressed_at

    def record_progress(self) -> None:
        """Record that a unit of work was done."""
        self._progressed_at = time.monotonic()

    def work_through(self, items: Iterable[Item]) -> Iterator[Item]:
        """Yield the items until the run is to end; each of them is one unit of work."""
        for item in items:
            if self.is_stopping():
                return
            yield item
            self.record_progress()


UNSTOPPED = RunControl()  # for a run that nothing can stop
