"""Write the `expires_soon` events: one for each binding that asked for a warning before its end.

A job of its own, so that an error in it does not delay expiry. A binding that has ended before its warning gets
none.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from bindings.failpoints import hit
from bindings.store import expiry

if TYPE_CHECKING:
    from datetime import datetime

    from bindings.jobs.batches import DueBatches
    from bindings.store.database import Transaction


@dataclass(frozen=True, kw_only=True, slots=True)
class ExpiryWarningsResult:
    """What one run did. `finished` is False if its time was spent before the backlog was empty."""

    warned: int
    batches: int
    finished: bool


def warn_due(batches: DueBatches) -> ExpiryWarningsResult:
    """Write every warning that is due, batch by batch, and return the counts.

    Safe to repeat and to run in several processes at the same time: each binding gets at most one `expires_soon`
    event.
    """

    def warn_batch(tx: Transaction, since: datetime) -> tuple[int, datetime]:
        result = expiry.warn(tx, batches.caller, limit=batches.batch, since=since)
        hit("warn.in_transaction")
        return result

    warned, count, finished = batches.run(warn_batch, after_batch=lambda: hit("warn.after_batch"))
    return ExpiryWarningsResult(warned=warned, batches=count, finished=finished)
