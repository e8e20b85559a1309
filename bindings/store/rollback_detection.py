"""Rollback detection: a database that lacks what this process knows to be committed went back in time.

A restore from a backup that was not announced, a standby that was promoted without the newest commits, relaxed
durability: each loses rows that a running process has seen. One binding is enough to detect it, and it is read by
a statement that each bind sends anyway. A process that starts afterwards cannot detect it: call
`BindingService.mark_restored` after a restore.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, NamedTuple

from sqlalchemy import bindparam, select

from bindings.store import reports
from bindings.store.column_types import BindingId
from bindings.store.schema import bindings

if TYPE_CHECKING:
    from datetime import datetime

    from bindings.domain.binding import Binding
    from bindings.store.database import Transaction

FORGOTTEN_AFTER_S = 86_400.0  # by then it may have been deleted on purpose
_is_known = bindings.c.id == bindparam("known_id", type_=BindingId)
VERSION = select(bindings.c.version).where(_is_known).scalar_subquery()


class CommittedVersion(NamedTuple):
    """A committed version of a binding: requested `at` (database time), known `since` (monotonic clock)."""

    id: str
    version: int
    at: datetime
    since: float


class RollbackDetector:
    """The newest committed version that this process knows. Thread-safe."""

    def __init__(self) -> None:
        self._newest: CommittedVersion | None = None  # replaced as a whole, so that it needs no lock

    def remember(self, binding: Binding) -> Binding:
        """Remember the version of a binding that a committed transaction returned; return the binding."""
        self._newest = CommittedVersion(
            id=binding.id, version=binding.version, at=binding.requested_at, since=time.monotonic()
        )
        return binding

    def newest(self) -> CommittedVersion | None:
        """Return the version that the database must have, or None if none is known or it is a day old."""
        newest = self._newest
        return None if newest is None or time.monotonic() > newest.since + FORGOTTEN_AFTER_S else newest

    def forget(self) -> None:
        """Forget the version: the rollback has been recorded."""
        self._newest = None


def was_rolled_back(tx: Transaction, committed: CommittedVersion | None, version: int | None) -> bool:
    """Return True if a database in which the known binding has this `version` (None: it is missing) went back.

    False again when a required full scan that started after the binding was requested is complete.
    """
    if committed is None or (version is not None and version >= committed.version):
        return False
    return not reports.full_scan_completed_since(tx.connection, since=committed.at)
