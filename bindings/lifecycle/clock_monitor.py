"""Decides whether the clocks can be trusted: the database's, which decides when bindings end, and the provider's.

The only place that decides it; binds, unbinds, jobs and health checks ask it. The database's clock is in doubt
after a jump against the monotonic clock, and while it is far from this host's wall clock. Meanwhile no bind is
sent and nothing ends by time, because what a wrong clock ends stays ended; an unbind makes its call. The doubt
ends by itself, see `ClockMonitor.observe`.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, NamedTuple

from bindings.clock import MAX_SKEW_S, SYSTEM_CLOCK
from bindings.errors import ClockInDoubt
from bindings.fork_safety import ForkSafeLock

if TYPE_CHECKING:
    from bindings.clock import HostClock
    from bindings.provider.client import ProviderClient
    from bindings.store.database import Database

_log = logging.getLogger(__name__)

WARN_SKEW_S = 30.0
WARN_INTERVAL_S = 60.0
SLOW_DRIFT_S = 1.0
RECHECK_S = 10.0  # while a clock is in doubt: between two measurements, and between the two readings that end it

_WAITS = "binds wait and nothing ends by time until the clocks agree"
_SET_CLOCK = "set the clock that is wrong (NTP)"


class _Reading(NamedTuple):
    """The database's clock in Unix seconds, and the monotonic clock then."""

    database: float
    monotonic: float


@dataclass(frozen=True, slots=True)
class _Doubt:
    """Why the database's clock is in doubt, since when, and since which reading the clocks agree, if they do."""

    cause: str
    since: float
    agreed_at: float | None = None


