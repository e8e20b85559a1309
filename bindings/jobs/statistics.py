"""Count events for the console's charts: how often which status, how full a pool.

Charts read these counts (`monitoring.statistics`): counting millions of events for each page would slow down
everything else. The statements are in `store.statistics`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from bindings.clock import SYSTEM_CLOCK
from bindings.jobs.run_control import UNSTOPPED, RunControl
from bindings.store import statistics

if TYPE_CHECKING:
    from bindings.clock import HostClock
    from bindings.store.database import Database, Transaction

BATCH = 5_000
BUDGET_S = 2.0  # a long history is counted in several runs


@dataclass(frozen=True, kw_only=True, slots=True)
class StatisticsResult:
    """What one run counted. `finished` is False if its time was spent before the end of the feed."""

    events: int
    finished: bool


def update_statistics(
    database: Database,
    *,
    control: RunControl = UNSTOPPED,
    batch: int = BATCH,
    budget_s: float = BUDGET_S,
    clock: HostClock = SYSTEM_CLOCK,
) -> StatisticsResult:
    """Count every event that is not counted yet, for at most about `budget_s` seconds; return how many.

    Safe to repeat and to run in several processes at the same time: each event is counted once.
    """
    deadline = clock.monotonic() + budget_s
    database.write(_record_levels_and_delete_old)
    total = 0
    while True:
        counted = database.write(lambda tx: statistics.count_events(tx, limit=batch))
        total += counted
        control.record_progress()
        if counted < batch:
            return StatisticsResult(events=total, finished=True)
        if control.is_stopping() or clock.monotonic() > deadline:
            return StatisticsResult(events=total, finished=False)


def _record_levels_and_delete_old(tx: Transaction) -> None:
    statistics.record_pool_levels(tx)
    statistics.delete_old(tx)
