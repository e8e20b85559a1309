"""Mark bindings expired once their time is over.

A late or dead pass delays an event and nothing else: whoever asks is answered by the clock, not by the state.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bindings.failpoints import hit
from bindings.store import expiry

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from bindings.domain.binding import Caller
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


def expire_due(database: Database, caller: Caller, *, batch: int = BATCH, budget_s: float = BUDGET_S) -> Expired:
    """End every binding that is due, batch by batch, for at most about `budget_s` seconds.

    Safe to repeat and to run in any number of processes: each binding gets exactly one `expired` event.
    """

    def one_batch(since: datetime) -> tuple[int, datetime]:
        ended = database.write(lambda tx: _one_batch(tx, caller, batch, since))
        hit("expire.after_batch")
        return ended

    expired, batches, finished = run_in_batches(one_batch, batch=batch, budget_s=budget_s)
    return Expired(expired=expired, batches=batches, finished=finished)


def run_in_batches(
    one: Callable[[datetime], tuple[int, datetime]], *, batch: int, budget_s: float
) -> tuple[int, int, bool]:
    """Run `one` until it finds less than a full batch or the time is over: how many, in how many, and which.

    Each batch begins where the last one came to. What falls due before that meanwhile is found by the next pass.
    """
    deadline = time.monotonic() + budget_s
    total = batches = 0
    reached = expiry.BEGINNING
    while True:
        found, reached = one(reached)
        total, batches = total + found, batches + 1
        if found < batch or time.monotonic() > deadline:
            return total, batches, found < batch


def _one_batch(tx: Transaction, caller: Caller, batch: int, since: datetime) -> tuple[int, datetime]:
    tx.set_statement_timeout(STATEMENT_LIMIT_S)
    ended = expiry.expire(tx, caller, limit=batch, since=since)
    hit("expire.in_transaction")
    return ended
