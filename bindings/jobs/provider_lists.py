"""What one process remembers of the provider's lists between scans: where our newest are, when to look again.

Nothing here is needed for correctness: a process that has just started knows nothing and learns it from its first
pages. A list is named by its application, or by None if it is that of the account.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from bindings.jobs.provider_scan import RateLimiter
from bindings.lifecycle.resolution_times import LONGEST_WAIT_S

if TYPE_CHECKING:
    from bindings.clock import HostClock
    from bindings.jobs.provider_scan import NewestPlace, Scan

FIRST_WAIT_S = 5.0  # after a look; doubled after each look that adopted nothing


@dataclass(frozen=True, kw_only=True, slots=True)
class _Wait:
    """How long a list is not looked at, in seconds, and until when, by the monotonic clock."""

    seconds: float
    until: float


class ProviderLists:
    """The lists that one process scans. All its scans and looks share one rate limiter. Thread-safe."""

    def __init__(self, calls_per_s: float, clock: HostClock) -> None:
        self.rate_limiter = RateLimiter(calls_per_s, clock=clock)
        self._clock = clock
        self._newest: dict[str | None, NewestPlace] = {}
        self._waits: dict[str | None, _Wait] = {}

    def newest(self, app_id: str | None) -> NewestPlace | None:
        """Return where the newest of our bindings was in a list when it was last read; None if not known."""
        return self._newest.get(app_id)

    def remember(self, scan: Scan) -> None:
        """Remember where a scan saw the newest of our bindings, if it saw one."""
        if scan.newest is not None:
            self._newest[scan.app_id] = scan.newest

    def due(self, app_ids: set[str | None]) -> list[str | None]:
        """Return those of these lists whose wait is over, the longest waiting first."""
        now = self._clock.monotonic()
        ends = {app_id: wait.until if (wait := self._waits.get(app_id)) else float("-inf") for app_id in app_ids}
        return sorted((app_id for app_id, until in ends.items() if until <= now), key=lambda app_id: ends[app_id])

    def record_look(self, app_id: str | None, *, adopted: bool) -> None:
        """Start the wait after a look: twice the last one, or the first one if the look has adopted a binding."""
        before = self._waits.get(app_id)
        seconds = FIRST_WAIT_S if adopted or before is None else min(2 * before.seconds, LONGEST_WAIT_S)
        self._waits[app_id] = _Wait(seconds=seconds, until=self._clock.monotonic() + seconds)

    def forget_waits(self, *, but: set[str | None]) -> None:
        """Forget the waits of all lists `but` these: the others have no doubt that a look could adopt."""
        self._waits = {app_id: wait for app_id, wait in self._waits.items() if app_id in but}
