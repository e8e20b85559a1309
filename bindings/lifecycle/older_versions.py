"""Refuses what processes of an older version would misread, as long as one of them uses the database.

They take the promised end of a binding for the provider's, so a binding that can be extended would be adopted with
the wrong end, or never be released; and they take a successor that waits for its predecessor for one that may have
been sent. Each process records the revision of the schema that its code was made for (`store.replicas`); one of an
older version than 0011 records none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bindings.domain.text import first_names
from bindings.errors import Busy
from bindings.fork_safety import ForkSafeLock
from bindings.store import replicas

if TYPE_CHECKING:
    from bindings.clock import HostClock
    from bindings.store.database import Database

PROMISED_ENDS = "0011"  # the first revision of code that knows promised ends ...
SUCCESSORS = "0014"  # ... and that knows successors
RECHECK_S = 60.0


class OlderVersions:
    """The processes of older versions that use one database. Thread-safe; one read a minute for each revision."""

    def __init__(self, database: Database, clock: HostClock) -> None:
        self._database = database
        self._clock = clock
        self._lock = ForkSafeLock()
        self._absent_until: dict[str, float] = {}

    def require_none(self, first_revision: str) -> None:
        """Raise `Busy`, naming them, if processes with code of before this revision are at work.

        They are if they have used the database in three minutes.
        """
        with self._lock:
            if self._clock.monotonic() < self._absent_until.get(first_revision, float("-inf")):
                return
        older = self._database.read(replicas.older_than, first_revision, self._database.clock() - replicas.RECENT)
        if older:
            names = first_names(sorted(replica.name for replica in older))
            raise Busy(
                f"processes of an older version use the database ({names}), which cannot handle the result of this"
                " call; nothing was done",
                retry_after_s=round(replicas.RECENT.total_seconds()),
                todo="stop the processes of the older version, and wait for three minutes",
            )
        with self._lock:
            self._absent_until[first_revision] = self._clock.monotonic() + RECHECK_S
