"""Count the live bindings of each pool, learn its capacity, and warn before it runs out of numbers.

The capacity is how many bindings were live when the provider last had no number left (-41), until more than that
are live. What the provider's list of pools says (`maxConcurrency`) is no capacity: it may count calls. A pool is
warned about once, and again only after it had room. Does not decide whether a bind may start.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from bindings.failpoints import hit
from bindings.store import pools

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from bindings.domain.binding import Caller
    from bindings.store.database import Database, Transaction
    from bindings.store.pools import Pool

LOW_HYSTERESIS = 0.1  # of the capacity, below the warning's share: so a pool at it does not warn repeatedly


@dataclass(frozen=True, kw_only=True, slots=True)
class PoolUsageResult:
    """What one run saw: pools in use, pools that are low, new warnings."""

    pools: int
    low: int
    warned: int


def count_pools(database: Database, caller: Caller, *, share: float) -> PoolUsageResult:
    """Count the live bindings of each pool, warn if they reach `share` of its capacity, and return the counts.

    Safe to repeat.
    """
    live = database.read(pools.live)

    def work(tx: Transaction) -> PoolUsageResult:
        result = _store(tx, caller, live, share)
        hit("pools.in_transaction")
        return result

    return database.write(work)


def _store(
    tx: Transaction,
    caller: Caller,
    live: Mapping[tuple[str, str], int],
    share: float,
) -> PoolUsageResult:
    stored = pools.lock(tx, live)
    now = tx.instant()
    used: dict[str, int] = {}
    for (_, pool_number), number in live.items():  # applications of an account share a pool
        used[pool_number] = used.get(pool_number, 0) + number
    after, warned = [], []
    for before in stored:
        name = before.pool_number
        pool = replace(before, live=live.get((before.app_id, name), 0), counted_at=now)
        pool = with_capacity(pool, before, used.get(name, 0), now=now, share=share)
        after.append(pool)
        if before.low_at is None and pool.low_at is not None:
            pools.append_pool_low(tx, caller, pool, cause="share")
            warned.append(pool)
    in_use = [pool for pool in after if pool.live or pool.capacity is not None or pool.low_at is not None]
    pools.save(tx, in_use)
    pools.delete_unused(tx, set(after).difference(in_use))
    low = sum(pool.low_at is not None for pool in after)
    return PoolUsageResult(pools=len(in_use), low=low, warned=len(warned))


def with_capacity(pool: Pool, before: Pool, used: int, *, now: datetime, share: float) -> Pool:
    """Return the pool with its capacity and whether it is low, by what is `used` of it in all applications.

    A -41 since the last count sets the capacity to what was used then; once more than that is in use, the pool has
    grown and its capacity is unknown again.
    """
    refused = before.refused_at
    if refused is not None and (before.counted_at is None or refused >= before.counted_at):
        return replace(pool, capacity=used, low_at=pool.low_at or now)
    capacity = before.capacity if refused is not None and used <= (before.capacity or 0) else None
    if not capacity:
        return replace(pool, capacity=capacity, low_at=None)
    threshold = share if pool.low_at is None else share - LOW_HYSTERESIS
    low_at = (pool.low_at or now) if used >= threshold * capacity else None
    return replace(pool, capacity=capacity, low_at=low_at)
