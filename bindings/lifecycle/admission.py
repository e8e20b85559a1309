"""Decides whether a bind may start now: the limit of concurrent calls, the circuit breaker, and the clocks.

Checked before the first transaction, so that a bind refused here has written nothing and used up no key. No SQL
here, and the provider's answers are not interpreted here.
"""

from __future__ import annotations

import logging
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

from bindings.clock import SYSTEM_CLOCK
from bindings.errors import Busy, ProviderAccountRefused
from bindings.fork_safety import ForkSensitive
from bindings.provider.circuit import describe
from bindings.provider.outcome import Refused

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime

    from bindings.clock import HostClock
    from bindings.provider.circuit import CircuitBreaker, CircuitOpen
    from bindings.provider.client import ProviderClient
    from bindings.store.database import Database

_log = logging.getLogger(__name__)

WARN_SKEW_S = 30.0
MAX_SKEW_S = 60.0
WARN_INTERVAL_S = 60.0
SLOW_DRIFT_S = 1.0
CLOCK_RECHECK_S = 10.0  # while a clock is wrong, measure it again this often
RETRY_AFTER_S = 2


class BindAdmission(ForkSensitive):
    """Limits concurrent binds and rejects binds that cannot succeed (account refused, clock skew). Thread-safe.

    A forked child starts with every slot free: the binds under way at the fork are the parent's.
    """

    def __init__(
        self,
        database: Database,
        client: ProviderClient | None,
        *,
        limit: int,
        clock: HostClock = SYSTEM_CLOCK,
    ) -> None:
        self._database = database
        self._client = client
        self._limit = limit
        self._slots = threading.BoundedSemaphore(limit)
        self._clock = clock
        self._database_skew_s = 0.0
        self._anchor: tuple[float, float] | None = None  # the database's clock, and monotonic time then
        self._step_s = 0.0
        self._rechecked_at = float("-inf")
        self._warned_at = float("-inf")
        self.watch_forks()

    def after_fork_in_child(self) -> None:
        """Free every slot."""
        self._slots = threading.BoundedSemaphore(self._limit)

    def observe_database_clock(self, database_time: datetime, read_at: float) -> None:
        """Measure skew and steps by a database time that was read at `read_at` (monotonic seconds)."""
        host_time = self._clock.wall() - (self._clock.monotonic() - read_at)
        database_unix = database_time.timestamp()
        self._database_skew_s = database_unix - host_time
        if self._anchor is not None:
            self._step_s = (database_unix - self._anchor[0]) - (read_at - self._anchor[1])
        if abs(self._step_s) < SLOW_DRIFT_S:  # clocks drift slowly; after a jump the old anchor stays
            self._anchor = (database_unix, read_at)

    def verify_database_clock(self, database_time: datetime) -> None:
        """Compare a database time that was read just now; raise `Busy` if that clock cannot be trusted."""
        self.observe_database_clock(database_time, self._clock.monotonic())
        error = self.database_clock_error()
        if error is not None:
            raise Busy(f"{error}; nothing was sent", retry_after_s=round(CLOCK_RECHECK_S))

    def clock_error(self) -> str | None:
        """Return why no bind may be sent, by the clocks as last read, or None if they are close enough."""
        to_provider = 0.0 if self._client is None else self._client.clock.believed_skew_s or 0.0
        if abs(to_provider) > MAX_SKEW_S:
            return (
                f"the provider's clock is {to_provider:+.0f} s from this host's, by its refusals and Date header"
            )
        return self.database_clock_error()

    @property
    def provider_clock_probe_due(self) -> bool:
        """True if only the provider's clock is wrong, and the next bind measures it again before it is refused."""
        return self.database_clock_error() is None and self._recheck_due()

    def database_clock_error(self) -> str | None:
        """Return why the database's clock cannot be trusted, as last read, or None."""
        if abs(self._step_s) > MAX_SKEW_S:
            return f"the database's clock has jumped by {self._step_s:+.0f} s"
        if abs(self._database_skew_s) > MAX_SKEW_S:
            return f"this host's clock and the database's are {abs(self._database_skew_s):.0f} s apart"
        return None

    @contextmanager
    def slot(self, app_id: str) -> Iterator[None]:
        """Hold one of the slots while a bind runs; raise `Busy` or `ProviderAccountRefused` immediately."""
        if not self._slots.acquire(blocking=False):
            raise Busy("too many binds are in flight in this process", retry_after_s=RETRY_AFTER_S)
        try:
            if self._client is None:
                yield
            else:
                with _closed_circuit(self._client.circuits.bind):
                    self._check_clocks(self._client, app_id)
                    yield
        finally:
            self._slots.release()

    def _check_clocks(self, client: ProviderClient, app_id: str) -> None:
        if self.clock_error() is not None and self._recheck_due():
            self._rechecked_at = self._clock.monotonic()
            client.page(app_id=app_id, current=1, size=1)
            self.observe_database_clock(self._database.clock(), self._clock.monotonic())
        error = self.clock_error()
        if error is not None:
            raise Busy(f"{error}; nothing was sent", retry_after_s=round(CLOCK_RECHECK_S))
        self._warn_of_skew(client)

    def _warn_of_skew(self, client: ProviderClient) -> None:
        """Log a skew that does not stop binds, at most once a minute."""
        skews = {
            "the database's clock": abs(self._database_skew_s),
            "the provider's Date header": abs(client.clock.measured_skew_s or 0.0),
        }
        other, skew_s = max(skews.items(), key=lambda item: item[1])
        now = self._clock.monotonic()
        if skew_s > WARN_SKEW_S and now > self._warned_at + WARN_INTERVAL_S:
            self._warned_at = now
            _log.warning("this host's clock and %s are %.0f s apart; binds go on", other, skew_s)

    def _recheck_due(self) -> bool:
        return self._clock.monotonic() > self._rechecked_at + CLOCK_RECHECK_S


@contextmanager
def _closed_circuit(circuit: CircuitBreaker) -> Iterator[None]:
    """Run a bind unless the circuit of binds is open; the trial call of an open circuit is a bind.

    A bind that is let through and ends without a call (a phone is held here, a key is replayed) leaves the trial
    call to the next bind.
    """
    rejection = circuit.check()
    if rejection is not None:
        raise _circuit_error(rejection)
    is_trial = circuit.cause is not None
    try:
        yield
    finally:
        if is_trial:
            circuit.release_trial()


def _circuit_error(rejection: CircuitOpen) -> Busy | ProviderAccountRefused:
    cause, retry_after_s = rejection.cause, max(1, round(rejection.retry_in_s))
    if isinstance(cause, Refused):
        message = "the provider refused this account a moment ago; nothing was sent; see `bindings doctor`"
        return ProviderAccountRefused(
            message, status=cause.status, reason=cause.reason, retry_after_s=retry_after_s
        )
    message = f"binds wait, because binds met {describe(cause)}, which does not say whether they were made"
    return Busy(f"{message}; nothing was sent; see `bindings doctor`", retry_after_s=retry_after_s)
