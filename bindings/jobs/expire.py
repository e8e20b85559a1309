"""Mark bindings past their end as expired.

A late run delays an event and nothing else: lookups go by the clock, not by the state.
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
class ExpireResult:
    """What one run did. `finished` is False if its time was spent before the backlog was empty."""

    expired: int
    batches: int
    finished: bool


def expire_due(batches: DueBatches) -> ExpireResult:
    """Expire every binding that is due, batch by batch, and return the counts.

    Safe to repeat and to run in several processes at the same time: each binding gets exactly one `expired` event.
    """

    def expire_batch(tx: Transaction, since: datetime) -> tuple[int, datetime]:
        result = expiry.expire(tx, batches.caller, limit=batches.batch, since=since)
        hit("expire.in_transaction")
        return result

    expired, count, finished = batches.run(expire_batch, after_batch=lambda: hit("expire.after_batch"))
    return ExpireResult(expired=expired, batches=count, finished=finished)
