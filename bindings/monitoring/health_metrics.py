"""The values to monitor, of the database and of this process, for `/metrics` and the overview page.

Checks, which judge such values, are in `health`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from bindings.store import deliveries, holds, job_runs, phone_sealing, pools, queries, seals
from bindings.store.deliveries import DeliveryState

if TYPE_CHECKING:
    from datetime import datetime

    from bindings.lifecycle.runtime import Runtime
    from bindings.store.read_once import Reads

MAX_DOUBTS_READ = 200
MAX_DELIVERIES_READ = 10_000
MAX_RELEASES_READ = 10_000


@dataclass(frozen=True, kw_only=True, slots=True)
class HealthMetrics:
    """Values to monitor; times in seconds.

    Doubts are counted up to `MAX_DOUBTS_READ`, deliveries up to `MAX_DELIVERIES_READ`, and releases that are owed
    up to `MAX_RELEASES_READ`: expired bindings that the provider may hold for longer.

    `open_circuits` are the calls that the provider refuses to this process. `pool_use` is the used share of the
    capacity of the fullest pool; None if no pool's capacity is known. `reconcile_s` is how long the newest
    reconciliation on a timer took, or how long ago it began if it has not finished. `seal_age_s` is the age of the
    oldest event after the last seal; 0 if there is none, and if nothing is sealed. `phones_to_convert` are
    the rows that an encryption of phones, or a rotation of its keys, has left to convert.
    """

    doubts: int
    oldest_doubt_s: float
    sweep_age_s: float | None
    sweep_lag_s: float
    open_circuits: frozenset[str]
    provider_skew_s: float | None
    connections_in_use: int
    pool_use: float | None
    pools_low: int
    reconcile_s: float
    reconcile_interval_s: float
    orphans: int
    revenants: int
    releases_owed: int
    oldest_release_s: float
    deliveries_pending: int
    deliveries_dead: int
    seal_age_s: float
    phones_to_convert: int


def health_metrics(runtime: Runtime, database: Reads) -> HealthMetrics:
    """Return the values to monitor, as `database` reads them. A few index probes; safe to repeat."""
    client = runtime.client
    now = database.clock()
    doubts, oldest_doubt = database.read(queries.count_doubts, database.now, limit=MAX_DOUBTS_READ)
    last_expire = database.read(job_runs.last_finished, "expire")
    newest_reconcile = database.read(job_runs.newest_run, "reconcile", database.now)
    overdue = database.read(queries.longest_overdue, database.now)
    backlog = database.read(deliveries.backlog, limit=MAX_DELIVERIES_READ)
    all_pools = database.read(pools.list_all)
    releases, oldest_release = database.read(queries.count_releases_owed, database.now, limit=MAX_RELEASES_READ)
    orphans, revenants = database.read(holds.count_orphans, runtime.settings.scope, database.now)

    def seconds_since(then: datetime | None) -> float:
        return 0.0 if then is None else max(0.0, (now - then).total_seconds())

    return HealthMetrics(
        doubts=doubts,
        oldest_doubt_s=seconds_since(oldest_doubt),
        sweep_age_s=None if last_expire is None else seconds_since(last_expire),
        sweep_lag_s=seconds_since(overdue),
        open_circuits=frozenset() if client is None else client.circuits.open_calls(),
        provider_skew_s=None if client is None else client.clock.measured_skew_s,
        connections_in_use=runtime.database.connections_in_use(),
        pool_use=max(
            (pool.live / pool.capacity for pool in all_pools if pool.live and pool.capacity), default=None
        ),
        pools_low=sum(pool.low_at is not None for pool in all_pools),
        reconcile_s=0.0 if newest_reconcile is None else newest_reconcile.seconds,
        reconcile_interval_s=runtime.settings.reconcile_interval_s,
        orphans=orphans,
        revenants=revenants,
        releases_owed=releases,
        oldest_release_s=seconds_since(oldest_release),
        deliveries_pending=backlog[DeliveryState.PENDING],
        deliveries_dead=backlog[DeliveryState.DEAD],
        seal_age_s=seconds_since(database.read(seals.oldest_unsealed)),
        phones_to_convert=phone_sealing.left_to_convert(database),
    )
