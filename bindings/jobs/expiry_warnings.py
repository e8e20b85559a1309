"""Write the `expires_soon` events: one for each binding that asked for a warning before its end.

A job of its own, so that an error in it does not delay expiry. A binding that has ended before its warning gets
none.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from bindings.clock import SYSTEM_CLOCK
from bindings.failpoints import hit
from bindings.jobs.batches import run_due_batches
from bindings.jobs.expire import BATCH, BUDGET_S
from bindings.jobs.run_control import UNSTOPPED, RunControl
from bindings.store import expiry

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from bindings.clock import HostClock
    from bindings.domain.binding import Caller
    from bindings.store.database import Database, Transaction


@dataclass(frozen=True, kw_only=True, slots=True)
class ExpiryWarningsResult:
    """What one run did. `finished` is False if its time was spent before the backlog was empty."""

    warned: int
    batches: int
    finished: bool


def warn_due(
    database: Database,
    caller: Caller,
    *,
    control: RunControl = UNSTOPPED,
    verify_clock: Callable[[datetime], None] | None = None,
    batch: int = BATCH,
    budget_s: float = BUDGET_S,
    clock: HostClock = SYSTEM_CLOCK,
) -> ExpiryWarningsResult:
    """Write every warning that is due, batch by batch, for at most about `budget_s` seconds; return the counts.

    `verify_clock` is as for `run_due_batches`. Safe to repeat and to run in several processes at the same time:
    each binding gets at most one `expires_soon` event.
    """

    def change_due(tx: Transaction, since: datetime) -> tuple[int, datetime]:
        result = expiry.warn(tx, caller, limit=batch, since=since)
        hit("warn.in_transaction")
        return result

    warned, batches, finished = run_due_batches(
        database,
        change_due,
        control,
        after_batch=lambda: hit("warn.after_batch"),
        verify_clock=verify_clock,
        batch=batch,
        budget_s=budget_s,
        clock=clock,
    )
    return ExpiryWarningsResult(warned=warned, batches=batches, finished=finished)
