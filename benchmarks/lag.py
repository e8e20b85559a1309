"""P6: the time from a binding's end to its `expired` event, with 200 ends per second and the real scheduler."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import psycopg

from benchmarks.measure import Result, Target, p99
from bindings.scheduler import Scheduler
from bindings.service import BindingService

if TYPE_CHECKING:
    from benchmarks.bench_context import BenchContext

PER_S = 200
LEAD_S = 3.0
TIMEOUT_S = 300.0
LAGS = """
    SELECT extract(epoch FROM events.at - bindings.expires_at)::float8
    FROM bindings JOIN events ON events.binding_id = bindings.id AND events.kind = 'expired'
    WHERE bindings.expires_at >= to_timestamp(%s) AND bindings.ended_at < to_timestamp(%s)
"""


def measure(context: BenchContext) -> list[Result]:
    """Return P6 on PostgreSQL: the p99 of the lag, in sweep intervals."""
    bench_db, duration_s = context.postgres(), context.sizes.lag_s
    ends = PER_S * duration_s
    with BindingService.open(database_url=bench_db.url) as service:
        interval_s = service.settings.sweep_interval_s
        service.expire_due()
        started_at = time.time()
        bench_db.add_due(ends, after_s=LEAD_S, over_s=duration_s)
        with Scheduler(service):
            time.sleep(max(0.0, started_at + LEAD_S + duration_s - time.time()))
            bench_db.wait_until_none_due(TIMEOUT_S)
    with psycopg.connect(bench_db.url) as connection:
        lags = [row[0] for row in connection.execute(LAGS, (started_at, started_at + LEAD_S + duration_s + 1))]
    if len(lags) != ends:
        raise AssertionError(f"{len(lags)} ended, {ends} were due")
    p50, longest = sorted(lags)[ends // 2], max(lags)
    return [
        Result(
            target=Target(id="P6", title=f"expiry lag, p99, {PER_S} ends/s, of the interval", bound=1.5),
            value=p99(lags) / interval_s,
            note=f"{ends:,} ends; p50 {p50:.2f} s, p99 {p99(lags):.2f} s, most {longest:.2f} s",
        )
    ]
