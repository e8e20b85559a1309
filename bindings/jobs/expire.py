"""Mark bindings past their end as expired.

A late run delays an event and nothing else: lookups go by the clock, not by the state.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from bindings.clock import SYSTEM_CLOCK
from bindings.failpoints import hit
from bindings.jobs.batches import run_due_batches
from bindings.jobs.run_control import UNSTOPPED, RunControl
from bindings.store import expiry

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from bindings.clock import HostClock
    from bindings.domain.binding import Caller
    from bindings.store.database import Database, Transaction

BATCH = 1_000
BUDGET_S = 2.0  # below the three intervals after which a job counts as stalled; the next run continues


@dataclass(frozen=True, kw_only=True, slots=True)
class ExpireResult:
    """What one run did. `finished` is False if its time was spent before the backlog was empty."""

    expired: int
    batches: int
    finished: bool


def expire_due(
    database: Database,
    caller: Caller,
    *,
    control: RunControl = UNSTOPPED,
    verify_clock: Callable[[datetime], None] | None = None,
    batch: int = BATCH,
    budget_s: float = BUDGET_S,
    clock: HostClock = SYSTEM_CLOCK,
) -> ExpireResult:
    """Expire every binding that is due, batch by batch, for at most about `budget_s` seconds; return the counts.

    `verify_clock` is as for `run_due_batches`. Safe to repeat and to run in several processes at the same time:
    each binding gets exactly one `expired` event.
    """

    def change_due(tx: Transaction, since: datetime) -> tuple[int, datetime]:
        result = expiry.expire(tx, caller, limit=batch, since=since)
        hit("expire.in_transaction")
        return result

    expired, batches, finished = run_due_batches(
        database,
        change_due,
        control,
        after_batch=lambda: hit("expire.after_batch"),
        verify_clock=verify_clock,
        batch=batch,
        budget_s=budget_s,
        clock=clock,
    )
    return ExpireResult(expired=expired, batches=batches, finished=finished)
