"""Count what lives in each pool, learn how much fits, and warn before a pool runs dry.

How much fits is what the provider lists, where the account may ask, else what was live when it last had no number
left (-41). A warning is given once; the next one only after the pool had room again. Nothing here decides a bind.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from bindings.failpoints import hit
from bindings.provider.outcome import ProviderPools
from bindings.store import pools

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from bindings.domain.binding import Caller
    from bindings.provider.client import ProviderClient
    from bindings.store.database import Database, Transaction
    from bindings.store.pools import Pool

LOW_HYSTERESIS = 0.1  # of the capacity below the warning's share: a pool at the edge does not warn over and over
PAGE = 100
MOST_PAGES = 10


@dataclass(frozen=True, kw_only=True, slots=True)
class PoolUsageResult:
    """What one pass saw: how many pools, how many of them the provider listed, how many are low, new warnings."""

    pools: int
    listed: int
    low: int
    warned: int


def count(database: Database, provider: ProviderClient | None, caller: Caller, *, share: float) -> PoolUsageResult:
    """Count the live bindings of each pool and warn where they reach `share` of what fits.

    Safe to repeat. Without a provider, or where the account may not ask for its pools, only -41 tells what fits.
    """
    listed = {} if provider is None else capacities(provider)
    live = database.read(pools.live)

    def work(tx: Transaction) -> PoolUsageResult:
        counted = _store(tx, caller, live, listed, share)
        hit("pools.in_transaction")
        return counted

    return database.write(work)


def capacities(provider: ProviderClient) -> dict[str, int]:
    """How many bindings fit into each pool by the provider's list; empty where it cannot be had in full."""
    found: dict[str, int] = {}
    for current in range(1, MOST_PAGES + 1):
        page = provider.pools(current=current, size=PAGE)
        if not isinstance(page, ProviderPools):
            return {}
        found |= {pool.pool_number: pool.capacity for pool in page.pools}
        if len(page.pools) < PAGE:
            return found
    return found


def _store(
    tx: Transaction,
    caller: Caller,
    live: Mapping[tuple[str, str], int],
    listed: Mapping[str, int],
    share: float,
) -> PoolUsageResult:
    known = pools.lock(tx, live)
    now = tx.instant()
    used: dict[str, int] = {}
    for (_, pool_number), number in live.items():  # applications of an account share a pool
        used[pool_number] = used.get(pool_number, 0) + number
    after, warned = [], []
    for before in known:
        name = before.pool_number
        pool = replace(before, live=live.get((before.app_id, name), 0), counted_at=now)
        pool = with_capacity(pool, before, used.get(name, 0), listed.get(name), now=now, share=share)
        after.append(pool)
        if before.low_at is None and pool.low_at is not None:
            pools.append_pool_low(tx, caller, pool, why="share")
            warned.append(pool)
    kept = [pool for pool in after if pool.live or pool.capacity is not None or pool.low_at is not None]
    pools.save(tx, kept)
    pools.forget(tx, set(after).difference(kept))
    low = sum(pool.low_at is not None for pool in after)
    return PoolUsageResult(pools=len(kept), listed=len(listed), low=low, warned=len(warned))


def with_capacity(pool: Pool, before: Pool, used: int, listed: int | None, *, now: datetime, share: float) -> Pool:
    """The pool with what fits into it, and whether it is low, by what is `used` of it in all applications.

    A -41 since the last count says what fits, whatever the list says. What was learnt so gives way once more than
    that lives: the pool has grown.
    """
    refused = before.refused_at
    if refused is not None and (before.counted_at is None or refused >= before.counted_at):
        return replace(pool, capacity=used, low_at=pool.low_at or now)
    learnt = before.capacity if refused is not None and used <= (before.capacity or 0) else None
    known = [limit for limit in (learnt, listed) if limit is not None]
    capacity = min(known, default=None)
    if not capacity:
        return replace(pool, capacity=capacity, low_at=None)
    bound = share if pool.low_at is None else share - LOW_HYSTERESIS
    low_at = (pool.low_at or now) if used >= bound * capacity else None
    return replace(pool, capacity=capacity, low_at=low_at)
