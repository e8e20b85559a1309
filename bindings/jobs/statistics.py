"""Count what happened, for people to look at: the charts of the console, how often which status, how full a pool.

Counting millions of rows for each look would be slow, and would slow down everybody else.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bindings.store import statistics

if TYPE_CHECKING:
    from bindings.store.database import Database, Transaction

BATCH = 5_000
BUDGET_S = 2.0  # a long history is caught up with pass by pass


@dataclass(frozen=True, kw_only=True, slots=True)
class StatisticsResult:
    """What one pass counted. `finished` is False where the time budget ended before the feed did."""

    events: int
    finished: bool


def update_statistics(database: Database, *, batch: int = BATCH, budget_s: float = BUDGET_S) -> StatisticsResult:
    """Count every event that is not counted yet, for at most about `budget_s` seconds.

    Safe to repeat and to run in any number of processes: each event is counted once.
    """
    deadline = time.monotonic() + budget_s
    database.write(_housekeeping)
    counted = 0
    while True:
        found = database.write(lambda tx: statistics.count_events(tx, limit=batch))
        counted += found
        if found < batch:
            return StatisticsResult(events=counted, finished=True)
        if time.monotonic() > deadline:
            return StatisticsResult(events=counted, finished=False)


def _housekeeping(tx: Transaction) -> None:
    statistics.record_pool_levels(tx)
    statistics.delete_old(tx)
