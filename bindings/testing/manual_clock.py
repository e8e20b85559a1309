"""A clock that stands still until a test moves it: the host's, the database's and the provider's at the same time.

No timer: what is due when the clock has moved is run in `timer`.
"""

from __future__ import annotations

import threading
import time
from datetime import UTC, datetime, timedelta

from bindings.clock import HostClock

SHORTEST_MOVE_S = 0.01
LONGEST_WAIT_S = 0.05  # of one sleep, on this machine
RESOLUTION_S = 1e-6


class ManualClock:
    """A clock that stands still between two moves, and only moves forward. Thread-safe.

    It starts at `start` (aware; None: this machine's time, in whole seconds). Move it while no call is in
    progress: a call that runs meanwhile takes as long as the clock was moved, and may be too late to be sent.
    """

    def __init__(self, start: datetime | None = None) -> None:
        self._lock = threading.Lock()
        self._waited_s = 0.0  # in waits that did not move the clock
        self._now = datetime.now(UTC).replace(microsecond=0) if start is None else _utc(start)

    def now(self) -> datetime:
        """Return the current instant, in UTC."""
        return self._now

    def unix(self) -> float:
        """Return the current instant in Unix seconds."""
        return self._now.timestamp()

    def advance(self, seconds: float) -> datetime:
        """Move forward by `seconds` and return the new instant. Runs no job. ValueError if it is negative."""
        if not seconds >= 0:
            raise ValueError("seconds must not be negative: the clock only moves forward")
        with self._lock:
            self._now += timedelta(seconds=seconds)
            return self._now

    def move_to(self, instant: datetime) -> datetime:
        """Move forward to `instant` (aware) and return it. Runs no job. ValueError if it is in the past."""
        return self.advance((_utc(instant) - self._now).total_seconds())

    def sleep(self, seconds: float) -> None:
        """Move forward by `seconds`; wait for up to 0.05 s on this machine, for other threads to work meanwhile.

        A wait of less than 10 ms, as between two pages of a scan, moves only the monotonic clock.
        """
        time.sleep(min(seconds, LONGEST_WAIT_S))
        if seconds < SHORTEST_MOVE_S:
            with self._lock:
                self._waited_s += max(seconds, RESOLUTION_S)
        else:
            self.advance(seconds)

    def host_clock(self) -> HostClock:
        """Return the clocks of a host that follow this clock, for `BindingService.open(clock=...)`."""
        return HostClock(wall=self.unix, monotonic=lambda: self.unix() + self._waited_s, sleep=self.sleep)


def _utc(instant: datetime) -> datetime:
    if instant.utcoffset() is None:  # also with a `tzinfo`: it may know no offset
        raise ValueError("the instant must have a time zone")
    return instant.astimezone(UTC)
