"""Refuses what processes of an older release would misread, as long as one of them uses the database.

They take the promised end of a binding for the provider's, so a binding that can be extended would be adopted with
the wrong end, or never be released. Each process records the revision of the schema that its code was made for
(`store.replicas`); one of an older release records none.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from bindings.errors import Busy
from bindings.fork_safety import ForkSafeLock
from bindings.store import replicas

if TYPE_CHECKING:
    from bindings.clock import HostClock
    from bindings.store.database import Database

FIRST_REVISION = "0011"  # of code that knows promised ends
RECENT = timedelta(seconds=3 * replicas.INTERVAL_S)
RECHECK_S = 60.0
MAX_NAMES = 3


class OlderReleases:
    """The processes of older releases that use one database. Thread-safe; one read a minute."""

    def __init__(self, database: Database, clock: HostClock) -> None:
        self._database = database
        self._clock = clock
        self._lock = ForkSafeLock()
        self._absent_until = float("-inf")

    def require_none(self) -> None:
        """Raise `Busy`, naming them, if processes of an older release have used the database in three minutes."""
        with self._lock:
            if self._clock.monotonic() < self._absent_until:
                return
        older = self._database.read(replicas.older_than, FIRST_REVISION, self._database.clock() - RECENT)
        if older:
            names = ", ".join(sorted(replica.name for replica in older)[:MAX_NAMES])
            raise Busy(
                f"processes of an older version use the database ({names}), which cannot handle a promised end; "
                "nothing was done",
                retry_after_s=round(RECENT.total_seconds()),
                todo="stop the processes of the older version, and wait for three minutes",
            )
        with self._lock:
            self._absent_until = self._clock.monotonic() + RECHECK_S
