"""Mark bindings expired once their time is over.

A late or dead pass delays an event and nothing else: whoever asks is answered by the clock, not by the state.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bindings.failpoints import reach
from bindings.store import overdue

if TYPE_CHECKING:
    from bindings.binding import Caller
    from bindings.store.database import Database, Transaction

BATCH = 1_000
BUDGET_S = 2.0  # below the three intervals after which a pass counts as stalled; the next one goes on
STATEMENT_LIMIT_S = 30.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Expired:
    """What one pass did. `finished` is False where the time budget ended before the backlog did."""

    expired: int
    batches: int
    finished: bool


def expire(database: Database, caller: Caller, *, batch: int = BATCH, budget_s: float = BUDGET_S) -> Expired:
    """End every binding that is due, batch by batch, for at most about `budget_s` seconds.

    Safe to repeat and to run in any number of processes: each binding gets exactly one `expired` event.
    """
    deadline = time.monotonic() + budget_s
    expired = batches = 0
    while True:
        ended = database.write(lambda tx: _one_batch(tx, caller, batch))
        reach("expire.after_batch")
        expired += ended
        batches += 1
        if ended < batch:
            return Expired(expired=expired, batches=batches, finished=True)
        if time.monotonic() > deadline:
            return Expired(expired=expired, batches=batches, finished=False)


def _one_batch(tx: Transaction, caller: Caller, batch: int) -> int:
    tx.limit(STATEMENT_LIMIT_S)
    ended = overdue.expire(tx, caller, limit=batch)
    reach("expire.in_transaction")
    return ended
