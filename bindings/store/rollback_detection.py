"""What this process knows to be committed: a database without it is an older one.

A restore from a backup that nobody told of, a standby promoted without the newest commits, durability that was
relaxed: each loses rows that a running process has seen. One binding is enough to notice, and it is looked for
in a statement that each bind sends anyway. A process that starts afterwards has nothing to remember; for that
there is `BindingService.restored`.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import bindparam, select

from bindings.store import reports
from bindings.store.column_types import BindingId
from bindings.store.schema import bindings

if TYPE_CHECKING:
    from datetime import datetime

    from bindings.domain.binding import Binding
    from bindings.store.database import Transaction

FORGOTTEN_AFTER_S = 86_400.0  # by then somebody may have deleted it on purpose
_known = bindings.c.id == bindparam("known_id", type_=BindingId)
VERSION = select(bindings.c.version).where(_known).scalar_subquery()


@dataclass(frozen=True, kw_only=True, slots=True)
class CommittedVersion:
    """A binding in a version that was committed: asked for `at` (database time), known `since` (monotonic)."""

    id: str
    version: int
    at: datetime
    since: float


class RollbackDetector:
    """The newest change that this process knows to be committed. Thread-safe."""

    def __init__(self) -> None:
        self._newest: CommittedVersion | None = None  # replaced as a whole, so that it needs no lock

    def remember(self, binding: Binding) -> Binding:
        """Keep in mind what a transaction that has committed returned; returns it too."""
        self._newest = CommittedVersion(
            id=binding.id, version=binding.version, at=binding.requested_at, since=time.monotonic()
        )
        return binding

    def newest(self) -> CommittedVersion | None:
        """What the database must have, if anything."""
        known = self._newest
        return None if known is None or time.monotonic() > known.since + FORGOTTEN_AFTER_S else known

    def forget(self) -> None:
        """Start anew: the loss is known."""
        self._newest = None


def was_rolled_back(tx: Transaction, known: CommittedVersion | None, version: int | None) -> bool:
    """Whether a database in which the known binding has this `version` has lost what was committed.

    No longer once that was made good: by a full scan that was owed, and begun after the binding was asked for.
    """
    if known is None or (version is not None and version >= known.version):
        return False
    return not reports.full_scan_completed_since(tx.connection, since=known.at)
