"""Whether a bind may start now: the limit of calls in flight, the account circuit, and the clocks.

Asked before the first transaction, so that what is refused here has written nothing and used up no key. No
SQL and no reading of answers; it only decides.
"""

from __future__ import annotations

import logging
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from bindings.errors import Busy, ProviderAccountRefused

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from datetime import datetime

    from bindings.provider.client import ProviderClient
    from bindings.store.database import Database

_log = logging.getLogger(__name__)

WARN_SKEW_S = 30.0
MAX_SKEW_S = 60.0
SLOW_DRIFT_S = 1.0
CLOCK_RECHECK_S = 10.0  # while a clock is off, measure it again this often
RETRY_AFTER_S = 2


class BindAdmission:
    """Lets at most `limit` binds through at a time, and none that could not come to a good end. Thread-safe.

    `wall` reads this host's clock in Unix seconds.
    """

    def __init__(
        self,
        database: Database,
        client: ProviderClient | None,
        *,
        limit: int,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._database = database
        self._client = client
        self._slots = threading.BoundedSemaphore(limit)
        self._wall = wall
        self._database_skew_s = 0.0
        self._anchor: tuple[float, float] | None = None  # the database's clock, and monotonic time then
        self._step_s = 0.0
        self._asked = float("-inf")

    def observe_database_clock(self, database_time: datetime, read_at: float) -> None:
        """Learn the skew and the steps from a database time that was read at `read_at` (monotonic seconds)."""
        host_time = self._wall() - (time.monotonic() - read_at)
        told = database_time.timestamp()
        self._database_skew_s = told - host_time
        if self._anchor is not None:
            self._step_s = (told - self._anchor[0]) - (read_at - self._anchor[1])
        if abs(self._step_s) < SLOW_DRIFT_S:  # clocks drift; only a jump is kept against the old anchor
            self._anchor = (told, read_at)

    def clock_error(self) -> str | None:
        """Why no bind may be sent by the clocks as they were last read; None where nothing is wrong."""
        to_provider = 0.0 if self._client is None else self._client.skew_s or 0.0
        if abs(to_provider) > MAX_SKEW_S:
            return f"this host's clock and the provider's are {abs(to_provider):.0f} s apart"
        return self.database_clock_error()

    @property
    def provider_clock_probe_due(self) -> bool:
        """Whether a fault is the provider's clock only, and the next bind measures it before it is refused."""
        return self.database_clock_error() is None and time.monotonic() > self._asked + CLOCK_RECHECK_S

    def database_clock_error(self) -> str | None:
        """Why the database's clock must end nothing as it was last read; None where it can be believed."""
        if abs(self._step_s) > MAX_SKEW_S:
            return f"the database's clock has jumped by {self._step_s:+.0f} s"
        if abs(self._database_skew_s) > MAX_SKEW_S:
            return f"this host's clock and the database's are {abs(self._database_skew_s):.0f} s apart"
        return None

    @contextmanager
    def slot(self, app_id: str) -> Iterator[None]:
        """Hold one of the slots while a bind runs; raises `Busy` or `ProviderAccountRefused` at once."""
        if not self._slots.acquire(blocking=False):
            raise Busy("too many binds are in flight in this process", retry_after_s=RETRY_AFTER_S)
        try:
            if self._client is not None:
                self._check_account(self._client, app_id)
                self._check_clocks(self._client, app_id)
            yield
        finally:
            self._slots.release()

    def _check_account(self, client: ProviderClient, app_id: str) -> None:
        turned_away = client.circuit.check()
        if turned_away is None and client.circuit.refusal is not None:
            client.page(app_id=app_id, current=1, size=1)  # this call is the trial; a page query makes nothing
            turned_away = client.circuit.check()
        if turned_away is not None:
            raise ProviderAccountRefused(
                "the provider refused this account a moment ago; nothing was sent; see `bindings doctor`",
                status=turned_away.refusal.status,
                reason=turned_away.refusal.reason,
                retry_after_s=max(1, round(turned_away.retry_in_s)),
            )

    def _check_clocks(self, client: ProviderClient, app_id: str) -> None:
        if self.clock_error() is not None and time.monotonic() > self._asked + CLOCK_RECHECK_S:
            self._asked = time.monotonic()
            client.page(app_id=app_id, current=1, size=1)
            self.observe_database_clock(self._database.clock(), time.monotonic())
        fault = self.clock_error()
        if fault is not None:
            raise Busy(f"{fault}; nothing was sent", retry_after_s=round(CLOCK_RECHECK_S))
        skew_s, other = self._largest_skew()
        if skew_s > WARN_SKEW_S:
            _log.warning("this host's clock and the %s's are %.0f s apart", other, skew_s)

    def _largest_skew(self) -> tuple[float, str]:
        to_provider = 0.0 if self._client is None else self._client.skew_s or 0.0
        return max((abs(to_provider), "provider"), (abs(self._database_skew_s), "database"))
