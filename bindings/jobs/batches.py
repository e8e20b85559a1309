"""Runs the work of a job in batches within a time budget. What a batch does is passed in; no SQL here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from bindings.clock import SYSTEM_CLOCK
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
STATEMENT_TIMEOUT_S = 30.0


def run_in_batches(
    run_batch: Callable[[datetime], tuple[int, datetime]],
    control: RunControl,
    *,
    batch: int,
    budget_s: float,
    clock: HostClock,
) -> tuple[int, int, bool]:
    """Call `run_batch` until a batch is not full; return rows, batches, and whether it finished.

    If time is up or the run is to stop, it returns earlier. Each batch starts where the last one ended, in order
    of time: rows that become due before that are left to the next run.
    """
    deadline = clock.monotonic() + budget_s
    rows = batches = 0
    reached = expiry.BEGINNING
    while True:
        count, reached = run_batch(reached)
        rows, batches = rows + count, batches + 1
        control.record_progress()
        if count < batch or control.is_stopping() or clock.monotonic() > deadline:
            return rows, batches, count < batch


@dataclass(frozen=True, kw_only=True, slots=True)
class DueBatches:
    """The batches of one run of a job that changes what is due by time, each in a transaction of its own.

    A batch has at most `batch` bindings; after about `budget_s` seconds no further one begins. `verify_clock` gets
    the deciding clock's reading before each batch, and raises if it cannot be trusted: then nothing more changes.
    """

    database: Database
    caller: Caller
    control: RunControl = UNSTOPPED
    verify_clock: Callable[[datetime], None] | None = None
    batch: int = BATCH
    budget_s: float = BUDGET_S
    clock: HostClock = SYSTEM_CLOCK

    def run(
        self,
        change_due: Callable[[Transaction, datetime], tuple[int, datetime]],
        *,
        after_batch: Callable[[], None],
    ) -> tuple[int, int, bool]:
        """Change what is due, and return as `run_in_batches` does. `after_batch` is called after each commit."""

        def work(tx: Transaction, since: datetime) -> tuple[int, datetime]:
            tx.limit_batch(STATEMENT_TIMEOUT_S)
            if self.verify_clock is not None:
                self.verify_clock(tx.instant())
            return change_due(tx, since)

        def run_batch(since: datetime) -> tuple[int, datetime]:
            result = self.database.write(lambda tx: work(tx, since))
            after_batch()
            return result

        return run_in_batches(run_batch, self.control, batch=self.batch, budget_s=self.budget_s, clock=self.clock)