class ClockMonitor:
    """Compares the clocks of database, host and provider. Thread-safe.

    `app_id` is the application whose list is asked for a row, to read the provider's clock; None: that of a bind.
    """

    def __init__(
        self,
        database: Database,
        client: ProviderClient | None,
        *,
        app_id: str | None = None,
        clock: HostClock = SYSTEM_CLOCK,
    ) -> None:
        self._database = database
        self._client = client
        self._app_id = app_id
        self._clock = clock
        self._lock = ForkSafeLock()
        self._anchor: _Reading | None = None  # the last reading that was trusted
        self._latest: _Reading | None = None  # the last reading; after a small jump it is not the anchor
        self._database_skew_s = 0.0
        self._doubt: _Doubt | None = None
        self._rechecked_at = float("-inf")
        self._warned_at = float("-inf")

    # What is known, without reading a clock.

    @property
    def bind_error(self) -> str | None:
        """Return why no bind may be sent, by the clocks as last read, or None."""
        skew_s = 0.0 if self._client is None else self._client.clock.believed_skew_s or 0.0
        if abs(skew_s) > MAX_SKEW_S:
            return f"the provider's clock is {skew_s:+.0f} s from this host's, by its refusals and Date header"
        return self.database_error

    @property
    def database_error(self) -> str | None:
        """Return why the database's clock is in doubt, as last read, or None."""
        return None if self._doubt is None else self._doubt.cause

    @property
    def remedy(self) -> str:
        """Return what to do about the error."""
        if self._doubt is None or self._independent_host or self._provider_dates:
            return _SET_CLOCK
        return f"{_SET_CLOCK}; if it is right now, restart this process: it has no other clock to compare with"

    @property
    def probe_due(self) -> bool:
        """Return True if only the provider's clock is wrong, and the next bind measures it again first."""
        return self._doubt is None and self._recheck_due

    # Readings.

    def observe(self, database_time: datetime, read_at: float | None = None) -> None:
        """Compare a reading of the database's clock that was taken at `read_at` (monotonic seconds; None: now).

        A doubt ends with two readings at least ten seconds apart that agree, each within a minute, with the host's
        wall clock and with the provider's Date. Without a fresh Date a reading agrees if it is back in step with
        the monotonic clock, or if no Date is expected and the host's clock is another one than the database's.
        """
        now = self._clock.monotonic()
        reading = _Reading(database_time.timestamp(), now if read_at is None else read_at)
        with self._lock:
            self._database_skew_s = reading.database - (self._clock.wall() - (now - reading.monotonic))
            self._judge(reading)

    def _judge(self, reading: _Reading) -> None:
        self._latest = reading
        step_s = 0.0
        if self._anchor is not None:
            step_s = (reading.database - self._anchor.database) - (reading.monotonic - self._anchor.monotonic)
        cause = self._cause(step_s)
        doubt = self._doubt
        if doubt is None and cause is None:
            if abs(step_s) < SLOW_DRIFT_S or self._anchor is None:  # after a small jump the old reading stays
                self._anchor = reading
        elif doubt is None:
            self._doubt = _Doubt(str(cause), since=reading.monotonic)
            _log.error("%s; %s", cause, _WAITS)
        elif not self._agrees(step_s, doubt, reading):
            self._doubt = replace(doubt, cause=cause or doubt.cause, agreed_at=None)
        elif doubt.agreed_at is None:
            self._doubt = replace(doubt, agreed_at=reading.monotonic)
        elif reading.monotonic - doubt.agreed_at >= RECHECK_S:
            self._anchor, self._doubt = reading, None
            _log.warning("the clocks agree again: binds are sent, and bindings end by time")

    def _cause(self, step_s: float) -> str | None:
        if abs(step_s) > MAX_SKEW_S:
            return f"the database's clock has jumped by {step_s:+.0f} s"
        if abs(self._database_skew_s) > MAX_SKEW_S:
            return f"the database's clock is {self._database_skew_s:+.0f} s from this host's"
        return None

    def _agrees(self, step_s: float, doubt: _Doubt, reading: _Reading) -> bool:
        if abs(self._database_skew_s) > MAX_SKEW_S:
            return False
        if self._client is not None and self._provider_dates:
            to_provider = self._client.clock.fresh_skew_s(since=max(doubt.since, reading.monotonic - RECHECK_S))
            if to_provider is not None:
                return abs(self._database_skew_s - to_provider) <= MAX_SKEW_S
        in_step = self._anchor is None or abs(step_s) <= MAX_SKEW_S
        return in_step or (self._independent_host and not self._provider_dates)

    @property
    def _independent_host(self) -> bool:
        return self._database.postgres

    @property
    def _provider_dates(self) -> bool:
        return self._client is not None and self._client.clock.is_witness

    # Decisions, each of which reads the clock or gets a reading.

    def verify(self, database_time: datetime) -> None:
        """Compare a reading that was taken just now; raise `ClockInDoubt` if the clock cannot be trusted."""
        self.observe(database_time)
        self._raise_if(self.database_error)

    def in_doubt(self, database_time: datetime) -> bool:
        """Compare a reading that was taken just now; return True if the clock cannot be trusted."""
        self.observe(database_time)
        return self._doubt is not None

    def trusted_instant(self, database_time: datetime) -> datetime:
        """Compare a reading that was taken just now, and return the instant to go by.

        That is the reading; or while it is in doubt the last trusted reading, if any, plus the time since.
        """
        self.observe(database_time)
        if self._doubt is None or self._anchor is None:
            return database_time
        believed = self._anchor.database + (self._clock.monotonic() - self._anchor.monotonic)
        return database_time + timedelta(seconds=believed - database_time.timestamp())

    def estimated_instant(self) -> datetime:
        """Return the time of the database's clock now, by its last reading; the database is not asked.

        While that clock is in doubt, by the last trusted reading, if any. `observe` must have been called.
        """
        latest, anchor = self._latest, self._anchor
        reading = latest if self._doubt is None or anchor is None else anchor
        if reading is None:
            raise AssertionError("unreachable: the caller has read the clock")
        return datetime.fromtimestamp(reading.database + (self._clock.monotonic() - reading.monotonic), UTC)

    def trusted_range(self, within_s: float) -> tuple[datetime, datetime] | None:
        """Return the earliest and the latest reading of the next `within_s` seconds that can be trusted.

        For a statement that compares its own reading: `verify` raises nothing for one in this range, and a reading
        that is taken later is not in it. None while there is a doubt, and before the first trusted reading.
        """
        anchor, latest, doubt = self._anchor, self._latest, self._doubt
        if anchor is None or latest is None or doubt is not None:
            return None
        now, wall = self._clock.monotonic(), self._clock.wall()
        in_step = anchor.database + (now - anchor.monotonic)
        earliest = max(in_step, wall) - MAX_SKEW_S + within_s
        at_end = latest.database + (now - latest.monotonic) + within_s
        until = min(in_step + MAX_SKEW_S, wall + MAX_SKEW_S, at_end)
        return datetime.fromtimestamp(earliest, UTC), datetime.fromtimestamp(until, UTC)

    def expected_instant(self) -> datetime:
        """Return what the database's clock should read now; it is read only if no reading was trusted yet.

        Raises `ClockInDoubt` if it cannot be trusted.
        """
        if self._anchor is None:
            self.observe(self._database.clock())
        self._raise_if(self.database_error)
        if self._anchor is None:
            raise AssertionError("unreachable: without a doubt a reading is trusted")
        expected = self._anchor.database + (self._clock.monotonic() - self._anchor.monotonic)
        return datetime.fromtimestamp(expected, UTC)

    def require_trusted_database(self) -> None:
        """Read the database's clock; raise `ClockInDoubt` if it cannot be trusted."""
        self._recheck(self._app_id, self.database_error)
        self.observe(self._database.clock())
        self._raise_if(self.database_error)

    def require_trusted(self, app_id: str) -> None:
        """Raise `ClockInDoubt` if no bind may be sent; only after an error are the clocks read again here."""
        error = self.bind_error
        if error is not None:
            self._recheck(app_id, error)
            self._raise_if(self.bind_error)
        self._warn_of_skew()

    def _raise_if(self, error: str | None) -> None:
        if error is not None:
            raise ClockInDoubt(
                f"{error}; nothing was done: {_WAITS}; {self.remedy}", retry_after_s=round(RECHECK_S)
            )

    def _recheck(self, app_id: str | None, error: str | None) -> None:
        """Measure every clock again if there is an error, at most every `RECHECK_S`."""
        if error is None or not self._recheck_due:
            return
        self._rechecked_at = self._clock.monotonic()
        if self._client is not None and app_id is not None:
            self._client.page(app_id=app_id, current=1, size=1)  # one row: it changes nothing
        self.observe(self._database.clock())

    @property
    def _recheck_due(self) -> bool:
        return self._clock.monotonic() > self._rechecked_at + RECHECK_S

    def _warn_of_skew(self) -> None:
        """Log a skew that does not stop binds, at most once a minute."""
        to_provider = 0.0 if self._client is None else self._client.clock.measured_skew_s or 0.0
        if abs(self._database_skew_s) <= WARN_SKEW_S and abs(to_provider) <= WARN_SKEW_S:
            return
        skews = {"the database's clock": self._database_skew_s, "the provider's Date header": to_provider}
        other, skew_s = max(skews.items(), key=lambda item: abs(item[1]))
        now = self._clock.monotonic()
        if now > self._warned_at + WARN_INTERVAL_S:
            self._warned_at = now
            _log.warning("this host's clock and %s are %.0f s apart; binds go on", other, abs(skew_s))
